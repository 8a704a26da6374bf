# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Nginx configuration of a host as one transaction.

On the host, below the configuration directory (``/etc/nginx``)::

    nginx.conf -> asgi/live/nginx.conf
    asgi/live -> config-<digest>            the one pointer: what Nginx reads
    asgi/config-<digest>/{nginx.conf, …}    one complete set of our files, never edited
    asgi/replaced-nginx.conf                what nginx.conf was before it was ours

and ``/etc/systemd/system/nginx.service.d/asgi-stack.conf -> /etc/nginx/asgi/live/nginx.service.conf``, so that the
configuration and the settings of the unit that runs it are one pointer.

A change is a new directory: written, tested with ``nginx -t`` under a name of its own as the unit runs it, made live
with one rename(2), read by a reload, or by a restart where the unit's settings changed, and believed when new worker
processes exist and answer. Whatever fails puts the pointer back. A process that is killed leaves either the old or the
new pointer, both of them to a tested directory, so that Nginx can start at any moment; a marker in /run tells the next
run that Nginx may not have read what the pointer says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
import typing as t
from pathlib import Path

from ansible_collections.asgi.stack.plugins.module_utils._system import (
    HostError,
    locked,
    point,
    read,
    run,
    sync,
    systemctl,
    write,
)

BINARY = "/usr/sbin/nginx"
SERVICE = "nginx.service"
ERROR_LOG = Path("/var/log/nginx/error.log")
MARKER = Path("/run/asgi/nginx.json")
DROP_IN = Path("/etc/systemd/system/nginx.service.d/asgi-stack.conf")
TEST_UNITS = Path("/run/systemd/system")
TEST_UNIT = "asgi-nginx-test-"
SOMAXCONN = Path("/proc/sys/net/core/somaxconn")

OURS = "asgi"
CONFIG = "nginx.conf"
UNIT = "nginx.service.conf"  # the unit's settings; without it the distribution's unit is as it is
PREPARE = "prepare"  # a shell script that root runs before Nginx starts, reloads or is tested
LIVE = f"{OURS}/live"
REPLACED = f"{OURS}/replaced-nginx.conf"
TEST_PREFIX = ".asgi-test-"
STAGE_PREFIX = "stage-"
TREE_PREFIX = "config-"
BRIDGE_PREFIX = f"{TREE_PREFIX}replaced-"
DEFAULT_SITE = "sites-enabled/default"
STAMP = "@configuration@"  # stands in a file for a name of the whole set

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")

#: Put after the unit's settings, to run one command as the unit would.
TEST_SETTINGS = """
[Unit]
CollectMode=inactive-or-failed
[Service]
Type=oneshot
PIDFile=
Restart=no
ExecCondition=
ExecStartPre=
ExecStart=
ExecStart={command}
ExecStartPost=
ExecReload=
ExecStop=
ExecStopPost=
TimeoutStartSec=60s
StandardOutput=truncate:{output}
StandardError=inherit
"""
#: Said at each start of a master process that is not root. The directive is for the others: root's `nginx -t`.
EXPECTED_WARNING = 'the "user" directive makes sense only if the master process runs with super-user privileges'
SANDBOX_HINT = (
    "Nginx runs as the unit's user, without root's rights, and sees the unit's file system (nginx_sandbox)."
    " Certificates and keys below /etc/nginx/asgi/tls/NAME are there for it; for other files see nginx_service_extra."
)

#: Our files: text by path relative to the live directory, nginx.conf among them.
Tree = dict[str, str]


class Refused(HostError):
    """Nginx does not take the configuration; what was there is still in place."""


@dataclasses.dataclass(frozen=True)
class Status:
    """What the service manager says of nginx.service."""

    active: bool
    enabled: bool
    master: int  # process id, 0 where there is none
    outdated: bool = False  # what runs is not the installed program any more
    problem: str | None = None  # why it can be neither started nor enabled


