# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the broken applications share: a plain ASGI application that answers every path."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

RELEASE = os.environ.get("ASGI_RELEASE", "dev")


async def nothing() -> None:
    return


async def answer(
    scope: Any, receive: Any, send: Any, status: int = 200, startup: Callable[[], Awaitable[None]] = nothing
) -> None:
    """Run the lifespan with `startup`, and answer requests with `status` and the release."""
    if scope["type"] == "lifespan":
        await receive()
        try:
            await startup()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        headers = [(b"content-type", b"application/json"), (b"x-release", RELEASE.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"release": RELEASE}).encode()})
    else:
        await send({"type": "websocket.close", "code": 1011})
