# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases, on the host: build + configuration → an immutable directory, started, asked for its health, made live.

Each release is a directory ``releases/GENERATION-ID`` and an instance of the unit ``asgi-NAME@``. The symbolic link
``live`` is the one pointer: Nginx connects through it and a boot starts what it points to, so that one rename(2) is
the whole switch. What a run finds on the host decides what it does, so a run that was cut off is finished by the
next one.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import errno
import hashlib
import http.client
import json
import os
import pwd
import re
import socket
import threading
import time
import typing as t
from pathlib import Path

from ansible_collections.asgi.stack.plugins.module_utils import _build, _memory, _system
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError

UNITS = Path("/etc/systemd/system")
TRANSIENT = Path("/run/systemd/system")
TMPFILES = Path("/etc/tmpfiles.d")
RUN = Path("/run/asgi")
EDGE_GROUP = "www-data"
#: Where systemd keeps the directories that the unit declares for the application's user.
OWN_DIRECTORIES = ("/var/lib/asgi", "/var/cache/asgi", "/var/log/asgi")
MANIFEST = "manifest.json"  # in an application's directory: the sums of the files that were made for it
JOURNAL_LINES = 20  # from its beginning, and from its end
PREVIOUS = "previous"  # the link in a release's directory to the one that it replaced
_KEEP_OTHERS = 2  # so many that failed, or were never live, stay for inspection
_POLL = 0.25  # seconds between two questions for health while there is no healthy answer
_BEGIN = 10.0  # seconds in which systemd has begun to start a unit
_PROBE_TIMEOUT = 5.0  # seconds that one answer may take
_SETTLED = 600  # seconds after which a release has served enough for its memory to be measured
_WORKER_DEATHS = 3  # a new release that lost so many workers before it was healthy is in a crash loop


class ReleaseFailed(HostError):
    """A new release was not good; what was live before is live still."""

    def __init__(self, message: str, journal: list[str]) -> None:
        super().__init__(message)
        self.journal = journal


@dataclasses.dataclass(frozen=True)
class Health:
    """What a release must answer. Times are in seconds; an empty *status* means any below 500."""

    path: str
    host: str
    scheme: str
    status: tuple[int, ...] = ()
    contains: str = ""
    timeout: float = 60
    successes: int = 3
    interval: float = 1  # between two healthy answers


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an application's releases are switched; they make no difference to what runs. Times are in seconds."""

    health: Health
    keep: int = 5  # so many releases stay
    drain: float = 60  # that an old release may finish what is connected to it
    pool: float = 6  # after which Nginx has given up its pooled connections to an old release
    lock_timeout: float = 120
    side_by_side: bool = True  # whether there is memory for a new release beside the old one

    @classmethod
    def load(cls, values: t.Mapping[str, t.Any]) -> Settings:
        """Return the settings that ``dataclasses.asdict`` wrote to a release's JSON file."""
        health = dict(values["health"])
        return cls(**{**values, "health": Health(**{**health, "status": tuple(health["status"])})})


@dataclasses.dataclass(frozen=True)
class Request:
    """A release that is wanted."""

    name: str
    root: Path
    user: str
    id: str
    build: str  # the build's address
    info: t.Mapping[str, t.Any]  # for people and for status; it makes no difference to what runs
    service: str  # text of the template unit
    socket: str  # text of the template socket unit
    boot: str  # text of the unit that starts what is live
    override: str  # text of the instance's own settings
    files: t.Mapping[str, str]
    binds: bool  # the server makes its socket itself, else systemd does
    front: t.Mapping[str, str]  # texts of the units that hold the front's sockets, by name; without Nginx
    environment: t.Mapping[str, str]
    secrets: t.Mapping[str, str] = dataclasses.field(repr=False)
    migrate: tuple[str, ...]  # shell commands
    settings: Settings

    def digest(self) -> str:
        """Return what changes whenever anything about the release does, secrets included: for root's eyes only."""
        what = dataclasses.asdict(self)
        for key in ("root", "info", "settings"):
            del what[key]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Release:
    """A release that is on the host."""

    instance: str
    path: Path
    info: t.Mapping[str, t.Any]

    @property
    def name(self) -> str:
        """The application's name."""
        return str(self.info["name"])

    @property
    def generation(self) -> int:
        """Its number on this host; a later one is higher."""
        return int(self.instance.partition("-")[0])

    @property
    def service(self) -> str:
        """The unit that runs it."""
        return f"asgi-{self.name}@{self.instance}.service"

    @property
    def socket_unit(self) -> str:
        """The unit that holds its socket, where the server does not make it itself."""
        return f"asgi-{self.name}@{self.instance}.socket"

    @property
    def units(self) -> list[str]:
        """The units that it consists of, in the order in which they are started."""
        return [self.service] if self.info.get("binds") else [self.socket_unit, self.service]

    @property
    def front(self) -> bool:
        """Whether it takes the network's ports itself."""
        return bool(self.info.get("front"))

    @property
    def socket_path(self) -> Path:
        """The socket that it listens on."""
        if self.info.get("binds"):
            return Path(f"/run/asgi-{self.name}/{self.instance}/edge/app.sock")
        return RUN / self.name / f"{self.instance}.sock"

    @property
    def settings(self) -> Settings:
        """How it is switched to and from."""
        return Settings.load(self.info["settings"])

    @property
    def state(self) -> dict[str, t.Any]:
        """``{state: staged|live|retired|failed, …}`` with the time of each in UTC, ISO 8601."""
        text = _system.read(self.path / "state.json")
        known: dict[str, t.Any] = json.loads(text) if text else {"state": "staged"}
        return known

    def mark(self, state: str, **more: t.Any) -> None:
        """Write down that the release is now in *state*."""
        marked = {**self.state, **more, "state": state, f"{state}_at": _now()}
        _system.write(self.path / "state.json", json.dumps(marked, indent=1) + "\n")