class Service(t.Protocol):
    """What the transaction asks of Nginx and of the service manager."""

    def installed(self) -> bool: ...

    def prepare(self, script: Path) -> None: ...

    def test(self, config: Path, unit: str | None) -> tuple[bool, str]: ...

    def status(self) -> Status: ...

    def enable(self) -> None: ...

    def start(self) -> None: ...

    def reload(self) -> None: ...

    def restart(self) -> None: ...

    def stop(self) -> None: ...

    def load(self) -> None: ...

    def prove(self, stamp: str) -> None: ...


@dataclasses.dataclass
class Disk:
    """What is there."""

    tree: Tree  # what the live directory holds; empty without one
    target: str | None  # name of the directory that is live
    linked: bool  # nginx.conf is the link to ours
    config: str | None  # the text of nginx.conf, whosever it is
    default_site: str | None  # where the distribution's default site points, when it is enabled
    unit_linked: bool  # the unit's drop-in is the link to ours

    @property
    def unit(self) -> str | None:
        """The unit's settings that are in force after the next boot."""
        return self.tree.get(UNIT) if self.unit_linked else None


@dataclasses.dataclass
class Outcome:
    """What was done, or would be done in check mode."""

    changed: bool = False
    files: list[str] = dataclasses.field(default_factory=list)
    actions: list[str] = dataclasses.field(default_factory=list)
    diff: list[dict[str, str]] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    digest: str = ""
    stamp: str = ""  # what Nginx answers that serves this set


# Reading and comparing: nothing here changes anything ---------------------------------------------------------------


def check_names(names: t.Iterable[str]) -> None:
    """Raise HostError for a name that is not a plain path below the live directory."""
    for name in names:
        if not FILE_NAME.fullmatch(name):
            raise HostError(
                f"found the file name {name!r}, expected a relative path of letters, digits, '.', '_' and '-'"
            )


def merge(current: Tree, config: str, files: Tree, absent: t.Iterable[str]) -> tuple[Tree, str]:
    """The files that will be live: what is live without *absent*, with nginx.conf and *files* put over it.

    :return: them, and the name of the set that they bear for :data:`STAMP`. It is the same for the same files,
        whichever of them a run names.
    """
    gone = set(absent)
    kept = {name: text for name, text in current.items() if name not in gone}
    merged = {**kept, **files, CONFIG: config}
    stamp = digest(merged)[:16]
    return {name: text.replace(STAMP, stamp) for name, text in merged.items()}, stamp


def digest(tree: Tree) -> str:
    """A name for exactly these files: 64 hexadecimal digits."""
    summed = hashlib.sha256()
    for name in sorted(tree):
        for part in (name, tree[name]):
            data = part.encode("utf-8", "surrogateescape")
            summed.update(b"%d:%s," % (len(data), data))
    return summed.hexdigest()


def read_tree(directory: Path) -> Tree:
    """Every regular file below *directory*."""
    tree: Tree = {}
    for path in sorted(directory.rglob("*")):
        text = read(path) if path.is_file() else None
        if text is not None:
            tree[path.relative_to(directory).as_posix()] = text
    return tree


def unit_digest(unit: str | None) -> str:
    """A name for the settings of a unit; empty for the distribution's."""
    return "" if unit is None else hashlib.sha256(unit.encode("utf-8", "surrogateescape")).hexdigest()


def look(root: Path, drop_in: Path) -> Disk:
    """Read what is on disk below *root*, which need not exist."""
    live = root / LIVE
    target = os.readlink(live) if live.is_symlink() else None
    config = root / CONFIG
    default = root / DEFAULT_SITE
    points_to = os.readlink(default) if default.is_symlink() else None
    distributions = points_to is not None and points_to.endswith("sites-available/default")
    return Disk(
        tree=read_tree(live) if live.is_dir() else {},
        target=target,
        linked=config.is_symlink() and os.readlink(config) == f"{LIVE}/{CONFIG}",
        config=read(config),
        default_site=points_to if distributions else None,
        unit_linked=drop_in.is_symlink() and os.readlink(drop_in) == str(root / LIVE / UNIT),
    )


