# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands around an application in each worker."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "roles/app/files/asgi_stack_worker.py"
_spec = importlib.util.spec_from_file_location("asgi_stack_worker", FILE)
assert _spec is not None and _spec.loader is not None
worker = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(worker)


class Application:
    """Speaks the lifespan protocol, unless *lifespan* says otherwise, and keeps the scopes that it was asked with."""

    def __init__(self, lifespan: str = "good") -> None:
        self.lifespan = lifespan
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] != "lifespan":
            return
        if self.lifespan == "unknown":
            raise ValueError("only http")
        if self.lifespan == "silent":
            return
        await receive()
        if self.lifespan == "slow":
            await asyncio.sleep(1.5)
        await send({"type": f"lifespan.startup.{'failed' if self.lifespan == 'bad' else 'complete'}"})
        if self.lifespan == "bad":
            raise RuntimeError("no database")


@pytest.fixture
def told(tmp_path: Path) -> Iterator[socket.socket]:
    """Systemd's end of a notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def states(told: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(told.recv(100))
        except BlockingIOError:
            return found


def start(guard: Any) -> list[Any]:
    """Have it start; return what it sent."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    try:
        asyncio.run(guard({"type": "lifespan"}, receive, send))
    except (RuntimeError, ValueError) as error:
        sent.append(str(error))
    return sent


@pytest.mark.parametrize(
    ("lifespan", "sent", "ready"),
    [
        ("good", ["lifespan.startup.complete"], True),
        ("unknown", ["only http"], True),
        ("silent", [], True),
        ("bad", ["lifespan.startup.failed", "no database"], False),
    ],
)
def test_systemd_is_told_when_it_has_started(told: socket.socket, lifespan: str, sent: list[str], ready: bool) -> None:
    guard = worker.Guard(Application(lifespan), notify=told.getsockname())
    assert start(guard) == sent
    assert guard.started is ready
    assert states(told) == ([b"READY=1"] if ready else [])


def test_a_server_without_the_protocol_is_ready_when_it_is_asked(told: socket.socket) -> None:
    guard = worker.Guard(Application(), notify=told.getsockname())
    for __ in range(2):
        asyncio.run(guard({"type": "http", "headers": [], "client": None}, None, None))
    assert states(told) == [b"READY=1"]


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert start(worker.Guard(Application())) == ["lifespan.startup.complete"]


def test_it_gives_a_sign_of_life_while_it_starts() -> None:
    beats: list[int] = []
    start(worker.Guard(Application("slow"), notify="", beat=lambda: beats.append(1)))
    assert len(beats) >= 2


def scope_for(client: Any, *headers: tuple[str, str], kind: str = "http", root_path: str = "") -> Any:
    """The scope that the application gets for a request over a connection from *client*."""
    inner = Application()
    scheme = "ws" if kind == "websocket" else "http"
    given = {
        "type": kind,
        "client": client,
        "scheme": scheme,
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "root_path": "",
    }
    asyncio.run(worker.Guard(inner, notify="", root_path=root_path)(given, None, None))
    return inner.scopes[0]


FORWARDED = (("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https"))


@pytest.mark.parametrize("nobody", [None, ("", 0), ["unix:", None]])
def test_the_proxy_is_believed_over_the_private_socket(nobody: Any) -> None:
    scope = scope_for(nobody, *FORWARDED)
    assert (scope["client"], scope["scheme"]) == (("192.0.2.7", 0), "https")
    assert scope_for(nobody, *FORWARDED, kind="websocket")["scheme"] == "wss"
    assert scope_for(nobody, ("x-forwarded-for", "2001:db8::1"))["client"] == ("2001:db8::1", 0)


@pytest.mark.parametrize("client", [("198.51.100.1", 4711), ("2001:db8::2", 4711)])
def test_nobody_is_believed_over_a_network(client: Any) -> None:
    scope = scope_for(client, *FORWARDED)
    assert (scope["client"], scope["scheme"]) == (client, "http")


@pytest.mark.parametrize("value", ["", "unknown", "6.6.6.6, 192.0.2.7", "evil\r\nx"])
def test_what_is_no_address_is_no_client(value: str) -> None:
    assert scope_for(None, ("x-forwarded-for", value))["client"] is None


@pytest.mark.parametrize("value", ["", "ftp", "https,http"])
def test_what_is_no_scheme_changes_none(value: str) -> None:
    assert scope_for(None, ("x-forwarded-proto", value))["scheme"] == "http"


@pytest.mark.parametrize(("client", "told"), [(None, True), (["", 0], True), (["192.0.2.1", 9], False)])
def test_the_proxy_alone_is_told_which_release_answers(
    client: Any, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASGI_RELEASE", "0007-abc")
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"c"})

    async def send(message: Any) -> None:
        sent.append(message)

    guard = worker.Guard(application)
    asyncio.run(guard({"type": "http", "http_version": "1.1", "client": client, "headers": []}, None, send))
    assert sent[0]["headers"] == [(b"a", b"b"), *([(b"x-asgi-release", b"0007-abc")] if told else [])]
    assert sent[1] == {"type": "http.response.body", "body": b"c"}


