# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host, the collection applied to it, and the applications that are served: one of each for all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2] / "tests")]

import driver


@pytest.fixture(scope="session")
def machine() -> driver.Host:
    """The test host: the scenario's, or the container ASGI_TEST_HOST."""
    (name,) = driver.hosts()
    return driver.Host(name)


@pytest.fixture(scope="session")
def stack(machine: driver.Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[driver.Stack]:
    """The collection, applied to the host by a control node that has no cache yet."""
    place = tmp_path_factory.mktemp("stack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        # Of a submodule, git by default takes no address that is a path.
        for name, value in {"COUNT": "1", "KEY_0": "protocol.file.allow", "VALUE_0": "always"}.items():
            patch.setenv(f"GIT_CONFIG_{name}", value)
        yield driver.Stack(machine, place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show with each test that fails what the host's services logged."""
    report = yield
    driver.add_logs(
        report,
        getattr(item, "funcargs", {}).get("machine"),
        "systemctl --no-pager --full list-units --all 'asgi*' | head -n 40",
        "journalctl --no-pager --boot --lines 60 --unit 'asgi*' --unit nginx",
    )
    return report
