# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host, the collection applied to it, and the load on it: one of each for the whole story."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import driver


class Story:
    """The steps so far, when each was, and which release each made live; the load goes on through all of them."""

    def __init__(self, host: driver.Host) -> None:
        self.host = host
        self.steps: list[tuple[str, float, float]] = []
        self.served: list[str] = []  # the releases that may have answered, as they went live
        self.retired: dict[str, float] = {}  # when they were retired first, seconds since the epoch
        self.builds: dict[str, str] = {}  # some of them, by a word
        self.failed: set[str] = set()  # those that must not have
        self.loads: dict[str, driver.Load] = {}
        self.summaries: dict[str, dict[str, Any]] = {}

    def begin(self) -> None:
        """Start the load: all kinds of requests with streams that end, and event streams that never do."""
        self.loads["all"] = driver.Load(self.host, "demo.test", "all")
        endless: dict[str, Any] = {"rates": "get_kept=0,get_new=0,post_kept=0,post_slow=0", "streams": "ws=0,sse=2"}
        more: dict[str, Any] = {"sse-path": "/events?count=0&interval=1", "sse-may-be-cut": ""}
        self.loads["endless"] = driver.Load(self.host, "demo.test", "endless", **endless, **more)

    def end(self) -> None:
        """End the load; its summaries are known then."""
        for name, load in self.loads.items():
            self.summaries[name] = load.end()
            text = f"\nload {name}: {driver.figures(self.summaries[name])}\n"
            sys.stdout.write(text)
        self.loads.clear()

    def during(self, at: float) -> str:
        """Return the step that was going on, or had last ended, at that time."""
        name = "before the first step"
        for step, begin, _end in self.steps:
            if begin <= at:
                name = step
        return name


@pytest.fixture(scope="session")
def machine() -> driver.Host:
    """The test host: the scenario's, or the container ASGI_TEST_HOST."""
    (name,) = driver.hosts()
    return driver.Host(name)


@pytest.fixture(scope="session")
def stack(machine: driver.Host, tmp_path_factory: pytest.TempPathFactory) -> driver.Stack:
    """The collection, applied to the host."""
    return driver.Stack(machine, tmp_path_factory.mktemp("stack"))


@pytest.fixture(scope="session")
def story(machine: driver.Host) -> Iterator[Story]:
    """What has happened so far."""
    found = Story(machine)
    yield found
    found.end()


@pytest.fixture(autouse=True)
def step(request: pytest.FixtureRequest, story: Story) -> Iterator[None]:
    """Each test is a step of the story."""
    begin = time.time()
    yield
    story.steps.append((request.node.name, begin, time.time()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show with each test that fails what the host's services logged."""
    report = yield
    log = "journalctl --no-pager --boot --output short-precise --unit 'asgi*' --unit nginx"
    driver.add_logs(
        report,
        getattr(item, "funcargs", {}).get("machine"),
        "systemctl --no-pager --full list-units --all 'asgi*' | head -n 40",
        # What is not a line of an access log.
        f"{log} | grep -v ' HTTP/1.1\" ' | tail -n 80",
        "tail -n 20 /var/log/nginx/error.log",
    )
    return report
