# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One fleet for the whole story."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2] / "tests")]

import driver
from world import Fleet


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """All hosts."""
    found = Fleet(tmp_path_factory.mktemp("fleet"))
    yield found
    found.end()


@pytest.fixture(autouse=True)
def step(request: pytest.FixtureRequest, fleet: Fleet) -> None:
    """Each test is a step of the story."""
    fleet.steps.append((request.node.name, time.time()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show with each test that fails what Nginx at the edge complained of."""
    report = yield
    fleet = getattr(item, "funcargs", {}).get("fleet")
    if fleet is not None:
        driver.add_logs(report, fleet.edge, "tail -n 40 /var/log/nginx/error.log")
    return report
