# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the helpers are, and what is shown with a test that fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2] / "tests")]

import driver
import variants


@pytest.fixture(scope="session", autouse=True)
def meanwhile(request: pytest.FixtureRequest) -> None:
    """Begin with the first test what takes a while and is judged by a later one, if that one is run."""
    if any("broken" in item.fixturenames for item in request.session.items if isinstance(item, pytest.Function)):
        request.getfixturevalue("broken")


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[driver.Running]:
    """A run that declares an application whose lifespan fails, on each server, on the host that has less to do."""
    source = {"test_source": str(variants.PROJECT / "tests/apps")}
    stack = driver.Stack(variants.LESS_BUSY, tmp_path_factory.mktemp("broken"), source)
    play = stack.start("site", *(variants.broken(app) for app in variants.ALL_VARIANTS))
    yield play
    if play.process.poll() is None:
        play.play()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show with each test that fails what the application's services logged."""
    report = yield
    app = getattr(item, "funcargs", {}).get("app")
    if app is not None:
        driver.add_logs(
            report,
            app.host,
            f"systemctl --no-pager --full --lines 0 status 'asgi-{app.name}@*' | head -n 40",
            # What is not a line of an access log.
            f"journalctl --no-pager --boot --output short-precise --unit 'asgi-{app.name}@*' | grep -v 'HTTP/1.1'"
            " | tail -n 30",
            "tail -n 5 /var/log/nginx/error.log",
        )
    return report
