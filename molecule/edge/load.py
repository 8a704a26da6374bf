# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load, and clients that behave badly, against a host's own 127.0.0.1."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import driver
from examine import DOMAIN, PROJECT, Tools

MODERN = PROJECT / "tests/hammer/modern.py"


class Modern:
    """tests/hammer/modern.py in the tools' container, against the host's 127.0.0.1."""

    def __init__(self, tools: Tools, kinds: str) -> None:
        self.tools = tools
        place = "/tmp/modern"
        tools.sh(f"rm -rf {place} && mkdir {place}")
        tools.write(f"{place}/modern.py", MODERN.read_text(encoding="utf-8"))
        self.files = {name: f"{place}/{name}" for name in ("stop", "ready", "summary.json")}
        command = ["/opt/tools/bin/python", f"{place}/modern.py", "443", "--host", DOMAIN, "--kinds", kinds]
        command += ["--duration", "300", "--timeout", "10", "--output", self.files["summary.json"]]
        command += ["--stop-file", self.files["stop"], "--ready-file", self.files["ready"]]
        self.process = subprocess.Popen(["docker", "exec", tools.name, *command])
        try:
            driver.wait_for("all traffic flows", lambda: tools.read(self.files["ready"]) is not None, 40)
        except AssertionError:
            raise AssertionError(f"the load client is not ready: {self.end()}") from None

    def end(self) -> dict[str, Any]:
        self.tools.out("touch", self.files["stop"])
        self.process.wait(60)
        summary: dict[str, Any] = json.loads(self.tools.read(self.files["summary.json"]) or "")
        return summary


#: Why a request on a connection that was open before is not answered when the server closes it, idle, at that moment.
#: The client may send it again (RFC 9112 9.3.1, RFC 9113 6.8), and browsers do; hammer.py and modern.py never do.
RACED = ("eof", "reset", "refused by GOAWAY", "the connection ended")


def raced(summary: dict[str, Any]) -> int:
    """Return how many requests were lost by a race; fail if one was lost otherwise."""
    kinds = {kind: tally for kind, tally in summary["kinds"].items() if tally["lost"]}
    for kind, tally in kinds.items():
        if all("refused by GOAWAY" in reason for reason in tally["reasons"]):
            continue  # RFC 9113 6.8: it says itself that it took nothing of this
        assert kind.endswith(("_kept", "_slow")), (kind, tally)
        assert all(any(word in reason for word in RACED) for reason in tally["reasons"]), (kind, tally)
    return sum(tally["lost"] for tally in kinds.values())


def workers(machine: driver.Host) -> set[int]:
    return machine.children(machine.show("nginx", "MainPID")["MainPID"])


def reload(machine: driver.Host, times: int, apart: float) -> None:
    """Have Nginx load its configuration so many times, each with new workers, *apart* seconds from each other."""
    for __ in range(times):
        before = workers(machine)
        machine.out("systemctl", "reload", "nginx")
        until = time.monotonic() + 20
        while not workers(machine) - before:
            assert time.monotonic() < until, "there are no new workers"
            time.sleep(0.2)
        time.sleep(apart)


def reload_under_http3(
    machine: driver.Host, tools: Tools, times: int, apart: float, most: float, seconds: float
) -> None:
    """Open connections of HTTP/3 through reloads.

    :param most: the part of them that may be lost meanwhile. Afterwards none may.
    :param seconds: the bound for workers from before to finish.
    """
    load = Modern(tools, "h3_new")
    try:
        reload(machine, times=times, apart=apart)
    finally:
        summary = load.end()
    lost, asked = summary["lost"], summary["requests"]
    print(f"{asked} new connections of HTTP/3 during {times} reloads, {lost} lost ({lost / asked:.1%})", end="; ")
    assert lost <= asked * most, summary
    driver.wait_for("old workers are gone", lambda: len(workers(machine)) <= 2, seconds)
    after = Modern(tools, "h3_new").end()
    print(f"afterwards {after['requests']}, {after['lost']} lost")
    assert not after["lost"], after


def attack(machine: driver.Host, tools: Tools, way: str, connections: int, seconds: int) -> None:
    """Attack from 127.0.0.1, and ask from the control node meanwhile."""
    command = ["slowhttptest", way, "-c", str(connections), "-r", "500", "-l", str(seconds), "-i", "5", "-p", "5"]
    command += ["-u", f"https://{DOMAIN}/{'upload' if way == '-B' else ''}"]
    command += ["-s", "65536", "-t", "POST"] if way == "-B" else []
    command += ["-w", "10", "-y", "20", "-z", "5", "-n", "5", "-k", "1"] if way == "-X" else []
    process = subprocess.Popen(
        ["docker", "exec", tools.name, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    longest, statuses = 0.0, []
    while process.poll() is None:
        begun = time.monotonic()
        statuses.append(driver.ask(machine, DOMAIN, "/healthz").status)
        longest = max(longest, time.monotonic() - begun)
        time.sleep(0.2)
    output = process.communicate()[0]
    held = [
        int(part)
        for line in output.splitlines()
        if "connected:" in line
        for part in line.split()[-1:]
        if part.isdigit()
    ]
    print(
        f"slow {way}: {max(held, default=0)} connections held, {len(statuses)} others asked, longest {longest:.2f} s",
        end="",
    )
    assert len(statuses) >= 5, output[-3000:]
    assert set(statuses) == {200}, statuses
