# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small Starlette application, made by a factory: JSON, WebSocket, event stream."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

RELEASE = os.environ.get("ASGI_RELEASE", "dev")


async def info(request: Request) -> Response:
    return JSONResponse(
        {
            "framework": "starlette",
            "greeting": request.app.state.greeting,
            "release": RELEASE,
            "scheme": request.url.scheme,
            "host": request.url.hostname,
            "client": request.client.host if request.client else None,
            "started": request.app.state.started,
        }
    )


async def events(request: Request) -> Response:
    async def stream() -> AsyncIterator[str]:
        for number in range(1, int(request.query_params.get("count", "5")) + 1):
            yield f"data: {json.dumps({'n': number})}\n\n"
            await asyncio.sleep(float(request.query_params.get("interval", "0.2")))

    return StreamingResponse(stream(), media_type="text/event-stream")


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.started = True
    yield


def create_app() -> Starlette:
    routes = [Route("/api/info", info), Route("/events", events), WebSocketRoute("/ws", echo)]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.greeting = os.environ.get("GREETING", "hello")
    return app
