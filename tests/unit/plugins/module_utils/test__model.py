# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a declaration may say: each mistake is one line that helps, and no line tells a secret."""

from __future__ import annotations

import copy
import typing as t

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.asgi.stack.plugins.module_utils import _model
from ansible_collections.asgi.stack.plugins.plugin_utils import _control

SPEC = _control.application_spec()
GOOD: dict[str, t.Any] = {
    "name": "shop",
    "app": "shop.main:app",
    "source": {"path": "./shop"},
    "domains": ["a.example"],
}


def app(**more: t.Any) -> dict[str, t.Any]:
    """One right application, changed by *more*; a key with the value ``...`` is left out."""
    return {key: value for key, value in {**copy.deepcopy(GOOD), **more}.items() if value is not ...}


def problems(**more: t.Any) -> list[str]:
    return _model.validate([app(**more)], SPEC)


# --- right declarations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"name": "a"},
        {"name": "a" * 27},
        {"app": "main:create.app", "factory": "yes"},
        {"app": "_m:a"},
        {"source": {"git": "git@example.com:shop.git", "version": "v2.4.1"}},
        {"source": {"package": "Shop-x[extra,more]==2.4.1+local.1"}},
        {"source": {"path": "dist/shop-1.0-py3-none-any.whl", "exclude": ["*.md"]}},
        {"domains": ["*.example.com", "xn--bcher-kva.example", "localhost"]},
        {"workers": "auto"},
        {"workers": "3", "keep_releases": "2", "drain": 0, "max_body_size": 1.0},
        {"health": {"path": "/healthz", "status": [200, "204"], "successes": 1}},
        {"environment": {"A": "", "_b2": 5, "F": 1.5}, "secrets": {"TOKEN": "x y\nz"}},
        {"locations": [{"path": "/static/", "kind": "static", "root": "a/b"}, {"path": "/ws", "kind": "websocket"}]},
        {"gunicorn": {"timeout": "90", "extra": {"raw_env": ["A=1"]}}},
        {"sandbox": {"MemoryDenyWriteExecute": False, "ReadWritePaths": ["/a", "/b"]}},
        {"health": None, "environment": None, "requirements": None},
        {"cdn": "fastly", "cdn_only": "yes", "cdn_client_ca": "tls/origin-pull.pem"},
        {"cdn": {"ranges": ["10.0.0.0/8", "192.0.2.1", "fc00::/7"], "header": "X-Real-IP", "headers": ["X-User"]}},
        {"cdn": None, "cdn_only": "no", "limits": {"rate": 0, "burst": "0", "connections": 0, "header_size": 16384}},
    ],
)
def test_right_declarations(more: dict[str, t.Any]) -> None:
    assert problems(**more) == []


def test_an_absent_application_needs_its_name_only() -> None:
    assert _model.validate([{"name": "shop", "state": "absent"}], SPEC) == []


def test_no_applications() -> None:
    assert _model.validate([], SPEC) == []


