# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an application may expect of its server, whichever it is, asked of each in the same words.

Most is asked twice: through Nginx, as users do, and past it at the application's socket, where nothing smooths over
what the server does.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import http.client
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import client
import pytest
import variants
from differences import differs
from driver import wait_for
from variants import App, read
from websockets.exceptions import ConnectionClosed, InvalidStatus

each = pytest.mark.parametrize("app", variants.CONTRACT, ids=variants.name_of)
each_on_one_host = pytest.mark.parametrize("app", variants.ALL_VARIANTS, ids=variants.name_of)

WORKERS = 2
#: A blocked event loop is noticed after the option `timeout`; a worker then ends and another starts, on a busy machine.
REPLACED = 40


def each_at_once(check: Callable[[App], None]) -> Callable[[App], None]:
    """Ask all applications when the first is asked: most of such a check is waiting. Each test judges its own."""
    results: dict[str, concurrent.futures.Future[None]] = {}

    @each
    @functools.wraps(check)
    def test(app: App) -> None:
        if not results:
            with concurrent.futures.ThreadPoolExecutor(len(variants.CONTRACT)) as pool:
                results.update((variants.name_of(one), pool.submit(check, one)) for one in variants.CONTRACT)
        results[variants.name_of(app)].result()

    return test


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- the life of a worker --------------------------------------------------------------------------------------------


@each
def test_lifespan_starts_once_a_worker(app: App) -> None:
    since = app.host.out("systemctl", "show", "--timestamp=unix", "--property=ExecMainStartTimestamp", app.unit)
    began = int(since.partition("=@")[2])
    started = [event["pid"] for event in app.events("startup", release=app.live()) if event["at"] >= began]
    assert len(started) == len(set(started)) == WORKERS
    assert app.workers() == set(started)
    assert [event for event in app.events("shutdown", release=app.live()) if event["at"] >= began] == []


@each
def test_state_of_the_lifespan_is_the_workers_own(app: App) -> None:
    """scope["state"] of a request is what the lifespan of the same process left there (ASGI 3, lifespan state)."""
    info = app.info()
    assert info["state"] == info["pid"]


# --- who asks, and what ----------------------------------------------------------------------------------------------


def assert_identity(app: App, info: Any, scheme: str, sender: str) -> None:
    headers = dict(info["headers"])
    assert info["client"] is not None
    assert (info["client"][0], info["scheme"], headers["host"]) == (sender, scheme, app.domain)
    assert info["root_path"] == app.root
    assert headers["x-request-id"]


@each
def test_request_says_who_asks_and_what(app: App) -> None:
    query = "word=gr%C3%BCezi&empty=&plus=a+b"
    answer = app.request(f"/api/info?{query}", headers={"X-Forwarded-For": "203.0.113.7", "X-Twice": "a"})
    info = answer.json()
    assert_identity(app, info, "https", answer.client)
    assert (info["method"], info["path"], info["query_string"]) == ("GET", f"{app.root}/api/info", query)
    assert info["type"] == "http"
    assert info["http_version"] == "1.1"
    assert dict(info["headers"])["x-twice"] == "a"


@each
def test_path_is_decoded(app: App) -> None:
    """And what it was before is there as well (ASGI HTTP 2.1, raw_path), from the same server or not at all."""
    tape, __ = app.exchange((0, app.message("/api%2Finfo", Connection="close")))
    response, info = read(tape)
    assert (response.status, info["path"]) == (200, f"{app.root}/api/info")
    assert info["raw_path"] == f"{app.root}/api%2Finfo"


@each
def test_websocket_says_who_asks_and_what(app: App) -> None:
    with app.websocket("/ws?a=b", subprotocols=["chat.v2", "chat.v1"]) as socket:
        sender = socket.socket.getsockname()[0]
        socket.send("whoami")
        info = json.loads(socket.recv(timeout=client.SECONDS))
    assert_identity(app, info, "wss", sender)
    assert (info["type"], info["path"], info["query_string"]) == ("websocket", f"{app.root}/ws", "a=b")
    assert info["subprotocols"] == ["chat.v2", "chat.v1"]


