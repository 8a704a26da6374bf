# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hypercorn at the front, without Nginx: HTTP/1.1, HTTP/2 and HTTP/3 on sockets that all releases inherit.

systemd holds the sockets of ports 80 and 443 and gives them to every release's workers. The release that `live` points
to accepts from them; a worker looks at the link ten times a second. So one rename(2) is the whole switch here too:

- TCP: the old release stops accepting and the new one begins; what connects in between waits in the kernel's queue.
- QUIC has one socket for all its connections. One worker of the live release reads it. A datagram that belongs to no
  connection of its own is handed to the other releases through a unix socket, and they answer through the shared one.
- Whoever is connected to the old release is asked to come anew: `Connection: close`, and GOAWAY in HTTP/2 and HTTP/3.

What speaks the protocols is Hypercorn; this module has the sockets, and mends what it must in Hypercorn's HTTP/3.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import copy
import dataclasses
import fcntl
import json
import os
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from aioquic.buffer import Buffer, encode_uint_var
from aioquic.h3.connection import H3_ALPN, ErrorCode, FrameType, encode_frame
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import events as quic_events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicPacketType, encode_quic_version_negotiation, pull_quic_header
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import _handle
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Body, EndBody, StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h3 import H3Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState
from hypercorn_gate import Gate

FRONT_NAME = "front"  # of the sockets, as their unit says
TICK = 0.1  # seconds between two looks at the link
HANDSHAKE = 10.0  # seconds that a TLS handshake may take
SETTLE = 5.0  # seconds that a client has to take note of GOAWAY
BATCH = 64  # datagrams read at once, before others have their turn
OUTBOX = 4096  # datagrams that may wait for another worker
RETRY = 0.005  # seconds until it is tried again
BACKLOG = 256  # events of one QUIC connection that may wait for the application
SEND_BUFFER = 1 << 20  # bytes of an answer that may wait for a client
LAST_STREAM = (1 << 62) - 4  # RFC 9114 5.2: the highest, for 'no more, but what is under way is done'
#: Mozilla's guideline 6.0, intermediate.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)


# TCP ------------------------------------------------------------------------------------------------------------------


