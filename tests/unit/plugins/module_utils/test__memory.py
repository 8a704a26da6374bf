# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What applications hold."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.asgi.stack.plugins.module_utils import _memory
from ansible_collections.asgi.stack.plugins.module_utils._memory import Process

MIB = 1024**2
SHOP = "0::/system.slice/system-asgi\\x2dshop.slice/asgi-shop@0012-3f9a2c1b7e.service\n"


def process(proc: Path, pid: int, parent: int, kib: int | None, group: str = SHOP) -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "cgroup").write_text(group)
    (proc / str(pid) / "stat").write_text(f"{pid} (a (strange) name) S {parent} 1 1")
    if kib is not None:
        (proc / str(pid) / "smaps_rollup").write_text(f"Rss: 9 kB\nPss:       {kib} kB\nPss_Dirty: 1 kB\n")


def test_processes_are_those_of_the_releases(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, 2048)
    process(tmp_path, 11, 10, 4096, f"9:memory:/docker/x{SHOP[3:]}1:name=systemd:/docker/x{SHOP[3:]}")
    process(tmp_path, 12, 10, None)  # it has ended
    process(tmp_path, 13, 1, 1024, "0::/system.slice/nginx.service\n")
    process(tmp_path, 14, 1, 1024, "0::/system.slice/asgi-shop.service\n")
    process(tmp_path, 15, 1, 512, SHOP.replace("shop", "blog"))
    (tmp_path / "meminfo").touch()
    assert _memory.processes(tmp_path) == {
        ("shop", "0012-3f9a2c1b7e"): [Process(10, 1, 2 * MIB), Process(11, 10, 4 * MIB)],
        ("blog", "0012-3f9a2c1b7e"): [Process(15, 1, MIB // 2)],
    }
    assert _memory.processes(tmp_path, "blog") == {("blog", "0012-3f9a2c1b7e"): [Process(15, 1, MIB // 2)]}
    assert _memory.processes(tmp_path / "none") == {}


def test_a_release_is_its_main_process_and_its_workers() -> None:
    found = [Process(10, 1, 20), Process(11, 10, 40), Process(12, 10, 50), Process(13, 12, 5)]
    assert _memory.measure(found) == {"base": 20, "per_worker": 50}
    assert _memory.measure(found[:1]) == {"base": 0, "per_worker": 20}
    assert _memory.measure([]) is None


@pytest.mark.parametrize(
    ("release", "per_worker", "kept"),
    [
        ("0001-aa", 100, True),
        ("0001-aa", 119, True),
        ("0001-aa", 130, False),
        ("0001-aa", 10, True),  # a quiet hour
        ("0002-bb", 90, True),
        ("0002-bb", 70, False),
        ("0002-bb", 130, False),
    ],
)
def test_what_differs_is_recorded(tmp_path: Path, release: str, per_worker: int, kept: bool) -> None:
    _memory.record(tmp_path, "0001-aa", {"base": 1, "per_worker": 100})
    _memory.record(tmp_path, release, {"base": 2, "per_worker": per_worker})
    now = {"base": 1, "per_worker": 100, "release": "0001-aa"}
    assert _memory.recorded(tmp_path) == (now if kept else {"base": 2, "per_worker": per_worker, "release": release})


def test_what_is_known_of_the_applications(tmp_path: Path) -> None:
    for name, info in (("shop", {"workers": 4}), ("blog", {"workers": 1}), ("staged", None)):
        live: t.Any = tmp_path / "srv" / name / "live"
        live.mkdir(parents=True)
        if info:
            (live / "release.json").write_text(json.dumps(info))
    _memory.record(tmp_path / "srv/shop", "0001-aa", {"base": 1, "per_worker": 2})
    process(tmp_path / "proc", 10, 1, 2048)
    process(tmp_path / "proc", 11, 1, 1024, "0::/init.scope\n")
    measured = {"base": 1, "per_worker": 2, "release": "0001-aa"}
    assert _memory.applications(tmp_path / "srv", tmp_path / "proc") == (
        {"blog": {"workers": 1, "measured": None}, "shop": {"workers": 4, "measured": measured}},
        2 * MIB,
    )
    assert _memory.applications(tmp_path / "none", tmp_path / "proc")[0] == {}
