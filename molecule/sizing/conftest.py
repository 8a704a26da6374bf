# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host, which can be resized, and the collection applied to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import driver


class Machine(driver.Host):
    """A test host whose CPUs and memory are set as those of a VM are."""

    def resize(self, **limits: str) -> None:
        """Set limits, options of `docker update`: ``cpus``, ``cpuset_cpus``, ``memory``."""
        if "memory" in limits:
            limits["memory_swap"] = limits["memory"]
        options = [f"--{name.replace('_', '-')}={value}" for name, value in limits.items()]
        subprocess.run(["docker", "container", "update", *options, self.name], check=True, capture_output=True)


@pytest.fixture(scope="session")
def machine() -> Machine:
    """The test host: the scenario's, or the container ASGI_TEST_HOST."""
    (name,) = driver.hosts()
    return Machine(name)


@pytest.fixture(scope="session")
def stack(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> driver.Stack:
    """The collection, applied to the host."""
    return driver.Stack(machine, tmp_path_factory.mktemp("stack"))
