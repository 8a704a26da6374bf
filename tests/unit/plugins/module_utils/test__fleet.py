# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of many hosts, and what an edge is told of them."""

from __future__ import annotations

import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.asgi.stack.plugins.module_utils import _fleet
from ansible_collections.asgi.stack.plugins.plugin_utils import _control

SHOP: dict[str, t.Any] = {
    "name": "shop",
    "app": "main:app",
    "source": {"path": "."},
    "domains": ["shop.example.com"],
    "secrets": {"TOKEN": "hunter2"},
    "locations": [{"path": "/static/", "kind": "static", "root": "static"}, {"path": "/ws", "kind": "websocket"}],
}
SPEC = _control.application_spec()
HOSTS = [f"web{number}" for number in range(1, 11)]


@pytest.mark.parametrize(
    ("serial", "sizes"),
    [
        (3, [1, 3, 3, 3]),
        ("3", [1, 3, 3, 3]),
        ("25%", [1, 2, 2, 2, 2, 1]),
        ("1%", [1] * 10),
        ("100%", [1, 9]),
        (0, [1, 9]),
        ([1, "50%"], [1, 1, 5, 3]),
        ([2, 4, 0], [1, 2, 4, 3]),
    ],
)
def test_batches(serial: t.Any, sizes: list[int]) -> None:
    assert [len(batch) for batch in _fleet.batches(HOSTS, serial)] == sizes


def test_canaries_are_first_and_in_no_other_batch() -> None:
    found = _fleet.batches(HOSTS, 5, ["web7", "web3", "not-here"])
    assert found[0] == ["web3", "web7"]
    assert found[1] == ["web1", "web2", "web4", "web5", "web6"]
    assert _fleet.batches(HOSTS, 5, "web9")[0] == ["web9"]
    assert _fleet.batches(HOSTS, 5, [])[0] == HOSTS[:5]
    assert _fleet.batches(["web1"], "25%") == [["web1"]]
    assert _fleet.batches([], "25%") == []


@given(
    count=st.integers(0, 60),
    serial=st.one_of(st.integers(0, 70), st.integers(0, 100).map(lambda share: f"{share}%")),
    canary=st.sets(st.integers(0, 60)),
)
def test_every_host_is_in_one_batch(count: int, serial: t.Any, canary: set[int]) -> None:
    hosts = [f"web{number}" for number in range(count)]
    found = _fleet.batches(hosts, serial, [f"web{number}" for number in canary])
    assert sorted(host for batch in found for host in batch) == sorted(hosts)
    assert all(found)


@pytest.mark.parametrize("serial", ["half", -1, "-3", True, None, "5 %", []])
def test_what_is_no_number_of_hosts(serial: t.Any) -> None:
    with pytest.raises(_fleet.FleetError, match="asgi_serial"):
        _fleet.batches(HOSTS, serial)


def fleet(**hosts: dict[str, t.Any]) -> dict[str, dict[str, t.Any]]:
    return {
        name: {"asgi_apps": [SHOP], "ansible_host": f"192.0.2.{at}", **own}
        for at, (name, own) in enumerate(hosts.items())
    }


def test_an_edge_balances_over_all_hosts_of_an_application() -> None:
    hosts = fleet(
        a={}, b={"asgi_drained": True}, c={"asgi_address": "2001:db8::1", "asgi_weight": 3, "nginx_https_port": 8443}
    )
    (site,) = _fleet.edge_apps(hosts, spec=SPEC)
    assert [(one["address"], one["port"], one["weight"], one["down"]) for one in site["servers"]] == [
        ("192.0.2.0", 443, 1, False),
        ("192.0.2.1", 443, 1, True),
        ("[2001:db8::1]", 8443, 3, False),
    ]
    # Files are with the releases, on the application hosts.
    assert [location["kind"] for location in site["locations"]] == ["app", "websocket"]
    assert "hunter2" not in str(site)
    assert _fleet.edge_apps(hosts, spec=SPEC, drained=["a"])[0]["servers"][0]["down"]


def test_plain_http_goes_to_the_port_of_http() -> None:
    (site,) = _fleet.edge_apps(fleet(a={"asgi_apps": [{**SHOP, "tls": {"mode": "none"}}]}), spec=SPEC)
    assert site["servers"][0]["port"] == 80


