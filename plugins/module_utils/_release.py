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
import hashlib
import http.client
import json
import os
import pwd
import re
import socket
import time
import typing as t
from pathlib import Path

from ansible_collections.asgi.stack.plugins.module_utils import _build, _system
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError

UNITS = Path("/etc/systemd/system")
TMPFILES = Path("/etc/tmpfiles.d")
RUN = Path("/run/asgi")
EDGE_GROUP = "www-data"
#: Where systemd keeps the directories that the unit declares for the application's user.
OWN_DIRECTORIES = ("/var/lib/asgi", "/var/cache/asgi", "/var/log/asgi")
JOURNAL_LINES = 30
_POLL = 0.25  # seconds between two questions for health
_PROBE_TIMEOUT = 5.0  # seconds that one answer may take
_WORKER_DEATHS = 3  # a new release that lost so many workers before it was healthy is in a crash loop

State = t.Dict[str, t.Any]


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


@dataclasses.dataclass(frozen=True)
class Request:
    """A release that is wanted. Times are in seconds."""

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
    environment: t.Mapping[str, str]
    secrets: t.Mapping[str, str] = dataclasses.field(repr=False)
    health: Health
    keep: int
    drain: float
    pool: float
    lock_timeout: float

    def digest(self) -> str:
        """Return what changes whenever anything about the release does, secrets included: for root's eyes only."""
        what = dataclasses.asdict(self)
        for key in ("root", "info", "keep", "drain", "pool", "lock_timeout", "health"):
            del what[key]
        return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Release:
    """A release that is on the host."""

    instance: str
    path: Path
    info: t.Mapping[str, t.Any]

    @property
    def generation(self) -> int:
        return int(self.instance.partition("-")[0])

    @property
    def state(self) -> State:
        """``{state: staged|live|retired|failed, …}`` with the time of each in UTC, ISO 8601."""
        text = _system.read(self.path / "state.json")
        return json.loads(text) if text else {"state": "staged"}

    def mark(self, state: str, **more: t.Any) -> None:
        """Write down that the release is now in *state*."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        marked = {**self.state, **more, "state": state, f"{state}_at": now}
        _system.write(self.path / "state.json", json.dumps(marked, indent=1) + "\n")


@dataclasses.dataclass
class Outcome:
    """What a run did, or in check mode would do."""

    changed: bool
    instance: str | None
    previous: str | None = None
    did: list[str] = dataclasses.field(default_factory=list)


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


def deploy(request: Request, check: bool = False) -> Outcome:
    """Make the wanted release live, unless it is; see the module's description for the order.

    :param check: change nothing, return what would be done.
    :raises ReleaseFailed: the new release was not good, and was stopped.
    :raises HostError: something on the host is in the way; nothing was switched.
    """
    if check:
        return _deploy(request, check=True)
    with _system.locked(request.name, request.lock_timeout):
        try:
            return _deploy(request, check=False)
        except OSError as error:
            raise HostError(f"{request.name}: the release failed: {_system.explain(error)}") from None


def _deploy(request: Request, check: bool) -> Outcome:
    current = live(request.root)
    outcome = Outcome(False, current.instance if current else None)
    if _system.ensure_user(request.user, f"/var/lib/asgi/{request.name}", check):
        outcome.did.append(f"user {request.user} made")
    wanted = current is not None and current.info["digest"] == request.digest()
    if wanted and current is not None:
        _converge(request, current, outcome, check)
    else:
        outcome.did.append(f"release {request.id} made live" + (f" after {current.instance}" if current else ""))
        if not check:
            outcome.previous = outcome.instance
            outcome.instance = _replace(request, current).instance
    _clear_leftovers(request, outcome, check)
    outcome.changed = bool(outcome.did)
    return outcome


def _converge(request: Request, current: Release, outcome: Outcome, check: bool) -> None:
    """Have what is live run, and start at a boot."""
    if _install_units(request, current.instance, check):
        outcome.did.append("units written")
    service, socket_unit, boot = (
        f"asgi-{request.name}@{current.instance}.service",
        f"asgi-{request.name}@{current.instance}.socket",
        f"asgi-{request.name}.service",
    )
    states = {unit: _show(unit) for unit in (service, socket_unit, boot)}
    if not all(states[unit].get("ActiveState") in ("active", "activating", "reloading") for unit in (service, socket_unit)):
        outcome.did.append(f"{service} started")
        if not check:
            _start(request, current)
    if states[boot].get("UnitFileState") != "enabled" or states[boot].get("ActiveState") != "active":
        outcome.did.append(f"{boot} enabled")
        if not check:
            _enable(request)


def _replace(request: Request, current: Release | None) -> Release:
    """Stage the wanted release, start it, ask for its health, switch to it and let the one before drain."""
    if not _build.is_complete(request.root / "builds" / request.build):
        raise HostError(f"{request.name}: there is no build {request.build} on the host")
    new = _stage(request)
    try:
        _install_units(request, new.instance, check=False)
        _start(request, new)
    except BaseException as error:
        _stop(request.name, new.instance)
        new.mark("failed", reason=str(error))
        _prune(request)
        raise
    _system.point(request.root / "live", f"releases/{new.instance}")
    new.mark("live")
    _enable(request)
    if current is not None and current.instance != new.instance:
        _retire(request, current)
    _prune(request)
    return new


def _stage(request: Request) -> Release:
    """Write the release's directory; it gets its name when it is complete."""
    folder = request.root / "releases"
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name.startswith("."):
            _system.remove(path)
    generation = max((release.generation for release in releases(request.root)), default=0) + 1
    instance = f"{generation:04d}-{request.id}"
    staged = folder / f".{instance}"
    staged.mkdir(mode=0o755)
    for name, content in request.files.items():
        _system.write(staged / name, content)
    _system.write(staged / "environment", _environment_file(request.environment), 0o600)
    _system.write(staged / "secrets", _environment_file(request.secrets), 0o600)
    _system.write(staged / "override.conf", request.override)
    os.symlink(f"../../builds/{request.build}", staged / "build")
    os.symlink(str(socket_path(request.name, instance)), staged / "app.sock")
    info = {**request.info, "name": request.name, "id": request.id, "build": request.build, "digest": request.digest()}
    _system.write(staged / "release.json", json.dumps(info, indent=1, sort_keys=True) + "\n", 0o600)
    _system.sync(staged)
    staged.rename(folder / instance)
    _system.sync(folder)
    return Release(instance, folder / instance, info)