@dataclasses.dataclass
class Outcome:
    """What a run did, or in check mode would do."""

    instance: str | None
    previous: str | None = None
    did: list[str] = dataclasses.field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was, or would be, done."""
        return bool(self.did)


def unseal(text: str) -> dict[str, str]:
    """Return the secrets that the filter ``sealed_secrets`` packed."""
    values: dict[str, str] = json.loads(base64.b64decode(text)) if text else {}
    return values


def releases(root: Path) -> list[Release]:
    """Return the complete releases below *root*, the oldest first, by generation and never by time."""
    found = []
    folder = root / "releases"
    for path in folder.iterdir() if folder.is_dir() else ():
        text = _system.read(path / "release.json") if re.fullmatch(r"\d+-[0-9a-f]+", path.name) else None
        if text:
            found.append(Release(path.name, path, json.loads(text)))
    return sorted(found, key=lambda release: release.generation)


def live(root: Path) -> Release | None:
    """Return the release that ``live`` points to."""
    try:
        instance = Path(os.readlink(root / "live")).name
    except OSError:
        return None
    return next((release for release in releases(root) if release.instance == instance), None)


def stage(request: Request, check: bool = False) -> Outcome:
    """Write the wanted release beside what is live, unless it is there, and start nothing.

    :raises HostError: something on the host is in the way.
    """
    with _transaction(request.name, request.settings.lock_timeout, check):
        current = live(request.root)
        outcome = Outcome(current.instance if current else None)
        if current is not None and current.info["digest"] == request.digest():
            return outcome
        if _prepared(request, take=False) is None:
            outcome.did.append(f"release {request.id} staged")
        if check or not outcome.changed:
            return outcome
        _sweep(request.root, request.name, outcome)
        _system.ensure_user(request.user, f"/var/lib/asgi/{request.name}")
        _stage(request)
        return outcome


def deploy(request: Request, *, prepare: bool = False, check: bool = False) -> Outcome:
    """Make the wanted release live, unless it is; see the module's description for the order.

    :param prepare: stop before the switch: the release is started, healthy, and without traffic.
    :param check: change nothing, return what would be done.
    :raises ReleaseFailed: the new release was not good, and was stopped.
    :raises HostError: something on the host is in the way; nothing was switched.
    """
    with _transaction(request.name, request.settings.lock_timeout, check):
        current = live(request.root)
        outcome = Outcome(current.instance if current else None)
        if not check:
            _sweep(request.root, request.name, outcome)
        if _system.ensure_user(request.user, f"/var/lib/asgi/{request.name}", check):
            outcome.did.append(f"user {request.user} made")
        if current is not None and current.info["digest"] == request.digest():
            _converge(request, current, outcome, check)
            _clear_leftovers(request.root, request.name, None, outcome, check)
            return outcome
        word = "prepared" if prepare else "made live"
        outcome.did.append(f"release {request.id} {word}" + (f" after {current.instance}" if current else ""))
        _check_ports(request)
        if check:
            return outcome
        new = _prepared(request) or _stage(request)
        _clear_leftovers(request.root, request.name, new, outcome, check)
        _install_units(request, new, check)
        _record_memory(request.root, current)
        _bring_up(request.root, new)
        if not prepare:
            _switch(request.root, new, outcome)
        return outcome


def migrate(request: Request, check: bool = False) -> Outcome:
    """Run the hooks ``migrate`` of the prepared release, once for all releases of the same id.

    :raises ReleaseFailed: a hook failed; the release was stopped and what is live is live still.
    """
    with _transaction(request.name, request.settings.lock_timeout, check):
        current = live(request.root)
        outcome = Outcome(current.instance if current else None)
        if any(r.info["id"] == request.id and "migrated_at" in r.state for r in releases(request.root)):
            return outcome
        if current is not None and current.info["digest"] == request.digest():
            return outcome
        outcome.did.append(f"release {request.id} migrated")
        if check:
            return outcome
        new = _prepared(request)
        if new is None:
            raise HostError(f"{request.name}: hooks.migrate: there is no prepared release {request.id}")
        _run_migrate(request, new)
        new.mark("staged", migrated_at=_now())
        return outcome


def rollback(name: str, root: Path, wanted: str | None, lock_timeout: float, check: bool = False) -> Outcome:
    """Make a release live again that was healthy while it was live, with its code and its configuration.

    :param wanted: its name or id; None for the last one before what is live that is not the same as that.
    :raises HostError: there is none.
    """
    with _transaction(name, lock_timeout, check):
        current = live(root)
        target = _rollback_target(name, root, current, wanted)
        outcome = Outcome(current.instance if current else None)
        if target == current:
            return outcome
        outcome.did.append(f"rolled back to release {target.instance}")
        if not check:
            _start_again(root, target, outcome)
            if current is not None and current.generation > target.generation:
                current.mark(current.state["state"], given_up=True)
        return outcome


def rollback_candidates(root: Path, current: Release | None) -> list[Release]:
    """Return the releases that can be made live again, the best first."""
    been_live = [release for release in releases(root) if "live_at" in release.state and release != current]
    # Who has the network's ports is not a release's to decide alone: Nginx would have to go, or to come.
    alike = [release for release in been_live if current is None or release.front == current.front]
    buildable = [release for release in alike if _build.is_complete(root / "builds" / str(release.info["build"]))]
    return [release for release in reversed(buildable) if release.state["state"] != "failed"]


def _before(root: Path, current: Release | None) -> Release | None:
    """Return the last release before *current* that was live and is not the same thing, as after a restart.

    Nor one that was rolled back from: whoever did so had a reason, and to choose it takes its name.
    """
    for release in rollback_candidates(root, current):
        if release.state.get("given_up"):
            continue
        if current is None:
            return release
        if release.generation < current.generation and release.info["digest"] != current.info["digest"]:
            return release
    return None


def _rollback_target(name: str, root: Path, current: Release | None, wanted: str | None) -> Release:
    candidates = rollback_candidates(root, current)
    if wanted:
        if current is not None and wanted in (current.instance, current.info["id"]):
            return current
        for release in candidates:
            if wanted in (release.instance, release.info["id"]):
                return release
        has = ", ".join(release.instance for release in candidates) or "none"
        raise HostError(f"{name}: found no release {wanted} to roll back to, expected one that was live before ({has})")
    before = _before(root, current)
    if before is not None:
        return before
    raise HostError(f"{name}: there is no release to roll back to: none before this one was live, or they were pruned")


def restart(name: str, root: Path, lock_timeout: float, check: bool = False) -> Outcome:
    """Replace the live release by a fresh instance of itself, through the same switch.

    :raises HostError: nothing is live.
    """
    with _transaction(name, lock_timeout, check):
        current = live(root)
        if current is None:
            raise HostError(f"{name}: nothing is live on this host, so there is nothing to restart")
        outcome = Outcome(current.instance, did=[f"release {current.instance} restarted"])
        if not check:
            copies = {path.name: path.read_text(encoding="utf-8") for path in current.path.iterdir() if _is_file(path)}
            modes = {path.name: path.stat().st_mode & 0o777 for path in current.path.iterdir() if _is_file(path)}
            copies.pop("state.json", None)
            new = _write_release(root, current.info, copies, modes)
            new.mark("staged", **{key: value for key, value in current.state.items() if key == "migrated_at"})
            _start_again(root, new, outcome)
        return outcome


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _start_again(root: Path, release: Release, outcome: Outcome) -> None:
    """Start a release that is on the host, ask for its health and switch to it."""
    _system.systemctl("stop", drain_unit(release.name, release.instance))
    _clear_leftovers(root, release.name, release, outcome, check=False)
    if _write_units({UNITS / f"{release.service}.d" / "release.conf": (release.path / "override.conf").read_text()}):
        _must(_system.systemctl("daemon-reload"), "systemctl daemon-reload")
    _bring_up(root, release)
    _switch(root, release, outcome)


@contextlib.contextmanager
def _transaction(name: str, lock_timeout: float, check: bool) -> t.Iterator[None]:
    """Nobody else works on the application; what the disk or the kernel refuses is said in words."""
    try:
        if check:
            yield
        else:
            with _system.locked(name, lock_timeout):
                yield
    except OSError as error:
        raise HostError(f"{name}: the release failed: {_system.explain(error)}") from None


def _sweep(root: Path, name: str, outcome: Outcome) -> None:
    """Remove what runs that were cut off left on the disk."""
    folder = root / "releases"
    left = [path for path in folder.iterdir() if path.name.startswith(".")] if folder.is_dir() else []
    left += [*folder.glob("*/.*.new"), *UNITS.glob(f".asgi-{name}@*.service.d.gone")]
    if (root / ".live.new").is_symlink():
        left.append(root / ".live.new")
    for path in left:
        _system.remove(path)
    hooks = re.compile(rf"asgi\.migrate-{re.escape(name)}-\d+-[0-9a-f]+\.service")
    stray = [path for path in TRANSIENT.iterdir() if hooks.fullmatch(path.name)] if TRANSIENT.is_dir() else []
    for path in stray:
        _system.systemctl("stop", path.name)
        _system.remove(path)
    if stray:
        _must(_system.systemctl("daemon-reload"), "systemctl daemon-reload")
    left += [*_build.clear_incomplete(root / "builds"), *stray]
    outcome.did += [f"leftover {path.name} removed" for path in left]
    current = live(root)
    for release in releases(root):
        # It was switched from, and the host went down before that was written.
        if release != current and release.state["state"] == "live":
            release.mark("retired")
            outcome.did.append(f"{release.instance} marked retired")


def _take_settings(release: Release, settings: Settings) -> Release | None:
    """Have *release* switched with *settings* from now on; return it so, or None where it is already."""
    if release.settings == settings:
        return None
    info = {**release.info, "settings": dataclasses.asdict(settings)}
    return dataclasses.replace(release, info=info)


def _converge(request: Request, current: Release, outcome: Outcome, check: bool) -> None:
    """Have what is live run, and start at a boot."""
    taken = _take_settings(current, request.settings)
    if taken is not None:
        # How much memory is free comes and goes; nothing that was asked for changes with it.
        if dataclasses.replace(current.settings, side_by_side=taken.settings.side_by_side) != taken.settings:
            outcome.did.append(f"settings of {current.instance} written")
        current = taken
        if not check:
            _write_info(current)
    if current.state["state"] != "live":
        outcome.did.append(f"{current.instance} marked live")  # a run was cut off right after its switch
        if not check:
            current.mark("live", given_up=False)
    if not check:
        # A run was cut off before it came to that, or what it spared still ran. Nothing that was asked for changes.
        _prune(request.root, current)
        _record_memory(request.root, current)
        _drop_front(request.root, request.name)
    if _install_units(request, current, check):
        outcome.did.append("units written")
    boot = f"asgi-{request.name}.service"
    front = [front_socket(request.name)] if current.front else []
    states = [_show(unit).get("ActiveState") for unit in (*front, *current.units)]
    if not all(state in ("active", "activating", "reloading") for state in states):
        outcome.did.append(f"{current.service} started")
        if not check:
            _start(request.root, current)
    shown = _show(boot)
    if shown.get("UnitFileState") != "enabled" or shown.get("ActiveState") != "active":
        outcome.did.append(f"{boot} enabled")
        if not check:
            _enable(request.name, now=True)


def _bring_up(root: Path, new: Release) -> None:
    """Start a release; if it is not good, stop it, and keep it for inspection.

    Where memory does not hold two, what is live is stopped before that, and started again if the new one is not good.
    """
    current = live(root)
    if new.settings.side_by_side or current == new:
        current = None
    if current is not None:
        _stop(current)
    try:
        _start(root, new)
    except BaseException as error:
        _give_up(root, new, str(error))
        if current is not None:
            _start_units(current)
        raise


def _give_up(root: Path, new: Release, reason: str) -> None:
    _stop(new)
    _drop_front(root, new.name)
    with contextlib.suppress(OSError):  # on a full disk: it is stopped all the same
        new.mark("failed", reason=reason)
    _prune(root, new)


def _switch(root: Path, new: Release, outcome: Outcome) -> None:
    """Make a healthy release live and let the one before it drain."""
    current = live(root)
    try:
        _enable(new.name, now=False)  # before it is live, so that a boot right after finds it
        _remember(current, new)
        _system.point(root / "live", f"releases/{new.instance}")
    except BaseException as error:
        now = live(root)
        if (
            now is None or now.instance != new.instance
        ):  # else it was the very last step of the switch that failed, and the next run goes on
            _give_up(root, new, str(error))
        raise
    new.mark("live", given_up=False)
    _enable(new.name, now=True)
    if current is not None and current != new:
        if current.front and not new.front:  # Nginx cannot have the ports before it has let go of them
            current.mark("retired")
            _stop(current)
            _drop_front(root, new.name)
        else:
            _retire(current, new.settings)
        outcome.previous = current.instance
    outcome.instance = new.instance
    _prune(root, new)


def _remember(current: Release | None, new: Release) -> None:
    """Have *new* say which release with other code it replaces: Nginx looks there for static files that pages of
    before still ask for. The links make a chain, and what ``live`` points to is its beginning."""
    if current is None or current == new:
        return
    target = f"../{current.instance}"
    if current.info["build"] == new.info["build"]:  # a restart, or another configuration
        link = current.path / PREVIOUS
        if not link.is_symlink() or os.readlink(link) == f"../{new.instance}":
            return
        target = os.readlink(link)
    _system.point(new.path / PREVIOUS, target)


def _prepared(request: Request, take: bool = True) -> Release | None:
    """Return the wanted release if it is staged and got no further; with *take* it is switched as is wanted now."""
    newest = releases(request.root)[-1:]
    for release in newest:
        if release.info["digest"] == request.digest() and release.state["state"] == "staged":
            taken = _take_settings(release, request.settings) if take else None
            if taken is not None:
                _write_info(taken)
            return taken or release
    return None


def _stage(request: Request) -> Release:
    """Write the wanted release's directory."""
    if not _build.is_complete(request.root / "builds" / request.build):
        raise HostError(f"{request.name}: there is no build {request.build} on the host")
    info = {
        **request.info,
        "name": request.name,
        "id": request.id,
        "build": request.build,
        "digest": request.digest(),
        "user": request.user,
        "binds": request.binds,
        "front": bool(request.front),
        "settings": dataclasses.asdict(request.settings),
    }
    files = {**_configuration(request), "release.json": _as_json(info)}
    modes = dict.fromkeys(("environment", "secrets", "release.json"), 0o600)
    return _write_release(request.root, info, files, modes)