# --- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = [
    ({"name": ...}, "name: missing, expected a string"),
    ({"name": ""}, "name: found '', expected 1 to 27 of"),
    ({"name": "Shop"}, "name: found 'Shop', expected 1 to 27 of"),
    ({"name": "a/b"}, "name: found 'a/b', expected 1 to 27 of"),
    ({"name": "shop-"}, "name: found 'shop-', expected"),
    ({"name": "a" * 28}, "name: found 'aaaa"),
    ({"name": ["shop"]}, "name: found a list, expected a string"),
    ({"state": "gone"}, "state: found 'gone', expected one of present, absent"),
    ({"app": ...}, "app: missing, expected an import string, module:attribute"),
    ({"app": "shop.main"}, "app: found 'shop.main', expected an import string, module:attribute"),
    ({"app": "shop/main.py:app"}, "app: found 'shop/main.py:app', expected an import string"),
    ({"app": True}, "app: found True, expected a string"),
    ({"factory": "perhaps"}, "factory: found 'perhaps', expected true or false"),
    ({"source": ...}, "source: missing, expected one of path, git and package"),
    ({"source": "./shop"}, "source: found './shop', expected a mapping"),
    ({"source": {}}, "source: found none of them, expected exactly one of path, git and package"),
    ({"source": {"path": ".", "package": "a==1"}}, "source: found path and package, expected exactly one of"),
    ({"source": {"git": "https://x/y"}}, "source.version: missing, expected a tag, a branch or a commit"),
    ({"source": {"git": "x", "version": "--all"}}, "source.version: found '--all', expected a tag"),
    ({"source": {"git": "--upload-pack=x", "version": "1"}}, "source.git: found '--upload-pack=x', expected a repos"),
    ({"source": {"path": ".", "version": "v1"}}, "source.version: goes with source.git only"),
    ({"source": {"package": "a==1", "exclude": ["b"]}}, "source.exclude: goes with source.path only"),
    ({"source": {"package": "shop"}}, "source.package: found 'shop', expected a package with its exact version"),
    ({"source": {"package": "shop>=2"}}, "source.package: found 'shop>=2', expected a package with its exact"),
    ({"source": {"path": ".", "exclude": "b"}}, "source.exclude: found 'b', expected a list"),
    ({"requirements": "/etc/r.txt"}, "requirements: found '/etc/r.txt', expected a path relative to the source"),
    ({"server": "apache"}, "server: found 'apache', expected one of "),
    ({"domains": []}, "domains: found an empty list, expected at least one host name"),
    ({"domains": "a.example"}, "domains: found 'a.example', expected a list"),
    ({"domains": ["A.example"]}, "domains[0]: found 'A.example', expected a host name in lower case"),
    ({"domains": ["a.example", "b.*.example"]}, "domains[1]: found 'b.*.example', expected a host name"),
    ({"domains": ["a.example;"]}, "domains[0]: found 'a.example;', expected a host name"),
    ({"domains": [".".join(["a" * 63] * 4)]}, "domains[0]: found 255 characters, expected 253 at most"),
    ({"tls": {"mode": "magic"}}, "tls.mode: found 'magic', expected one of"),
    ({"workers": 0}, "workers: found 0, expected auto or a whole number from 1"),
    ({"workers": "many"}, "workers: found 'many', expected auto or a whole number from 1"),
    ({"workers": 1.5}, "workers: found 1.5, expected auto or a whole number from 1"),
    ({"workload": "gpu"}, "workload: found 'gpu', expected one of io, mixed, cpu"),
    ({"sizing": {"per_cpu": "two"}}, "sizing.per_cpu: found 'two', expected a number"),
    ({"keep_releases": 0}, "keep_releases: found 0, expected a whole number from 1"),
    ({"drain": "-1"}, "drain: found -1, expected a whole number from 0"),
    ({"drain": "long"}, "drain: found 'long', expected a whole number"),
    ({"max_body_size": 2**63}, "max_body_size: found 9223372036854775808, expected a whole number from 1 to"),
    ({"max_body_size": "10M"}, "max_body_size: found '10M', expected a whole number"),
    ({"request_timeout": 0}, "request_timeout: found 0, expected a whole number from 1"),
    ({"health": "/healthz"}, "health: found '/healthz', expected a mapping"),
    ({"health": {"path": "healthz"}}, "health.path: found 'healthz', expected a path that begins with /"),
    ({"health": {"path": "/a b"}}, "health.path: found '/a b', expected a path"),
    ({"health": {"timeout": 0}}, "health.timeout: found 0, expected a whole number from 1"),
    ({"health": {"timeout": "soon"}}, "health.timeout: found 'soon', expected a whole number"),
    ({"health": {"status": [200, 600]}}, "health.status[1]: found 600, expected an HTTP status"),
    ({"environment": ["A=1"]}, "environment: found a list, expected a mapping"),
    ({"environment": {"1A": "x"}}, "environment: found the name '1A', expected letters"),
    ({"environment": {"LD_PRELOAD": "x"}}, "environment.LD_PRELOAD: this name is set by"),
    ({"environment": {"A": None}}, "environment.A: found nothing, expected a string or a number"),
    ({"environment": {"A": {"b": 1}}}, "environment.A: found a mapping, expected a string or a number"),
    ({"secrets": {"A": ["x"]}}, "secrets.A: found a list, expected a string or a number"),
    ({"secrets": {"A": "x\0"}}, "secrets.A: found a NUL character"),
    ({"environment": {"A": 1}, "secrets": {"A": 1}}, "secrets.A: also in environment, expected in one of them"),
    ({"locations": [{"path": "/a"}]}, "locations[0].kind: missing, expected one of app, sse"),
    ({"locations": [{"path": "a", "kind": "sse"}]}, "locations[0].path: found 'a', expected a path that begins"),
    ({"locations": [{"path": "/a {", "kind": "sse"}]}, "locations[0].path: found '/a {', expected a path"),
    ({"locations": ["/a"]}, "locations[0]: found '/a', expected a mapping"),
    ({"locations": [{"path": "/a", "kind": "app"}] * 2}, "locations[1].path: found '/a' a second time"),
    ({"locations": [{"path": "/a/", "kind": "static"}]}, "locations[0].root: missing, expected a directory"),
    ({"locations": [{"path": "/a", "kind": "static", "root": "a"}]}, "locations[0].path: found '/a', expected a / at"),
    ({"locations": [{"path": "/a", "kind": "app", "root": "a"}]}, "locations[0].root: goes with kind static and"),
    ({"locations": [{"path": "/a/", "kind": "static", "root": "/etc"}]}, "locations[0].root: found '/etc', expected"),
    ({"locations": [{"path": "/a/", "kind": "static", "root": "a/../.."}]}, "locations[0].root: found 'a/../..', exp"),
    (
        {"locations": [{"path": "/a/", "kind": "internal", "root": "/var/../etc"}]},
        "locations[0].root: found '/var/../etc', expected an absolute directory",
    ),
    (
        {"locations": [{"path": "/a", "kind": "internal", "root": "b"}]},
        "locations[0].path: found '/a', expected a / at the end for kind internal",
    ),
    ({"locations": [{"path": "/a", "kind": "sse", "cache": 1}]}, "locations[0].cache: goes with kind app only"),
    (
        {"locations": [{"path": "/a", "kind": "health", "max_body_size": 1}]},
        "locations[0].max_body_size: goes with kind app and upload only",
    ),
    (
        {"locations": [{"path": "/a/", "kind": "static", "root": "a", "exact": True}]},
        "locations[0].exact: goes with kind app and sse and websocket and upload only",
    ),
    ({"locations": [{"path": "/a", "kind": "app", "immutable": True}]}, "locations[0].immutable: goes with kind"),
    ({"locations": [{"path": "/a", "kind": "app", "cache": 0}]}, "locations[0].cache: found 0, expected a whole"),
    (
        {"locations": [{"path": "/a", "kind": "app", "timeout": 86401}]},
        "locations[0].timeout: found 86401, expected seconds, a day (86400) at most",
    ),
    (
        {"locations": [{"path": "/a", "kind": "health"}, {"path": "/a", "kind": "app", "exact": True}]},
        "locations[1].path: found '/a' a second time",
    ),
    ({"http3": "maybe"}, "http3: found 'maybe', expected auto, true or false"),
    ({"http3": True, "tls": {"mode": "none"}}, "http3: found true with tls.mode none"),
    ({"maintenance": "soon"}, "maintenance: found 'soon', expected true or false"),
    ({"security_headers": ["X"]}, "security_headers: found a list, expected a mapping"),
    ({"security_headers": {"X Y": "a"}}, "security_headers: found the name 'X Y', expected letters, digits and -"),
    ({"security_headers": {"Content-Type": "a"}}, "security_headers.Content-Type: this header is set by the server"),
    ({"security_headers": {"X-A": "a", "x-a": "a"}}, "security_headers.x-a: found a second time"),
    ({"security_headers": {"X-A": "$host"}}, "security_headers.X-A: found '$host', expected null or one line of ASCII"),
    ({"security_headers": {"X-A": "a\nB: c"}}, "security_headers.X-A: found 'a\\nB: c', expected null or one line"),
    ({"security_headers": {"X-A": True}}, "security_headers.X-A: found True, expected null or one line of ASCII"),
    ({"cdn": "akamai"}, "cdn: found 'akamai', expected one of cloudflare, cloudfront, fastly"),
    ({"cdn": ["10.0.0.0/8"]}, "cdn: found a list, expected one of"),
    ({"cdn": {}}, "cdn.ranges: missing, expected a list of addresses such as"),
    ({"cdn": {"ranges": "10.0.0.0/8"}}, "cdn.ranges: missing, expected a list of addresses"),
    ({"cdn": {"ranges": ["10.0.0.0/8", "10.0.0.1/8"]}}, "cdn.ranges[1]: found '10.0.0.1/8', expected an address"),
    ({"cdn": {"ranges": ["10.0.0.0/255.0.0.0"]}}, "cdn.ranges[0]: found '10.0.0.0/255.0.0.0', expected an address"),
    ({"cdn": {"ranges": ["fe80::1%eth0; evil"]}}, "cdn.ranges[0]: found 'fe80::1%eth0; evil', expected an address"),
    ({"cdn": {"ranges": [1]}}, "cdn.ranges[0]: found 1, expected an address"),
    ({"cdn": {"ranges": ["0.0.0.0/0"]}}, "cdn.ranges[0]: found '0.0.0.0/0', expected fewer addresses"),
    ({"cdn": {"ranges": ["::/1"]}}, "cdn.ranges[0]: found '::/1', expected fewer addresses"),
    ({"cdn": {"ranges": ["10.0.0.0/8"], "range": 1}}, "cdn.range: unknown key, expected one of header"),
    ({"cdn": {"ranges": ["10.0.0.0/8"], "header": "proxy_protocol"}}, "cdn.header: found 'proxy_protocol', expected"),
    ({"cdn": {"ranges": ["10.0.0.0/8"], "header": ["A"]}}, "cdn.header: found a list, expected a header's name"),
    ({"cdn": {"ranges": ["10.0.0.0/8"], "headers": "A"}}, "cdn.headers: found 'A', expected a list of headers' names"),
    ({"cdn": {"ranges": ["10.0.0.0/8"], "headers": ["A", "B;"]}}, "cdn.headers[1]: found 'B;', expected a header"),
    ({"cdn": {"ranges": ["10.0.0.0/8"], "headers": [1]}}, "cdn.headers[0]: found 1, expected a header's name"),
    ({"cdn": {"ranges": ["10.0.0.0/8"], "headers": ["host"]}}, "cdn.headers[0]: found 'host', which the edge sets its"),
    ({"cdn_only": True}, "cdn_only: goes with cdn only"),
    ({"cdn_client_ca": "ca.pem"}, "cdn_client_ca: goes with cdn only"),
    ({"cdn": "fastly", "cdn_client_ca": "ca.pem; evil"}, "cdn_client_ca: found 'ca.pem; evil', expected a file's path"),
    ({"cdn": "fastly", "cdn_client_ca": "a", "tls": {"mode": "none"}}, "cdn_client_ca: needs TLS, expected another"),
    ({"limits": 5}, "limits: found 5, expected a mapping"),
    ({"limits": {"rate": "10r/s"}}, "limits.rate: found '10r/s', expected a whole number"),
    ({"limits": {"rate": -1}}, "limits.rate: found -1, expected a whole number from 0 to 1000000"),
    ({"limits": {"connections": 65536}}, "limits.connections: found 65536, expected a whole number from 0 to 65535"),
    ({"limits": {"header_size": 100}}, "limits.header_size: found 100, expected a whole number from 1024 to 1048576"),
    ({"limits": {"ratte": 1}}, "limits.ratte: unknown key, did you mean rate?"),
    ({"sandbox": {"a b": 1}}, "sandbox: found 'a b', expected the name of a systemd directive"),
    ({"sandbox": {"PrivateTmp": "no\nUser=root"}}, "sandbox.PrivateTmp: found a string, expected one line"),
    ({"gunicorn": {"log_level": "loud"}}, "gunicorn.log_level: found 'loud', expected one of debug"),
    # unknown keys, with a suggestion where there is a close one
    ({"domain": "x"}, "domain: unknown key, did you mean domains?"),
    ({"health": {"timout": 3}}, "health.timout: unknown key, did you mean timeout?"),
    ({"gunicorn": {"max_request": 3}}, "gunicorn.max_request: unknown key, did you mean max_requests?"),
    ({"locations": [{"path": "/a", "kind": "app", "rooot": 1}]}, "locations[0].rooot: unknown key, did you mean root?"),
    ({"tls": {"xyzzy": 3}}, "tls.xyzzy: unknown key, expected one of "),
]


