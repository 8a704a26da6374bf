# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests do on the control node: run a play and kill it, run a module on the host that dies, ask, look."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import client
from driver import wait_for

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
DRIVER = "/opt/interrupt"
KILLED = -signal.SIGKILL


@dataclass
class Host:
    """The test host, seen from the control node."""

    name: str
    inventory: str
    work: Path  # a temporary directory of this run
    source: Path  # the application's source
    address: str = ""
    usual: float = 10  # seconds that a run without changes takes here
    forgiven: set[str] = field(default_factory=set)  # what was left before the test that runs

    # --- the host itself ---

    def find(self) -> None:
        """Learn its address; a restart may change it."""
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        done = subprocess.run(
            ["docker", "container", "inspect", "--format", template, self.name],
            capture_output=True,
            text=True,
            check=True,
        )
        self.address = done.stdout.split()[0]

    def run(self, command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host."""
        return subprocess.run(
            ["docker", "exec", "--interactive", self.name, "sh", "-c", command],
            input=text or "",
            capture_output=True,
            text=True,
            check=False,
        )

    def output(self, command: str) -> str:
        done = self.run(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def reboot(self) -> None:
        """Take the power away and give it back: no process gets to say anything, and /run is empty after it."""
        subprocess.run(["docker", "restart", "--time", "0", self.name], capture_output=True, check=True)
        self.find()
        wait_for(
            "the host boots",
            lambda: self.run("systemctl is-system-running").stdout.strip() in ("running", "degraded"),
            60,
        )

    # --- plays ---

    def play(self, **more: Any) -> Play:
        """Start site.yml; see :class:`Play`."""
        return Play(self, **more)

    def converge(self, **variables: Any) -> str:
        """Run site.yml to its end, which must be good; return what it said."""
        code, said = self.play(variables=variables).wait()
        assert code == 0, said
        return said

    def converges(self, **variables: Any) -> None:
        """Run site.yml twice: it must succeed, and the second time have nothing to do. Nothing may be left over."""
        self.converge(**variables)
        self.unchanged(**variables)

    def unchanged(self, **variables: Any) -> None:
        """Run site.yml, which must have nothing to do. Nothing may be left over from the runs before."""
        again = self.converge(**variables)
        recap = re.search(rf"^{self.name}\s*:.*$", again, re.M)
        assert recap is not None, again
        assert "changed=0 " in recap[0], f"the second run changed something\n{again}"
        self.settled()

    # --- a module that dies ---

    def ship(self, plugins: Path = PROJECT / "plugins") -> None:
        """Bring the collection's modules to the host, with the driver."""
        target = f"{DRIVER}/ansible_collections/asgi/stack"
        self.output(f"rm -rf {DRIVER} && mkdir -p {target}")
        pack = ["tar", "--create", "--dereference", "--exclude=__pycache__", f"--directory={plugins.parent}", "plugins"]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as packed:
            subprocess.run(
                ["docker", "exec", "--interactive", self.name, "tar", "--extract", f"--directory={target}"],
                stdin=packed.stdout,
                check=True,
            )
        for script in sorted((HERE / "host").glob("*.py")):
            subprocess.run(["docker", "cp", "--quiet", str(script), f"{self.name}:{DRIVER}/"], check=True)

    def module(self, name: str, arguments: dict[str, Any], *, before: str = "true", **plan: Any) -> dict[str, Any]:
        """Run a module on the host with the driver, after the shell command *before*.

        Return what the driver printed, or ``{"killed": True}`` where it died as planned.
        """
        script = f"{before} && exec python3 {DRIVER}/driver.py {name}"
        done = self.run(script, json.dumps({"args": arguments, **plan}))
        if done.returncode == 128 + signal.SIGKILL:
            return {"killed": True}
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def finishes(self, name: str, arguments: dict[str, Any], app: str = "shop", wanted: str | None = None) -> None:
        """Run a module twice: it must succeed, and the second time have nothing to do. Nothing may be left over."""
        module = f"python3 {DRIVER}/driver.py {name} <$plan"
        script = f"plan=$(mktemp -p /run); cat >$plan; {module}; python3 {DRIVER}/survey.py --drained {app}; {module}"
        done = self.run(f"{script}; rm $plan", json.dumps({"args": arguments}))
        assert len(done.stdout.splitlines()) == 3, f"{name}: {done.stdout}{done.stderr}"
        first, found, second = map(json.loads, done.stdout.splitlines())
        for result in (first, second):
            assert "result" in result, f"{name}: {result.get('failed')}"
        self.settled(app, wanted, found)
        assert not second["result"]["changed"], f"a further run changed something: {second['result']}"

    # --- looking ---

    def survey(self, app: str = "shop", drained: bool = False) -> dict[str, Any]:
        """Return what is on the host of *app*; see host/survey.py."""
        waiting = "--drained" if drained else ""
        found: dict[str, Any] = json.loads(self.output(f"python3 {DRIVER}/survey.py {waiting} {app}"))
        found["left"] = [name for name in found["left"] if name not in self.forgiven]
        return found

    def settled(self, app: str = "shop", wanted: str | None = None, found: dict[str, Any] | None = None) -> None:
        """See that all is as a finished run leaves it, once old releases have drained.

        :param wanted: the id of the release that must be live.
        :param found: what was found by then.
        """
        found = found or self.survey(app, drained=True)
        assert found["running"] == [found["live"]], f"{found['running']} run, {found['live']} is live"
        assert found["half"] == [], found["half"]
        left = [name for name in found["left"] if name not in self.forgiven]
        assert left == [], left
        assert found["sockets"] == [f"{found['live']}.sock"], found["sockets"]
        assert found["boot"], f"asgi-{app}.service is not enabled and active"
        assert wanted is None or found["live"].endswith(wanted), f"{found['live']} is live, expected {wanted}"
        answer = self.ask(app)
        assert answer.status == 200, answer
        assert answer.release == found["live"], f"{answer.release} answers, {found['live']} is live"

    def serves(self, app: str = "shop", times: int = 2) -> Answer:
        """Ask some times at once: each must be answered."""
        for __ in range(times):
            answer = self.ask(app)
            assert answer.status == 200, answer
        return answer

    def ask(self, app: str = "shop", path: str = "/api/info") -> Answer:
        """Ask an application through Nginx, on a new connection."""
        answer = client.request(self.address, f"{app}.test", path)
        return Answer(answer.status, answer.headers["X-Release"], answer.body)

    def answers(self, app: str = "shop") -> str | None:
        """Return the release that answers; None while none does."""
        try:
            answer = self.ask(app)
        except (OSError, http.client.HTTPException):
            return None
        return answer.release if answer.status == 200 else None

    @contextmanager
    def asked_all_the_time(self, app: str = "shop") -> Iterator[list[str]]:
        """Ask again and again meanwhile; every request must be answered with 200."""
        lost: list[str] = []
        count = 0
        end = threading.Event()

        def asking() -> None:
            nonlocal count
            while not end.wait(0.1):
                count += 1
                try:
                    answer = self.ask(app)
                except (OSError, http.client.HTTPException) as error:
                    lost.append(f"{time.strftime('%X')} {error!r}")
                    continue
                if answer.status != 200:
                    lost.append(f"{time.strftime('%X')} {answer}")

        thread = threading.Thread(target=asking)
        thread.start()
        try:
            yield lost
        finally:
            end.set()
            thread.join()
        assert count > 0
        assert lost == [], f"{len(lost)} of {count} requests were not answered: {lost[:5]}"


@dataclass
class Answer:
    status: int
    release: str | None
    body: bytes

    @property
    def version(self) -> str:
        return str(json.loads(self.body)["version"])


def plain_answer(address: str, port: int) -> str | None:
    """Return what a server answers over HTTP; None where nothing listens."""
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        return connection.getresponse().read().decode()
    except ConnectionError:
        return None
    finally:
        connection.close()


@dataclass
class Play:
    """A run of site.yml.

    *at* is an action: the control node's process ends with SIGKILL when a task that uses it begins.
    """

    host: Host
    variables: dict[str, Any] = field(default_factory=dict)
    at: str = ""
    capture: Path | None = None

    def __post_init__(self) -> None:
        self.log = (self.host.work / f"play-{time.monotonic_ns()}.log").open("w+")
        variables = {"test_source": str(self.host.source), **self.variables}
        environment = {
            **os.environ,
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "interrupt",
            "ANSIBLE_INJECT_INVOCATION": "true",
            "ANSIBLE_NOCOLOR": "1",
            "INTERRUPT_AT": self.at,
            "INTERRUPT_CAPTURE": str(self.capture or ""),
            "XDG_CACHE_HOME": str(self.host.work / "cache"),
        }
        self.process = subprocess.Popen(
            ["ansible-playbook", "--inventory", self.host.inventory, "--extra-vars", json.dumps(variables)]
            + [str(PROJECT / "site.yml")],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=PROJECT,
            start_new_session=True,
        )

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def wait(self, seconds: float = 300) -> tuple[int, str]:
        """Return the exit status and what was printed."""
        try:
            return self.process.wait(seconds), self.said()
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the play did not end within {seconds:g} s\n{self.said()}") from None

    def kill(self) -> None:
        """End all its processes on the control node with SIGKILL; its workers have sessions of their own."""
        found = [self.process.pid]
        for pid in found:
            for task in Path("/proc").glob(f"{pid}/task/*/children"):
                try:
                    found += [int(child) for child in task.read_text().split()]
                except OSError:
                    continue
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def modules_on(host: Host) -> Sequence[str]:
    """Return the process ids of Ansible's modules on the host: Python, reading its program from standard input."""
    script = (
        "for p in /proc/[0-9]*; do "
        "[ \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\" = '/usr/bin/python3 ' ] && echo ${p#/proc/}; done; true"
    )
    return host.output(script).split()
