# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Worker counts: examples, and properties that hold for all hosts and applications."""

from __future__ import annotations

import copy
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.asgi.stack.plugins.module_utils import _sizing

MIB = 1024**2
GIB = 1024**3
BIG = 64 * GIB


def one(cpus: float, memory: int, policy: dict[str, t.Any] | None = None, **app: t.Any) -> dict[str, t.Any]:
    """Size a single application."""
    return _sizing.size([{"name": "shop", **app}], {"cpus": cpus, "memory": memory}, policy)["shop"]


@pytest.mark.parametrize(
    ("workload", "cpus", "workers", "formula"),
    [
        ("io", 2, 4, "2 CPUs x 2 (io)"),
        ("io", 1.5, 3, "1.5 CPUs x 2 (io)"),
        ("io", 0.25, 1, "0.25 CPUs x 2 (io)"),
        ("mixed", 2, 3, "2 CPUs x 1 + 1 (mixed)"),
        ("mixed", 0.5, 1, "0.5 CPUs x 1 + 1 (mixed)"),
        ("cpu", 2, 2, "2 CPUs x 1 (cpu)"),
        ("cpu", 1, 1, "1 CPU x 1 (cpu)"),
        ("cpu", 2.9, 2, "2.9 CPUs x 1 (cpu)"),
    ],
)
def test_cpus_and_workload_decide(workload: str, cpus: float, workers: int, formula: str) -> None:
    found = one(cpus, BIG, workload=workload)
    assert found["workers"] == found["auto"] == workers
    assert formula in found["reason"]
    assert found["reason"].startswith(f"{workers} worker{'s' if workers > 1 else ''}: ")
    assert found["warning"] is None


def test_the_result_in_full() -> None:
    # 2 GiB less 256 MiB, two releases of 32 MiB + n x 64 MiB
    assert one(2, 2 * GIB) == {
        "workers": 4,
        "reason": "4 workers: 2 CPUs x 2 (io); memory would allow 13",
        "memory_per_worker": 64 * MIB,
        "memory_budget": (32 + 4 * 64) * MIB,
        "auto": 4,
        "warning": None,
    }


def test_memory_bounds_the_count() -> None:
    # 1 GiB less 256 MiB are two releases of 384 MiB: 32 + 5 x 64 = 352
    found = one(4, GIB)
    assert (found["workers"], found["reason"]) == (5, "5 workers: memory allows 5 of 8; 4 CPUs x 2 (io)")


def test_memory_that_is_just_enough_does_not_bound_the_count() -> None:
    found = one(2.5, GIB)
    assert (found["workers"], found["reason"]) == (5, "5 workers: 2.5 CPUs x 2 (io); memory would allow 5")


def test_memory_is_shared_by_the_applications() -> None:
    apps = [{"name": "shop"}, {"name": "blog"}, {"name": "gone", "state": "absent"}]
    found = _sizing.size(apps, {"cpus": 8, "memory": GIB})
    # 768 MiB for three releases of 256 MiB: one of each, and the second one of a deploy
    assert {name: app["workers"] for name, app in found.items()} == {"shop": 3, "blog": 3}


def test_a_fixed_number_is_honoured_and_counted() -> None:
    apps = [{"name": "shop"}, {"name": "blog", "workers": 4}]
    found = _sizing.size(apps, {"cpus": 8, "memory": GIB})
    # blog needs 288 MiB, twice during its deploy: 192 MiB are left
    assert found["blog"]["workers"] == 4
    assert found["blog"]["reason"] == "4 workers: set; auto would choose 3"
    assert found["blog"]["warning"] is None
    assert found["shop"]["workers"] == 2


def test_a_fixed_number_above_what_memory_holds_is_honoured_with_a_warning() -> None:
    found = one(2, GIB, workers=40)
    assert (found["workers"], found["auto"]) == (40, 4)
    assert found["reason"] == "40 workers: set; auto would choose 4"
    assert found["warning"] == (
        "a release of shop with 40 workers may take 2.5G, memory allows 5: one release of each application and a "
        "second one of the largest may take 5.1G, and there is 768M"
    )