def test_an_application_is_absent_at_an_edge_when_no_host_has_it() -> None:
    gone = {"name": "shop", "state": "absent"}
    assert _fleet.edge_apps(fleet(a={"asgi_apps": [gone]}), spec=SPEC) == [gone]
    (site,) = _fleet.edge_apps(fleet(a={"asgi_apps": [gone]}, b={}), spec=SPEC)
    assert [one["host"] for one in site["servers"]] == ["b"]


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        (
            fleet(a={}, b={"asgi_apps": [{**SHOP, "domains": ["other.example.com"]}]}),
            "domains: differs between a and b",
        ),
        (fleet(a={"asgi_apps": [{**SHOP, "domains": None}]}), "domains: missing"),
        (fleet(a={"asgi_apps": [{**SHOP, "edge": "hypercorn", "server": "hypercorn"}]}), "expected nginx"),
        (fleet(a={"asgi_drained": True}), "all of its hosts are drained"),
        (fleet(a={"ansible_host": "x; evil"}), "asgi_address: found 'x; evil'"),
    ],
)
def test_what_an_edge_cannot_serve(hosts: dict[str, t.Any], message: str) -> None:
    with pytest.raises(_fleet.FleetError, match=message):
        _fleet.edge_apps(hosts, spec=SPEC)


def test_edges_are_addresses() -> None:
    edges = {"e1": {"ansible_host": "192.0.2.9"}, "e2": {"asgi_addresses": ["198.51.100.0/24", "2001:db8::2"]}}
    assert _fleet.edge_addresses(edges) == ["192.0.2.9", "198.51.100.0/24", "2001:db8::2"]
    with pytest.raises(_fleet.FleetError, match="asgi_edge_hosts \\(edge1\\)"):
        _fleet.edge_addresses({"edge1": {}})


def test_behind_an_edge_the_public_certificate_is_the_edges() -> None:
    site = {"name": "shop", "state": "present", "tls": {"mode": "acme"}}
    assert _fleet.behind(site, []) == site
    assert _fleet.behind(site, ["192.0.2.9"])["tls"] == {"mode": "self_signed"}
    assert _fleet.behind({**site, "tls": {"mode": "none"}}, ["192.0.2.9"])["tls"] == {"mode": "none"}
    gone = {"name": "shop", "state": "absent"}
    assert _fleet.behind(gone, ["192.0.2.9"]) == gone


def test_the_table_names_every_host() -> None:
    live = {"release": "0002-bbbb", "previous": "0001-aaaa"}
    lines = _fleet.table(
        {"web1": {"state": "deployed", "applications": {"shop": live}}, "web2": {"state": "not reached"}}
    )
    assert lines[1].split() == ["web1", "shop", "0002-bbbb", "0001-aaaa", "deployed"]
    assert lines[2].split("  ")[0] == "web2"
    assert lines[2].endswith("not reached")


def standing(release: str = "aa", **more: t.Any) -> dict[str, t.Any]:
    app = {"name": "shop", "live": {"id": release, "release": f"0001-{release}"}, "health": "ok", **more}
    return {"reached": True, "applications": [app]}


def test_a_fleet_that_is_as_declared_has_no_drift() -> None:
    assert _fleet.drift({"a": {**standing(), "wanted": {"shop": "aa"}, "certificates": {"shop": 14}}}) == []
    assert _fleet.drift({"a": standing("bb"), "b": standing("bb")}) == []
    assert _fleet.drift({}) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"a": {"reached": False, "wanted": {"shop": "aa"}}}, "a: is not reached"),
        ({"a": {"applications": None, "wanted": {"shop": "aa"}, "problems": ["no"]}}, "a: cannot be read: no"),
        ({"a": {**standing(), "wanted": {"shop": "aa"}, "problems": ["no"]}}, "a: cannot be read: no"),
        ({"a": {**standing(), "wanted": {"shop": "bb"}}}, "a: shop: 0001-aa is live, bb is declared"),
        (
            {"a": standing(), "b": standing("bb"), "c": standing("bb")},
            "a: shop: 0001-aa is live, bb is live on most hosts",
        ),
        ({"a": {"applications": [], "wanted": {"shop": "aa"}}}, "a: shop: is declared and not there"),
        ({"a": standing(live=None)}, "a: shop: nothing is live"),
        ({"a": standing(health="status 503")}, "a: shop: is not healthy: status 503"),
        ({"a": {"changed_files": ["/etc/nginx/asgi/live"]}}, "a: /etc/nginx/asgi/live was changed by hand"),
        ({"a": {"certificates": {"shop": 13}}}, "a: the certificate of shop ends in 13 days"),
        ({"a": {"certificates": {"shop": -1}}}, "a: the certificate of shop has ended"),
    ],
)
def test_drift(found: dict[str, t.Any], said: str) -> None:
    assert _fleet.drift(found) == [said]
