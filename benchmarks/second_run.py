# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run with nothing to do costs, as a multiple of gathering facts: `python benchmarks/second_run.py [-n ROUNDS]`.

Both are whole runs of ansible-playbook against the same host, in turn, so that what else the machine does hits both.
The host is the container of `./dev demo`, which must be up, or that of another inventory.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FACTS = "- hosts: asgi_app_hosts\n  become: true\n  gather_facts: true\n"


def seconds(inventory: str, playbook: Path) -> float:
    """Return how long a run of *playbook* takes.

    :raises SystemExit: it failed, or changed something.
    """
    started = time.monotonic()
    command = ["ansible-playbook", "-i", inventory, str(playbook)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    taken = time.monotonic() - started
    if done.returncode or "changed=0 " not in done.stdout:
        sys.exit(f"{playbook.name} failed or changed something:\n{done.stdout}{done.stderr}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-i", "--inventory", default="inventories/demo/")
    parser.add_argument("-n", "--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        facts = Path(folder, "facts.yml")
        facts.write_text(FACTS, encoding="utf-8")
        pairs = [
            (seconds(given.inventory, facts), seconds(given.inventory, ROOT / "site.yml")) for __ in range(given.rounds)
        ]
    ratios = [site / gather for gather, site in pairs]
    print("gather_facts, s:", *(f"{gather:.2f}" for gather, __ in pairs))
    print("site.yml, s:    ", *(f"{site:.2f}" for __, site in pairs))
    print(f"ratio: median {statistics.median(ratios):.2f}, of {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