@pytest.mark.parametrize(("more", "line"), MISTAKES)
def test_a_mistake_is_one_line(more: dict[str, t.Any], line: str) -> None:
    found = problems(**more)
    assert len(found) == 1, found
    name = more.get("name", "shop")
    where = f"asgi_apps[0] ({name}): " if isinstance(name, str) and name else "asgi_apps[0]: "
    assert found[0].startswith(where + line)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"health": {"status": 200}}, "health.status: found 200"),
        ({"health": {"status": "ok"}}, "health.status: found 'ok'"),
        ({"health": {"status": ["ok"]}}, "health.status[0]: found 'ok'"),
        ({"drain": float("inf")}, "drain: found inf, expected a whole number"),
        ({"workers": float("inf")}, "workers: found inf, expected auto or"),
        ({"domains": [None]}, "domains[0]: found"),
        ({"source": {"git": "", "version": "1"}}, "source.git: found ''"),
        ({"requirements": "../r.txt"}, "requirements: found '../r.txt'"),
        ({"locations": [{"kind": "static", "root": "a"}]}, "locations[0].path: missing"),
        ({"environment": {None: "x"}}, "environment: found the name None"),
    ],
)
def test_a_mistake_is_one_line_too(more: dict[str, t.Any], line: str) -> None:
    test_a_mistake_is_one_line(more, line)


