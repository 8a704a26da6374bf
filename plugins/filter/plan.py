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


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"plan": plan, "sealed_secrets": sealed_secrets}