class _Connection(TCPServer):
    """One TCP connection."""

    def __init__(self, front: Front, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        secure = writer.get_extra_info("ssl_object") is not None
        config = front.config if secure else front.plain_config
        super().__init__(front.application, front.loop, config, front.context, front.state, reader, writer)
        self.front = front
        self.asked_at: float | None = None

    async def run(self) -> None:
        self.front.connections.add(self)
        try:
            await super().run()
        finally:
            self.front.connections.discard(self)

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()  # Hypercorn would wait for it, though the client is gone

    @property
    def _protocol(self) -> H11Protocol | H2Protocol | None:
        wrapper = getattr(self, "protocol", None)  # none before the handshake is over
        return wrapper.protocol if wrapper is not None else None

    async def leave(self, now: float) -> None:
        """Have the client come anew, as soon as that costs it nothing. Called again and again."""
        protocol = self._protocol
        if isinstance(protocol, H11Protocol):
            if protocol.config.keep_alive_max_requests:
                protocol.config = copy.copy(protocol.config)
                protocol.config.keep_alive_max_requests = 0  # each answer from now on says `Connection: close`
        elif protocol is not None:
            if self.asked_at is None:
                self.asked_at = now
                # RFC 9113 6.8: the highest stream first. h2 itself would take the connection for closed at once.
                await self.protocol_send(RawData(data=struct.pack(">BHBBIII", 0, 8, 7, 0, 0, (1 << 31) - 1, 0)))
            elif now - self.asked_at > SETTLE and not protocol.streams:
                protocol.connection.close_connection()
                await protocol._flush()
                await self.protocol_send(Closed())


# QUIC -----------------------------------------------------------------------------------------------------------------


class _Tasks:
    """What Hypercorn calls a task group. One task that fails does not end the others."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._task_group = self
        self.running: set[asyncio.Task[Any]] = set()

    def create_task(self, action: Any) -> asyncio.Task[Any]:
        task = self._loop.create_task(action)
        self.running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._loop.call_exception_handler({"message": "HTTP/3", "exception": task.exception(), "task": task})

    def spawn(self, func: Callable[..., Any], *args: Any) -> None:
        self.create_task(func(*args))

    async def spawn_app(self, app: Any, config: Config, scope: Any, send: Any) -> Any:
        queue: asyncio.Queue[Any] = asyncio.Queue(config.max_app_queue_size)
        self.spawn(_handle, app, config, scope, queue.get, send, None, None)
        return queue.put


class _H3(H3Protocol):
    """Hypercorn's HTTP/3, which does not see streams and connections that end early, nor clients that are slow."""

    gone = False

    async def handle(self, quic_event: quic_events.QuicEvent) -> None:
        if isinstance(quic_event, (quic_events.StreamReset, quic_events.StopSendingReceived)):
            await self._end(quic_event.stream_id)
        elif isinstance(quic_event, quic_events.ConnectionTerminated):
            self.gone = True
            for stream_id in list(self.streams):
                await self._end(stream_id)
        for event in self.connection.handle_event(quic_event):
            if isinstance(event, HeadersReceived):
                if event.stream_id in self.streams or all(name != b":method" for name, _value in event.headers):
                    continue  # trailers
                await self._create_stream(event)
            elif not isinstance(event, DataReceived):
                continue
            stream = self.streams.get(event.stream_id)  # none where the answer was given before the body had come
            if stream is not None and isinstance(event, DataReceived) and event.data:
                await stream.handle(Body(stream_id=event.stream_id, data=event.data))
            if stream is not None and event.stream_ended:
                await stream.handle(EndBody(stream_id=event.stream_id))

    async def _end(self, stream_id: int) -> None:
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            await stream.handle(StreamClosed(stream_id=stream_id))

    async def stream_send(self, event: Any) -> None:
        if self.gone or (event.stream_id not in self.streams and not isinstance(event, StreamClosed)):
            return
        await super().stream_send(event)
        if isinstance(event, Body):
            while not self.gone and event.stream_id in self.streams and self._waiting(event.stream_id) > SEND_BUFFER:
                await asyncio.sleep(0.01)

    def _waiting(self, stream_id: int) -> int:
        """Return how many bytes of a stream the client has not acknowledged."""
        stream = self.connection._quic._streams.get(stream_id)
        return len(stream.sender._buffer) if stream is not None else 0


class _Peer:
    """One QUIC connection."""

    def __init__(self, quic: Quic, destination_cid: bytes, client: Any) -> None:
        self.quic = quic
        self.client = client
        self.connection = QuicConnection(
            configuration=quic.configuration, original_destination_connection_id=destination_cid
        )
        self.cids = {destination_cid, self.connection.host_cid}
        self.h3: _H3 | None = None
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.timer: asyncio.TimerHandle | None = None
        self.since = quic.loop.time()
        self.shaken = self.sending = False
        self.asked_at: float | None = None
        self.tasks = _Tasks(quic.loop)
        self.handling: asyncio.Task[None] | None = None

    def begin(self, data: bytes, address: Any) -> bool:
        """Take the first datagram; return whether it is one.

        An Initial packet that comes later looks alike, but its keys come from the connection's first one (RFC 9001
        5.2). aioquic cannot read it then, and has no answer.
        """
        self.connection.receive_datagram(data, address, now=self.quic.loop.time())
        if not self.pump():
            self._forget()
            return False
        self.handling = self.quic.loop.create_task(self._handle())
        for cid in self.cids:
            self.quic.peers[cid] = self
        return True

    def receive(self, data: bytes, address: Any) -> None:
        if self.events.qsize() > BACKLOG:
            return  # as if it were lost on the way: the client sends it again, and more slowly
        self.connection.receive_datagram(data, address, now=self.quic.loop.time())

    def pump(self) -> int:
        """Take what aioquic has understood, and send what it wants to send; return how many datagrams."""
        event = self.connection.next_event()
        while event is not None:
            if isinstance(event, quic_events.HandshakeCompleted):
                self.shaken = True
            elif isinstance(event, quic_events.ConnectionIdIssued):
                self.cids.add(event.connection_id)
                self.quic.peers[event.connection_id] = self
            elif isinstance(event, quic_events.ConnectionIdRetired):
                self.cids.discard(event.connection_id)
                self.quic.peers.pop(event.connection_id, None)
            self.events.put_nowait(event)
            event = self.connection.next_event()
        return self.transmit()

    def transmit(self) -> int:
        datagrams = self.connection.datagrams_to_send(now=self.quic.loop.time())
        for data, address in datagrams:
            self.quic.send(data, address)
        if self.timer is not None:
            self.timer.cancel()
        at = self.connection.get_timer()
        self.timer = self.quic.loop.call_at(at, self._time) if at is not None else None
        return len(datagrams)

    def _time(self) -> None:
        self.connection.handle_timer(now=self.quic.loop.time())
        self.pump()

    async def _transmit(self) -> None:
        """Send soon: head, body and end of an answer then fit into one datagram."""
        if not self.sending:
            self.sending = True
            self.quic.loop.call_soon(self._send)

    def _send(self) -> None:
        self.sending = False
        self.transmit()

    async def _handle(self) -> None:
        front = self.quic.front
        while True:
            event = await self.events.get()
            try:
                if isinstance(event, quic_events.ProtocolNegotiated):
                    self.h3 = _H3(
                        front.application,
                        front.config,
                        front.context,
                        self.tasks,
                        ConnectionState(front.state.copy()),
                        self.client,
                        self.quic.server,
                        self.connection,
                        self._transmit,
                    )
                if self.h3 is not None:
                    await self.h3.handle(event)
            except Exception:
                await front.config.log.exception("HTTP/3: a connection was closed")
                self.connection.close(error_code=ErrorCode.H3_INTERNAL_ERROR)
            self.transmit()
            if isinstance(event, quic_events.ConnectionTerminated):
                self._forget()
                return

    def _forget(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        for cid in self.cids:
            self.quic.peers.pop(cid, None)

    def leave(self, now: float) -> None:
        """Have the client come anew, as soon as that costs it nothing. Called again and again."""
        if self.h3 is None or not self.shaken:
            if now - self.since > HANDSHAKE:
                self.connection.close(error_code=ErrorCode.H3_NO_ERROR)
                self.transmit()
        elif self.asked_at is None:
            self.asked_at = now
            frame = encode_frame(FrameType.GOAWAY, encode_uint_var(LAST_STREAM))
            self.connection.send_stream_data(self.h3.connection._local_control_stream_id, frame)
            self.transmit()
        elif now - self.asked_at > SETTLE and not self.h3.streams:
            self.connection.close(error_code=ErrorCode.H3_NO_ERROR)
            self.transmit()


class Quic:
    """All QUIC connections of this worker.

    :param sock: the UDP socket, shared with other releases.
    :param inbox: a unix socket to which others hand what is not theirs.
    :param others: returns the paths of the others' inboxes.
    """

    def __init__(
        self, front: Front, sock: socket.socket, inbox: socket.socket, others: Callable[[], list[str]]
    ) -> None:
        self.front = front
        self.loop = front.loop
        self.sock = sock
        self.inbox = inbox
        self.others = others
        self.server = sock.getsockname()[:2]
        self.peers: dict[bytes, _Peer] = {}
        self.reads = False
        self.touched: set[_Peer] = set()
        self.outbox: collections.deque[tuple[str, bytes]] = collections.deque(maxlen=OUTBOX)
        self.configuration = QuicConfiguration(alpn_protocols=H3_ALPN, is_client=False)
        self.configuration.load_cert_chain(certfile=front.config.certfile, keyfile=front.config.keyfile)
        self.loop.add_reader(inbox.fileno(), self._read_inbox)

    def read(self, reads: bool) -> None:
        """Read the shared socket from now on, or do so no longer."""
        if reads != self.reads:
            self.reads = reads
            if reads:
                self.loop.add_reader(self.sock.fileno(), self._read)
            else:
                self.loop.remove_reader(self.sock.fileno())

    def close(self) -> None:
        self.read(False)
        self.loop.remove_reader(self.inbox.fileno())
        for peer in set(self.peers.values()):
            peer.connection.close(error_code=ErrorCode.H3_NO_ERROR)
            peer.transmit()
        self.inbox.close()
        self.sock.close()

    def _read(self) -> None:
        try:
            for _turn in range(BATCH):
                try:
                    data, address = self.sock.recvfrom(65535)
                except (BlockingIOError, InterruptedError):
                    break
                except OSError:
                    continue  # an ICMP error of something that was sent
                self._receive(data, address, handed=False)
        finally:
            self._pump()

    def _read_inbox(self) -> None:
        try:
            for _turn in range(BATCH):
                try:
                    message = self.inbox.recv(65535 + 256)
                except (BlockingIOError, InterruptedError):
                    break
                address, _zero, data = message.partition(b"\0")
                self._receive(data, tuple(json.loads(address)), handed=True)
        finally:
            self._pump()

    def _pump(self) -> None:
        """Answer what was received, all that came together at once."""
        touched, self.touched = self.touched, set()
        for peer in touched:
            peer.pump()

    def _receive(self, data: bytes, address: Any, handed: bool) -> None:
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=self.configuration.connection_id_length)
        except ValueError:
            return
        peer = self.peers.get(header.destination_cid)
        if peer is None and len(data) >= 1200 and self.reads and not handed:
            if header.version is not None and header.version not in self.configuration.supported_versions:
                self.send(
                    encode_quic_version_negotiation(
                        source_cid=header.destination_cid,
                        destination_cid=header.source_cid,
                        supported_versions=self.configuration.supported_versions,
                    ),
                    address,
                )
                return
            is_initial = header.packet_type == QuicPacketType.INITIAL
            if is_initial and _Peer(self, header.destination_cid, address).begin(data, address):
                return
        if peer is not None:
            peer.receive(data, address)
            self.touched.add(peer)
        elif not handed:
            self._hand_on(data, address)

    def _hand_on(self, data: bytes, address: Any) -> None:
        message = json.dumps(address).encode() + b"\0" + data
        waited = bool(self.outbox)
        self.outbox += [(path, message) for path in self.others()]
        if not waited:
            self._empty_outbox()

    def _empty_outbox(self) -> None:
        """Send what waits. A unix socket takes ten datagrams and no more (net.unix.max_dgram_qlen)."""
        for _turn in range(len(self.outbox)):
            path, message = self.outbox.popleft()
            try:
                self.inbox.sendto(message, socket.MSG_DONTWAIT, path)
            except BlockingIOError:
                self.outbox.append((path, message))
            except OSError:
                pass  # it has ended
        if self.outbox:
            self.loop.call_later(RETRY, self._empty_outbox)

    def send(self, data: bytes, address: Any) -> None:
        with contextlib.suppress(OSError):  # what does not fit is as good as lost on the way
            self.sock.sendto(data, address)


# Together -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a release is told about the front.

    :param live: the link to the live release; it ends with the release's name.
    :param max_body_size: bytes that a request's body may have.
    :param sockets: what systemd gave: TCP and UDP sockets. The TCP socket with *http_port* redirects.
    """

    domains: tuple[str, ...]
    http_port: int
    https_port: int
    max_body_size: int
    live: Path
    sockets: tuple[socket.socket, ...]


def inherited() -> tuple[socket.socket, ...]:
    """Take the front's sockets out of what systemd gave, so that the server sees no others than its own.

    :raises RuntimeError: there are none.
    """
    first = 3
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    descriptors = range(first, first + len(names))
    front = [os.dup(fd) for fd, name in zip(descriptors, names) if name == FRONT_NAME]
    own = [os.dup(fd) for fd, name in zip(descriptors, names) if name != FRONT_NAME]
    if not front:
        raise RuntimeError("systemd gave no sockets for the front: see systemctl status 'asgi-*-front.socket'")
    for fd in descriptors:
        os.close(fd)
    for target, fd in enumerate(own, first):
        os.dup2(fd, target)
        os.close(fd)
    os.environ["LISTEN_FDS"] = str(len(own))
    return tuple(socket.socket(fileno=fd) for fd in front)


class Front:
    """One worker's part of the front.

    :param guard: the application with what stands around it in each worker; it says when it has started.
    :param config: Hypercorn's settings.
    """

    def __init__(self, guard: Any, config: Config, settings: Settings) -> None:
        self.guard = guard
        self.settings = settings
        self.instance = os.environ["ASGI_RELEASE"]
        self.place = Path(os.environ["RUNTIME_DIRECTORY"])  # beside it are the other releases'
        self.application = ASGIWrapper(Gate(guard, settings.domains, settings.https_port, settings.max_body_size))
        self.plain_config = copy.copy(config)
        # Hypercorn says goodbye on an HTTP/2 connection before it answers the request after that, which is lost.
        self.plain_config.keep_alive_max_requests = sys.maxsize
        self.plain_config.ssl_handshake_timeout = HANDSHAKE
        self.config = copy.copy(self.plain_config)
        credentials = Path(os.environ["CREDENTIALS_DIRECTORY"])
        self.config.certfile, self.config.keyfile = str(credentials / "certificate"), str(credentials / "key")
        self.config.alt_svc_headers = [f'h3=":{settings.https_port}"; ma=86400']
        self.tls = self._tls()
        self.loop = asyncio.get_running_loop()
        self.context = WorkerContext(None)
        self.connections: set[_Connection] = set()
        self.servers: list[asyncio.base_events.Server] = []
        self.quic: Quic | None = None
        self.lock: int | None = None
        self.marker = self.place / f"front.{os.getpid()}"  # there while this worker has connections
        self.own = f"quic.{os.getpid()}.sock"
        self.listed: tuple[float, list[str]] = (0, [])

    @property
    def state(self) -> dict[str, Any]:
        """What the application's lifespan left for its requests."""
        return cast("dict[str, Any]", self.guard.state)

    def _tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.load_cert_chain(str(self.config.certfile), self.config.keyfile)
        return context

    def is_live(self) -> bool:
        try:
            return os.readlink(self.settings.live).rpartition("/")[2] == self.instance
        except OSError:
            return False

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the link until *stop* is set, then let go of who is connected, in `graceful_timeout` seconds."""
        while not stop.is_set():
            if self.is_live() and self.guard.started:
                await self._open()
            else:
                await self._leave()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), TICK)
        until = self.loop.time() + self.config.graceful_timeout
        while await self._leave() and self.loop.time() < until:
            if self.lock is not None:  # a worker that takes this one's place shall read UDP
                os.close(self.lock)
                self.lock = None
            await asyncio.sleep(TICK)
        await self.context.terminated.set()
        if self.quic is not None:
            self.quic.close()
        for path in (self.marker, self.place / self.own):
            path.unlink(missing_ok=True)

    async def _open(self) -> None:
        if not self.servers:
            self._tidy()
            self.marker.touch()
            for sock in self.settings.sockets:
                if sock.type == socket.SOCK_STREAM:
                    self.servers.append(await self._serve(sock))
        if self.quic is None and self._may_read():
            shared = next(sock.dup() for sock in self.settings.sockets if sock.type == socket.SOCK_DGRAM)
            shared.setblocking(False)
            self.quic = Quic(self, shared, self._inbox(), self._others)
        if self.quic is not None:
            self.quic.read(True)

    async def _serve(self, sock: socket.socket) -> asyncio.base_events.Server:
        secure: dict[str, Any] = {}
        if sock.getsockname()[1] != self.settings.http_port:
            secure = {"ssl": self.tls, "ssl_handshake_timeout": HANDSHAKE}
        return await asyncio.start_server(self._connected, sock=sock.dup(), backlog=self.config.backlog, **secure)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _Connection(self, reader, writer)

    async def _leave(self) -> bool:
        """Accept nobody, ask all to come anew; return whether somebody is still there."""
        for server in self.servers:
            server.close()
        self.servers = []
        now = self.loop.time()
        if self.quic is not None:
            self.quic.read(False)
            for peer in set(self.quic.peers.values()):
                peer.leave(now)
        for connection in list(self.connections):
            await connection.leave(now)
        busy = bool(self.connections or (self.quic is not None and self.quic.peers))
        if not busy:
            self.marker.unlink(missing_ok=True)
        return busy

    def _may_read(self) -> bool:
        """Of a release's workers one reads UDP. The lock of one that ends, however it ends, goes to another."""
        if self.lock is None:
            self.lock = os.open(self.place / "quic.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _tidy(self) -> None:
        """Remove what workers left that were killed."""
        for path in (*self.place.glob("front.*"), *self.place.glob("quic.*.sock")):
            try:
                os.kill(int(path.name.split(".")[1]), 0)
            except ProcessLookupError:
                path.unlink(missing_ok=True)

    def _inbox(self) -> socket.socket:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bound.setblocking(False)
        bound.bind(str(self.place / self.own))
        return bound

    def _others(self) -> list[str]:
        """Return the inboxes of all others, looked up once a second at most."""
        now = time.monotonic()
        if now - self.listed[0] > 1:
            own = self.place / self.own
            self.listed = (now, [str(path) for path in self.place.parent.glob("*/quic.*.sock") if path != own])
        return self.listed[1]