def differences(root: Path, disk: Disk, wanted: Tree) -> list[dict[str, str]]:
    """One entry for each file that changes, in the shape that Ansible prints as a diff."""
    before = {f"{LIVE}/{name}": text for name, text in disk.tree.items() if name != CONFIG}
    after = {f"{LIVE}/{name}": text for name, text in wanted.items() if name != CONFIG}
    before[CONFIG] = disk.config or ""
    after[CONFIG] = wanted[CONFIG]
    if disk.default_site:
        before[DEFAULT_SITE] = f"link to {disk.default_site}\n"
    found = []
    for name in sorted(set(before) | set(after)):
        old, new = before.get(name, ""), after.get(name, "")
        if old != new:
            header = str(root / name)
            found.append({"before_header": header, "after_header": header, "before": old, "after": new})
    return found


def for_test(config: str, staged: str) -> str:
    """nginx.conf as it is tested: it includes the staged directory where the real one includes the live one."""
    return config.replace(f"{LIVE}/", f"{OURS}/{staged}/")


def explain(output: str, names: t.Mapping[str, str], lines_around: int = 2) -> str:
    """What ``nginx -t`` printed, with real file names for staged ones, and the lines that it complains about.

    :param names: prefix of a path as Nginx printed it → as the operator knows it.
    """
    output = "\n".join(line for line in output.splitlines() if EXPECTED_WARNING not in line)
    places: list[tuple[str, int]] = []
    for match in re.finditer(r" in (/[^\s:]+):(\d+)", output):
        place = (match.group(1), int(match.group(2)))
        if place not in places:
            places.append(place)

    def known(text: str) -> str:
        for staged, real in names.items():
            text = text.replace(staged, real)
        return text

    # Printed twice, the second time as it is logged, when the error log is open by then.
    said = dict.fromkeys(_plain(line) for line in output.splitlines() if line.strip())
    shown = [known(line) for line in said if not line.startswith(("configuration file ", "the configuration file "))]
    for path, number in places:
        lines = (read(Path(path)) or "").splitlines()
        first = max(number - lines_around, 1)
        if number > len(lines):
            continue
        shown.append(f"{known(path)}:")
        for at in range(first, min(number + lines_around, len(lines)) + 1):
            shown.append(f"{'>' if at == number else ' '} {at:4d} | {lines[at - 1]}")
    return "\n".join(shown)


def warnings_of(output: str) -> list[str]:
    """The warnings among what ``nginx -t`` printed, but for the one that is expected."""
    plain = (_plain(line) for line in output.splitlines() if EXPECTED_WARNING not in line)
    return list(dict.fromkeys(line[len("[warn] ") :] for line in plain if line.startswith("[warn] ")))


def short_queues(tree: Tree, setting: Path = SOMAXCONN) -> list[str]:
    """A warning where listening sockets ask for a longer queue than the kernel gives; it cuts them without a word."""
    asked = [int(found) for text in tree.values() for found in re.findall(r"\bbacklog=(\d+)", text)]
    somaxconn = (read(setting) or "").strip()
    if not somaxconn.isdigit() or max(asked, default=0) <= int(somaxconn):
        return []
    return [
        f"net.core.somaxconn is {somaxconn} on this host, so that no more connections wait to be accepted where"
        f" backlog={max(asked)} is asked for"
    ]


def _plain(line: str) -> str:
    """A message of Nginx's without its name, or time and process id."""
    return re.sub(r"^(?:nginx: |\d\S+ \S+ (?=\[))(\[\w+\] )?(?:[\d#]+: )?", r"\1", line)


def unread(marker: Path, key: str, on_disk: str) -> bool:
    """Whether a run was cut off between making files live and seeing Nginx take them.

    No marker means no: the marker is written before a swap, and forgotten only by a boot, after which Nginx has read
    what is on disk.

    :param key: ``read`` for the files, ``unit`` for the settings of the unit.
    :param on_disk: the digest of what is on disk.
    """
    text = read(marker)
    if text is None:
        return False
    try:
        return bool(json.loads(text).get(key, on_disk) != on_disk)
    except (ValueError, AttributeError):
        return True