def socket_path(name: str, instance: str) -> Path:
    """Return the path of the socket that a release listens on."""
    return RUN / name / f"{instance}.sock"


def _environment_file(values: t.Mapping[str, str]) -> str:
    """Return an environment file for systemd: each value in double quotes, with what they do not protect escaped."""
    lines = []
    for name, value in sorted(values.items()):
        escaped = re.sub(r'(["\\$`])', r"\\\1", value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)


def _install_units(request: Request, instance: str, check: bool) -> bool:
    """Write the application's units and the instance's own settings where they differ; return whether they did."""
    template = f"asgi-{request.name}@"
    tmpfiles = f"d {RUN} 0755 root root -\nd {RUN / request.name} 0750 root {EDGE_GROUP} -\n"
    wanted = {
        UNITS / f"{template}.service": request.service,
        UNITS / f"{template}.socket": request.socket,
        UNITS / f"asgi-{request.name}.service": request.boot,
        UNITS / f"{template}{instance}.service.d/release.conf": request.override,
        TMPFILES / f"asgi-{request.name}.conf": tmpfiles,
    }
    differing = {path: text for path, text in wanted.items() if _system.read(path) != text}
    if check:
        return bool(differing)
    for path, text in differing.items():
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _system.write(path, text)
    if not (RUN / request.name).is_dir() or TMPFILES / f"asgi-{request.name}.conf" in differing:
        _must(_system.run(["systemd-tmpfiles", "--create", f"asgi-{request.name}.conf"]), "systemd-tmpfiles")
    # Also where a run was cut off between writing and loading.
    if differing or _show(f"{template}{instance}.service").get("NeedDaemonReload") == "yes":
        _must(_system.systemctl("daemon-reload"), "systemctl daemon-reload")
    return bool(differing)


