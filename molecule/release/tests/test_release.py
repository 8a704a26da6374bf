# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A story in order, told by real runs of the playbooks while requests flow: none is lost, no broken release answers.

What a test declares is in its own words; what it expects of the release before, it reads from the host first.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import driver
import pytest
from driver import ask, wait_for

if TYPE_CHECKING:
    from conftest import Story

# What is looked for, whatever stands around it.
NEEDLE = "needle-4f1d0c7e52a94b6d8be3"
SECRETS = {"TOKEN": NEEDLE, "PASSPHRASE": f'two words "{NEEDLE}" $HOME \\n `id`'}

#: A static file that only the first code has, and one that only the second has.
ASSETS = ["page.0a1b2c3d.js", "page.9f8e7d6c.js"]

DRAIN = 15
LONG_DRAIN = 90  # longer than a deploy takes on a busy machine
#: What an edge and a server need to let go of a release, on top of its drain.
LETTING_GO = 30


def demo(source: str, **keys: Any) -> dict[str, Any]:
    """Declare the application."""
    return {
        "name": "demo",
        "app": "main:app",
        "source": {"path": source},
        "domains": ["demo.test"],
        "workers": 2,
        "environment": {"DEMO_UNSAFE": "1", "COLOUR": "red"},
        "secrets": SECRETS,
        "health": {"path": "/healthz"},
        "drain": DRAIN,
        "gunicorn": {"graceful_timeout": 5},
        "locations": [
            {"path": "/static/", "kind": "static", "root": "static"},
            {"path": "/events", "kind": "sse"},
            {"path": "/ws", "kind": "websocket"},
        ],
        **keys,
    }


def other(source: str) -> dict[str, Any]:
    """Declare an application beside it, without a network."""
    return {
        "name": "other",
        "app": "main:app",
        "source": {"path": source},
        "domains": ["other.test"],
        "tls": {"mode": "none"},
        "workers": 1,
        "environment": {"DEMO_UNSAFE": "1"},
        "network": "none",
    }


def version(stack: driver.Stack) -> str:
    """Return the version of the code that answers."""
    answer = ask(stack.host, "demo.test", "/api/info")
    assert answer.status == 200
    return str(answer.json()["version"])


def with_asset(source: str, name: str) -> str:
    """Give an application's code a static file; return the code's directory."""
    (Path(source) / "static" / name).write_text(name, encoding="utf-8")
    return source


def assets(stack: driver.Stack) -> list[str]:
    """Return what the static files of the first and of the second code are answered with."""
    answers = [ask(stack.host, "demo.test", f"/static/{name}") for name in ASSETS]
    return [answer.body.decode() if answer.status == 200 else str(answer.status) for answer in answers]


def variable(stack: driver.Stack, name: str) -> str | None:
    """Return the SHA-256 of a variable of the process's environment."""
    found: str | None = ask(stack.host, "demo.test", "/env", {"name": name}).json()["sha256"]
    return found


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def eventually(expected: Any, question: Callable[[], Any]) -> None:
    """Wait until *question* is answered as expected.

    For some seconds after a switch, Nginx's kept connections lead to the release before.
    """
    until = time.monotonic() + 20
    while (answer := question()) != expected:
        assert time.monotonic() < until, f"it is still {answer!r} and not {expected!r}"
        time.sleep(0.2)


def now_live(stack: driver.Stack, story: Story) -> dict[str, Any]:
    """Return the live release, which is the one that answers, and runs."""
    live = stack.live("demo")
    if story.served and story.served[-1] != live["release"]:
        before = stack.about("demo", story.served[-1])
        story.retired.setdefault(before["release"], datetime.fromisoformat(before["retired_at"]).timestamp())
    story.served.append(live["release"])
    assert live["state"] == "live"
    assert live["release"] in stack.running("demo")
    eventually(live["release"], lambda: ask(stack.host, "demo.test", "/api/info").release)
    return live


# --- deploys ---------------------------------------------------------------------------------------------------------