def changed_by_hand(root: Path, drop_in: Path = DROP_IN) -> list[str]:
    """Return the places where what Nginx reads is not what was made live; the name of the live directory tells."""
    disk = look(root, drop_in)
    if disk.target is None:
        return []
    found = [] if disk.linked else [str(root / CONFIG)]
    if UNIT in disk.tree and not disk.unit_linked:
        found.append(str(drop_in))
    made = disk.target.removeprefix(TREE_PREFIX).partition("-")[0]
    if not made or not digest(disk.tree).startswith(made):
        found.append(str(root / LIVE))
    return found


# The transaction ----------------------------------------------------------------------------------------------------


def apply(
    root: Path,
    config: str,
    files: Tree,
    absent: t.Sequence[str],
    service: Service,
    *,
    check: bool = False,
    marker: Path = MARKER,
    drop_in: Path = DROP_IN,
    lock_timeout: float = 60,
    step: t.Callable[[str], None] = lambda name: None,
) -> Outcome:
    """Make *config* and *files* what Nginx runs, and Nginx enabled and running; or leave everything as it was.

    :param root: Nginx's configuration directory.
    :param config: the text of nginx.conf; it includes our files as ``asgi/live/…``.
    :param files: text by path relative to the live directory. Files that are live and not named here stay. Two of them
        have a meaning: :data:`UNIT` and :data:`PREPARE`.
    :param absent: paths relative to the live directory that must not be there.
    :param check: only say what would be done; nothing is written, not even a lock.
    :param marker: where to keep what Nginx has read; must not survive a boot.
    :param drop_in: the file in which systemd looks for the unit's settings.
    :param lock_timeout: seconds to wait for another run.
    :param step: called with a name between the steps; tests cut the process off there.
    :raises Refused: Nginx does not take the configuration.
    :raises HostError: anything else that the operator can do something about.
    """
    check_names([*files, *absent])
    if check:
        outcome, disk, __wanted = _plan(root, config, files, absent, service, marker, drop_in)
        if not outcome.changed:
            _test_live(root, disk, service, outcome)
        return outcome
    if not service.installed():
        raise HostError("Nginx is not installed on this host")
    with locked("_nginx", lock_timeout):
        outcome, disk, wanted = _plan(root, config, files, absent, service, marker, drop_in)
        _clear(root)
        if not outcome.files:
            if PREPARE in disk.tree:
                service.prepare(root / LIVE / PREPARE)
            _test_live(root, disk, service, outcome)
            if outcome.actions:
                _converge(service, outcome)
                _mark(marker, outcome.digest, unit_digest(disk.unit))
            if len([*(root / OURS).glob(f"{TREE_PREFIX}*")]) > 2:  # runs that were cut off after their swap left them
                _prune(root, {disk.target})
            return outcome
        _change(root, disk, wanted, service, outcome, marker, drop_in, step)
        return outcome


def _plan(
    root: Path, config: str, files: Tree, absent: t.Sequence[str], service: Service, marker: Path, drop_in: Path
) -> tuple[Outcome, Disk, Tree]:
    disk = look(root, drop_in)
    wanted, stamp = merge(disk.tree, config, files, absent)
    outcome = Outcome(digest=digest(wanted), diff=differences(root, disk, wanted), stamp=stamp)
    outcome.files = [entry["after_header"] for entry in outcome.diff]
    if disk.config == wanted[CONFIG] and not disk.linked:
        outcome.files.append(str(root / CONFIG))
    if disk.unit_linked != (UNIT in wanted):
        outcome.files.append(str(drop_in))
    status = service.status() if service.installed() else Status(active=False, enabled=False, master=0)
    if service.installed() and status.problem:
        raise HostError(status.problem)
    new_unit = disk.unit != wanted.get(UNIT) or unread(marker, "unit", unit_digest(disk.unit))
    if not status.enabled:
        outcome.actions.append("enabled")
    if not status.active:
        outcome.actions.append("started")
    elif new_unit or status.outdated:
        outcome.actions.append("restarted")
    elif outcome.files or unread(marker, "read", outcome.digest):
        outcome.actions.append("reloaded")
    outcome.changed = bool(outcome.files or outcome.actions)
    return outcome, disk, wanted


