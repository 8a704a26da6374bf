# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `CPUSchedulingPolicy=batch` brings, in Nginx and in the applications: with it, as ratios to without.

`./dev host up bench debian13`, then `python benchmarks/scheduling.py bench [ROUNDS [SERVER…]]`. The policy of the same
processes is changed back and forth in one run: through Nginx, two workers on two CPUs.
"""

from __future__ import annotations

import sys
from collections import defaultdict

from measure import SERVERS, Bench, Load, middle, table

# Policies as chrt and systemd call them.
POLICIES = ("other", "batch")
# What is asked, the connections, and h2load's options: as much as goes, and a third of what two CPUs can.
LOADS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "small": ("/healthz", 64, ()),
    "cpu": ("/work?rounds=2000", 64, ()),
    "cpu, a third": ("/work?rounds=2000", 16, ("--rps", "40")),
}


def measure_server(bench: Bench, server: str, rounds: int) -> tuple[str, ...]:
    """Return a server's line of the table."""
    seen: dict[tuple[str, str], list[Load]] = defaultdict(list)
    for __ in range(rounds):
        for policy in POLICIES:
            for unit in ("nginx.service", bench.unit(server)):
                pids = bench.pids(unit)
                bench.host.sh(f"for p in {pids}; do chrt --all-tasks --{policy} --pid 0 $p; done")
            for name, (path, connections, options) in LOADS.items():
                found = bench.load(
                    path,
                    *("--h1", "--header", f"Host: {server}.test", *options),
                    base="http://127.0.0.1:80",
                    connections=connections,
                )
                assert not found.failed, (server, policy, name, found)
                seen[policy, name].append(found)
    cells = [server]
    for name, (_path, _connections, options) in LOADS.items():
        without, batch = (seen[policy, name] for policy in POLICIES)
        if not options:
            cells.append(f"{middle([one.rate for one in batch]) / middle([one.rate for one in without]):.2f}")
        cells.append(f"{middle([one.p99 for one in batch]) / middle([one.p99 for one in without]):.2f}")
    return tuple(cells)


def main(name: str, rounds: str = "5", *servers: str) -> None:
    bench = Bench(name)
    bench.serve(SERVERS, workers=2)
    header = ["server"]
    for load, (_path, _connections, options) in LOADS.items():
        header += [f"{load}: rate"] * (not options) + [f"{load}: p99"]
    print(table(tuple(header), [measure_server(bench, server, int(rounds)) for server in servers or SERVERS]))


if __name__ == "__main__":
    main(*sys.argv[1:])