def test_bare_host_serves(stack: driver.Stack, story: Story) -> None:
    source = with_asset(stack.source("first", VERSION="1.0.0\n"), ASSETS[0])
    stack.play("site", demo(source), other(source)).must()
    assert version(stack) == "1.0.0"
    assert assets(stack) == [ASSETS[0], "404"]
    story.builds["first"] = now_live(stack, story)["build"]
    story.begin()


def test_changed_code_is_deployed(stack: driver.Stack, story: Story) -> None:
    before = stack.live("demo")
    stack.play("site", demo(with_asset(stack.source("second", VERSION="2.0.0\n"), ASSETS[1]))).must()
    after = now_live(stack, story)
    eventually("2.0.0", lambda: version(stack))
    assert after["id"] != before["id"]
    assert stack.about("demo", before["release"])["state"] == "retired"
    assert assets(stack) == ASSETS, "pages of the release before are open still"


def test_changed_environment_is_deployed(stack: driver.Stack, story: Story) -> None:
    before, builds = stack.live("demo"), stack.builds("demo")
    assert variable(stack, "COLOUR") == sha256("red")
    stack.play("site", demo(stack.source("second"), environment={"DEMO_UNSAFE": "1", "COLOUR": "blue"})).must()
    eventually(sha256("blue"), lambda: variable(stack, "COLOUR"))
    after = now_live(stack, story)
    assert after["id"] != before["id"]
    assert (after["build"], stack.builds("demo")) == (before["build"], builds), "something was built"
    assert assets(stack) == ASSETS


def test_changed_worker_count_is_deployed(stack: driver.Stack, story: Story) -> None:
    before = stack.live("demo")
    pid = stack.main_pid("demo")
    assert len(stack.host.children(pid)) == 2
    environment = {"DEMO_UNSAFE": "1", "COLOUR": "blue"}
    stack.play("site", demo(stack.source("second"), environment=environment, workers=3)).must()
    after = now_live(stack, story)
    assert after["release"] != before["release"]
    assert stack.main_pid("demo") != pid
    wait_for("three workers", lambda: len(stack.host.children(stack.main_pid("demo"))) == 3, 10)


# --- rollback and restart --------------------------------------------------------------------------------------------


def test_rollback_brings_back_code_and_configuration_without_a_network(stack: driver.Stack, story: Story) -> None:
    """Twice: to two workers, then to the environment before; then to the first release of all, by its id."""
    builds, releases = stack.builds("demo"), stack.releases("demo")
    first, second, third, _fourth = (stack.about("demo", release) for release in releases)
    # The declaration stays as it is: a rollback does not read it. Nothing can be fetched.
    declared = demo(stack.source("second"))
    with stack.host.without_network():
        stack.play("rollback", declared, options=("-e", "asgi_app=demo")).must()
        assert stack.live("demo")["release"] == third["release"]
        stack.play("rollback", declared, options=("-e", "asgi_app=demo")).must()
        assert stack.live("demo")["release"] == second["release"]
    eventually(sha256("red"), lambda: variable(stack, "COLOUR"))
    eventually("2.0.0", lambda: version(stack))
    with stack.host.without_network():
        stack.play("rollback", declared, options=("-e", "asgi_app=demo", "-e", f"asgi_release={first['id']}")).must()
    eventually("1.0.0", lambda: version(stack))
    assert now_live(stack, story)["release"] == first["release"]
    assert assets(stack) == ASSETS, "pages of the release that was rolled back are open still"
    assert (stack.builds("demo"), stack.releases("demo")) == (builds, releases)


def test_restart_is_a_fresh_instance_of_the_same_release(stack: driver.Stack, story: Story) -> None:
    before, pid = stack.live("demo"), stack.main_pid("demo")
    with stack.host.without_network():
        stack.play("restart", demo(stack.source("first")), options=("-e", "asgi_app=demo")).must()
    after = now_live(stack, story)
    assert (after["id"], after["build"], after["digest"]) == (before["id"], before["build"], before["digest"])
    assert after["release"] != before["release"]
    assert stack.main_pid("demo") != pid


