# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A load client for HTTP/2 and HTTP/3 that counts every request which did not get its right answer.

What hammer.py does for HTTP/1.1, with two kinds of traffic for each protocol:
  h2_kept, h3_kept  POST on kept connections; the answer must hold the SHA-256 of the body that was sent
  h2_slow, h3_slow  the same to a path that takes a second, so that requests are in flight whenever something happens
  h2_new, h3_new    GET, each on a connection of its own
  h3_far            as h3_new, by clients to which each datagram takes half a second more
  h3_rude           as h3_kept, by a client that does not understand GOAWAY; it only sees the connection close

Nothing is ever retried. A connection that the server gives up while no request is on it, or announces with GOAWAY that
it will, is not a loss. With --ask it sends one request instead and prints the answer. Needs the packages h2 and
aioquic, which a release with Hypercorn at the front has.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import ssl
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, FrameType, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset

MAX_DETAILS = 20  # losses described a kind; all are counted
#: kind: (requests a second of one client, clients)
KINDS = {
    "h2_kept": (20.0, 3),
    "h2_slow": (1.0, 3),
    "h2_new": (5.0, 2),
    "h3_kept": (20.0, 3),
    "h3_slow": (1.0, 3),
    "h3_new": (5.0, 2),
    "h3_far": (2.0, 4),
    "h3_rude": (10.0, 2),
}


class Answer:
    """What came on one stream."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def end(self, problem: str = "") -> None:
        if not self.done.done():
            self.done.set_result(problem)

    def head(self, headers: list[tuple[bytes, bytes]]) -> None:
        for name, value in headers:
            self.headers[name.decode()] = value.decode()
        self.status = int(self.headers[":status"])


class H2(asyncio.Protocol):
    """A connection that speaks HTTP/2."""

    class Connection(h2.connection.H2Connection):
        """python-h2 takes the connection for closed at GOAWAY; RFC 9113 6.8 lets what is under way be done."""

        def _receive_goaway_frame(self, frame: Any) -> Any:
            event = h2.events.ConnectionTerminated()
            event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
            return [], [event]

    def __init__(self, rude: bool = False) -> None:
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self.connection = self.Connection(config)
        self.answers: dict[int, Answer] = {}
        self.unsent: dict[int, bytes] = {}
        self.leaving = self.ended = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.connection.initiate_connection()
        transport.write(self.connection.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            answer: Answer | None = self.answers.get(getattr(event, "stream_id", None) or 0)
            if isinstance(event, h2.events.ConnectionTerminated):
                self.leaving = True
                for stream_id, waiting in self.answers.items():
                    if stream_id > (event.last_stream_id or 0):
                        waiting.end("refused by GOAWAY")
            elif isinstance(event, h2.events.WindowUpdated):
                self._send_bodies()
            elif answer is None:
                continue
            elif isinstance(event, h2.events.ResponseReceived):
                answer.head(list(event.headers or []))
            elif isinstance(event, h2.events.DataReceived):
                answer.body += event.data or b""
                self.connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            elif isinstance(event, h2.events.StreamEnded):
                answer.end()
            elif isinstance(event, h2.events.StreamReset):
                self.unsent.pop(event.stream_id, None)
                answer.end(f"the stream was reset ({event.error_code})")
        self.transport.write(self.connection.data_to_send())

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        for answer in self.answers.values():
            answer.end(f"the connection ended ({exc or 'properly'})")

    def request(self, headers: list[tuple[bytes, bytes]], body: bytes | None) -> Answer:
        stream_id = self.connection.get_next_available_stream_id()
        answer = self.answers[stream_id] = Answer()
        self.connection.send_headers(stream_id, headers, end_stream=body is None)
        if body is not None:
            self.unsent[stream_id] = body
            self._send_bodies()
        self.transport.write(self.connection.data_to_send())
        return answer

    def _send_bodies(self) -> None:
        """Send what the server's window lets through."""
        for stream_id, body in list(self.unsent.items()):
            while stream_id in self.unsent:
                room = min(
                    self.connection.local_flow_control_window(stream_id), self.connection.max_outbound_frame_size
                )
                part, body = body[:room], body[room:]
                if not part:
                    break
                self.connection.send_data(stream_id, part, end_stream=not body)
                self.unsent[stream_id] = body
                if not body:
                    del self.unsent[stream_id]


