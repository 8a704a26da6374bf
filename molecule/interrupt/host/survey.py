# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at this host: survey.py NAME prints a line of JSON on an application, and on what lies about.

With --drained it first waits, bounded, until no old release drains.

``half`` are things that claim to be complete and are not: they must never be, not even right after a kill.
``left`` is what a finished run must not have left: it may be there after a kill, and must be gone after the next run.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path("/srv/asgi")
UNITS = Path("/etc/systemd/system")
NGINX = Path("/etc/nginx")
RELEASE_FILES = {"release.json", "environment", "secrets", "override.conf", "gunicorn.conf.py", "build", "app.sock"}


def systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", "--no-pager", *arguments], capture_output=True, text=True, check=False)
    return done.stdout


def names(folder: str | Path, pattern: str = "*") -> list[str]:
    return sorted(path.name for path in Path(folder).glob(pattern)) if Path(folder).is_dir() else []


def units(pattern: str) -> dict[str, str]:
    """Return {name of a loaded unit: its state}."""
    lines = systemctl("list-units", "--all", "--plain", "--no-legend", pattern).splitlines()
    return {line.split()[0]: line.split()[2] for line in lines}


def size(build: Path) -> int:
    """Return how many files and directories a build has, bytecode aside: an import may have made more of that."""
    return sum(
        len([name for name in [*folders, *files] if name != "__pycache__" and not name.endswith(".pyc")])
        for _folder, folders, files in os.walk(build)
    )


def processes(user: str) -> list[list[str]]:
    """Return the commands that a user runs."""
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        return []
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.stat().st_uid == uid:
                found.append((path / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])
        except OSError:
            continue
    return found


def connects(path: Path) -> bool:
    """Return whether a new connection to a release is taken, as Nginx makes it when it has no pooled one."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True


def application(name: str) -> dict[str, Any]:
    root = ROOT / name
    half: list[str] = []
    left: list[str] = []
    live = os.path.basename(os.readlink(root / "live")) if (root / "live").is_symlink() else None
    releases: dict[str, Any] = {}
    builds: dict[str, int] = {}
    states: dict[str, Any] = {}
    for release in names(root / "releases"):
        path = root / "releases" / release
        if release.startswith(".") or not (path / "release.json").exists():
            left.append(str(path))
            continue
        releases[release] = json.loads((path / "release.json").read_text())
        half += [f"{path} without {file}" for file in sorted(RELEASE_FILES - {*names(path), *names(path, ".*")})]
        left += [str(path / file) for file in names(path, ".*")]
        states[release] = json.loads((path / "state.json").read_text()) if (path / "state.json").exists() else {}
    for build in names(root / "builds"):
        path = root / "builds" / build
        if build.startswith(".") or not (path / "build.json").exists():
            left.append(str(path))
            continue
        builds[build] = size(path)
        if build not in {release["build"] for release in releases.values()}:
            left.append(f"{path}, of no release")
    left += [str(root / file) for file in names(root, ".*")]
    for found in UNITS.glob(f"asgi-{name}@*.service.d"):
        if found.name[len(f"asgi-{name}@") : -len(".service.d")] not in releases:
            left.append(str(found))
    # In this order: what no longer drains when asked here no longer runs when asked after it.
    others = units("asgi.*")
    draining = sorted(unit for unit in others if unit.startswith(f"asgi.drain-{name}-"))
    running = sorted(
        {
            unit.partition("@")[2].rpartition(".")[0]
            for unit, state in units(f"asgi-{name}@*").items()
            if state not in ("inactive", "failed")
        }
    )
    if live is not None and states.get(live, {}).get("state") != "live":
        left.append(f"{live} is live, and its state is {states.get(live, {}).get('state')}")
    left += [
        f"{release} claims to be live"
        for release, state in states.items()
        if release != live and state.get("state") == "live"
    ]
    left += [f"{unit} failed" for unit, state in units(f"asgi-{name}@*").items() if state == "failed"]
    left += [unit for unit in others if re.search(rf"-{name}-\d|\.{name}\b", unit) and unit not in draining]
    boot = systemctl("show", "--property=ActiveState,UnitFileState", f"asgi-{name}.service").split()
    return {
        "live": live,
        "running": running,
        "draining": draining,
        "releases": sorted(releases),
        "states": states,
        "builds": builds,
        "connects": live is not None and connects(root / "live/app.sock"),
        "half": half,
        "left": sorted(left),
        "boot": sorted(boot) == ["ActiveState=active", "UnitFileState=enabled"],
        "sockets": names(f"/run/asgi/{name}"),
    }


def host() -> list[str]:
    """What lies about that is no application's."""
    places: list[str | Path] = [
        UNITS,
        "/etc/tmpfiles.d",
        "/run/asgi",
        "/run/systemd/system",
        NGINX,
        NGINX / "asgi",
        NGINX / "asgi/tls",
    ]
    left = [f"{place}/{name}" for place in [*places, "/opt/asgi/bin", ROOT] for name in names(place, ".*")]
    left += [f"/run/systemd/system/{name}" for name in names("/run/systemd/system", "asgi*")]
    left += [f"/tmp/{name}" for name in [*names("/tmp", "asgi*"), *names("/tmp", ".asgi*")]]
    left += [f"{NGINX}/asgi/{name}" for name in names(NGINX / "asgi", "stage-*")]
    configurations = names(NGINX / "asgi", "config-*")
    left += [f"{NGINX}/asgi has {configurations}"] if len(configurations) > 2 else []
    left += [f"{' '.join(command)} runs on" for command in processes("_asgi-build")]
    left += [
        f"{unit} failed"
        for unit, state in units("*").items()
        if state == "failed" and unit.startswith(("asgi", "nginx"))
    ]
    return left


if __name__ == "__main__":
    until = time.monotonic() + 60
    while True:
        found = application(sys.argv[-1])
        if "--drained" not in sys.argv or not found["draining"] or time.monotonic() > until:
            break
        time.sleep(0.5)
    found["left"] += host()
    print(json.dumps(found))