def _as_json(info: t.Mapping[str, t.Any]) -> str:
    return json.dumps(info, indent=1, sort_keys=True) + "\n"


def _write_info(release: Release) -> None:
    _system.write(release.path / "release.json", _as_json(release.info), 0o600)


def _configuration(request: Request) -> dict[str, str]:
    """Return the files of the release's configuration, secrets included."""
    files = {
        **request.files,
        "environment": _environment_file(request.environment),
        "secrets": _environment_file(request.secrets),
        "override.conf": request.override,
    }
    if request.migrate:
        files["migrate.sh"] = "".join(f"{command}\n" for command in ("set -e", *request.migrate))
    return files


def _write_release(
    root: Path, info: t.Mapping[str, t.Any], files: t.Mapping[str, str], modes: t.Mapping[str, int]
) -> Release:
    """Write a release's directory; it gets its name when it is complete."""
    folder = root / "releases"
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    generation = _build.newest_generation(root) + 1
    instance = f"{generation:04d}-{info['id']}"
    new = Release(instance, folder / instance, info)
    staged = folder / f".{instance}"
    _system.remove(staged)
    staged.mkdir(mode=0o755)
    for name, content in files.items():
        _system.write(staged / name, content, modes.get(name, 0o644))
    os.symlink(f"../../builds/{info['build']}", staged / "build")
    os.symlink(str(new.socket_path), staged / "app.sock")
    _system.sync(staged)
    staged.rename(new.path)
    _system.sync(folder)
    return new