class H3(QuicConnectionProtocol):
    """A connection that speaks HTTP/3."""

    class Connection(H3Connection):
        """aioquic passes over GOAWAY."""

        leaving = False

        def _check_control_frame_type(self, frame_type: int) -> None:
            self.leaving = self.leaving or frame_type == FrameType.GOAWAY
            super()._check_control_frame_type(frame_type)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.http = self.Connection(self._quic)
        self.answers: dict[int, Answer] = {}
        self.rude = self.ended = False

    @property
    def leaving(self) -> bool:
        return self.http.leaving and not self.rude

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.ended = True
            for answer in self.answers.values():
                answer.end(f"the connection ended ({event.error_code} {event.reason_phrase})")
        if isinstance(event, StreamReset) and event.stream_id in self.answers:
            self.answers[event.stream_id].end(f"the stream was reset ({event.error_code})")
        for found in self.http.handle_event(event):
            known = self.answers.get(getattr(found, "stream_id", -1))
            if known is None:
                continue
            if isinstance(found, HeadersReceived):
                known.head(found.headers)
            elif isinstance(found, DataReceived):
                known.body += found.data
            if getattr(found, "stream_ended", False):
                known.end()

    def request(self, headers: list[tuple[bytes, bytes]], body: bytes | None) -> Answer:
        stream_id = self._quic.get_next_available_stream_id()
        answer = self.answers[stream_id] = Answer()
        self.http.send_headers(stream_id, headers, end_stream=body is None)
        if body is not None:
            self.http.send_data(stream_id, body, end_stream=True)
        self.transmit()
        return answer


class FarH3(H3):
    """A connection of a client that is far away."""

    def datagram_received(self, data: bytes, address: Any) -> None:
        asyncio.get_running_loop().call_later(0.5, super().datagram_received, data, address)


