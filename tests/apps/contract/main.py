# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain ASGI application that says what its server does: what the contract suite (molecule/servers) asks about.

What happens to it is written to events.jsonl in its state directory, one JSON object a line: a test sees there what no
answer can tell, such as a shutdown.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

RELEASE = os.environ.get("ASGI_RELEASE", "dev")
PLACE = Path(os.environ.get("STATE_DIRECTORY", "."))
CHUNK = 65536

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def note(event: str, **facts: Any) -> None:
    """Append a line; one write, so that lines of several workers do not mix."""
    line = json.dumps({"event": event, "pid": os.getpid(), "release": RELEASE, "at": time.time(), **facts})
    with open(PLACE / "events.jsonl", "a", encoding="utf-8") as file:
        file.write(line + "\n")


class Exchange:
    """One request."""

    def __init__(self, scope: Any, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode()).items()}

    def number(self, name: str, default: float) -> float:
        return float(self.query.get(name, default))

    async def start(self, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        fields = {"content-type": kind, "x-release": RELEASE, **headers}
        encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": encoded})

    async def body(self, data: bytes = b"", more: bool = False) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(self, document: Any, status: int = 200) -> None:
        data = json.dumps(document).encode()
        await self.start(status, content_length=str(len(data)))
        await self.body(data)

    async def digest(self) -> dict[str, Any]:
        """Read the body as it comes; say also in how many pieces, and over how many seconds, it came."""
        size, pieces, digest, first, more = 0, 0, hashlib.sha256(), 0.0, True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                note("disconnect", query=self.scope["query_string"].decode(), message=message["type"])
                raise ConnectionError("the client went away within its request")
            piece, more = message.get("body", b""), message.get("more_body", False)
            if piece:
                first = first or time.monotonic()
                size, pieces = size + len(piece), pieces + 1
                digest.update(piece)
        spread = time.monotonic() - first if first else 0.0
        return {
            "release": RELEASE,
            "pid": os.getpid(),
            "bytes": size,
            "pieces": pieces,
            "spread": spread,
            "sha256": digest.hexdigest(),
        }


def described(scope: Any) -> dict[str, Any]:
    """Return what the server said about a connection."""
    loop = type(asyncio.get_running_loop())
    return {
        "release": RELEASE,
        "pid": os.getpid(),
        "loop": f"{loop.__module__}.{loop.__qualname__}",
        "type": scope["type"],
        "asgi": scope["asgi"],
        "http_version": scope["http_version"],
        "method": scope.get("method"),
        "scheme": scope["scheme"],
        "path": scope["path"],
        "raw_path": scope["raw_path"].decode() if scope.get("raw_path") else None,
        "query_string": scope["query_string"].decode(),
        "root_path": scope.get("root_path", ""),
        "client": list(scope["client"]) if scope.get("client") else None,
        "subprotocols": list(scope.get("subprotocols", ())),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        "state": scope.get("state", {}).get("started_by"),
    }


async def info(exchange: Exchange) -> None:
    await exchange.answer(described(exchange.scope))


async def health(exchange: Exchange) -> None:
    await exchange.answer({"status": "ok"})


async def upload(exchange: Exchange) -> None:
    await exchange.answer(await exchange.digest())


async def slow(exchange: Exchange) -> None:
    seconds = exchange.number("seconds", 1)
    result = await exchange.digest()
    note("slow")
    await asyncio.sleep(seconds)
    await exchange.answer(result)


async def chunked(exchange: Exchange) -> None:
    """Send `count` pieces without saying how many bytes they have."""
    await exchange.start(kind="text/plain")
    for number in range(int(exchange.number("count", 3))):
        await exchange.body(f"piece {number}\n".encode(), more=True)
        await asyncio.sleep(exchange.number("interval", 0))
    await exchange.body()


async def download(exchange: Exchange) -> None:
    """Send `bytes` bytes; the file `download` says how many the server has taken so far."""
    size = int(exchange.number("bytes", 1_000_000))
    await exchange.start(kind="application/octet-stream", content_length=str(size))
    sent = 0
    with open(PLACE / "download", "w", encoding="utf-8") as progress:
        while sent < size:
            piece = bytes(min(CHUNK, size - sent))
            await exchange.body(piece, more=True)
            sent += len(piece)
            progress.seek(0)
            progress.write(str(sent))
            progress.flush()
            # While the client keeps up, to send is not to wait: the event loop would be blocked, its worker replaced.
            await asyncio.sleep(0)
    await exchange.body()


async def events(exchange: Exchange) -> None:
    """Send `count` events, one every `interval` seconds; with count=0, until the client goes away."""
    count, interval = int(exchange.number("count", 5)), exchange.number("interval", 0.2)
    await exchange.digest()
    gone = asyncio.ensure_future(exchange.receive())
    try:
        await exchange.start(kind="text/event-stream", cache_control="no-cache")
        number = 0
        while count == 0 or number < count:
            if number:
                await asyncio.wait([gone], timeout=interval)
                if gone.done():
                    note("disconnect", query=exchange.scope["query_string"].decode(), message=gone.result()["type"])
                    return
            number += 1
            text = json.dumps({"n": number, "release": RELEASE})
            await exchange.body(f"id: {number}\ndata: {text}\n\n".encode(), more=True)
        await exchange.body()
    finally:
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone


async def block(exchange: Exchange) -> None:
    """Block the event loop of this worker."""
    note("block")
    time.sleep(exchange.number("seconds", 1))
    await exchange.answer({"pid": os.getpid()})


async def error(exchange: Exchange) -> None:
    raise RuntimeError(f"the application failed {exchange.query.get('word', '')}".strip())


async def missing(exchange: Exchange) -> None:
    await exchange.answer({"error": "there is no such path"}, 404)


ROUTES = {
    "/": health,
    "/healthz": health,
    "/api/info": info,
    "/upload": upload,
    "/slow": slow,
    "/chunked": chunked,
    "/download": download,
    "/events": events,
    "/block": block,
    "/error": error,
}


async def websocket(scope: Any, receive: Receive, send: Send, path: str) -> None:
    """Echo; `whoami` is answered with the scope, `close CODE REASON` by closing. /refused is refused."""
    await receive()
    if path != "/ws":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"x-release", RELEASE.encode())]
    await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None), "headers": headers})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            note("websocket.disconnect", code=message.get("code"), query=scope["query_string"].decode())
            return
        text = message.get("text")
        if text is None:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
        elif text == "whoami":
            await send({"type": "websocket.send", "text": json.dumps(described(scope))})
        elif text.startswith("close "):
            __, code, reason = text.split(" ", 2)
            await send({"type": "websocket.close", "code": int(code), "reason": reason})
            return
        else:
            await send({"type": "websocket.send", "text": text})


async def lifespan(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    note("startup")
    if "state" in scope:
        scope["state"]["started_by"] = os.getpid()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    note("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


async def app(scope: Any, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    path, root = scope["path"], scope.get("root_path", "")
    if root and path.startswith(f"{root}/"):
        path = path[len(root) :]
    if scope["type"] == "websocket":
        await websocket(scope, receive, send, path)
    else:
        await ROUTES.get(path, missing)(Exchange(scope, receive, send))
