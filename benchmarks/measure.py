# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks of servers share: a test host with applications on it, and h2load inside it."""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import driver

#: What `server` and its options may be.
SERVERS: dict[str, dict[str, Any]] = {
    "gunicorn": {"server": "gunicorn"},
    "gunicorn-asgi": {"server": "gunicorn", "gunicorn": {"worker_class": "asgi"}},
    "uvicorn": {"server": "uvicorn"},
    "hypercorn": {"server": "hypercorn"},
    "granian": {"server": "granian"},
}
# Bounded: no more than so many connections, for so many seconds, against the host itself.
CONNECTIONS = 64
SECONDS = 4


@dataclass
class Load:
    """What h2load saw: requests a second, and the time in milliseconds in which 99 of 100 were answered."""

    rate: float
    p99: float
    failed: int


class Bench:
    """A test host with applications of the sample application *demo*, one for each entry of *apps*."""

    def __init__(self, name: str) -> None:
        self.host = driver.Host(name)
        self.folder = tempfile.TemporaryDirectory(prefix="asgi-bench-")
        self.stack = driver.Stack(self.host, Path(self.folder.name))
        self.source = self.stack.source("demo")
        if self.host.run("sh", "-c", "command -v h2load").returncode:
            self.host.sh("apt-get update -q && apt-get install -q -y --no-install-recommends nghttp2-client", 300)

    def serve(self, apps: Mapping[str, Mapping[str, Any]], **common: Any) -> None:
        """Have these applications run; each is on HTTP, without an access log."""
        declared = []
        for name, keys in apps.items():
            keys = dict(keys)
            server = keys.get("server", "gunicorn")
            keys[server] = {"access_log": False, **keys.get(server, {})}
            declared.append(
                {
                    "name": name,
                    "app": "main:app",
                    "source": {"path": self.source},
                    "domains": [f"{name}.test"],
                    "tls": {"mode": "none"},
                    "health": {"path": "/healthz"},
                    "drain": 0,
                    "keep_releases": 2,
                    **common,
                    **keys,
                }
            )
        self.stack.play("site", *declared).must()
        for name in apps:
            driver.wait_for(f"{name} alone runs", lambda name=name: len(self.stack.running(name)) == 1, 90)

    def unit(self, name: str) -> str:
        """Return the unit of what is live."""
        return f"asgi-{name}@{self.stack.live(name)['release']}.service"

    def socket(self, name: str) -> str:
        """Return the socket of what is live."""
        return self.host.out("readlink", "-f", f"/srv/asgi/{name}/live/app.sock")

    def load(self, path: str, *options: str, base: str, connections: int = CONNECTIONS) -> Load:
        """Ask for *path* on so many connections for :data:`SECONDS`.

        :param base: ``unix:/a/socket`` or ``http://127.0.0.1:port``.
        """
        url = f"http://localhost{path}" if base.startswith("unix:") else f"{base}{path}"
        through = ["--base-uri", base] if base.startswith("unix:") else []
        options = options or ("--h1",)
        log = "/tmp/h2load.log"
        self.host.run("rm", "-f", log)
        command = ["h2load", "-t", "1", "-c", str(connections), "-D", str(SECONDS), "--warm-up-time", "1"]
        said = self.host.out(*command, *options, *through, "--log-file", log, url, seconds=60)
        rate = re.search(r"finished in .*?, ([0-9.]+) req/s", said)
        counted = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", said)
        assert rate and counted, said
        bad = re.search(r"status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said)
        assert bad, said
        # Of each request: when it began, its status, and the microseconds that it took.
        script = f"cut -f 3 {log} | sort -n | awk '{{ v[NR] = $1 }} END {{ print v[int(NR * 0.99)] }}'"
        p99 = float(self.host.sh(script)) / 1000
        return Load(float(rate[1]), p99, sum(map(int, (*counted.groups(), *bad.groups()))))

    def pids(self, unit: str) -> str:
        """Return the ids of a unit's processes, with a space in between."""
        group = self.host.show(unit, "ControlGroup")["ControlGroup"]
        script = (
            f"for m in unified systemd .; do f=/sys/fs/cgroup/$m'{group}'/cgroup.procs; [ -e \"$f\" ] && break; done; "
            'cat "$f"'
        )
        return " ".join(self.host.sh(script).split())

    def memory(self, unit: str) -> float:
        """Return the proportional set size of a unit's processes in MiB."""
        script = (
            f"for p in {self.pids(unit)}; do cat /proc/$p/smaps_rollup; done | "
            "awk '/^Pss:/ { s += $2 } END { if (!s) exit 1; print s / 1024 }'"
        )
        return float(self.host.sh(script))


def middle(found: list[float]) -> float:
    """Return the median."""
    return statistics.median(found)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table for Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
