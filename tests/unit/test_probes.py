# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probes see it when a server answers what it should not."""

from __future__ import annotations

import importlib.util
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "probes.py"
_spec = importlib.util.spec_from_file_location("probes", FILE)
assert _spec
assert _spec.loader
probes: Any = importlib.util.module_from_spec(_spec)
sys.modules["probes"] = probes  # its dataclasses look there for what their annotations name
_spec.loader.exec_module(probes)

BY_NAME = {one.name: one for one in probes.PROBES}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def server(path: Path, answer: bytes, closes: bool) -> Iterator[str]:
    """A server of one connection that answers whatever comes."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    done = threading.Event()

    def serve() -> None:
        connection, _address = listening.accept()
        with connection:
            connection.recv(1 << 20)
            connection.sendall(answer)
            if not closes:
                done.wait(10)

    thread = threading.Thread(target=serve)
    thread.start()
    yield str(path)
    done.set()
    thread.join()
    listening.close()


@pytest.mark.parametrize(
    ("name", "answer", "closes", "problem"),
    [
        ("te.cl", BAD, True, ""),
        ("te.cl", b"", True, ""),
        ("te.cl", OK, False, "expected one error"),
        ("te.cl", BAD + OK, True, "expected one error"),
        ("te.cl", b"HTTP/1.1 500 Oh\r\n\r\n", True, "expected one error"),
        ("te.cl", b"", False, "neither an answer nor a closed connection"),
        ("header.bare-lf", OK, False, ""),
        ("header.bare-lf", OK + OK, False, "expected one answer"),
        ("upgrade.h2c", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", False, "must not be"),
        ("line.absolute", OK.replace(b"ok", b"other.test"), False, "has 'other.test'"),
        ("path.outside-encoded", OK.replace(b"ok", b"root:x:0:0"), False, "has 'root:x:0'"),
    ],
)
def test_what_is_wrong_is_seen(tmp_path: Path, name: str, answer: bytes, closes: bool, problem: str) -> None:
    with server(tmp_path / "s", answer, closes) as path:
        found = probes.judge(BY_NAME[name], probes.probe(BY_NAME[name], path, "shop.test", patience=1))
    assert problem in found
    assert bool(problem) == bool(found)


def test_frames() -> None:
    def frame(kind: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, 4, 0, 0, 0, 1]) + payload

    assert probes._heard(frame(4, b"") + frame(1, b"\x88") + frame(1, b"\x48\x03421")) == ([200, 421], False)
    assert probes._heard(frame(3, b"\0\0\0\1")) == ([], True)
    assert probes._heard(frame(7, b"\0\0\0\0\0\0\0\0") + frame(3, b"\0\0\0\0")) == ([], False)


def test_each_names_the_host_that_is_asked() -> None:
    assert len(BY_NAME) == len(probes.PROBES)
    for one in probes.PROBES:
        sent = probes._for(one.data, "shop.example.com", one.http2)
        assert one.http2 or b"HOST" not in sent  # there, what is smuggled may name nobody
        assert (b"shop.example.com" in sent) == (b"HOST" in one.data)
