# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands around an application in each worker, whatever the server: `Guard`.

Servers differ in what they take over from a proxy, in when they call themselves ready, in whether they notice an event
loop that is blocked, in how they part from their WebSockets, and in what is lost when they replace a worker. This makes
them equal. Standard library only, Python 3.10 and later.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import functools
import importlib
import ipaddress
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def load(import_string: str) -> Application:
    """Return the application that `module:attribute` names; with `()` at the end, what that function returns.

    :raises SystemExit: it cannot be imported, and standard error says why. Uvicorn's supervisor takes the status 3 for
        a failure that a new worker would only repeat.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module, _colon, attribute = import_string.removesuffix("()").partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
        application: Application = found() if import_string.endswith("()") else found
    except Exception:
        traceback.print_exc()
        sys.exit(3)
    return application


class Guard:
    """An ASGI application around another one.

    :param root_path: the path below which the application is mounted, such as ``/shop``.
    :param timeout: seconds that the event loop may be blocked. After that the stacks of all threads are written to
        standard error and the process ends; the server replaces it. 0 leaves that to the server.
    :param beat: is called each second while the application starts, for a server that wants a sign of life then too.
    :param notify: systemd's notification socket; it is told when the application has started.
    :param farewell: a signal on which open WebSockets are closed, and all else that is open after *grace* seconds, for
        a server that would drop the ones and wait for the others. Such a server also drops what it has just accepted,
        and a WebSocket's connection as soon as it has said that it ends.
    :param max_requests: requests after which the process ends, and the server replaces it; up to *jitter* more at
        random, or a fifth if that is 0. 0 is never. For *pool* seconds before that each answer closes its connection:
        of those that the proxy keeps, none is left on which it could be sending when the process goes.
    """

    def __init__(
        self,
        application: Application,
        *,
        root_path: str = "",
        timeout: float = 0,
        beat: Callable[[], None] | None = None,
        notify: str | None = None,
        farewell: signal.Signals | None = None,
        grace: float = 0,
        max_requests: int = 0,
        jitter: int = 0,
        pool: float = 0,
    ) -> None:
        self.application = application
        self.root_path = root_path
        self.timeout = timeout
        self.beat = beat
        self.notify = os.environ.get("NOTIFY_SOCKET") if notify is None else notify
        self.farewell = farewell
        self.grace = grace
        self.left = max_requests + random.randint(0, jitter or max_requests // 5) if max_requests else -1
        self.pool = pool
        #: Tells the proxy which release answers; it keeps that for its log.
        release = os.environ.get("ASGI_RELEASE", "").encode()
        self.release = [(b"x-asgi-release", release)] if release else []
        self.started = False
        self.leaving = False
        self.parting: asyncio.Future[None] | None = None
        self.requests: set[asyncio.Task[Any]] = set()
        self.websockets: dict[asyncio.Task[Any], Send] = {}
        self.state: MutableMapping[str, Any] = {}  # what the lifespan leaves for requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        if not self.started:
            self._start()  # the server does not speak the lifespan protocol
        if self.root_path:
            scope["root_path"] = self.root_path
        headers = self.release if take_client(scope) else []
        if self.left > 0:
            self.left -= 1
            if self.left == 0:
                asyncio.get_running_loop().call_later(self.pool, self._retire)
        task = asyncio.current_task()
        assert task is not None
        self.requests.add(task)
        try:
            if scope["type"] == "websocket":
                await self._converse(task, scope, receive, send)
            else:
                if self.left == 0 and scope["http_version"] in ("1.0", "1.1"):
                    headers = [*headers, (b"connection", b"close")]
                await self.application(scope, receive, _adding(headers, send) if headers else send)
        finally:
            self.requests.discard(task)

    async def leave(self) -> None:
        """Close every open WebSocket with 1012, 'service restart', as its client then connects again."""
        self.leaving = True
        if not self.websockets:
            return
        async with _lingering() if self.farewell else contextlib.nullcontext():
            closing = [asyncio.ensure_future(_close(send)) for send in self.websockets.values()]
            await asyncio.wait(closing, timeout=2)

    async def finish(self, seconds: float) -> None:
        """Wait until nothing is being served; cancel what still is after so many seconds."""
        if self.requests:
            await asyncio.wait(self.requests, timeout=seconds)
        self.cut()

    def cut(self) -> None:
        """Cancel what is still being served."""
        for task in self.requests:
            task.cancel()

    async def _converse(self, task: asyncio.Task[Any], scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket, and know that it is open."""

        async def seen(message: Message) -> None:
            if message["type"] == "websocket.accept":
                self.websockets[task] = send
            elif message["type"] == "websocket.close":
                self.websockets.pop(task, None)
            if not self.leaving or message["type"] != "websocket.send":
                await send(message)

        try:
            await self.application(scope, receive, seen)
        finally:
            self.websockets.pop(task, None)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the lifespan protocol through, and see when the application has started."""
        failed = False
        self.state = scope.get("state", {})

        async def seen(message: Message) -> None:
            nonlocal failed
            failed = failed or message["type"] == "lifespan.startup.failed"
            if message["type"] == "lifespan.startup.complete":
                self._start()
            await send(message)

        beating = asyncio.ensure_future(self._beat())
        try:
            await self.application(scope, receive, seen)
        finally:
            beating.cancel()
            if not failed and not self.started:
                self._start()  # it does not speak the protocol, which is no mistake

    async def _beat(self) -> None:
        while self.beat is not None and not self.started:
            self.beat()
            await asyncio.sleep(1)

    def _start(self) -> None:
        self.started = True
        loop = asyncio.get_running_loop()
        if self.timeout:
            self._watch(loop)
        if self.farewell:
            loop.add_signal_handler(self.farewell, self._part)
        if self.notify:
            _tell(self.notify, "READY=1")
            self.notify = ""

    def _part(self) -> None:
        self.parting = asyncio.ensure_future(self.leave())  # a task that nobody holds may be collected
        asyncio.get_running_loop().call_later(self.grace, self.cut)

    def _retire(self) -> None:
        self.parting = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        await self.leave()
        if self.farewell:
            stop_accepting()
            await asyncio.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wind up the alarm again. It is a thread of the interpreter's own, which does not wait for the GIL."""
        faulthandler.dump_traceback_later(self.timeout, exit=True)
        loop.call_later(min(1.0, self.timeout / 5), self._watch, loop)


