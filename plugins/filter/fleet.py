# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters that many hosts need."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.asgi.stack.plugins.module_utils import _fleet, _model, _plan
from ansible_collections.asgi.stack.plugins.plugin_utils import _control

T = t.TypeVar("T")


def _said(function: t.Callable[..., T], *arguments: t.Any, **named: t.Any) -> T:
    try:
        return function(*arguments, **named)
    except _fleet.FleetError as error:
        raise AnsibleFilterError(str(error)) from None


def batches(hosts: t.Sequence[str], serial: t.Any, canary: t.Any = None) -> list[list[str]]:
    """See ``ansible-doc -t filter asgi.stack.batches``."""
    return _said(_fleet.batches, hosts, serial, canary)


def edge_addresses(hosts: t.Sequence[str], hostvars: t.Mapping[str, t.Any]) -> list[str]:
    """See ``ansible-doc -t filter asgi.stack.edge_addresses``."""
    return _said(_fleet.edge_addresses, {host: hostvars[host] for host in hosts})


def edge_apps(
    hosts: t.Sequence[str], hostvars: t.Mapping[str, t.Any], drained: t.Sequence[str] = ()
) -> list[dict[str, t.Any]]:
    """See ``ansible-doc -t filter asgi.stack.edge_apps``."""
    variables = {host: hostvars[host] for host in hosts}
    return _said(_fleet.edge_apps, variables, spec=_control.application_spec(), drained=drained)


def deploy_table(found: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[str]:
    """See ``ansible-doc -t filter asgi.stack.deploy_table``."""
    return _fleet.table(found)


def drift(found: t.Mapping[str, t.Mapping[str, t.Any]], renew_days: int = 14) -> list[str]:
    """See ``ansible-doc -t filter asgi.stack.drift``."""
    return _fleet.drift(found, renew_days)


def release_ids(
    apps: t.Any, host: str, sources: t.Mapping[str, t.Any], servers: t.Mapping[str, t.Any]
) -> dict[str, str]:
    """See ``ansible-doc -t filter asgi.stack.release_ids``."""
    # How many workers a host has makes no difference to the id.
    unknown = dict.fromkeys((*_plan._MEMORY, "workers", "reason", "side_by_side"), 0)
    declared = _model.with_domains(apps, host)
    sizing = {app["name"]: unknown for app in declared}
    spec = _control.application_spec()
    planned = _plan.plan(declared, spec=spec, sizing=sizing, sources=sources, servers=servers)
    return {app["name"]: app["id"] for app in planned if app["state"] == "present"}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {
            "batches": batches,
            "edge_addresses": edge_addresses,
            "edge_apps": edge_apps,
            "deploy_table": deploy_table,
            "drift": drift,
            "release_ids": release_ids,
        }
