# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send a word over a WebSocket that HTTP/2 carries (RFC 8441), and print what comes back. Runs beside modern.py."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import modern
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage


class WebSocket(modern.H2):
    """A connection with one stream, which is a WebSocket."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = Connection(ConnectionType.CLIENT)
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def send(self, stream_id: int, text: str) -> None:
        self.connection.send_data(stream_id, self.frames.send(TextMessage(text)))
        self.transport.write(self.connection.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            kind = type(event).__name__
            if kind == "ResponseReceived":
                assert dict(event.headers)[b":status"] == b"200", event.headers
                self.send(event.stream_id, sys.argv[3])
            elif kind == "DataReceived":
                self.frames.receive_data(event.data)
                for message in self.frames.events():
                    if isinstance(message, TextMessage):  # the server pings too
                        self.answer.set_result(message.data)
        self.transport.write(self.connection.data_to_send())


async def main() -> None:
    load = modern.Load(443, sys.argv[1], 15)
    connected: Any
    async with load.connected("h2_kept") as connected:
        stream_id = connected.connection.get_next_available_stream_id()
        headers = {":method": "CONNECT", ":protocol": "websocket", ":scheme": "https", ":path": sys.argv[2]}
        headers |= {":authority": sys.argv[1], "sec-websocket-version": "13"}
        connected.connection.send_headers(stream_id, list(headers.items()))
        connected.transport.write(connected.connection.data_to_send())
        print(await asyncio.wait_for(connected.answer, 15))


modern.H2 = WebSocket
asyncio.run(main())
