# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Worker counts: workloads + what a host has → a number for each, with its reason. A pure function.

CPUs: every application may use all of the host's CPUs, so its count follows from them alone.

Memory: a release needs ``base + workers × memory_per_worker``. One release of every application, and a second one of
the largest (a new release starts beside the old one), must fit into the host's memory less a reserve for the
system. What applications with a fixed count leave is shared equally among the others.
"""

from __future__ import annotations

import math
import re
import typing as t
from dataclasses import dataclass

#: Workers by workload: for each CPU, and on top. More than one a CPU only helps where workers wait.
WORKLOADS: dict[str, tuple[float, int]] = {"io": (2, 0), "mixed": (1, 1), "cpu": (1, 0)}
MIB = 1024**2
#: A FastAPI application with 60 routes under Gunicorn was measured to need 30 MiB and 32 MiB for each worker.
#: Twice as much for each worker leaves room for what applications load and hold.
MEMORY_PER_WORKER = 64 * MIB
MEMORY_BASE = 32 * MIB
#: The system keeps the larger of both, but never more than half of the memory.
RESERVE = 256 * MIB
RESERVE_FRACTION = 0.1

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)", re.IGNORECASE)
_UNITS = {"": 1, "K": 1024, "M": MIB, "G": 1024**3, "T": 1024**4}
_APP_KEYS = ("per_cpu", "min", "max", "memory_per_worker")
_POLICY_KEYS = (*_APP_KEYS, "workload", "memory_base", "memory_reserve")


@dataclass(frozen=True)
class _Request:
    """What one application asks for, with the policy's defaults."""

    name: str
    fixed: int | None
    cpu_count: int
    formula: str
    least: int
    most: int | None
    base: int
    per_worker: int

    def budget(self, workers: int) -> int:
        return self.base + workers * self.per_worker

    def fits(self, share: int) -> int:
        """Return how many workers of one release fit into *share* bytes; 0 if none does."""
        return max(0, (share - self.base) // self.per_worker)


def size(
    workloads: t.Sequence[t.Mapping[str, t.Any]],
    capacity: t.Mapping[str, t.Any],
    policy: t.Mapping[str, t.Any] | None = None,
) -> dict[str, dict[str, t.Any]]:
    """Return the worker count of each workload, by name and in the order of *workloads*.

    :param workloads: mappings with ``name`` and, each optional, ``workers`` (``auto`` or a number), ``workload``
        (``io``, ``mixed`` or ``cpu``), ``sizing`` (``per_cpu``, ``min``, ``max``, ``memory_per_worker``). Those with
        ``state: absent`` are left out of the result; other keys are ignored.
    :param capacity: ``cpus`` (a fraction is fine) and ``memory`` (bytes), see :func:`_capacity.capacity`.
    :param policy: defaults for what a workload leaves open: ``workload``, ``per_cpu`` (for those that name neither a
        workload nor a factor), ``min``, ``max``, ``memory_per_worker``, ``memory_base`` (bytes or text such as
        ``64M``), and ``memory_reserve`` for the host. A value of None is as good as none.
    :returns: for each name ``workers``, ``reason`` (words), ``memory_per_worker`` and ``memory_budget`` (bytes, one
        release), ``auto`` (the count without a fixed number), ``warning`` (words when memory is over-committed, else
        None).
    :raises ValueError: a value is wrong; the message names the application and the key.
    """
    policy = _known("sizing policy: ", policy or {}, _POLICY_KEYS)
    cpus = _decimal("capacity: cpus", capacity.get("cpus"))
    memory = _whole("capacity: memory", capacity.get("memory"), least=1)
    usable = memory - _reserve(memory, policy)
    requests = [_request(app, cpus, policy) for app in workloads if app.get("state") != "absent"]
    names = [request.name for request in requests]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"app '{name}': name: found {names.count(name)} times, expected once")

    fits = {request.name: request.fits(_share(request, requests, usable)) for request in requests}
    auto = {request.name: _auto(request, fits[request.name]) for request in requests}
    counts = {request.name: request.fixed or auto[request.name] for request in requests}
    budgets = [request.budget(counts[request.name]) for request in requests]
    needed = sum(budgets) + max(budgets, default=0)
    return {
        request.name: {
            "workers": counts[request.name],
            "reason": _reason(request, auto[request.name], fits[request.name]),
            "memory_per_worker": request.per_worker,
            "memory_budget": request.budget(counts[request.name]),
            "auto": auto[request.name],
            "warning": _warning(request, counts[request.name], fits[request.name], needed, usable),
        }
        for request in requests
    }


