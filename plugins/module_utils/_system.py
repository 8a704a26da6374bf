# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules do to a host: run a command, write a file, hold a lock. Standard library only, Python 3.9."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import time
import typing as t
from pathlib import Path

#: Locks of running modules; on a tmpfs, so that a boot forgets them.
LOCKS = Path("/run/asgi")
#: File descriptors of the locks that this process holds. What it starts holds them too: when it is killed, the next
#: run waits for what it left running instead of working beside it.
_held: list[int] = []


class HostError(Exception):
    """Something on the host is not as it must be; the message is for the operator."""


def run(
    command: t.Sequence[str],
    *,
    user: str | None = None,
    environment: t.Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run *command* without standard input and return it with its output; a failure is the caller's to judge.

    :param user: run as this user, with its own group and no other.
    :param environment: the whole environment; by default a small one, in English.
    :param timeout: seconds.
    :raises HostError: it cannot be run, or took longer than *timeout*.
    """
    whole = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    whole.update(environment or {})
    identity: dict[str, t.Any] = {}
    if user is not None:
        entry = pwd.getpwnam(user)
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "umask": 0o022}
    try:
        # The module's own run_command knows neither another user nor a bound on time.
        with subprocess.Popen(  # pylint: disable=ansible-bad-function
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=whole,
            cwd=cwd or "/",
            start_new_session=True,
            pass_fds=_held,
            **identity,
        ) as process:
            try:
                said = process.communicate(timeout=timeout)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
    except subprocess.TimeoutExpired:
        raise HostError(f"{command[0]}: did not finish within {timeout:g} s") from None
    except OSError as error:
        raise HostError(f"{command[0]}: {error.strerror}") from None
    return subprocess.CompletedProcess(list(command), process.returncode, *said)


def systemctl(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run systemctl; see :func:`run`."""
    return run(["systemctl", "--no-pager", "--no-ask-password", *arguments], timeout=timeout)


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write *content* to *path* with *mode*, atomically and durably: after a crash there is the old file or the new.

    The caller holds a lock. The temporary name is always the same, so that the next run replaces what a cut off one
    left.
    """
    data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def point(link: Path, target: str) -> None:
    """Make *link* a symbolic link to *target* with one rename(2): who looks sees the old target or the new.

    The caller holds a lock; see :func:`write`.
    """
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    os.symlink(target, temporary)
    os.replace(temporary, link)
    sync(link.parent)


def sync(directory: Path) -> None:
    """Make the names in *directory* durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> str | None:
    """Return the text of *path*, or None where there is no such file.

    A process may end between the opening of its file in proc(5) and the reading; then there is none any more.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return None


def remove(path: Path) -> bool:
    """Remove a file, a link or a whole directory; return whether there was one.

    A directory first loses its name, so that a half removed one is never taken for a whole one; one that a run that
    was cut off did not get to the end of is removed as well.
    """
    if path.is_symlink() or path.is_file() or path.is_socket():
        path.unlink()
        return True
    gone = path if path.name.startswith(".") else path.with_name(f".{path.name}.gone")
    found = gone.exists()
    if found:
        shutil.rmtree(gone)
    if path != gone and path.exists():
        found = True
        try:
            path.rename(gone)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            for below in path.iterdir():  # a file system is mounted here, and stays
                remove(below)
        else:
            shutil.rmtree(gone)
    return found


def is_there(path: Path) -> bool:
    """Return whether :func:`remove` would find something."""
    return path.is_symlink() or path.exists() or path.with_name(f".{path.name}.gone").exists()


@contextlib.contextmanager
def locked(name: str, timeout: float) -> t.Iterator[Path]:
    """Hold the lock *name* and yield its file. It belongs to this process and to what it starts, and ends with them.

    While it is held, what is made is readable for all, whatever umask the host sets for its administrators.

    :param timeout: seconds to wait for another holder.
    :raises HostError: another process still holds it.
    """
    LOCKS.mkdir(mode=0o755, parents=True, exist_ok=True)
    path = LOCKS / f"{name}.lock"
    until = time.monotonic() + timeout
    while True:
        with path.open("a+") as lock:
            if _try_lock(lock.fileno(), path):
                umask = os.umask(0o022)
                _held.append(lock.fileno())
                try:
                    yield path
                finally:
                    _held.remove(lock.fileno())
                    os.umask(umask)
                return
        if time.monotonic() >= until:
            raise HostError(f"another run is working on {name} (it holds {path}), and did not end in {timeout:g} s")
        time.sleep(0.2)


def _try_lock(descriptor: int, path: Path) -> bool:
    """Return whether the lock was free, and the file still is the one that others look at."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise


def ensure_user(name: str, home: str, check: bool = False) -> bool:
    """Have a locked system user *name* with a group of its own; return whether that was a change.

    :raises HostError: there is such a user, and it is not ours (another home), or it cannot be made.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        if not check:
            done = run(
                ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", home]
                + ["--shell", "/usr/sbin/nologin", "--comment", "asgi.stack", name]
            )
            if done.returncode:
                raise HostError(f"the user {name} cannot be made: {done.stderr.strip()}") from None
        return True
    if entry.pw_dir != home or entry.pw_uid == 0:
        raise HostError(f"the user {name} is on the host already, with the home {entry.pw_dir}; expected {home}")
    return False


def explain(error: OSError) -> str:
    """Return *error* in words, with the file it is about."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}"
    return f"{error.strerror or error}{where}"
