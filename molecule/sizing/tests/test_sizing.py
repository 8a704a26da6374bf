# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host in order: planned, provisioned, resized, short of memory."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import driver
from driver import ask, wait_for

if TYPE_CHECKING:
    from conftest import Machine

MIB = 1024**2


def shop(source: str, **keys: Any) -> dict[str, Any]:
    """Declare the application; its workers are counted."""
    return {
        "name": "shop",
        "app": "main:app",
        "source": {"path": source},
        "domains": ["shop.test"],
        "health": {"path": "/healthz"},
        "drain": 5,
        "gunicorn": {"graceful_timeout": 5},
        "locations": [{"path": "/events", "kind": "sse"}, {"path": "/ws", "kind": "websocket"}],
        **keys,
    }


def runs(stack: driver.Stack, app: str = "shop") -> tuple[int, str]:
    """Return how many workers really run, which is how many the release says, and the reason that it gives."""
    live = stack.live(app)
    assert len(stack.host.children(stack.main_pid(app))) == live["workers"]
    return live["workers"], live["workers_reason"]


def alone(stack: driver.Stack, app: str = "shop") -> None:
    wait_for("the old release has gone", lambda: stack.running(app) == {stack.live(app)["release"]}, 60)


def test_the_plan_is_shown_and_nothing_is_changed(machine: Machine, stack: driver.Stack) -> None:
    machine.resize(cpus="1.5", memory="2g")
    before = machine.sh("find /etc /srv /var/lib /opt -xdev | sort | sha256sum")
    play = stack.play("plan", shop(stack.source("source"))).must()
    assert play.changed == 0
    assert machine.sh("find /etc /srv /var/lib /opt -xdev | sort | sha256sum") == before
    assert play.says(r"1\.5 CPUs \(cpu\.(max|cfs_quota_us) of [^)]*\), 2\.0G of memory \(memory\.")
    assert play.says(r"3 workers: 1\.5 CPUs x 2 \(io\); memory would allow \d+")


def test_a_quota_is_what_counts(machine: Machine, stack: driver.Stack) -> None:
    play = stack.play("site", shop(stack.source("source"))).must()
    assert runs(stack)[0] == 3
    assert runs(stack)[1].startswith("3 workers: 1.5 CPUs x 2 (io); memory would allow ")
    assert play.says(r"shop: 3 workers: 1\.5 CPUs x 2")
    assert "worker_processes 2;" in str(machine.read("/etc/nginx/nginx.conf"))
    again = stack.play("site", shop(stack.source("source"))).must()
    assert again.changed == 0, again.end_of_output


def test_the_unit_is_bounded_by_the_same_plan(machine: Machine, stack: driver.Stack) -> None:
    unit = f"asgi-shop@{stack.live('shop')['release']}.service"
    shown = machine.show(unit, "MemoryHigh", "MemoryMax", "CPUWeight", "TasksMax")
    # 2 GiB less the reserve of 128 MiB, for two releases
    assert shown == {
        "MemoryHigh": str(864 * MIB),
        "MemoryMax": str(960 * MIB),
        "CPUWeight": "100",
        "TasksMax": str(256 + 3 * 128),
    }


def test_a_resized_host_gets_its_count_and_drops_nothing(machine: Machine, stack: driver.Stack) -> None:
    before = stack.live("shop")
    load = driver.Load(machine, "shop.test", "load")
    machine.resize(cpus="2")
    stack.play("site", shop(stack.source("source"))).must()
    summary = load.end()
    assert summary["lost"] == 0, driver.figures(summary)
    assert runs(stack)[0] == 4
    assert stack.live("shop")["id"] == before["id"]
    alone(stack)


def test_a_cpuset_is_what_counts(machine: Machine, stack: driver.Stack) -> None:
    machine.resize(cpuset_cpus="0")
    play = stack.play("plan", shop(stack.source("source"))).must()
    assert play.says(r"1 CPUs \((cpuset|affinity)"), play.end_of_output
    assert play.says(r"2 workers: 1 CPU x 2 \(io\)")
    machine.resize(cpuset_cpus="0-1")


