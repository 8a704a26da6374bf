# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers well for CRASH_AFTER seconds (default 1), then the process ends. What restarts it sees the same again."""

from __future__ import annotations

import os
import threading
from typing import Any

from answer import answer

crash = threading.Timer(float(os.environ.get("CRASH_AFTER", "1")), os._exit, args=(1,))
crash.daemon = True
crash.start()


async def app(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, receive, send)
