# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters that the plan is made with."""

from __future__ import annotations

import base64
import json
import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.asgi.stack.plugins.module_utils import _model, _plan
from ansible_collections.asgi.stack.plugins.plugin_utils import _control


def plan(
    apps: t.Any,
    host: str,
    sizing: t.Mapping[str, t.Any],
    sources: t.Mapping[str, t.Any],
    servers: t.Mapping[str, t.Any],
    root: str = "/srv/asgi",
) -> list[dict[str, t.Any]]:
    """See ``ansible-doc -t filter asgi.stack.plan``."""
    declared = _model.with_domains(apps, host)
    spec = _control.application_spec()
    problems = _model.validate(declared, spec)
    if problems:
        raise AnsibleFilterError("\n".join(problems))
    return _plan.plan(declared, spec=spec, sizing=sizing, sources=sources, servers=servers, root=root)


def sealed_secrets(apps: t.Sequence[t.Mapping[str, t.Any]], name: str) -> str:
    """See ``ansible-doc -t filter asgi.stack.sealed_secrets``."""
    for app in apps:
        if app["name"] == name:
            values = {str(key): str(value) for key, value in (app.get("secrets") or {}).items()}
            return base64.b64encode(json.dumps(values, sort_keys=True).encode()).decode()
    raise AnsibleFilterError(f"sealed_secrets: no application has the name {name}")


def hosts_with(hosts: t.Sequence[str], hostvars: t.Mapping[str, t.Any], name: str) -> list[str]:
    """See ``ansible-doc -t filter asgi.stack.hosts_with``."""

    def has(host: str) -> bool:
        apps = hostvars[host].get("asgi_apps") or []
        return any(app.get("name") == name and app.get("state") != "absent" for app in apps)

    return [host for host in hosts if has(host)]


def status_table(found: t.Mapping[str, t.Sequence[t.Mapping[str, t.Any]]]) -> list[str]:
    """See ``ansible-doc -t filter asgi.stack.status_table``."""
    rows = [("HOST", "APP", "RELEASE", "SOURCE", "SINCE", "HEALTH", "MEMORY", "WORKERS", "ROLLBACK TO")]
    for host, apps in found.items():
        for app in apps:
            live = app.get("live") or {}
            memory = app.get("memory")
            rows.append(
                (
                    host,
                    app["name"],
                    live.get("release") or "none is live",
                    str(live.get("revision") or "-"),
                    str(live.get("live_at") or "-").replace("+00:00", "Z"),
                    str(app.get("health") or "-"),
                    f"{memory / 2**20:.0f} MiB" if memory else "-",
                    str(live.get("workers_reason") or "-"),
                    ", ".join(app.get("rollback") or []) or "-",
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"plan": plan, "sealed_secrets": sealed_secrets, "hosts_with": hosts_with, "status_table": status_table}