def _test_live(root: Path, disk: Disk, service: Service, outcome: Outcome) -> None:
    """What is on disk must be good even when nothing of ours changed: else the next start of Nginx is an outage."""
    good, output = service.test(root / CONFIG, disk.unit)
    if not good:
        raise Refused(
            "Nginx would not start again with the configuration on this host; what runs still serves.\n"
            + explain(output, {})
            + _hint(output, disk.unit)
        )
    outcome.warnings = warnings_of(output)


def _converge(service: Service, outcome: Outcome) -> None:
    if "enabled" in outcome.actions:
        service.enable()
    if "started" in outcome.actions:
        service.start()
    if "reloaded" in outcome.actions:
        service.reload()
    if "restarted" in outcome.actions:
        service.restart()
    service.prove(outcome.stamp)


def _change(
    root: Path,
    disk: Disk,
    wanted: Tree,
    service: Service,
    outcome: Outcome,
    marker: Path,
    drop_in: Path,
    step: t.Callable[[str], None],
) -> None:
    (root / OURS).mkdir(mode=0o755, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=STAGE_PREFIX, dir=root / OURS))
    tree: Path | None = None
    swapped = asked = False
    marked = read(marker)
    runs = _running_unit(marked, disk)
    try:
        _write_tree(staged, wanted)
        step("staged")
        # Its default_server is ours. Without it the distribution's own configuration is still complete.
        if disk.default_site:
            (root / DEFAULT_SITE).unlink()
        if PREPARE in wanted:
            service.prepare(staged / PREPARE)
        _test_staged(root, staged, wanted, service, outcome)
        step("tested")
        tree = _free_name(root / OURS, outcome.digest)
        staged.rename(tree)
        sync(root / OURS)
        if not disk.linked and disk.config not in (None, wanted[CONFIG]):
            write(root / REPLACED, disk.config or "")
        step("named")
        _mark(marker, None, runs)
        swapped = True
        _link(root, disk, wanted, drop_in)
        step("linked")
        point(root / LIVE, tree.name)
        if not disk.linked and disk.config is None:
            point(root / CONFIG, f"{LIVE}/{CONFIG}")
        if disk.unit_linked and UNIT not in wanted:
            drop_in.unlink()  # it points to nothing
        step("live")
        asked = True
        _converge(service, outcome)
        step("taken")
    except Exception as error:
        try:
            if swapped:
                _put_back(root, disk, drop_in)
            if disk.default_site and not (root / DEFAULT_SITE).is_symlink():
                os.symlink(disk.default_site, root / DEFAULT_SITE)
            if asked:
                _go_back(service, outcome)
                _mark(marker, digest(disk.tree), unit_digest(disk.unit))
            elif swapped:
                _unmark(marker, marked)
        except (HostError, OSError) as second:
            raise HostError(f"{error}\nPutting back what was there failed too: {second}") from error
        bridges = [path for path in (root / OURS).glob(f"{BRIDGE_PREFIX}*") if path.name != disk.target]
        for leftover in (staged, tree, *bridges):
            if leftover is not None:
                shutil.rmtree(leftover, ignore_errors=True)
        raise
    _mark(marker, outcome.digest, unit_digest(wanted.get(UNIT)))
    step("marked")
    _prune(root, {tree.name, disk.target})


def _running_unit(marked: str | None, disk: Disk) -> str:
    """The digest of the unit's settings that the running Nginx was started with."""
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(marked or "{}").get("unit", unit_digest(disk.unit)))
    return unit_digest(disk.unit)