class Load:
    def __init__(self, port: int, name: str, timeout: float) -> None:
        self.port = port
        self.name = name
        self.timeout = timeout
        self.stop = asyncio.Event()
        self.tally: dict[str, dict[str, Any]] = {
            kind: {"requests": 0, "right": 0, "lost": 0, "connections": 0, "reasons": Counter(), "details": []}
            for kind in KINDS
        }
        self.releases: Counter[str] = Counter()
        self.longest: dict[str, float] = dict.fromkeys(KINDS, 0.0)

    @contextlib.asynccontextmanager
    async def connected(self, kind: str) -> Any:
        self.tally[kind]["connections"] += 1
        if kind.startswith("h3"):
            configuration = QuicConfiguration(
                alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE, server_name=self.name, idle_timeout=self.timeout
            )
            opening = connect(
                "127.0.0.1", self.port, configuration=configuration, create_protocol=FarH3 if kind == "h3_far" else H3
            )
            async with opening as protocol:
                protocol.rude = kind == "h3_rude"
                yield protocol
        else:
            tls = ssl.create_default_context()
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            tls.set_alpn_protocols(["h2"])
            transport, protocol = await asyncio.get_running_loop().create_connection(
                H2, "127.0.0.1", self.port, ssl=tls, server_hostname=self.name
            )
            try:
                yield protocol
            finally:
                transport.close()

    async def once(self, kind: str, connection: Any) -> None:
        new = kind.endswith(("new", "far"))
        body = None if new else os.urandom(512)
        path = {
            "kept": "/upload",
            "rude": "/upload",
            "slow": "/slow?seconds=1",
            "new": "/api/info",
            "far": "/api/info",
        }[kind[3:]]
        headers = [(b":method", b"GET" if new else b"POST"), (b":scheme", b"https"), (b":path", path.encode())]
        headers.insert(2, (b":authority", self.name.encode()))
        answer = connection.request(headers, body)
        problem = await asyncio.wait_for(answer.done, self.timeout)
        if problem:
            raise RuntimeError(problem)
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}")
        found = json.loads(bytes(answer.body))
        if body is not None and found["sha256"] != hashlib.sha256(body).hexdigest():
            raise RuntimeError("another body's answer")
        self.releases[answer.headers.get("x-release", "")] += 1

    async def ask(self, kind: str, path: str, size: int, drip: bool) -> dict[str, Any]:
        """Send one request: a GET, or a POST with so many bytes, dripping them without looking at the answer."""
        method = b"POST" if size else b"GET"
        headers = [(b":method", method), (b":scheme", b"https"), (b":authority", self.name.encode())]
        headers += [(b":path", path.encode()), (b"x-forwarded-for", b"192.0.2.9")]
        async with self.connected(kind) as connection:
            began = time.monotonic()
            if drip:
                stream_id = connection._quic.get_next_available_stream_id()
                answer = connection.answers[stream_id] = Answer()
                connection.http.send_headers(stream_id, headers)
                for part in range(10):
                    connection.transmit()
                    await asyncio.sleep(0.1)
                    connection.http.send_data(stream_id, b"x" * (size // 10), part == 9)
                connection.transmit()
            else:
                answer = connection.request(headers, os.urandom(size) if size else None)
            problem = await asyncio.wait_for(answer.done, self.timeout)
            return {
                "status": answer.status,
                "problem": problem,
                "headers": answer.headers,
                "body": answer.body.decode(errors="replace"),
                "seconds": time.monotonic() - began,
            }

    async def client(self, kind: str) -> None:
        rate = KINDS[kind][0]
        while not self.stop.is_set():
            try:
                async with self.connected(kind) as connection:
                    while not self.stop.is_set() and not connection.ended and not connection.leaving:
                        await self.counted(kind, connection)
                        if kind.endswith(("new", "far")):
                            break
                        await asyncio.sleep(random.uniform(0.5, 1.5) / rate)
            except Exception as error:
                self.tally[kind]["requests"] += 1
                self.lose(kind, f"connect: {type(error).__name__} {error}")
                await asyncio.sleep(0.2)
            if kind.endswith(("new", "far")):
                await asyncio.sleep(random.uniform(0.5, 1.5) / rate)

    async def counted(self, kind: str, connection: Any) -> None:
        self.tally[kind]["requests"] += 1
        began = time.monotonic()
        try:
            await self.once(kind, connection)
            self.tally[kind]["right"] += 1
        except Exception as error:
            self.lose(kind, f"{type(error).__name__} {error}")
        self.longest[kind] = max(self.longest[kind], time.monotonic() - began)

    def lose(self, kind: str, detail: str) -> None:
        tally = self.tally[kind]
        tally["lost"] += 1
        tally["reasons"][detail[:80]] += 1
        if len(tally["details"]) < MAX_DETAILS:
            tally["details"].append({"at": time.time(), "detail": detail})


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--host", required=True, help="the name to ask for")
    parser.add_argument("--duration", type=float, default=60, help="seconds")
    parser.add_argument("--timeout", type=float, default=10, help="seconds that a request may take")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--ask", metavar="PATH", help="send one request of the first of --kinds")
    parser.add_argument("--size", type=int, default=0, help="bytes to send with it")
    parser.add_argument("--drip", action="store_true", help="send them slowly (HTTP/3)")
    parser.add_argument("--stop-file", type=Path)
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    load = Load(given.port, given.host, given.timeout)
    kinds = given.kinds.split(",")
    if given.ask:
        print(json.dumps(await load.ask(kinds[0], given.ask, given.size, given.drip)))
        return 0
    clients = [asyncio.create_task(load.client(kind)) for kind in kinds for __ in range(KINDS[kind][1])]
    until = time.monotonic() + min(given.duration, 3600)
    while time.monotonic() < until and not (given.stop_file and given.stop_file.exists()):
        if given.ready_file and all(load.tally[kind]["right"] for kind in kinds):
            given.ready_file.touch()
        await asyncio.sleep(0.1)
    load.stop.set()
    await asyncio.wait(clients, timeout=given.timeout + 5)
    used = {kind: {**load.tally[kind], "longest": round(load.longest[kind], 3)} for kind in kinds}
    summary = {
        "requests": sum(tally["requests"] for tally in used.values()),
        "lost": sum(tally["lost"] for tally in used.values()),
        "kinds": used,
        "releases": load.releases,
    }
    text = json.dumps(summary, indent=1)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    return 1 if summary["lost"] else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
