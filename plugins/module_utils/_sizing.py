# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Worker counts: workloads + what a host has → a number for each, with its reason. A pure function.

CPUs: applications with a fixed count use what their workload needs for it; the others divide the rest by their shares.

Memory: a release needs ``base + workers × memory_per_worker``, measured where it has been. One release of every
application, and a second one of the largest (a new release starts beside the old one), must fit into what the host has
less a reserve and what everything else holds. What applications with a fixed count leave is divided by the shares of
the others.

Hysteresis: a count that runs and still fits stays, unless there is room to spare for a larger one.
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
#: Measured memory is what workers held once; they may come to hold so much more.
HEADROOM = 1.25
#: Beside what everything else on the host holds: the larger of both, but never more than half of the memory.
RESERVE = 128 * MIB
RESERVE_FRACTION = 0.05
#: A count only grows when it would also do so with so much less memory.
BAND = 0.1
#: Up to so much of its memory an application takes without being slowed down.
MEMORY_HIGH = 0.9

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)", re.IGNORECASE)
_UNITS = {"": 1, "K": 1024, "M": MIB, "G": 1024**3, "T": 1024**4}
_APP_KEYS = ("per_cpu", "min", "max", "memory_per_worker", "share")
_POLICY_KEYS = ("per_cpu", "min", "max", "memory_per_worker", "workload", "memory_base", "memory_reserve")


