# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters that the plan is made with."""

from __future__ import annotations

import base64
import json
import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.asgi.stack.plugins.module_utils import _fleet, _model, _plan, _sizing
from ansible_collections.asgi.stack.plugins.plugin_utils import _control


def plan(
    apps: t.Any,
    host: str,
    sizing: t.Mapping[str, t.Any],
    sources: t.Mapping[str, t.Any],
    servers: t.Mapping[str, t.Any],
    root: str = "/srv/asgi",
    edges: t.Sequence[str] = (),
) -> list[dict[str, t.Any]]:
    """See ``ansible-doc -t filter asgi.stack.plan``."""
    declared = _model.with_domains(apps, host)
    spec = _control.application_spec()
    problems = _model.validate(declared, spec)
    if problems:
        raise AnsibleFilterError("\n".join(problems))
    planned = _plan.plan(declared, spec=spec, sizing=sizing, sources=sources, servers=servers, root=root)
    return [{**app, "edge": _fleet.behind(app["edge"], edges)} for app in planned]


def plan_table(found: t.Mapping[str, t.Sequence[t.Any]]) -> list[str]:
    """See ``ansible-doc -t filter asgi.stack.plan_table``."""
    lines = []
    for host, (capacity, planned, sizing) in found.items():
        memory, others = (_sizing.format_size(capacity.get(key) or 0) for key in ("memory", "memory_others"))
        lines.append(
            f"{host}: {capacity['cpus']:g} CPUs ({capacity['cpus_from']}), {memory} of memory "
            f"({capacity['memory_from']}), of which {others} are held by others"
        )
        for app in planned:
            if app["state"] == "absent":
                lines.append(f"  {app['name']}: absent")
                continue
            sized = sizing[app["name"]]
            lines.append(f"  {app['name']}: {app['server']['name']}, {app['source']['revision']}, release {app['id']}")
            lines.append(f"    {sized['reason']}")
            lines.append(
                f"    a release takes {_sizing.format_size(sized['memory_budget'])}, and may take "
                f"{_sizing.format_size(sized['memory_max'])}"
            )
            if sized["warning"]:
                lines.append(f"    warning: {sized['warning']}")
    return lines


def sealed_secrets(apps: t.Sequence[t.Mapping[str, t.Any]], name: str) -> str:
    """See ``ansible-doc -t filter asgi.stack.sealed_secrets``."""
    for app in apps:
        if app["name"] == name:
            values = {str(key): str(value) for key, value in (app.get("secrets") or {}).items()}
            return base64.b64encode(json.dumps(values, sort_keys=True).encode()).decode()
    raise AnsibleFilterError(f"sealed_secrets: no application has the name {name}")


def certificates(apps: t.Sequence[t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """See ``ansible-doc -t filter asgi.stack.certificates``."""
    found = []
    for app in apps:
        tls = app["tls"]
        if tls["mode"] != "none":
            files = {key: tls.get(key) for key in ("certificate", "key")}
            on_host = bool(tls.get("on_host"))
            found.append(
                {"name": app["name"], "domains": app["domains"], "mode": tls["mode"], **files, "on_host": on_host}
            )
    return found


def hosts_with(hosts: t.Sequence[str], hostvars: t.Mapping[str, t.Any], name: str) -> list[str]:
    """See ``ansible-doc -t filter asgi.stack.hosts_with``."""

    def has(host: str) -> bool:
        apps = hostvars[host].get("asgi_apps") or []
        return any(app.get("name") == name and app.get("state") != "absent" for app in apps)

    return [host for host in hosts if has(host)]


def status_table(found: t.Mapping[str, t.Sequence[t.Mapping[str, t.Any]]]) -> list[str]:
    """See ``ansible-doc -t filter asgi.stack.status_table``."""
    rows = [("HOST", "APP", "RELEASE", "SOURCE", "SINCE", "HEALTH", "MEMORY", "WORKERS", "ROLLBACK TO", "CERTIFICATE")]
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
                    _held(memory, app.get("measured"), live) if memory else "-",
                    str(live.get("workers_reason") or "-"),
                    ", ".join(app.get("rollback") or []) or "-",
                    _ends(app.get("certificate")),
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _ends(certificate: t.Mapping[str, t.Any] | None) -> str:
    """Return in words where a certificate came from, when it ends, and what is wrong with it."""
    if not certificate:
        return "-"
    words = f"{certificate['mode']}, until {certificate['not_after'][:10]}"
    return f"{words}: {certificate['problem']}" if certificate.get("problem") else words


def _held(memory: int, measured: t.Mapping[str, t.Any] | None, live: t.Mapping[str, t.Any]) -> str:
    """Return in words what a release holds, and what a worker was measured and is planned to."""
    words = [_sizing.format_size(memory)]
    if measured:
        words.append(f"{_sizing.format_size(measured['per_worker'])} a worker")
    if live.get("memory_per_worker"):
        words.append(f"{_sizing.format_size(live['memory_per_worker'])} planned")
    return ", ".join(words)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {
            "plan": plan,
            "plan_table": plan_table,
            "sealed_secrets": sealed_secrets,
            "certificates": certificates,
            "hosts_with": hosts_with,
            "status_table": status_table,
        }