def test_deploy_during_a_drain(stack: driver.Stack, story: Story) -> None:
    """WebSockets keep the release before the last alive while the next one is deployed."""
    first = stack.live("demo")["release"]
    source = stack.source("sixth", VERSION="6.0.0\n")
    for number in ("one", "two"):
        environment = {"DEMO_UNSAFE": "1", "NUMBER": number}
        stack.play("site", demo(source, environment=environment, drain=LONG_DRAIN)).must()
        live = now_live(stack, story)["release"]
    assert {first, live} <= stack.running("demo"), "what drained was stopped by the next deploy"


# --- hooks and secrets -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def watched_processes(host: driver.Host) -> Iterator[list[str]]:
    """Look at the command lines of all processes, of the host and of this machine, as often as they can be read."""
    script = """
import glob, os, pathlib, sys, time
needle, found = sys.argv[1].encode(), set()
while not os.path.exists("/tmp/enough"):
    time.sleep(0.02)
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            line = pathlib.Path(path).read_bytes()
        except OSError:
            continue
        if needle in line and path != f"/proc/{os.getpid()}/cmdline":
            found.add(line.replace(b"\\0", b" ").decode(errors="replace"))
print("".join(line + "\\n" for line in found), end="")
"""
    found: list[str] = []
    host.run("rm", "-f", "/tmp/enough")
    # The needle is split, so that the watcher and what starts it are not found themselves.
    split = script.replace("sys.argv[1]", "(sys.argv[1] + sys.argv[2])")
    command = ("python3", "-c", split, NEEDLE[:8], NEEDLE[8:])
    thread = threading.Thread(target=lambda: found.extend(host.run(*command, seconds=300).stdout.splitlines()))
    thread.start()
    try:
        yield found
    finally:
        host.run("touch", "/tmp/enough")
        thread.join()


def in_base64(text: str) -> list[str]:
    """Return how *text* looks within something that is encoded with base64, for each of the three alignments."""
    pieces = [base64.b64encode(b"\0" * shift + text.encode()).decode() for shift in range(3)]
    return [piece[4 : len(piece) - 4] for piece in pieces]


def with_hooks(source: str) -> dict[str, Any]:
    """Declare the application with hooks that write down who runs them, where, and with what."""
    migrate = [
        'echo "$(id -un) $ASGI_RELEASE $(cat VERSION) $COLOUR" >> "$STATE_DIRECTORY/migrations"',
        'printf %s "$TOKEN" | sha256sum >> "$STATE_DIRECTORY/tokens"',
        ["python", "-c", "import fastapi"],
    ]
    return demo(source, hooks={"build": ["id -un > built-by.txt", "cat VERSION >> built-by.txt"], "migrate": migrate})


def test_hooks_run_once_and_secrets_stay_secret(stack: driver.Stack, story: Story) -> None:
    host = stack.host
    declared = with_hooks(stack.source("third", VERSION="3.0.0\n"))
    with watched_processes(host) as command_lines:
        play = stack.play("site", declared, options=("--diff", "-vvv")).must()
    live = now_live(stack, story)
    eventually("3.0.0", lambda: version(stack))

    # Hooks: the build's in the build, by its own user; the migration by the application's, with its environment.
    assert host.out("cat", "/srv/asgi/demo/live/build/src/built-by.txt").split() == ["_asgi-build", "3.0.0"]
    state = "/var/lib/asgi/demo"
    assert host.out("cat", f"{state}/migrations") == f"asgi-demo {live['release']} 3.0.0 red"
    assert host.out("cat", f"{state}/tokens").split()[0] == sha256(NEEDLE)

    # Secrets: they reach the process, and nothing else holds them.
    for name, value in SECRETS.items():
        eventually(sha256(value), functools.partial(variable, stack, name))
    for look in (NEEDLE, *in_base64(NEEDLE)):
        assert not play.says(re.escape(look))
        assert look not in host.out("journalctl", "--boot", "--all", "--no-pager", "--output", "cat")
        assert look not in host.out("systemctl", "show", "--all", "asgi-demo*", "asgi.*")
    assert command_lines == []
    roots = "/etc /home /opt /root /run /srv /tmp /usr/local /var"
    holding = host.run("grep", "-rlF", "--devices=skip", "--", NEEDLE, *roots.split(), seconds=120).stdout.split()
    assert holding
    for path in holding:
        assert re.fullmatch(r"/srv/asgi/demo/releases/[^/]+/secrets", path)
        assert host.out("stat", "--format", "%U %G %a", path) == "root root 600"

    # The next run has nothing to do.
    again = stack.play("site", declared).must()
    assert again.changed == 0, again.end_of_output
    assert now_live(stack, story)["release"] == live["release"]
    assert len(host.out("cat", f"{state}/migrations").splitlines()) == 1