def parse_size(value: t.Any, where: str = "size") -> int:
    """Return a size in bytes, of a number of bytes or of text as systemd writes it: ``64M``, powers of 1024.

    :param where: words for the error: what this is the value of.
    :raises ValueError: anything else, or something between 0 and 1M, which is a unit forgotten.
    """
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match:
        size_ = int(float(match.group(1)) * _UNITS[match.group(2).upper()])
    elif isinstance(value, int) and not isinstance(value, bool):
        size_ = int(value)
    else:
        size_ = -1
    if size_ < 0 or 0 < size_ < MIB:
        raise ValueError(f"{where}: found {value!r}, expected bytes (1M at least) or text such as '64M' or '1.5G'")
    return size_


def format_size(size_: int) -> str:
    """Return *size_* bytes in the words of :func:`parse_size`, rounded."""
    return f"{size_ / _UNITS['G']:.1f}G" if size_ >= _UNITS["G"] else f"{size_ / MIB:.0f}M"


def _request(app: t.Mapping[str, t.Any], cpus: float, policy: t.Mapping[str, t.Any]) -> _Request:
    name = app.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"app: name: found {name!r}, expected text")
    own_sizing = app.get("sizing")
    if own_sizing is not None and not isinstance(own_sizing, t.Mapping):
        raise ValueError(f"app '{name}': sizing: found {own_sizing!r}, expected a mapping")
    own = _known(f"app '{name}': sizing.", own_sizing or {}, _APP_KEYS)

    def setting(key: str, default: t.Any = None) -> tuple[str, t.Any]:
        """Return what the value is called, for errors, and the value."""
        if key in own:
            return f"app '{name}': sizing.{key}", own[key]
        return f"sizing policy: {key}", policy.get(key, default)

    workers = app.get("workers")
    automatic = workers is None or workers == "auto"
    fixed = None if automatic else _whole(f"app '{name}': workers", workers, least=1, other="auto")
    count, formula = _from_cpus(name, app.get("workload"), own.get("per_cpu"), cpus, policy)
    least_from, least_value = setting("min", 1)
    least = _whole(least_from, least_value, least=1)
    most_from, most = setting("max")
    if most is not None:
        most = _whole(most_from, most, least=1)
        if most < least:
            raise ValueError(f"{most_from}: found {most}, expected no less than {least} ({least_from})")
    per_worker_from, per_worker_value = setting("memory_per_worker", MEMORY_PER_WORKER)
    per_worker = parse_size(per_worker_value, per_worker_from)
    if not per_worker:
        raise ValueError(f"{per_worker_from}: found 0, expected at least 1M")
    base = parse_size(policy.get("memory_base", MEMORY_BASE), "sizing policy: memory_base")
    return _Request(name, fixed, count, formula, least, most, base, per_worker)


def _from_cpus(
    name: str, workload: t.Any, per_cpu: t.Any, cpus: float, policy: t.Mapping[str, t.Any]
) -> tuple[int, str]:
    """Return how many workers the CPUs ask for, at least 1, and the formula in words.

    What is nearest decides: the application's factor, its workload, the policy's factor, the policy's workload.
    """
    where = f"app '{name}': sizing.per_cpu"
    if workload is None:
        if per_cpu is None:
            where, per_cpu = "sizing policy: per_cpu", policy.get("per_cpu")
        workload = policy.get("workload", "io")
    if not isinstance(workload, str) or workload not in WORKLOADS:
        raise ValueError(f"app '{name}': workload: found {workload!r}, expected one of {', '.join(WORKLOADS)}")
    factor, extra = WORKLOADS[workload]
    if per_cpu is not None:
        factor, extra, workload = _decimal(where, per_cpu), 0, "per_cpu"
    # Decimal fractions are not exact: 0.1 × 30 is a little less than 3.
    count = max(1, math.floor(cpus * factor + 1e-6) + extra)
    plus = f" + {extra}" if extra else ""
    return count, f"{cpus:g} {'CPU' if cpus == 1 else 'CPUs'} x {factor:g}{plus} ({workload})"


