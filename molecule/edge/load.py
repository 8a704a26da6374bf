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


class Log:
    """What Nginx logs of the load's requests from now on."""

    def __init__(self, machine: driver.Host) -> None:
        self.machine = machine
        time.sleep(1.5)  # what was asked before is written once a second
        self.begin = int(machine.sh("stat --format %s /var/log/nginx/access.log"))

    def count(self) -> int:
        """Return how many requests Nginx took."""
        lines = f"tail -c +{self.begin + 1} /var/log/nginx/access.log | grep -cE '/(upload|slow|api/info)' || true"
        return int(self.machine.sh(lines))


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
        driver.wait_for("new workers", lambda before=before: workers(machine) - before, 20)  # type: ignore[misc]
        time.sleep(apart)


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
