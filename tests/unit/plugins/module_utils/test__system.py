# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules do to a host: commands, files, links and locks, on a real file system with real processes."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
import types
import typing as t
from pathlib import Path, PosixPath

import pytest

from ansible_collections.asgi.stack.plugins.module_utils import _system
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def wait_for(condition: t.Callable[[], t.Any], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


# --- commands --------------------------------------------------------------------------------------------------------


def test_a_failure_is_the_callers_to_judge() -> None:
    done = _system.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_a_small_environment_and_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPERATORS_OWN", "x")
    done = _system.run(["sh", "-c", "cat; pwd; env"], environment={"GIVEN": "y"})
    assert "OPERATORS_OWN" not in done.stdout
    assert "GIVEN=y\n" in done.stdout
    assert "LC_ALL=C.UTF-8\n" in done.stdout
    assert done.stdout.startswith("/\n")


def test_output_that_is_no_text() -> None:
    assert _system.run(["printf", r"a\377b"]).stdout == "a\N{REPLACEMENT CHARACTER}b"


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(HostError, match="^/nowhere/uv: No such file or directory$"):
        _system.run(["/nowhere/uv", "pip"])


def test_a_command_that_takes_too_long() -> None:
    with pytest.raises(HostError, match="^sleep: did not finish within 0.1 s$"):
        _system.run(["sleep", "60"], timeout=0.1)


def test_what_a_command_started_ends_with_it(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        _system.run(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"], timeout=0.3)
    pid = int((tmp_path / "pid").read_text())
    try:
        wait_for(lambda: not _runs(pid), 1)
    finally:
        if _runs(pid):
            os.kill(pid, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_as_another_user() -> None:
    done = _system.run(["sh", "-c", "id -un; id -G; umask"], user="nobody")
    assert done.stdout.split() == ["nobody", str(pwd.getpwnam("nobody").pw_gid), "0022"]


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_a_file_has_its_mode(tmp_path: Path, mode: int) -> None:
    umask = os.umask(0o077)
    try:
        _system.write(tmp_path / "file", "text", mode)
    finally:
        os.umask(umask)
    assert (tmp_path / "file").stat().st_mode & 0o7777 == mode
    assert (tmp_path / "file").read_bytes() == b"text"


def test_who_reads_the_old_file_reads_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        _system.write(path, b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*arguments: t.Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        _system.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_reading(tmp_path: Path) -> None:
    assert _system.read(tmp_path / "nothing") is None
    (tmp_path / "file").write_bytes(b"caf\xc3\xa9 \xff\n")
    assert _system.read(tmp_path / "file") == "caf\N{LATIN SMALL LETTER E WITH ACUTE} \udcff\n"
    assert _system.read(tmp_path / "file/below") is None


@pytest.mark.parametrize("text", ["a\r\nb", "a\rb"])
def test_what_was_written_is_read(tmp_path: Path, text: str) -> None:
    _system.write(tmp_path / "file", text)
    assert _system.read(tmp_path / "file") == text


def test_removing(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "folder/deep").mkdir(parents=True)
    for name in ("link", "dangling", "folder"):
        assert _system.remove(tmp_path / name) is True
    assert _system.remove(tmp_path / "nothing") is False
    assert names(tmp_path) == ["kept"]
    assert names(tmp_path / "kept") == ["file"]


def test_a_half_removed_directory_has_lost_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"
    (path / "deep").mkdir(parents=True)

    def killed(*arguments: t.Any, **more: t.Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", killed)
        with pytest.raises(KeyboardInterrupt):
            _system.remove(path)
    assert not path.exists()
    path.mkdir()
    assert _system.remove(path) is True
    assert names(tmp_path) == []


# --- links -----------------------------------------------------------------------------------------------------------


def test_a_pointer_swaps(tmp_path: Path) -> None:
    link = tmp_path / "live"
    for target in ("releases/0001-a", "releases/0002-b", "releases/0002-b"):
        _system.point(link, target)
        assert os.readlink(link) == target
    assert names(tmp_path) == ["live"]


def test_what_an_interrupted_run_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".live.new").symlink_to("old")
    _system.point(tmp_path / "live", "new")
    assert os.readlink(tmp_path / "live") == "new"
    assert names(tmp_path) == ["live"]


def test_a_pointer_is_never_away(tmp_path: Path) -> None:
    link = tmp_path / "live"
    _system.point(link, "a")
    seen: list[str] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                seen.append(os.readlink(link))
            except OSError as error:
                seen.append(repr(error))

    looker = threading.Thread(target=look)
    looker.start()
    for target in ("b", "a") * 50:
        _system.point(link, target)
    stop.set()
    looker.join()
    assert set(seen) <= {"a", "b"}


# --- locks -----------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from ansible_collections.asgi.stack.plugins.module_utils import _system
_system.LOCKS = Path(sys.argv[1])
with _system.locked("shop", 5):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_system, "LOCKS", tmp_path / "locks")
    return tmp_path / "locks"


@pytest.fixture
def holder(locks: Path) -> t.Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock shop."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(locks)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_lock_is_released(locks: Path) -> None:
    for __ in range(2):
        with _system.locked("shop", 0):
            pass


def test_a_lock_is_released_after_an_error(locks: Path) -> None:
    with pytest.raises(ZeroDivisionError), _system.locked("shop", 0):
        raise ZeroDivisionError
    with _system.locked("shop", 0):
        pass


def test_the_second_run_fails_after_the_bound(holder: subprocess.Popen[str], locks: Path) -> None:
    started = time.monotonic()
    with pytest.raises(HostError) as error, _system.locked("shop", 0.5):
        pytest.fail("two runs hold one lock")
    assert 0.5 <= time.monotonic() - started < 5
    assert str(error.value) == (
        f"another run is working on shop (it holds {locks}/shop.lock), and did not end in 0.5 s"
    )


def test_applications_do_not_wait_for_each_other(holder: subprocess.Popen[str]) -> None:
    with _system.locked("blog", 0):
        pass


def test_a_lock_is_held_by_what_its_process_left_running(locks: Path, tmp_path: Path) -> None:
    with _system.locked("shop", 0):
        _system.run(["sh", "-c", f"sleep 60 >/dev/null 2>&1 & echo $! > {tmp_path}/pid"])
    pid = int((tmp_path / "pid").read_text())
    try:
        with pytest.raises(HostError, match="another run is working on shop"), _system.locked("shop", 0):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
    with _system.locked("shop", 10):
        pass


@pytest.mark.parametrize("again", [False, True])
def test_a_lock_that_was_removed_is_none(locks: Path, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    """Between opening and locking, the one who removes the application removes the file."""
    flock = fcntl.flock
    removed: list[Path] = []

    def remove_first(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append((locks / "shop.lock").rename(locks / "removed"))
            if again:
                (locks / "shop.lock").touch()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with _system.locked("shop", 5), pytest.raises(HostError), _system.locked("shop", 0):
        pytest.fail("two runs hold one lock")


def test_what_is_made_under_a_lock_is_readable_for_all(locks: Path, tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        with _system.locked("shop", 0):
            (tmp_path / "folder").mkdir()
    finally:
        assert os.umask(umask) == 0o077
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755


def test_a_lock_ends_with_its_process(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    with _system.locked("shop", 10):
        assert holder.wait(10) == -signal.SIGKILL


# --- users -----------------------------------------------------------------------------------------------------------


def _know(monkeypatch: pytest.MonkeyPatch, home: str | None, uid: int = 990) -> list[list[str]]:
    """Have a host whose user asgi-shop has *home*, or that has none; return the commands that will be run there."""
    commands: list[list[str]] = []

    def getpwnam(name: str) -> t.Any:
        if home is None:
            raise KeyError(name)
        return types.SimpleNamespace(pw_dir=home, pw_uid=uid)

    def run(command: t.Sequence[str], **more: t.Any) -> t.Any:
        commands.append(list(command))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pwd, "getpwnam", getpwnam)
    monkeypatch.setattr(_system, "run", run)
    return commands


def test_a_user_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = _know(monkeypatch, None)
    assert _system.ensure_user("asgi-shop", "/var/lib/asgi/shop") is True
    assert len(commands) == 1
    assert (commands[0][0], commands[0][-1]) == ("useradd", "asgi-shop")
    assert commands[0][commands[0].index("--home-dir") + 1] == "/var/lib/asgi/shop"


def test_a_user_is_only_announced_in_check_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = _know(monkeypatch, None)
    assert _system.ensure_user("asgi-shop", "/var/lib/asgi/shop", check=True) is True
    assert commands == []


def test_our_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = _know(monkeypatch, "/var/lib/asgi/shop")
    assert _system.ensure_user("asgi-shop", "/var/lib/asgi/shop") is False
    assert commands == []


@pytest.mark.parametrize(("home", "uid"), [("/home/shop", 990), ("/var/lib/asgi/shop", 0)])
def test_somebody_elses_user_is_not_taken(monkeypatch: pytest.MonkeyPatch, home: str, uid: int) -> None:
    _know(monkeypatch, home, uid)
    with pytest.raises(HostError, match="the user asgi-shop is on the host already"):
        _system.ensure_user("asgi-shop", "/var/lib/asgi/shop")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/srv/x"), "the disk is full (/srv/x)"),
        (OSError(errno.EACCES, "Permission denied", "/srv/x"), "Permission denied (/srv/x)"),
        (OSError("strange"), "strange"),
    ],
)
def test_errors_in_words(error: OSError, words: str) -> None:
    assert _system.explain(error) == words


def test_a_process_that_ends_while_it_is_read_is_as_one_that_is_not_there() -> None:
    child = subprocess.Popen(["sleep", "60"])
    path = Path(f"/proc/{child.pid}/cgroup")

    class Late(PosixPath):
        def open(self, *args: t.Any, **kwargs: t.Any) -> t.Any:
            file = super().open(*args, **kwargs)
            child.kill()
            child.wait()
            return file

    assert _system.read(path)
    assert _system.read(Late(path)) is None