@pytest.mark.parametrize(
    ("apps", "line"),
    [
        ({"shop": {}}, "asgi_apps: found a mapping, expected a list of applications"),
        (None, "asgi_apps: found nothing, expected a list of applications"),
        ("shop", "asgi_apps: found a string, expected a list of applications"),
        (["shop"], "asgi_apps[0]: found a string, expected a mapping with at least name, app and source"),
    ],
)
def test_not_a_list_of_mappings(apps: t.Any, line: str) -> None:
    assert _model.validate(apps, SPEC) == [line]


def test_all_mistakes_of_all_applications_at_once() -> None:
    second = {
        "name": "blog",
        "app": "main",
        "source": {"path": ".", "git": "x", "version": "1"},
        "domains": ["b.example"],
    }
    found = _model.validate([app(workers=0, drain=-1, wrokers=2), second, 5], SPEC)
    assert [line.partition(", ")[0] for line in found] == [
        "asgi_apps[0] (shop): wrokers: unknown key",
        "asgi_apps[0] (shop): workers: found 0",
        "asgi_apps[0] (shop): drain: found -1",
        "asgi_apps[1] (blog): app: found 'main'",
        "asgi_apps[1] (blog): source: found path and git",
        "asgi_apps[2]: found a number",
    ]


def test_a_domain_belongs_to_one_application() -> None:
    found = _model.validate([app(domains=["a.example", "b.example"]), app(name="blog", domains=["b.example"])], SPEC)
    assert found == ["asgi_apps (blog): domains: found b.example, which the application shop has too"]


