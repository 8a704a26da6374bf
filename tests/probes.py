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
import concurrent.futures
import json
import re
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

SMUGGLED = "/smuggled"
#: Seconds after which a connection that is neither answered nor closed is given up; and after which, when an answer is
#: there, no other one is waited for.
PATIENCE, SETTLED = 20.0, 1.0

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
    #: Whether the bytes are frames of HTTP/2, to be sent after the preface of a connection with TLS.
    http2: bool = False


@dataclass(frozen=True)
class Result:
    """What came back: the statuses in their order, and how it ended: closed, open or reset, if by a frame."""

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

# --- HTTP/2, in frames without a library, for one would not send them -------------------------------------------------

_DATA, _HEADERS, _PRIORITY, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
_END_STREAM, _END_HEADERS = 0x1, 0x4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: The statuses that HPACK's static table has (RFC 7541, appendix A), by the byte that stands for them.
_STATUSES = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _block(*fields: tuple[bytes, bytes]) -> bytes:
    """Fields as literals that no table keeps, without Huffman's code."""
    return b"".join(b"\0" + _number(len(name)) + name + _number(len(value)) + value for name, value in fields)


def _number(value: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if value < 127:
        return bytes([value])
    rest, found = value - 127, b"\x7f"
    while rest >= 128:
        found += bytes([rest % 128 + 128])
        rest //= 128
    return found + bytes([rest])


def _ask(*fields: tuple[bytes, bytes], body: bytes | None = None, **pseudo: bytes | None) -> bytes:
    """A request of stream 1; a pseudo-header that is None is left out."""
    given = {"method": b"GET", "scheme": b"https", "path": b"/", "authority": b"HOST", **pseudo}
    first = [(b":" + name.encode(), value) for name, value in given.items() if value is not None]
    end = _END_HEADERS | (_END_STREAM if body is None else 0)
    asked = _frame(_HEADERS, end, 1, _block(*first, *fields))
    return asked if body is None else asked + _frame(_DATA, _END_STREAM, 1, body)


def _http2() -> Iterator[Probe]:
    def one(name: str, data: bytes, expect: str = REFUSED, without: str = "") -> Probe:
        return Probe("h2." + name, data, expect=expect, without=without, http2=True)

    yield one("right", _ask(), expect=ONE)
    yield one("header.upper-case", _ask((b"A-Header", b"b")))
    yield one("header.empty-name", _ask((b"", b"b")))
    yield one("header.line-feed", _ask((b"a", b"b\r\nContent-Length: 70")))
    yield one("header.nul", _ask((b"a", b"b\0c")))
    yield one("header.colon-in-name", _ask((b"a:b", b"c")))
    yield one("header.space-in-name", _ask((b"a b", b"c")))
    yield one("header.line-feed-in-name", _ask((b"a\r\nhost", b"other.test")))
    yield one("header.many", _ask(*((b"a%d" % number, b"b") for number in range(900))))
    yield one("header.oversized", _ask((b"a", b"b" * 15000)))
    # What is of HTTP/1.1 means nothing here; it must not become a header of the request that is passed on.
    smuggled = b"0\r\n\r\n" + _smuggled("h2.te")
    yield one("te", _ask((b"transfer-encoding", b"chunked"), method=b"POST", body=smuggled), expect=ONE)
    yield one("connection", _ask((b"connection", b"close, x-real-ip")), expect=ONE)
    yield one("upgrade", _ask((b"upgrade", b"websocket"), (b"connection", b"upgrade")), expect=ONE)
    yield one("cl.more-than-came", _ask((b"content-length", b"70"), method=b"POST", body=b"abc"))
    yield one("cl.less-than-came", _ask((b"content-length", b"1"), method=b"POST", body=_smuggled("h2.cl")))
    yield one("cl.twice", _ask((b"content-length", b"3"), (b"content-length", b"4"), method=b"POST", body=b"abc"))
    yield one("cl.letters", _ask((b"content-length", b"3a"), method=b"POST", body=b"abc"))
    yield one(
        "pseudo.after-others", _frame(_HEADERS, 5, 1, _block((b"a", b"b"), (b":method", b"GET"), (b":path", b"/")))
    )
    yield one("pseudo.unknown", _ask(evil=b"b"))
    yield one("pseudo.twice", _ask((b":path", b"/b")))
    yield one("path.none", _ask(path=None))
    yield one("path.empty", _ask(path=b""))
    yield one("path.no-slash", _ask(path=b"static"))
    yield one("path.line-feed", _ask(path=b"/ HTTP/1.1\r\nHost: other.test\r\n\r\nGET /smuggled/h2.path"))
    yield one("path.space", _ask(path=b"/a b"))
    yield one("method.none", _ask(method=None))
    yield one("method.line-feed", _ask(method=b"GET / HTTP/1.1\r\n"))
    yield one("method.connect", _ask(method=b"CONNECT"))
    yield one("method.trace", _ask(method=b"TRACE"))
    yield one("host.none", _ask(authority=None))
    yield one("host.unknown", _ask(authority=b"other.test"))
    yield one("host.line-feed", _ask(authority=b"HOST\r\nA: b"))
    yield one("host.two", _ask((b"host", b"other.test")), expect=ONE, without="other.test")
    yield one("frame.data-of-no-stream", _frame(_DATA, 0, 0, b"abc"))
    yield one("frame.headers-of-even-stream", _frame(_HEADERS, 5, 2, _block((b":method", b"GET"), (b":path", b"/"))))
    yield one("frame.continuation-of-nothing", _frame(_CONTINUATION, 4, 1, _block((b"a", b"b"))))
    yield one(
        "frame.between-headers", _frame(_HEADERS, 1, 1, _block((b":path", b"/"))) + _frame(_PING, 0, 0, b"12345678")
    )
    yield one(
        "frame.too-long", (1 << 20).to_bytes(3, "big") + bytes([_HEADERS, 5]) + (1).to_bytes(4, "big") + b"\0" * 20000
    )
    yield one("frame.settings-of-odd-size", _frame(_SETTINGS, 0, 0, b"abc"))
    yield one("frame.ping-of-odd-size", _frame(_PING, 0, 0, b"abc"))
    yield one("frame.window-of-nothing", _frame(_WINDOW, 0, 0, b"\0\0\0\0"))
    yield one("frame.window-overflow", _frame(_WINDOW, 0, 0, b"\x7f\xff\xff\xff"))
    yield one("frame.padding-too-long", _frame(_HEADERS, 0xD, 1, b"\xff" + _block((b":path", b"/"))))
    yield one("hpack.bad-index", _frame(_HEADERS, 5, 1, b"\xff\xff\xff\xff\x0f"))
    yield one("hpack.cut-off", _frame(_HEADERS, 5, 1, b"\0\x10abc"))
    yield one("hpack.bad-huffman", _frame(_HEADERS, 5, 1, b"\0\x84\xff\xff\xff\xff\x01a"))


PROBES += tuple(_http2())


def _heard(received: bytes) -> tuple[list[int], bool]:
    """Return the statuses in frames of HTTP/2, and whether one of them says that a stream or the connection is over."""
    statuses, over = [], False
    while len(received) >= 9:
        size, kind = int.from_bytes(received[:3], "big"), received[3]
        payload, received = received[9 : 9 + size], received[9 + size :]
        if kind == _HEADERS and payload:
            literal = re.match(rb"[\x08\x48\x18]\x03(\d{3})", payload)
            statuses.append(int(literal[1]) if literal else _STATUSES.get(payload[0], 400))
        # A stream that is reset, or a connection, for a reason other than none.
        over = (
            over or (kind == _RESET and payload[:4] != b"\0\0\0\0") or (kind == _GOAWAY and payload[4:8] != b"\0\0\0\0")
        )
    return statuses, over


def connect(target: str, tls: str | None = None, protocol: str = "http/1.1") -> socket.socket:
    """Connect to ``ADDRESS:PORT`` or to the unix socket at a path.

    :param tls: the name to ask for in the handshake; the certificate is not checked. None is without TLS.
    :param protocol: what to ask for in the handshake.
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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context.wrap_socket(plain, server_hostname=tls)


def _for(data: bytes, host: str, http2: bool) -> bytes:
    """The bytes to send for a host. In HTTP/2 its length stands before it, and that of the block before that."""
    if not http2:
        return data.replace(b"HOST", host.encode())
    sent, grown = PREFACE + _frame(_SETTINGS, 0, 0, b""), len(host) - 4
    while data:
        size, kind = int.from_bytes(data[:3], "big"), data[3]
        head, payload, data = data[3:9], data[9 : 9 + size], data[9 + size :]
        found = re.search(rb"(.)HOST", payload, re.DOTALL) if kind == _HEADERS else None
        if found:
            payload = payload.replace(found[0], bytes([found[1][0] + grown]) + host.encode(), 1)
            size += grown
        sent += size.to_bytes(3, "big") + head + payload
    return sent


def probe(one: Probe, target: str, host: str, tls: bool = False, patience: float = PATIENCE) -> Result:
    """Send a probe over a connection of its own, and return what came back in *patience* seconds."""
    begin = time.monotonic()
    with connect(target, host if tls else None, "h2" if one.http2 else "http/1.1") as connection:
        received, end, data = b"", "closed", _for(one.data, host, one.http2)
        try:
            connection.sendall(data)
            until = time.monotonic() + patience
            while (left := until - time.monotonic()) > 0:
                connection.settimeout(left)
                piece = connection.recv(65536)
                if not piece:
                    break
                received += piece
                # In HTTP/2 the server says something before it answers.
                if not one.http2 or any(_heard(received)):
                    until = min(until, time.monotonic() + SETTLED)
            else:
                end = "open"
        except TimeoutError:
            end = "open"
        except OSError:
            end = "reset"
    statuses = tuple(int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3})[ \r]", received))
    if one.http2:
        found, over = _heard(received)
        statuses, end = tuple(found), "reset" if over else end
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
    chosen = [one for one in PROBES if one.name.startswith(arguments.only) and (arguments.tls or not one.http2)]

    def ask(one: Probe) -> Result:
        return probe(one, arguments.connect, arguments.host, arguments.tls, arguments.patience)

    wrong = 0
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for one, result in zip(chosen, threads.map(ask, chosen)):
            problem = judge(one, result)
            wrong += bool(problem)
            if problem or not arguments.summary:
                print(json.dumps({**asdict(result), "expect": one.expect, "problem": problem}))
    if arguments.summary:
        print(f"{len(chosen)} malformed requests, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