def _share(request: _Request, requests: t.Sequence[_Request], usable: int) -> int:
    """Return the bytes that one release of *request* may take, were its count automatic.

    With F and M the sum and the largest of the other applications' fixed budgets, and n applications that share, the
    share s is the largest for which F + n·s + max(M, s) is no more than *usable*.
    """
    others = [other for other in requests if other.name != request.name]
    fixed = [other.budget(other.fixed) for other in others if other.fixed]
    sharing = len(others) - len(fixed) + 1
    left = usable - sum(fixed)
    return min(left // (sharing + 1), (left - max(fixed, default=0)) // sharing)


def _auto(request: _Request, fits: int) -> int:
    count = min(request.cpu_count, fits)
    if request.most is not None:
        count = min(count, request.most)
    return max(count, request.least)


def _reason(request: _Request, auto: int, fits: int) -> str:
    if request.fixed:
        return f"{_workers(request.fixed)}: set; auto would choose {auto}"
    wanted = min(request.cpu_count, request.most or request.cpu_count)
    if auto > min(wanted, fits):
        return f"{_workers(auto)}: the least; memory allows {fits}, {request.formula} gives {request.cpu_count}"
    if fits < wanted:
        return f"{_workers(auto)}: memory allows {fits} of {wanted}; {request.formula}"
    if wanted < request.cpu_count:
        return f"{_workers(auto)}: the most allowed; {request.formula} gives {request.cpu_count}"
    return f"{_workers(auto)}: {request.formula}; memory would allow {fits}"


def _warning(request: _Request, workers: int, fits: int, needed: int, usable: int) -> str | None:
    if needed <= usable or workers <= fits:
        return None
    return (
        f"a release of {request.name} with {_workers(workers)} may take {format_size(request.budget(workers))}, memory "
        f"allows {fits}: one release of each application and a second one of the largest may take "
        f"{format_size(needed)}, and there is {format_size(usable)}"
    )


def _workers(count: int) -> str:
    return f"{count} {'worker' if count == 1 else 'workers'}"


def _reserve(memory: int, policy: t.Mapping[str, t.Any]) -> int:
    """Return the bytes kept for the system."""
    if "memory_reserve" in policy:
        reserve = parse_size(policy["memory_reserve"], "sizing policy: memory_reserve")
    else:
        reserve = max(RESERVE, int(memory * RESERVE_FRACTION))
    return min(reserve, memory // 2)


def _known(where: str, values: t.Mapping[str, t.Any], keys: t.Sequence[str]) -> dict[str, t.Any]:
    """Return *values* without those that are None."""
    for key in values:
        if key not in keys:
            raise ValueError(f"{where}{key}: unknown key, expected one of {', '.join(keys)}")
    return {key: value for key, value in values.items() if value is not None}


def _whole(where: str, value: t.Any, least: int, other: str = "") -> int:
    """Return a whole number; text of digits is one too, as variables from a command line are text."""
    digits = isinstance(value, str) and value.isascii() and value.isdigit()
    if (digits or isinstance(value, int)) and not isinstance(value, bool) and int(value) >= least:
        return int(value)
    expected = f"{other} or a whole number" if other else "a whole number"
    raise ValueError(f"{where}: found {value!r}, expected {expected} from {least} up")


def _decimal(where: str, value: t.Any) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else 0.0
    except ValueError:
        number = 0.0
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{where}: found {value!r}, expected a number above 0")
    return number
