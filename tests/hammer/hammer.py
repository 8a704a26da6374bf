# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A load client that counts every request which did not get its right answer.

It keeps several kinds of traffic going against this machine only, at a bounded rate and for a bounded time, while
something else deploys, restarts or breaks the service. Nothing is ever retried: a request that was sent and got no
right answer is lost. The standard library is enough (Python 3.11 or later), so that this one file can be copied to a
host and run there.

Kinds of traffic:
  get_kept    GET on kept connections; the answer must be 200 and a JSON object (or contain --get-contains)
  get_new     the same, each on a connection of its own
  post_kept   POST on kept connections; the answer must hold the SHA-256 of the body that was sent
  post_slow   the same to a path that takes a second, so that requests are in flight whenever something happens
  ws          WebSockets that stay open and echo a message every second
  sse         event streams that stay open, whose events must be numbered without a gap

Reasons for a loss: connect (no connection, or the TLS handshake failed), reset (the connection was reset), eof (it was
closed before an answer began), truncated (it was closed within an answer), status, body, timeout, protocol (the answer
is not HTTP or not WebSocket).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import fnmatch
import hashlib
import ipaddress
import json
import math
import os
import random
import signal
import ssl
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

# kind: (requests a second in total, connections) and, for streams, how many are open at once
REQUESTS = {"get_kept": (160.0, 8), "get_new": (60.0, 6), "post_kept": (60.0, 4), "post_slow": (8.0, 12)}
STREAMS = {"ws": 4, "sse": 4}

MAX_RATE = 2000.0  # requests a second, all kinds together
MAX_CONNECTIONS = 200  # a kind
MAX_DURATION = 86_400.0  # seconds
MAX_DETAILS = 20  # losses described a kind; all are counted
MAX_RECORDS = 200  # streams described a kind; all are counted
MAX_HEAD = 64 * 1024  # bytes of status line and headers
MAX_BODY = 16 * 1024 * 1024  # bytes of a body, a chunk or a WebSocket frame
PROPER_CODES = (1001, 1012)  # RFC 6455 7.4.1 'going away', and IANA's registry: 'service restart'
WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
BUCKET = math.log(1.02)  # latencies are kept in buckets 2 % wide

T = TypeVar("T")


class Lost(Exception):
    """A request that did not get its right answer: the reason's class, and what was seen."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Target:
    """Where requests go. `unix` replaces host and port; `name` is the Host header and the TLS server name."""

    host: str
    port: int
    name: str
    server_name: str
    tls: ssl.SSLContext | None = None
    unix: str | None = None


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def keeps(self) -> bool:
        return "close" not in self.headers.get("connection", "").lower()

    @property
    def framed(self) -> bool:
        """True when the body's end does not need the connection's end."""
        return (
            self.status in (204, 304)
            or "content-length" in self.headers
            or "chunked" in self.headers.get("transfer-encoding", "").lower()
        )


class Wire(asyncio.Protocol):
    """One connection's received bytes, and how it ended. asyncio's streams do not tell a reset from an idle close."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.ended = False
        self.error: Exception | None = None
        self.transport: asyncio.Transport | None = None
        self.answered = 0
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._wake()

    def eof_received(self) -> bool:
        self.ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self.error = self.error or exc
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    async def more(self, begun: bool) -> None:
        """Wait for more bytes; `begun` tells whether the answer that is being read has begun.

        Raises Lost when the connection ended instead.
        """
        if not self.ended:
            self._waiter = asyncio.get_running_loop().create_future()
            before = len(self.buffer)
            await self._waiter
            if len(self.buffer) > before:
                return
        if self.error is not None:
            raise Lost("reset", f"{type(self.error).__name__}: {self.error}")
        raise Lost("truncated" if begun else "eof", "the connection was closed")

    async def line(self, begun: bool) -> bytes:
        while (end := self.buffer.find(b"\n")) < 0:
            if len(self.buffer) > MAX_HEAD:
                raise Lost("protocol", "a line is too long")
            await self.more(begun or bool(self.buffer))
        line = bytes(self.buffer[:end]).rstrip(b"\r")
        del self.buffer[: end + 1]
        return line

    async def exactly(self, size: int, begun: bool = True) -> bytes:
        if size > MAX_BODY:
            raise Lost("protocol", f"{size} bytes at once are too many")
        while len(self.buffer) < size:
            await self.more(begun or bool(self.buffer))
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def ready(self) -> None:
        """Return when there are bytes to read or the connection has ended."""
        if not self.buffer:
            with contextlib.suppress(Lost):
                await self.more(False)

    async def idle(self) -> bool:
        """True when a request may be sent: the server has not closed the connection by now."""
        for __ in range(2):  # lets the event loop notice what the kernel knows already
            await asyncio.sleep(0)
        return not self.ended

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


