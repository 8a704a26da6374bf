# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shown with each test that fails: what the host's services logged."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.when == "call" and report.failed and host is not None:
        for command in (
            "systemctl --no-pager --full status 'asgi-*' nginx | head -n 60",
            "journalctl --no-pager --boot --lines 80 --unit 'asgi-*' --unit nginx",
        ):
            report.sections.append((command, host.run(command).stdout))
    return report
