# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The servers beside each other, as this collection runs them, in ratios to plain Uvicorn with one worker.

`./dev host up bench debian13`, then `python benchmarks/servers.py bench [ROUNDS]`. All of it is on one host: load,
server, and what is measured; each asked on its own unix socket, without Nginx and without access logs.
"""

from __future__ import annotations

import sys
from collections import defaultdict

from measure import SERVERS, Bench, middle, table

PLAIN = "plain"
ALL = {**SERVERS, "gunicorn-preload": {"server": "gunicorn", "gunicorn": {"preload": True}}}
PATHS = {"small": "/healthz", "waits": "/slow?seconds=0.05", "cpu": "/work?rounds=2000"}
#: As a person would type it. {loop} is uvloop or asyncio.
PLAIN_COMMAND = (
    "systemd-run --quiet --collect --unit bench-{unit} --property=User=asgi-uvicorn --property=Group=asgi-uvicorn"
    " --property=WorkingDirectory={build}/src --property=RuntimeDirectory=bench-{unit}"
    " {build}/venv/bin/python -m uvicorn main:app --uds /run/bench-{unit}/s --no-access-log --loop {loop}"
)
# Prints the seconds from the start of a unit until its socket answers.
START = r"""
import http.client, socket, subprocess, sys, time
command, path = sys.argv[1], sys.argv[2]
begin = time.monotonic()
subprocess.run(["sh", "-c", command], check=True)
while True:
    c = http.client.HTTPConnection("x")
    c.sock = socket.socket(socket.AF_UNIX)
    c.sock.settimeout(30)
    try:
        c.sock.connect(path)
        c.request("GET", "/healthz")
        if c.getresponse().status == 200:
            break
    except OSError:
        time.sleep(0.01)
print(time.monotonic() - begin)
"""


def start_plain(bench: Bench, unit: str, loop: str) -> float:
    """Start plain Uvicorn; return the seconds until it answers."""
    build = bench.host.out("readlink", "-f", "/srv/asgi/uvicorn/live/build")
    command = PLAIN_COMMAND.format(unit=unit, build=build, loop=loop)
    return float(bench.host.out("python3", "-c", START, command, f"/run/bench-{unit}/s"))


def start_server(bench: Bench, name: str) -> float:
    """Stop what is live, start it again; return the seconds until it answers."""
    unit, path = bench.unit(name), bench.socket(name)
    bench.host.out("systemctl", "stop", unit)
    return float(bench.host.out("python3", "-c", START, f"systemctl start --no-block {unit}", path))


def main(name: str, rounds: str = "3") -> None:
    bench = Bench(name)
    rates: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    tails: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    starts: dict[str, list[float]] = defaultdict(list)
    memory: dict[tuple[str, int], float] = {}
    for workers in (1, 2):
        bench.serve(ALL, workers=workers)
        sockets = {server: f"unix:{bench.socket(server)}" for server in ALL}
        if workers == 1:
            for loop in ("uvloop", "asyncio"):
                starts[f"{PLAIN} {loop}"].append(start_plain(bench, loop, loop))
                sockets[f"{PLAIN} {loop}"] = f"unix:/run/bench-{loop}/s"
        for __ in range(int(rounds)):
            for server, base in sockets.items():
                for kind, path in PATHS.items():
                    seen = bench.load(path, base=base, connections=256 if kind == "waits" else 64)
                    assert not seen.failed, (server, kind, seen)
                    rates[server, workers, kind].append(seen.rate)
                    tails[server, workers, kind].append(seen.p99)
            if workers == 1:
                for server in ALL:
                    starts[server].append(start_server(bench, server))
        for server in sockets:
            unit = f"bench-{server.split()[1]}.service" if server.startswith(PLAIN) else bench.unit(server)
            memory[server, workers] = bench.memory(unit)
        if workers == 2:
            h2c = [
                bench.load(PATHS["small"], "-p", "h2c", "-m", "1", base=sockets["hypercorn"]).rate
                for __ in range(int(rounds))
            ]
    for loop in ("uvloop", "asyncio"):
        bench.host.run("systemctl", "stop", f"bench-{loop}.service")

    def rate(server: str, workers: int, kind: str) -> float:
        return middle(rates[server, workers, kind])

    plain = f"{PLAIN} uvloop"
    rows = []
    for server in (plain, f"{PLAIN} asyncio", *ALL):
        cells = [server]
        for workers in (1, 2):
            for kind in PATHS:
                known = (server, workers, kind) in rates
                cells.append(f"{rate(server, workers, kind) / rate(plain, 1, kind):.2f}" if known else "")
        known = (server, 2) in memory
        cells.append(f"{middle(tails[server, 1, 'small']) / middle(tails[plain, 1, 'small']):.2f}")
        cells.append(f"{memory[server, 1]:.0f}")
        cells.append(f"{memory[server, 2] - memory[server, 1]:.0f}" if known else "")
        cells.append(f"{middle(starts[server]) / middle(starts[plain]):.2f}")
        rows.append(tuple(cells))
    header = ("server", *(f"{kind}, {workers} w" for workers in (1, 2) for kind in PATHS))
    print(table((*header, "p99 small, 1 w", "MiB, 1 w", "MiB, each more", "start"), rows))
    print(f"\nplain Uvicorn, one worker: {', '.join(f'{kind} {rate(plain, 1, kind):.0f}/s' for kind in PATHS)}")
    print(f"Hypercorn, 2 workers, small: h2c is {middle(h2c) / rate('hypercorn', 2, 'small'):.2f} of HTTP/1.1")


if __name__ == "__main__":
    main(*sys.argv[1:])
