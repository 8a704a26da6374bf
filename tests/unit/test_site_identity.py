# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who a client is and how much it may do: what the site role makes of ``cdn`` and ``limits``."""

from __future__ import annotations

import json
import re
import sys
import typing as t
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path[:0] = [str(Path(__file__).parent)]

from test_site_template import APP, Block, parse, render, shape, words

ROLE = Path(__file__).parents[2] / "roles/site"
VARIABLES: dict[str, t.Any] = yaml.safe_load((ROLE / "vars/main.yml").read_text(encoding="utf-8"))
SPEC: dict[str, t.Any] = yaml.safe_load((ROLE.parent / "app/meta/argument_specs.yml").read_text(encoding="utf-8"))[
    "argument_specs"
]["application"]["options"]
LIMITS = {key: option["default"] for key, option in SPEC["limits"]["options"].items()}
CDNS: dict[str, dict[str, t.Any]] = VARIABLES["__site_cdns"]
DROPPED = [*VARIABLES["__site_headers_forged"], *(name for cdn in CDNS.values() for name in cdn["headers"])]


def cdn(name: str) -> dict[str, t.Any]:
    """What the variable __site_cdn is for a network that is known by name."""
    file = json.loads((ROLE / f"files/cdn/{name}.json").read_text(encoding="utf-8"))
    return {**CDNS[name], **file, "title": name}


def rendered(app: dict[str, t.Any], **variables: t.Any) -> list[Block]:
    variables = {"__site_headers_dropped": sorted(set(DROPPED)), "__nginx_max_headers": True, **variables}
    return parse(words(render({**APP, "limits": LIMITS, **app}, **variables)))


def main_server(blocks: list[Block]) -> list[Block]:
    """The server block with the locations."""
    return next(inner for name, inner in reversed(blocks) if name == ["server"] and inner)


def lines(blocks: list[Block], directive: str) -> list[list[str]]:
    return [line[1:] for line, _inner in blocks if line[0] == directive]


def location(server: list[Block], path: str) -> list[Block]:
    return next(inner for name, inner in server if name[0] == "location" and name[-1] == path and inner)


@pytest.mark.parametrize("name", sorted(CDNS))
def test_a_network_says_who_the_client_is(name: str) -> None:
    known = cdn(name)
    blocks = rendered({"cdn": name}, __site_cdn=known)
    trusted = next(inner for line, inner in blocks if line[0] == "geo")
    assert trusted is not None
    assert lines(trusted, "default") == [["0"]]
    assert {line[0] for line, _none in trusted} == {"default", *known["ranges"]}
    server = main_server(blocks)
    assert [line[0] for line in lines(server, "set_real_ip_from")] == known["ranges"]
    assert lines(server, "real_ip_header") == [[known["header"]]]
    assert lines(server, "real_ip_recursive") == [["on"]]
    assert lines(server, "if") == []
    passed = {line[0]: line[1] for line in lines(server, "proxy_set_header")}
    for header in known["headers"]:
        assert passed[header] == f"$asgi_shop_{header.lower().replace('-', '_')}"
    others = set(DROPPED) - set(known["headers"])
    assert {header for header, value in passed.items() if value == ""} >= others


def test_without_one_nobody_is_believed() -> None:
    blocks = rendered({})
    server = main_server(blocks)
    assert not [line for line, _inner in blocks if line[0] == "geo"]
    assert "set_real_ip_from" not in str(shape(blocks))
    headers = {line[0]: line[1] for line in lines(server, "proxy_set_header")}
    assert {header for header in DROPPED if headers.get(header) != ""} == set()
    assert headers["X-Forwarded-For"] == "$remote_addr"
    assert headers["X-Forwarded-Proto"] == "$asgi_scheme"


def test_only_the_network_may_connect() -> None:
    server = main_server(rendered({"cdn": "fastly", "cdn_only": True}, __site_cdn=cdn("fastly")))
    assert (["if", "($asgi_cdn", "=", "0)"], [(["return", "444"], None)]) in server


def test_a_proxy_identifies_itself() -> None:
    custom = {"ranges": ["10.0.0.0/8"], "header": "X-Real-IP", "headers": ["X-User"], "scheme": "X-A", "title": "x"}
    server = main_server(rendered({"cdn": custom}, __site_cdn=custom, __site_client_ca="/ca.pem"))
    assert lines(server, "ssl_client_certificate") == [["/ca.pem"]]
    assert lines(server, "ssl_verify_client") == [["on"]]
    assert ["X-User", "$asgi_shop_x_user"] in lines(server, "proxy_set_header")


def test_limits() -> None:
    blocks = rendered({})
    assert lines(blocks, "limit_req_zone") == [["$asgi_client", "zone=asgi_shop_rate:10m", "rate=100r/s"]]
    assert lines(blocks, "limit_conn_zone") == [["$asgi_client", "zone=asgi_shop_connections:10m"]]
    server = main_server(blocks)
    for path in ("/", "/events", "/ws"):
        assert lines(location(server, path), "limit_req") == [["zone=asgi_shop_rate", "burst=500", "nodelay"]]
        assert lines(location(server, path), "limit_conn") == [["asgi_shop_connections", "512"]]
    assert "limit_req" not in str(shape(location(server, "/static/")))
    assert lines(server, "large_client_header_buffers") == [["4", "8192"]]
    assert lines(server, "max_headers") == [["100"]]
    assert lines(server, "client_header_timeout") == [["10s"]]
    assert lines(server, "client_body_timeout") == [["15s"]]
    assert lines(server, "send_timeout") == [["15s"]]


def test_limits_that_are_switched_off() -> None:
    off = rendered({"limits": {**LIMITS, "rate": 0, "connections": 0}}, __nginx_max_headers=False)
    assert not re.search("limit_(req|conn)|max_headers", str(shape(off)))
    assert lines(location(main_server(rendered({"limits": {**LIMITS, "burst": 0}})), "/"), "limit_req") == [
        ["zone=asgi_shop_rate"]
    ]


def test_every_answer_has_an_identifier() -> None:
    def check(blocks: list[Block]) -> None:
        added = [line[0] for line in lines(blocks, "add_header")]
        if added:
            assert {"X-Request-ID", "Retry-After"} <= set(added)
        for _line, inner in blocks:
            check(inner or [])

    server = main_server(rendered({}))
    assert ["X-Request-ID", "$asgi_request_id", "always"] in lines(server, "add_header")
    check(server)


@settings(max_examples=25)
@given(st.text(), st.text(), st.text(), st.text())
def test_no_value_gets_out_of_its_directive(name: str, range_: str, header: str, path: str) -> None:
    def shaped(app: dict[str, t.Any], **variables: t.Any) -> list[str]:
        return sorted(map(str, shape(rendered(app, __site_headers_dropped=[], **variables))))

    def proxy(network: str, word: str) -> dict[str, t.Any]:
        return {"ranges": [network], "header": word, "headers": [word], "scheme": word, "title": "x"}

    hostile, harmless = proxy(range_, header), proxy("192.0.2.0/24", "X-User")
    geo = re.compile(r"\('geo', \[.*?\]\)")
    found = shaped({"name": name, "cdn": hostile, "cdn_only": True}, __site_cdn=hostile, __site_client_ca=path or "/")
    expected = shaped({"cdn": harmless, "cdn_only": True}, __site_cdn=harmless, __site_client_ca="/ca")
    # In geo a range stands where elsewhere the name of a directive does.
    assert [geo.sub("", line) for line in found] == [geo.sub("", line) for line in expected]
