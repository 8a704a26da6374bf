# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Server blocks have the shape they should have, whatever the values in them."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

TEMPLATES = Path(__file__).parents[2] / "roles/site/templates"
APP: dict[str, t.Any] = {
    "name": "shop",
    "domains": ["shop.example.com", "*.example.com"],
    "tls": {"mode": "self_signed"},
    "upstream": "/srv/asgi/shop/live/app.sock",
    "source_dir": "/srv/asgi/shop/live/build/src",
    "locations": [
        {"path": "/static", "kind": "static", "root": "static/"},
        {"path": "/events", "kind": "sse"},
        {"path": "/ws", "kind": "websocket"},
    ],
    "keepalive": {"time": 3, "timeout": 2},
    "max_body_size": 10485760,
    "request_timeout": 60,
}

Block = tuple[list[str], t.Optional[list[t.Any]]]


def render(app: dict[str, t.Any], **variables: t.Any) -> str:
    """Render as Ansible does."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["comment"] = lambda text: f"#\n# {text}\n#"
    pair = {"fingerprint": "ab" * 32, "certificate": "/tls/shop/fullchain.pem", "key": "/tls/shop/privkey.pem"}
    return environment.get_template("site.conf.j2").render(
        {
            "__site_app": app,
            "__site_certificates": {"certificates": {app["name"]: pair}},
            "__nginx_listen_addresses": ["", "[::]:"],
            "nginx_http_port": 80,
            "nginx_https_port": 443,
            "site_static_cache_control": "public, max-age=300",
            "ansible_managed": "Ansible managed",
            **variables,
        }
    )


def words(text: str) -> t.Iterator[str]:
    """Nginx's tokens, quotes undone (ngx_conf_read_token)."""
    token = re.compile(r'\s+|#[^\n]*|([{};])|"((?:\\.|[^"\\])*)"|((?:\\.|[^\s{};"\\])+)', re.DOTALL)
    at = 0
    while at < len(text):
        match = token.match(text, at)
        assert match, f"cannot be read: {text[at : at + 40]!r}"
        if match.group(1):
            yield match.group(1)
        elif match.group(2) is not None:
            yield "=" + re.sub(r"\\(.)", r"\1", match.group(2), flags=re.DOTALL)
        elif match.group(3):
            yield "=" + match.group(3)
        at = match.end()


def parse(stream: t.Iterator[str], nested: bool = False) -> list[Block]:
    """Directives with their arguments, blocks with their content."""
    found: list[Block] = []
    current: list[str] = []
    for word in stream:
        if word == ";":
            found.append((current, None))
            current = []
        elif word == "{":
            found.append((current, parse(stream, nested=True)))
            current = []
        elif word == "}":
            assert nested
            assert not current
            return found
        else:
            current.append(word[1:])
    assert not nested
    assert not current
    return found


def shape(blocks: list[Block]) -> list[t.Any]:
    """Names of directives only."""
    return [name[0] if inner is None else (name[0], shape(inner)) for name, inner in blocks]


def locations(app: dict[str, t.Any]) -> dict[str, list[Block]]:
    server = parse(words(render(app)))[-1][1]
    assert server is not None
    found = [(name[-1], inner) for name, inner in server if name[0] == "location"]
    assert len(dict(found)) == len(found), "a location twice"
    return {name: inner or [] for name, inner in found}


def test_locations() -> None:
    found = locations(APP)
    assert list(found) == ["/", "/events", "/static/", "/ws"]
    assert (["alias", "/srv/asgi/shop/live/build/src/static/"], None) in found["/static/"]
    assert (["proxy_buffering", "off"], None) in found["/events"]


def test_a_path_twice_is_one_location_and_root_can_be_declared() -> None:
    both = [
        {"path": "/static/", "kind": "static", "root": "a"},
        {"path": "/static", "kind": "static", "root": "b"},
        {"path": "/", "kind": "sse"},
    ]
    found = locations({**APP, "locations": both})
    assert list(found) == ["/", "/static/"]
    assert (["gzip", "off"], None) in found["/"]


def test_redirects_name_a_fixed_host() -> None:
    blocks = parse(words(render(APP, nginx_https_port=8443)))
    inside = [block for name, inner in blocks if name == ["server"] for block in inner or []]
    locations_inside = [inner for name, inner in inside if name == ["location", "/"]]
    returns = [line for inner in locations_inside for line, _none in inner or [] if line[0] == "return"]
    assert returns == [
        ["return", "308", "https://shop.example.com:8443$request_uri"],
        ["return", "308", "https://$host:8443$request_uri"],
    ]


def test_an_acme_server_is_answered_before_the_redirect_and_nobody_else() -> None:
    def places(app: dict[str, t.Any]) -> list[list[list[str]]]:
        servers = [inner or [] for name, inner in parse(words(render(app))) if name == ["server"]]
        return [[name for name, _inner in server if name[0] == "location"] for server in servers]

    challenge = ["location", "^~", "/.well-known/acme-challenge/"]
    *redirects, _site = places({**APP, "domains": ["a.example", "b.example"], "tls": {"mode": "acme"}})
    assert redirects == [[challenge, ["location", "/"]]] * 2
    assert not [name for server in places(APP) for name in server if name == challenge]


@pytest.mark.parametrize(
    ("hsts", "value"),
    [
        (None, None),
        ({"max_age": None, "include_subdomains": False, "preload": False}, None),
        ({"max_age": 0}, "max-age=0"),
        ({"max_age": 60, "include_subdomains": True}, "max-age=60; includeSubDomains"),
        ({"max_age": 5, "include_subdomains": True, "preload": True}, "max-age=5; includeSubDomains; preload"),
    ],
)
def test_hsts_is_sent_over_tls_only(hsts: dict[str, t.Any] | None, value: str | None) -> None:
    rendered = render({**APP, "tls": {"mode": "self_signed", "hsts": hsts}})
    *redirects, site = [str(inner) for name, inner in parse(words(rendered)) if name == ["server"]]
    assert "Strict-Transport-Security" not in "".join(redirects)
    said = f"['add_header', 'Strict-Transport-Security', '{value}', 'always']"
    assert (said in site) if value else ("Strict-Transport-Security" not in site)


def test_no_tls() -> None:
    blocks = parse(words(render({**APP, "tls": {"mode": "none"}})))
    assert [name[0] for name, _inner in blocks] == ["upstream", "server"]
    server = blocks[1][1] or []
    assert (["listen", "80"], None) in server
    assert not [line for line, _inner in server if line[0].startswith("ssl")]


@given(st.text(min_size=1), st.text(), st.text(), st.text(), st.text())
def test_no_value_gets_out_of_its_directive(domain: str, path: str, root: str, source: str, name: str) -> None:
    hostile = {
        **APP,
        "name": name,
        "domains": [domain, domain],
        "upstream": "/" + source,
        "source_dir": source,
        "locations": [
            {"path": "/static" + path, "kind": "static", "root": root},
            {"path": "/events" + path, "kind": "sse"},
            {"path": "/ws" + path, "kind": "websocket"},
        ],
    }
    app = {**APP, "domains": ["a", "b"]}
    assert sorted(map(str, shape(parse(words(render(hostile)))))) == sorted(map(str, shape(parse(words(render(app))))))