def test_an_absent_application_has_no_domain() -> None:
    assert _model.validate([app(state="absent"), app(name="blog")], SPEC) == []


def test_a_name_is_used_once() -> None:
    assert _model.validate([app(), app()], SPEC) == ["asgi_apps (shop): name: found 2 times, expected once"]


# --- values of environment and secrets -------------------------------------------------------------------------------

CANARY = "hunter2-canary"


@pytest.mark.parametrize(
    "more",
    [
        {"secrets": CANARY},
        {"secrets": [CANARY]},
        {"secrets": {"1bad": CANARY}},
        {"secrets": {"A": [CANARY], "B": {CANARY: CANARY}, "C": CANARY + "\0", "LD_X": CANARY}},
        {"secrets": {"A": CANARY}, "environment": {"A": CANARY}},
        {"environment": [CANARY]},
        {"environment": {"1bad": CANARY, "A": [CANARY], "B": {CANARY: 1}, "C": CANARY + "\0", "LISTEN_FDS": CANARY}},
        {"secret": {"A": CANARY}},
        {"env": {"A": CANARY}},
        {"environment": f"TOKEN={CANARY}"},
    ],
)
def test_no_value_is_in_a_message(more: dict[str, t.Any]) -> None:
    found = problems(**more)
    assert found
    assert CANARY not in "\n".join(found)


