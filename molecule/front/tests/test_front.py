# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A story in order: Hypercorn has the network's ports to itself, and gives way to Nginx in the end."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import client
import driver
import pytest
from driver import wait_for

if TYPE_CHECKING:
    from conftest import Modern

DOMAIN = "demo.test"
DRAIN = 20
WEBSOCKET = Path(__file__).resolve().parents[1] / "host/websocket.py"
ALT_SVC = 'h3=":443"; ma=86400'


def demo(source: str, **keys: Any) -> dict[str, Any]:
    """Declare the application."""
    return {
        "name": "demo",
        "app": "main:app",
        "source": {"path": source},
        "server": "hypercorn",
        "edge": "hypercorn",
        "domains": [DOMAIN],
        "workers": 2,
        "environment": {"COLOUR": "red"},
        "health": {"path": "/healthz"},
        "drain": DRAIN,
        "max_body_size": 2_000_000,
        "hypercorn": {"graceful_timeout": 5},
        **keys,
    }


def first(stack: driver.Stack) -> str:
    return stack.source("first", VERSION="1.0.0\n")


def get(host: driver.Host, path: str, name: str = DOMAIN, tls: bool = True, body: bytes | None = None) -> client.Answer:
    """Send one request with HTTP/1.1, by a client that claims to be a proxy."""
    headers = {"X-Forwarded-For": "192.0.2.9", "X-Forwarded-Proto": "http", "Connection": "close"}
    method = "POST" if body else "GET"
    return client.request(host.address, name, path, tls=tls, method=method, body=body, headers=headers)


def about(host: driver.Host) -> dict[str, Any]:
    """Return what the application says of itself and of the request."""
    found: dict[str, Any] = get(host, "/api/info").json()
    return found


def fingerprint(host: driver.Host) -> str:
    """Return the certificate that a client is shown."""
    return ssl.get_server_certificate((host.address, 443), timeout=15)


def reader_of_udp(host: driver.Host) -> str:
    """Return the process that reads HTTP/3."""
    release = host.sh("basename $(readlink /srv/asgi/demo/live)")
    (found,) = host.sh(f"cd /run/asgi-demo/{release} && ls quic.*.sock").split()
    return found.split(".")[1]


def test_bare_host_serves(stack: driver.Stack, machine: driver.Host) -> None:
    stack.play("site", demo(first(stack))).must()
    found = about(machine)
    assert found["version"] == "1.0.0"
    assert (found["http_version"], found["scheme"], found["host"]) == ("1.1", "https", DOMAIN)
    assert machine.run("sh", "-c", "command -v nginx").returncode != 0


def test_second_run_changes_nothing(stack: driver.Stack) -> None:
    assert stack.play("site", demo(first(stack))).must().changed == 0
    assert stack.play("site", demo(first(stack)), options=("--check",)).must().changed == 0


@pytest.mark.parametrize("version", ["h2", "h3"])
def test_later_versions_of_http(modern: Modern, version: str) -> None:
    answer = modern.ask(version, "/api/info")
    found = json.loads(answer["body"])
    assert found["http_version"] == version[1:]
    assert (found["scheme"], found["host"], found["client"]) == ("https", DOMAIN, "127.0.0.1")
    assert found["headers"] == {}, "a client's word about itself came through"
    assert answer["headers"]["alt-svc"] == ALT_SVC
    assert modern.ask(version, "/upload", "--size", "1900000")["status"] == 200
    assert modern.ask(version, "/upload", "--size", "2100000")["status"] == 413
    assert modern.ask(version, "/", name="other.test")["status"] == 421


def test_websocket_over_http_2(machine: driver.Host) -> None:
    machine.write("/tmp/modern/websocket.py", WEBSOCKET.read_text(encoding="utf-8"))
    python = machine.sh("readlink -f /srv/asgi/demo/live/build") + "/venv/bin/python"
    assert machine.out(python, "/tmp/modern/websocket.py", DOMAIN, "/ws", "hello") == "hello"


def test_http_1(machine: driver.Host) -> None:
    answer = get(machine, "/api/info?a=1")
    found = answer.json()
    assert answer.headers["Alt-Svc"] == ALT_SVC
    assert (found["headers"], found["scheme"]) == ({}, "https")
    assert found["client"] != "192.0.2.9"
    assert re.fullmatch(r"[0-9.]+", found["client"]), "an IPv4 address looks like one"
    assert get(machine, "/upload", body=b"x" * 1_900_000).status == 200
    assert get(machine, "/upload", body=b"x" * 2_100_000).status == 413
    assert get(machine, "/", name="other.test").status == 421


