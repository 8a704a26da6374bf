# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring certificates and keys that lie on the control node to the host, in parameters that are not logged."""

from __future__ import annotations

import time
import typing as t
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.asgi.stack.plugins.plugin_utils import _tls


class ActionModule(ActionBase):
    """Documented in plugins/modules/certificate.py."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        base = Path(self._task.args.get("base") or ".")
        wanted = []
        problems = []
        for one in self._task.args.get("certificates") or []:
            given = {key: value for key, value in one.items() if key not in ("chain", "private_key")}
            # The module itself says what is missing.
            here = given.get("mode") == "provided" and not given.get("on_host")
            if here and given.get("certificate") and given.get("key"):
                found = _tls.problems(given, given.get("domains") or [], base, self._loader, time.time())
                problems += [f"{given.get('name')}: {line}" for line in found]
                given["chain"], given["private_key"], _wrong = _tls.load(given, base, self._loader)
            wanted.append(given)
        if problems:
            raise AnsibleActionFail("\n".join(problems))
        arguments = {**self._task.args, "certificates": wanted}
        result.update(self._execute_module("asgi.stack.certificate", module_args=arguments, task_vars=task_vars))
        return result
