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
    # 2 GiB less 128 MiB, two releases of 32 MiB + n x 64 MiB
    assert one(2, 2 * GIB) == {
        "workers": 4,
        "reason": "4 workers: 2 CPUs x 2 (io); memory would allow 14",
        "memory_per_worker": 64 * MIB,
        "memory_measured": False,
        "memory_budget": (32 + 4 * 64) * MIB,
        "memory_high": 864 * MIB,
        "memory_max": 960 * MIB,
        "cpu_weight": 100,
        "auto": 4,
        "side_by_side": True,
        "warning": None,
    }


def test_memory_bounds_the_count() -> None:
    # 896 MiB less 128 MiB are two releases of 384 MiB: 32 + 5 x 64 = 352
    found = one(4, 896 * MIB)
    assert (found["workers"], found["reason"]) == (5, "5 workers: memory allows 5 of 8; 4 CPUs x 2 (io)")


def test_memory_that_is_just_enough_does_not_bound_the_count() -> None:
    found = one(2.5, 896 * MIB)
    assert (found["workers"], found["reason"]) == (5, "5 workers: 2.5 CPUs x 2 (io); memory would allow 5")


def sized(*apps: dict[str, t.Any], cpus: float = 64, memory: int = BIG, **more: t.Any) -> dict[str, dict[str, t.Any]]:
    """Size several applications."""
    return _sizing.size(apps, {"cpus": cpus, "memory": memory, **more})


def workers(found: dict[str, dict[str, t.Any]]) -> dict[str, int]:
    return {name: app["workers"] for name, app in found.items()}


def test_memory_is_shared_by_the_applications() -> None:
    found = sized({"name": "shop"}, {"name": "blog"}, {"name": "gone", "state": "absent"}, memory=896 * MIB)
    # 768 MiB for three releases of 256 MiB: one of each, and the second one of a deploy
    assert workers(found) == {"shop": 3, "blog": 3}


