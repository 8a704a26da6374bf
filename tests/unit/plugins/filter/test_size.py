# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter size: what reaches a user."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.asgi.stack.plugins.filter.size import FilterModule

HOST = {"cpus": 2, "memory": 4 * 1024**3}
size = FilterModule().filters()["size"]


def test_workers_by_name() -> None:
    found = size([{"name": "shop"}, {"name": "blog"}], HOST, {"workload": "cpu"})
    assert {name: app["workers"] for name, app in found.items()} == {"shop": 1, "blog": 1}


@pytest.mark.parametrize(
    ("apps", "capacity", "words"),
    [
        ([{"name": "shop", "workers": -1}], HOST, "app 'shop': workers: found -1"),
        ({"shop": {}}, HOST, "expected a list of applications"),
        (["shop"], HOST, "expected a list of applications"),
        ([{"name": "shop"}], None, "capacity: expected the mapping"),
        ([{"name": "shop"}], {}, "capacity: cpus"),
    ],
)
def test_errors_are_filter_errors(apps: t.Any, capacity: t.Any, words: str) -> None:
    with pytest.raises(AnsibleFilterError, match=words):
        size(apps, capacity)
