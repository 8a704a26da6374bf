# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run costs the control node for each host of a fleet: `python benchmarks/fleet.py [--plot docs/fleet.svg]`.

The hosts are simulated: all are this machine, over Ansible's connection `local`, and the modules that do something to a
host are replaced by ones that answer at once what the real ones answer. What is left is what the control node does:
plan, templates, a process for each task. What hosts would do, a Python for each module, is here too; its CPU time is
counted apart. SSH is not in it. No host is touched.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HOSTS = (1, 4, 16, 48)

#: What the replaced modules answer; `{state}` is a file in which a simulated host keeps the release that is live.
FAKE = """#!/usr/bin/python
import json
import os
from ansible.module_utils.basic import AnsibleModule, _load_params

ANSWER = json.loads(%r)


def main():
    given = {key: value for key, value in _load_params().items() if not key.startswith("_ansible_")}
    module = AnsibleModule(argument_spec={key: {"type": "raw"} for key in given}, supports_check_mode=True)
    answer = dict(ANSWER)
    place = os.path.join(given.get("root") or "/nowhere", "simulated")
    if %r == "release":
        live = open(place).read() if os.path.exists(place) else None
        wanted = "0001-" + given["id"]
        answer.update(release=live, previous=None, did=[], changed=live != wanted)
        if given.get("state", "present") == "present" and live != wanted:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            open(place, "w").write(wanted)
            answer.update(release=wanted, previous=live)
    elif %r == "host_info":
        answer["host"]["packages"] = dict.fromkeys(given.get("packages") or [], "1.99-1")
    elif %r == "certificate":
        names = [one["name"] for one in given.get("certificates") or []]
        pair = {"fingerprint": "00", "not_after": "2030-01-01T00:00:00Z", "certificate": "/c", "key": "/k"}
        answer.update(certificates=dict.fromkeys(names, pair), present=names, removed=[], acme=[])
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
"""
NGINX = {"version": "1.26.3", "openssl": "3.5.4", "modules": ["http_ssl", "http_v2", "http_v3"], "directives": []}
HOST = {
    "distribution": "debian",
    "version": "13",
    "codename": "trixie",
    "suites": ["trixie", "trixie-security"],
    "architecture": "x86_64",
    "python": {"path": sys.executable, "version": "3.13.5"},
    "pretty_name": "Debian 13 (simulated)",
    "packages_interrupted": False,
    "nginx": NGINX,
    "ipv6": True,
}
ANSWERS: dict[str, dict[str, Any]] = {
    "host_info": {"changed": False, "host": HOST},
    "uv": {"changed": False},
    "build": {"changed": False, "address": "0" * 16},
    "release": {},
    "certificate": {"changed": False},
    "nginx_config": {"changed": False, "files": [], "actions": [], "digest": ""},
}


#: A host's Python, which leaves on record what it took: the shell's own, and its children's.
INTERPRETER = """#!/bin/sh
'{python}' "$@"
code=$?
times >>'{record}'
exit $code
"""


def simulate(folder: Path) -> None:
    """Write a copy of the collection whose modules answer at once, and an interpreter for them."""
    copy = folder / "collections/ansible_collections/asgi/stack"
    for part in ("plugins", "roles", "playbooks", "meta"):
        shutil.copytree(ROOT / part, copy / part)
    shutil.copy(ROOT / "galaxy.yml", copy)
    for name, answer in ANSWERS.items():
        text = FAKE % (json.dumps(answer), name, name, name)
        (copy / "plugins/modules" / f"{name}.py").write_text(text, encoding="utf-8")
    (copy / "plugins/action/build.py").unlink()
    interpreter = folder / "python"
    interpreter.write_text(INTERPRETER.format(python=sys.executable, record=folder / "times"), encoding="utf-8")
    interpreter.chmod(0o755)


def hosts_seconds(folder: Path) -> float:
    """Return the CPU seconds of the hosts' processes since this was asked last."""
    record = folder / "times"
    found = re.findall(r"(\d+)m([\d.]+)s", record.read_text(encoding="utf-8")) if record.exists() else []
    record.unlink(missing_ok=True)
    return sum(int(minutes) * 60 + float(seconds) for minutes, seconds in found)


def inventory(folder: Path, hosts: int) -> Path:
    """Write an inventory of so many hosts with one application."""
    application = folder / "app"
    application.mkdir(exist_ok=True)
    (application / "requirements.txt").write_text("", encoding="utf-8")
    app = {"name": "demo", "app": "main:app", "source": {"path": str(application)}, "domains": ["demo.test"]}
    names = {f"host{number:03}": {"app_root": f"{folder}/roots/{hosts}/{number}"} for number in range(hosts)}
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": str(folder / "python"),
        "ansible_become": False,
        "asgi_soak": 0,
        "asgi_apps": [app],
    }
    path = folder / f"hosts-{hosts}.json"
    path.write_text(json.dumps({"asgi_app_hosts": {"hosts": names, "vars": variables}}), encoding="utf-8")
    return path


def run(folder: Path, hosts: Path, forks: int) -> tuple[float, float, float]:
    """Return the seconds of a run, and the CPU seconds of the control node and of the hosts.

    :raises SystemExit: it failed.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"), "ANSIBLE_NOCOLOR": "1"}
    environment |= {"ANSIBLE_PIPELINING": "true", "HOME": str(folder)}
    hosts_seconds(folder)
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["ansible-playbook", "--inventory", str(hosts), "--forks", str(forks), "asgi.stack.deploy"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    taken, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stdout[max(0, done.stdout.find("fatal: ") - 1000) :][:6000] + done.stderr)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    theirs = hosts_seconds(folder)
    return taken, cpu - theirs, theirs


def plot(rows: list[tuple[float, ...]], path: Path) -> None:
    """Draw the control node's CPU seconds over hosts."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    hosts = [row[0] for row in rows]
    for column, word in ((2, "nothing to do"), (5, "code-only deploy")):
        seconds = [row[column] for row in rows]
        axes.plot(hosts, seconds, marker="o", label=word)
    axes.set(xlabel="simulated hosts", ylabel="CPU seconds of the control node", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=HOSTS)
    parser.add_argument("--forks", type=int, default=10)
    parser.add_argument("--plot", type=Path, help="where to draw an SVG; it needs matplotlib")
    given = parser.parse_args()
    rows: list[tuple[float, ...]] = []
    with tempfile.TemporaryDirectory(prefix="asgi-fleet-") as name:
        folder = Path(name)
        simulate(folder)
        columns = ("a run with nothing to do, s", "CPU s", "of hosts", "a code-only deploy, s", "CPU s", "of hosts")
        print("| hosts | " + " | ".join(columns) + " |\n" + "| ---: " * 7 + "|")
        for count in given.hosts:
            hosts = inventory(folder, count)
            run(folder, hosts, given.forks)  # the first deploy
            idle = run(folder, hosts, given.forks)
            (folder / "app/main.py").write_text(f"# {count} {time.time()}\n", encoding="utf-8")
            code = run(folder, hosts, given.forks)
            rows.append((count, *idle, *code))
            print(f"| {count} | " + " | ".join(f"{seconds:.1f}" for seconds in (*idle, *code)) + " |", flush=True)
    if given.plot:
        plot(rows, given.plot)


if __name__ == "__main__":
    main()