# --- HTTP/1.1 --------------------------------------------------------------------------------------------------------


@each_at_once
def test_connection_is_kept(app: App) -> None:
    tape, __ = app.exchange((0, app.message("/api/info")), (0.5, app.message("/api/info", Connection="close")))
    first, second = read(tape), read(tape)
    assert (first[0].status, second[0].status) == (200, 200)
    assert first[0].headers.get("Connection", "").lower() != "close"
    assert first[1]["pid"] == second[1]["pid"]


@each
def test_connection_is_kept_through_nginx(app: App) -> None:
    connection = http.client.HTTPConnection(app.domain)
    connection.sock = client.connect(app.host.address, app.domain, tls=True)
    with connection.sock:
        for path in ("/api/info", "/chunked", "/api/info"):
            connection.request("GET", app.root + path)
            response = connection.getresponse()
            assert (response.status, response.will_close) == (200, False)
            response.read()


@each
def test_pipelined_requests_are_answered_in_order(app: App) -> None:
    requests = [app.message(f"/api/info?n={n}") for n in range(3)]
    body = b"four"
    requests.append(app.message("/upload", "POST", body))
    requests.append(app.message("/api/info?n=last", Connection="close"))
    tape, __ = app.exchange((0, b"".join(requests)))
    answers = [read(tape) for __ in requests]
    assert [response.status for response, __ in answers] == [200] * 5
    asked = [body.get("query_string", body.get("bytes")) for __, body in answers]
    assert asked == ["n=0", "n=1", "n=2", 4, "n=last"]
    assert tape.read() == b""


@each_at_once
def test_head_has_the_headers_alone(app: App) -> None:
    """The application sends a body all the same: the server drops it, or the next answer could not be read."""
    messages = app.message("/healthz", "HEAD"), app.message("/healthz", Connection="close")
    tape, __ = app.exchange((0, messages[0]), (0.3, messages[1]))
    head, body = read(tape, "HEAD")
    got, document = read(tape)
    assert (head.status, body) == (200, b"")
    assert (got.status, document) == (200, {"status": "ok"})
    assert head.headers["Content-Length"] == got.headers["Content-Length"]
    assert app.request("/healthz", method="HEAD").body == b""


@each_at_once
def test_answer_of_unknown_length_is_chunked(app: App) -> None:
    tape, __ = app.exchange((0, app.message("/chunked?count=3")), (0.3, app.message("/healthz", Connection="close")))
    response, body = read(tape)
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert body == b"piece 0\npiece 1\npiece 2\n"
    assert read(tape)[0].status == 200
    assert app.request("/chunked?count=3").body == body


@each_at_once
def test_expect_100_continue_is_answered(app: App) -> None:
    head = app.message("/upload", "POST", Content_Length="4", Expect="100-continue", Connection="close")
    tape, __ = app.exchange((0, head), (1, b"four"))
    assert tape.readline().startswith(b"HTTP/1.1 100")
    while tape.readline() != b"\r\n":
        pass  # an interim answer may have headers
    assert read(tape)[1]["bytes"] == 4


# --- bodies ----------------------------------------------------------------------------------------------------------


@each
def test_large_upload_is_streamed(app: App) -> None:
    body = os.urandom(6_000_000)
    answer = app.request("/upload", method="POST", body=body).json()
    assert (answer["bytes"], answer["sha256"]) == (len(body), sha256(body))
    assert answer["pieces"] > 10


@each_at_once
def test_chunked_upload_reaches_the_application_while_it_is_sent(app: App) -> None:
    pieces = [os.urandom(100_000) for __ in range(3)]
    head = app.message("/upload", "POST", Transfer_Encoding="chunked", Connection="close")
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    tape, __ = app.exchange((0, head + chunks[0]), (0.7, chunks[1]), (0.7, chunks[2] + b"0\r\n\r\n"))
    answer = read(tape)[1]
    assert answer["sha256"] == sha256(b"".join(pieces))
    assert answer["spread"] > 0.7, "it came in one piece, after it had all been sent"


