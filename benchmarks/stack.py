# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Through our Nginx, against the same server bare on TCP, and against the Nginx of most tutorials.

`./dev host up bench debian13`, then `python benchmarks/stack.py bench [ROUNDS [SERVER…]]`. The same server with the
same workers each time; load and all of it on one host. With one worker it is the worker that is short, with two on
two CPUs everything is: what Nginx takes, load and workers lack.
"""

from __future__ import annotations

import sys
from collections import defaultdict

from measure import SERVERS, Bench, middle, table

# To a unix socket, HTTP/1.0, no connection kept, a line written for each request: what is left when nothing is said.
TUTORIAL = """
user www-data;
worker_processes auto;
pid /run/tutorial.pid;
events { worker_connections 768; }
http {
    access_log /var/log/nginx/tutorial.log;
    server {
        listen 127.0.0.1:8081;
        location / {
            proxy_pass http://unix:SOCKET;
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }
    }
}
"""
BARE = (
    "systemd-run --quiet --collect --unit bench-bare --property=User=asgi-{name} --property=Group=asgi-{name}"
    " --property=WorkingDirectory={release}/build/src --property=CPUSchedulingPolicy=batch {settings}"
    " {release}/build/venv/bin/python {command}"
)
COMMANDS = {
    "gunicorn": "-m gunicorn --config {release}/gunicorn.conf.py --bind 127.0.0.1:9000 main:app",
    "gunicorn-asgi": "-m gunicorn --config {release}/gunicorn.conf.py --bind 127.0.0.1:9000 main:app",
    "uvicorn": "-m uvicorn --app-dir {release} --host 127.0.0.1 --port 9000 asgi_entry:app",
    "hypercorn": "-m gunicorn --config {release}/gunicorn.conf.py --bind 127.0.0.1:9000 main:app",
    "granian": "-m granian --host 127.0.0.1 --port 9000 {release}/asgi_entry:app",
}


def start_bare(bench: Bench, name: str) -> None:
    """Start the server of what is live again, on TCP, with the same settings."""
    release = bench.host.out("readlink", "-f", f"/srv/asgi/{name}/live")
    settings = ""
    if name in ("uvicorn", "granian"):
        bench.host.sh(f"sed /UVICORN_FD/d {release}/{name}.env >/run/bench.env")
        settings = "--property=EnvironmentFile=/run/bench.env"
    command = COMMANDS[name].format(release=release)
    bench.host.sh(BARE.format(name=name, release=release, settings=settings, command=command))
    bench.host.sh("for i in $(seq 200); do curl -fso /dev/null http://127.0.0.1:9000/healthz && exit; sleep 0.1; done")


def measure_server(bench: Bench, server: str, workers: int, rounds: int) -> tuple[str, ...]:
    """Return a server's line of the table."""
    bench.host.write("/run/tutorial.conf", TUTORIAL.replace("SOCKET", bench.socket(server)))
    bench.host.sh("nginx -q -c /run/tutorial.conf")
    start_bare(bench, server)
    places = {
        "ours": (("--h1", "--header", f"Host: {server}.test"), "http://127.0.0.1:80"),
        "bare": (("--h1",), "http://127.0.0.1:9000"),
        "tutorial": (("--h1",), "http://127.0.0.1:8081"),
    }
    rates: dict[str, list[float]] = defaultdict(list)
    failed: dict[str, int] = defaultdict(int)
    for __ in range(rounds):
        for place, (options, base) in places.items():
            seen = bench.load("/healthz", *options, base=base)
            rates[place].append(seen.rate)
            failed[place] += seen.failed
    bench.host.sh("kill $(cat /run/tutorial.pid); systemctl stop bench-bare.service")
    assert not failed["ours"] and not failed["bare"], (server, failed)
    ours, bare, tutorial = (middle(rates[place]) for place in ("ours", "bare", "tutorial"))
    cells = (server, str(workers), f"{ours / bare:.2f}", f"{ours / tutorial:.2f}", f"{ours:.0f}")
    return (*cells, str(failed["tutorial"]))


def main(name: str, rounds: str = "5", *servers: str) -> None:
    bench = Bench(name)
    if bench.host.run("sh", "-c", "command -v curl").returncode:
        bench.host.sh("apt-get install -q -y --no-install-recommends curl", 300)
    rows = []
    for workers in (1, 2):
        bench.serve(SERVERS, workers=workers)
        rows += [measure_server(bench, server, workers, int(rounds)) for server in servers or SERVERS]
    header = ("server", "workers", "ours / bare", "ours / tutorial", "ours, requests a second", "failed, tutorial")
    print(table(header, rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
