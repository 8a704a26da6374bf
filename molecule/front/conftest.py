# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts, the collection applied to each, and a client that speaks HTTP/2 and HTTP/3 inside of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import driver

CLIENT = Path(__file__).resolve().parents[2] / "tests/hammer/modern.py"
DOMAIN = "demo.test"


class Modern:
    """tests/hammer/modern.py, which runs in the host with the packages of a release."""

    def __init__(self, host: driver.Host) -> None:
        self.host = host
        self.load: subprocess.Popen[str] | None = None

    def _command(self, *options: str) -> list[str]:
        python = self.host.sh("readlink -f /srv/asgi/demo/live/build") + "/venv/bin/python"
        self.host.out("mkdir", "-p", "/tmp/modern")
        self.host.write("/tmp/modern/modern.py", CLIENT.read_text(encoding="utf-8"))
        return [python, "/tmp/modern/modern.py", "443", "--timeout", "15", *options]

    def ask(self, version: str, path: str, *options: str, name: str = DOMAIN) -> dict[str, Any]:
        """Send one request with HTTP/2 or HTTP/3 (`h2`, `h3`); return status, headers and body."""
        command = self._command("--host", name, "--kinds", f"{version}_new", "--ask", path, *options)
        found: dict[str, Any] = json.loads(self.host.out(*command))
        assert not found["problem"], found
        return found

    def start(self) -> None:
        """Start the load, and wait until all kinds of requests are answered."""
        files = {name: f"/tmp/modern/{name}" for name in ("stop", "ready", "summary.json")}
        self.host.sh(f"rm -f {' '.join(files.values())}")
        options = ["--stop-file", files["stop"], "--ready-file", files["ready"], "--output", files["summary.json"]]
        command = self._command("--host", DOMAIN, "--duration", "900", *options)
        self.load = subprocess.Popen(["docker", "exec", self.host.name, *command], text=True)
        driver.wait_for("HTTP/2 and HTTP/3 flow", lambda: self.host.read(files["ready"]) is not None, 40)

    def end(self) -> dict[str, Any]:
        """Stop it; return its summary."""
        assert self.load is not None
        self.host.run("touch", "/tmp/modern/stop")
        self.load.wait(60)
        summary: dict[str, Any] = json.loads(self.host.read("/tmp/modern/summary.json") or "")
        return summary


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tell the whole story to each host."""
    if "machine" in metafunc.fixturenames:
        metafunc.parametrize("machine", driver.hosts(), indirect=True, scope="session")


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> driver.Host:
    """A test host."""
    return driver.Host(request.param)


@pytest.fixture(scope="session")
def stack(machine: driver.Host, tmp_path_factory: pytest.TempPathFactory) -> driver.Stack:
    """The collection, applied to it."""
    return driver.Stack(machine, tmp_path_factory.mktemp("stack"))


@pytest.fixture(scope="session")
def modern(machine: driver.Host) -> Iterator[Modern]:
    """The client inside of it."""
    client = Modern(machine)
    yield client
    if client.load is not None and client.load.poll() is None:
        client.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show with each test that fails what the host's services logged."""
    report = yield
    driver.add_logs(
        report,
        getattr(item, "funcargs", {}).get("machine"),
        "systemctl --no-pager --full list-units --all 'asgi*' | head -n 40",
        "journalctl --no-pager --boot --unit 'asgi*' --unit nginx | grep -v '\" 200 ' | tail -n 80",
    )
    return report