def test_plain_http_is_redirected(machine: driver.Host) -> None:
    answer = get(machine, "/api/info?a=%2F", tls=False)
    assert (answer.status, answer.headers["Location"]) == (308, f"https://{DOMAIN}/api/info?a=%2F")
    assert get(machine, "/", name="other.test", tls=False).status == 421


def test_odd_request_does_not_end_http_3(modern: Modern) -> None:
    # The answer is there long before the body.
    assert modern.ask("h3", "/nowhere", "--size", "50000", "--drip")["status"] == 404
    assert modern.ask("h3", "/healthz")["status"] == 200


def test_process_has_no_privileges(stack: driver.Stack, machine: driver.Host) -> None:
    unit = f"asgi-demo@{stack.live('demo')['release']}.service"
    main = stack.main_pid("demo")
    for pid in (main, *machine.children(main)):
        status = machine.read(f"/proc/{pid}/status") or ""
        assert re.findall(r"^Cap(?:Inh|Prm|Eff|Bnd|Amb):\s+(\w+)$", status, re.MULTILINE) == ["0" * 16] * 5
    score = machine.sh(f"systemd-analyze security --no-pager {unit} | tail -n 1")
    assert float(re.findall(r"(\d+\.\d)", score)[0]) <= 1.2, score
    assert machine.sh("stat -c '%U %a' /etc/asgi/tls /etc/asgi/tls/demo/privkey.pem").split() == ["root", "700"] + [
        "root",
        "600",
    ]


def test_killed_worker_hands_http_3_on(machine: driver.Host, modern: Modern) -> None:
    before = reader_of_udp(machine)
    machine.sh(f"kill -KILL {before}")

    def another() -> bool:
        release = machine.sh("basename $(readlink /srv/asgi/demo/live)")
        return any(before not in name for name in machine.sh(f"cd /run/asgi-demo/{release} && ls quic.*.sock").split())

    wait_for("another worker reads HTTP/3", another, 15)
    assert modern.ask("h3", "/healthz")["status"] == 200


def test_load_begins(machine: driver.Host, modern: Modern, request: pytest.FixtureRequest) -> None:
    modern.start()
    rates = "get_kept=40,get_new=15,post_kept=15,post_slow=4"
    request.session.stash[LOAD] = driver.Load(machine, DOMAIN, rates=rates, streams="ws=2,sse=2")


LOAD = pytest.StashKey[driver.Load]()


def test_changed_code_is_deployed(stack: driver.Stack, machine: driver.Host) -> None:
    before = stack.live("demo")["release"]
    stack.play("site", demo(stack.source("second", VERSION="2.0.0\n"))).must()
    wait_for("the new release answers", lambda: about(machine)["version"] == "2.0.0", 10)
    assert stack.about("demo", before)["state"] == "retired"


def test_broken_release_is_not_switched_to(stack: driver.Stack, machine: driver.Host, modern: Modern) -> None:
    before = stack.live("demo")["release"]
    broken = demo(stack.source("broken", origin="broken"), app="import_error:app")
    assert stack.play("site", broken).must_fail().says("cannot be imported")
    assert stack.live("demo")["release"] == before
    assert about(machine)["version"] == "2.0.0"
    assert modern.ask("h3", "/healthz")["status"] == 200


def test_rolled_back(stack: driver.Stack, machine: driver.Host) -> None:
    stack.play("rollback", options=("-e", "asgi_app=demo")).must()
    wait_for("the release before answers", lambda: about(machine)["version"] == "1.0.0", 10)


def test_renewed_certificate_reaches_clients(stack: driver.Stack, machine: driver.Host) -> None:
    before = fingerprint(machine)
    machine.out("rm", "/etc/asgi/tls/demo/fullchain.pem")
    stack.play("site", demo(first(stack))).must()
    wait_for("the new certificate is shown", lambda: fingerprint(machine) != before, 10)