def _environment_file(values: t.Mapping[str, str]) -> str:
    """Return an environment file for systemd: each value in double quotes, with what they do not protect escaped."""
    lines = []
    for name, value in sorted(values.items()):
        escaped = re.sub(r'(["\\$`])', r"\\\1", value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)


def _install_units(request: Request, release: Release, check: bool) -> bool:
    """Write the application's units and the release's own settings where they differ; return whether they did."""
    tmpfiles = TMPFILES / f"asgi-{request.name}.conf"
    wanted = {
        UNITS / f"asgi-{request.name}@.service": request.service,
        UNITS / f"asgi-{request.name}@.socket": request.socket,
        UNITS / f"asgi-{request.name}.service": request.boot,
        UNITS / f"{release.service}.d" / "release.conf": request.override,
        tmpfiles: f"d {RUN} 0755 root root -\nd {RUN / request.name} 0750 root {EDGE_GROUP} -\n",
        **{UNITS / name: text for name, text in request.front.items()},
    }
    if check:
        return any(_system.read(path) != text for path, text in wanted.items())
    written = _write_units(wanted)
    _record_files(request, release, wanted)
    if tmpfiles in written or not (RUN / request.name).is_dir():
        _must(_system.run(["systemd-tmpfiles", "--create", tmpfiles.name]), "systemd-tmpfiles")
    # Also where a run was cut off between writing and loading.
    if written or _show(release.service).get("NeedDaemonReload") == "yes":
        _must(_system.systemctl("daemon-reload"), "systemctl daemon-reload")
    return bool(written)