def test_one_worker_is_the_least_even_without_memory() -> None:
    found = one(4, 128 * MIB)
    assert found["workers"] == 1
    assert found["reason"] == "1 worker: the least; memory allows 0, 4 CPUs x 2 (io) gives 8"
    assert "memory allows 0" in found["warning"]


@pytest.mark.parametrize(
    ("policy", "app", "workers"),
    [
        ({}, {"sizing": {"per_cpu": 3}}, 6),
        ({}, {"workload": "mixed", "sizing": {"per_cpu": 0.5}}, 1),
        ({}, {"sizing": {"per_cpu": 1.5}}, 3),
        ({"per_cpu": 4}, {}, 8),
        ({"per_cpu": 4}, {"workload": "cpu"}, 2),
        ({"per_cpu": 4}, {"workload": "cpu", "sizing": {"per_cpu": 3}}, 6),
        ({"workload": "mixed"}, {}, 3),
        ({"workload": "mixed"}, {"workload": "cpu"}, 2),
        ({"min": 5}, {}, 5),
        ({"max": 3}, {}, 3),
        ({"max": 3}, {"sizing": {"max": 2}}, 2),
        ({"min": 3, "max": 3}, {"sizing": {"min": None, "max": None}}, 3),
        ({"max": 2}, {"workers": 3}, 3),
        ({"max": "2"}, {"workers": "auto"}, 2),
        ({}, {"workers": "7"}, 7),
        ({"memory_per_worker": "4G"}, {}, 3),
        ({"memory_per_worker": "4G"}, {"sizing": {"memory_per_worker": 8 * GIB}}, 1),
        ({"memory_per_worker": "4G", "memory_base": "8G"}, {}, 1),
        ({"memory_reserve": "30G", "memory_per_worker": "10G"}, {}, 1),
        ({"memory_reserve": 0, "memory_base": 0, "memory_per_worker": "4G"}, {}, 4),
    ],
)
def test_what_is_nearest_wins(policy: dict[str, t.Any], app: dict[str, t.Any], workers: int) -> None:
    assert one(2, 32 * GIB, policy, **app)["workers"] == workers


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ({"sizing": {"min": 6}}, "6 workers: the least; memory allows 250, 2 CPUs x 2 (io) gives 4"),
        ({"sizing": {"max": 3}}, "3 workers: the most allowed; 2 CPUs x 2 (io) gives 4"),
        ({"sizing": {"per_cpu": 3}}, "6 workers: 2 CPUs x 3 (per_cpu); memory would allow 250"),
    ],
)
def test_the_reason_says_what_decided(app: dict[str, t.Any], words: str) -> None:
    # half of 32.5625 GiB less a reserve of 1.25 GiB is 32 MiB + 250 x 64 MiB
    assert one(2, int(32.5625 * GIB), {"memory_reserve": int(1.25 * GIB)}, **app)["reason"] == words


@pytest.mark.parametrize(
    ("memory", "usable"),
    [(256 * MIB, 128 * MIB), (GIB, 768 * MIB), (10 * GIB, 9 * GIB)],
    ids=["at most half", "256M", "a tenth"],
)
def test_the_reserve(memory: int, usable: int) -> None:
    fits = one(9999, memory, {"memory_base": 0, "memory_per_worker": "1M"})["workers"]
    assert fits == usable // 2 // MIB


