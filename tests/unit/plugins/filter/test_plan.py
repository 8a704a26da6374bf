# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters that the plan is made with: what reaches a user."""

from __future__ import annotations

import base64
import json
import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.asgi.stack.plugins.filter.plan import FilterModule
from ansible_collections.asgi.stack.plugins.module_utils import _release, _sizing

FILTERS = FilterModule().filters()
plan = FILTERS["plan"]
sealed_secrets = FILTERS["sealed_secrets"]
ROOM = {"requirements": [], "options": {}, "argv": ["{application}"], "type": "notify"}
SHOP: dict[str, t.Any] = {"name": "shop", "app": "main:app", "source": {"path": "."}}


def run(*apps: t.Any) -> t.Any:
    sized = {"shop": _sizing.size([{"name": "shop", "workers": 2}], {"cpus": 2, "memory": 2**32})["shop"]}
    return plan(list(apps), "Web1.example", sized, {"shop": {"digest": "d"}}, {"gunicorn": ROOM})


def test_a_plan_for_people() -> None:
    planned = run(SHOP | {"source": {"path": "."}}, {"name": "old", "state": "absent"})
    planned[0]["source"]["revision"] = "shop dddd"
    capacity = {"cpus": 1.5, "cpus_from": "a quota", "memory": 2**29, "memory_from": "a limit", "memory_others": 2**27}
    sized = _sizing.size([{"name": "shop"}], {**capacity, "memory": 2**28})
    assert FILTERS["plan_table"]({"web1": [capacity, planned, sized]}) == [
        "web1: 1.5 CPUs (a quota), 512M of memory (a limit), of which 128M are held by others",
        f"  shop: gunicorn, shop dddd, release {planned[0]['id']}",
        "    1 worker: the least; memory allows 0, 1.5 CPUs x 2 (io) gives 3",
        "    a release takes 96M, and may take 96M",
        f"    warning: {sized['shop']['warning']}",
        "  old: absent",
    ]


def test_a_plan() -> None:
    found = run(SHOP, {"name": "old", "state": "absent"})
    assert [(app["name"], app["state"]) for app in found] == [("shop", "present"), ("old", "absent")]
    assert found[0]["domains"] == ["web1.example"]
    assert found[0]["root"] == "/srv/asgi/shop"


def test_all_mistakes_are_one_error() -> None:
    with pytest.raises(AnsibleFilterError) as error:
        run({**SHOP, "workers": 0, "app": "main"})
    assert "asgi_apps[0] (shop): workers: found 0" in str(error.value)
    assert "asgi_apps[0] (shop): app: found 'main'" in str(error.value)


@given(st.dictionaries(st.from_regex(r"\A[A-Z_]{1,5}\Z"), st.text() | st.integers(), max_size=4))
def test_secrets_arrive_as_they_were_declared(secrets: dict[str, t.Any]) -> None:
    sealed = sealed_secrets([{"name": "blog", "secrets": {"X": "other"}}, {**SHOP, "secrets": secrets}], "shop")
    assert _release.unseal(sealed) == {name: str(value) for name, value in secrets.items()}


def test_sealed_secrets_do_not_show_themselves() -> None:
    sealed = sealed_secrets([{**SHOP, "secrets": {"TOKEN": "hunter2"}}], "shop")
    assert "hunter2" not in sealed
    assert json.loads(base64.b64decode(sealed)) == {"TOKEN": "hunter2"}


@pytest.mark.parametrize("app", [SHOP, {**SHOP, "secrets": None}, {**SHOP, "secrets": {}}])
def test_no_secrets(app: dict[str, t.Any]) -> None:
    assert _release.unseal(sealed_secrets([app], "shop")) == {}


def test_secrets_of_nobody() -> None:
    with pytest.raises(AnsibleFilterError, match="no application has the name blog"):
        sealed_secrets([SHOP], "blog")


def test_certificates_that_applications_need() -> None:
    planned = run(SHOP | {"tls": {"mode": "provided", "certificate": "a.pem", "key": "a.key"}})
    assert FILTERS["certificates"](planned) == [
        {
            "name": "shop",
            "domains": ["web1.example"],
            "mode": "provided",
            "certificate": "a.pem",
            "key": "a.key",
            "on_host": False,
        }
    ]
    assert FILTERS["certificates"](run(SHOP | {"tls": {"mode": "none"}})) == []


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (None, "-"),
        ({"mode": "acme", "not_after": "2027-02-20T18:17:39Z", "problem": None}, "acme, until 2027-02-20"),
        (
            {"mode": "provided", "not_after": "2027-02-20T18:17:39Z", "problem": "it ends in 3 days"},
            "provided, until 2027-02-20: it ends in 3 days",
        ),
    ],
)
def test_a_certificate_that_needs_somebody_is_seen(certificate: dict[str, t.Any] | None, words: str) -> None:
    _header, row = FILTERS["status_table"]({"web1": [{"name": "shop", "certificate": certificate}]})
    assert row.endswith(f"  {words}")
