# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deploy, roll back, restart and break an application again and again while requests flow: soak.py HOST [DEPLOYS].

Real runs of the playbooks against a test host. Ends with the figures, and with 1 if a request was lost, a release
that had to fail was served, or a playbook did not end as it had to.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import driver

ROUND_BOUND = 240  # seconds that a round may take on average


def demo(source: str, number: int = 0, **keys: Any) -> dict[str, Any]:
    """Declare the application; *number* makes a configuration of its own."""
    return {
        "name": "demo",
        "app": "main:app",
        "source": {"path": source},
        "domains": ["demo.test"],
        "workers": 2,
        "environment": {"NUMBER": str(number)},
        "health": {"path": "/healthz"},
        "drain": 15,
        "gunicorn": {"graceful_timeout": 5},
        "locations": [{"path": "/events", "kind": "sse"}, {"path": "/ws", "kind": "websocket"}],
        **keys,
    }


def answers(stack: driver.Stack, version: str) -> bool:
    """Return whether that version answers."""
    found: str = driver.ask(stack.host, "demo.test", "/api/info").json()["version"]
    return found == version


def rounds(stack: driver.Stack, deploys: int, durations: dict[str, list[float]]) -> set[str]:
    """Deploy so many times, with something else in between; return the releases that had to fail.

    Each third deploy changes the configuration alone; after each second there is a rollback or a restart, and after
    each fifth a release that is broken.
    """

    def play(word: str, playbook: str, *more: Any, good: bool = True, **options: Any) -> None:
        done = stack.play(playbook, *more, **options)
        durations.setdefault(word, []).append(done.end - done.begin)
        (done.must if good else done.must_fail)()
        live = stack.live("demo")["release"]
        sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {word:13} {done.end - done.begin:5.1f} s  live is {live}\n")
        sys.stdout.flush()

    operate = ("-e", "asgi_app=demo")
    failed: set[str] = set()
    code = 0
    for number in range(1, deploys + 1):
        if number % 3:
            code = number
        source = stack.source("source", VERSION=f"{code}.0.0\n")
        play("deploy" if number % 3 else "configuration", "site", demo(source, number))
        # A connection that Nginx keeps may lead to the release before for some seconds.
        driver.wait_for(f"{code}.0.0 answers", functools.partial(answers, stack, f"{code}.0.0"), 20)
        if number % 4 == 0:
            play("rollback", "rollback", options=operate)
        elif number % 4 == 2:
            play("restart", "restart", options=operate)
        if number % 5 == 0:
            before = stack.releases("demo")
            kind = ("import_error", "unhealthy", "lifespan_error", "crash_loop")[number // 5 % 4]
            broken = demo(stack.source("broken", "broken"), number, app=f"{kind}:app")
            play("broken", "site", {**broken, "health": {"path": "/healthz", "timeout": 8}}, good=False)
            failed |= {release for release in stack.releases("demo") if release > before[-1]}
    return failed


def main(name: str, deploys: str = "100") -> int:
    """Run, and print the figures."""
    host = driver.Host(name)
    durations: dict[str, list[float]] = {}
    failed: set[str] = set()
    problem = ""
    with tempfile.TemporaryDirectory(prefix="asgi-soak-") as directory:
        stack = driver.Stack(host, Path(directory))
        stack.play("site", demo(stack.source("source", VERSION="0.0.0\n"))).must()
        seconds = min(86_400, ROUND_BOUND * int(deploys) + 300)
        load = driver.Load(host, "demo.test", "soak", seconds=seconds)
        try:
            failed = rounds(stack, int(deploys), durations)
        except AssertionError as error:
            problem = str(error) or repr(error)
        except KeyboardInterrupt:
            problem = "interrupted"
        summary = load.end()
    served = sorted(failed & set(summary["releases"]))
    sys.stdout.write("\n" + driver.figures(summary) + "\n")
    for word, each in sorted(durations.items()):
        middle = sorted(each)[len(each) // 2]
        sys.stdout.write(f"  {word:13} {len(each):5}  median {middle:.1f} s, longest {max(each):.1f} s\n")
    for loss in driver.losses(summary):
        sys.stdout.write(f"lost: {loss}\n")
    if served:
        sys.stdout.write(f"served, and had to fail: {', '.join(served)}\n")
    if problem:
        sys.stdout.write(f"\n{problem}\n")
    return 0 if summary["ok"] and not served and not problem else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