def test_nothing_was_lost(machine: driver.Host, modern: Modern, stack: driver.Stack, request: Any) -> None:
    live = stack.live("demo")["release"]
    wait_for("old releases have ended", lambda: stack.running("demo") == {live}, DRAIN + 30)
    found = {"1.1": request.session.stash[LOAD].end(), "2 and 3": modern.end()}
    sys.stdout.write(f"\n{driver.figures(found['1.1'])}\n{json.dumps(found['2 and 3']['kinds'], indent=1)}\n")
    assert found["1.1"]["lost"] == 0, driver.losses(found["1.1"])
    for kind, tally in found["2 and 3"]["kinds"].items():
        # Who does not understand GOAWAY loses what crosses the end of a connection: one request of each.
        allowed = tally["connections"] if kind == "h3_rude" else 0
        assert tally["lost"] <= allowed, (kind, tally)
        assert tally["right"] > 0
    assert found["2 and 3"]["releases"].keys() == set(found["1.1"]["releases"])


def test_long_http_2_connection(modern: Modern) -> None:
    # Hypercorn by itself loses the request after keep_alive_max_requests.
    command = "import asyncio, sys; sys.path.insert(0, '/tmp/modern'); import modern\n" + (
        "async def many():\n"
        "    load = modern.Load(443, 'demo.test', 15)\n"
        "    async with load.connected('h2_kept') as connection:\n"
        "        for _ in range(1200):\n"
        "            await load.once('h2_kept', connection)\n"
        "asyncio.run(many())\n"
    )
    python = modern.host.sh("readlink -f /srv/asgi/demo/live/build") + "/venv/bin/python"
    modern.host.out(python, "-c", command)


def test_only_one_may_have_the_ports(stack: driver.Stack) -> None:
    other = {**demo(first(stack)), "name": "other", "domains": ["other.test"], "edge": "nginx"}
    play = stack.play("site", demo(first(stack)), other).must_fail()
    assert play.says("edge: found hypercorn beside other on the same host")
    assert play.changed == 0


def test_without_a_network_of_its_own(stack: driver.Stack, machine: driver.Host, modern: Modern) -> None:
    stack.play("site", demo(first(stack), network="none")).must()
    release = stack.live("demo")["release"]
    wait_for("the new release answers", lambda: about(machine)["release"] == release, 10)
    assert json.loads(modern.ask("h3", "/api/info")["body"])["release"] == release


def test_reboot(stack: driver.Stack, machine: driver.Host, modern: Modern) -> None:
    subprocess.run(["docker", "restart", machine.name], check=True, capture_output=True)
    wait_for("the host has booted", lambda: machine.run("systemctl", "is-system-running").stdout.strip() != "", 60)

    def answers() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
            return bool(about(machine)["version"] == "1.0.0")
        return False

    wait_for("it answers again", answers, 60)
    assert modern.ask("h3", "/healthz")["status"] == 200


def test_taken_port_is_said(stack: driver.Stack, machine: driver.Host) -> None:
    machine.out("systemctl", "stop", "asgi-demo.service")
    wait_for("nobody listens", lambda: not machine.sh("ss -Hltn 'sport = :443'"), 20)
    thief = "import socket, time; s = socket.socket(); s.bind(('', 443)); s.listen(); time.sleep(300)"
    process = subprocess.Popen(["docker", "exec", machine.name, "python3", "-c", thief])
    wait_for("somebody else does", lambda: bool(machine.sh("ss -Hltn 'sport = :443'")), 10)
    play = stack.play("site", demo(first(stack), environment={"COLOUR": "blue"})).must_fail()
    assert play.says("edge: found TCP port 443 taken on this host")
    (pid,) = re.findall(r"pid=(\d+)", machine.sh("ss -Hltnp 'sport = :443'"))
    machine.sh(f"kill -KILL {pid}")
    process.wait(20)
    stack.play("site", demo(first(stack), environment={"COLOUR": "blue"})).must()
    wait_for("it answers", lambda: about(machine)["version"] == "1.0.0", 10)


def test_gives_way_to_nginx(stack: driver.Stack, machine: driver.Host) -> None:
    stack.play("site", demo(first(stack), edge="nginx")).must()
    assert about(machine)["version"] == "1.0.0"
    assert machine.show("nginx.service", "ActiveState")["ActiveState"] == "active"
    assert machine.show("asgi-demo-front.socket", "LoadState")["LoadState"] == "not-found"


def test_absent_leaves_nothing(stack: driver.Stack, machine: driver.Host) -> None:
    stack.play("site", {"name": "demo", "state": "absent"}).must()
    left = machine.sh("ls -d /etc/systemd/system/asgi-* /etc/asgi/tls/demo* /srv/asgi/demo /run/asgi-demo 2>&1 || true")
    assert all("No such file" in line for line in left.splitlines()), left