def _record_files(request: Request, release: Release, units: t.Mapping[Path, str]) -> None:
    """Write down what is in the files that were made, so that :func:`changed_files` can tell what somebody changed."""
    made = {**units, **{release.path / name: text for name, text in _configuration(request).items()}}
    text = _as_json({str(path): _sum(text.encode(errors="surrogateescape")) for path, text in made.items()})
    path = request.root / MANIFEST
    if _system.read(path) != text:
        _system.write(path, text, 0o600)


def changed_files(root: Path) -> list[str]:
    """Return the units, and the files of the live release, that are no longer as they were made."""
    text = _system.read(root / MANIFEST)
    current = live(root)
    try:
        sums = json.loads(text or "{}")
    except ValueError:
        sums = None
    if not isinstance(sums, dict):
        return [str(root / MANIFEST)]
    found = []
    for name, expected in sums.items():
        path = Path(name)
        if root / "releases" in path.parents and (current is None or current.path not in path.parents):
            continue  # of a release that was live before, or is no more
        now = _system.read(path)
        if now is None or _sum(now.encode(errors="surrogateescape")) != expected:
            found.append(name)
    return sorted(found)


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_units(wanted: t.Mapping[Path, str]) -> list[Path]:
    """Write the files that differ and return them."""
    differing = [path for path, text in wanted.items() if _system.read(path) != text]
    for path in differing:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _system.write(path, wanted[path])
    return differing


def _start(root: Path, release: Release) -> None:
    """Start a release and wait until it is healthy.

    :raises ReleaseFailed: it does not become so.
    """
    since = time.time()
    _start_units(release)
    health = release.settings.health
    reason = _await_health(release.service, release.socket_path, health)
    if reason is None:
        return
    secrets = _secret_values(release)
    said = [line for line in _journal(release.service, since, secrets) if f'"GET {health.path} HTTP' not in line]
    _stop(release)
    message = _why_not_importable(release, secrets) or f"health: {reason}"
    raise ReleaseFailed(f"{release.name}: {message} (release {release.instance}, stopped)", said)


def _start_units(release: Release) -> None:
    _system.systemctl("reset-failed", *release.units)
    for unit in [*([front_socket(release.name)] if release.front else []), *release.units[:-1]]:
        _must(_system.systemctl("start", unit), f"{unit} does not start")
    _must(_system.systemctl("start", "--no-block", release.service), f"{release.service} does not start")


def _record_memory(root: Path, current: Release | None) -> None:
    """Measure what the live release holds, once it has served for a while, for the next count of its workers."""
    if current is None or not _has_served(current):
        return
    measured = _memory.measure(_memory.processes(name=current.name).get((current.name, current.instance), []))
    if measured:
        _memory.record(root, current.instance, measured)


def _has_served(release: Release) -> bool:
    since = release.state.get("live_at")
    if not since:
        return False
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(since)
    return age.total_seconds() >= _SETTLED


def _secret_values(release: Release) -> list[str]:
    """Return the values of a release's secrets, to keep them out of what is shown."""
    return list(_parse_environment(_system.read(release.path / "secrets") or "").values())


def _parse_environment(text: str) -> dict[str, str]:
    """Return what :func:`_environment_file` wrote as text."""
    assignment = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"\n', re.DOTALL)
    return {name: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for name, value in assignment.findall(text)}


def _await_health(service: str, path: Path, health: Health) -> str | None:
    """Ask until *health* is met; return None then, or the reason why it is not."""
    until = time.monotonic() + health.timeout
    last = "no answer"
    good = deaths = 0
    answered = begun = False
    workers: set[int] = set()
    while True:
        shown = _show(service)
        state = shown.get("ActiveState")
        begun = begun or state in ("activating", "active") or time.monotonic() >= until - health.timeout + _BEGIN
        # On a busy host it may take a moment until systemd comes to it.
        ended = state in ("failed", "deactivating") or (state == "inactive" and begun)
        if ended or shown.get("SubState") == "auto-restart" or int(shown.get("NRestarts") or 0) > 0:
            return (
                f"the server ended (result {shown.get('Result')}, status {shown.get('ExecMainStatus')}); last: {last}"
            )
        now = _children(int(shown.get("MainPID") or 0))
        if answered and workers - now:
            deaths += len(workers - now)
            good = 0
            last = f"a worker died ({deaths} in all)"
            if deaths >= _WORKER_DEATHS:
                return f"its workers keep dying ({deaths} died before it was healthy)"
        workers = now
        if good >= health.successes:
            return None
        if time.monotonic() >= until:
            return f"not healthy within {health.timeout:g} s; last: {last}"
        # Until it says that it has started, it is looked at more often: systemd's socket takes what nobody answers.
        most = _PROBE_TIMEOUT if shown.get("ActiveState") == "active" else 1.0
        problem = probe(path, health, max(0.1, min(most, until - time.monotonic())))
        answered = answered or not problem  # what ends before may be a command that it runs to start
        good = 0 if problem else good + 1
        last = problem or last
        time.sleep(_POLL if problem else health.interval)


def probe(path: Path, health: Health, timeout: float = _PROBE_TIMEOUT) -> str | None:
    """Ask the server behind the unix socket *path* once; return None if it is healthy, else what is wrong."""
    connection = _UnixConnection(path, timeout)
    # As Nginx would send it for a client on this host.
    headers = {
        "Host": health.host,
        "X-Forwarded-Host": health.host,
        "X-Forwarded-Proto": health.scheme,
        "X-Forwarded-For": "127.0.0.1",
        "X-Real-IP": "127.0.0.1",
        "User-Agent": "asgi.stack",
    }
    where = f"GET {health.path}"
    until = time.monotonic() + timeout
    # The socket's timeout is for each read; an answer that trickles in has to end as well.
    alarm = threading.Timer(timeout, connection.interrupt)
    alarm.start()
    try:
        connection.request("GET", health.path, headers={**headers, "Connection": "close"})
        answer = connection.getresponse()
        body = answer.read(1 << 20) if health.contains else b""
    except (OSError, http.client.HTTPException) as error:
        if time.monotonic() >= until:
            return f"{where}: no answer in {timeout:.1f} s"
        return f"{where}: {str(error) or type(error).__name__}"
    finally:
        alarm.cancel()
        connection.close()
    if time.monotonic() >= until:
        return f"{where}: no answer in {timeout:.1f} s"
    expected = answer.status in health.status if health.status else answer.status < 500
    if not expected:
        wanted = " or ".join(map(str, health.status)) if health.status else "any below 500"
        return f"{where}: status {answer.status}, expected {wanted}"
    if health.contains and health.contains.encode() not in body:
        return f"{where}: the body does not contain {health.contains!r}"
    return None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self._socket = self.sock  # the other one is given up when the answer's head was read
        self.sock.connect(self._path)

    def interrupt(self) -> None:
        """End what is being waited for, from another thread."""
        with contextlib.suppress(OSError, AttributeError):
            self._socket.shutdown(socket.SHUT_RDWR)


