# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Healthy, but only after a startup of START_SECONDS (default 6)."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from answer import answer


async def startup() -> None:
    await asyncio.sleep(float(os.environ.get("START_SECONDS", "6")))


async def app(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, receive, send, startup=startup)
