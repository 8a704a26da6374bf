# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The load client against a server that fails on purpose: what is counted as lost, what is not, and as what."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

HAMMER = Path(__file__).resolve().parents[1] / "hammer" / "hammer.py"
spec = importlib.util.spec_from_file_location("hammer", HAMMER)
assert spec is not None and spec.loader is not None
hammer: Any = importlib.util.module_from_spec(spec)
sys.modules["hammer"] = hammer  # dataclasses look their module up
spec.loader.exec_module(hammer)

# Called with each request: its number (from 0), its head and body; True keeps the connection.
Answer = Callable[[int, bytes, bytes, Reader, Writer], Awaitable[bool]]

ENOUGH = 30
OFF = {"get_kept": 0, "get_new": 0, "post_kept": 0, "post_slow": 0}


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def right(body: bytes, release: str = "r1") -> bytes:
    document = {"release": release, "sha256": hashlib.sha256(body).hexdigest()}
    return http(json.dumps(document).encode(), "200 OK", f"X-Release: {release}")


def reset(writer: Writer) -> None:
    """End the connection with a TCP reset."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


def run(
    answer: Answer, *options: str, seconds: float = 5.0, address: str = "", rates: dict[str, float] | None = None
) -> dict[str, Any]:
    """Run the load client, one connection a kind, against a server with this behaviour.

    It ends after ENOUGH requests, or after so many seconds.
    """

    async def both() -> dict[str, Any]:
        count = 0
        open_writers: set[Writer] = set()

        async def serve(reader: Reader, writer: Writer) -> None:
            nonlocal count
            open_writers.add(writer)
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                    body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                    number, count = count, count + 1
                    if count == ENOUGH:
                        client.stop.set()
                    if not await answer(number, head, body, reader, writer):
                        break
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        plan = ",".join(f"{kind}={rate}" for kind, rate in {**OFF, **(rates or {})}.items())
        given = [address or f"http://127.0.0.1:{port}", "--rates", plan, "--duration", str(seconds), "--timeout", "0.3"]
        given += ["--connections", "get_kept=1,get_new=1,post_kept=1,post_slow=1", "--stream-interval", "0.03"]
        if "--streams" not in options:
            given += ["--streams", "ws=0,sse=0"]
        client = hammer.Hammer(*hammer.arguments([*given, *options]))
        result = await client.run()
        server.close()
        for writer in open_writers:
            writer.close()
        return dict(result)

    return asyncio.run(both())


async def well(number: int, head: bytes, body: bytes, reader: Reader, writer: Writer) -> bool:
    writer.write(right(body))
    return b"Connection: close" not in head


def failing(action: Callable[[Writer, bytes], bool], at: int = 3) -> Answer:
    """A server that answers well, but one request in its own way; the action tells whether the connection stays."""

    async def answer(number: int, head: bytes, body: bytes, reader: Reader, writer: Writer) -> bool:
        if number == at:
            return action(writer, body)
        return await well(number, head, body, reader, writer)

    return answer


def with_reset(writer: Writer, body: bytes) -> bool:
    reset(writer)
    return False


def with_eof(writer: Writer, body: bytes) -> bool:
    return False


def with_half_an_answer(writer: Writer, body: bytes) -> bool:
    writer.write(right(body)[:-5])
    return False


def with_half_a_head(writer: Writer, body: bytes) -> bool:
    writer.write(right(body)[:30])
    return False


def with_half_a_chunk(writer: Writer, body: bytes) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{}")
    return False


def with_502(writer: Writer, body: bytes) -> bool:
    writer.write(http(b"<h1>Bad Gateway</h1>", "502 Bad Gateway"))
    return True


def with_another_body(writer: Writer, body: bytes) -> bool:
    writer.write(right(body + b"?"))
    return True


def as_another_release(writer: Writer, body: bytes) -> bool:
    writer.write(right(body, "broken-7"))
    return True


def with_silence(writer: Writer, body: bytes) -> bool:
    return True


def with_garbage(writer: Writer, body: bytes) -> bool:
    writer.write(b"what?\r\n\r\n")
    return True


@pytest.mark.parametrize("kind", ["get_kept", "get_new", "post_kept", "post_slow"])
def test_right_answers_are_counted_and_named(kind: str) -> None:
    result = run(well, rates={kind: 200})
    assert result["ok"] and result["lost"] == 0
    assert result["right"] == result["kinds"][kind]["right"] == ENOUGH
    assert result["kinds"][kind]["connections"] == (result["right"] if kind == "get_new" else 1)
    assert result["releases"]["r1"]["answers"] == result["right"]
    latency = result["kinds"][kind]["latency"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"] < 0.3


@pytest.mark.parametrize("kind", ["get_kept", "get_new", "post_kept"])
@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (with_reset, "reset"),
        (with_eof, "eof"),
        (with_half_an_answer, "truncated"),
        (with_half_a_head, "truncated"),
        (with_half_a_chunk, "truncated"),
        (with_502, "status"),
        (with_silence, "timeout"),
        (with_garbage, "protocol"),
    ],
)
def test_one_bad_answer_is_one_loss(kind: str, action: Callable[[Writer, bytes], bool], reason: str) -> None:
    result = run(failing(action), rates={kind: 200})
    counted = result["kinds"][kind]
    assert counted["reasons"] == {reason: 1}
    assert not result["ok"] and result["lost"] == 1
    assert counted["right"] == ENOUGH - 1, "traffic goes on after a loss"
    (detail,) = counted["details"]
    assert detail["reason"] == reason and detail["at"] >= detail["sent"]


def test_a_wrong_digest_is_a_wrong_body() -> None:
    assert run(failing(with_another_body), rates={"post_kept": 200})["kinds"]["post_kept"]["reasons"] == {"body": 1}


def test_an_answer_that_is_not_json_is_a_wrong_body() -> None:
    async def answer(number: int, head: bytes, body: bytes, reader: Reader, writer: Writer) -> bool:
        writer.write(http(b"Welcome to nginx"))
        return True

    assert set(run(answer, rates={"get_kept": 200})["kinds"]["get_kept"]["reasons"]) == {"body"}
    assert run(answer, "--get-contains", "nginx", rates={"get_kept": 200})["ok"]


def test_a_connection_closed_while_idle_loses_nothing() -> None:
    async def answer(number: int, head: bytes, body: bytes, reader: Reader, writer: Writer) -> bool:
        writer.write(right(body))
        await writer.drain()
        await asyncio.sleep(0.02)  # the answer is read, the next request is 80 ms away
        return False

    result = run(answer, rates={"get_kept": 10, "post_kept": 10}, seconds=0.8)
    assert result["ok"] and result["lost"] == 0
    for kind in ("get_kept", "post_kept"):
        assert result["kinds"][kind]["idle_closes"] >= 5
        assert result["kinds"][kind]["right"] >= 6


def test_a_reset_while_idle_loses_nothing() -> None:
    async def answer(number: int, head: bytes, body: bytes, reader: Reader, writer: Writer) -> bool:
        writer.write(right(body))
        await writer.drain()
        await asyncio.sleep(0.02)
        reset(writer)
        return False

    assert run(answer, rates={"get_kept": 10}, seconds=0.8)["lost"] == 0


def test_a_close_that_was_announced_is_not_an_idle_close() -> None:
    async def answer(number: int, head: bytes, body: bytes, reader: Reader, writer: Writer) -> bool:
        writer.write(http(b"{}", "200 OK", "Connection: close"))
        return False

    result = run(answer, rates={"get_kept": 200})
    assert result["ok"] and result["kinds"]["get_kept"]["idle_closes"] == 0
    assert result["answers_without_release"] == result["right"]


def test_nobody_listens() -> None:
    result = run(well, address="http://127.0.0.1:9", rates={"get_kept": 100}, seconds=0.3)
    assert set(result["kinds"]["get_kept"]["reasons"]) == {"connect"}
    assert result["without_answer"] == ["get_kept"]
    assert len(result["kinds"]["get_kept"]["details"]) <= hammer.MAX_DETAILS


def test_a_forbidden_release_fails_the_run() -> None:
    result = run(failing(as_another_release), rates={"get_kept": 200})
    assert result["ok"] and set(result["releases"]) == {"r1", "broken-7"}
    result = run(
        failing(as_another_release),
        "--forbid-release",
        "broken-*",
        rates={"get_kept": 200},
    )
    assert not result["ok"] and result["lost"] == 0
    assert result["served_by_forbidden"] == {"broken-7": 1}


def stream_server(end: Callable[[Writer], None], messages: int = 3, skip: bool = False) -> Answer:
    """A server of WebSockets and of event streams, each ended in its own way after so many messages (0: never)."""

    async def answer(number: int, head: bytes, body: bytes, reader: Reader, writer: Writer) -> bool:
        if b"Upgrade: websocket" in head:
            key = next(line for line in head.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key")).split(b": ")[1]
            accept = base64.b64encode(hashlib.sha1(key + hammer.WEBSOCKET_GUID.encode()).digest())
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nX-Release: r1\r\nSec-WebSocket-Accept: " + accept)
            writer.write(b"\r\n\r\n\x89\x02hi")
            sent = 0
            while sent < messages or not messages:
                first, second = await reader.readexactly(2)
                mask = await reader.readexactly(4)
                data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(await reader.readexactly(second & 0x7F)))
                if first & 0x0F == 8:
                    return False
                if first & 0x0F == 1:
                    sent += 1
                    data = b"?" * len(data) if skip and sent == 2 else data
                    writer.write(bytes([0x81, len(data)]) + data)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            sent = 0
            while sent < messages or not messages:
                sent += 2 if skip and sent == 1 else 1
                event = b": kept\n\nid: %d\ndata: %s\n\n" % (sent, json.dumps({"n": sent, "release": "r1"}).encode())
                for part in (event[:17], event[17:]):
                    writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                    await writer.drain()
                await asyncio.sleep(0.03)
        end(writer)
        return False

    return answer


def stays(writer: Writer) -> None:
    raise AssertionError("never reached")


def closes(code: int) -> Callable[[Writer], None]:
    return lambda writer: writer.write(b"\x88\x02" + struct.pack("!H", code))


def test_streams_live_on() -> None:
    result = run(stream_server(stays, messages=0), "--streams", "ws=2,sse=2", seconds=0.4)
    assert result["ok"] and result["lost"] == 0
    for kind in ("ws", "sse"):
        stream = result["streams"][kind]
        assert stream["opened"] == 2 and stream["messages"] >= 8
        assert [record["end"] for record in stream["records"]] == ["open", "open"]
        assert {record["release"] for record in stream["records"]} == {"r1"}


@pytest.mark.parametrize("code", [1001, 1012])
def test_a_proper_close_loses_nothing(code: int) -> None:
    stream = run(stream_server(closes(code)), "--streams", "ws=1,sse=0", seconds=0.4)["streams"]["ws"]
    assert stream["lost"] == 0 and stream["closed_properly"] == stream["close_codes"][str(code)] >= 1


@pytest.mark.parametrize(
    ("kind", "end", "skip", "reason"),
    [
        ("ws", closes(1011), False, "closed"),
        ("ws", closes(1000), False, "closed"),
        ("ws", lambda writer: None, False, "eof"),
        ("ws", reset, False, "reset"),
        ("ws", stays, True, "body"),
        ("sse", lambda writer: None, False, "truncated"),
        ("sse", reset, False, "reset"),
        ("sse", stays, True, "body"),
    ],
)
def test_a_stream_that_ends_badly_is_lost(kind: str, end: Any, skip: bool, reason: str) -> None:
    messages = 0 if skip else 3
    streams = f"ws={int(kind == 'ws')},sse={int(kind == 'sse')}"
    result = run(stream_server(end, messages, skip), "--streams", streams, seconds=0.4)
    stream = result["streams"][kind]
    assert not result["ok"] and stream["lost"] >= 1
    assert set(stream["reasons"]) == {reason}
    assert stream["records"][0]["end"] == "lost"


def test_an_event_stream_may_end_and_may_be_cut_if_allowed() -> None:
    ended = run(stream_server(lambda writer: writer.write(b"0\r\n\r\n")), "--streams", "ws=0,sse=1", seconds=0.4)[
        "streams"
    ]["sse"]
    assert ended["lost"] == 0 and ended["closed_properly"] >= 1
    cut = run(stream_server(lambda writer: None), "--streams", "ws=0,sse=1", "--sse-may-be-cut", seconds=0.4)[
        "streams"
    ]["sse"]
    assert cut["lost"] == 0 and cut["cut"] >= 1


def test_a_refused_websocket_is_lost() -> None:
    assert run(well, "--streams", "ws=1,sse=0", seconds=0.4)["streams"]["ws"]["reasons"]["status"] >= 1


@pytest.mark.parametrize(
    "options",
    [
        ["http://192.0.2.1"],
        ["http://example.com"],
        ["ftp://127.0.0.1"],
        ["http://127.0.0.1", "--rates", "get_kept=100000"],
        ["http://127.0.0.1", "--rates", "get=1"],
        ["http://127.0.0.1", "--rates", "get_kept=many"],
        ["http://127.0.0.1", "--duration", "0"],
        ["http://127.0.0.1", "--connections", "get_new=5000"],
    ],
)
def test_what_is_not_bounded_or_not_here_is_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        hammer.arguments(options)
    assert refused.value.code == 2


@pytest.mark.parametrize("how", ["signal", "stop file"])
def test_it_ends_when_told_and_writes_its_summary(tmp_path: Path, how: str) -> None:
    async def both() -> tuple[int | None, dict[str, Any], dict[str, Any]]:
        async def serve(reader: Reader, writer: Writer) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):
                while await reader.readuntil(b"\r\n\r\n"):
                    writer.write(right(b""))
            writer.close()

        server = await asyncio.start_unix_server(serve, tmp_path / "app.sock")
        options: list[str | Path] = [
            "--streams",
            "ws=0,sse=0",
            "--rates",
            "get_kept=20,get_new=0,post_kept=0,post_slow=0",
        ]
        options += ["--ready-file", tmp_path / "ready", "--stop-file", tmp_path / "stop"]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            HAMMER,
            "http://shop.example.com",
            "--unix",
            tmp_path / "app.sock",
            *options,
            "--output",
            tmp_path / "out.json",
            stdout=subprocess.PIPE,
        )
        async with asyncio.timeout(20):
            while not (tmp_path / "ready").exists():
                await asyncio.sleep(0.02)
            if how == "signal":
                os.kill(process.pid, signal.SIGTERM)
            else:
                (tmp_path / "stop").touch()
            output, __ = await process.communicate()
        server.close()
        return process.returncode, json.loads(output), json.loads((tmp_path / "out.json").read_text())

    code, printed, written = asyncio.run(both())
    assert (code, printed["stopped_by"]) == (0, how)
    assert printed == written
    assert printed["right"] >= 1 and printed["seconds"] < 20
