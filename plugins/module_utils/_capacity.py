# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host may really use: CPUs and memory as affinity, cgroups and the hardware leave them. Linux, read-only.

What counts is the place where systemd starts services, not the session that asks: a session has a cgroup of its own
(``user.slice``, or that of a login into a container) whose limits say nothing about services. So the limits are read
along one chain, for each cgroup controller: from the top of the hierarchy as far as it is mounted, down to the cgroup
that process 1 manages (its own without ``init.scope``), and into ``system.slice`` below that, if it exists. Services
inherit their affinity from process 1, too.

Files: cgroups(7), proc(5), Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel. A file that is
missing or unreadable sets no limit.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass
from pathlib import Path

#: Below the cgroup of process 1: where systemd puts services that name no other slice.
SERVICES = "system.slice"
#: cgroup v1 writes 'no limit' as a huge number: 2**63 rounded down to a page of any size.
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class Limit:
    """A figure and the words for where it came from."""

    value: float
    source: str


@dataclass(frozen=True)
class Group:
    """One cgroup directory: of a controller, in version 1 or 2 of the interface."""

    path: Path
    name: str
    version: int


@dataclass(frozen=True)
class _Mount:
    version: int
    controllers: frozenset[str]
    root: str
    point: str


def capacity(affinity: t.AbstractSet[int], root: Path = Path("/")) -> dict[str, t.Any]:
    """Return what services on this host may use.

    :param affinity: numbers of the CPUs that process 1 may run on, see sched_getaffinity(2).
    :param root: the directory that holds ``proc`` and the cgroup mounts.
    :returns: ``cpus`` (float, min of the set and the quota), ``cpus_from`` (words), ``cpus_total``, ``cpus_affinity``
        and ``cpus_cpuset`` (whole CPUs), ``cpus_quota`` (float), ``memory`` (bytes, min of limit and total),
        ``memory_from`` (words), ``memory_total``, ``memory_limit``, ``memory_available`` (bytes; what is free now,
        within the limits, the page cache that can be dropped counted as free). A limit that is not set is None.
    :raises ValueError: ``proc/meminfo`` does not say how much memory there is, or *affinity* is empty.
    """
    if not affinity:
        raise ValueError("affinity: found no CPU, expected at least one")
    meminfo = _meminfo(root)
    total = meminfo.get("MemTotal", 0)
    if total <= 0:
        raise ValueError(f"{root / 'proc/meminfo'}: found no MemTotal, expected the host's memory in kB")

    online = parse_cpus(_read(root / "sys/devices/system/cpu/online"))
    usable, cpuset = _cpuset(chain("cpuset", root), affinity)
    quota = _least(_quota(group) for group in chain("cpu", root))
    cpus = _cpus(len(usable), len(online), len(affinity), cpuset)
    if quota is not None and quota.value < cpus.value:
        cpus = quota

    groups = chain("memory", root)
    limit = _least(found for group in groups for found in _memory_limits(group))
    memory = Limit(total, "MemTotal of the host")
    if limit is not None and limit.value < memory.value:
        memory = limit
    free = [meminfo.get("MemAvailable", meminfo.get("MemFree", 0))]
    free += [room for room in map(_memory_room, groups) if room is not None]
    return {
        "cpus": round(float(cpus.value), 3),
        "cpus_from": cpus.source,
        "cpus_total": len(online) or None,
        "cpus_affinity": len(affinity),
        "cpus_cpuset": None if cpuset is None else int(cpuset.value),
        "cpus_quota": None if quota is None else round(quota.value, 3),
        "memory": int(memory.value),
        "memory_from": memory.source,
        "memory_total": total,
        "memory_limit": None if limit is None else int(limit.value),
        "memory_available": max(0, min(free)),
    }


def chain(controller: str, root: Path = Path("/")) -> list[Group]:
    """Return the cgroups of *controller* whose limits hold for services, from the top down; existing ones only.

    :param controller: ``cpu``, ``cpuset`` or ``memory``.
    """
    paths = _cgroup_paths(root)
    version = 1 if controller in paths else 2
    path = paths.get(controller if version == 1 else "", "/")
    mounts = [
        mount
        for mount in _mounts(root)
        if mount.version == version and (version == 2 or controller in mount.controllers)
    ]
    if not mounts:
        return []
    # The mount that shows the most ancestors. In a container without a cgroup namespace of its own the path is the
    # host's, while the mount begins at the container: only what comes after the mount's root is below its directory.
    within = [(mount, below) for mount in mounts if (below := _below(path, mount.root)) is not None]
    mount, below = min(within, key=lambda pair: len(pair[0].root)) if within else (mounts[0], [])
    if below and below[-1] == "init.scope":
        below = below[:-1]
    groups = []
    directory, name = root / mount.point.lstrip("/"), ""
    for part in ["", *below, SERVICES]:
        directory, name = directory / part, f"{name}/{part}" if part else name
        if not directory.is_dir():
            break
        groups.append(Group(directory, name or "/", version))
    return groups