def make_patient(server: Any) -> None:
    """Have Uvicorn's class ``Server`` part in a way that loses nothing.

    It answers what it has accepted before it closes connections that ask for nothing: one that was accepted just before
    has its request waiting in the kernel, unread, and seems to be idle. And it lets the other side close WebSockets:
    Uvicorn would drop them as soon as it has said that they end, and a proxy that is just writing to such a one
    drops it too, with what it has not read yet.
    """
    impatient = server.shutdown

    async def shutdown(self: Any, sockets: Any = None) -> None:
        for listening in self.servers:
            listening.close()
        await asyncio.sleep(0.5)
        guard = self.config.loaded_app
        while guard is not None and not isinstance(guard, Guard):
            guard = getattr(guard, "app", None)  # of a middleware of Uvicorn's
        if guard is not None:
            kind = self.config.ws_protocol_class or ()
            talking = {one for one in self.server_state.connections if isinstance(one, kind)}
            await guard.leave()
            until = time.monotonic() + 2
            while talking & self.server_state.connections and time.monotonic() < until:
                await asyncio.sleep(0.02)
        await impatient(self, sockets)

    server.shutdown = shutdown


def stop_accepting() -> None:
    """Take no more connections in this process; those that arrive wait for the ones that it shares its socket with.

    For a server that cannot be asked: a socket to which nobody connects takes the place of each one that listens.
    """
    for number in _sockets(listening=True):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as deaf:
            deaf.setblocking(False)
            deaf.bind("")  # to a name that the kernel makes up
            deaf.listen()
            os.dup2(deaf.fileno(), number)


def _sockets(*, listening: bool) -> list[int]:
    """Return the file descriptors of this process that are sockets: those that listen, or those that do not."""
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        with (
            contextlib.suppress(OSError),  # closed by now, or no socket
            socket.fromfd(number, socket.AF_UNIX, socket.SOCK_STREAM) as copy,
        ):
            if bool(copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) is listening:
                found.append(number)
    return found


@contextlib.asynccontextmanager
async def _lingering() -> AsyncIterator[None]:
    """Keep the connections that the server closes meanwhile for half a second more.

    For a server that drops a connection as soon as it has said that a WebSocket ends: a proxy that is just writing to
    such a one drops it too, with what it has not read yet.
    """
    with contextlib.ExitStack() as kept:
        copies: list[tuple[int, socket.socket]] = []
        for number in _sockets(listening=False):
            with contextlib.suppress(OSError):  # closed by now
                copy = socket.fromfd(number, socket.AF_UNIX, socket.SOCK_STREAM)
                copies.append((number, kept.enter_context(copy)))
        yield
        await asyncio.sleep(0.1)  # threads of the server close them
        closed = []
        for number, copy in copies:
            if _is_open(number, copy):
                copy.close()
            else:
                closed.append(copy)
        await asyncio.sleep(0.4)
        for copy in closed:
            with contextlib.suppress(OSError):
                copy.recv(1 << 20, socket.MSG_DONTWAIT)  # or the other side is told that it was not read


def _is_open(number: int, copy: socket.socket) -> bool:
    """Whether a file descriptor still is the socket of which *copy* is one."""
    try:
        return os.path.sameopenfile(number, copy.fileno())
    except OSError:
        return False


def _adding(headers: list[tuple[bytes, bytes]], send: Send) -> Send:
    """Return *send* with which an answer has more headers."""

    def marked(message: Message) -> Awaitable[None]:  # one coroutine less than an async function for each message
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        return send(message)

    return marked


async def _close(send: Send) -> None:
    # The client may be gone, and servers say that in errors of their own.
    with contextlib.suppress(Exception):
        await send({"type": "websocket.close", "code": 1012, "reason": ""})


def take_client(scope: Scope) -> bool:
    """Take the client's address and scheme from what the proxy says, in place; return whether the proxy is asking.

    Only where the connection came over a unix socket, which is ours alone; there the server knows of no address.
    The proxy sends one value in each header, and replaces what the client sent.
    """
    peer = scope.get("client")
    if peer and _address(str(peer[0]).encode()):
        return False
    for name, value in scope["headers"]:
        if name == b"x-forwarded-for":
            address = _address(value)
            scope["client"] = (address, 0) if address else None
        elif name == b"x-forwarded-proto" and value in (b"http", b"https"):
            plain = "ws" if scope["type"] == "websocket" else "http"
            scope["scheme"] = plain + "s" if value == b"https" else plain
    return True


@functools.lru_cache(maxsize=4096)  # to read an address is what takes longest here, and clients ask more than once
def _address(value: bytes) -> str | None:
    """Return the address that a header's value is; None if it is none."""
    try:
        return str(ipaddress.ip_address(value.decode("latin-1").strip()))
    except ValueError:
        return None


def _tell(address: str, state: str) -> None:
    """Send *state* to systemd, as sd_notify(3) does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