_IMPORT_CHECK = """
import importlib, sys
module, _, attribute = sys.argv[1].partition(":")
sys.path.insert(0, ".")
try:
    found = importlib.import_module(module)
    for name in attribute.split("."):
        found = getattr(found, name)
    if not callable(found):
        raise TypeError(f"a {type(found).__name__} is not callable")
    if sys.argv[2] == "factory":
        found()
except BaseException as error:
    print(type(error).__name__ + ": " + str(error))
    sys.exit(9)
"""


def _why_not_importable(release: Release, secrets: t.Sequence[str]) -> str | None:
    """Return in words why the application does not import, as its user and in its environment; None if it does."""
    application = str(release.info.get("app", ""))
    kind = "factory" if release.info.get("factory") else "application"
    build = release.path / "build"
    # 9 is what the check above ends with; whatever else goes wrong here says nothing about the application.
    done = _system.run(
        ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", f"--property=User={release.info['user']}"]
        + [f"--property=EnvironmentFile={release.path / name}" for name in ("environment", "secrets")]
        + [
            f"--property=WorkingDirectory={build / 'src'}",
            "--property=RuntimeMaxSec=30",
            "--property=ProtectSystem=strict",
        ]
        + ["--property=PrivateTmp=true", str(build / "venv/bin/python"), "-c", _IMPORT_CHECK, application, kind],
        timeout=60,
    )
    if done.returncode != 9:
        return None
    lines = done.stdout.strip().splitlines() or ["it does not say why"]
    return f"app: {application!r} cannot be imported: {_redact(lines[-1], secrets)}"


#: What a hook's unit does not take over from the service: how it is started again, and what belongs to a server.
_NOT_FOR_HOOKS = re.compile(
    r"(Type|NotifyAccess|Exec\w+|Restart|RestartSec|NonBlocking|KillMode|RuntimeDirectory\w*|SyslogIdentifier"
    r"|Sockets|LoadCredential)="
)