@each
def test_chunked_upload_arrives_whole_through_nginx(app: App) -> None:
    pieces = [os.urandom(50_000) for __ in range(4)]
    answer = app.request("/upload", method="POST", body=iter(pieces))
    assert answer.json()["sha256"] == sha256(b"".join(pieces))


@each
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_upload_beyond_the_limit_is_refused(app: App, chunked: bool) -> None:
    limit = app.declared["max_body_size"]
    halves = bytes(limit // 2), bytes(limit - limit // 2 + 1)
    body = iter(halves) if chunked else b"".join(halves)
    assert app.request("/upload", method="POST", body=body).status == 413
    assert app.request("/upload", method="POST", body=bytes(limit)).json()["bytes"] == limit


# --- slow clients ----------------------------------------------------------------------------------------------------


@each_at_once
def test_slow_sender_is_served_beside_others(app: App) -> None:
    """Its head comes in pieces, and then its body."""
    body = b"0123456789"
    head = app.message("/upload", "POST", Content_Length=str(len(body)), Connection="close")
    pieces = [head[:20], head[20:50], head[50:], *(body[at : at + 2] for at in range(0, len(body), 2))]
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(app.exchange(*((0.25, piece) for piece in pieces))))
    thread.start()
    served = 0
    while thread.is_alive():
        assert app.info()["pid"]
        served += 1
    thread.join()
    assert served >= 3
    ((tape, __),) = answers
    assert read(tape)[1]["sha256"] == sha256(body)


@each_at_once
def test_slow_reader_is_waited_for(app: App) -> None:
    """What it has not read is not piled up in the worker: the application is made to wait."""
    size, progress = 64_000_000, f"/var/lib/asgi/{app.name}/download"
    app.host.run("rm", "-f", progress)
    message = app.message(f"/download?bytes={size}", Connection="close")
    received: list[int] = []
    thread = threading.Thread(target=lambda: received.append(app.exchange((0, message), hold=3, keep=100)[1]))
    thread.start()
    wait_for("the download has begun", lambda: app.host.read(progress), 10)
    time.sleep(0.5)
    sent = [int(app.host.read(progress) or 0) for __ in range(2)]
    assert sent[0] == sent[1] < size / 8, "the server takes what nobody reads"
    thread.join()
    assert received[0] > size


@each
def test_client_that_goes_away_is_noticed(app: App) -> None:
    query = f"count=0&interval=0.2&word={uuid.uuid4().hex}"
    connection, response = client.open_request(app.host.address, app.domain, f"{app.root}/events?{query}")
    with connection, response:
        assert response.readline().startswith(b"id:")
    seen = wait_for("it is", lambda: [event for event in app.events("disconnect") if event["query"] == query], 10)
    assert [event["message"] for event in seen] == ["http.disconnect"]


# --- streams ---------------------------------------------------------------------------------------------------------


@each_at_once
def test_events_arrive_one_by_one(app: App) -> None:
    arrivals = client.event_times(app.host.address, app.domain, f"{app.root}/events?count=4&interval=0.3")
    client.assert_one_by_one(arrivals, 4, 0.3)


@each
def test_websocket_echoes_large_and_small(app: App) -> None:
    large = os.urandom(3_000_000)
    with app.websocket("/ws", compression=None, max_size=None) as socket:
        for message in ("grüezi", b"", b"\x00\xff", large, "x" * 70_000):
            socket.send(message)
            assert socket.recv(timeout=client.SECONDS) == message
        # A message in fragments arrives as one.
        socket.send(iter(["one, ", "two, ", "three"]))
        assert socket.recv(timeout=client.SECONDS) == "one, two, three"


