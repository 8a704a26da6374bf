# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an edge does besides TLS, where there is no Nginx: `Gate`. Standard library only, Python 3.10 and later."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Gate:
    """What an edge does besides TLS, as an ASGI application around another one."""

    def __init__(self, application: Application, domains: Iterable[str], https_port: int, max_body_size: int) -> None:
        names = [domain.lower() for domain in domains]
        self.application = application
        self.names = {name for name in names if not name.startswith("*.")}
        self.parents = tuple(name[1:] for name in names if name.startswith("*."))
        self.port = "" if https_port == 443 else f":{https_port}"
        self.max_body_size = max_body_size

    def serves(self, name: str) -> bool:
        return name in self.names or name.endswith(self.parents)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        scope["client"], scope["server"] = _plain_address(scope.get("client")), _plain_address(scope.get("server"))
        host = next((value for name, value in headers if name == b"host"), b"").decode("latin-1").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if not self.serves(name):
            await _answer(scope, send, 421)
        elif scope["scheme"] in ("http", "ws"):
            query = b"?" + scope["query_string"] if scope["query_string"] else b""
            target = (scope.get("raw_path") or b"/") + query
            await _answer(scope, send, 308, [(b"location", f"https://{name}{self.port}".encode() + target)])
        else:
            scope["headers"] = [(name, value) for name, value in headers if not _speaks_for_a_proxy(name)]
            if scope["type"] == "http":
                await self._bounded(scope, receive, send)
            else:
                await self.application(scope, receive, send)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let no more than `max_body_size` bytes of a body through."""
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if length.isdigit() and int(length) > self.max_body_size:
            await _answer(scope, send, 413, [(b"connection", b"close")])
            return
        size = 0
        refused = started = False

        async def counted() -> Message:
            nonlocal size, refused
            message = await receive()
            size += len(message.get("body", b""))
            if size <= self.max_body_size:
                return message
            if not refused and not started:
                refused = True
                await _answer(scope, send, 413, [(b"connection", b"close")])
            return {"type": "http.disconnect"}

        async def sent(message: Message) -> None:
            nonlocal started
            started = True
            if not refused:
                await send(message)

        try:
            await self.application(scope, counted, sent)
        except Exception:
            if not refused:  # else it is about the rest that did not come
                raise


async def _answer(scope: Scope, send: Send, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Answer without a body; a WebSocket is refused with the same status where the server can do that."""
    kept = [(name, value) for name, value in headers if name != b"connection" or scope["http_version"] == "1.1"]
    if scope["type"] == "http":
        prefix = "http.response"
    elif "websocket.http.response" in scope.get("extensions", {}):
        prefix = "websocket.http.response"
    else:
        await send({"type": "websocket.close"})
        return
    await send({"type": f"{prefix}.start", "status": status, "headers": [(b"content-length", b"0"), *kept]})
    await send({"type": f"{prefix}.body", "body": b""})


def _speaks_for_a_proxy(name: bytes) -> bool:
    """Whether a header says what only a proxy knows. There is none in front, so a client made it up."""
    return name in (b"forwarded", b"x-real-ip", b"proxy") or name.startswith(b"x-forwarded-")


def _plain_address(address: Any) -> Any:
    """Return an IPv4 address that came over a socket for both families as such."""
    if not address:
        return address
    with contextlib.suppress(ValueError):
        mapped = getattr(ipaddress.ip_address(address[0]), "ipv4_mapped", None)
        if mapped is not None:
            return (str(mapped), address[1])
    return (address[0], address[1])
