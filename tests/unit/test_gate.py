# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an edge does besides TLS, where there is no Nginx."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "roles/hypercorn/files/hypercorn_gate.py"
_spec = importlib.util.spec_from_file_location("hypercorn_gate", FILE)
assert _spec is not None and _spec.loader is not None
gate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(gate)


class Application:
    """Reads the body and answers with its size; keeps the scope."""

    def __init__(self) -> None:
        self.scope: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        size, more = 0, scope["type"] == "http"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client is gone")
            size += len(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})


def ask(
    host: str = "a.example", *, bodies: tuple[bytes, ...] = (b"",), port: int = 443, **more: Any
) -> tuple[list[Any], Any]:
    """Send one request through the gate; return what it sends, and what the application saw."""
    headers = [(b"host", host.encode()), *more.pop("headers", [])]
    scope = {"type": "http", "scheme": "https", "http_version": "1.1", "raw_path": b"/x", "query_string": b""}
    scope |= {"client": ("::ffff:192.0.2.1", 5, 0, 0), "server": ("2001:db8::1", 443, 0, 0), "headers": headers, **more}
    messages = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    messages[-1]["more_body"] = False
    application, sent = Application(), []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    served = ["a.example", "*.wild.example"]
    asyncio.run(gate.Gate(application, served, port, 10)(scope, receive, send))
    return sent, application.scope


@pytest.mark.parametrize("host", ["a.example", "A.Example:443", "b.wild.example", "c.b.wild.example"])
def test_names_that_are_served(host: str) -> None:
    sent, __ = ask(host)
    assert sent[0]["status"] == 200


@pytest.mark.parametrize("host", ["", "b.example", "wild.example", "a.example.evil", "192.0.2.1", "xwild.example"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_names_that_are_not(host: str, scheme: str) -> None:
    sent, seen = ask(host, scheme=scheme)
    assert sent[0]["status"] == 421
    assert seen is None


@pytest.mark.parametrize(("port", "shown"), [(443, ""), (8443, ":8443")])
def test_plain_http_is_redirected(port: int, shown: str) -> None:
    sent, seen = ask("A.example:80", port=port, scheme="http", raw_path=b"/a%2Fb", query_string=b"c=%26")
    assert seen is None
    assert sent[0]["status"] == 308
    assert dict(sent[0]["headers"])[b"location"] == f"https://a.example{shown}/a%2Fb?c=%26".encode()


def test_plain_websocket_is_redirected_or_refused() -> None:
    websocket = {"type": "websocket", "scheme": "ws"}
    sent, __ = ask(**websocket, extensions={"websocket.http.response": {}})
    assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 308)
    assert ask(**websocket)[0] == [{"type": "websocket.close"}]


def test_a_client_cannot_speak_for_a_proxy() -> None:
    names = ["forwarded", "x-real-ip", "proxy", "x-forwarded-for", "x-forwarded-whatever"]
    __, seen = ask(headers=[(name.encode(), b"192.0.2.9") for name in [*names, "x-mine"]])
    assert seen["headers"] == [(b"host", b"a.example"), (b"x-mine", b"192.0.2.9")]


def test_addresses_are_plain() -> None:
    __, seen = ask()
    assert seen["client"] == ("192.0.2.1", 5)
    assert seen["server"] == ("2001:db8::1", 443)


@pytest.mark.parametrize("headers", [[(b"content-length", b"11")], []])
def test_bodies_are_bounded(headers: list[tuple[bytes, bytes]]) -> None:
    sent, __ = ask(headers=headers, bodies=(b"12345", b"123456"))
    assert [message.get("status") for message in sent] == [413, None]
    assert ask(bodies=(b"12345", b"12345"))[0][1]["body"] == b"10"


def test_connection_is_a_word_of_http_1() -> None:
    large = [(b"content-length", b"11")]
    assert (b"connection", b"close") in ask(headers=large)[0][0]["headers"]
    assert (b"connection", b"close") not in ask(headers=large, http_version="3")[0][0]["headers"]
