# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What many hosts go through while clients of the edge lose nothing. The steps build on each other."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from typing import Any

import driver
import pytest
from world import DOMAIN, SECONDS, Fleet

#: For so long old workers of the edge, which serves HTTP/3, keep their WebSockets after a reload.
EDGE_SECONDS = 65
#: Healthy, and wrong for those who ask for one path.
FAULTY = """
from main import app as inner


async def app(scope, receive, send):
    if scope.get("path") != "/faulty":
        return await inner(scope, receive, send)
    await send({"type": "http.response.start", "status": 500, "headers": []})
    await send({"type": "http.response.body", "body": b""})
"""


@pytest.fixture(autouse=True)
def went_well(request: pytest.FixtureRequest) -> None:
    """A step that failed leaves nothing that the next could build on."""
    if request.session.testsfailed:
        pytest.fail("a step before failed")


def table(play: driver.Play) -> dict[str, str]:
    """Return what the table at a deploy's end says became of each host."""
    rows = re.findall(r"^ *(fleet-\S+) +(?:demo|-) .*  (\w[\w ]*)$", play.output, re.MULTILINE)
    return dict(rows)


def test_a_fleet_is_made(fleet: Fleet) -> None:
    fleet.play("site", fleet.app("v1"), asgi_serial=0).must()
    assert len(fleet.answers()) == len(fleet.apps), "the edge does not balance over all"
    assert len(set(fleet.live())) == 1, "a deploy has one id"
    workers = [fleet.stacks[host.name].live("demo")["workers"] for host in fleet.apps]
    assert len(set(workers)) == 2, workers


def test_the_client_is_known_through_the_edge(fleet: Fleet) -> None:
    """And what the client says of itself is not believed."""
    forged = {"X-Real-IP": "192.0.2.9", "X-Forwarded-For": "192.0.2.9"}
    about = driver.ask(fleet.edge, DOMAIN, "/api/info", headers=forged).json()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((fleet.edge.address, 9))
        assert about["client"] == asking.getsockname()[0]


def test_application_hosts_let_only_edges_in(fleet: Fleet) -> None:
    for host in fleet.apps:
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError, ssl.SSLError)):
            driver.ask(host, DOMAIN, "/api/info")


def test_nothing_to_do_changes_nothing(fleet: Fleet) -> None:
    assert fleet.play("site", fleet.app("v1")).must().changed == 0


def test_a_host_that_is_not_known_is_not_believed(fleet: Fleet) -> None:
    believed = "/etc/nginx/asgi/app-hosts.pem"
    fleet.edge.sh(
        f"cp -p {believed} /tmp/believed; openssl req -quiet -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        f" -keyout /dev/null -subj /CN=other -out {believed} && systemctl reload nginx"
    )
    try:
        driver.wait_for("no host is believed", lambda: driver.ask(fleet.edge, DOMAIN, "/api/info").status == 503, 30)
    finally:
        fleet.edge.sh(f"mv /tmp/believed {believed}; systemctl reload nginx")
    driver.wait_for("they are again", lambda: driver.ask(fleet.edge, DOMAIN, "/api/info").status == 200, 30)


def test_what_drifted_is_told(fleet: Fleet) -> None:
    """By the table, as JSON, and by the exit status where that is wanted."""
    host = fleet.apps[1]
    told = fleet.stack.directory / "status.json"
    wanted = {"asgi_status_strict": True, "asgi_status_drift": True, "asgi_status_file": str(told)}
    fleet.play("status", fleet.app("v1"), **wanted).must()
    assert json.loads(told.read_text())["drift"] == []
    site, listed = "/etc/nginx/asgi/live/sites/demo.conf", "/srv/asgi/demo/manifest.json"
    host.sh(f"cp -p {site} /tmp/site && echo '# by hand' >> {site}")
    other = fleet.apps[2]
    other.sh(f"cp -p {listed} /tmp/listed && echo '{{' > {listed}")
    try:
        play = fleet.play("status", fleet.app("v2"), **wanted).must_fail()
    finally:
        host.sh(f"cp -p /tmp/site {site}")
        other.sh(f"cp -p /tmp/listed {listed}")
    drift = json.loads(told.read_text())["drift"]
    for name, path in ((host.name, "/etc/nginx/asgi/live"), (other.name, listed)):
        assert f"{name}: {path} was changed by hand" in drift, drift
    # v2 is declared and v1 is live.
    assert sum("is declared" in line for line in drift) == len(fleet.apps), drift
    assert all(play.says(line) for line in drift), play.end_of_output


@pytest.fixture
def loaded(fleet: Fleet) -> Fleet:
    """The fleet under load, which goes on through all further steps."""
    fleet.load = fleet.load or driver.Load(fleet.edge, DOMAIN)
    return fleet


def test_a_rolling_deploy(loaded: Fleet) -> None:
    (before,) = set(loaded.live())
    play = loaded.play("deploy", loaded.app("v2")).must()
    (after,) = set(loaded.live())
    assert after != before
    assert set(table(play).values()) == {"deployed"}, play.end_of_output
    live_at = [str(loaded.stacks[host.name].live("demo")["live_at"]) for host in loaded.apps]
    assert live_at == sorted(live_at), "one after the other"
    migrated = [(host.read("/var/lib/asgi/demo/migrated") or "").count("once") for host in loaded.apps]
    # Once for each of the two deploys, on the canary.
    assert migrated == [2, 0, 0]