def _start(request: Request, release: Release) -> None:
    """Start a release and wait until it is healthy.

    :raises ReleaseFailed: it does not become so.
    """
    service = f"asgi-{request.name}@{release.instance}.service"
    socket_unit = f"asgi-{request.name}@{release.instance}.socket"
    _system.systemctl("reset-failed", service, socket_unit)
    _must(_system.systemctl("start", socket_unit), f"{socket_unit} does not start")
    _must(_system.systemctl("start", "--no-block", service), f"{service} does not start")
    reason = _await_health(service, socket_path(request.name, release.instance), request.health)
    if reason is None:
        return
    said = _journal(service, request.secrets)
    _stop(request.name, release.instance)
    cannot = _why_not_importable(request, release)
    message = cannot or f"health: {reason}"
    raise ReleaseFailed(f"{request.name}: {message} (release {release.instance}, stopped)", said)


def _await_health(service: str, path: Path, health: Health) -> str | None:
    """Ask until *health* is met; return None then, or the reason why it is not."""
    until = time.monotonic() + health.timeout
    last = "no answer"
    good = deaths = 0
    workers: set[int] = set()
    while True:
        shown = _show(service)
        if int(shown.get("NRestarts") or 0) > 0 or shown.get("ActiveState") in ("failed", "inactive", "deactivating"):
            return f"the server ended (result {shown.get('Result')}, status {shown.get('ExecMainStatus')}); last: {last}"
        now = _children(int(shown.get("MainPID") or 0))
        if workers - now:
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
        problem = probe(path, health, max(0.1, min(_PROBE_TIMEOUT, until - time.monotonic())))
        good = 0 if problem else good + 1
        last = problem or last
        time.sleep(_POLL)