def test_applications_divide_the_host_by_share(machine: Machine, stack: driver.Stack) -> None:
    apps = (
        shop(stack.source("source"), sizing={"share": 3}),
        {**shop(stack.source("source")), "name": "blog", "domains": ["blog.test"], "workload": "cpu"},
    )
    play = stack.play("plan", *apps).must()
    assert play.says(r"3 workers: 1\.5 CPUs x 2 \(io\)"), play.end_of_output
    assert play.says(r"1 worker: 0\.5 CPUs x 1 \(cpu\)"), play.end_of_output


def test_numbers_that_do_not_fit_are_an_error_before_anything_is_changed(machine: Machine, stack: driver.Stack) -> None:
    before = stack.live("shop")
    play = stack.play("site", shop(stack.source("source", VERSION="9.9.9\n"), workers=64)).must_fail()
    said = " ".join(play.output.split())
    assert "app 'shop': workers: the numbers that are set need 4.0G of memory (shop 64 x 64M + 32M)" in said, said[
        -2000:
    ]
    assert stack.live("shop") == before
    assert play.changed == 0


def test_what_was_measured_counts(machine: Machine, stack: driver.Stack) -> None:
    live = stack.live("shop")
    state = f"/srv/asgi/shop/releases/{live['release']}/state.json"
    known = json.loads(machine.read(state) or "")
    # As if it had served for a while.
    machine.write(state, json.dumps({**known, "live_at": "2026-01-01T00:00:00+00:00"}))
    declared = shop(stack.source("source", VERSION="1.0.0\n"))
    assert stack.play("site", declared).must().changed == 0
    measured = json.loads(machine.read("/srv/asgi/shop/memory.json") or "")
    assert 8 * MIB < measured["per_worker"] < 200 * MIB, measured
    assert measured["release"] == live["release"]
    play = stack.play("plan", declared).must()
    assert play.says(r"memory would allow \d+ \(\d+M each, measured\)"), play.end_of_output
    assert stack.play("status", declared).must().says(r"\d+M a worker, 64M planned")
    # The count stays, and so does what runs.
    assert stack.play("site", declared).must().changed == 0


def test_where_memory_holds_one_release_the_old_one_makes_room(machine: Machine, stack: driver.Stack) -> None:
    machine.sh("rm -f /srv/asgi/shop/memory.json")
    machine.resize(memory="900m")
    sizing = {"memory_per_worker": "400M"}
    small = shop(stack.source("source"), sizing=sizing)
    said = " ".join(stack.play("site", small).must().output.split())
    assert "a second release of shop does not fit beside the first: 1 worker may take 432M" in said, said[-3000:]
    assert "A deploy will stop the old release before it starts the new one" in said
    assert runs(stack)[0] == 1
    alone(stack)
    before = stack.live("shop")["release"]

    changed = shop(stack.source("source", VERSION="2.0.0\n"), sizing=sizing)
    stack.play("site", changed).must()
    log = machine.sh(
        "journalctl --no-pager --output cat --unit 'asgi-shop@*' | grep -E '^(Stopped|Starting) .*service'"
    )
    after = stack.live("shop")["release"]
    assert log.index(f"Stopped asgi-shop@{before}.service", log.index(f"Starting asgi-shop@{before}")) < log.index(
        f"Starting asgi-shop@{after}.service"
    ), log
    assert ask(machine, "shop.test", "/api/info").json()["version"] == "2.0.0"

    broken = shop(stack.source("broken", "broken"), sizing=sizing, app="import_error:app")
    stack.play("site", {**broken, "health": {"path": "/healthz", "timeout": 20}}).must_fail()
    assert stack.live("shop")["release"] == after
    wait_for("the old release is back", lambda: ask(machine, "shop.test", "/healthz").status == 200, 30)
    assert re.fullmatch(rf"{after}", stack.running("shop").pop())


def test_nothing_was_killed_for_want_of_memory(machine: Machine) -> None:
    assert machine.run("sh", "-c", "journalctl --no-pager | grep -iE 'oom-kill|out of memory'").stdout == ""