def test_failed_migration_switches_nothing(stack: driver.Stack, story: Story) -> None:
    live, before = stack.live("demo"), stack.releases("demo")
    hook = 'echo "the column is there already, says $TOKEN"; exit 3'
    declared = demo(stack.source("fourth", VERSION="4.0.0\n"), hooks={"migrate": [hook]})
    play = stack.play("site", declared).must_fail()
    assert play.says("hooks.migrate"), play.end_of_output
    assert play.says("the column is there already"), play.end_of_output
    assert not play.says(NEEDLE)
    assert_failed(stack, story, live, before)
    assert version(stack) == "3.0.0"


# --- broken releases -------------------------------------------------------------------------------------------------


def assert_failed(stack: driver.Stack, story: Story, live: dict[str, Any], before: list[str]) -> dict[str, Any]:
    """Assert that one release was added, is marked as failed and stopped, and that what was live is live."""
    (new,) = set(stack.releases("demo")) - set(before)
    story.failed.add(new)
    assert stack.live("demo")["release"] == live["release"]
    assert ask(stack.host, "demo.test", "/api/info").release == live["release"]
    failed = stack.about("demo", new)
    assert failed["state"] == "failed"
    assert failed["reason"]
    for kind in ("service", "socket"):
        assert stack.host.show(f"asgi-demo@{new}.{kind}", "ActiveState")["ActiveState"] == "inactive"
    return failed