def test_an_unhealthy_release_is_caught_at_the_canary(loaded: Fleet) -> None:
    before = loaded.processes()
    play = loaded.play("deploy", loaded.app("v3", app="no_such_module:app")).must_fail()
    assert list(table(play).values()) == ["failed", "untouched", "untouched"], play.end_of_output
    assert loaded.processes() == before


def test_a_wrong_release_is_caught_by_its_answers(loaded: Fleet) -> None:
    before, live = loaded.processes(), loaded.live()
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.05):
            driver.ask(loaded.edge, DOMAIN, "/faulty")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        wrong = loaded.app("v4", app="faulty:app", faulty_py=FAULTY)
        play = loaded.play("deploy", wrong, asgi_on_failure="rollback").must_fail()
    finally:
        done.set()
        asking.join()
    assert play.says("answers had a status of 500 or above"), play.end_of_output
    assert list(table(play).values()) == ["rolled back", "untouched", "untouched"], play.end_of_output
    assert loaded.live() == live
    assert loaded.processes()[1:] == before[1:]


def test_a_host_is_killed_in_the_middle_of_a_deploy(loaded: Fleet) -> None:
    first, victim, last = loaded.apps
    old, process = loaded.live(), loaded.processes()[2]
    running = loaded.start("deploy", loaded.app("v6"))
    driver.wait_for(
        "the canary is switched", lambda: loaded.stacks[first.name].live("demo")["id"] != old[0], driver.PLAY_BOUND
    )
    begin = time.time()
    subprocess.run(["docker", "kill", victim.name], check=True, capture_output=True)
    # What it had in its hands, and what was on its way to it.
    loaded.killed = (begin - 15, begin + 5)
    play = running.play().must_fail()
    assert table(play)[victim.name] in ("failed", "not reached"), play.end_of_output
    assert table(play)[last.name] == "untouched"
    assert loaded.stacks[last.name].main_pid("demo") == process
    subprocess.run(["docker", "start", victim.name], check=True, capture_output=True)
    driver.wait_for("the host is up", lambda: victim.run("systemctl", "is-active", "nginx").returncode == 0, 60)
    loaded.play("site", loaded.app("v6"), asgi_serial="100%").must()
    assert len(set(loaded.live())) == 1


def drain(fleet: Fleet, host: driver.Host) -> None:
    begin = time.time()
    fleet.play("drain", fleet.app("v6"), asgi_host=host.name, asgi_drain_timeout=SECONDS).must()
    fleet.drained.append((begin, time.time()))
    assert host.run("systemctl", "is-active", "nginx").stdout.strip() == "inactive"
    assert host.name not in fleet.answers()


def test_a_drained_host_comes_back(loaded: Fleet) -> None:
    victim = loaded.apps[2]
    drain(loaded, victim)
    loaded.play("drain", loaded.app("v6"), asgi_host=victim.name, asgi_back=True).must()
    driver.wait_for("the edge asks it again", lambda: victim.name in loaded.answers(), 60)


def test_a_rebooted_host_comes_back(loaded: Fleet) -> None:
    """Its Nginx takes requests when its application is there, not before."""
    victim = loaded.apps[2]
    drain(loaded, victim)
    subprocess.run(["docker", "restart", victim.name], check=True, capture_output=True)
    driver.wait_for("the edge asks it again", lambda: victim.name in loaded.answers(), 120)


def test_a_host_is_removed_and_added(loaded: Fleet) -> None:
    victim = loaded.apps[2]
    address = loaded.addresses[victim.name]
    configuration = "cat /etc/nginx/asgi/live/sites/demo.conf"
    drain(loaded, victim)
    for apps in (loaded.apps[:2], loaded.apps):
        loaded.have(apps)
        begin = time.time()
        loaded.play("site", loaded.app("v6"), asgi_serial="100%").must()
        loaded.reloaded.append((begin, time.time()))
        loaded.cut.append((begin, time.time() + EDGE_SECONDS))
        assert (address in loaded.edge.sh(configuration)) == (victim in apps)
    driver.wait_for("the edge asks it", lambda: victim.name in loaded.answers(), 60)


def test_a_rollback_of_all(loaded: Fleet) -> None:
    before = loaded.live()
    loaded.play("rollback", loaded.app("v6"), asgi_app="demo").must()
    after = loaded.live()
    assert len(set(after)) == 1
    assert after != before


def test_nothing_was_lost(fleet: Fleet) -> None:
    fleet.end()
    losses = driver.losses(fleet.summary)
    # In the hands of the host that was killed: requests that must not be sent twice, and streams.
    killed = [loss for loss in losses if within(loss, [fleet.killed]) and not loss["kind"].startswith("get")]
    # At a reload Nginx closes idle connections; a client that is just sending on one sends again.
    raced = [loss for loss in losses if loss["reason"] == "eof" and within(loss, fleet.reloaded)]
    raced = [loss for loss in raced if loss.get("served_before")]
    # A WebSocket may last for longer than a host may take to drain, or old workers of the edge after a reload.
    cut = [loss for loss in losses if loss["kind"] == "ws" and within(loss, fleet.drained + fleet.cut)]
    excused = [*killed, *raced, *cut]
    sys.stdout.writelines(f"excused: {fleet.during(loss)}: {loss}\n" for loss in excused)
    assert [(fleet.during(loss), loss) for loss in losses if loss not in excused] == []
    assert len(killed) <= 20
    assert len(raced) <= 20
    assert fleet.summary["requests"] > 1000


def within(loss: dict[str, Any], times: list[tuple[float, float]]) -> bool:
    return any(begin <= loss["at"] <= end for begin, end in times)