def _run_migrate(request: Request, release: Release) -> None:
    """Run the hooks with the release's code and environment, as the application's user, in its sandbox.

    :raises ReleaseFailed: one failed; the message holds what it said.
    """
    unit = f"asgi.migrate-{release.name}-{release.instance}.service"
    path = TRANSIENT / unit
    service = request.service.partition("[Service]\n")[2] + request.override.partition("[Service]\n")[2]
    lines = [line for line in service.replace("%i", release.instance).splitlines() if not _NOT_FOR_HOOKS.match(line)]
    script = release.path / "migrate.sh"
    lines += [
        "Type=oneshot",
        "TimeoutStartSec=infinity",
        f"SyslogIdentifier=asgi-{release.name}",
        f'Environment="PATH={release.path / "build/venv/bin"}:/usr/local/bin:/usr/bin:/bin"',
        f"ExecStart=/bin/sh {script}",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    since = time.time()
    _system.write(path, "[Unit]\nDescription=Hooks of a release\n[Service]\n" + "\n".join(lines) + "\n")
    try:
        _must(_system.systemctl("daemon-reload"), "systemctl daemon-reload")
        done = _system.systemctl("start", unit, timeout=86400)
        said = _journal(unit, since, _secret_values(release))
    finally:
        _system.remove(path)
        _system.systemctl("reset-failed", unit)
        _system.systemctl("daemon-reload")
    if done.returncode:
        message = f"{release.name}: hooks.migrate: a command failed (release {release.instance}, stopped)"
        _give_up(request.root, release, message)
        raise ReleaseFailed(message, said)


def _journal(unit: str, since: float, secrets: t.Sequence[str]) -> list[str]:
    """Return what *unit* has said since *since*, a Unix time. Of much, the beginning and the end: why it first failed
    is at the one, why it last did at the other."""
    command = ["journalctl", "--unit", unit, f"--since=@{int(since)}", "--output", "cat", "--no-pager"]
    lines = [_redact(line, secrets) for line in _system.run(command).stdout.splitlines()]
    if len(lines) <= 2 * JOURNAL_LINES:
        return lines
    return [*lines[:JOURNAL_LINES], f"… {len(lines) - 2 * JOURNAL_LINES} lines …", *lines[-JOURNAL_LINES:]]


def _redact(line: str, secrets: t.Sequence[str]) -> str:
    parts = {part for value in secrets for part in value.splitlines() if len(part) >= 4}
    for part in sorted(parts, key=len, reverse=True):  # one may begin another
        line = line.replace(part, "****")
    return line


def _show(unit: str) -> dict[str, str]:
    """Return what systemd knows about *unit*."""
    wanted = "ActiveState,SubState,UnitFileState,NRestarts,Result,ExecMainStatus,MainPID,NeedDaemonReload"
    done = _system.systemctl("show", "--property", wanted, unit)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def _children(pid: int) -> set[int]:
    """Return the processes that *pid* started: a server's workers."""
    text = _system.read(Path(f"/proc/{pid}/task/{pid}/children")) if pid else None
    return {int(child) for child in (text or "").split()}


def _enable(name: str, now: bool) -> None:
    boot = f"asgi-{name}.service"
    _must(_system.systemctl("enable", *(["--now"] if now else []), boot), f"{boot} cannot be enabled")


def _retire(old: Release, settings: Settings) -> None:
    """Let the host stop *old* by itself when nothing is connected to it any more, or ``drain`` has passed.

    The host does it and not this process, so that it also happens when the run is cut off here.
    """
    old.mark("retired")
    listening = str(old.socket_path).replace(".", r"\.")
    front = f"/run/asgi-{old.name}/{old.instance}/front.*"  # a worker has such a file while it has connections there
    script = (
        f"sleep {settings.pool:g}; until=$(($(date +%s) + {int(settings.drain)})); "
        # Of a unix socket's lines in /proc/net/unix, state 03 is a connection, and the last column the path.
        f"while {{ grep -Eq ' 03 +[0-9]+ {listening}$' /proc/net/unix || ls {front} >/dev/null 2>&1; }} && "
        "[ $(date +%s) -lt $until ]; do sleep 1; done; "
        f"exec systemctl stop {' '.join(old.units)}"
    )
    unit = drain_unit(old.name, old.instance)
    command = [
        "systemd-run",
        "--quiet",
        "--collect",
        f"--unit={unit}",
        f"--description=Drain {old.instance} of {old.name}",
    ]
    _must(_system.run([*command, "/bin/sh", "-c", script]), f"{unit} does not start")


def drain_unit(name: str, instance: str) -> str:
    """Return the name of the unit that stops a release when it has drained. No application's unit is named so."""
    return f"asgi.drain-{name}-{instance}.service"


def front_socket(name: str) -> str:
    """Return the name of the unit that holds the sockets of an application without Nginx."""
    return f"asgi-{name}-front.socket"


def _front_units(name: str) -> list[str]:
    return [front_socket(name), f"asgi-{name}-front.service"]


def _check_ports(request: Request) -> None:
    """See that nobody else has the ports of an application without Nginx.

    :raises HostError: somebody has, or it would itself change to others.
    """
    path = UNITS / front_socket(request.name)
    text = request.front.get(path.name)
    if text is None:
        return
    if _show(path.name).get("ActiveState") == "active":
        if _listening(_system.read(path) or "") != _listening(text):
            raise HostError(
                f"{request.name}: edge: found it on other ports than are expected now, which it cannot change while it "
                f"runs: stop it (systemctl stop asgi-{request.name}) and run this again"
            )
        return
    for kind, port in _listening(text):
        for family in (socket.AF_INET6, socket.AF_INET):
            with contextlib.suppress(OSError), socket.socket(family, kind) as trial:
                if kind == socket.SOCK_STREAM:  # connections of before may linger; of UDP it would share the port
                    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    trial.bind(("", port))
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        continue
                    word = "TCP" if kind == socket.SOCK_STREAM else "UDP"
                    raise HostError(
                        f"{request.name}: edge: found {word} port {port} taken on this host, expected it free for "
                        f"hypercorn: stop and disable what has it (ss -lntup 'sport = :{port}' shows it; of Nginx, "
                        "systemctl disable --now nginx)"
                    ) from None


def _listening(text: str) -> list[tuple[int, int]]:
    """Return the types and ports of the network's sockets in a unit's text."""
    kinds = {"Stream": socket.SOCK_STREAM, "Datagram": socket.SOCK_DGRAM}
    found = re.findall(r"^Listen(Stream|Datagram)=(\d+)$", text, re.MULTILINE)
    return [(int(kinds[word]), int(port)) for word, port in found]


def _drop_front(root: Path, name: str) -> None:
    """Have nobody listen at the front if no release that does is live."""
    current = live(root)
    left = [UNITS / unit for unit in _front_units(name) if (UNITS / unit).exists()]
    if left and not (current is not None and current.front):
        _system.systemctl("stop", *_front_units(name))
        for path in left:
            _system.remove(path)
        _system.systemctl("daemon-reload")


def _stop(release: Release) -> None:
    _stop_instance(release.name, release.instance)


def _stop_instance(name: str, instance: str) -> None:
    units = [f"asgi-{name}@{instance}.socket", f"asgi-{name}@{instance}.service"]
    _system.systemctl("stop", *units, timeout=300)
    _system.systemctl("reset-failed", *units)


def running(name: str) -> set[str]:
    """Return the instances of an application that systemd runs, or tries to."""
    done = _system.systemctl(
        "list-units", "--all", "--plain", "--no-legend", f"asgi-{name}@*.service", f"asgi-{name}@*.socket"
    )
    found = set()
    for line in done.stdout.splitlines():
        unit, _load, active = line.split()[:3]
        if active not in ("inactive", "failed"):
            found.add(unit.partition("@")[2].rpartition(".")[0])
    return found


def _clear_leftovers(root: Path, name: str, wanted: Release | None, outcome: Outcome, check: bool) -> None:
    """Stop what runs and is neither live, nor wanted, nor draining: a run was cut off after it had started it.

    What was live once is drained, as that run would have done.
    """
    known = {release.instance: release for release in releases(root)}
    spared = {release.instance for release in (live(root), wanted) if release is not None}
    for instance in sorted(running(name) - spared):
        if _show(drain_unit(name, instance)).get("ActiveState") in ("active", "activating"):
            continue
        outcome.did.append(f"leftover {instance} stopped")
        if check:
            continue
        release = known.get(instance)
        now = live(root)
        gives_way = release is not None and release.front and now is not None and not now.front
        if release is not None and "live_at" in release.state and not gives_way:
            _retire(release, release.settings)
        else:
            _stop_instance(name, instance)


def _prune(root: Path, wanted: Release) -> None:
    """Remove the oldest releases that were live beyond ``keep``, the oldest others, and builds that no release uses.

    Never what is live, was live before it, runs, or is wanted; nor a build that is so new that a run beside this one
    may be about to release it.
    """
    found = releases(root)
    current = live(root)
    been_live = [release for release in found if "live_at" in release.state]
    others = [release for release in found if "live_at" not in release.state]
    latest = [release for release in been_live if release != current][-1:]
    spared = [*been_live[-wanted.settings.keep :], *others[-_KEEP_OTHERS:], *latest, wanted, _before(root, current)]
    kept = {release.instance for release in (*spared, current) if release is not None} | running(wanted.name)
    for release in found:
        if release.instance not in kept:
            _system.remove(UNITS / f"{release.service}.d")
            _system.remove(release.path)
    used = {str(release.info["build"]) for release in found if release.instance in kept}
    young = wanted.generation - wanted.settings.keep
    for path in (root / "builds").iterdir():
        if path.name not in used and not (_build.is_complete(path) and _build.made_after(path) >= young):
            _system.remove(path)


def describe(root: Path) -> dict[str, str]:
    """Return the live release as text to show a difference of, by part; its secrets are for comparing only."""
    current = live(root)
    if current is None:
        return {}
    names = sorted(path.name for path in current.path.iterdir() if _is_file(path))
    parts = {
        name: _system.read(current.path / name) or "" for name in names if name not in ("release.json", "state.json")
    }
    return {**parts, "build": str(current.info["build"])}


def difference(before: t.Mapping[str, str], request: Request) -> list[dict[str, str]]:
    """Return what differs between the release that was live and the wanted one, part by part, with no secret in it."""
    after = {**_configuration(request), "build": request.build}
    found = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, ""), after.get(name, "")
        if old != new and name == "secrets":
            old, new = _only_names(old, new, "before"), _only_names(new, old, "after")
        if old != new:
            header = f"{request.name}: {name}"
            found.append({"before_header": header, "after_header": header, "before": _line(old), "after": _line(new)})
    return found


