# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose word is taken for who a client is: a list that is not right is refused."""

from __future__ import annotations

import datetime
import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.asgi.stack.plugins.module_utils import _cdn

LISTS = Path(__file__).parents[4] / "roles/site/files/cdn"
FASTLY: dict[str, t.Any] = {"addresses": ["23.235.32.0/20", "43.249.72.0/22"], "ipv6_addresses": ["2a04:4e40::/32"]}
AWS: dict[str, t.Any] = {
    "createDate": "2026-08-22-15-17-05",
    "prefixes": [
        {"ip_prefix": "15.158.0.0/16", "service": "CLOUDFRONT_ORIGIN_FACING"},
        {"ip_prefix": "120.52.22.96/27", "service": "CLOUDFRONT"},
        {"ip_prefix": "3.0.0.0/15", "service": "EC2"},
    ],
    "ipv6_prefixes": [{"ipv6_prefix": "2600:9000:1000::/36", "service": "CLOUDFRONT_ORIGIN_FACING"}],
}


@pytest.mark.parametrize("network", sorted(_cdn.SOURCES))
def test_what_the_collection_brings(network: str) -> None:
    text = (LISTS / f"{network}.json").read_text(encoding="utf-8")
    held = json.loads(text)
    assert _cdn.check(network, held["ranges"]) == held["ranges"]
    assert datetime.date.fromisoformat(held["date"]) > datetime.date(2026, 7, 1)
    assert text == _cdn.document(network, held["ranges"], held["date"])


def test_what_each_publishes() -> None:
    ranges = ["23.235.32.0/20", "43.249.72.0/22", "2a04:4e40::/32"]
    assert _cdn.parse("fastly", [json.dumps(FASTLY)]) == (ranges, None)
    assert _cdn.parse("cloudflare", ["173.245.48.0/20\n103.21.244.0/22\n", "2400:cb00::/32"]) == (
        ["103.21.244.0/22", "173.245.48.0/20", "2400:cb00::/32"],
        None,
    )
    assert _cdn.parse("cloudfront", [json.dumps(AWS)]) == (["15.158.0.0/16", "2600:9000:1000::/36"], "2026-08-22")


@pytest.mark.parametrize(
    ("network", "texts"),
    [
        ("fastly", ["<html>blocked</html>"]),
        ("fastly", ["[]"]),
        ("fastly", ["{}"]),
        ("fastly", [json.dumps({**FASTLY, "addresses": []})]),
        ("fastly", [json.dumps({**FASTLY, "addresses": None})]),
        ("fastly", [json.dumps({**FASTLY, "ipv6_addresses": []})]),
        ("cloudflare", ["", ""]),
        ("cloudflare", ["<!DOCTYPE html>\n<p>Just a moment", "2400:cb00::/32"]),
        ("cloudfront", [json.dumps({**AWS, "prefixes": [{"ip_prefix": "3.0.0.0/15", "service": "EC2"}]})]),
        ("cloudfront", [json.dumps({**AWS, "prefixes": [{}]})]),
        ("cloudfront", [json.dumps({**AWS, "createDate": "today; evil"})]),
    ],
)
def test_a_list_in_another_form_is_refused(network: str, texts: list[str]) -> None:
    with pytest.raises(_cdn.Doubtful, match=network):
        _cdn.parse(network, texts)


@pytest.mark.parametrize(
    "entry",
    ["0.0.0.0/0", "::/0", "64.0.0.0/7", "2000::/3", "2600::/12", "10.0.0.0/8", "127.0.0.1", "fd00::/32", "fe80::/64"]
    + ["224.0.1.0/24", "1.2.3.4/24", "1.2.3.0/33", "evil", "1.2.3.0/24; evil", "", None, 5, ["1.2.3.0/24"]],
)
def test_a_range_that_nobody_should_be_believed_for_is_refused(entry: t.Any) -> None:
    with pytest.raises(_cdn.Doubtful):
        _cdn.check("fastly", [entry, "23.235.32.0/20", "2a04:4e40::/32"])


def test_ranges_are_sorted_and_said_once() -> None:
    given = ["103.21.244.0/22", "23.235.32.0/24", "23.235.32.0/20", "2a04:4e40::/32", "103.21.244.0/22"]
    assert _cdn.check("fastly", given) == ["23.235.32.0/20", "103.21.244.0/22", "2a04:4e40::/32"]


def test_a_list_that_is_another_one_is_refused() -> None:
    before = [f"103.21.{third}.0/24" for third in range(10)]
    _cdn.compare("fastly", before, [*before[3:], "103.22.0.0/24", "103.22.1.0/24", "103.22.2.0/24"])
    _cdn.compare("fastly", [], before)
    with pytest.raises(_cdn.Doubtful, match="4 are gone and 0 are new"):
        _cdn.compare("fastly", before, before[4:])
    with pytest.raises(_cdn.Doubtful, match="0 are gone and 4 are new"):
        _cdn.compare("fastly", before, [*before, *(f"103.22.{third}.0/24" for third in range(4))])