@dataclass(frozen=True)
class _Request:
    """What one application asks for, with the policy's defaults."""

    name: str
    fixed: int | None
    factor: float
    extra: int
    workload: str
    share: float
    least: int
    most: int | None
    base: int
    per_worker: int
    measured: bool

    def budget(self, workers: int) -> int:
        return self.base + workers * self.per_worker

    def fits(self, room: float) -> int:
        """Return how many workers of one release fit into *room* bytes; 0 if none does."""
        return max(0, int((room - self.base) // self.per_worker))

    def by_cpus(self, cpus: float) -> int:
        """Return how many workers so many CPUs ask for, at least 1."""
        # Decimal fractions are not exact: 0.1 × 30 is a little less than 3.
        return max(1, math.floor(cpus * self.factor + 1e-6) + self.extra)

    def cpus_for(self, workers: int) -> float:
        """Return how many CPUs so many workers use."""
        return max(0, workers - self.extra) / self.factor

    def formula(self, cpus: float) -> str:
        plus = f" + {self.extra}" if self.extra else ""
        shown = f"{cpus:.3g}"
        return f"{shown} {'CPU' if shown == '1' else 'CPUs'} x {self.factor:g}{plus} ({self.workload})"


def size(
    workloads: t.Sequence[t.Mapping[str, t.Any]],
    capacity: t.Mapping[str, t.Any],
    policy: t.Mapping[str, t.Any] | None = None,
) -> dict[str, dict[str, t.Any]]:
    """Return the worker count of each workload, by name and in the order of *workloads*.

    :param workloads: mappings with ``name`` and, each optional, ``workers`` (``auto`` or a number), ``workload``
        (``io``, ``mixed`` or ``cpu``), ``sizing`` (``per_cpu``, ``min``, ``max``, ``memory_per_worker``, ``share``).
        Those with ``state: absent`` are left out of the result; other keys are ignored.
    :param capacity: ``cpus`` (a fraction is fine) and ``memory`` (bytes), see :func:`_capacity.capacity`; optional are
        ``memory_others`` (bytes that all but the applications hold now) and ``applications``: by name ``workers`` (of
        what is live) and ``measured`` (``base`` and ``per_worker``, bytes).
    :param policy: defaults for what a workload leaves open: ``workload``, ``per_cpu`` (for those that name neither a
        workload nor a factor), ``min``, ``max``, ``memory_per_worker``, ``memory_base`` (bytes or text such as
        ``64M``), and ``memory_reserve`` for the host. A value of None is as good as none.
    :returns: for each name ``workers``, ``reason`` (words), ``memory_per_worker`` and ``memory_budget`` (bytes, one
        release), ``memory_measured`` (whether these are), ``memory_high`` and ``memory_max`` (bytes: what one release
        may take), ``cpu_weight``, ``auto`` (the count without a fixed number), ``side_by_side`` (whether a new release
        fits beside the old one), ``warning`` (words when something does not fit, else None).
    :raises ValueError: a value is wrong, or the fixed numbers need more memory than there is; the message names the
        application and the key.
    """
    policy = _known("sizing policy: ", policy or {}, _POLICY_KEYS)
    cpus = _decimal("capacity: cpus", capacity.get("cpus"))
    memory = _whole("capacity: memory", capacity.get("memory"), least=1)
    others = _whole("capacity: memory_others", capacity.get("memory_others") or 0, least=0)
    known = capacity.get("applications") or {}
    requests = [
        _request(app, policy, (known.get(app.get("name")) or {}).get("measured"))
        for app in workloads
        if app.get("state") != "absent"
    ]
    names = [request.name for request in requests]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"app '{name}': name: found {names.count(name)} times, expected once")
    # What is there apart from what comes and goes: bounds follow from it, which must not change from run to run.
    room = memory - _reserve(memory, policy)
    usable = max(0, room - others)
    _check_fixed(requests, room)

    found = {}
    for request in requests:
        share = _cpu_share(request, requests, cpus)
        auto, fits = _auto(request, requests, share, usable)
        running = (known.get(request.name) or {}).get("workers")
        kept = False
        if not request.fixed and isinstance(running, int) and running < auto:
            kept = running >= _auto(request, requests, share, int(usable * (1 - BAND)))[0]
            auto = running if kept else auto
        found[request.name] = _Found(auto, fits, share, kept)
    counts = {request.name: request.fixed or found[request.name].auto for request in requests}
    needed = sum(request.budget(counts[request.name]) for request in requests)
    return {
        request.name: _result(request, found[request.name], counts[request.name], needed, usable, room)
        for request in requests
    }


@dataclass(frozen=True)
class _Found:
    """What was found for one application: its automatic count, how many fit, its CPUs, whether what runs is kept."""

    auto: int
    fits: int
    cpus: float
    kept: bool


def _result(
    request: _Request,
    found: _Found,
    workers: int,
    needed: int,
    usable: int,
    room: int,
) -> dict[str, t.Any]:
    budget = request.budget(workers)
    # Two releases of it fit. Not by its share: another application on the host would make all of them other releases.
    most = max(budget, room // 2 // MIB * MIB)
    side_by_side = needed + budget <= usable
    return {
        "workers": workers,
        "reason": _reason(request, found),
        "memory_per_worker": request.per_worker,
        "memory_measured": request.measured,
        "memory_budget": budget,
        "memory_high": int(most * MEMORY_HIGH) // MIB * MIB,
        "memory_max": most,
        "cpu_weight": min(10_000, max(1, round(100 * request.share))),
        "auto": found.auto,
        "side_by_side": side_by_side,
        "warning": None if side_by_side else _warning(request, workers, found.fits, needed, usable),
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


def _request(app: t.Mapping[str, t.Any], policy: t.Mapping[str, t.Any], measured: t.Any) -> _Request:
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
    factor, extra, workload = _factor(name, app.get("workload"), own.get("per_cpu"), policy)
    least_from, least_value = setting("min", 1)
    least = _whole(least_from, least_value, least=1)
    most_from, most = setting("max")
    if most is not None:
        most = _whole(most_from, most, least=1)
        if most < least:
            raise ValueError(f"{most_from}: found {most}, expected no less than {least} ({least_from})")
    share = _decimal(f"app '{name}': sizing.share", own.get("share", 1))
    per_worker_from, per_worker_value = setting("memory_per_worker", MEMORY_PER_WORKER)
    per_worker = parse_size(per_worker_value, per_worker_from)
    if not per_worker:
        raise ValueError(f"{per_worker_from}: found 0, expected at least 1M")
    base = parse_size(policy.get("memory_base", MEMORY_BASE), "sizing policy: memory_base")
    taken = isinstance(measured, t.Mapping) and "memory_per_worker" not in own
    if taken:
        base, per_worker = (_with_headroom(measured[key]) for key in ("base", "per_worker"))
    return _Request(name, fixed, factor, extra, workload, share, least, most, base, per_worker, taken)


def _with_headroom(measured: int) -> int:
    """Return the bytes to reckon with for what was measured, in whole MiB."""
    return max(1, math.ceil(measured * HEADROOM / MIB)) * MIB


def _factor(name: str, workload: t.Any, per_cpu: t.Any, policy: t.Mapping[str, t.Any]) -> tuple[float, int, str]:
    """Return workers for each CPU, and on top, and what says so.

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
        return _decimal(where, per_cpu), 0, "per_cpu"
    return factor, extra, workload


def _check_fixed(requests: t.Sequence[_Request], room: int) -> None:
    """See that what is set fits.

    :raises ValueError: it does not; the message shows the sum.
    """
    fixed = [(request, request.fixed) for request in requests if request.fixed]
    needed = sum(request.budget(workers) for request, workers in fixed)
    if needed > room:
        parts = " + ".join(
            f"{request.name} {workers} x {format_size(request.per_worker)} + {format_size(request.base)}"
            for request, workers in fixed
        )
        largest = max(fixed, key=lambda pair: pair[0].budget(pair[1]))[0]
        raise ValueError(
            f"app '{largest.name}': workers: the numbers that are set need {format_size(needed)} of memory ({parts}), "
            f"and this host has {format_size(room)} for applications"
        )


def _cpu_share(request: _Request, requests: t.Sequence[_Request], cpus: float) -> float:
    """Return the CPUs for *request*, were its count automatic: its share of what fixed numbers leave."""
    others = [other for other in requests if other.name != request.name]
    left = cpus - sum(min(cpus, other.cpus_for(other.fixed)) for other in others if other.fixed)
    shares = request.share + sum(other.share for other in others if not other.fixed)
    return max(0.0, left) * request.share / shares


def _memory_share(request: _Request, requests: t.Sequence[_Request], usable: int) -> float:
    """Return the bytes that one release of *request* may take, were its count automatic.

    With F and M the sum and the largest of the other applications' fixed budgets, S and L the sum and the largest of
    the shares of those that divide the rest, the unit u is the largest for which F + u·S + max(M, u·L) is no more than
    *usable*.
    """
    others = [other for other in requests if other.name != request.name]
    fixed = [other.budget(other.fixed) for other in others if other.fixed]
    shares = [request.share, *(other.share for other in others if not other.fixed)]
    left = usable - sum(fixed)
    unit = min(left / (sum(shares) + max(shares)), (left - max(fixed, default=0)) / sum(shares))
    return unit * request.share


def _auto(request: _Request, requests: t.Sequence[_Request], cpus: float, usable: int) -> tuple[int, int]:
    """Return the automatic count, and how many workers memory allows."""
    fits = request.fits(_memory_share(request, requests, usable))
    count = min(request.by_cpus(cpus), fits)
    if request.most is not None:
        count = min(count, request.most)
    return max(count, request.least), fits


def _reason(request: _Request, found: _Found) -> str:
    auto, fits, formula = found.auto, found.fits, request.formula(found.cpus)
    of = f" ({format_size(request.per_worker)} each, measured)" if request.measured else ""
    if request.fixed:
        return f"{_workers(request.fixed)}: set; auto would choose {auto}"
    by_cpus = request.by_cpus(found.cpus)
    wanted = min(by_cpus, request.most or by_cpus)
    if found.kept:
        return f"{_workers(auto)}: kept, memory for more is tight; {formula} gives {by_cpus}, memory allows {fits}{of}"
    if auto > min(wanted, fits):
        return f"{_workers(auto)}: the least; memory allows {fits}{of}, {formula} gives {by_cpus}"
    if fits < wanted:
        return f"{_workers(auto)}: memory allows {fits} of {wanted}{of}; {formula}"
    if wanted < by_cpus:
        return f"{_workers(auto)}: the most allowed; {formula} gives {by_cpus}"
    return f"{_workers(auto)}: {formula}; memory would allow {fits}{of}"


def _warning(request: _Request, workers: int, fits: int, needed: int, usable: int) -> str:
    budget = request.budget(workers)
    return (
        f"a second release of {request.name} does not fit beside the first: {_workers(workers)} may take "
        f"{format_size(budget)}, memory allows {fits}; one release of each application takes {format_size(needed)}, "
        f"and there is {format_size(usable)}. A deploy will stop the old release before it starts the new one"
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