def test_memory_is_shared_by_weight() -> None:
    shop, blog = {"name": "shop", "sizing": {"share": 3}}, {"name": "blog"}
    found = sized(shop, blog, memory=(128 + 7 * 160) * MIB)
    # Seven parts of 160 MiB: three of shop, three of its second release, one of blog
    assert workers(found) == {"shop": (3 * 160 - 32) // 64, "blog": (160 - 32) // 64}


def test_cpus_are_shared_by_weight() -> None:
    assert workers(sized({"name": "shop"}, {"name": "blog"}, cpus=4)) == {"shop": 4, "blog": 4}
    assert workers(sized({"name": "shop", "sizing": {"share": 3}}, {"name": "blog"}, cpus=4)) == {"shop": 6, "blog": 2}
    found = sized({"name": "shop", "sizing": {"share": "0.5"}}, {"name": "blog"}, cpus=3)
    assert workers(found) == {"shop": 2, "blog": 4}
    assert found["shop"]["cpu_weight"] == 50
    assert found["shop"]["reason"].startswith("2 workers: 1 CPU x 2 (io)")


def test_each_has_a_worker_however_many_they_are() -> None:
    found = sized(*({"name": f"app{number}"} for number in range(40)), cpus=2)
    assert set(workers(found).values()) == {1}


def test_a_fixed_number_is_honoured_and_counted() -> None:
    shop, blog = {"name": "shop"}, {"name": "blog", "workers": 4}
    found = sized(shop, blog, cpus=8, memory=896 * MIB)
    # blog needs 288 MiB, twice during its deploy: 192 MiB are left
    assert workers(found) == {"shop": 2, "blog": 4}
    assert found["blog"]["reason"] == "4 workers: set; auto would choose 3"
    assert found["blog"]["warning"] is None
    # its 4 workers use 2 of the CPUs
    assert sized(shop, blog, cpus=8)["shop"]["reason"].startswith("12 workers: 6 CPUs x 2 (io)")
    assert workers(sized(shop, {**blog, "workers": 99}, cpus=8)) == {"shop": 1, "blog": 99}


def test_fixed_numbers_that_memory_cannot_hold_are_an_error_with_the_sum() -> None:
    with pytest.raises(
        ValueError, match=r"^app 'shop': workers: the numbers that are set need 2\.6G of memory "
    ) as error:
        sized({"name": "shop", "workers": 40}, {"name": "blog", "workers": 1}, {"name": "x"}, memory=GIB)
    assert "(shop 40 x 64M + 32M + blog 1 x 64M + 32M), and this host has 896M for applications" in str(error.value)


def test_a_second_release_that_does_not_fit_is_said_with_what_will_be_done() -> None:
    found = one(4, 256 * MIB)
    assert (found["workers"], found["side_by_side"]) == (1, False)
    assert found["reason"] == "1 worker: the least; memory allows 0, 4 CPUs x 2 (io) gives 8"
    assert found["warning"] == (
        "a second release of shop does not fit beside the first: 1 worker may take 96M, memory allows 0; one release "
        "of each application takes 96M, and there is 128M. A deploy will stop the old release before it starts the new "
        "one"
    )
    fixed = one(4, 896 * MIB, workers=6)
    assert (fixed["workers"], fixed["side_by_side"]) == (6, False)


def test_what_others_hold_is_not_there() -> None:
    found = sized({"name": "shop"}, memory=GIB, memory_others=128 * MIB)["shop"]
    # 1 GiB less 128 MiB less 128 MiB are two releases of 384 MiB
    assert found["workers"] == 5
    # What comes and goes is not in the bounds.
    assert found["memory_max"] == 448 * MIB == one(64, GIB)["memory_max"]


def test_measured_memory_is_reckoned_with() -> None:
    known = {"shop": {"measured": {"base": 16 * MIB, "per_worker": 100 * MIB}}}
    found = sized({"name": "shop"}, memory=896 * MIB, applications=known)["shop"]
    # two releases of 384 MiB: 20 + 2 x 125, a quarter more than was measured
    assert found["workers"] == 2
    assert (found["memory_per_worker"], found["memory_measured"]) == (125 * MIB, True)
    assert found["reason"] == "2 workers: memory allows 2 of 128 (125M each, measured); 64 CPUs x 2 (io)"
    told = {"name": "shop", "sizing": {"memory_per_worker": "32M"}}
    assert sized(told, memory=896 * MIB, applications=known)["shop"]["memory_per_worker"] == 32 * MIB


@pytest.mark.parametrize(
    ("running", "others", "expected"),
    [
        (None, 0, 10),
        (10, 0, 10),
        (9, 0, 9),  # with a tenth less it would be 9
        (8, 0, 10),  # there is room to spare
        (12, 0, 10),  # what runs does not fit
        (9, 640, 5),
        (5, 640, 5),
        (5, 560, 5),
    ],
)
def test_a_count_stays_while_it_fits_and_there_is_little_to_win(
    running: int | None, others: int, expected: int
) -> None:
    # 1408 MiB are two releases of 704 MiB: 32 + 10 x 64 = 672
    applications = {"shop": {"workers": running}}
    found = sized({"name": "shop"}, memory=1536 * MIB, memory_others=others * MIB, applications=applications)["shop"]
    assert found["workers"] == expected
    kept = expected == running and found["reason"].startswith(f"{running} workers: kept")
    assert kept == (running in (9,) and expected == 9 or (running, others) == (5, 560))


def test_a_count_that_runs_does_not_keep_what_is_declared_from_counting() -> None:
    applications = {"shop": {"workers": 9}}
    assert sized({"name": "shop"}, cpus=2, memory=1536 * MIB, applications=applications)["shop"]["workers"] == 4
    assert sized({"name": "shop"}, cpus=8, applications=applications)["shop"]["workers"] == 16
    fixed = {"name": "shop", "workers": 3}
    assert sized(fixed, memory=1536 * MIB, applications=applications)["shop"]["workers"] == 3


def test_bounds_of_memory_do_not_change_with_another_application() -> None:
    found = sized({"name": "shop", "sizing": {"share": 2}}, {"name": "blog"}, memory=(128 + 800) * MIB, cpus=1)
    assert {name: app["memory_max"] // MIB for name, app in found.items()} == {"shop": 400, "blog": 400}
    assert found["shop"]["memory_high"] == 360 * MIB
    # Never below what the count may take.
    assert one(2, 896 * MIB, workers=8)["memory_max"] == (32 + 8 * 64) * MIB


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
    [(128 * MIB, 64 * MIB), (GIB, 896 * MIB), (10 * GIB, 9728 * MIB)],
    ids=["at most half", "128M", "a twentieth"],
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
        ({"sizing": {"share": 0}}, "app 'shop': sizing.share: found 0"),
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
            "share": draw(st.none() | st.floats(min_value=0.1, max_value=10, allow_nan=False)),
        },
    }


def _apps(fixed: bool = True) -> st.SearchStrategy[list[dict[str, t.Any]]]:
    named = st.lists(_workload(fixed=fixed), min_size=1, max_size=5)
    return named.map(lambda apps: [{"name": f"app{index}", **app} for index, app in enumerate(apps)])


def _sized(apps: list[dict[str, t.Any]], cpus: float, memory: int, **more: t.Any) -> dict[str, dict[str, t.Any]] | None:
    """Size them; None where what is set does not fit, which is an error."""
    try:
        return _sizing.size(apps, {"cpus": cpus, "memory": memory, **more})
    except ValueError as error:
        assert "the numbers that are set need" in str(error)
        return None


