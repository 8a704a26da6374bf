# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Throughput and p99 over worker counts, for what waits, what computes and what does both, beside the plan's choice.

`./dev host up bench debian13`, then `python benchmarks/sizing.py bench [ROUNDS [PLOT.svg]]`; a plot needs matplotlib.
Load and application are on one host, and the application is asked on its own unix socket.
"""

from __future__ import annotations

import sys
from collections import defaultdict

from measure import Bench, middle, table

COUNTS = (1, 2, 4, 8)
#: Workload: what is asked for, and by how many at a time.
WORKLOADS = {
    "io": ("/slow?seconds=0.05", 256),
    "mixed": ("/work?rounds=500", 64),
    "cpu": ("/work?rounds=5000", 32),
}


def plot(
    path: str, rates: dict[tuple[str, int], float], tails: dict[tuple[str, int], float], plan: dict[str, int]
) -> None:
    """Draw both over the counts, relative to the best, with the plan's choice."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(WORKLOADS), figsize=(11, 3.4), sharey=True)
    for axis, workload in zip(axes, WORKLOADS):
        best = max(rates[workload, count] for count in COUNTS)
        least = min(tails[workload, count] for count in COUNTS)
        axis.plot(COUNTS, [rates[workload, count] / best for count in COUNTS], marker="o", label="throughput / best")
        axis.plot(COUNTS, [least / tails[workload, count] for count in COUNTS], marker="s", label="best p99 / p99")
        axis.axvline(plan[workload], linestyle="--", color="grey", label=f"the plan: {plan[workload]}")
        axis.set(title=workload, xlabel="workers", xscale="log", xticks=COUNTS, xticklabels=COUNTS, ylim=(0, 1.05))
        axis.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def main(name: str, rounds: str = "3", picture: str = "") -> None:
    bench = Bench(name)
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    tails: dict[tuple[str, int], list[float]] = defaultdict(list)
    bench.serve({f"w{count}": {"workers": count} for count in COUNTS})
    sockets = {count: f"unix:{bench.socket(f'w{count}')}" for count in COUNTS}
    for __ in range(int(rounds)):
        for workload, (path, connections) in WORKLOADS.items():
            for count, base in sockets.items():
                seen = bench.load(path, base=base, connections=connections)
                assert not seen.failed, (workload, count, seen)
                rates[workload, count].append(seen.rate)
                tails[workload, count].append(seen.p99)
    plan = {}
    for workload in WORKLOADS:
        bench.serve({"plan": {"workload": workload}})
        plan[workload] = bench.stack.live("plan")["workers"]
    rate = {key: middle(found) for key, found in rates.items()}
    tail = {key: middle(found) for key, found in tails.items()}
    rows = []
    for workload in WORKLOADS:
        best = max(rate[workload, count] for count in COUNTS)
        for count in COUNTS:
            # The plan's choice may lie between two counts: the lower one is no better than it.
            chosen = count == max(other for other in COUNTS if other <= plan[workload])
            rows.append(
                (
                    workload,
                    f"**{count}**" if chosen else str(count),
                    f"{rate[workload, count]:.0f}",
                    f"{rate[workload, count] / best:.2f}",
                    f"{tail[workload, count]:.0f}",
                    f"the plan: {plan[workload]}" if chosen else "",
                )
            )
    print(table(("workload", "workers", "requests a second", "of the best", "p99, ms", ""), rows))
    if picture:
        plot(picture, rate, tail, plan)


if __name__ == "__main__":
    main(*sys.argv[1:])