@each
def test_websocket_is_compressed(app: App) -> None:
    with app.websocket("/ws", compression="deflate") as socket:
        agreed = [extension.name for extension in socket.protocol.extensions]
        for message in ("again and again " * 20_000, "short"):
            socket.send(message)
            assert socket.recv(timeout=client.SECONDS) == message
    assert agreed == ([] if differs("no permessage-deflate", app.name) else ["permessage-deflate"])


@each
def test_websocket_is_accepted_with_subprotocol_and_headers(app: App) -> None:
    with app.websocket("/ws", subprotocols=["chat.v2", "chat.v1"]) as socket:
        assert socket.subprotocol == "chat.v2"
        headers = socket.response.headers
    assert headers.get("X-Release") == (None if differs("no headers of websocket.accept", app.name) else app.live())


@each
def test_websocket_is_closed_cleanly_by_either_side(app: App) -> None:
    word = uuid.uuid4().hex
    with app.websocket(f"/ws?{word}") as socket:
        socket.send("hello")
        assert socket.recv(timeout=client.SECONDS) == "hello"
        socket.close(code=3001, reason="enough")
        assert socket.close_code == 3001
    seen = [event["code"] for event in app.events("websocket.disconnect") if event["query"] == word]
    assert seen == [1006 if differs("no close code of the client", app.name) else 3001]
    with app.websocket("/ws") as socket:
        socket.send("close 4002 that is all")
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=client.SECONDS)
        assert (socket.close_code, socket.close_reason) == (4002, "that is all")


@each
def test_websocket_that_the_application_refuses_is_answered_with_403(app: App) -> None:
    with pytest.raises(InvalidStatus) as refused, app.websocket("/refused"):
        pass
    assert refused.value.response.status_code == 403


# --- logs ------------------------------------------------------------------------------------------------------------


def journal(app: App, word: str) -> list[dict[str, str]]:
    """Return the journal's lines of the live release in which *word* occurs."""
    command = ("journalctl", "--boot", "--output", "json", "--unit", app.unit, "--grep", word)
    done = app.host.run(*command)
    return [json.loads(line) for line in done.stdout.splitlines()]


@each
def test_requests_and_errors_are_in_the_journal(app: App) -> None:
    word = uuid.uuid4().hex
    assert app.request(f"/missing-{word}").status == 404
    assert app.request(f"/error?word={word}").status == 500
    wait_for("a line of the access log", lambda: journal(app, f"missing-{word}"), 10)
    wait_for("what the application raised", lambda: journal(app, f"the application failed {word}"), 10)
    for line in journal(app, word):
        assert line["SYSLOG_IDENTIFIER"] == f"asgi-{app.name}"
    (access,) = journal(app, f"missing-{word}")
    assert re.search(r"\b404\b", access["MESSAGE"]), access["MESSAGE"]
    sender = client.request(app.host.address, app.domain, "/").client
    assert sender in access["MESSAGE"], access["MESSAGE"]


# --- memory and file descriptors -------------------------------------------------------------------------------------