BROKEN = {
    "import_error": r"cannot be imported: RuntimeError: this application cannot be imported",
    "lifespan_error": r"this application cannot start",
    "unhealthy": r"GET /healthz: status 503, expected any below 500",
    "hang": r"GET /healthz: no answer",
    "crash_loop": r"workers keep dying|a worker died",
    "slow_start": r"not healthy within 8 s",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_release_gets_no_traffic(stack: driver.Stack, story: Story, kind: str) -> None:
    live, before = stack.live("demo"), stack.releases("demo")
    declared = demo(stack.source("broken", "broken"), app=f"{kind}:app", environment={"START_SECONDS": "60"})
    declared["health"] = {"path": "/healthz", "timeout": 8}
    play = stack.play("site", declared).must_fail()
    assert play.says(BROKEN[kind]), play.end_of_output
    assert play.says("Starting gunicorn|Booting worker"), f"no lines of the journal: {play.end_of_output}"
    assert_failed(stack, story, live, before)


def test_rollback_never_chooses_a_failed_release(stack: driver.Stack, story: Story) -> None:
    declared = demo(stack.source("third"))
    broken = sorted(story.failed)[-1]
    play = stack.play("rollback", declared, options=("-e", "asgi_app=demo", "-e", f"asgi_release={broken}"))
    assert play.must_fail().says("expected one that was live before"), play.end_of_output
    expected = [release for release in story.served if release != story.served[-1]][-1]
    stack.play("rollback", declared, options=("-e", "asgi_app=demo")).must()
    assert now_live(stack, story)["release"] == expected


def test_slow_start_is_waited_for(stack: driver.Stack, story: Story) -> None:
    late = """
import asyncio
from main import app as inner
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await asyncio.sleep(6)
    await inner(scope, receive, send)
"""
    stack.play("site", demo(stack.source("late", VERSION="5.0.0\n", late_py=late), app="late:app")).must()
    now_live(stack, story)
    eventually("5.0.0", lambda: version(stack))


# --- several at once -------------------------------------------------------------------------------------------------


def test_two_plays_at_once(stack: driver.Stack, story: Story) -> None:
    both = {text: stack.source(f"at-once-{text}", VERSION=f"{text}\n") for text in ("7.0.0", "8.0.0")}
    running = [stack.start("site", demo(source)) for source in both.values()]
    plays = [each.play() for each in running]
    good = [play for play in plays if play.status == 0]
    assert good
    for play in plays:
        assert play.status == 0 or play.says("another run is working on demo"), play.end_of_output
    live = now_live(stack, story)
    releases = [stack.about("demo", release) for release in stack.releases("demo")]
    assert [release["release"] for release in releases if release["state"] == "live"] == [live["release"]]
    story.served[-1:-1] = [release["release"] for release in releases if "live_at" in release]
    # What won is declared again: it is there whole.
    eventually(True, lambda: version(stack) in both)
    again = stack.play("site", demo(both[version(stack)])).must()
    assert again.changed == 0, again.end_of_output


# --- what is left, and what is shown ---------------------------------------------------------------------------------


def test_pruning_keeps_what_is_needed(stack: driver.Stack, story: Story) -> None:
    before = stack.releases("demo")
    previous = stack.live("demo")["release"]
    running = stack.running("demo")
    stack.play("site", demo(stack.source("ninth", VERSION="9.0.0\n"), keep_releases=2)).must()
    live = now_live(stack, story)["release"]
    left = set(stack.releases("demo"))
    assert len(before) > 5, "there was nothing to prune"
    # What was draining when the play began may have ended since; a few that failed are kept to be looked at.
    assert left >= {live, previous} | stack.running("demo")
    rest = left - {live, previous} - running
    assert rest < story.failed
    assert len(rest) <= 2
    # A build that no release uses may be the one of a play that goes on beside this one; an old one is gone.
    used = {stack.about("demo", release)["build"] for release in left}
    assert used <= stack.builds("demo")
    assert story.builds["first"] not in stack.builds("demo") - used
    settings = stack.host.sh("cd /etc/systemd/system && ls -d asgi-demo@*.service.d").split()
    assert {name.removeprefix("asgi-demo@").removesuffix(".service.d") for name in settings} == left


def test_status_tells_what_runs(stack: driver.Stack, story: Story) -> None:
    file = stack.directory / "status.json"
    play = stack.play("status", options=("-e", f"asgi_status_file={file}")).must()
    assert play.changed <= 1, play.end_of_output
    live = now_live(stack, story)
    found = {app["name"]: app for app in json.loads(file.read_text())[stack.host.name]}
    assert set(found) == {"demo", "other"}
    shown = found["demo"]
    assert shown["live"]["release"] == live["release"]
    assert (shown["active"], shown["health"]) == (True, "ok")
    assert shown["live"]["workers"] == 2
    assert shown["live"]["workers_reason"] == live["workers_reason"]
    assert shown["memory"] > 30_000_000
    assert live["release"] in shown["running"]
    assert shown["rollback"]
    assert not story.failed & set(shown["rollback"])
    assert {release["release"] for release in shown["releases"]} == set(stack.releases("demo"))
    table = [line for line in play.output.splitlines() if re.search(r"\bdemo\b.*\bok\b", line)]
    (row,) = table
    for text in (stack.host.name, live["release"], live["workers_reason"], shown["rollback"][0]):
        assert text in row
    assert NEEDLE not in play.output + file.read_text()


# --- the sandbox -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("app", "worst"), [("demo", 1.2), ("other", 0.4)])
def test_sandbox_is_tight(stack: driver.Stack, app: str, worst: float) -> None:
    unit = f"asgi-{app}@{stack.live(app)['release']}.service"
    shown = stack.host.run("systemd-analyze", "security", "--no-pager", unit).stdout
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", shown)
    assert level is not None, shown
    assert float(level[1]) <= worst, shown


def test_sandbox_refuses(stack: driver.Stack) -> None:
    host = stack.host
    # It is there, and root can read it: what refuses is the sandbox or the mode.
    secret_places = [
        "/srv/asgi/demo/live/secrets",
        "/srv/asgi/demo/live/environment",
        "/srv/asgi/other",
        "/srv/asgi/other/live/build/src/main.py",
        "/var/lib/asgi/other",
        "/var/cache/asgi/other",
        "/var/log/asgi/other",
        "/run/asgi/other",
        "/etc/nginx/asgi/tls/demo/privkey.pem",
        "/etc/shadow",
        "/root",
        "/var/cache/asgi-build",
    ]
    for path in secret_places:
        host.out("test", "-e", path)
        answer = ask(host, "demo.test", "/probe/read", {"path": path}).json()
        assert answer["errno"] in ("EACCES", "EPERM", "ENOENT"), f"it can read {path}: {answer}"
    release = host.out("readlink", "--canonicalize", "/srv/asgi/demo/live")
    for path in (
        "/srv/asgi/demo",
        release,
        f"{release}/release.json",
        f"{release}/gunicorn.conf.py",
        f"{release}/build/src",
        f"{release}/build/src/main.py",
        f"{release}/build/venv/bin",
        "/etc",
        "/etc/nginx/nginx.conf",
        "/usr/local/bin",
        "/run",
        "/run/asgi/demo",
        "/var/lib",
    ):
        answer = ask(host, "demo.test", "/probe/write", {"path": path}).json()
        assert answer["errno"] in ("EACCES", "EPERM", "EROFS", "ENOENT"), f"it can write {path}: {answer}"
    for path in ("/var/lib/asgi/demo", "/var/cache/asgi/demo", "/var/log/asgi/demo", "/tmp"):
        assert ask(host, "demo.test", "/probe/write", {"path": path}).json()["ok"], f"it cannot write {path}"
    # Processes of its own releases it may see, of others none.
    seen = ask(host, "demo.test", "/probe/processes").json()
    assert seen["other"] == 0
    assert seen["own"] >= 1


def test_application_without_a_network_has_none(stack: driver.Stack) -> None:
    pid = stack.main_pid("other")
    interfaces = stack.host.out("nsenter", "--target", str(pid), "--net", "ip", "-oneline", "link")
    assert [line.split(": ")[1] for line in interfaces.splitlines()] == ["lo"]
    assert ask(stack.host, "other.test", "/healthz", tls=False).status == 200


# --- the end of the first part ---------------------------------------------------------------------------------------


def explain(story: Story, summary: dict[str, Any]) -> str:
    """Return what was lost, and during which step, for people."""
    lost = [f"{story.during(loss['at'])}: {loss}" for loss in driver.losses(summary)]
    return "\n".join([driver.figures(summary), *lost])


def test_old_releases_have_ended(stack: driver.Stack, story: Story) -> None:
    """What is not live has drained, though WebSockets and endless streams were open all the time."""
    live = stack.live("demo")["release"]
    wait_for("only the live release runs", lambda: stack.running("demo") == {live}, LONG_DRAIN + LETTING_GO)


def test_no_request_was_lost(story: Story) -> None:
    assert story.loads, "there was no load"
    story.end()
    for name in ("all", "endless"):
        summary = story.summaries[name]
        assert summary["lost"] == 0, explain(story, summary)
        assert summary["ok"], explain(story, summary)


def test_no_broken_release_was_served(story: Story) -> None:
    assert len(story.failed) == len(BROKEN) + 1, "not each kind was tried"
    for summary in story.summaries.values():
        assert not story.failed & set(summary["releases"])
        assert set(summary["releases"]) <= set(story.served)
        assert summary["answers_without_release"] == 0


def test_streams_of_drained_releases_ended_properly(story: Story) -> None:
    streams = story.summaries["all"]["streams"]
    # Each WebSocket lived until its release had drained, and was told then.
    closed = [record for record in streams["ws"]["records"] if "code" in record]
    assert {record["code"] for record in closed} <= {1001, 1012}
    assert {record["release"] for record in closed} <= set(story.served)
    after = [record["closed"] - story.retired.get(record["release"], 0) for record in closed]
    assert len(after) >= len(story.retired)
    assert min(after) >= DRAIN, sorted(after)
    # Event streams that end by themselves within the drain all did; one without an end outlives the switch.
    assert streams["sse"]["cut"] == 0
    assert streams["sse"]["closed_properly"] >= len(story.retired)
    endless = [record for record in story.summaries["endless"]["streams"]["sse"]["records"] if record["end"] == "cut"]
    after = [record["closed"] - story.retired.get(record["release"], 0) for record in endless]
    assert min(after) >= DRAIN, sorted(after)


# --- workers that die or hang ----------------------------------------------------------------------------------------


ONLY_GET: dict[str, Any] = {"rates": "get_kept=60,get_new=30,post_kept=0,post_slow=0", "streams": "ws=0,sse=0"}

# Asks the live release itself, without Nginx, which would ask another worker when this one dies; prints when it asks.
BLOCK = """
import socket, time
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(60)
connection.connect("/srv/asgi/demo/live/app.sock")
print(time.time(), flush=True)
connection.sendall(b"GET /block?seconds=60 HTTP/1.1\\r\\nHost: demo.test\\r\\n\\r\\n")
try:
    connection.recv(1)
except OSError:
    pass
"""


@pytest.fixture(scope="session")
def quick_to_notice(stack: driver.Stack) -> driver.Stack:
    """The application, whose server replaces a worker that has not moved for 5 seconds."""
    declared = demo(stack.source("ninth"), gunicorn={"graceful_timeout": 5, "timeout": 5})
    stack.play("site", declared).must()
    release = stack.live("demo")["release"]
    eventually(release, lambda: ask(stack.host, "demo.test", "/api/info").release)
    return stack


def serves(stack: driver.Stack, known: set[int]) -> bool:
    """Whether a process that is none of the *known* ones answers."""
    return ask(stack.host, "demo.test", "/api/info").json()["pid"] not in known


def test_killed_worker_is_replaced(quick_to_notice: driver.Stack, story: Story) -> None:
    """What it had in its hands is lost, and nothing else."""
    stack = quick_to_notice
    load = driver.Load(stack.host, "demo.test", "killed", **ONLY_GET)
    main = stack.main_pid("demo")
    kills = []
    for _kill in range(4):
        before = stack.host.children(main)
        assert len(before) == 2
        times = stack.host.sh(f"date +%s.%N; kill -KILL {min(before)}; date +%s.%N").split()
        kills.append((float(times[0]), float(times[1])))
        wait_for("another worker serves", functools.partial(serves, stack, before), 20)
        wait_for("there are two", lambda: len(stack.host.children(main)) == 2, 10)
    story.summaries["killed"] = summary = load.end()
    assert stack.main_pid("demo") == main, "the whole server was started again"
    assert len(driver.losses(summary)) == summary["lost"], "not each loss is described"
    for loss in driver.losses(summary):
        in_flight = [loss["sent"] <= end and begin <= loss["at"] <= end + 1 for begin, end in kills]
        assert any(in_flight), f"{kills}: {explain(story, summary)}"


def test_hung_worker_is_replaced(quick_to_notice: driver.Stack, story: Story) -> None:
    """What it had accepted by then is lost unless Nginx asks again; all that comes later is answered by another."""
    stack = quick_to_notice
    load = driver.Load(stack.host, "demo.test", "hung", **ONLY_GET)
    main = stack.main_pid("demo")
    before = stack.host.children(main)
    blocked = float(stack.host.out("python3", "-c", BLOCK))
    wait_for("another worker serves", functools.partial(serves, stack, before), 20)
    assert len(stack.host.children(main) & before) == 1
    story.summaries["hung"] = summary = load.end()
    assert len(driver.losses(summary)) == summary["lost"], "not each loss is described"
    for loss in driver.losses(summary):
        assert abs(loss["sent"] - blocked) <= 1, f"{blocked}: {explain(story, summary)}"