def _link(root: Path, disk: Disk, wanted: Tree, drop_in: Path) -> None:
    """Have nginx.conf and the unit's drop-in point into the live directory, without a change of what they say.

    So that one rename changes both. Where nginx.conf is not ours yet, the live directory first becomes one that holds
    it as it is; a drop-in that points to nothing is none.
    """
    if not disk.linked and disk.config is not None:
        bridge = Path(tempfile.mkdtemp(prefix=BRIDGE_PREFIX, dir=root / OURS))
        _write_tree(bridge, {**(disk.tree if disk.unit_linked else {}), CONFIG: disk.config})
        point(root / LIVE, bridge.name)
        point(root / CONFIG, f"{LIVE}/{CONFIG}")
    if UNIT in wanted and not disk.unit_linked:
        drop_in.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        point(drop_in, str(root / LIVE / UNIT))


def _go_back(service: Service, outcome: Outcome) -> None:
    """Have Nginx run what was put back."""
    if "reloaded" in outcome.actions:
        service.reload()
    elif "restarted" in outcome.actions:
        service.restart()
    else:
        service.stop()  # it would be tried again and again
        service.load()


def _write_tree(directory: Path, tree: Tree) -> None:
    directory.chmod(0o755)
    for name, text in tree.items():
        path = directory / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write(path, text.encode("utf-8", "surrogateescape"))
    for path in (directory, *(found for found in directory.rglob("*") if found.is_dir())):
        sync(path)


def _test_staged(root: Path, staged: Path, wanted: Tree, service: Service, outcome: Outcome) -> None:
    """Test from a file beside nginx.conf, so that relative includes mean the same files."""
    handle, name = tempfile.mkstemp(prefix=TEST_PREFIX, suffix=".conf", dir=root)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(for_test(wanted[CONFIG], staged.name))
        good, output = service.test(Path(name), wanted.get(UNIT))
        if not good:
            names = {name: str(root / CONFIG), str(staged): str(root / LIVE)}
            raise Refused(
                "Nginx refuses the configuration; nothing was changed, what runs still serves.\n"
                + explain(output, names)
                + _hint(output, wanted.get(UNIT))
            )
        outcome.warnings = [text.replace(str(staged), str(root / LIVE)) for text in warnings_of(output)]
    finally:
        os.unlink(name)


def _hint(output: str, unit: str | None) -> str:
    """A word about the sandbox, where it may be what Nginx complains about."""
    refused = re.search(r"\((?:1|13|30): ", output)  # EPERM, EACCES, EROFS
    return f"\n{SANDBOX_HINT}" if unit is not None and refused else ""


def _free_name(parent: Path, whole: str) -> Path:
    """A directory that isn't there: one with these files may be left over, or have been edited in place."""
    path = parent / f"{TREE_PREFIX}{whole[:16]}"
    number = 1
    while path.exists():
        number += 1
        path = parent / f"{TREE_PREFIX}{whole[:16]}-{number}"
    return path


def _put_back(root: Path, disk: Disk, drop_in: Path) -> None:
    if disk.unit_linked:
        point(drop_in, str(root / LIVE / UNIT))
    else:
        drop_in.unlink(missing_ok=True)
    if not disk.linked:
        if disk.config is not None:
            write(root / CONFIG, disk.config)
        else:
            (root / CONFIG).unlink(missing_ok=True)
    if disk.target is not None:
        point(root / LIVE, disk.target)
    else:
        (root / LIVE).unlink(missing_ok=True)
    sync(root)


def _mark(marker: Path, files: str | None, unit: str) -> None:
    marker.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write(marker, json.dumps({"read": files, "unit": unit}) + "\n")


def _unmark(marker: Path, before: str | None) -> None:
    if before is None:
        marker.unlink(missing_ok=True)
    else:
        write(marker, before)


def _clear(root: Path) -> None:
    """Remove what runs that were killed left half done."""
    for path in root.glob(f"{TEST_PREFIX}*.conf"):
        path.unlink(missing_ok=True)
    for path in (root / OURS).glob(f"{STAGE_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def _prune(root: Path, keep: set[str | None]) -> None:
    for path in (root / OURS).glob(f"{TREE_PREFIX}*"):
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


# The real Nginx -----------------------------------------------------------------------------------------------------

#: A moment: the size of the error log in bytes, and the time in seconds since the epoch.
Moment = tuple[int, float]


def _ask(place: Path, path: str) -> str:
    """The body of what is answered on a unix socket; what went wrong, where nothing is."""
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(2)
            asked.connect(str(place))
            asked.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            with asked.makefile("rb") as answer:
                return answer.read().partition(b"\r\n\r\n")[2].decode("utf-8", "replace").strip()
    except OSError as error:
        return str(error)


def as_tested(unit: str, config: Path, output: Path) -> str:
    """A unit that has Nginx test *config* as *unit* would run it, and leaves what it says in *output*."""
    starts = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("ExecStart=")]
    command = ([start for start in starts if start] or [BINARY])[-1]
    return unit + TEST_SETTINGS.format(command=f"{command} -t -c {config}", output=output)