def used(app: App) -> dict[int, tuple[int, int]]:
    """Return what each worker uses: private memory in KiB, and file descriptors."""
    found = {}
    for pid in app.workers():
        rollup = app.host.out("cat", f"/proc/{pid}/smaps_rollup")
        memory = sum(int(size) for size in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB$", rollup, re.M))
        found[pid] = (memory, int(app.host.sh(f"ls /proc/{pid}/fd | wc -l")))
    return found


@each_on_one_host
def test_memory_and_files_stay_level(app: App) -> None:
    def many(count: int) -> None:
        # On one connection each, so that both workers get some.
        for __ in range(6):
            assert sum(app.many("/api/info", count).values()) == count

    many(100)
    before = used(app)
    many(400)
    after = used(app)
    assert before.keys() == after.keys(), "a worker was replaced"
    # 2400 requests: 1 KiB kept of each would be 1.2 MiB for a worker that got half of them.
    assert all(memory - before[pid][0] < 1024 for pid, (memory, __) in after.items()), (before, after)

    def closed() -> bool:
        """Whether what was connected has been let go of; a server may take a moment."""
        return all(files <= before[pid][1] + 1 for pid, (__, files) in used(app).items())

    wait_for(f"as many open files as before, {before}", closed, 20)


# --- stopping and failing: what was asked of them above is over ------------------------------------------------------


def assert_answers_again(app: App) -> None:
    """Wait until what a test did to the workers is over, and all of them answer."""
    wait_for("as many workers answer as were declared", lambda: len(app.answering(20)) == WORKERS, REPLACED)


@each_at_once
def test_dead_worker_is_replaced(app: App) -> None:
    before = app.workers()
    main = app.host.show(app.unit, "MainPID", "NRestarts")
    victim = min(before)
    app.host.sh(f"kill -9 {victim}")
    wait_for("another has started", lambda: len(app.workers() - {victim}) == WORKERS, REPLACED)
    assert before - {victim} < app.workers(), "the other was replaced as well"
    assert app.host.show(app.unit, "MainPID", "NRestarts") == main, "the server was started anew"
    assert_answers_again(app)


@each_at_once
def test_hung_worker_is_replaced(app: App) -> None:
    before = app.workers()
    count = len(app.events("block"))
    message = app.message("/block?seconds=600", Connection="close")
    # It ends without an answer.
    thread = threading.Thread(target=lambda: app.exchange((0, message)))
    thread.start()
    (blocked,) = wait_for("a worker hangs", lambda: app.events("block")[count:], 10)
    began = time.monotonic()
    wait_for("it is gone", lambda: blocked["pid"] not in app.workers(), app.options["timeout"] + REPLACED)
    assert time.monotonic() - began > 1, "it was not the timeout that ended it"
    wait_for("another has started", lambda: len(app.workers()) == WORKERS, REPLACED)
    assert before - {blocked["pid"]} < app.workers(), "the other was replaced as well"
    thread.join()
    assert_answers_again(app)


@each_at_once
def test_stop_finishes_what_is_in_flight(app: App) -> None:
    before = app.workers()
    answers: list[client.Answer] = []
    body = os.urandom(20_000)
    thread = threading.Thread(target=lambda: answers.append(app.request("/slow?seconds=3", method="POST", body=body)))
    count = len(app.events("slow"))
    thread.start()
    wait_for("the slow request is in flight", lambda: len(app.events("slow")) > count, 10)
    app.host.out("systemctl", "restart", app.unit)
    thread.join()
    assert [answer.status for answer in answers] == [200]
    assert answers[0].json()["sha256"] == sha256(body)
    shut_down = [event["pid"] for event in app.events("shutdown")]
    assert {pid: shut_down.count(pid) for pid in before} == dict.fromkeys(before, 1)
    assert not app.workers() & before
    assert_answers_again(app)


@each_at_once
def test_stop_closes_websockets_that_are_in_use(app: App) -> None:
    """Also where the other side is just writing: what it is told then is not lost on the way."""
    codes: list[int | None] = []
    open_now = threading.Semaphore(0)

    def talk() -> None:
        with app.websocket("/ws") as connection:
            open_now.release()
            try:
                while True:
                    for __ in range(8):
                        connection.send("anybody there?")
                    for __ in range(8):
                        connection.recv(timeout=client.SECONDS)
            except ConnectionClosed as closed:
                codes.append(closed.rcvd.code if closed.rcvd else None)

    threads = [threading.Thread(target=talk) for __ in range(8)]
    for thread in threads:
        thread.start()
    for __ in threads:
        assert open_now.acquire(timeout=client.SECONDS)
    app.host.out("systemctl", "restart", app.unit)
    for thread in threads:
        thread.join()
    assert set(codes) <= {1001, 1012}, codes
    assert len(codes) == len(threads)
    assert_answers_again(app)
