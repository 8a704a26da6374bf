# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the helpers are, and what is shown with a test that fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2] / "tests")]

import driver


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
