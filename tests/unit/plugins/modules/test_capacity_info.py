# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module capacity_info: whose affinity it takes."""

from __future__ import annotations

import os

import pytest

from ansible_collections.asgi.stack.plugins.modules import capacity_info


def test_affinity_is_that_of_process_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", {0: {0}, 1: {0, 1}}.__getitem__, raising=False)
    assert capacity_info.affinity() == {0, 1}


def test_affinity_is_one_s_own_where_process_1_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaffinity(pid: int) -> set[int]:
        if pid:
            raise PermissionError
        return {0}

    monkeypatch.setattr(os, "sched_getaffinity", getaffinity, raising=False)
    assert capacity_info.affinity() == {0}
