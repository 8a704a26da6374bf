# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An edge and its application hosts, the collection applied to them, and the load on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import driver

DOMAIN = "fleet.test"
SECONDS = 6  # that an old release may finish, and a canary is watched


class Fleet:
    """One of each, for the whole story."""

    def __init__(self, directory: Path) -> None:
        groups = _groups()
        (edge,) = groups["asgi_edge_hosts"]
        self.edge = driver.Host(edge)
        self.apps = [driver.Host(name) for name in groups["asgi_app_hosts"]]
        self.stack = driver.Stack(self.edge, directory)
        self.stacks = {host.name: driver.Stack(host, directory) for host in self.apps}
        self.load: driver.Load | None = None
        self.summary: dict[str, Any] = {}
        self.killed: tuple[float, float] = (0, 0)  # from when to when requests of a killed host may be lost
        self.drained: list[tuple[float, float]] = []  # in which WebSockets of a drained host may be cut
        self.reloaded: list[tuple[float, float]] = []  # in which the edge reloads, and closes idle connections
        self.cut: list[tuple[float, float]] = []  # in which the edge's old workers end
        self.steps: list[tuple[str, float]] = []
        self.addresses = {host.name: host.address for host in (self.edge, *self.apps)}
        self.have(self.apps)

    def have(self, apps: Sequence[driver.Host]) -> None:
        """Have these application hosts in the inventory."""
        found = {name: {"asgi_address": address} for name, address in self.addresses.items()}
        for number, host in enumerate(self.apps):
            found[host.name]["fleet_workers"] = str(1 + number % 2)
        self.stack.groups = {
            "asgi_edge_hosts": {self.edge.name: found[self.edge.name]},
            "asgi_app_hosts": {host.name: found[host.name] for host in apps},
        }

    def app(self, version: str, app: str = "main:app", **files: str) -> dict[str, Any]:
        """Declare the application with a certain version of its source."""
        return {
            "name": "demo",
            "app": app,
            "source": {"path": self.stack.source(version, VERSION=f"{version}\n", **files)},
            "domains": [DOMAIN],
            "workers": "{{ fleet_workers }}",
            "health": {"path": "/healthz"},
            "drain": SECONDS,
            "hooks": {"migrate": ["echo once >> $STATE_DIRECTORY/migrated"]},
            "locations": [
                {"path": "/static/", "kind": "static", "root": "static"},
                {"path": "/events", "kind": "sse"},
                {"path": "/ws", "kind": "websocket"},
            ],
        }

    def play(self, playbook: str, app: dict[str, Any], **variables: Any) -> driver.Play:
        return self.start(playbook, app, **variables).play()

    def start(self, playbook: str, app: dict[str, Any], **variables: Any) -> driver.Running:
        given = {"asgi_serial": 1, "asgi_soak": SECONDS, "site_balance_verify": True, **variables}
        return self.stack.start(playbook, app, options=("--extra-vars", json.dumps(given)))

    def during(self, loss: dict[str, Any]) -> str:
        """Return in which step a request was lost."""
        return [name for name, begin in self.steps if begin <= loss["at"]][-1]

    def answers(self) -> set[str]:
        """Return which hosts answer at the edge now."""
        return {driver.ask(self.edge, DOMAIN, "/api/info").json()["hostname"] for __ in range(12)}

    def live(self) -> list[str]:
        """Return the id of what is live on each application host."""
        return [str(self.stacks[host.name].live("demo")["id"]) for host in self.apps]

    def processes(self) -> list[int]:
        """Return the main process of what is live on each application host."""
        return [self.stacks[host.name].main_pid("demo") for host in self.apps]

    def end(self) -> None:
        if self.load is not None:
            self.summary = self.load.end()
            self.load = None
            sys.stdout.write(f"\n{driver.figures(self.summary)}\n")


def _groups() -> dict[str, list[str]]:
    """Return the scenario's hosts."""
    command = ["ansible-inventory", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], "--list"]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {group: sorted(listed[group]["hosts"]) for group in ("asgi_edge_hosts", "asgi_app_hosts")}
