# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What applications hold: their processes' proportional set sizes, in which memory that is shared counts once.

Files: proc(5), ``cgroup``, ``stat`` and ``smaps_rollup`` of each process.
"""

from __future__ import annotations

import contextlib
import json
import re
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.asgi.stack.plugins.module_utils import _system

_UNIT = re.compile(r"/asgi-([a-z][a-z0-9-]*)@(\d+-[0-9a-f]+)\.service$", re.MULTILINE)
#: What is on record stays while what is measured is no more than this times it, or it times this.
BAND = 1.2


@dataclass(frozen=True)
class Process:
    """A process of a release, and its proportional set size in bytes."""

    pid: int
    parent: int
    size: int


def processes(proc: Path = Path("/proc"), name: str = "") -> dict[tuple[str, str], list[Process]]:
    """Return the processes of each release that runs, by application and release; of one application by its *name*."""
    found: dict[tuple[str, str], list[Process]] = {}
    for path in sorted(proc.iterdir()) if proc.is_dir() else ():
        unit = _UNIT.search(_system.read(path / "cgroup") or "") if path.name.isdigit() else None
        if unit is None or name not in ("", unit[1]):
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):  # it ended meanwhile
            parent = int((path / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            size = re.search(r"^Pss:\s+(\d+) kB", (path / "smaps_rollup").read_text(), re.MULTILINE)
            if size:
                found.setdefault((unit[1], unit[2]), []).append(Process(int(path.name), parent, int(size[1]) * 1024))
    return found


def measure(found: t.Sequence[Process]) -> dict[str, int] | None:
    """Return ``{base, per_worker}`` in bytes for a release: what its main process holds, and its largest worker.

    A main process without others is the worker. None where there is no process.
    """
    pids = {process.pid for process in found}
    main = [process for process in found if process.parent not in pids]
    workers = [process for process in found if process.parent in pids]
    if not main:
        return None
    base = sum(process.size for process in main)
    if not workers:
        return {"base": 0, "per_worker": base}
    return {"base": base, "per_worker": max(process.size for process in workers)}


def recorded(root: Path) -> dict[str, t.Any] | None:
    """Return what :func:`record` wrote for the application below *root*."""
    text = _system.read(root / "memory.json")
    if not text:
        return None
    known: dict[str, t.Any] = json.loads(text)
    return known


def record(root: Path, release: str, measured: t.Mapping[str, int]) -> None:
    """Write down what a release was measured to hold, where it differs from what is on record.

    Of one release the most counts, so that a quiet hour is not taken for its need.
    """
    known = recorded(root)
    if known:
        ratio = measured["per_worker"] / max(1, known["per_worker"])
        if ratio <= BAND and (ratio >= 1 / BAND or known["release"] == release):
            return
    _system.write(root / "memory.json", json.dumps({**measured, "release": release}) + "\n")


def applications(parent: Path, proc: Path = Path("/proc")) -> tuple[dict[str, dict[str, t.Any]], int]:
    """Return what is known of each application below *parent*, by name, and the bytes that all of them hold now.

    :returns: for each name ``workers`` (of what is live, None without) and ``measured`` (as recorded, None without).
    """
    found: dict[str, dict[str, t.Any]] = {}
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        text = _system.read(path / "live/release.json")
        if text:
            found[path.name] = {"workers": json.loads(text).get("workers"), "measured": recorded(path)}
    return found, sum(process.size for each in processes(proc).values() for process in each)
