# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the test hosts that says what it connects to, what name it asks for, and what it claims.

Used by the tests of the scenarios.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import websockets.sync.client

SECONDS = 10


@dataclass
class Answer:
    """What came back, and the address that the request came from."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    client: str

    def json(self) -> Any:
        return json.loads(self.body)


def unverified() -> ssl.SSLContext:
    """Return a context for servers whatever their certificate. The default one reads all authorities, for 20 ms."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(
    target: str, name: str, tls: bool, newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED
) -> socket.socket:
    """Return a connection to *target*, with TLS up to *newest* for the server *name* whatever the certificate."""
    plain = socket.create_connection((target, 443 if tls else 80), timeout=SECONDS)
    if not tls:
        return plain
    context = unverified()
    context.maximum_version = newest
    try:
        return context.wrap_socket(plain, server_hostname=name)
    except BaseException:
        plain.close()
        raise


def open_request(
    target: str,
    name: str,
    path: str,
    *,
    tls: bool = True,
    method: str = "GET",
    host: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | Iterable[bytes] | None = None,
) -> tuple[socket.socket, http.client.HTTPResponse]:
    """Send a request to *target* for the server *name* (in TLS) and *host* (in HTTP, by default the same).

    A *body* that is not bytes is sent chunked, piece by piece.
    """
    connection = http.client.HTTPConnection(target)
    connection.sock = connect(target, name, tls)
    connection.request(method, path, body=body, headers={"Host": host or name, **(headers or {})})
    return connection.sock, connection.getresponse()


def request(target: str, name: str, path: str, **options: Any) -> Answer:
    """Return the whole answer; see :func:`open_request`."""
    connection, response = open_request(target, name, path, **options)
    with connection:
        client = connection.getsockname()[0]
        return Answer(response.status, response.headers, response.read(), client)


def event_times(target: str, name: str, path: str, **options: Any) -> list[float]:
    """Return when each event of a stream arrived, seconds."""
    connection, response = open_request(target, name, path, **options)
    arrivals = []
    with connection:
        while line := response.readline():
            if line.startswith(b"data:"):
                arrivals.append(time.monotonic())
    return arrivals


def assert_one_by_one(arrivals: list[float], count: int, interval: float) -> None:
    """Assert that *count* events arrived one by one: buffered anywhere, no two would be far apart."""
    assert len(arrivals) == count
    assert arrivals[-1] - arrivals[0] > interval * (count - 1) / 2, arrivals
    pauses = [later - earlier for earlier, later in zip(arrivals, arrivals[1:])]
    assert sum(pause > interval / 3 for pause in pauses) >= count - 2, arrivals


@contextlib.contextmanager
def websocket(
    target: str, name: str, path: str, *, tls: bool = True, **options: Any
) -> Iterator[websockets.sync.client.ClientConnection]:
    """Open a WebSocket; *options* are those of websockets.sync.client.connect. Nothing is waited for too long.

    The client reads in a thread beside the one that writes. With TLS 1.3 the first read takes in session tickets, and
    what is written just then was seen to get lost in Python's ssl: 6 of 750 handshakes were never sent.
    """
    with (
        connect(target, name, tls, ssl.TLSVersion.TLSv1_2) as connection,
        websockets.sync.client.connect(
            f"ws://{name}{path}", sock=connection, proxy=None, open_timeout=SECONDS, close_timeout=SECONDS, **options
        ) as found,
    ):
        yield found
