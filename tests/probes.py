# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Malformed requests, and what must not come of them.

Each probe is a few bytes that two parsers may read differently: as one request by the first, as two by the next, or as
one for another host or path. :func:`probe` sends them and says what came back; :func:`judge` says what is wrong with
that. Standard library only, so that it also runs inside a test host::

    python3 probes.py --connect 127.0.0.1:443 --tls --host shop.test
    python3 probes.py --connect /run/asgi/shop.sock --host shop.test --bare

prints a JSON object a line and ends with 1 if something is wrong. What was smuggled asks for a path that begins with
``SMUGGLED``: no such path may be in the application's log, or in Nginx's.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

SMUGGLED = "/smuggled"
#: Seconds after which a connection that is neither answered nor closed is given up.
PATIENCE = 3.0

#: What may come back: an error or no answer, or besides that exactly one answer of the application.
REFUSED, ONE = "refused", "one"


@dataclass(frozen=True)
class Probe:
    """Some bytes, and what may come back; ``HOST`` in them is the name of the site."""

    name: str
    data: bytes
    expect: str = REFUSED
    #: Statuses that are wrong even where one answer is right.
    never: tuple[int, ...] = ()
    #: What must not be in an answer.
    without: str = ""
    #: Bytes that are sent when the answer to `data` is there.
    after: bytes = b""


@dataclass(frozen=True)
class Result:
    """What came back: the statuses in their order, and how it ended (closed, open or reset)."""

    name: str
    statuses: tuple[int, ...]
    end: str
    seconds: float
    body: str


def _smuggled(name: str) -> bytes:
    return f"GET {SMUGGLED}/{name} HTTP/1.1\r\nHost: HOST\r\n\r\n".encode()


def _post(*headers: str, body: bytes = b"", line: str = "POST / HTTP/1.1") -> bytes:
    return "\r\n".join([line, "Host: HOST", *headers, "", ""]).encode("latin-1") + body