@pytest.mark.parametrize(
    ("value", "size"),
    [(0, 0), ("0", 0), (MIB, MIB), ("64M", 64 * MIB), ("1.5g", GIB * 3 // 2), (" 2 G ", 2 * GIB), ("2048K", 2 * MIB)],
)
def test_sizes(value: t.Any, size: int) -> None:
    assert _sizing.parse_size(value) == size


@pytest.mark.parametrize("value", [64, "64", -1, "-1M", "64MB", "M", "", None, True, 1.5, "1e9", "64 MiB", []])
def test_sizes_that_are_none(value: t.Any) -> None:
    with pytest.raises(ValueError, match="limit: found .*, expected bytes"):
        _sizing.parse_size(value, "limit")


@pytest.mark.parametrize(
    ("app", "where"),
    [
        ({"workers": 0}, "app 'shop': workers: found 0, expected auto or a whole number from 1 up"),
        ({"workers": "many"}, "app 'shop': workers: found 'many'"),
        ({"workers": True}, "app 'shop': workers: found True"),
        ({"workers": 2.5}, "app 'shop': workers: found 2.5"),
        ({"workload": "disk"}, "app 'shop': workload: found 'disk', expected one of io, mixed, cpu"),
        ({"workload": ["io"]}, r"app 'shop': workload: found \['io'\]"),
        ({"sizing": {"per_cpu": 0}}, "app 'shop': sizing.per_cpu: found 0"),
        ({"sizing": {"per_cpu": "nan"}}, "app 'shop': sizing.per_cpu: found 'nan'"),
        ({"sizing": {"per_cpu": True}}, "app 'shop': sizing.per_cpu: found True"),
        ({"sizing": {"min": 0}}, "app 'shop': sizing.min: found 0"),
        ({"sizing": {"max": -1}}, "app 'shop': sizing.max: found -1"),
        ({"sizing": {"min": 3, "max": 2}}, "app 'shop': sizing.max: found 2, expected no less than 3"),
        ({"sizing": {"memory_per_worker": "64MB"}}, "app 'shop': sizing.memory_per_worker: found '64MB'"),
        ({"sizing": {"memory_per_worker": 0}}, "app 'shop': sizing.memory_per_worker: found 0"),
        ({"sizing": {"maximum": 3}}, "app 'shop': sizing.maximum: unknown key, expected one of per_cpu"),
        ({"sizing": [1]}, r"app 'shop': sizing: found \[1\], expected a mapping"),
    ],
)
def test_an_error_names_the_application_and_the_key(app: dict[str, t.Any], where: str) -> None:
    with pytest.raises(ValueError, match=f"^{where}"):
        one(2, GIB, **app)


@pytest.mark.parametrize(
    ("policy", "where"),
    [
        ({"min": 0}, "sizing policy: min: found 0"),
        ({"per_cpu": "two"}, "sizing policy: per_cpu: found 'two'"),
        ({"memory_base": "32"}, "sizing policy: memory_base: found '32'"),
        ({"memory_reserve": -1}, "sizing policy: memory_reserve: found -1"),
        ({"workers": 2}, "sizing policy: workers: unknown key"),
    ],
)
def test_an_error_names_the_policy_s_key(policy: dict[str, t.Any], where: str) -> None:
    with pytest.raises(ValueError, match=f"^{where}"):
        one(2, GIB, policy)


@pytest.mark.parametrize("capacity", [{}, {"cpus": 0, "memory": GIB}, {"cpus": 2, "memory": 0}, {"cpus": 2}])
def test_a_host_without_capacity_is_an_error(capacity: dict[str, t.Any]) -> None:
    with pytest.raises(ValueError, match="^capacity: (cpus|memory): found"):
        _sizing.size([{"name": "shop"}], capacity)


@pytest.mark.parametrize(
    ("apps", "words"),
    [
        ([{"name": "shop"}, {"name": "shop"}], "app 'shop': name: found 2 times"),
        ([{}], "app: name: found None"),
        ([{"name": 3}], "app: name: found 3"),
    ],
)
def test_names_are_needed_and_differ(apps: list[dict[str, t.Any]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _sizing.size(apps, {"cpus": 2, "memory": GIB})


def test_no_application_is_no_result() -> None:
    assert _sizing.size([], {"cpus": 2, "memory": GIB}) == {}


# Properties

_cpus = st.floats(min_value=0.01, max_value=256, allow_nan=False)
_memory = st.integers(min_value=MIB, max_value=1024 * GIB)
_per_worker = st.integers(min_value=MIB, max_value=2 * GIB)
_bounds = st.tuples(st.none() | st.integers(1, 8), st.none() | st.integers(8, 64))


@st.composite
def _workload(draw: st.DrawFn, fixed: bool = True) -> dict[str, t.Any]:
    least, most = draw(_bounds)
    factor = st.floats(min_value=0.1, max_value=8, allow_nan=False)
    return {
        "workload": draw(st.sampled_from([None, "io", "mixed", "cpu"])),
        "workers": draw(st.just("auto") | st.integers(1, 64)) if fixed else "auto",
        "sizing": {
            "per_cpu": draw(st.none() | factor),
            "memory_per_worker": draw(st.none() | _per_worker),
            "min": least,
            "max": most,
        },
    }


def _apps(fixed: bool = True) -> st.SearchStrategy[list[dict[str, t.Any]]]:
    named = st.lists(_workload(fixed=fixed), min_size=1, max_size=5)
    return named.map(lambda apps: [{"name": f"app{index}", **app} for index, app in enumerate(apps)])


def _counts(apps: list[dict[str, t.Any]], cpus: float, memory: int) -> list[int]:
    return [found["workers"] for found in _sizing.size(apps, {"cpus": cpus, "memory": memory}).values()]


@given(_apps(), _cpus, _memory)
def test_counts_are_within_bounds(apps: list[dict[str, t.Any]], cpus: float, memory: int) -> None:
    for app, found in zip(apps, _sizing.size(apps, {"cpus": cpus, "memory": memory}).values()):
        assert found["auto"] >= (app["sizing"]["min"] or 1)
        assert found["auto"] <= (app["sizing"]["max"] or float("inf"))
        assert found["workers"] == (found["auto"] if app["workers"] == "auto" else app["workers"])


@given(_apps(), _cpus, _cpus, _memory)
def test_more_cpus_are_never_fewer_workers(apps: list[dict[str, t.Any]], one_: float, two: float, memory: int) -> None:
    fewer, more = sorted([one_, two])
    assert all(a <= b for a, b in zip(_counts(apps, fewer, memory), _counts(apps, more, memory)))


@given(_apps(), _cpus, _memory, _memory)
def test_more_memory_is_never_fewer_workers(apps: list[dict[str, t.Any]], cpus: float, one_: int, two: int) -> None:
    less, more = sorted([one_, two])
    assert all(a <= b for a, b in zip(_counts(apps, cpus, less), _counts(apps, cpus, more)))


@given(_apps(), _cpus, _memory)
def test_same_input_same_output(apps: list[dict[str, t.Any]], cpus: float, memory: int) -> None:
    before = copy.deepcopy(apps)
    capacity = {"cpus": cpus, "memory": memory}
    assert _sizing.size(apps, capacity) == _sizing.size(copy.deepcopy(apps), dict(capacity))
    assert apps == before


@given(_apps(), _cpus, _memory)
def test_memory_is_never_exceeded_without_a_warning(apps: list[dict[str, t.Any]], cpus: float, memory: int) -> None:
    found = _sizing.size(apps, {"cpus": cpus, "memory": memory}).values()
    budgets = [app["memory_budget"] for app in found]
    if not any(app["warning"] for app in found):
        assert sum(budgets) + max(budgets) <= memory


@given(_apps(fixed=False), _cpus, _memory)
def test_automatic_counts_exceed_memory_only_where_the_floor_makes_them(
    apps: list[dict[str, t.Any]], cpus: float, memory: int
) -> None:
    found = _sizing.size(apps, {"cpus": cpus, "memory": memory})
    budgets = [app["memory_budget"] for app in found.values()]
    at_floor = any(found[app["name"]]["workers"] == (app["sizing"]["min"] or 1) for app in apps)
    assert sum(budgets) + max(budgets) <= memory or at_floor
    for app in apps:
        if found[app["name"]]["warning"]:
            assert found[app["name"]]["workers"] == (app["sizing"]["min"] or 1)


@given(_apps(), _cpus, _memory)
def test_the_reason_begins_with_the_count(apps: list[dict[str, t.Any]], cpus: float, memory: int) -> None:
    for found in _sizing.size(apps, {"cpus": cpus, "memory": memory}).values():
        assert found["reason"].startswith(f"{found['workers']} worker")