class Systemd:
    """Nginx as a systemd service, its processes seen through /proc."""

    def __init__(
        self,
        timeout: float = 30,
        error_log: Path = ERROR_LOG,
        proc: Path = Path("/proc"),
        test_units: Path = TEST_UNITS,
        proof: Path | None = None,
    ) -> None:
        """:param timeout: seconds that a reload may take until a new worker process exists.
        :param proof: a unix socket on which Nginx answers ``/configuration`` with the name of the set that it serves.
        """
        self.timeout = timeout
        self.proof = proof
        self.error_log = error_log
        self.proc = proc
        self.test_units = test_units

    def installed(self) -> bool:
        return os.path.exists(BINARY)

    def prepare(self, script: Path) -> None:
        done = run(["/bin/sh", str(script)])
        if done.returncode:
            raise HostError(f"what Nginx needs cannot be prepared ({script}): {done.stderr.strip()}")

    def test(self, config: Path, unit: str | None) -> tuple[bool, str]:
        """Have Nginx test *config* as its unit would run it; return whether it is good, and what it said."""
        if unit is None:
            done = run([BINARY, "-t", "-c", str(config)])
            return done.returncode == 0, done.stderr + done.stdout
        # A file and not systemd-run: that one does not know all that a unit file may say.
        path = self.test_units / f"{TEST_UNIT}{os.getpid()}.service"
        output = self.test_units / f"{path.name}.output"
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.clear()
        try:
            write(path, as_tested(unit, config, output))
            done = systemctl("start", path.name)
            said = read(output) or ""
            if done.returncode and not said:
                said = "\n".join(["the unit's settings cannot be had on this host", *self._journal(path.name)])
            return done.returncode == 0, said
        finally:
            path.unlink(missing_ok=True)
            output.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what tests left that were killed."""
        for path in self.test_units.glob(f"*{TEST_UNIT}*"):
            number = re.search(rf"{TEST_UNIT}(\d+)", path.name)
            if number and not (self.proc / number.group(1)).exists():
                path.unlink(missing_ok=True)

    def status(self) -> Status:
        done = systemctl("show", "--property=LoadState,ActiveState,UnitFileState,MainPID", SERVICE)
        fields = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        problem = None
        if done.returncode:
            problem = f"systemd does not answer: {done.stderr.strip()}"
        elif fields.get("LoadState") != "loaded":
            problem = (
                f"{SERVICE} is {fields.get('LoadState', 'unknown to systemd')}, expected a unit that can be started"
            )
        master = int(fields.get("MainPID") or 0)
        return Status(
            active=fields.get("ActiveState") in ("active", "reloading"),
            enabled=fields.get("UnitFileState") in ("enabled", "static"),
            master=master,
            outdated=master > 0 and self.is_replaced(master),
            problem=problem,
        )

    def enable(self) -> None:
        done = systemctl("enable", SERVICE)
        if done.returncode:
            raise HostError(f"{SERVICE} cannot be enabled: {done.stderr.strip()}")

    def stop(self) -> None:
        systemctl("stop", SERVICE)
        systemctl("reset-failed", SERVICE)

    def load(self) -> None:
        done = systemctl("daemon-reload")
        if done.returncode:
            raise HostError(f"systemd does not read its units: {done.stderr.strip()}")

    def start(self) -> None:
        self._start("start")

    def restart(self) -> None:
        """Restart as one job of the service manager's, which goes on when this process is killed."""
        self._start("restart")

    def _start(self, verb: str) -> None:
        moment = self._now()
        self.load()
        systemctl("reset-failed", SERVICE)  # earlier failures must not count against this start
        done = systemctl(verb, SERVICE)
        if done.returncode:
            said = self._said(moment) or systemctl("status", "--lines=10", SERVICE).stdout.strip().splitlines()
            raise Refused("\n".join(["Nginx does not start; what was there was put back.", *said]))

    def reload(self) -> None:
        """Reload, and return when a worker process exists that did not exist before.

        The master process starts new workers only after it has taken the whole configuration, listening sockets
        included; when it cannot, it goes on with the old ones and says so in its log only.
        """
        master = self.status().master
        before = self.workers(master)
        moment = self._now()
        done = systemctl("reload", SERVICE)
        if done.returncode:
            said = self._said(moment) or [done.stderr.strip()]
            raise Refused("\n".join(["Nginx does not reload; what was there was put back.", *said]))
        until = time.monotonic() + self.timeout
        look_again = 0.0
        said = []
        while time.monotonic() < until:
            if self.workers(master) - before:
                return
            # A port in use is tried again for a while; after anything else the master process has given up.
            said = self._complaints(moment)
            if not said and time.monotonic() >= look_again:
                said = self._journal(SERVICE, moment)
                look_again = time.monotonic() + 1
            if any("] bind() to" not in line for line in said):
                break
            time.sleep(0.02)
        said = self._said(moment) or [f"no new worker process within {self.timeout:g} s"]
        raise Refused("\n".join(["Nginx did not take the configuration; what was there was put back.", *said]))

    def prove(self, stamp: str) -> None:
        """Return when Nginx serves the configuration that it took; old worker processes may answer for a moment."""
        if self.proof is None:
            return
        until = time.monotonic() + self.timeout
        while True:
            found = _ask(self.proof, "/configuration")
            if found == stamp:
                return
            if time.monotonic() >= until:
                raise Refused(
                    "Nginx took the configuration but does not serve it; what was there was put back.\n"
                    f"{self.proof} answers {found!r} within {self.timeout:g} s, expected {stamp!r}"
                )
            time.sleep(0.02)

    def workers(self, master: int) -> set[tuple[int, str]]:
        """Process id and start time of each worker of *master* that takes connections."""
        found = set()
        for entry in self.proc.iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                # proc(5): pid (command) state ppid …, the start time is the 22nd field; a command may hold spaces.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[1]) != master:
                    continue
                title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").strip()
                if title == b"nginx: worker process":
                    found.add((int(entry.name), fields[19]))
        return found

    def is_replaced(self, pid: int) -> bool:
        """Whether the program that a process runs was replaced."""
        try:
            return os.readlink(self.proc / str(pid) / "exe").endswith(" (deleted)")
        except OSError:
            return False

    def _now(self) -> Moment:
        try:
            return self.error_log.stat().st_size, time.time()
        except OSError:
            return 0, time.time()

    def _said(self, since: Moment) -> list[str]:
        return self._complaints(since) or self._journal(SERVICE, since)

    def _complaints(self, since: Moment) -> list[str]:
        """What Nginx logged since then that kept it from taking a configuration, each line once."""
        try:
            with self.error_log.open("rb") as log:
                log.seek(since[0])
                lines = log.read(64 * 1024).decode("utf-8", "replace").splitlines()
        except OSError:
            return []
        return list(dict.fromkeys(_plain(line) for line in lines if "[emerg]" in line))

    def _journal(self, unit: str, since: Moment | None = None) -> list[str]:
        """What the journal holds of a unit that kept it from starting, each line once."""
        run(["journalctl", "--sync"])
        bound = [f"--since=@{int(since[1])}"] if since else ["--boot"]
        command = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--lines=200", f"--unit={unit}", *bound]
        lines = run(command).stdout.splitlines()
        told = [line for line in lines if "[emerg]" in line or (unit != SERVICE and "Failed" in line)]
        return list(dict.fromkeys(_plain(line) for line in told))