def _get(path: str = "/", *headers: str, host: str = "HOST", method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    return "\r\n".join([f"{method} {path} {version}", f"Host: {host}", *headers, "", ""]).encode("latin-1")


def _list() -> Iterator[Probe]:
    def inner(name: str) -> bytes:
        return _smuggled(name)

    # Where a body ends.
    size = len(inner("cl.te")) + 5
    yield Probe(
        "cl.te", _post(f"Content-Length: {size}", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + inner("cl.te"))
    )
    chunk = inner("te.cl")
    yield Probe(
        "te.cl",
        _post(
            "Transfer-Encoding: chunked", "Content-Length: 4", body=b"%x\r\n" % len(chunk) + chunk + b"\r\n0\r\n\r\n"
        ),
    )
    for name, header in (
        ("te.unknown", "Transfer-Encoding: xchunked"),
        ("te.identity", "Transfer-Encoding: identity"),
        ("te.list", "Transfer-Encoding: gzip, chunked"),
        ("te.last", "Transfer-Encoding: chunked, identity"),
        ("te.twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        ("te.vertical-tab", "Transfer-Encoding: \x0bchunked"),
        ("te.quoted", 'Transfer-Encoding: "chunked"'),
        ("te.space-before-colon", "Transfer-Encoding : chunked"),
        ("te.folded", "Transfer-Encoding:\r\n chunked"),
        ("te.tail", "Transfer-Encoding: chunked\x00"),
    ):
        yield Probe(name, _post(header, body=b"0\r\n\r\n" + inner(name)))
    yield Probe(
        "te.http-1.0",
        _post("Transfer-Encoding: chunked", line="POST / HTTP/1.0", body=b"0\r\n\r\n" + inner("te.http-1.0")),
    )
    for name, headers in (
        ("cl.twice", ("Content-Length: 0", "Content-Length: 70")),
        ("cl.list", ("Content-Length: 0, 70",)),
        ("cl.plus", ("Content-Length: +5",)),
        ("cl.negative", ("Content-Length: -1",)),
        ("cl.hex", ("Content-Length: 0x5",)),
        ("cl.letters", ("Content-Length: 5a",)),
        ("cl.underscored", ("Content-Length: 1_0",)),
        ("cl.huge", ("Content-Length: 99999999999999999999999",)),
        ("cl.space-before-colon", ("Content-Length : 5",)),
    ):
        yield Probe(name, _post(*headers, body=inner(name)))
    for name, body in (
        ("chunk.letters", b"zz\r\nabc\r\n0\r\n\r\n"),
        ("chunk.negative", b"-1\r\nabc\r\n0\r\n\r\n"),
        ("chunk.huge", b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("chunk.prefix", b"0x3\r\nabc\r\n0\r\n\r\n"),
        ("chunk.longer", b"3\r\nabcdef\r\n0\r\n\r\n"),
        ("chunk.no-size", b"\r\nabc\r\n0\r\n\r\n"),
    ):
        yield Probe(name, _post("Transfer-Encoding: chunked", body=body + inner(name)))
    # RFC 9112 has a bare LF end no chunk's line; Nginx takes it before 1.29.4, and re-frames what it passes on.
    yield Probe("chunk.bare-lf", _post("Transfer-Encoding: chunked", body=b"3\nabc\r\n0\r\n\r\n"), expect=ONE)
    yield Probe("chunk.extension", _post("Transfer-Encoding: chunked", body=b"3;a=b\r\nabc\r\n0\r\n\r\n"), expect=ONE)
    # Where a header ends, and what is in it.
    yield Probe("header.bare-lf", b"GET / HTTP/1.1\nHost: HOST\n\n", expect=ONE)
    yield Probe("header.bare-cr", _get("/", "A: b\rContent-Length: 70"))
    yield Probe("header.nul", _get("/", "A: b\x00c"))
    yield Probe("header.nul-in-name", _get("/", "A\x00b: c"))
    yield Probe("header.no-colon", _get("/", "this is no header"))
    yield Probe("header.empty-name", _get("/", ": value"))
    yield Probe("header.space-in-name", _get("/", "A b: c"))
    yield Probe("header.folded", _get("/", "A: b\r\n c"))
    yield Probe("header.first-line-folded", b"GET / HTTP/1.1\r\n Host: HOST\r\n\r\n")
    yield Probe("header.oversized", _get("/", "A: " + "b" * 70000))
    yield Probe("header.many", _get("/", *(f"A{number}: b" for number in range(2000))))
    yield Probe("line.oversized", _get("/" + "a" * 70000))
    # For whom it is.
    yield Probe("host.none", b"GET / HTTP/1.1\r\n\r\n")
    yield Probe("host.twice", _get("/", "Host: other.test"))
    yield Probe("host.twice-other-first", b"GET / HTTP/1.1\r\nHost: other.test\r\nHost: HOST\r\n\r\n")
    yield Probe("host.empty", _get("/", host=""))
    yield Probe("host.slash", _get("/", host="HOST/../other.test"))
    yield Probe("host.space", _get("/", host="HOST other.test"))
    yield Probe("host.at", _get("/", host="HOST@other.test"))
    yield Probe("host.control", _get("/", host="HOST\x01"))
    yield Probe("host.unknown", _get("/", host="other.test"))
    yield Probe("line.absolute-unknown-host", _get("http://other.test/", host="HOST"))
    # The name in the line counts (RFC 9112, 3.2.2): the application must not see the other one.
    yield Probe("line.absolute", _get("http://HOST/", host="other.test"), expect=ONE, without="other.test")
    # What is asked for.
    yield Probe("method.connect", b"CONNECT HOST:443 HTTP/1.1\r\nHost: HOST\r\n\r\n")
    yield Probe("method.trace", _get("/", method="TRACE"))
    yield Probe("method.lower", _get("/", method="get"))
    yield Probe("method.with-control", _get("/", method="GE\x01T"))
    yield Probe("version.2", _get("/", version="HTTP/2.0"))
    yield Probe("version.9", _get("/", version="HTTP/9.9"))
    yield Probe("version.none-known", _get("/", version="HTTZ/1.1"))
    yield Probe("version.0.9", b"GET /\r\n\r\n", expect=ONE)
    yield Probe("preface.plain", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9)
    yield Probe("preface.garbage", b"\x16\x03\x01\x00\x05hello\r\n\r\n")
    yield Probe(
        "upgrade.h2c",
        _get("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
        expect=ONE,
        never=(101,),
    )
    for name, path in (
        ("path.outside", "/../../../../etc/passwd"),
        ("path.outside-encoded", "/..%2f..%2f..%2fetc%2fpasswd"),
        ("path.static-outside", "/static../main.py"),
        ("path.static-dots", "/static/../../../../etc/passwd"),
        ("path.static-dots-encoded", "/static/..%2f..%2f..%2f..%2fetc/passwd"),
        ("path.static-backslash", "/static/..\\..\\main.py"),
        ("path.static-nul", "/static/app.css%00.js"),
        ("path.nul", "/%00"),
        ("path.bad-encoding", "/%zz"),
        ("path.no-slash", "static/app.css"),
    ):
        # What it asks the application, the application may answer; no file's text may come back.
        refused = name in ("path.outside", "path.no-slash", "path.bad-encoding", "path.nul", "path.static-nul")
        yield Probe(name, _get(path), expect=REFUSED if refused else ONE, without="root:x:0")
    # A redirect to //other.test would be one to another host.
    yield Probe("path.two-slashes", _get("//other.test/%2e%2e"), expect=ONE, never=(301, 302, 307, 308))
    yield Probe("path.space", b"GET /a b HTTP/1.1\r\nHost: HOST\r\n\r\n")


PROBES: tuple[Probe, ...] = tuple(_list())


def connect(target: str, tls: str | None = None) -> socket.socket:
    """Connect to ``ADDRESS:PORT`` or to the unix socket at a path.

    :param tls: the name to ask for in the handshake; the certificate is not checked. None is without TLS.
    """
    if target.startswith("/"):
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plain.settimeout(PATIENCE)
        plain.connect(target)
        return plain
    address, _colon, port = target.rpartition(":")
    plain = socket.create_connection((address.strip("[]"), int(port)), timeout=PATIENCE)
    if tls is None:
        return plain
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=tls)


def probe(one: Probe, target: str, host: str, tls: bool = False, patience: float = PATIENCE) -> Result:
    """Send a probe over a connection of its own, and return what came back in *patience* seconds."""
    begin = time.monotonic()
    with connect(target, host if tls else None) as connection:
        received, end = b"", "closed"
        try:
            connection.sendall(one.data.replace(b"HOST", host.encode()))
            until = begin + patience
            while time.monotonic() < until:
                connection.settimeout(max(until - time.monotonic(), 0.01))
                data = connection.recv(65536)
                if not data:
                    break
                received += data
                # What comes after an answer comes soon, or never.
                until = min(until, time.monotonic() + patience / 3)
            else:
                end = "open"
        except TimeoutError:
            end = "open"
        except OSError:
            end = "reset"
    statuses = tuple(int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3})[ \r]", received))
    shown = received[-4096:].decode("latin-1")
    return Result(one.name, statuses, end, round(time.monotonic() - begin, 2), shown)


def judge(one: Probe, result: Result) -> str:
    """Return what is wrong, empty if nothing is."""
    final = [status for status in result.statuses if status != 100]
    refused = len(final) <= 1 and all(400 <= status < 500 or status in (501, 505) for status in final)
    if SMUGGLED in result.body and len(final) > 1:
        return f"answered what was smuggled: {final}"
    if one.without and one.without in result.body:
        return f"the answer has {one.without!r}"
    if one.expect == REFUSED:
        if not refused:
            return f"found {final}, expected one error of the client's or no answer"
        return "" if final or result.end != "open" else "found neither an answer nor a closed connection"
    if len(final) > 1:
        return f"found {final}, expected one answer"
    if set(final) & set(one.never):
        return f"found {final}, which must not be"
    if any(status >= 500 and status not in (501, 505) for status in final):
        return f"found {final}, a failure"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connect", required=True, help="ADDRESS:PORT, or the path of a unix socket")
    parser.add_argument("--host", required=True, help="the site's name")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--patience", type=float, default=PATIENCE)
    parser.add_argument("--only", default="", help="probes whose name begins so")
    parser.add_argument("--summary", action="store_true", help="print what is wrong, and the figures")
    arguments = parser.parse_args()
    asked = wrong = 0
    for one in PROBES:
        if not one.name.startswith(arguments.only):
            continue
        result = probe(one, arguments.connect, arguments.host, arguments.tls, arguments.patience)
        problem = judge(one, result)
        asked += 1
        wrong += bool(problem)
        if problem or not arguments.summary:
            print(json.dumps({**asdict(result), "expect": one.expect, "problem": problem}))
    if arguments.summary:
        print(f"{asked} malformed requests, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
