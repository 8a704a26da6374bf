# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts, and beside each a container with tools that has the host's network: its 127.0.0.1 is the host's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2] / "tests")]

import driver
from examine import DOMAIN, Tools


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask each host."""
    if "machine" in metafunc.fixturenames:
        metafunc.parametrize("machine", driver.hosts(), indirect=True, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Serve what a fuzz declares when all else is done: it is served by all hosts at once, and stays."""
    items.sort(key=lambda item: item.path.name == "test_whatever_is_declared.py")


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> driver.Host:
    """A test host."""
    return driver.Host(request.param)


@pytest.fixture(scope="session")
def tools(machine: driver.Host) -> Iterator[Tools]:
    """The tools beside it."""
    name = f"{machine.name}-tools"
    command = ["docker", "run", "--detach", "--init", "--label", "asgi-stack", "--name", name]
    command += ["--network", f"container:{machine.name}", os.environ["TEST_IMAGE_TOOLS"], "sleep", "infinity"]
    remove = ["docker", "container", "rm", "--force", "--volumes", name]
    subprocess.run(remove, check=False, capture_output=True)
    subprocess.run(command, check=True, capture_output=True)
    names = f"127.0.0.1 {DOMAIN} www.{DOMAIN} unknown.test"
    # The engine gives both containers the same file.
    machine.sh(f"grep -qxF '{names}' /etc/hosts || echo '{names}' >>/etc/hosts")
    yield Tools(name, machine)
    subprocess.run(remove, check=False, capture_output=True)


@pytest.fixture(autouse=True)
def name_the_host(request: pytest.FixtureRequest) -> None:
    """Begin each test's figures with the host that they are of."""
    if "machine" in request.fixturenames:
        print(f"\n{request.getfixturevalue('machine').name}: ", end="")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show with each test that fails what the host's services logged."""
    report = yield
    driver.add_logs(
        report,
        getattr(item, "funcargs", {}).get("machine"),
        "systemctl --no-pager --full list-units --all 'asgi*' 'nginx*' | head -n 20",
        "journalctl --no-pager --boot --unit 'asgi*' --unit nginx | grep -v '\" 200 ' | tail -n 40",
        "tail -n 10 /var/log/nginx/error.log",
    )
    return report
