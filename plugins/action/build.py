# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring a source to the host, if the host has no build of it, and build it there."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.asgi.stack.plugins.plugin_utils import _control, _source


class ActionModule(ActionBase):
    """Documented in plugins/modules/build.py."""

    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        arguments = {key: value for key, value in self._task.args.items() if key != "archive"}
        answer = self._execute_module("asgi.stack.build", module_args=arguments, task_vars=task_vars)
        if answer.get("needs_archive") and not answer.get("failed"):
            name, source = arguments["name"], arguments["source"]
            try:
                local = _source.archive(source, _control.cache())
            except _source.SourceError as error:
                raise AnsibleActionFail(f"{name}: {error}") from None
            self._connection._shell.tmpdir or self._make_tmp_path()
            remote = self._connection._shell.join_path(self._connection._shell.tmpdir, local.name)
            self._transfer_file(str(local), remote)
            answer = self._execute_module(
                "asgi.stack.build", module_args={**arguments, "archive": remote}, task_vars=task_vars
            )
            self._remove_tmp_path(self._connection._shell.tmpdir)
        answer.pop("needs_archive", None)
        result.update(answer)
        return result