# --- domains by default ----------------------------------------------------------------------------------------------


def test_the_host_name_is_the_domain_by_default() -> None:
    declared = [app(domains=...), app(name="blog", domains=["b.example"]), {"name": "old", "state": "absent"}, "junk"]
    before = copy.deepcopy(declared)
    found = _model.with_domains(declared, "Web1.Example.com")
    assert found[0]["domains"] == ["web1.example.com"]
    assert found[1:] == declared[1:]
    assert declared == before


def test_two_applications_by_default_on_one_host_are_told() -> None:
    found = _model.validate(_model.with_domains([app(domains=...), app(name="blog", domains=...)], "web1"), SPEC)
    assert found == ["asgi_apps (blog): domains: found web1, which the application shop has too"]


def test_what_is_no_list_stays() -> None:
    assert _model.with_domains({"a": 1}, "web1") == {"a": 1}


# --- resolving -------------------------------------------------------------------------------------------------------


def test_every_default_is_filled_in() -> None:
    found = _model.resolve(app(), SPEC)
    assert set(found) == set(SPEC)
    assert found["state"] == "present"
    assert found["factory"] is False
    assert found["workers"] == "auto"
    hsts = {"max_age": None, "include_subdomains": False, "preload": False}
    assert found["tls"] == {
        "mode": "self_signed",
        "certificate": None,
        "key": None,
        "on_host": False,
        "hsts": hsts,
    }
    health = {"path": "/", "status": [], "contains": None, "timeout": 60, "successes": 3, "interval": 1.0}
    assert found["health"] == health
    assert found["environment"] == found["secrets"] == {}
    assert found["locations"] == []


def test_locations_that_are_right() -> None:
    found = problems(
        locations=[
            {"path": "/a", "kind": "app", "exact": True, "cache": 1, "timeout": 5, "max_body_size": 5},
            {"path": "/a", "kind": "upload", "timeout": 86400},
            {"path": "/healthz", "kind": "health"},
            {"path": "/metrics", "kind": "internal"},
            {"path": "/files/", "kind": "internal", "root": "/var/lib/asgi/shop/files"},
            {"path": "/assets/", "kind": "static", "root": "dist/assets", "immutable": True},
        ],
        security_headers={"X-Frame-Options": None, "Permissions-Policy": 'camera=(self "https://a.example")'},
        http3=True,
    )
    assert found == []


def test_what_a_template_made_a_string_gets_its_type() -> None:
    found = _model.resolve(
        app(
            factory="True",
            drain="30",
            max_body_size=1e6,
            health={"status": ["200"], "timeout": "9"},
            sizing={"per_cpu": "1.5"},
            locations=({"path": "/a", "kind": "app"},),
            gunicorn={"timeout": "90", "preload": "no"},
        ),
        SPEC,
    )
    assert found["factory"] is True
    assert (found["drain"], found["max_body_size"]) == (30, 1_000_000)
    assert (found["health"]["status"], found["health"]["timeout"]) == ([200], 9)
    assert found["sizing"]["per_cpu"] == 1.5
    (location,) = found["locations"]
    assert {key: value for key, value in location.items() if value is not None} == {
        "path": "/a",
        "kind": "app",
        "exact": False,
    }
    assert (found["gunicorn"]["timeout"], found["gunicorn"]["preload"]) == (90, False)