def probe(path: Path, health: Health, timeout: float = _PROBE_TIMEOUT) -> str | None:
    """Ask the server behind the unix socket *path* once; return None if it is healthy, else what is wrong."""
    connection = _UnixConnection(path, timeout)
    headers = {"Host": health.host, "X-Forwarded-Proto": health.scheme, "User-Agent": "asgi.stack", "Connection": "close"}
    where = f"GET {health.path}"
    try:
        connection.request("GET", health.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read(1 << 20) if health.contains else b""
    except socket.timeout:
        return f"{where}: no answer in {timeout:.1f} s"
    except (OSError, http.client.HTTPException) as error:
        return f"{where}: {error or type(error).__name__}"
    finally:
        connection.close()
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
        self.sock.connect(self._path)


_IMPORT_CHECK = """
import importlib, sys
module, _, attribute = sys.argv[1].partition(":")
sys.path.insert(0, ".")
try:
    found = importlib.import_module(module)
    for name in attribute.split("."):
        found = getattr(found, name)
except BaseException as error:
    print(type(error).__name__ + ": " + str(error))
    sys.exit(9)
"""


def _why_not_importable(request: Request, release: Release) -> str | None:
    """Return in words why the application does not import, as its user and in its environment; None if it does."""
    application = str(request.info.get("app", ""))
    build = release.path / "build"
    # 9 is what the check above ends with; whatever else goes wrong here says nothing about the application.
    done = _system.run(
        ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", f"--property=User={request.user}"]
        + [f"--property=EnvironmentFile={release.path / name}" for name in ("environment", "secrets")]
        + [f"--property=WorkingDirectory={build / 'src'}", "--property=RuntimeMaxSec=30", "--property=ProtectSystem=strict"]
        + ["--property=PrivateTmp=true", str(build / "venv/bin/python"), "-c", _IMPORT_CHECK, application],
        timeout=60,
    )
    if done.returncode != 9:
        return None
    lines = done.stdout.strip().splitlines() or ["it does not say why"]
    return f"app: {application!r} cannot be imported: {_redact(lines[-1], request.secrets)}"


def _journal(service: str, secrets: t.Mapping[str, str]) -> list[str]:
    done = _system.run(["journalctl", "--unit", service, "--lines", str(JOURNAL_LINES), "--output", "cat", "--no-pager"])
    return [_redact(line, secrets) for line in done.stdout.splitlines()]


def _redact(line: str, secrets: t.Mapping[str, str]) -> str:
    for value in secrets.values():
        if len(value) >= 4:
            line = line.replace(value, "****")
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


def _enable(request: Request) -> None:
    boot = f"asgi-{request.name}.service"
    _must(_system.systemctl("enable", "--now", boot), f"{boot} cannot be enabled")


def _retire(request: Request, old: Release) -> None:
    """Let the host stop *old* by itself when nothing is connected to it any more, or ``drain`` has passed.

    The host does it and not this process, so that it also happens when the run is cut off here.
    """
    old.mark("retired")
    listening = re.escape(str(socket_path(request.name, old.instance)))
    script = (
        f"sleep {request.pool:g}; until=$(($(date +%s) + {int(request.drain)})); "
        # Of a unix socket's lines in /proc/net/unix, state 03 is a connection, and the last column the path.
        f"while grep -Eq ' 03 +[0-9]+ {listening}$' /proc/net/unix && [ $(date +%s) -lt $until ]; do sleep 1; done; "
        f"exec systemctl stop asgi-{request.name}@{old.instance}.socket asgi-{request.name}@{old.instance}.service"
    )
    unit = drain_unit(request.name, old.instance)
    command = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--description=Drain {old.instance} of {request.name}"]
    _must(_system.run([*command, "/bin/sh", "-c", script]), f"{unit} does not start")


def drain_unit(name: str, instance: str) -> str:
    """Return the name of the unit that stops a release when it has drained. No application's unit is named so."""
    return f"asgi.drain-{name}-{instance}.service"


def _stop(name: str, instance: str) -> None:
    _system.systemctl("stop", f"asgi-{name}@{instance}.socket", f"asgi-{name}@{instance}.service", timeout=300)
    _system.systemctl("reset-failed", f"asgi-{name}@{instance}.socket", f"asgi-{name}@{instance}.service")


def running(name: str) -> set[str]:
    """Return the instances of an application that systemd runs, or tries to."""
    done = _system.systemctl("list-units", "--all", "--plain", "--no-legend", f"asgi-{name}@*.service", f"asgi-{name}@*.socket")
    found = set()
    for line in done.stdout.splitlines():
        unit, _load, active = line.split()[:3]
        if active not in ("inactive", "failed"):
            found.add(unit.partition("@")[2].rpartition(".")[0])
    return found


def _clear_leftovers(request: Request, outcome: Outcome, check: bool) -> None:
    """Retire what runs, is not live and is not draining: a run was cut off after it started it, or before it drained it."""
    current = live(request.root)
    known = {release.instance: release for release in releases(request.root)}
    for instance in sorted(running(request.name)):
        if current is not None and instance == current.instance:
            continue
        if check and current is None:
            continue
        if _show(drain_unit(request.name, instance)).get("ActiveState") in ("active", "activating"):
            continue
        if check and outcome.did:
            continue  # what would be replaced now is no leftover
        outcome.did.append(f"leftover {instance} stopped")
        if check:
            continue
        if instance in known:
            _retire(request, known[instance])
        else:
            _stop(request.name, instance)


def _prune(request: Request) -> None:
    """Remove the oldest releases beyond ``keep``, and builds that no release uses; never what is live, before it, or runs."""
    found = releases(request.root)
    current = live(request.root)
    been_live = [release for release in found if "live_at" in release.state and release != current]
    keep = {release.instance for release in found[-request.keep :]} | running(request.name)
    keep |= {release.instance for release in (current, been_live[-1] if been_live else None) if release}
    for release in found:
        if release.instance not in keep:
            _system.remove(UNITS / f"asgi-{request.name}@{release.instance}.service.d")
            _system.remove(release.path)
    used = {str(release.info["build"]) for release in found if release.instance in keep} | {request.build}
    for path in (request.root / "builds").iterdir():
        if path.name not in used:
            _system.remove(path)


def describe(root: Path) -> dict[str, str]:
    """Return the live release as text to show a difference of, by part; its secrets are for comparing only."""
    current = live(root)
    if current is None:
        return {}
    names = sorted(path.name for path in current.path.iterdir() if path.is_file())
    parts = {name: _system.read(current.path / name) or "" for name in names if name not in ("release.json", "state.json")}
    return {**parts, "build": current.info["build"]}


def difference(before: t.Mapping[str, str], request: Request) -> list[dict[str, str]]:
    """Return what differs between the release that was live and the wanted one, part by part, with no secret in it."""
    after = {**request.files, "override.conf": request.override, "build": request.build}
    after["environment"] = _environment_file(request.environment)
    after["secrets"] = _environment_file(request.secrets)
    found = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, ""), after.get(name, "")
        if old != new and name == "secrets":
            old, new = _only_names(old, old, new), _only_names(new, old, new)
        if old != new:
            header = f"{request.name}: {name}"
            found.append({"before_header": header, "after_header": header, "before": _line(old), "after": _line(new)})
    return found