async def connect(target: Target) -> Wire:
    loop = asyncio.get_running_loop()
    name = target.server_name if target.tls else None
    try:
        if target.unix:
            __, wire = await loop.create_unix_connection(Wire, target.unix, ssl=target.tls, server_hostname=name)
        else:
            __, wire = await loop.create_connection(
                Wire, target.host, target.port, ssl=target.tls, server_hostname=name
            )
    except OSError as error:  # ssl.SSLError is one
        raise Lost("connect", f"{type(error).__name__}: {error}") from None
    return wire


async def read_head(wire: Wire) -> Response:
    """Read a status line and headers. A repeated header is joined with commas."""
    while True:
        words = (await wire.line(False)).split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise Lost("protocol", f"not a status line: {b' '.join(words)[:80]!r}")
        response = Response(int(words[1]), {})
        while line := await wire.line(True):
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                raise Lost("protocol", f"not a header: {line[:80]!r}")
            name, value = name.lower(), value.strip()
            seen = response.headers.get(name)
            response.headers[name] = value if seen is None else f"{seen}, {value}"
        if response.status >= 200 or response.status == 101:
            return response


async def read_chunk(wire: Wire) -> bytes:
    """Read one chunk of a chunked body; b"" is the last one."""
    line = (await wire.line(True)).partition(b";")[0].strip()
    try:
        size = int(line, 16)
    except ValueError:
        raise Lost("protocol", f"not a chunk's size: {line[:40]!r}") from None
    if size:
        data = await wire.exactly(size)
        if await wire.line(True):
            raise Lost("protocol", "a chunk does not end where it said")
        return data
    while await wire.line(True):
        pass
    return b""


async def read_body(wire: Wire, response: Response) -> bytes:
    if response.status in (204, 304):
        return b""
    if "chunked" in response.headers.get("transfer-encoding", "").lower():
        body = bytearray()
        while chunk := await read_chunk(wire):
            body += chunk
            if len(body) > MAX_BODY:
                raise Lost("protocol", "the body is too long")
        return bytes(body)
    if "content-length" in response.headers:
        length = response.headers["content-length"]
        if not length.isdigit():
            raise Lost("protocol", f"Content-Length: {length}")
        return await wire.exactly(int(length))
    with contextlib.suppress(Lost):  # a body that ends with the connection
        while len(wire.buffer) < MAX_BODY:
            await wire.more(True)
    if wire.error is not None:
        raise Lost("reset", f"{type(wire.error).__name__}: {wire.error}")
    return bytes(wire.buffer)


def release_of(response: Response) -> str | None:
    """The release that answered: header X-Release, else `release` of a JSON object."""
    if "x-release" in response.headers:
        return response.headers["x-release"]
    with contextlib.suppress(ValueError):
        document = json.loads(response.body)
        if isinstance(document, dict) and isinstance(document.get("release"), str):
            return str(document["release"])
    return None


@dataclass
class Latency:
    """A histogram: bounded memory however long the run. Quantiles are right to 2 %, the maximum exactly. Seconds."""

    buckets: Counter[int] = field(default_factory=Counter)
    count: int = 0
    highest: float = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[math.ceil(math.log(max(seconds, 1e-6)) / BUCKET)] += 1
        self.count += 1
        self.highest = max(self.highest, seconds)

    def quantile(self, share: float) -> float:
        rest = share * self.count
        for bucket in sorted(self.buckets):
            rest -= self.buckets[bucket]
            if rest <= 0:
                return min(math.exp(bucket * BUCKET), self.highest)
        return 0.0

    def summary(self) -> dict[str, float]:
        return {
            "p50": round(self.quantile(0.5), 4),
            "p99": round(self.quantile(0.99), 4),
            "max": round(self.highest, 4),
        }