def test_defaults_are_not_shared() -> None:
    _model.resolve(app(), SPEC)["environment"]["A"] = "1"
    assert _model.resolve(app(), SPEC)["environment"] == {}


# --- properties ------------------------------------------------------------------------------------------------------

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def _near(option: _model.Spec) -> st.SearchStrategy[t.Any]:
    """Values that are often of the option's type, and sometimes anything."""
    kind = option.get("type", "str")
    right: st.SearchStrategy[t.Any]
    if option.get("choices"):
        right = st.sampled_from(option["choices"])
    elif option.get("options"):
        one = st.fixed_dictionaries({}, optional={key: _near(inner) for key, inner in option["options"].items()})
        right = st.lists(one, max_size=2) if kind == "list" else one
    elif kind == "list":
        right = st.lists(_near({"type": option.get("elements", "raw")}), max_size=3)
    elif kind == "dict":
        right = st.dictionaries(st.sampled_from(["A", "B_2", "1x", "LD_A", "PrivateTmp"]), JUNK, max_size=2)
    elif kind in ("int", "float"):
        right = st.integers(-1, 700) | st.floats() | st.integers(0, 9).map(str)
    else:
        right = st.sampled_from(["a", "shop", "a:b", "a==1", "/a/", "../x", "a.b", "auto", ""])
    return right | JUNK


NEAR_APP = st.fixed_dictionaries({}, optional={key: _near(option) for key, option in SPEC.items()})
NEARLY_RIGHT = st.builds(lambda more: {**GOOD, **more}, st.dictionaries(st.sampled_from(sorted(SPEC)), st.none())) | (
    st.sampled_from(sorted(SPEC)).flatmap(lambda key: _near(SPEC[key]).map(lambda value: {**GOOD, key: value}))
)


@example([app(health={"status": 200})])
@example([app(drain=float("inf"))])
@given(st.lists(NEARLY_RIGHT | NEAR_APP | JUNK, max_size=3) | JUNK)
def test_any_input_is_judged_and_what_is_right_resolves(apps: t.Any) -> None:
    before = repr(apps)
    found = _model.validate(apps, SPEC)
    assert all(isinstance(line, str) and line.startswith("asgi_apps") for line in found)
    assert repr(apps) == before
    if not found:
        for one in apps:
            resolved = _model.resolve(one, SPEC)
            assert set(resolved) == set(SPEC)
            assert resolved["name"] == one["name"]
            # what was resolved is right, and resolves to itself
            assert _model.validate([{key: value for key, value in resolved.items() if value}], SPEC) == []
            assert _model.resolve(resolved, SPEC) == resolved


# --- TLS -------------------------------------------------------------------------------------------------------------

FILES = {"certificate": "tls/shop.pem", "key": "tls/shop.key"}


@pytest.mark.parametrize(
    "tls",
    [
        {"mode": "provided", **FILES},
        {"mode": "provided", "certificate": "/etc/ssl/shop.pem", "key": "/etc/ssl/shop.key", "on_host": True},
        {"mode": "acme", "hsts": {"max_age": 0}},
        {"hsts": {"max_age": 31536000, "include_subdomains": True, "preload": True}},
    ],
)
def test_tls_is_right(tls: dict[str, t.Any]) -> None:
    assert problems(tls=tls) == []


