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
import yaml
from hypothesis import given
from hypothesis import strategies as st

ROLES = Path(__file__).parents[2] / "roles"
TEMPLATES = ROLES / "site/templates"
DEFAULTS: dict[str, t.Any] = yaml.safe_load((ROLES / "site/defaults/main.yml").read_text(encoding="utf-8"))
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
    environment.filters["regex_escape"] = re.escape
    pair = {"fingerprint": "ab" * 32, "certificate": "/tls/shop/fullchain.pem", "key": "/tls/shop/privkey.pem"}
    return environment.get_template("site.conf.j2").render(
        {
            "__site_app": app,
            "__site_certificates": {"certificates": {app["name"]: pair}},
            "__nginx_listen_addresses": ["", "[::]:"],
            "nginx_http_port": 80,
            "nginx_https_port": 443,
            "__nginx_http3": True,
            "__nginx_brotli": True,
            "__site_cache_directory": "/var/lib/nginx/asgi-cache",
            **{name: DEFAULTS[name] for name in DEFAULTS if name != "site_apps"},
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
    """Names of directives only; the lines of a map have none."""
    return [
        name[0] if inner is None else (name[0], len(inner) if name[0] == "map" else shape(inner))
        for name, inner in blocks
    ]


def locations(app: dict[str, t.Any], **variables: t.Any) -> dict[str, list[Block]]:
    """The locations of the application's server block, by their last word; the page's is left out."""
    server = parse(words(render(app, **variables)))[-1][1]
    assert server is not None
    found = [(name[-1], inner) for name, inner in server if name[0] == "location" and name[-1] != "/.asgi-page/"]
    assert len(dict(found)) == len(found), "a location twice"
    return {name: inner or [] for name, inner in found}


def servers(app: dict[str, t.Any], **variables: t.Any) -> list[list[Block]]:
    return [inner or [] for name, inner in parse(words(render(app, **variables))) if name == ["server"]]


def headers(block: list[Block]) -> dict[str, str]:
    """Names and values of a block's own add_header lines."""
    lines = [line for line, __ in block if line[0] == "add_header"]
    assert len({line[1].lower() for line in lines}) == len(lines), f"a header twice: {lines}"
    return {line[1]: line[2] for line in lines}


def kind(name: str, **options: t.Any) -> list[Block]:
    """The location of this kind, with these options."""
    return locations({**APP, "locations": [{"path": "/x", "kind": name, **options}]})["/x"]


def test_locations() -> None:
    found = locations(APP)
    assert list(found) == ["/", "/events", "/static/", "/ws"]
    assert (["alias", "/srv/asgi/shop/live/build/src/static/"], None) in found["/static/"]
    assert (["proxy_buffering", "off"], None) in found["/events"]


def test_a_kept_connection_gets_one_more_try_and_what_must_not_be_done_twice_gets_none() -> None:
    """Nginx asks a server that is alone in its upstream again only if the first connection was a kept one."""
    found = parse(words(render(APP)))
    (upstream,) = [inner or [] for name, inner in found if name[0] == "upstream"]
    assert [name for name, __ in upstream if name[0] == "server"] == [
        ["server", "unix:/srv/asgi/shop/live/app.sock", "max_fails=0"]
    ]
    assert (["keepalive_time", "3s"], None) in upstream
    assert (["keepalive_timeout", "2s"], None) in upstream
    again = [name for name, __ in found[-1][1] or [] if name[0].startswith("proxy_next_upstream")]
    assert again == [  # without `non_idempotent`
        ["proxy_next_upstream", "error", "timeout"],
        ["proxy_next_upstream_tries", "2"],
        ["proxy_next_upstream_timeout", "10s"],
    ]


def test_a_path_twice_is_one_location_and_root_can_be_declared() -> None:
    both = [
        {"path": "/static/", "kind": "static", "root": "a"},
        {"path": "/static", "kind": "static", "root": "b"},
        {"path": "/", "kind": "sse"},
    ]
    found = locations({**APP, "locations": both})
    assert list(found) == ["/", "/static/"]
    assert (["gzip", "off"], None) in found["/"]


@pytest.mark.parametrize("brotli", [True, False])
def test_a_stream_is_not_compressed(brotli: bool) -> None:
    found = locations(APP, __nginx_brotli=brotli)["/events"]
    assert [line for line, __ in found if line[0] == "brotli"] == ([["brotli", "off"]] if brotli else [])


def test_an_upload_is_passed_on_as_it_comes() -> None:
    found = kind("upload", max_body_size=5, timeout=7)
    for line in (["proxy_request_buffering", "off"], ["client_max_body_size", "5"], ["proxy_read_timeout", "7s"]):
        assert (line, None) in found
    assert (["client_max_body_size", str(1 << 30)], None) in kind("upload")


def test_health_is_one_path() -> None:
    server = servers({**APP, "locations": [{"path": "/x", "kind": "health"}]})[-1]
    assert [name for name, __ in server if name[0] == "location" and name[-1] == "/x"] == [["location", "=", "/x"]]
    assert (["access_log", "off"], None) in kind("health")


def test_exact_and_beginning_are_two_locations() -> None:
    both = [{"path": "/x", "kind": "app", "exact": True}, {"path": "/x", "kind": "sse"}]
    server = servers({**APP, "locations": both})[-1]
    found = [name for name, __ in server if name[0] == "location" and name[-1] == "/x"]
    assert found == [["location", "/x"], ["location", "=", "/x"]]


def test_internal_is_files_or_nothing() -> None:
    assert kind("internal") == [(["return", "404"], None)]
    found = locations({**APP, "locations": [{"path": "/p/", "kind": "internal", "root": "files"}]})["/p/"]
    assert found[:2] == [(["internal"], None), (["alias", "/srv/asgi/shop/live/build/src/files/"], None)]
    found = locations({**APP, "locations": [{"path": "/p", "kind": "internal", "root": "/var/files"}]})["/p/"]
    assert found[:2] == [(["internal"], None), (["alias", "/var/files/"], None)]


def test_a_cached_location_knows_nobody() -> None:
    found = {line[0]: line[1:] for line, __ in kind("app", cache=2)}
    assert found["proxy_cache_valid"][-1] == "2s"
    for name in ("proxy_cache_bypass", "proxy_no_cache"):
        assert {"$http_authorization", "$http_cookie"} <= set(found[name])
    assert "proxy_cache" not in {line[0] for line, __ in kind("app")}


def test_files_of_earlier_releases_are_looked_for() -> None:
    app = {**APP, "previous_source_dirs": ["/old/1", "/old/2"], "locations": [APP["locations"][0]]}
    (inner,) = [block or [] for name, block in locations(app)["/static/"] if name[-1].startswith("^")]
    (tried,) = [line[1:] for line, __ in inner if line[0] == "try_files"]
    assert tried == [
        "/srv/asgi/shop/live/build/src/static/$asgi_file",
        "/old/1/static/$asgi_file",
        "/old/2/static/$asgi_file",
        "=404",
    ]


@pytest.mark.parametrize("path", ["/static/", "/a.b/(c)/"])
def test_only_files_below_the_path_are_looked_for(path: str) -> None:
    app = {**APP, "previous_source_dirs": ["/old"], "locations": [{"path": path, "kind": "static", "root": "static"}]}
    (pattern,) = [name[-1] for name, __ in locations(app)[path] if name[-1].startswith("^")]
    expression = re.compile(pattern.replace("?<", "?P<"))
    match = expression.search(f"{path}js/app.js")
    assert match is not None
    assert match["asgi_file"] == "js/app.js"
    assert not expression.search(f"{path}js/")
    assert not expression.search(f"{path[:-1]}/")
    assert not expression.search("/aXb/(c)/app.js" if path != "/static/" else "/x/static/app.js")


@pytest.mark.parametrize(
    ("name", "hashed"),
    [
        ("app.7c1f0a3e.js", True),
        ("app-55e7cbb9ba48.min.css", True),
        ("bootstrap-datepicker.js", False),
        ("report-20260101.pdf", False),
        ("feedface.js", False),
        ("app.defaced.css", False),
        ("app.css", False),
    ],
)
def test_names_with_a_hash(name: str, hashed: bool) -> None:
    assert bool(re.search(DEFAULTS["site_static_hashed"], f"/srv/x.12345678a/{name}")) is hashed


@pytest.mark.parametrize(("immutable", "value"), [(True, "immutable"), (False, "max-age=300"), (None, "$asgi_static_")])
def test_static_files_say_how_long_they_hold(immutable: bool | None, value: str) -> None:
    app = {**APP, "locations": [{"path": "/s/", "kind": "static", "root": "s", "immutable": immutable}]}
    assert value in headers(locations(app)["/s/"])["Cache-Control"]


SECURITY = {
    "Content-Security-Policy": "default-src 'self'",
    "x-frame-options": "DENY",
    "Permissions-Policy": None,
    "Strict-Transport-Security": "max-age=63072000",
}


def test_every_answer_has_the_security_headers() -> None:
    """Nginx drops what it would inherit where a block has an add_header of its own."""
    every = [{"path": f"/{name}", "kind": name} for name in ("app", "sse", "websocket", "upload", "health", "internal")]
    every += [{"path": f"/{name}/", "kind": name, "root": "r"} for name in ("static", "internal")]
    every += [{"path": "/cached", "kind": "app", "cache": 1}]
    plain, server = servers(
        {**APP, "domains": ["a"], "locations": every, "security_headers": SECURITY, "previous_source_dirs": ["/old"]}
    )
    expected = {"X-Content-Type-Options", "Referrer-Policy", "x-frame-options", "Cross-Origin-Opener-Policy"}
    expected |= {"Content-Security-Policy", "X-Request-ID", "Retry-After"}
    assert set(headers(plain)) == expected, "and none that holds over TLS only"
    expected |= {"Strict-Transport-Security", "Alt-Svc"}
    seen = 0

    def look(block: list[Block], inherited: set[str]) -> None:
        nonlocal seen
        mine = set(headers(block)) or inherited
        assert expected <= mine, block
        seen += 1
        for name, inner in block:
            if name[0] == "location":
                look(inner or [], mine)

    look(server, set())
    assert seen == 14


def test_a_header_of_the_application_is_not_sent_twice() -> None:
    blocks = parse(words(render({**APP, "security_headers": SECURITY})))
    maps = {name[2]: (name[1], inner or []) for name, inner in blocks if name[0] == "map"}
    value = headers(servers({**APP, "security_headers": SECURITY})[-1])["x-frame-options"]
    assert maps[value] == ("$upstream_http_x_frame_options", [(["", "DENY"], None), (["default", ""], None)])


def test_hsts_is_one_header_whoever_sends_it() -> None:
    declared = {"tls": {"mode": "self_signed", "hsts": {"max_age": 60}}}
    for security in ({}, {"strict-transport-security": "max-age=5"}):
        app = {**APP, **declared, "security_headers": security}
        for block in [servers(app)[-1], *locations(app).values()]:
            assert [name.lower() for name in headers(block)].count("strict-transport-security") <= 1
        assert "strict-transport-security" in map(str.lower, headers(servers(app)[-1]))


def test_a_header_that_is_null_is_the_applications() -> None:
    assert "X-Frame-Options" not in render({**APP, "security_headers": {"x-frame-options": None}})


def test_without_tls_nothing_says_that_there_is_any() -> None:
    text = render({**APP, "tls": {"mode": "none"}, "security_headers": SECURITY})
    assert "Strict-Transport-Security" not in text
    assert "Alt-Svc" not in text
    assert "quic" not in text


@pytest.mark.parametrize(
    ("build", "declared", "live"),
    [
        (True, {}, True),
        (True, {"http3": "auto"}, True),
        (True, {"http3": True}, True),
        (True, {"http3": False}, False),
        (False, {}, False),
    ],
)
def test_http3(build: bool, declared: dict[str, t.Any], live: bool) -> None:
    server = servers({**APP, **declared}, __nginx_http3=build, nginx_https_port=8443)[-1]
    listening = [line for line, __ in server if line[0] == "listen"]
    assert (["listen", "8443", "quic"] in listening) is live
    assert (["listen", "[::]:8443", "quic"] in listening) is live
    assert ("Alt-Svc" in headers(server)) is live
    assert ('h3=\\":8443\\"' in render({**APP, **declared}, __nginx_http3=build, nginx_https_port=8443)) is live


def test_nginx_own_errors_have_a_page_and_the_applications_pass() -> None:
    server = servers(APP)[-1]
    assert (["error_page", "502", "503", "504", "=503", "/.asgi-page/shop.$asgi_page"], None) in server
    assert "proxy_intercept_errors" not in render(APP)
    (page,) = [inner or [] for name, inner in server if name[-1] == "/.asgi-page/"]
    assert (["internal"], None) in page
    assert headers(page)["Cache-Control"] == "no-store"
    assert headers(page)["Retry-After"] == "10"


def test_maintenance_leaves_health_alone() -> None:
    app = {**APP, "maintenance": True, "locations": [*APP["locations"], {"path": "/healthz", "kind": "health"}]}
    found = locations(app)
    assert set(found) == {"/", "/healthz"}
    assert found["/"] == [(["return", "503"], None)]
    assert (["proxy_pass", "http://asgi_shop"], None) in found["/healthz"]


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
    app = {**APP, "tls": {"mode": "self_signed", "hsts": hsts}}
    *redirects, site = servers(app)
    assert not [server for server in redirects if "Strict-Transport-Security" in headers(server)]
    # Once, and not if the application sends it.
    own = [name for name, __ in site if name[:2] == ["add_header", "Strict-Transport-Security"]]
    assert len(own) == (value is not None)
    maps = {name[1]: inner or [] for name, inner in parse(words(render(app))) if name[0] == "map"}
    sent = [line[1] for line, __ in maps.get("$upstream_http_strict_transport_security", []) if line[0] == ""]
    assert sent == ([value] if value else [])


def test_no_tls() -> None:
    blocks = parse(words(render({**APP, "tls": {"mode": "none"}})))
    assert [name[0] for name, _inner in blocks if name[0] != "map"] == ["upstream", "server"]
    server = blocks[-1][1] or []
    assert (["listen", "80"], None) in server
    assert not [line for line, _inner in server if line[0].startswith("ssl")]


@given(st.text(min_size=1), st.text(), st.text(), st.text(), st.text(), st.text(), st.text(min_size=1))
def test_no_value_gets_out_of_its_directive(
    domain: str, path: str, root: str, source: str, name: str, value: str, pattern: str
) -> None:
    def app(domain: str, path: str, root: str, source: str, name: str, value: str) -> dict[str, t.Any]:
        return {
            **APP,
            "name": name,
            "domains": [domain, domain],
            "upstream": "/" + source,
            "source_dir": source,
            "previous_source_dirs": [source],
            "security_headers": {"X-" + value: value},
            "locations": [
                {"path": "/static" + path, "kind": "static", "root": "r" + root},
                {"path": "/events" + path, "kind": "sse"},
                {"path": "/ws" + path, "kind": "websocket"},
                {"path": "/cached" + path, "kind": "app", "cache": 1},
                {"path": "/internal" + path, "kind": "internal", "root": "r" + root},
                {"path": "/closed" + path, "kind": "internal"},
                {"path": "/health" + path, "kind": "health"},
            ],
        }

    hostile = render(app(domain, path, root, source, name, value), site_static_hashed=pattern)
    harmless = render(app("a", "", "", "", "a", ""))
    assert sorted(map(str, shape(parse(words(hostile))))) == sorted(map(str, shape(parse(words(harmless)))))


SERVERS = [
    {"host": "app1", "address": "192.0.2.21", "port": 443, "weight": 1, "down": False},
    {"host": "app2", "address": "[2001:db8::2]", "port": 8443, "weight": 3, "down": True},
]
BALANCE = {
    "site_balance_hash": "",
    "site_balance_verify": False,
    "site_balance_ca": "/etc/nginx/asgi/app-hosts.pem",
    "site_balance_max_fails": 3,
    "site_balance_fail_timeout": 10,
}


def at_an_edge(**variables: t.Any) -> list[Block]:
    app = {key: value for key, value in APP.items() if key not in ("upstream", "source_dir")}
    locations = [location for location in APP["locations"] if location["kind"] not in ("static", "internal")]
    site = {**app, "servers": SERVERS, "locations": locations}
    return parse(words(render(site, **{**BALANCE, **variables})))


def test_an_edge_balances_over_hosts_and_sends_nothing_twice_that_must_not_be() -> None:
    found = at_an_edge()
    upstreams = {name[1]: inner or [] for name, inner in found if name[0] == "upstream"}
    assert list(upstreams) == ["asgi_shop", "asgi_shop_once"]
    for inner in upstreams.values():
        servers = [name for name, __ in inner if name[0] == "server"]
        assert [server[1] for server in servers] == ["192.0.2.21:443", "[2001:db8::2]:8443"]
        assert ["down" in server for server in servers] == [False, True]
        assert (["least_conn"], None) in inner
    kept = {name: any(line[0][0] == "keepalive" for line in inner) for name, inner in upstreams.items()}
    assert kept == {"asgi_shop": True, "asgi_shop_once": False}
    (chosen,) = [inner or [] for name, inner in found if name[:2] == ["map", "$request_method"]]
    assert (["POST", "asgi_shop_once"], None) in chosen
    server = found[-1][1] or []
    assert (["proxy_next_upstream", "error", "timeout", "http_502"], None) in server
    assert not [name for name, __ in server if name[0] == "proxy_ssl_verify"]
    passed = {line[0][1] for __, inner in server for line in inner or [] if line[0][0] == "proxy_pass"}
    assert passed == {"https://$asgi_pool_shop"}


def test_an_edge_hashes_and_verifies_on_request() -> None:
    found = at_an_edge(site_balance_hash="$remote_addr", site_balance_verify=True)
    upstream = next(inner or [] for name, inner in found if name[0] == "upstream")
    assert (["hash", "$remote_addr", "consistent"], None) in upstream
    assert (["proxy_ssl_verify", "on"], None) in (found[-1][1] or [])


def test_behind_edges_nobody_else_is_let_in() -> None:
    edges = ["192.0.2.9", "198.51.100.0/24"]
    said = {"title": "edges", "ranges": edges, "header": "X-Real-IP", "scheme": "X-Forwarded-Proto", "headers": []}
    found = parse(words(render({**APP, "edges": edges}, __site_cdn=said)))
    (allowed,) = [inner or [] for name, inner in found if name[0] == "geo"]
    assert allowed == [(["default", "0"], None), *(([edge, "1"], None) for edge in edges)]
    servers = [inner or [] for name, inner in found if name[0] == "server"]
    for server in servers:
        (refused,) = [inner for name, inner in server if name[0] == "if"]
        assert refused == [(["return", "444"], None)]
    assert (["real_ip_header", "X-Real-IP"], None) in servers[-1]
    # An edge asks another host then, which it would not do for a page of this one.
    assert not [name for name, __ in servers[-1] if name[0] == "error_page"]
