# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kill the control node's process when a task begins, and keep the arguments of the modules that ran.

INTERRUPT_AT: the play ends with SIGKILL when a task begins that uses this action (and, after a colon, the number of
its beginning). INTERRUPT_CAPTURE: a file to which each module's arguments are appended, a line of JSON each.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: interrupt
type: notification
short_description: Kill the play at a task
description: Used by a test.
"""


class CallbackModule(CallbackBase):
    """See the module's description."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "interrupt"

    def __init__(self) -> None:
        super().__init__()
        self.action, __, number = os.environ.get("INTERRUPT_AT", "").partition(":")
        self.left = int(number or 1)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        if self.action and task.action == self.action:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def keep(self, result: Any) -> None:
        path = os.environ.get("INTERRUPT_CAPTURE")
        # ansible-core 2.19 has the private names only.
        task = getattr(result, "task", None) or result._task
        arguments = (getattr(result, "result", None) or result._result).get("invocation", {}).get("module_args")
        if path and arguments is not None:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"action": task.action, "args": arguments}) + "\n")

    v2_runner_on_ok = keep
    v2_runner_item_on_ok = keep
