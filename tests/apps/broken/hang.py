# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts, accepts requests, and never answers one."""

from __future__ import annotations

import asyncio
from typing import Any

from answer import answer


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "lifespan":
        await asyncio.Event().wait()
    await answer(scope, receive, send)