_others = st.integers(min_value=0, max_value=8 * GIB)
_known = st.dictionaries(
    st.sampled_from(["app0", "app1", "app2"]),
    st.fixed_dictionaries(
        {},
        optional={
            "workers": st.integers(1, 64),
            "measured": st.fixed_dictionaries({"base": st.integers(0, GIB), "per_worker": st.integers(1, GIB)}),
        },
    ),
)


@given(_apps(), _cpus, _memory, _others, _known)
def test_counts_are_within_bounds(
    apps: list[dict[str, t.Any]], cpus: float, memory: int, others: int, known: dict[str, t.Any]
) -> None:
    found = _sized(apps, cpus, memory, memory_others=others, applications=known)
    for app in apps if found else ():
        one_ = t.cast("dict[str, t.Any]", found)[app["name"]]
        assert one_["auto"] >= (app["sizing"]["min"] or 1)
        assert one_["auto"] <= (app["sizing"]["max"] or float("inf"))
        assert one_["workers"] == (one_["auto"] if app["workers"] == "auto" else app["workers"])
        assert one_["reason"].startswith(f"{one_['workers']} worker")
        assert one_["memory_budget"] <= one_["memory_max"]


def _at_least(less: dict[str, dict[str, t.Any]] | None, more: dict[str, dict[str, t.Any]] | None) -> None:
    """See that nothing has fewer workers with more of something."""
    if less is None:
        return
    assert more is not None
    assert all(less[name]["workers"] <= more[name]["workers"] for name in less)


@given(_apps(), _cpus, _cpus, _memory, _others)
def test_more_cpus_are_never_fewer_workers(
    apps: list[dict[str, t.Any]], one_: float, two: float, memory: int, others: int
) -> None:
    fewer, more = sorted([one_, two])
    _at_least(_sized(apps, fewer, memory, memory_others=others), _sized(apps, more, memory, memory_others=others))


@given(_apps(), _cpus, _memory, _memory, _others)
def test_more_memory_is_never_fewer_workers(
    apps: list[dict[str, t.Any]], cpus: float, one_: int, two: int, others: int
) -> None:
    less, more = sorted([one_, two])
    _at_least(_sized(apps, cpus, less, memory_others=others), _sized(apps, cpus, more, memory_others=others))


@given(_apps(), _cpus, _memory, _others, _known)
def test_same_input_same_output(
    apps: list[dict[str, t.Any]], cpus: float, memory: int, others: int, known: dict[str, t.Any]
) -> None:
    before = copy.deepcopy((apps, known))
    first = _sized(apps, cpus, memory, memory_others=others, applications=known)
    assert first == _sized(copy.deepcopy(apps), cpus, memory, memory_others=others, applications=copy.deepcopy(known))
    assert (apps, known) == before


@given(_apps(), _cpus, _memory, _others, _known)
def test_what_came_out_is_what_comes_out_next_time(
    apps: list[dict[str, t.Any]], cpus: float, memory: int, others: int, known: dict[str, t.Any]
) -> None:
    found = _sized(apps, cpus, memory, memory_others=others, applications=known)
    if found is None:
        return
    measured = {name: {"measured": app["measured"]} for name, app in known.items() if "measured" in app}
    runs = {name: {**measured.get(name, {}), "workers": app["workers"]} for name, app in found.items()}
    again = _sized(apps, cpus, memory, memory_others=others, applications=runs)
    assert again is not None
    assert {name: app["workers"] for name, app in again.items()} == {
        name: app["workers"] for name, app in found.items()
    }


@given(_apps(), _cpus, _memory, _others, _known)
def test_the_sum_is_never_above_the_host(
    apps: list[dict[str, t.Any]], cpus: float, memory: int, others: int, known: dict[str, t.Any]
) -> None:
    """Where each new release fits beside the old ones. Where one does not, that is said."""
    found = _sized(apps, cpus, memory, memory_others=others, applications=known)
    if found is None:
        return
    budgets = [app["memory_budget"] for app in found.values()]
    for app in found.values():
        assert app["side_by_side"] is (app["warning"] is None)
    if all(app["side_by_side"] for app in found.values()):
        assert sum(budgets) + max(budgets) <= memory - others


@given(_apps(fixed=False), _cpus, _memory, _others, _known)
def test_automatic_counts_do_not_fit_only_where_the_floor_makes_them(
    apps: list[dict[str, t.Any]], cpus: float, memory: int, others: int, known: dict[str, t.Any]
) -> None:
    found = _sized(apps, cpus, memory, memory_others=others, applications=known)
    assert found is not None
    if any(app["warning"] for app in found.values()):
        assert any(found[app["name"]]["workers"] == (app["sizing"]["min"] or 1) for app in apps)