def test_the_place_where_it_is_mounted() -> None:
    assert scope_for(None, root_path="/shop")["root_path"] == "/shop"
    assert scope_for(None)["root_path"] == ""


PROGRAM = f"""
import asyncio, sys, time
sys.path.insert(0, {str(FILE.parent)!r})
from asgi_stack_worker import Guard

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await send({{"type": "lifespan.startup.complete"}})
    the_culprit(float(sys.argv[1]))

def the_culprit(seconds):
    time.sleep(seconds)

async def main():
    async def send(message):
        pass
    guard = Guard(app, timeout=1, notify="")
    await guard({{"type": "lifespan"}}, None, send)
    await asyncio.sleep(float(sys.argv[2]))
    await guard({{"type": "http", "headers": [], "client": None}}, None, send)

asyncio.run(main())
print("served")
"""


@pytest.mark.parametrize(("blocked", "idle", "lives"), [(0.2, 2.5, True), (30, 0, False)])
def test_a_blocked_event_loop_ends_the_process_and_is_named(blocked: float, idle: float, lives: bool) -> None:
    command = [sys.executable, "-c", PROGRAM, str(blocked), str(idle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=25)
    assert (done.returncode == 0, "served" in done.stdout) == (lives, lives), done.stderr
    assert ("the_culprit" in done.stderr) is not lives


def test_an_application_is_loaded_from_where_it_runs(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/main.py").write_text(
        textwrap.dedent("""
        class api:
            inner = "the application"
        def create():
            return "made"
        """)
    )
    program = "import sys; sys.path.insert(0, sys.argv[1]); import asgi_stack_worker as w; print(w.load(sys.argv[2]))"
    for name, expected in (("shop.main:api.inner", "the application"), ("shop.main:create()", "made")):
        command = [sys.executable, "-P", "-c", program, str(FILE.parent), name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == expected, done.stderr


def test_an_application_that_cannot_be_imported_ends_the_worker_with_uvicorns_status(tmp_path: Path) -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); import asgi_stack_worker as w; w.load('nowhere:app')"
    command = [sys.executable, "-P", "-c", program, str(FILE.parent)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "No module named 'nowhere'" in done.stderr


def test_open_websockets_are_closed_when_it_leaves() -> None:
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/refused":
            await send({"type": "websocket.accept"})
        if scope["path"] != "/open":
            await send({"type": "websocket.close"})
            return
        assert (await receive())["type"] == "websocket.disconnect"
        await send({"type": "websocket.send", "text": "too late"})

    async def main() -> None:
        guard = worker.Guard(application, notify="")
        gone = asyncio.Event()

        async def receive() -> Any:
            await gone.wait()
            return {"type": "websocket.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        def scope(path: str) -> Any:
            return {"type": "websocket", "path": path, "headers": [], "client": None, "scheme": "ws"}

        tasks = [asyncio.create_task(guard(scope(path), receive, send)) for path in ("/open", "/done", "/refused")]
        await asyncio.sleep(0)
        sent.clear()
        await guard.leave()
        gone.set()
        await asyncio.gather(*tasks)
        assert (guard.requests, guard.websockets) == (set(), {})

    asyncio.run(main())
    assert sent == [{"type": "websocket.close", "code": 1012, "reason": ""}]


def test_a_websocket_whose_client_is_gone_does_not_keep_it() -> None:
    async def main() -> None:
        guard = worker.Guard(Application(), notify="")

        async def send(message: Any) -> None:
            raise ConnectionResetError(message)

        current = asyncio.current_task()
        guard.websockets[current] = send
        await guard.leave()

    asyncio.run(main())


def test_the_other_side_of_a_websocket_that_is_dropped_reads_why_it_ends() -> None:
    """Also where it is just writing; what stays open, or listens, is not held longer than the server holds it."""

    async def main() -> None:
        guard = worker.Guard(Application(), notify="", farewell=signal.SIGUSR2)
        (ours, theirs), (idle, other) = socket.socketpair(), socket.socketpair()
        listening = socket.socket(socket.AF_UNIX)
        listening.bind("")  # to a name that the kernel makes up
        listening.listen()
        name = listening.getsockname()
        with theirs, other, socket.socket(socket.AF_UNIX) as late:
            theirs.setblocking(False)
            other.setblocking(False)

            async def send(message: Any) -> None:
                ours.sendall(str(message["code"]).encode())
                ours.close()
                listening.close()
                theirs.sendall(b"written just then")

            guard.websockets[asyncio.current_task()] = send
            leaving = asyncio.create_task(guard.leave())
            await asyncio.sleep(0.3)
            idle.close()
            assert other.recv(99) == b""
            with pytest.raises(ConnectionRefusedError):
                late.connect(name)
            theirs.sendall(b"written later")
            assert theirs.recv(99) == b"1012"
            await leaving
            assert theirs.recv(99) == b"", "it ends, and without an error"

    asyncio.run(main())


def test_what_is_still_served_can_be_cut() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        guard = worker.Guard(application, notify="")
        task = asyncio.create_task(guard({"type": "http", "headers": [], "client": None}, None, None))
        await asyncio.sleep(0)
        await guard.finish(0.1)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert guard.requests == set()

    asyncio.run(main())


def test_a_signal_ends_what_is_open() -> None:
    ended: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(scope["type"])
            raise

    async def main() -> None:
        guard = worker.Guard(application, notify="", farewell=signal.SIGUSR2, grace=0.2)

        async def send(message: Any) -> None:
            ended.append(message["type"])

        scope = {"headers": [], "client": None, "scheme": "x"}
        tasks = [asyncio.create_task(guard({**scope, "type": kind}, None, send)) for kind in ("http", "websocket")]
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGUSR2)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in found] == [asyncio.CancelledError] * 2

    asyncio.run(main())
    assert ended[:2] == ["websocket.accept", "websocket.close"]
    assert sorted(ended[2:]) == ["http", "websocket"]


def test_after_so_many_requests_connections_are_closed_and_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    monkeypatch.setattr(worker.random, "randint", lambda least, most: most)
    answers: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body"})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answers.append([name for name, _value in message["headers"]])

    async def main() -> None:
        guard = worker.Guard(application, notify="", max_requests=2, jitter=1, pool=0.3)
        scope = {"type": "http", "headers": [], "client": None}
        for version in ("1.1", "1.1", "1.1", "1.1", "2"):
            await guard({**scope, "http_version": version}, None, send)
        assert killed == []
        await asyncio.sleep(0.5)

    asyncio.run(main())
    assert answers == [[b"a"], [b"a"], [b"a", b"connection"], [b"a", b"connection"], [b"a"]]
    assert killed == [(os.getpid(), signal.SIGTERM)]


DEAF = """
import socket, sys, time
import asgi_stack_worker
listening = socket.socket(fileno=int(sys.argv[1]))
asgi_stack_worker.stop_accepting()
listening.settimeout(0.2)
try:
    listening.accept()
    print("heard", flush=True)
except OSError:
    print("deaf", flush=True)
sys.stdin.read()
"""


def test_a_worker_that_stops_accepting_leaves_connections_to_the_others(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        client.connect(str(tmp_path / "s"))
        number = listening.fileno()
        with subprocess.Popen(
            [sys.executable, "-c", DEAF, str(number)],
            pass_fds=[number],
            env={**os.environ, "PYTHONPATH": str(FILE.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdout and other.stdout.readline() == "deaf\n"
            listening.settimeout(5)
            accepted, _address = listening.accept()
            accepted.close()
            other.communicate()


class Uvicorn:
    """What :func:`worker.make_patient` knows of Uvicorn's class ``Server``."""

    def __init__(self, application: Any, connections: Sequence[Any] = ()) -> None:
        self.done: list[str] = []
        self.servers = [self]
        self.config = SimpleNamespace(loaded_app=application, ws_protocol_class=Talking)
        self.server_state = SimpleNamespace(connections=set(connections))

    def close(self) -> None:
        self.done.append("closed")

    async def shutdown(self, sockets: Any = None) -> None:
        self.done.append(f"shut down {sockets}")


class Talking:
    """A connection that is a WebSocket."""


def test_uvicorn_stops_listening_before_it_closes_connections() -> None:
    class Server(Uvicorn):
        pass

    worker.make_patient(Server)

    async def main() -> list[str]:
        server = Server(None)
        stopping = asyncio.create_task(server.shutdown("these"))
        await asyncio.sleep(0.1)
        server.done.append("what was accepted is served")
        await stopping
        return server.done

    assert asyncio.run(main()) == ["closed", "what was accepted is served", "shut down these"]


def test_uvicorn_waits_until_the_other_side_has_closed_websockets(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server(Uvicorn):
        pass

    worker.make_patient(Server)

    class Middleware:
        def __init__(self, app: Any) -> None:
            self.app = app

    async def main() -> list[str]:
        guard = worker.Guard(Application(), notify="")
        websocket = Talking()
        server = Server(Middleware(guard), [websocket, object()])

        async def leave() -> None:
            server.done.append("said that it ends")
            asyncio.get_running_loop().call_later(0.2, closed)

        def closed() -> None:
            server.done.append("the other side has closed")
            server.server_state.connections.discard(websocket)

        monkeypatch.setattr(guard, "leave", leave)
        await server.shutdown()
        return server.done

    expected = ["closed", "said that it ends", "the other side has closed", "shut down None"]
    assert asyncio.run(main()) == expected
