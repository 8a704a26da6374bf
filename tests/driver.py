# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drive the real playbooks against a test host, as a user would from a checkout, with the load client inside the host.

Used by molecule/release and tests/soak.py. The host is a container that `./dev host up` or Molecule started.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import client

PROJECT = Path(__file__).resolve().parents[1]
HAMMER = PROJECT / "tests/hammer/hammer.py"
PLAY_BOUND = 600  # seconds; the first deploy of a fleet on a busy machine
PLAYBOOKS = ("deploy", "rollback", "restart", "status", "plan", "drain")
TASKS = {"site": "site.yml", **{name: f"asgi.stack.{name}" for name in PLAYBOOKS}}
#: About 100 requests a second, and streams: a WebSocket lives until it is closed, an event stream for 12 seconds.
LOAD = {
    "rates": "get_kept=45,get_new=15,post_kept=32,post_slow=8",
    "streams": "ws=3,sse=3",
    "sse-path": "/events?count=13&interval=1",
}

T = TypeVar("T")


def wait_for(what: str, ask: Callable[[], T], seconds: float, longest: float = 1) -> T:
    """Return the first true answer of *ask*; fail when there was none in *seconds*.

    :param longest: seconds between two questions, once it has been asked for a while.
    """
    until = time.monotonic() + seconds
    pause = min(0.1, longest)
    while not (answer := ask()):
        left = until - time.monotonic()
        assert left > 0, f"not within {seconds:g} s: {what}"
        time.sleep(min(pause, left))
        pause = min(1.3 * pause, longest)  # most questions cost a process on the host
    return answer


@dataclass
class Play:
    """A finished run of a playbook: its exit status, all that it printed, and when it ran, seconds since the epoch."""

    command: list[str]
    status: int
    output: str = field(repr=False)
    begin: float
    end: float

    @property
    def changed(self) -> int:
        """How many tasks changed something."""
        return sum(int(found) for found in re.findall(r" changed=(\d+) ", self.output))

    @property
    def end_of_output(self) -> str:
        """What it said last, to be shown with a test that fails."""
        return f"{' '.join(self.command)}\n{self.output[-5000:]}"

    def says(self, pattern: str) -> bool:
        """Whether what it printed matches a regular expression somewhere."""
        return re.search(pattern, self.output) is not None

    def must(self) -> Play:
        """Return it if it ended well, else fail with what it said."""
        assert self.status == 0, self.end_of_output
        return self

    def must_fail(self) -> Play:
        """Return it if it is red, else fail."""
        assert self.status != 0, f"it ended well: {self.end_of_output}"
        return self


@dataclass
class Running:
    """A playbook that runs, or a load client in the host."""

    process: subprocess.Popen[str]
    begin: float = field(default_factory=time.time)

    def play(self, seconds: float = PLAY_BOUND) -> Play:
        """Wait for the playbook's end, bounded."""
        try:
            output, _none = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _none = self.process.communicate()
            output += f"\nkilled: it ran for more than {seconds:g} s"
        return Play(list(map(str, self.process.args)), self.process.returncode, output, self.begin, time.time())  # type: ignore[arg-type]


