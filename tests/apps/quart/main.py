# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small Quart application: JSON, WebSocket, event stream."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from quart import Quart, request, websocket

RELEASE = os.environ.get("ASGI_RELEASE", "dev")

app = Quart(__name__)
started = False


@app.before_serving
async def startup() -> None:
    global started
    started = True


@app.get("/api/info")
async def info() -> dict[str, Any]:
    return {
        "framework": "quart",
        "release": RELEASE,
        "scheme": request.scheme,
        "host": request.host,
        "client": request.remote_addr,
        "started": started,
    }


@app.get("/events")
async def events() -> Any:
    count, interval = request.args.get("count", 5, int), request.args.get("interval", 0.2, float)

    async def stream() -> AsyncIterator[bytes]:
        for number in range(1, count + 1):
            yield f"data: {json.dumps({'n': number})}\n\n".encode()
            await asyncio.sleep(interval)

    return stream(), {"Content-Type": "text/event-stream"}


@app.websocket("/ws")
async def echo() -> None:
    while True:
        await websocket.send(await websocket.receive())
