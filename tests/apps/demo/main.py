# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small FastAPI application with what a deployment must carry: JSON, WebSocket, event stream, upload, static files.

Every answer carries the release in the header X-Release, so that a client can tell which release served it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import pwd
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

HERE = Path(__file__).resolve().parent
VERSION = (HERE / "VERSION").read_text(encoding="utf-8").strip()
RELEASE = os.environ.get("ASGI_RELEASE", "dev")
INDEX = (HERE / "index.html").read_text(encoding="utf-8")
CHECK = (HERE / "check.html").read_text(encoding="utf-8")
# What its pages need, and nothing else.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
)

# Headers by which a proxy describes the request it forwards; Proxy is here to show that it does not arrive.
FORWARDED = ("forwarded", "proxy", "x-real-ip", "x-request-id")

Seconds = Annotated[float, Query(ge=0, le=300)]


@asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    application.state.started = time.time()
    yield


class ReleaseHeader:
    """Add X-Release to every answer, the acceptance of a WebSocket included."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def marked(message: Any) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                message["headers"] = [*message.get("headers", ()), (b"x-release", RELEASE.encode())]
            await send(message)

        await self.inner(scope, receive, marked)


app = FastAPI(title="demo", version=VERSION, lifespan=lifespan)
app.add_middleware(ReleaseHeader)
app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")


def http_parser() -> str | None:
    """Name the parser in use, or None where the server does not say (it is known for Uvicorn and its workers)."""
    for name in ("httptools", "h11"):
        if f"uvicorn.protocols.http.{name}_impl" in sys.modules:
            return name
    return None


def user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def forwarded_headers(request: Request) -> dict[str, str]:
    """Return the forwarding headers as they arrived; a repeated one is joined with commas."""
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        if name in FORWARDED or name.startswith("x-forwarded-"):
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


@app.get("/")
async def index() -> HTMLResponse:
    return HTMLResponse(INDEX, headers={"Content-Security-Policy": CONTENT_POLICY})


@app.get("/check")
async def check() -> HTMLResponse:
    """A page that asks for one of each by itself, and writes down what came."""
    return HTMLResponse(CHECK, headers={"Content-Security-Policy": CONTENT_POLICY})


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/api/info")
async def info(request: Request) -> dict[str, Any]:
    loop = type(asyncio.get_running_loop())
    return {
        "app": "demo",
        "version": VERSION,
        "release": RELEASE,
        "client": request.client.host if request.client else None,
        "scheme": request.url.scheme,
        "host": request.headers.get("host"),
        "root_path": request.scope.get("root_path", ""),
        "http_version": request.scope["http_version"],
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "user": user_name(),
        "python": platform.python_version(),
        "loop": f"{loop.__module__}.{loop.__qualname__}",
        "http": http_parser(),
        "started": request.app.state.started,
        "headers": forwarded_headers(request),
    }


@app.get("/events")
async def events(
    count: Annotated[int, Query(ge=0, le=100_000)] = 5, interval: Annotated[float, Query(ge=0.01, le=60)] = 0.2
) -> StreamingResponse:
    """Send `count` events, one every `interval` seconds; with count=0, until the client goes away."""

    async def stream() -> AsyncIterator[str]:
        n = 0
        while count == 0 or n < count:
            if n:
                await asyncio.sleep(interval)
            n += 1
            yield f"id: {n}\ndata: {json.dumps({'n': n, 'release': RELEASE})}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


@app.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    """Echo text and bytes; the text `whoami` is answered with the release and the process."""
    await websocket.accept()
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") == "whoami":
                await websocket.send_json({"release": RELEASE, "pid": os.getpid()})
            elif message.get("text") is not None:
                await websocket.send_text(message["text"])
            else:
                await websocket.send_bytes(message["bytes"])
    except WebSocketDisconnect:
        return


async def digest_of(request: Request) -> dict[str, Any]:
    """Read the body as it comes, without holding it in memory."""
    size, digest = 0, hashlib.sha256()
    async for chunk in request.stream():
        size += len(chunk)
        digest.update(chunk)
    return {"release": RELEASE, "bytes": size, "sha256": digest.hexdigest()}


@app.post("/upload")
async def upload(request: Request) -> dict[str, Any]:
    return await digest_of(request)


@app.get("/slow")
async def slow(seconds: Seconds = 1) -> dict[str, Any]:
    await asyncio.sleep(seconds)
    return {"release": RELEASE, "seconds": seconds}


@app.post("/slow")
async def slow_upload(request: Request, seconds: Seconds = 1) -> dict[str, Any]:
    result = await digest_of(request)
    await asyncio.sleep(seconds)
    return {**result, "seconds": seconds}


@app.get("/work")
async def work(rounds: Annotated[int, Query(ge=1, le=1_000_000)] = 20_000) -> dict[str, Any]:
    """Use the CPU: about 10 ms with the default number of rounds."""
    value = b"demo"
    for __ in range(rounds):
        value = hashlib.sha256(value).digest()
    return {"release": RELEASE, "rounds": rounds, "result": value.hex()}


if os.environ.get("DEMO_UNSAFE") == "1":
    import unsafe

    app.include_router(unsafe.router)
