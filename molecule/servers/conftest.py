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
def aged() -> Iterator[driver.Load]:
    """A little load on the application whose workers are replaced by their age, from the first test on."""
    (app,) = [app for app in variants.APPS if app.name == "aged-granian"]
    rates = "get_kept=10,get_new=5,post_kept=5,post_slow=1"
    load = driver.Load(app.host, app.domain, "aged", rates=rates, streams="ws=0,sse=0")
    yield load
    if load.process.poll() is None:
        load.end()


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