@dataclass
class Tally:
    """What happened to one kind of traffic. Times are seconds since the epoch."""

    right: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    details: list[dict[str, Any]] = field(default_factory=list)
    latency: Latency = field(default_factory=Latency)
    connections: int = 0
    idle_closes: int = 0

    @property
    def lost(self) -> int:
        return sum(self.reasons.values())

    def lose(self, loss: Lost, **facts: Any) -> None:
        self.reasons[loss.reason] += 1
        if len(self.details) < MAX_DETAILS:
            self.details.append({"at": now(), "reason": loss.reason, "detail": loss.detail, **facts})

    def summary(self) -> dict[str, Any]:
        return {
            "requests": self.right + self.lost,
            "right": self.right,
            "lost": self.lost,
            "reasons": dict(self.reasons),
            "details": self.details,
            "latency": self.latency.summary(),
            "connections": self.connections,
            "idle_closes": self.idle_closes,
        }


@dataclass
class Streams(Tally):
    """Long-lived connections. `right` counts messages; a loss is one that ended badly or could not be opened."""

    opened: int = 0
    open_now: int = 0
    closed_properly: int = 0
    cut: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    records: list[dict[str, Any]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        return {
            "opened": self.opened,
            "messages": self.right,
            "closed_properly": self.closed_properly,
            "cut": self.cut,
            "lost": self.lost,
            "reasons": dict(self.reasons),
            "details": self.details,
            "close_codes": dict(self.codes),
            "latency": self.latency.summary(),
            "longest": max((record["seconds"] for record in self.records), default=0.0),
            "records": self.records,
        }


def now() -> float:
    return round(time.time(), 3)


@dataclass
class Hammer:
    target: Target
    options: argparse.Namespace
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    kinds: dict[str, Tally] = field(default_factory=dict)
    streams: dict[str, Streams] = field(default_factory=dict)
    releases: dict[str, dict[str, Any]] = field(default_factory=dict)
    forbidden: Counter[str] = field(default_factory=Counter)
    unnamed: int = 0
    why: str = "duration"

    def saw(self, release: str | None) -> None:
        """Note which release answered."""
        if release is None:
            self.unnamed += 1
            return
        at = now()
        entry = self.releases.setdefault(release, {"first": at, "last": at, "answers": 0})
        entry["last"] = at
        entry["answers"] += 1
        if any(fnmatch.fnmatchcase(release, pattern) for pattern in self.options.forbid_release):
            self.forbidden[release] += 1

    async def pause(self, seconds: float) -> None:
        """Sleep, or less when the run ends."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.stop.wait()

    def head(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.target.name}", "User-Agent: hammer"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    # Requests

    async def request(self, wire: Wire, path: str, body: bytes | None, close: bool) -> Response:
        """Send one request (GET where body is None, else POST) and read its whole answer."""
        headers = {"Connection": "close"} if close else {}
        if body is not None:
            headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))}
        wire.send(self.head("GET" if body is None else "POST", path, headers) + (body or b""))
        response = await read_head(wire)
        response.body = await read_body(wire, response)
        wire.answered += 1
        return response

    def check(self, response: Response, body: bytes | None) -> None:
        """Raise Lost unless this is the right answer to a request with this body (None: a GET)."""
        if response.status != 200:
            raise Lost("status", f"{response.status}: {response.body[:200].decode(errors='replace')}")
        if body is None and self.options.get_contains is not None:
            if self.options.get_contains.encode() not in response.body:
                raise Lost("body", f"does not contain {self.options.get_contains!r}: {response.body[:200]!r}")
            return
        try:
            document = json.loads(response.body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise Lost("body", f"not a JSON object: {response.body[:200]!r}")
        if body is not None and document.get("sha256") != hashlib.sha256(body).hexdigest():
            raise Lost("body", f"not the SHA-256 of the {len(body)} bytes sent: {response.body[:200]!r}")

    async def requests(self, kind: str, rate: float, offset: float) -> None:
        """One connection's loop (or, for get_new, one loop of connections) at `rate` requests a second."""
        tally, options = self.kinds[kind], self.options
        path = {"post_kept": options.post_path, "post_slow": options.slow_path}.get(kind, options.get_path)
        wire: Wire | None = None
        due = time.monotonic() + offset
        while not self.stop.is_set():
            await self.pause(due - time.monotonic())
            if self.stop.is_set():
                break
            due = max(due + 1 / rate, time.monotonic())
            body = random.randbytes(random.randint(1, options.body_size)) if kind.startswith("post") else None
            if wire is not None and not await wire.idle():
                tally.idle_closes += 1
                wire.close()
                wire = None
            begin, sent = time.monotonic(), now()
            release, answered = None, False
            served = wire.answered if wire else 0
            try:
                async with asyncio.timeout(options.timeout):
                    if wire is None:
                        wire = await connect(self.target)
                        tally.connections += 1
                    elif wire.buffer:
                        raise Lost("protocol", f"bytes that nobody asked for: {bytes(wire.buffer[:80])!r}")
                    response = await self.request(wire, path, body, close=kind == "get_new")
                release, answered = release_of(response), True
                self.saw(release)
                self.check(response, body)
            except (Lost, TimeoutError) as error:
                loss = error if isinstance(error, Lost) else Lost("timeout", f"no answer within {options.timeout:g} s")
                after = round(time.monotonic() - begin, 3)
                tally.lose(loss, sent=sent, after=after, served_before=served, release=release)
                if not answered:  # the connection, if there is one, is of no more use
                    if wire is not None:
                        wire.abort()
                        wire = None
                    continue
            else:
                tally.right += 1
                tally.latency.add(time.monotonic() - begin)
            if wire is not None and (kind == "get_new" or not response.keeps or not response.framed):
                wire.close()
                wire = None
        if wire is not None:
            wire.close()

    # Streams

    async def stream(self, kind: str, offset: float, session: Callable[[Wire, dict[str, Any]], Awaitable[str]]) -> None:
        """Keep one stream open: run sessions one after another; each returns how it ended, or raises Lost."""
        tally = self.streams[kind]
        await self.pause(offset)
        while not self.stop.is_set():
            record: dict[str, Any] = {"opened": now(), "release": None, "messages": 0}
            wire: Wire | None = None
            try:
                wire = await self.bounded(connect(self.target), "connection")
                record["end"] = await session(wire, record)
                if record["end"] == "proper":
                    tally.closed_properly += 1
            except Lost as loss:
                record["end"] = "lost"
                if kind == "sse" and self.options.sse_may_be_cut and loss.reason in ("truncated", "reset"):
                    record["end"] = "cut"
                    tally.cut += 1
                else:
                    tally.lose(loss, opened=record["opened"], release=record["release"], messages=record["messages"])
            if record.pop("live", False):
                tally.open_now -= 1
                record["closed"] = now()
                record["seconds"] = round(record["closed"] - record["opened"], 3)
                if len(tally.records) < MAX_RECORDS:
                    tally.records.append(record)
            if wire is not None:
                wire.close()
            await self.pause(0.5)

    def opened(self, kind: str, record: dict[str, Any], response: Response) -> None:
        tally = self.streams[kind]
        tally.opened += 1
        tally.open_now += 1
        tally.connections += 1
        record["live"] = True
        record["release"] = response.headers.get("x-release")

    def message(self, kind: str, record: dict[str, Any], seconds: float) -> None:
        record["messages"] += 1
        tally = self.streams[kind]
        tally.right += 1
        tally.latency.add(seconds)

    async def bounded(self, what: Awaitable[T], doing: str) -> T:
        try:
            async with asyncio.timeout(self.options.timeout):
                return await what
        except TimeoutError:
            raise Lost("timeout", f"{doing}: nothing within {self.options.timeout:g} s") from None

    async def readable(self, wire: Wire, seconds: float) -> bool:
        """Wait for bytes or the connection's end, for at most so many seconds and not beyond the end of the run.

        Nothing is read here, so that giving up never leaves half of a frame or an event behind.
        """
        tasks = [asyncio.ensure_future(wire.ready()), asyncio.ensure_future(self.stop.wait())]
        try:
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return bool(wire.buffer) or wire.ended

    async def websocket(self, wire: Wire, record: dict[str, Any]) -> str:
        key = base64.b64encode(random.randbytes(16)).decode()
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        upgrade |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
        wire.send(self.head("GET", self.options.ws_path, upgrade))
        response = await self.bounded(read_head(wire), "WebSocket handshake")
        if response.status != 101:
            raise Lost("status", f"WebSocket handshake: {response.status}")
        expected = base64.b64encode(hashlib.sha1((key + WEBSOCKET_GUID).encode()).digest()).decode()
        if response.headers.get("sec-websocket-accept") != expected:
            raise Lost("protocol", "WebSocket handshake: wrong Sec-WebSocket-Accept")
        self.opened("ws", record, response)
        self.saw(record["release"])
        number, due = 0, time.monotonic()
        waiting: tuple[bytes, float] | None = None  # the message whose echo is awaited, and when it was sent
        while True:
            if self.stop.is_set() and waiting is None:
                wire.send(frame(8, struct.pack("!H", 1000)))
                return "open"
            if waiting is None and time.monotonic() >= due:
                number += 1
                text = f"{number} {random.randbytes(8).hex()}".encode()
                wire.send(frame(1, text))
                waiting = (text, time.monotonic())
                due = time.monotonic() + self.options.stream_interval
            if waiting is None and not await self.readable(wire, due - time.monotonic()):
                continue
            opcode, payload = await self.bounded(read_frame(wire), "WebSocket")
            if opcode == 8:
                code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1005
                self.streams["ws"].codes[str(code)] += 1
                record["code"] = code
                with contextlib.suppress(OSError):
                    wire.send(frame(8, payload[:2]))
                if code in PROPER_CODES:
                    return "proper"
                raise Lost("closed", f"WebSocket closed with {code} {payload[2:].decode(errors='replace')}".rstrip())
            if opcode == 9:
                wire.send(frame(10, payload))
            elif opcode in (1, 2):
                if waiting is None or payload != waiting[0]:
                    raise Lost(
                        "body", f"WebSocket: not the echo of {waiting[0] if waiting else None!r}: {payload[:80]!r}"
                    )
                self.message("ws", record, time.monotonic() - waiting[1])
                waiting = None

    async def events(self, wire: Wire, record: dict[str, Any]) -> str:
        wire.send(self.head("GET", self.options.sse_path, {"Accept": "text/event-stream"}))
        response = await self.bounded(read_head(wire), "event stream")
        if response.status != 200:
            raise Lost("status", f"event stream: {response.status}")
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise Lost("body", f"event stream: Content-Type {response.headers.get('content-type')}")
        if "chunked" not in response.headers.get("transfer-encoding", "").lower():
            raise Lost("protocol", "event stream: not chunked, its end could not be told from a lost connection")
        self.opened("sse", record, response)
        self.saw(record["release"])
        text, last, begin = b"", None, time.monotonic()
        while not self.stop.is_set():
            late = begin + self.options.stream_interval + self.options.timeout
            if time.monotonic() >= late:
                raise Lost("timeout", "event stream: no event")
            if not await self.readable(wire, late - time.monotonic()):
                continue
            chunk = await self.bounded(read_chunk(wire), "event stream")
            if not chunk:
                return "proper"
            text += chunk
            *blocks, text = text.replace(b"\r\n", b"\n").split(b"\n\n")
            for block in blocks:
                data = b"\n".join(line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:"))
                if not data:
                    continue  # a comment
                last = self.event(record, data, last)
                self.message("sse", record, time.monotonic() - begin)
                begin = time.monotonic()
        return "open"

    def event(self, record: dict[str, Any], data: bytes, last: int | None) -> int:
        """Check one event against the number of the one before; return its number."""
        try:
            document = json.loads(data)
            number, release = int(document["n"]), document.get("release")
        except (ValueError, TypeError, KeyError, AttributeError):
            raise Lost("body", f"event stream: not the expected event: {data[:80]!r}") from None
        if last is not None and number != last + 1:
            raise Lost("body", f"event stream: event {number} after {last}")
        record["release"] = record["release"] or release
        if release is not None and release != record["release"]:
            raise Lost("body", f"event stream: release {release} within a stream of {record['release']}")
        return number

    # The run

    def ready(self) -> bool:
        """True when each kind has had a right answer and all streams are open."""
        wanted = self.options.streams
        return all(tally.right for tally in self.kinds.values()) and all(
            tally.right and tally.open_now >= wanted[kind] for kind, tally in self.streams.items()
        )

    async def watch(self) -> None:
        """End the run in time, or when the stop file appears; write the ready file."""
        end = time.monotonic() + self.options.duration
        ready_file = self.options.ready_file
        while not self.stop.is_set() and time.monotonic() < end:
            if ready_file and self.ready():
                ready_file.write_text(f"{now()}\n", encoding="utf-8")
                ready_file = None
            if self.options.stop_file and self.options.stop_file.exists():
                self.why = "stop file"
                break
            await self.pause(min(0.1, end - time.monotonic()))
        self.stop.set()

    def signalled(self) -> None:
        self.why = "signal"
        self.stop.set()

    async def run(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread
                loop.add_signal_handler(number, self.signalled)
        started, begin = now(), time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.watch())
            for kind, rate in self.options.rates.items():
                count = self.options.connections[kind]
                if rate > 0 and count > 0:
                    self.kinds[kind] = Tally()
                    for index in range(count):
                        tasks.create_task(self.requests(kind, rate / count, index / rate))
            sessions = {"ws": self.websocket, "sse": self.events}
            for kind, count in self.options.streams.items():
                if count > 0:
                    self.streams[kind] = Streams()
                    for index in range(count):
                        tasks.create_task(self.stream(kind, 0.05 * index, sessions[kind]))
        return self.summary(started, time.monotonic() - begin)

    def summary(self, started: float, seconds: float) -> dict[str, Any]:
        lost = sum(tally.lost for tally in (*self.kinds.values(), *self.streams.values()))
        right = sum(tally.right for tally in self.kinds.values())
        messages = sum(tally.right for tally in self.streams.values())
        silent = [kind for kind, tally in (*self.kinds.items(), *self.streams.items()) if not tally.right]
        return {
            "ok": lost == 0 and not self.forbidden and not silent and right + messages > 0,
            "started": started,
            "ended": now(),
            "seconds": round(seconds, 3),
            "stopped_by": self.why,
            "requests": right + sum(tally.lost for tally in self.kinds.values()),
            "right": right,
            "lost": lost,
            "without_answer": silent,
            "rate": round(right / seconds, 1) if seconds else 0.0,
            "kinds": {kind: tally.summary() for kind, tally in self.kinds.items()},
            "streams": {kind: tally.summary() for kind, tally in self.streams.items()},
            "releases": self.releases,
            "answers_without_release": self.unnamed,
            "served_by_forbidden": dict(self.forbidden),
        }


def frame(opcode: int, payload: bytes) -> bytes:
    """A final, masked WebSocket frame (RFC 6455 5.2) of less than 64 KiB."""
    mask = random.randbytes(4)
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0x80 | 126]) + struct.pack("!H", len(payload))
    return bytes([0x80 | opcode]) + size + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