def hosts() -> list[str]:
    """Return the names of the test hosts, which are those of their containers: the scenario's, or ASGI_TEST_HOST."""
    if name := os.environ.get("ASGI_TEST_HOST"):
        return [name]
    command = ["ansible-inventory", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return sorted(json.loads(listed.stdout)["asgi_app_hosts"]["hosts"])


@dataclass
class Host:
    """A test host, by its container's name."""

    name: str

    def run(self, *command: str, text: str | None = None, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root; its failure is the caller's to judge."""
        return subprocess.run(
            ["docker", "exec", "--interactive", self.name, *command],
            input=text or "",
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=seconds,
        )

    def out(self, *command: str, text: str | None = None, seconds: float = 60) -> str:
        """Return what a command printed that must succeed."""
        done = self.run(*command, text=text, seconds=seconds)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def sh(self, script: str, seconds: float = 60) -> str:
        """Return what a shell script printed that must succeed."""
        return self.out("sh", "-ec", script, seconds=seconds)

    def read(self, path: str) -> str | None:
        """Return a file's text, None where there is none."""
        done = self.run("cat", path)
        return done.stdout if done.returncode == 0 else None

    def write(self, path: str, text: str) -> None:
        self.out("sh", "-c", f"cat > {path}", text=text)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit."""
        shown = self.out("systemctl", "show", "--property", ",".join(properties), unit)
        return dict(line.split("=", 1) for line in shown.splitlines())

    def children(self, pid: int | str) -> set[int]:
        """Return a process's children: a server's workers."""
        return {int(child) for child in (self.read(f"/proc/{pid}/task/{pid}/children") or "").split()}

    @property
    def address(self) -> str:
        """Its address, as the control node reaches it."""
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        command = ["docker", "container", "inspect", "--format", template, self.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]

    @contextlib.contextmanager
    def without_network(self) -> Iterator[None]:
        """Cut the host off: it has its loopback alone. What runs in it is still reached through the engine."""
        template = "{{range $name, $network := .NetworkSettings.Networks}}{{$name}} {{end}}"
        command = ["docker", "container", "inspect", "--format", template, self.name]
        networks = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        for network in networks:
            subprocess.run(["docker", "network", "disconnect", network, self.name], check=True)
        try:
            yield
        finally:
            for network in networks:
                subprocess.run(["docker", "network", "connect", network, self.name], check=True)


def add_logs(report: Any, host: Host | None, *commands: str) -> None:
    """Add to pytest's report of a test that failed what shell commands say in the host it was about."""
    if host is not None and report.when == "call" and report.failed:
        report.sections.extend((command, host.run("sh", "-c", command).stdout) for command in commands)


@dataclass
class Answer:
    """What a request was answered with."""

    status: int
    release: str | None
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    host: Host,
    domain: str,
    path: str,
    query: Mapping[str, str] | None = None,
    tls: bool = True,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one GET to the host through Nginx."""
    target = path + (f"?{urllib.parse.urlencode(query)}" if query else "")
    connection = http.client.HTTPConnection(host.address)
    connection.sock = socket.create_connection((host.address, 443 if tls else 80), timeout=15)
    with contextlib.closing(connection):
        if tls:
            connection.sock = client.unverified().wrap_socket(connection.sock, server_hostname=domain)
        connection.request("GET", target, headers={"Host": domain, "Connection": "close", **(headers or {})})
        response = connection.getresponse()
        return Answer(response.status, response.headers.get("X-Release"), response.read())


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of an Ansible with these *settings*, and none of those that surround the test."""
    surrounding = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return {**surrounding, "ANSIBLE_NOCOLOR": "1", **settings}


def start(*arguments: str) -> Running:
    """Start ansible-playbook in the checkout, with its own configuration."""
    return Running(
        subprocess.Popen(
            ["ansible-playbook", *arguments],
            cwd=PROJECT,
            env=environment(ANSIBLE_CONFIG=str(PROJECT / "ansible.cfg")),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    )


@dataclass
class Stack:
    """The collection, applied to one host and those *beside* it, or to *groups*: variables by group and host.

    *directory* holds inventories and copies of sources.
    """

    host: Host
    directory: Path
    variables: dict[str, Any] = field(default_factory=dict)
    count: int = 0
    beside: list[str] = field(default_factory=list)
    groups: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def source(self, name: str, origin: str = "demo", **files: str) -> str:
        """Return a copy of a sample application in which *files* (`VERSION`, `late.py` as `late_py`) are as given."""
        path = self.directory / name
        if not path.exists():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PROJECT / "tests/apps" / origin, path, ignore=ignore)
        for file, text in files.items():
            (path / file.replace("_py", ".py")).write_text(text, encoding="utf-8")
        return str(path)

    def start(
        self,
        playbook: str,
        *apps: Mapping[str, Any],
        options: tuple[str, ...] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> Running:
        """Start a playbook with an inventory that declares *apps*."""
        self.count += 1
        inventory = self.directory / f"inventory-{self.count}.json"  # JSON is YAML
        connection = {
            "ansible_connection": "community.docker.docker",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        groups = {name: {"hosts": hosts} for name, hosts in self.groups.items()}
        groups = groups or {"asgi_app_hosts": {"hosts": {name: {} for name in (self.host.name, *self.beside)}}}
        shared = {**connection, "asgi_soak": 0, **self.variables, **(variables or {})}
        declared = {name: {**group, "vars": shared} for name, group in groups.items()}
        declared["asgi_app_hosts"]["vars"] = {**shared, "asgi_apps": apps}
        inventory.write_text(json.dumps(declared), encoding="utf-8")
        return start(TASKS[playbook], "--inventory", str(inventory), *options)

    def play(self, playbook: str, *apps: Mapping[str, Any], **more: Any) -> Play:
        """Run a playbook; see :meth:`start`."""
        return self.start(playbook, *apps, **more).play()

    # What is on the host

    def live(self, app: str) -> dict[str, Any]:
        """Return what the live release says of itself, with its name as `release`."""
        link = self.host.out("readlink", f"/srv/asgi/{app}/live")
        return self.about(app, link.rpartition("/")[2])

    def about(self, app: str, release: str) -> dict[str, Any]:
        """Return what a release says of itself, with what became of it."""
        place = f"/srv/asgi/{app}/releases/{release}"
        described = json.loads(self.host.out("cat", f"{place}/release.json"))
        return {**described, **json.loads(self.host.read(f"{place}/state.json") or "{}"), "release": release}

    def releases(self, app: str) -> list[str]:
        """Return the releases that are on the host, the oldest first."""
        return sorted(self.host.sh(f"ls -A /srv/asgi/{app}/releases").split())

    def builds(self, app: str) -> set[str]:
        """Return the builds that are on the host."""
        return set(self.host.sh(f"ls -A /srv/asgi/{app}/builds").split())

    def running(self, app: str) -> set[str]:
        """Return the releases that have processes or an open socket."""
        listed = self.host.out("systemctl", "list-units", "--all", "--plain", "--no-legend", f"asgi-{app}@*")
        lines = [line.split() for line in listed.splitlines()]
        return {
            unit.partition("@")[2].rpartition(".")[0]
            for unit, _load, active, *_rest in lines
            if active not in ("inactive", "failed")
        }

    def main_pid(self, app: str) -> int:
        """Return the main process of the live release."""
        return int(self.host.show(f"asgi-{app}@{self.live(app)['release']}.service", "MainPID")["MainPID"])


class Load:
    """The load client, running inside the host against its own 127.0.0.1."""

    def __init__(self, host: Host, domain: str, name: str = "load", seconds: float = 1800, **options: str) -> None:
        """Start it and wait until all of its traffic flows. *options* are those of hammer.py, over :data:`LOAD`."""
        self.host = host
        place = f"/tmp/{name}"
        host.out("mkdir", "-p", place)
        host.sh(f"rm -f {place}/*")
        host.write(f"{place}/hammer.py", HAMMER.read_text(encoding="utf-8"))
        self.stop_file, self.ready_file, self.output = f"{place}/stop", f"{place}/ready", f"{place}/summary.json"
        command = ["python3", f"{place}/hammer.py", "https://127.0.0.1", "--host", domain, "--insecure"]
        command += ["--duration", f"{seconds:g}", "--timeout", "15", "--output", self.output]
        command += ["--stop-file", self.stop_file, "--ready-file", self.ready_file]
        for key, value in {**LOAD, **{key.replace("_", "-"): value for key, value in options.items()}}.items():
            command += [f"--{key}", value] if value else [f"--{key}"]
        self.process = subprocess.Popen(
            ["docker", "exec", host.name, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait_for("all traffic flows", self._flows, 40)
        except AssertionError:
            raise AssertionError(f"the load client is not ready: {json.dumps(self.end())[:6000]}") from None

    def _flows(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[0]
        return self.host.read(self.ready_file) is not None

    def end(self) -> dict[str, Any]:
        """Stop it, bounded, and return its summary."""
        self.host.run("touch", self.stop_file)
        try:
            self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        text = self.host.read(self.output)
        assert text, "the load client left no summary"
        summary: dict[str, Any] = json.loads(text)
        return summary


class Log:
    """What Nginx logs of a load's requests from now on."""

    def __init__(self, host: Host) -> None:
        self.host = host
        time.sleep(1.5)  # what was asked before is written once a second
        self.begin = int(host.sh("stat --format %s /var/log/nginx/access.log"))

    def count(self) -> int:
        """Return how many requests Nginx took."""
        lines = f"tail -c +{self.begin + 1} /var/log/nginx/access.log | grep -cE '/(upload|slow|api/info)' || true"
        return int(self.host.sh(lines))


def losses(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what is described of each loss, the earliest first, with its kind and its time as `at`."""
    kinds = {**summary["kinds"], **summary["streams"]}
    found = [{"kind": kind, **detail} for kind, tally in kinds.items() for detail in tally["details"]]
    return sorted(found, key=lambda detail: detail["at"])


def figures(summary: Mapping[str, Any]) -> str:
    """Return a summary in a few lines for people."""
    lines = ["requests {requests}, lost {lost}, {rate} a second, {seconds:.0f} s".format_map(summary)]
    for kind, tally in summary["kinds"].items():
        spread = ", ".join(f"{name} {seconds * 1000:.1f} ms" for name, seconds in tally["latency"].items())
        lines.append(f"  {kind:10} {tally['requests']:8}  lost {tally['lost']}  {spread}")
    for kind, tally in summary["streams"].items():
        ends = f"closed properly {tally['closed_properly']}, cut {tally['cut']}, codes {tally['close_codes']}"
        lines.append(f"  {kind:10} {tally['opened']:8}  lost {tally['lost']}  {ends}, longest {tally['longest']:.0f} s")
    return "\n".join(lines)