@pytest.mark.parametrize(
    ("tls", "line"),
    [
        ({"mode": "provided", "key": "a.key"}, "tls.certificate: missing, expected the path of a PEM file"),
        ({"mode": "provided", "certificate": "a.pem"}, "tls.key: missing, expected the path of a PEM file"),
        ({"certificate": "a.pem"}, "tls.certificate: goes with tls.mode: provided only, found 'self_signed'"),
        ({"mode": "acme", "on_host": True}, "tls.on_host: goes with tls.mode: provided only, found 'acme'"),
        (
            {"mode": "provided", "on_host": True, "certificate": "/a.pem", "key": "a.key"},
            "tls.key: found 'a.key', expected an absolute path with tls.on_host",
        ),
        ({"mode": "letsencrypt"}, "tls.mode: found 'letsencrypt', expected one of self_signed, provided, acme, none"),
        ({"hsts": {"max_age": -1}}, "tls.hsts.max_age: found -1, expected a whole number from 0"),
        ({"hsts": {"include_subdomains": True}}, "tls.hsts.max_age: missing, expected seconds"),
        ({"mode": "none", "hsts": {"max_age": 5}}, "tls.hsts: goes with TLS only"),
        (
            {"hsts": {"max_age": 31536000, "preload": True}},
            "tls.hsts.preload: expected tls.hsts.include_subdomains: true with it",
        ),
        (
            {"hsts": {"max_age": 31535999, "preload": True, "include_subdomains": True}},
            "tls.hsts.max_age: found 31535999, expected at least 31536000 with tls.hsts.preload",
        ),
    ],
)
def test_tls_is_wrong(tls: dict[str, t.Any], line: str) -> None:
    (found,) = problems(tls=tls)
    assert found.startswith(f"asgi_apps[0] (shop): {line}")


def test_a_key_in_place_of_its_path_is_not_shown() -> None:
    text = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    (found,) = problems(tls={"mode": "provided", "certificate": "a.pem", "key": text})
    assert found == "asgi_apps[0] (shop): tls.key: found text that is no path, expected the path of a PEM file"


@pytest.mark.parametrize("domain", ["*.shop.example.com", "192.0.2.1"])
def test_what_http_cannot_prove(domain: str) -> None:
    (found,) = problems(domains=["shop.example.com", domain], tls={"mode": "acme"})
    assert found.startswith(f"asgi_apps[0] (shop): domains[1]: found '{domain}' with tls.mode: acme, expected a plain")


# --- without Nginx ---------------------------------------------------------------------------------------------------

FRONT = {"server": "hypercorn", "edge": "hypercorn"}


def test_front_is_right() -> None:
    assert problems(**FRONT, locations=[{"path": "/ws", "kind": "websocket"}], network="none") == []


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"edge": "hypercorn"}, "edge: found hypercorn with the server 'gunicorn', expected server: hypercorn with it"),
        ({**FRONT, "server": "granian"}, "edge: found hypercorn with the server 'granian', expected server: hypercorn"),
        ({**FRONT, "tls": {"mode": "none"}}, "tls.mode: found 'none', expected TLS with edge: hypercorn"),
        ({**FRONT, "tls": {"mode": "acme"}}, "tls.mode: found 'acme', which Nginx answers for, expected another one"),
        ({**FRONT, "tls": {"hsts": {"max_age": 5}}}, "tls.hsts: found with edge: hypercorn"),
        (
            {**FRONT, "locations": [{"path": "/static/", "kind": "static", "root": "static"}]},
            "locations[0].kind: found 'static', which only Nginx serves, not edge: hypercorn",
        ),
        ({**FRONT, "maintenance": True}, "maintenance: goes with Nginx only, not with edge: hypercorn"),
        ({"edge": "caddy"}, "edge: found 'caddy', expected one of nginx, hypercorn"),
    ],
)
def test_front_is_wrong(more: dict[str, t.Any], line: str) -> None:
    (found,) = problems(**more)
    assert found.startswith(f"asgi_apps[0] (shop): {line}")


@pytest.mark.parametrize("edge", ["hypercorn", "nginx"])
def test_front_is_alone_on_its_host(edge: str) -> None:
    other = app(name="other", domains=["b.example"], server="hypercorn", edge=edge)
    (found,) = _model.validate([app(**FRONT), other], SPEC)
    assert found.startswith("asgi_apps (shop): edge: found hypercorn beside other on the same host, expected no other")
    assert _model.validate([app(**FRONT), {"name": "other", "state": "absent"}], SPEC) == []