def _only_names(shown: str, other: str, word: str) -> str:
    """Return *shown*, an environment file, as names; where a value is not that of *other*, *word* says so."""
    values, others = _parse_environment(shown), _parse_environment(other)
    lines = [name if others.get(name) == value else f"{name} (hidden, {word})" for name, value in values.items()]
    return "".join(f"{line}\n" for line in lines)


def _line(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def absent(name: str, root: Path, user: str, lock_timeout: float, check: bool = False) -> Outcome:
    """Remove an application: its units, directories and user, and nothing else."""
    with _transaction(name, lock_timeout, check):
        outcome = _absent(name, root, user, check)
        if not check:
            _system.remove(_system.LOCKS / f"{name}.lock")
        return outcome


def _absent(name: str, root: Path, user: str, check: bool) -> Outcome:
    outcome = Outcome(None)
    boot = f"asgi-{name}.service"
    instances = running(name)
    files = [UNITS / boot, UNITS / f"asgi-{name}@.service", UNITS / f"asgi-{name}@.socket"]
    files += [*UNITS.glob(f"asgi-{name}@*.service.d"), *UNITS.glob(f".asgi-{name}@*.service.d.gone")]
    files += [TMPFILES / f"asgi-{name}.conf", *(UNITS / unit for unit in _front_units(name))]
    units = [path for path in files if path.exists()]
    if not check and (units or instances):
        _system.systemctl("disable", boot)
        stopping = [
            f"asgi-{name}@{instance}.{kind}" for instance in sorted(instances) for kind in ("socket", "service")
        ]
        _system.systemctl(
            "stop",
            *(drain_unit(name, instance) for instance in sorted(instances)),
            boot,
            *(unit for unit in _front_units(name) if (UNITS / unit).exists()),
            *stopping,
            timeout=300,
        )
    directories = [root, RUN / name, Path(f"/run/asgi-{name}"), *(Path(parent) / name for parent in OWN_DIRECTORIES)]
    for path in [*units, *(path for path in directories if _system.is_there(path))]:
        outcome.did.append(f"{path} removed")
        if not check:
            _system.remove(path)
    if units and not check:
        _must(_system.systemctl("daemon-reload"), "systemctl daemon-reload")
        _system.systemctl("reset-failed", f"asgi-{name}@*")
    with contextlib.suppress(KeyError):
        if pwd.getpwnam(user).pw_dir == f"/var/lib/asgi/{name}":
            outcome.did.append(f"user {user} removed")
            if not check:
                _must(_system.run(["userdel", user]), f"the user {user} cannot be removed")
    return outcome


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def applications(parent: Path) -> list[str]:
    """Return the names of the applications that have releases below *parent*."""
    found = [path for path in parent.iterdir() if (path / "releases").is_dir()] if parent.is_dir() else []
    return sorted(path.name for path in found if not path.name.startswith("."))


def status(name: str, root: Path) -> dict[str, t.Any]:
    """Return what runs of an application, for the module ``release_info``. Memory is in bytes, times in UTC."""
    current = live(root)
    found: dict[str, t.Any] = {
        "name": name,
        "live": _about(current) if current else None,
        "health": None,
        "memory": None,
        "measured": None,
        "running": sorted(running(name)),
        "rollback": [release.instance for release in rollback_candidates(root, current)],
        "releases": [_about(release) for release in releases(root)],
    }
    if current is not None:
        shown = _show(current.service)
        found["active"] = shown.get("ActiveState") == "active"
        found["health"] = probe(current.socket_path, current.settings.health) or "ok"
        processes = _memory.processes(name=current.name).get((current.name, current.instance), [])
        found["memory"] = sum(process.size for process in processes)
        found["measured"] = _memory.recorded(root)
    return found


def _about(release: Release) -> dict[str, t.Any]:
    keys = ("id", "revision", "server", "workers", "workers_reason", "memory_per_worker", "build")
    shown = {key: release.info.get(key) for key in keys}
    return {"release": release.instance, **shown, **release.state}


def _must(done: t.Any, what: str) -> None:
    if done.returncode:
        raise HostError(f"{what}: {(done.stderr or done.stdout).strip()}")
