# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fails in its lifespan's startup."""

from __future__ import annotations

from typing import Any

from answer import answer


async def startup() -> None:
    raise RuntimeError("this application cannot start")


async def app(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, receive, send, startup=startup)