def parse_cpus(text: str) -> frozenset[int]:
    """Return the CPU numbers of a list such as ``0-2,5``; empty for an empty text.

    :raises ValueError: the text is no such list.
    """
    found: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _dash, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _cpuset(groups: t.Sequence[Group], affinity: t.AbstractSet[int]) -> tuple[t.AbstractSet[int], Limit | None]:
    """Return affinity ∩ cpusets, and the smallest cpuset's size with its name."""
    usable = frozenset(affinity)
    smallest: Limit | None = None
    for group in groups:
        # 'effective' is what the ancestors leave of what is asked for.
        files = ("cpuset.cpus.effective",) if group.version == 2 else ("cpuset.effective_cpus", "cpuset.cpus")
        for file in files:
            try:
                cpus = parse_cpus(_read(group.path / file))
            except ValueError:
                continue
            if cpus:
                usable = usable & cpus or usable
                if smallest is None or len(cpus) < smallest.value:
                    smallest = Limit(len(cpus), f"{file} of {group.name}")
                break
    return usable, smallest


def _cpus(usable: int, online: int, affinity: int, cpuset: Limit | None) -> Limit:
    """Return the number of usable CPUs with what decided it."""
    if usable >= online > 0:
        return Limit(usable, "all CPUs of the host")
    # The kernel takes the cpuset of process 1 off its affinity, so both are often the same.
    if cpuset is not None and cpuset.value == usable:
        return Limit(usable, cpuset.source)
    source = "affinity of process 1"
    return Limit(usable, source if cpuset is None or usable == affinity else f"{source} and {cpuset.source}")


def _quota(group: Group) -> Limit | None:
    """Return the CPU time a group may use for each second, in CPUs."""
    file, words = "cpu.max", _read(group.path / "cpu.max").split()
    if group.version == 1:
        file = "cpu.cfs_quota_us"
        words = [_read(group.path / name).strip() for name in (file, "cpu.cfs_period_us")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # no such file, or 'max 100000'
        return None
    return Limit(quota / period, f"{file} of {group.name}") if quota > 0 and period > 0 else None


def _memory_limits(group: Group) -> t.Iterator[Limit]:
    """Yield a group's memory limits in bytes; from memory.high on a group is slowed down, so that is a limit too."""
    found: dict[str, str] = {}
    if group.version == 2:
        found = {name: _read(group.path / name) for name in ("memory.max", "memory.high")}
    else:
        name = "memory.limit_in_bytes"
        found = {name: _read(group.path / name)}
        # Counts ancestors that are outside of what is mounted.
        found["hierarchical_memory_limit"] = _stat(group).get("hierarchical_memory_limit", "")
    for name, text in found.items():
        value = _number(text)
        if value is not None and 0 < value < _UNLIMITED:
            yield Limit(value, f"{name} of {group.name}")


def _memory_room(group: Group) -> int | None:
    """Return how many bytes a group with a limit may still take, or None without a limit."""
    limit = _least(_memory_limits(group))
    used = _number(_read(group.path / ("memory.current" if group.version == 2 else "memory.usage_in_bytes")))
    if limit is None or used is None:
        return None
    cache = _number(_stat(group).get("inactive_file" if group.version == 2 else "total_inactive_file", "0")) or 0
    return int(limit.value) - max(0, used - cache)


def _stat(group: Group) -> dict[str, str]:
    lines = map(str.split, _read(group.path / "memory.stat").splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2}


def _cgroup_paths(root: Path) -> dict[str, str]:
    """Return the cgroup of process 1 for each version 1 controller, and under '' for version 2.

    Without a readable ``/proc/1`` the mounts' own tops are used, never the session's cgroup.
    """
    paths: dict[str, str] = {}
    for line in _read(root / "proc/1/cgroup").splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            paths.update(dict.fromkeys(fields[1].split(","), fields[2]))
    if not paths:
        paths = {name: "/" for mount in _mounts(root) if mount.version == 1 for name in mount.controllers}
    return paths


def _mounts(root: Path) -> list[_Mount]:
    """Return the cgroup mounts. Fields of a line: proc(5), /proc/pid/mountinfo."""
    mounts = []
    for line in _read(root / "proc/self/mountinfo").splitlines():
        left, _separator, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if len(before) < 5 or len(after) < 3 or after[0] not in ("cgroup", "cgroup2"):
            continue
        mounts.append(
            _Mount(
                version=1 if after[0] == "cgroup" else 2,
                controllers=frozenset(after[2].split(",")),
                root=_unescape(before[3]),
                point=_unescape(before[4]),
            )
        )
    return mounts


def _below(path: str, root: str) -> list[str] | None:
    """Return the parts of *path* after *root*, or None if *path* is somewhere else."""
    parts = [part for part in path.split("/") if part]
    top = [part for part in root.split("/") if part]
    return parts[len(top) :] if parts[: len(top)] == top else None


def _unescape(text: str) -> str:
    r"""Undo the kernel's octal escapes (``\040`` is a space)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def _meminfo(root: Path) -> dict[str, int]:
    """Return the lines of /proc/meminfo that are in kB, as bytes."""
    pattern = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)
    return {name: int(size) * 1024 for name, size in pattern.findall(_read(root / "proc/meminfo"))}


def _least(limits: t.Iterable[Limit | None]) -> Limit | None:
    """Return the smallest limit; of equal ones the first, which is the highest in the hierarchy."""
    return min((limit for limit in limits if limit is not None), key=lambda limit: limit.value, default=None)


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
