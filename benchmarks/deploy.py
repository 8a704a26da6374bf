# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From 'run the playbook' to 'the new version answers', as a multiple of what the work itself takes on the same host.

The work itself is `uv pip install` of the same requirements into a new environment, with the same cache, and the start
of the same server until it answers. `python benchmarks/deploy.py [-n ROUNDS]`, with the container of `./dev demo` up;
it is left as the next `./dev demo` finds and converges it.
"""

from __future__ import annotations

import argparse
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOST = "asgi-stack-demo"
URL = "https://localhost:8443/api/info"
# Run in the container, as the build does it: prints the seconds of the installation and of the start.
ALONE = r"""
set -e
build=$(readlink -f /srv/asgi/demo/live/build)
user=_asgi-build
as() { setpriv --reuid $user --regid $user --clear-groups env HOME=/var/cache/asgi-build "$@"; }
export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt UV_CACHE_DIR=/var/cache/asgi-build/uv UV_LINK_MODE=copy
uv=$(ls /opt/asgi/bin/uv-*)
where=$(mktemp -d -p /var/tmp); chown $user $where
t0=$(date +%s.%N)
as $uv venv --quiet --python /usr/bin/python3 $where/venv
VIRTUAL_ENV=$where/venv as $uv pip install --quiet --compile-bytecode -r $build/src/requirements.txt \
    gunicorn uvicorn-worker uvicorn uvloop httptools websockets
t1=$(date +%s.%N)
cd $build/src
$where/venv/bin/python -m gunicorn --bind unix:$where/s --workers 4 --worker-class uvicorn_worker.UvicornWorker \
    --no-control-socket main:app >/dev/null 2>&1 &
server=$!
timeout 60 python3 - $where/s <<'PY'
import http.client, socket, sys, time
while True:
    c = http.client.HTTPConnection("x")
    c.sock = socket.socket(socket.AF_UNIX)
    try:
        c.sock.connect(sys.argv[1])
        c.request("GET", "/healthz")
        if c.getresponse().status == 200:
            break
    except OSError:
        time.sleep(0.05)
PY
t2=$(date +%s.%N)
kill $server; wait $server || true
rm -rf $where
echo "$t0 $t1 $t2"
"""


def alone() -> tuple[float, float]:
    """Return the seconds of the installation and of the start."""
    command = ["docker", "exec", HOST, "timeout", "300", "bash", "-c", ALONE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    begin, installed, started = map(float, done.stdout.split()[-3:])
    return installed - begin, started - installed


def answers(version: str) -> bool:
    """Return whether the version that answers is *version*."""
    try:
        with urllib.request.urlopen(URL, context=ssl._create_unverified_context(), timeout=5) as answer:
            return f'"version":"{version}"'.encode() in answer.read()
    except OSError:
        return False


def deploy(inventory: Path, application: Path, version: str) -> float:
    """Return the seconds from the start of the playbook until *version* answers.

    :raises SystemExit: the playbook failed.
    """
    (application / "VERSION").write_text(version + "\n", encoding="utf-8")
    started = time.monotonic()
    seen: list[float] = []

    def watch() -> None:
        while not seen and time.monotonic() < started + 300:
            if answers(version):
                seen.append(time.monotonic() - started)
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = subprocess.run(
        ["ansible-playbook", "-i", str(inventory), "site.yml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    watcher.join()
    return seen[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        application, inventory = Path(folder, "tests/apps/demo"), Path(folder, "inventories/demo")
        shutil.copytree(ROOT / "tests/apps/demo", application)
        shutil.copytree(ROOT / "inventories/demo", inventory)
        requirements = application / "requirements.txt"
        original = requirements.read_text(encoding="utf-8")

        def code(number: int) -> float:
            return deploy(inventory, application, f"1.1.{number}")

        def requirement(number: int) -> float:
            # Cached from the second round on, as it is for the work alone.
            requirements.write_text(original + ("packaging\n" if number % 2 else ""), encoding="utf-8")
            return deploy(inventory, application, f"1.2.{number}")

        kinds: list[tuple[str, Callable[[int], float]]] = [("code", code), ("requirement", requirement)]
        for kind, change in kinds:
            change(0)  # what is downloaded is in the cache from here on
            rows = []
            for number in range(1, given.rounds + 1):
                install, start = alone()
                rows.append((change(number), install, start))
            ratios = [deployed / (install + start) for deployed, install, start in rows]
            for deployed, install, start in rows:
                print(f"{kind}: deploy {deployed:.1f} s; alone: install {install:.1f} s, start {start:.1f} s")
            print(f"{kind}: ratio, median {statistics.median(ratios):.1f}, {min(ratios):.1f} to {max(ratios):.1f}")


if __name__ == "__main__":
    main()