def _only_names(shown: str, before: str, after: str) -> str:
    """Return *shown*, an environment file, as names, where *before* and *after* differ with a word that says so."""
    known = set(before.splitlines()) & set(after.splitlines())
    word = "before" if shown == before else "after"
    lines = [line for line in shown.splitlines() if re.match(r"[A-Za-z_][A-Za-z0-9_]*=\"", line)]
    return "".join(line.partition("=")[0] + ("" if line in known else f" (hidden, {word})") + "\n" for line in lines)


def _line(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def absent(name: str, root: Path, user: str, lock_timeout: float, check: bool = False) -> Outcome:
    """Remove an application: its units, directories and user, and nothing else."""
    if check:
        return _absent(name, root, user, check=True)
    with _system.locked(name, lock_timeout):
        try:
            outcome = _absent(name, root, user, check=False)
        except OSError as error:
            raise HostError(f"{name}: it cannot be removed: {_system.explain(error)}") from None
    _system.remove(_system.LOCKS / f"{name}.lock")
    return outcome


def _absent(name: str, root: Path, user: str, check: bool) -> Outcome:
    outcome = Outcome(False, None)
    boot = f"asgi-{name}.service"
    units = [boot, *(f"asgi-{name}@{instance}.{kind}" for instance in running(name) for kind in ("socket", "service"))]
    files = [UNITS / boot, UNITS / f"asgi-{name}@.service", UNITS / f"asgi-{name}@.socket", TMPFILES / f"asgi-{name}.conf"]
    files += UNITS.glob(f"asgi-{name}@*.service.d")
    if not check and (len(units) > 1 or any(path.exists() for path in files)):
        _system.systemctl("disable", boot)
        _system.systemctl("stop", f"asgi.drain-{name}-*.service", *units, timeout=300)
    directories = [root, RUN / name, *(Path(parent) / name for parent in OWN_DIRECTORIES)]
    for path in [*files, *directories]:
        if path.exists() or path.is_symlink():
            outcome.did.append(f"{path} removed")
            if not check:
                _system.remove(path)
    if any(path.parent == UNITS or path.parent == TMPFILES for path in files) and outcome.did and not check:
        _must(_system.systemctl("daemon-reload"), "systemctl daemon-reload")
        _system.systemctl("reset-failed", f"asgi-{name}@*")
    with contextlib.suppress(KeyError):
        if pwd.getpwnam(user).pw_dir == f"/var/lib/asgi/{name}":
            outcome.did.append(f"user {user} removed")
            if not check:
                _must(_system.run(["userdel", user]), f"the user {user} cannot be removed")
    outcome.changed = bool(outcome.did)
    return outcome


def _must(done: t.Any, what: str) -> None:
    if done.returncode:
        raise HostError(f"{what}: {(done.stderr or done.stdout).strip()}")