async def read_frame(wire: Wire) -> tuple[int, bytes]:
    """Read one unfragmented frame: opcode and payload."""
    first, second = await wire.exactly(2, False)
    if first & 0x70 or not first & 0x80 or second & 0x80:
        raise Lost("protocol", f"an unexpected WebSocket frame: {first:02x}{second:02x}")
    size = second & 0x7F
    if size == 126:
        size = struct.unpack("!H", await wire.exactly(2))[0]
    elif size == 127:
        size = struct.unpack("!Q", await wire.exactly(8))[0]
    return first & 0x0F, await wire.exactly(size)


def pairs(convert: Callable[[str], Any], known: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    """An argparse type for `kind=value,…`: the given kinds' values over the defaults."""

    def parse(text: str) -> dict[str, Any]:
        result = dict(known)
        for item in filter(None, text.split(",")):
            kind, __, value = item.partition("=")
            if kind not in known:
                raise argparse.ArgumentTypeError(f"{kind!r} is none of {', '.join(known)}")
            try:
                result[kind] = convert(value)
            except ValueError:
                raise argparse.ArgumentTypeError(f"{kind}: {value!r} is not a number") from None
            if not result[kind] >= 0:
                raise argparse.ArgumentTypeError(f"{kind}: {value!r} is less than 0")
        return result

    return parse


def arguments(argv: list[str]) -> tuple[Target, argparse.Namespace]:
    """Parse and check the command line. Only this machine is accepted as a target."""
    parser = argparse.ArgumentParser(prog="hammer", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="http(s)://127.0.0.1[:port]; the path is not used")
    parser.add_argument("--host", help="Host header and TLS server name (default: the URL's host)")
    parser.add_argument("--unix", metavar="PATH", help="connect to this unix socket")
    parser.add_argument("--insecure", action="store_true", help="accept any certificate")
    parser.add_argument("--cafile", metavar="PATH", help="trust these certificates")
    parser.add_argument("--duration", type=float, default=30.0, metavar="SECONDS", help="at most (default 30)")
    parser.add_argument("--stop-file", type=Path, metavar="PATH", help="end when this file appears")
    parser.add_argument("--ready-file", type=Path, metavar="PATH", help="written when all traffic flows")
    parser.add_argument("--output", type=Path, metavar="PATH", help="write the summary here as well")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="for an answer (default 10)")
    rates = {kind: rate for kind, (rate, __) in REQUESTS.items()}
    connections = {kind: count for kind, (__, count) in REQUESTS.items()}
    parser.add_argument("--rates", type=pairs(float, rates), default=rates, help="kind=requests a second,… (0: none)")
    parser.add_argument("--connections", type=pairs(int, connections), default=connections, help="kind=number,…")
    parser.add_argument("--streams", type=pairs(int, STREAMS), default=STREAMS, help="ws=number,sse=number")
    parser.add_argument("--stream-interval", type=float, default=1.0, metavar="SECONDS", help="between messages")
    parser.add_argument("--body-size", type=int, default=16384, metavar="BYTES", help="of a POST, at most")
    parser.add_argument("--get-path", default="/api/info")
    parser.add_argument("--get-contains", metavar="TEXT", help="in a GET's answer (default: a JSON object)")
    parser.add_argument("--post-path", default="/upload")
    parser.add_argument("--slow-path", default="/slow?seconds=1")
    parser.add_argument("--ws-path", default="/ws")
    parser.add_argument("--sse-path", help="default: /events, endless, an event every --stream-interval")
    parser.add_argument("--sse-may-be-cut", action="store_true", help="an event stream that is cut is not lost")
    parser.add_argument("--forbid-release", action="append", default=[], metavar="PATTERN", help="must not be seen")
    options = parser.parse_args(argv)

    url = urlsplit(options.url)
    host = url.hostname or ""
    if url.scheme not in ("http", "https"):
        parser.error("the URL must begin with http:// or https://")
    if not options.unix and not loopback(host):
        parser.error(f"{host or 'no host'}: only this machine (127.0.0.1, ::1, localhost) is a target")
    if not 0 < options.duration <= MAX_DURATION:
        parser.error(f"--duration must be between 0 and {MAX_DURATION:g} seconds")
    if sum(options.rates.values()) > MAX_RATE:
        parser.error(f"--rates: more than {MAX_RATE:g} requests a second")
    if max(*options.connections.values(), *options.streams.values()) > MAX_CONNECTIONS:
        parser.error(f"--connections, --streams: more than {MAX_CONNECTIONS} of a kind")
    if options.timeout <= 0 or options.stream_interval <= 0 or not 1 <= options.body_size <= MAX_BODY:
        parser.error("--timeout, --stream-interval and --body-size must be positive, the last at most 16 MiB")
    options.sse_path = options.sse_path or f"/events?count=0&interval={options.stream_interval:g}"

    tls: ssl.SSLContext | None = None
    if url.scheme == "https":
        tls = ssl.create_default_context(cafile=options.cafile)
        tls.set_alpn_protocols(["http/1.1"])
        if options.insecure:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
    name = options.host or url.netloc
    return Target(
        host, url.port or (443 if tls else 80), name, urlsplit(f"//{name}").hostname or "", tls, options.unix
    ), options


def loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(argv: list[str] | None = None) -> int:
    """Run; print the summary as JSON. Returns 0 when nothing was lost, else 1."""
    target, options = arguments(sys.argv[1:] if argv is None else argv)
    result = asyncio.run(Hammer(target, options).run())
    text = json.dumps(result, indent=2)
    if options.output:
        partial = options.output.with_name(f".{options.output.name}.{os.getpid()}")
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(options.output)
    print(text)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
