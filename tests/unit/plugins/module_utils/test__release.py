# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases on a host: a real file system and real sockets, and a systemd that only remembers what it was told."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import itertools
import json
import os
import socket
import string
import subprocess
import tempfile
import threading
import time
import typing as t
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.asgi.stack.plugins.module_utils import _memory, _release, _system
from ansible_collections.asgi.stack.plugins.module_utils._release import Health, Request, Settings
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError

HEALTH = Health(path="/healthz", host="shop.example.com", scheme="https")


def request(root: Path, **more: t.Any) -> Request:
    """A wanted release of the application shop."""
    values: dict[str, t.Any] = {
        "name": "shop",
        "root": root,
        "user": "asgi-shop",
        "id": "aaaa",
        "build": "b1",
        "info": {"app": "main:app", "revision": "v1"},
        "service": "[Service]\n",
        "socket": "[Socket]\n",
        "boot": "[Unit]\n",
        "override": "[Service]\n",
        "files": {"gunicorn.conf.py": "workers = 2\n"},
        "binds": False,
        "front": {},
        "environment": {"LOG_LEVEL": "info"},
        "secrets": {"TOKEN": "hunter2-canary"},
        "migrate": (),
        "settings": Settings(health=HEALTH),
    }
    return Request(**{**values, **more})


class Host:
    """A host with the application shop. Its systemd starts and stops what it is told, and does nothing else."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "srv/shop"
        self.builds = self.root / "builds"
        self.active: set[str] = set()
        self.enabled: set[str] = set()
        self.loaded: dict[Path, str] = {}  # unit files, as they were when systemd read them
        self.asked: list[tuple[str, ...]] = []
        self.unhealthy: str | None = None  # why no new release becomes healthy
        self.steps = 0  # taken so far
        self.last_step: int | None = None  # before the one after it the run is killed
        self.health: Health | None = None  # that was asked for last
        self.journal = ""
        (self.builds / "half").mkdir(parents=True)

    def build(self, address: str) -> None:
        (self.builds / address).mkdir(exist_ok=True)
        (self.builds / address / "build.json").write_text("{}")

    def systemctl(self, *arguments: str, timeout: float = 0) -> subprocess.CompletedProcess[str]:
        self.asked.append(arguments)
        verb, *rest = arguments
        units = [unit for unit in rest if not unit.startswith("-")]
        if verb == "show":
            unit = units[-1]
            state = "active" if unit in self.active else "inactive"
            enabled = "enabled" if unit in self.enabled else "disabled"
            reload = "no" if self.is_loaded(unit) else "yes"
            shown = f"ActiveState={state}\nUnitFileState={enabled}\nNeedDaemonReload={reload}\n"
            return self.said(shown + "NRestarts=0\nMainPID=0\n")
        if verb == "list-units":
            found = sorted(unit for unit in self.active if unit.startswith("asgi-shop@"))
            return self.said("".join(f"{unit} loaded active running A release\n" for unit in found))
        if verb == "daemon-reload":
            self.loaded = self.unit_files("*")
        if verb == "start":
            assert all(map(self.is_loaded, units)), f"{units} started, and systemd has not read the files"
        if verb == "enable":
            self.enabled |= set(units)
        if verb == "start" or "--now" in rest:
            self.active |= set(units)
        elif verb == "stop":
            self.active -= set(units)
        return self.said("")

    @staticmethod
    def unit_files(glob: str) -> dict[Path, str]:
        return {path: path.read_text() for path in _release.UNITS.rglob(glob) if path.is_file()}

    def is_loaded(self, unit: str) -> bool:
        """Whether systemd knows the files of an instance as they are."""
        template, __, instance = unit.rpartition(".")[0].partition("@")
        own = _release.UNITS / f"{template}@{instance}.service.d"
        files = {path: text for path, text in self.unit_files("*").items() if path.parent in (_release.UNITS, own)}
        return all(self.loaded.get(path) == text for path, text in files.items())

    def run(self, command: t.Sequence[str], **_more: t.Any) -> subprocess.CompletedProcess[str]:
        self.asked.append(tuple(command))
        if command[0] == "systemd-run":
            self.active |= {part.partition("=")[2] for part in command if part.startswith("--unit=")}
        return self.said(self.journal if command[0] == "journalctl" else "")

    def step(self, act: t.Callable[..., t.Any]) -> t.Callable[..., t.Any]:
        """Return *act*, which is a step at which a run may be killed; who is killed takes no further step."""

        def one(*arguments: t.Any, **more: t.Any) -> t.Any:
            if self.last_step is not None and self.steps >= self.last_step:
                raise Killed
            self.steps += 1
            return act(*arguments, **more)

        return one

    @contextlib.contextmanager
    def killed_after(self, steps: int) -> t.Iterator[None]:
        """What is done within is killed after so many steps."""
        self.steps, self.last_step = 0, steps
        with contextlib.suppress(Killed):
            yield
        self.last_step = None

    @staticmethod
    def said(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, text, "")

    def await_health(self, service: str, path: Path, health: Health) -> str | None:
        self.health = health
        return self.unhealthy

    def request(self, **more: t.Any) -> Request:
        return request(self.root, **more)

    def deploy(self, **more: t.Any) -> _release.Outcome:
        """Build and deploy."""
        request = self.request(**more)
        self.build(request.build)
        return _release.deploy(request)

    def live(self) -> str | None:
        found = _release.live(self.root)
        return found.instance if found else None

    def states(self) -> dict[str, str]:
        return {release.instance: release.state["state"] for release in _release.releases(self.root)}

    def runs(self) -> set[str]:
        return _release.running("shop")

    def draining(self) -> set[str]:
        found = [unit.partition(".drain-shop-")[2] for unit in self.active if unit.startswith("asgi.drain-")]
        return {unit.partition(".")[0] for unit in found}

    def drain(self) -> None:
        """Have all draining releases end."""
        for instance in self.draining():
            self.active -= {unit for unit in self.active if instance in unit}

    def tree(self) -> set[str]:
        """All names on the host, with what is in the files."""
        found = set()
        for path in self.root.parent.parent.rglob("*"):
            text = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
            found.add(f"{path}: {text}")
        return found


class Killed(BaseException):
    """The run was killed."""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(_system, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(_system, "systemctl", made.step(made.systemctl))
    monkeypatch.setattr(_system, "run", made.step(made.run))
    for name in ("mkdir", "rename", "replace", "rmdir", "symlink", "unlink"):
        monkeypatch.setattr(os, name, made.step(getattr(os, name)))
    monkeypatch.setattr(_system, "ensure_user", lambda name, home, check=False: False)
    for name in ("UNITS", "TMPFILES", "RUN"):
        monkeypatch.setattr(_release, name, tmp_path / name.lower())
        (tmp_path / name.lower()).mkdir()
    monkeypatch.setattr(_release, "_await_health", made.await_health)
    return made


# --- environment files -----------------------------------------------------------------------------------------------

NAMES = st.text(string.ascii_uppercase + "_", min_size=1, max_size=3)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
TRICKY = st.text("\"\\$`'\n =;#aé\t")


def parse_environment_file(text: str) -> dict[str, str]:
    """Read what systemd would, of the part of its syntax that is used: NAME="value".

    Inside double quotes a backslash escapes one of "\\`$, is dropped with a newline, and stands for itself before all
    else (parse_env_file_internal in systemd's src/basic/env-file.c).
    """
    found: dict[str, str] = {}
    rest = iter(text)
    while True:
        name = "".join(iter(lambda: next(rest, "="), "="))
        if not name:
            return found
        assert next(rest) == '"'
        value = ""
        while (character := next(rest)) != '"':
            if character == "\\":
                escaped = next(rest)
                character = escaped if escaped in '"\\`$' else "" if escaped == "\n" else "\\" + escaped
            value += character
        assert next(rest) == "\n"
        found[name] = value


@given(st.dictionaries(NAMES, TEXT | TRICKY, max_size=4))
@example({"A": '$HOME `id` "x" \\', "B": "two\nlines\\\n", "C": ""})
def test_an_environment_file_holds_the_values(values: dict[str, str]) -> None:
    text = _release._environment_file(values)
    assert parse_environment_file(text) == values
    assert "".join(text.splitlines(keepends=True)) == text


def test_an_environment_file_has_one_order() -> None:
    assert _release._environment_file({"B": "2", "A": "1"}) == 'A="1"\nB="2"\n'


@given(st.dictionaries(NAMES, TRICKY, max_size=4))
def test_secrets_are_known_again_to_hide_them(values: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "secrets").write_text(_release._environment_file(values))
        found = _release._secret_values(_release.Release("0001-a", Path(folder), {}))
    assert sorted(found) == sorted(values.values())


@pytest.mark.parametrize(
    ("line", "secrets"),
    [
        ("cannot connect to postgres://shop:hunter2@db/", ["hunter2"]),
        ("key: hunter2-first", ["hunter2-first\nhunter2-second\n"]),
        ("password hunter2-long", ["pass", "hunt", "hunter2-long"]),
    ],
)
def test_secrets_are_hidden_in_the_journal(line: str, secrets: list[str]) -> None:
    found = _release._redact(line, secrets)
    assert not any(word in found for word in ("hunter2", "long", "er2"))
    assert "****" in found


def test_short_secrets_do_not_make_the_journal_unreadable() -> None:
    assert _release._redact("a b c", ["a", "", "b c"]) == "a b c"


# --- releases on the disk --------------------------------------------------------------------------------------------


def put(host: Host, instance: str, build: str = "b1", **state: str) -> None:
    """Have a release on the host, and its build."""
    host.build(build)
    path = host.root / "releases" / instance
    path.mkdir(parents=True)
    settings = dataclasses.asdict(Settings(health=HEALTH))
    info = {"name": "shop", "id": instance.partition("-")[2], "build": build, "digest": instance, "settings": settings}
    (path / "release.json").write_text(json.dumps(info))
    if state:
        (path / "state.json").write_text(json.dumps(state))


def test_releases_are_in_the_order_of_their_generations(host: Host) -> None:
    for age, instance in enumerate(["10000-a", "0010-b", "0009-c", "9999-d"]):
        put(host, instance)
        os.utime(host.root / "releases" / instance, (age, age))
    found = [release.instance for release in _release.releases(host.root)]
    assert found == ["0009-c", "0010-b", "9999-d", "10000-a"]


def test_what_is_no_release_is_none(host: Host) -> None:
    put(host, "0001-a")
    (host.root / "releases/.0002-b").mkdir()
    (host.root / "releases/0003-c").mkdir()
    (host.root / "releases/lost+found").mkdir()
    assert [release.instance for release in _release.releases(host.root)] == ["0001-a"]
    assert _release.releases(host.root / "nothing") == []


def test_live(host: Host) -> None:
    assert host.live() is None
    put(host, "0001-a")
    put(host, "0002-b")
    _system.point(host.root / "live", "releases/0001-a")
    assert host.live() == "0001-a"
    _system.point(host.root / "live", "releases/0003-gone")
    assert host.live() is None


def test_a_staged_release(host: Host) -> None:
    host.build("b1")
    new = _release._stage(host.request())
    assert new.instance == "0001-aaaa"
    assert new.path == host.root / "releases/0001-aaaa"
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in new.path.iterdir() if not path.is_symlink()}
    assert modes == {
        "environment": "0o600",
        "gunicorn.conf.py": "0o644",
        "override.conf": "0o644",
        "release.json": "0o600",
        "secrets": "0o600",
    }
    assert (new.path / "secrets").read_text() == 'TOKEN="hunter2-canary"\n'
    assert (new.path / "build").resolve() == host.builds / "b1"
    assert os.readlink(new.path / "app.sock") == str(_release.RUN / "shop/0001-aaaa.sock")
    assert "hunter2" not in (new.path / "release.json").read_text()
    assert _release.releases(host.root) == [_release.Release(new.instance, new.path, json.loads(json.dumps(new.info)))]


def test_the_application_can_enter_its_release_under_any_umask(host: Host) -> None:
    umask = os.umask(0o077)
    try:
        host.deploy()
    finally:
        assert os.umask(umask) == 0o077
    path = host.root / "releases/0001-aaaa"
    assert [oct(folder.stat().st_mode & 0o777) for folder in (path, path.parent)] == ["0o755", "0o755"]


def test_a_release_appears_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.build("b1")
    seen = []
    write = _system.write

    def watch(path: Path, content: str, mode: int = 0o644) -> None:
        write(path, content, mode)
        seen.append(_release.releases(host.root))

    monkeypatch.setattr(_system, "write", watch)
    _release._stage(host.request())
    assert len(seen) >= 4
    assert not any(seen)
    assert len(_release.releases(host.root)) == 1


def test_staging_after_one_that_was_cut_off(host: Host) -> None:
    host.build("b1")
    put(host, "0009-a")
    half = host.root / "releases/.0010-aaaa"
    half.mkdir()
    (half / "secrets").write_text("half")
    new = _release._stage(host.request())
    assert new.instance == "0010-aaaa"
    assert sorted(path.name for path in (host.root / "releases").iterdir()) == ["0009-a", "0010-aaaa"]


@pytest.mark.parametrize("build", ["half", "nothing"])
def test_no_release_without_its_build(host: Host, build: str) -> None:
    with pytest.raises(HostError, match=f"^shop: there is no build {build} on the host$"):
        _release.deploy(host.request(build=build))
    assert _release.releases(host.root) == []


@pytest.mark.parametrize(
    "more",
    [
        {"build": "b2"},
        {"id": "bbbb"},
        {"service": "x"},
        {"override": "x"},
        {"files": {}},
        {"environment": {}},
        {"secrets": {"TOKEN": "other"}},
        {"migrate": ("true",)},
    ],
)
def test_another_release(host: Host, more: dict[str, t.Any]) -> None:
    assert host.request(**more).digest() != host.request().digest()


def test_the_same_release(host: Host, tmp_path: Path) -> None:
    settings = Settings(health=dataclasses.replace(HEALTH, path="/"), keep=1, drain=0, pool=0, lock_timeout=0)
    assert host.request(info={"x": 1}, settings=settings).digest() == host.request().digest()


def test_settings_survive_their_file() -> None:
    settings = Settings(health=dataclasses.replace(HEALTH, status=(200, 204)), keep=2)
    assert Settings.load(json.loads(json.dumps(dataclasses.asdict(settings)))) == settings


def test_a_request_does_not_print_its_secrets(host: Host) -> None:
    assert "hunter2" not in repr(host.request())


# --- pruning ---------------------------------------------------------------------------------------------------------


def _prune(host: Host, live: str, keep: int) -> list[str]:
    _system.point(host.root / "live", f"releases/{live}")
    found = {release.instance: release for release in _release.releases(host.root)}
    info = {**found[live].info, "settings": dataclasses.asdict(Settings(health=HEALTH, keep=keep))}
    _release._prune(host.root, dataclasses.replace(found[live], info=info))
    return [release.instance for release in _release.releases(host.root)]


def test_the_oldest_go_first_by_generation(host: Host) -> None:
    for age, instance in enumerate(["0010-d", "0009-c", "0008-b", "0007-a"]):
        put(host, instance, state="retired", live_at="x")
        os.utime(host.root / "releases" / instance, (age, age))
    assert _prune(host, "0010-d", 2) == ["0009-c", "0010-d"]


def test_what_is_live_was_live_before_or_runs_stays(host: Host) -> None:
    put(host, "0001-a", "b1", state="retired", live_at="x")  # was live before the one before
    put(host, "0002-b", "b2", state="retired", live_at="x")  # was live before
    put(host, "0003-c", "b1", state="live", live_at="x")
    put(host, "0004-d", "b3", state="failed")
    put(host, "0005-e", "b3", state="failed")  # still runs
    put(host, "0006-f", "b3", state="failed")
    put(host, "0007-a", "b3", state="failed")
    host.active |= {"asgi-shop@0005-e.socket"}
    assert _prune(host, "0003-c", 1) == ["0002-b", "0003-c", "0005-e", "0006-f", "0007-a"]


def test_builds_that_no_release_uses_go(host: Host) -> None:
    put(host, "0001-a", "b1", state="retired", live_at="x")
    put(host, "0002-b", "b2", state="retired", live_at="x")
    put(host, "0003-c", "b3", state="live", live_at="x")
    assert _prune(host, "0003-c", 1) == ["0002-b", "0003-c"]
    assert sorted(path.name for path in host.builds.iterdir()) == ["b2", "b3"]


def test_a_build_that_another_run_is_about_to_release_stays(host: Host) -> None:
    put(host, "0001-a", "b1", state="retired", live_at="x")
    put(host, "0002-b", "b2", state="live", live_at="x")
    host.build("old")
    host.build("new")
    (host.builds / "new/build.json").write_text('{"after": 1}')
    _prune(host, "0002-b", 1)
    assert sorted(path.name for path in host.builds.iterdir()) == ["b1", "b2", "new"]


def test_failed_releases_do_not_push_out_good_ones(host: Host) -> None:
    put(host, "0001-a", state="retired", live_at="x")
    put(host, "0002-b", state="retired", live_at="x")
    put(host, "0003-c", state="live", live_at="x")
    for generation in range(4, 9):
        put(host, f"000{generation}-f", state="failed")
    assert _prune(host, "0003-c", 3) == ["0001-a", "0002-b", "0003-c", "0007-f", "0008-f"]


def test_the_settings_of_a_removed_release_go_with_it(host: Host) -> None:
    for instance in ("0001-a", "0002-b", "0003-c"):
        put(host, instance, state="retired", live_at="x")
        (_release.UNITS / f"asgi-shop@{instance}.service.d").mkdir()
    _prune(host, "0003-c", 1)
    kept = sorted(path.name for path in _release.UNITS.iterdir())
    assert kept == ["asgi-shop@0002-b.service.d", "asgi-shop@0003-c.service.d"]


# --- deploying -------------------------------------------------------------------------------------------------------


def test_the_first_deploy(host: Host) -> None:
    outcome = host.deploy()
    assert (outcome.changed, outcome.instance, outcome.previous) == (True, "0001-aaaa", None)
    assert host.live() == "0001-aaaa"
    assert os.readlink(host.root / "live") == "releases/0001-aaaa"
    assert host.states() == {"0001-aaaa": "live"}
    assert host.runs() == {"0001-aaaa"}
    assert host.enabled == {"asgi-shop.service"} <= host.active


def test_the_same_again_is_no_change(host: Host) -> None:
    host.deploy()
    before = host.tree()
    host.asked.clear()
    outcome = host.deploy()
    assert (outcome.changed, outcome.did, outcome.instance) == (False, [], "0001-aaaa")
    assert host.tree() == before
    assert {asked[0] for asked in host.asked} <= {"show", "list-units", "systemd-tmpfiles"}


def test_a_new_release_replaces_the_old_one(host: Host) -> None:
    host.deploy()
    outcome = host.deploy(id="bbbb", build="b2")
    assert (outcome.instance, outcome.previous) == ("0002-bbbb", "0001-aaaa")
    assert host.live() == "0002-bbbb"
    assert host.states() == {"0001-aaaa": "retired", "0002-bbbb": "live"}
    # the old one is stopped by the host, when it has drained
    assert host.runs() == {"0001-aaaa", "0002-bbbb"}
    assert "asgi.drain-shop-0001-aaaa.service" in host.active


def test_the_switch_comes_after_health_and_before_the_drain(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.deploy()
    order = []

    def await_health(service: str, path: Path, health: Health) -> None:
        order.append(f"health of {path.name} while {host.live()} is live")

    def run(command: t.Sequence[str], **more: t.Any) -> t.Any:
        order.append(f"{command[0]} while {host.live()} is live")
        return host.said("")

    monkeypatch.setattr(_release, "_await_health", await_health)
    (_release.RUN / "shop").mkdir()
    monkeypatch.setattr(_system, "run", run)
    host.deploy(id="bbbb")
    assert order == ["health of 0002-bbbb.sock while 0001-aaaa is live", "systemd-run while 0002-bbbb is live"]


def test_a_bad_release_changes_nothing_but_itself(host: Host) -> None:
    host.deploy()
    host.unhealthy = "GET /healthz: status 500, expected any below 500"
    host.journal = "starting\nTOKEN is hunter2-canary\n"
    with pytest.raises(_release.ReleaseFailed) as error:
        host.deploy(id="bbbb", build="b2")
    assert str(error.value) == f"shop: health: {host.unhealthy} (release 0002-bbbb, stopped)"
    assert error.value.journal == ["starting", "TOKEN is ****"]
    assert host.live() == "0001-aaaa"
    assert host.states() == {"0001-aaaa": "live", "0002-bbbb": "failed"}
    assert host.runs() == {"0001-aaaa"}
    # mended, it is a new release
    host.unhealthy = None
    assert host.deploy(id="bbbb", build="b2").instance == "0003-bbbb"


def test_a_switch_that_fails_changes_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.deploy()

    def full(link: Path, target: str) -> None:
        raise OSError(28, "No space left on device", str(link))

    monkeypatch.setattr(_system, "point", full)
    with pytest.raises(HostError, match="the disk is full"):
        host.deploy(id="bbbb", build="b2")
    assert host.live() == "0001-aaaa"
    assert host.runs() == {"0001-aaaa"}
    assert host.states() == {"0001-aaaa": "live", "0002-bbbb": "failed"}


def test_check_mode_changes_nothing(host: Host) -> None:
    assert _release.deploy(host.request(), check=True).did == ["release aaaa made live"]
    host.deploy()
    before, active = host.tree(), set(host.active)
    assert _release.deploy(host.request(id="bbbb"), check=True).did == ["release bbbb made live after 0001-aaaa"]
    assert _release.deploy(host.request(), check=True).did == []
    assert _release.restart("shop", host.root, 0, check=True).changed
    assert _release.absent("shop", host.root, "asgi-nobody-has-it", 0, check=True).changed
    assert (host.tree(), host.active) == (before, active)


def test_staged_is_on_the_disk_and_nothing_else(host: Host) -> None:
    host.deploy()
    host.build("b2")
    host.asked.clear()
    wanted = host.request(id="bbbb", build="b2")
    assert _release.stage(wanted, check=True).did == ["release bbbb staged"]
    outcome = _release.stage(wanted)
    assert (outcome.did, outcome.instance, outcome.previous) == (["release bbbb staged"], "0001-aaaa", None)
    assert host.live() == "0001-aaaa"
    assert host.states() == {"0001-aaaa": "live", "0002-bbbb": "staged"}
    assert not {"start", "stop", "enable", "daemon-reload"} & {asked[0] for asked in host.asked}
    assert not _release.stage(wanted).changed
    assert _release.deploy(wanted).instance == "0002-bbbb"
    assert not _release.stage(wanted).changed


def test_what_somebody_changed_is_known(host: Host) -> None:
    host.deploy()
    assert _release.changed_files(host.root) == []
    unit = _release.UNITS / "asgi-shop@.service"
    unit.write_text(unit.read_text() + "# by hand\n")
    environment = host.root / "releases/0001-aaaa/environment"
    environment.unlink()
    assert _release.changed_files(host.root) == sorted(map(str, (unit, environment)))
    host.deploy(id="bbbb", build="b2")
    assert _release.changed_files(host.root) == []
    for spoilt in ("{", "[1]", "null"):
        (host.root / "manifest.json").write_text(spoilt)
        assert _release.changed_files(host.root) == [str(host.root / "manifest.json")]


def _second(host: Host, **more: t.Any) -> _release.Outcome:
    return host.deploy(id="bbbb", build="b2", service="[Service]\n# new\n", override="[Service]\n# new\n", **more)


def _prepare(host: Host) -> None:
    host.build("b2")
    _release.deploy(host.request(id="bbbb", build="b2"), prepare=True)


#: What is done before, and what is killed.
OPERATIONS: dict[str, tuple[list[t.Callable[[Host], t.Any]], t.Callable[[Host], t.Any]]] = {
    "first": ([], Host.deploy),
    "deploy": ([Host.deploy], _second),
    "third": (
        [Host.deploy, _second],
        lambda host: host.deploy(id="cccc", build="b3", settings=Settings(HEALTH, keep=1)),
    ),
    "prepare": ([Host.deploy], _prepare),
    "restart": ([Host.deploy], lambda host: _release.restart("shop", host.root, 0)),
    "rollback": ([Host.deploy, _second], lambda host: _release.rollback("shop", host.root, None, 0)),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_run_that_was_killed_at_any_step_is_finished_by_the_next(host: Host, operation: str) -> None:
    before, killed = OPERATIONS[operation]
    for last in itertools.count():
        for act in before:
            act(host)
            host.drain()
        host.steps = 0
        with host.killed_after(last):
            killed(host)
        if host.steps < last:
            break  # it was not killed any more
        where = f"killed after step {last}"
        serving = host.live()
        if before or serving is not None:
            assert serving in host.runs(), where
            assert host.enabled == {"asgi-shop.service"}, where  # it starts at a boot as well
        _second(host)
        live = str(host.live())
        assert live.endswith("-bbbb"), where
        assert host.states()[live] == "live", where
        assert host.runs() - host.draining() == {live}, where
        assert host.enabled == {"asgi-shop.service"}, where
        assert list(host.root.glob("*/.*")) == [], where
        assert _second(host).changed is False, where
        _forget(host)
    assert last > 15


def test_a_removal_that_was_killed_at_any_step_is_finished_by_the_next(host: Host) -> None:
    for last in itertools.count():
        host.deploy()
        host.steps = 0
        with host.killed_after(last):
            _release.absent("shop", host.root, "asgi-nobody-has-it", 0)
        if host.steps < last:
            break
        _release.absent("shop", host.root, "asgi-nobody-has-it", 0)
        places = (host.root.parent, _release.UNITS, _release.TMPFILES)
        assert [path for place in places for path in place.iterdir()] == [], f"killed after step {last}"
        assert host.runs() == set()
        _forget(host)
    assert last > 10


def _forget(host: Host) -> None:
    """Have a host with nothing on it."""
    for path in (host.root, *_release.UNITS.iterdir(), *_release.TMPFILES.iterdir()):
        _system.remove(path)
    host.builds.mkdir(parents=True)
    host.active.clear()
    host.enabled.clear()


def test_a_release_that_was_started_and_left_is_stopped(host: Host) -> None:
    host.deploy()
    put(host, "0002-bbbb", state="staged")
    host.active |= {"asgi-shop@0002-bbbb.service", "asgi-shop@0002-bbbb.socket"}
    assert host.deploy().did == ["leftover 0002-bbbb stopped"]
    assert host.runs() == {"0001-aaaa"}


def test_a_release_that_was_live_and_left_is_drained(host: Host) -> None:
    host.deploy()
    host.deploy(id="bbbb", build="b2")
    host.active.discard("asgi.drain-shop-0001-aaaa.service")
    assert host.deploy(id="bbbb", build="b2").did == ["leftover 0001-aaaa stopped"]
    assert host.draining() == {"0001-aaaa"}
    assert host.runs() == {"0001-aaaa", "0002-bbbb"}


def test_a_draining_release_is_left_alone(host: Host) -> None:
    host.deploy()
    host.deploy(id="bbbb", build="b2")
    assert host.deploy(id="bbbb", build="b2").did == []
    assert host.runs() == {"0001-aaaa", "0002-bbbb"}


@pytest.mark.parametrize("unit", ["asgi-shop@0001-aaaa.service", "asgi-shop@0001-aaaa.socket"])
def test_a_live_release_that_does_not_run_is_started(host: Host, unit: str) -> None:
    host.deploy()
    host.active -= {unit}
    assert host.deploy().did == ["asgi-shop@0001-aaaa.service started"]
    assert unit in host.active


def test_what_is_live_starts_at_boot(host: Host) -> None:
    host.deploy()
    host.enabled.clear()
    assert host.deploy().did == ["asgi-shop.service enabled"]
    assert host.enabled == {"asgi-shop.service"}


def test_a_release_is_known_to_be_live_although_the_run_was_killed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.deploy()
    with monkeypatch.context() as patch:
        patch.setattr(_release.Release, "mark", host.step(_release.Release.mark))
        point = _system.point

        def last_step(link: Path, target: str) -> None:
            point(link, target)
            if link.name == "live":
                host.last_step = host.steps

        patch.setattr(_system, "point", last_step)
        with pytest.raises(Killed):
            _second(host)
    host.last_step = None
    assert host.live() == "0002-bbbb"
    assert host.states()["0002-bbbb"] == "staged"
    _second(host)
    host.deploy(id="cccc", build="b3")
    assert _release.rollback("shop", host.root, None, 0).instance == "0002-bbbb"


def test_new_settings_are_taken_without_a_new_release(host: Host) -> None:
    host.deploy()
    settings = Settings(health=dataclasses.replace(HEALTH, path="/new"), drain=5)
    host.deploy(settings=settings)
    live = _release.live(host.root)
    assert live is not None
    assert live.instance == "0001-aaaa"
    assert live.settings == settings


ONE_BY_ONE = Settings(health=HEALTH, side_by_side=False)


def verbs(host: Host, unit: str) -> list[str]:
    """What systemd was asked to do with a unit."""
    return [asked[0] for asked in host.asked if unit in asked and asked[0] in ("start", "stop")]


def test_where_memory_holds_one_release_the_old_one_is_stopped_first(host: Host) -> None:
    host.deploy()
    host.asked.clear()
    host.deploy(id="bbbb", build="b2", settings=ONE_BY_ONE)
    assert host.live() == "0002-bbbb"
    units = [asked for asked in host.asked if asked[0] in ("start", "stop") and "@" in asked[-1]]
    stopped = next(index for index, asked in enumerate(units) if "asgi-shop@0001-aaaa.service" in asked)
    started = next(index for index, asked in enumerate(units) if "asgi-shop@0002-bbbb.service" in asked)
    assert (units[stopped][0], units[started][0]) == ("stop", "start")
    assert stopped < started
    assert host.runs() == {"0002-bbbb"}


def test_where_memory_holds_one_release_the_old_one_comes_back_after_a_bad_one(host: Host) -> None:
    host.deploy()
    host.unhealthy = "it is ill"
    with pytest.raises(_release.ReleaseFailed):
        host.deploy(id="bbbb", build="b2", settings=ONE_BY_ONE)
    assert (host.live(), host.runs()) == ("0001-aaaa", {"0001-aaaa"})
    assert verbs(host, "asgi-shop@0001-aaaa.service")[-2:] == ["stop", "start"]


def test_with_memory_for_two_the_old_one_is_not_touched(host: Host) -> None:
    host.deploy()
    host.asked.clear()
    host.unhealthy = "it is ill"
    with pytest.raises(_release.ReleaseFailed):
        host.deploy(id="bbbb", build="b2")
    assert verbs(host, "asgi-shop@0001-aaaa.service") == []


def test_free_memory_that_comes_and_goes_is_no_change(host: Host) -> None:
    host.deploy()
    assert not host.deploy(settings=ONE_BY_ONE).changed
    live = _release.live(host.root)
    assert live is not None and not live.settings.side_by_side


@pytest.mark.parametrize(("minutes", "recorded"), [(9, False), (11, True)])
def test_memory_is_recorded_once_a_release_has_served(
    host: Host, monkeypatch: pytest.MonkeyPatch, minutes: int, recorded: bool
) -> None:
    host.deploy()
    live = _release.live(host.root)
    assert live is not None
    since = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=minutes)
    (live.path / "state.json").write_text(json.dumps({"state": "live", "live_at": since.isoformat()}))
    held = {("shop", "0001-aaaa"): [_memory.Process(1, 0, 5), _memory.Process(2, 1, 7)]}
    monkeypatch.setattr(_memory, "processes", lambda name: held)
    assert not host.deploy().changed
    expected = {"base": 5, "per_worker": 7, "release": "0001-aaaa"}
    assert _memory.recorded(host.root) == (expected if recorded else None)


def test_new_settings_are_taken_for_a_release_that_was_cut_off(host: Host) -> None:
    host.build("b1")
    _release.deploy(host.request(), prepare=True)
    settings = Settings(health=dataclasses.replace(HEALTH, path="/new"))
    host.deploy(settings=settings)
    assert host.health == settings.health
    live = _release.live(host.root)
    assert live is not None
    assert live.settings == settings


def test_two_runs_do_not_interleave(host: Host) -> None:
    settings = Settings(health=HEALTH, lock_timeout=0)
    with _system.locked("shop", 0), pytest.raises(HostError, match="another run is working on shop"):
        host.deploy(settings=settings)
    assert _release.releases(host.root) == []


def test_a_full_disk_is_said_in_words(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: t.Any, **more: t.Any) -> None:
        raise OSError(28, "No space left on device", "/srv/x")

    monkeypatch.setattr(_system, "write", full)
    with pytest.raises(HostError, match=r"^shop: the release failed: the disk is full \(/srv/x\)$"):
        host.deploy()


# --- prepare and migrate ---------------------------------------------------------------------------------------------


def test_a_prepared_release_has_no_traffic(host: Host) -> None:
    host.deploy()
    outcome = _release.deploy(host.request(id="bbbb"), prepare=True)
    assert outcome.instance == host.live() == "0001-aaaa"
    assert host.runs() == {"0001-aaaa", "0002-bbbb"}
    assert host.deploy(id="bbbb").instance == "0002-bbbb"
    assert host.live() == "0002-bbbb"


# --- files of earlier releases ---------------------------------------------------------------------------------------


def chain(host: Host) -> list[str]:
    """The builds whose static files Nginx looks for, the live one first."""
    places = (host.root / f"live{'/previous' * back}/build" for back in range(4))
    return [place.resolve().name for place in places if place.exists()]


def test_files_of_earlier_releases_stay_within_reach(host: Host) -> None:
    for number in (1, 2, 3):
        host.deploy(id=f"{number}" * 4, build=f"b{number}")
    assert chain(host) == ["b3", "b2", "b1"]
    # neither a restart nor another configuration puts one of them farther away
    _release.restart("shop", host.root, 0)
    host.deploy(id="dddd", build="b3", environment={"A": "1"})
    assert chain(host) == ["b3", "b2", "b1"]


def test_files_of_what_was_rolled_back_stay_within_reach(host: Host) -> None:
    host.deploy(build="b1")
    host.deploy(id="bbbb", build="b2")
    _release.rollback("shop", host.root, None, 0)
    assert chain(host)[:2] == ["b1", "b2"]
    _release.rollback("shop", host.root, "bbbb", 0)
    assert chain(host)[:2] == ["b2", "b1"]


def test_pruned_files_are_out_of_reach_and_nothing_else(host: Host) -> None:
    for number in (1, 2, 3, 4):
        host.deploy(id=f"{number}" * 4, build=f"b{number}", settings=Settings(HEALTH, keep=2))
        host.active = {unit for unit in host.active if "@" not in unit or f"@{host.live()}" in unit}
    host.deploy(id="4444", build="b4", settings=Settings(HEALTH, keep=2))
    assert chain(host) == ["b4", "b3"]


# --- rollback and restart --------------------------------------------------------------------------------------------


def test_back_to_the_release_before(host: Host) -> None:
    host.deploy()
    host.deploy(id="bbbb", build="b2")
    outcome = _release.rollback("shop", host.root, None, 0)
    assert (outcome.instance, outcome.previous) == ("0001-aaaa", "0002-bbbb")
    assert host.live() == "0001-aaaa"
    assert host.states() == {"0001-aaaa": "live", "0002-bbbb": "retired"}
    assert "asgi.drain-shop-0001-aaaa.service" not in host.active
    with pytest.raises(HostError, match="there is no release to roll back to"):
        _release.rollback("shop", host.root, None, 0)


def test_never_back_to_a_release_that_was_not_good(host: Host) -> None:
    host.deploy()
    host.unhealthy = "bad"
    with pytest.raises(_release.ReleaseFailed):
        host.deploy(id="bbbb")
    host.unhealthy = None
    host.deploy(id="cccc")
    with pytest.raises(HostError, match=r"found no release bbbb to roll back to, .* \(0001-aaaa\)$"):
        _release.rollback("shop", host.root, "bbbb", 0)
    assert _release.rollback("shop", host.root, None, 0).instance == "0001-aaaa"


def test_not_back_to_what_was_rolled_back_from(host: Host) -> None:
    """Unless it is named, or was live again since."""
    host.deploy()
    host.deploy(id="bbbb")
    _release.rollback("shop", host.root, None, 0)
    host.deploy(id="cccc")
    assert _release.rollback("shop", host.root, None, 0, check=True).did == ["rolled back to release 0001-aaaa"]
    assert _release.rollback("shop", host.root, "bbbb", 0).instance == "0002-bbbb"
    host.deploy(id="dddd")
    assert _release.rollback("shop", host.root, None, 0).instance == "0002-bbbb"


@pytest.mark.parametrize("wanted", ["aaaa", "0001-aaaa"])
def test_back_to_a_release_by_its_name(host: Host, wanted: str) -> None:
    for id_ in ("aaaa", "bbbb", "cccc"):
        host.deploy(id=id_)
    assert _release.rollback("shop", host.root, wanted, 0).instance == "0001-aaaa"
    assert _release.rollback("shop", host.root, wanted, 0).changed is False


def test_a_restart_is_a_fresh_instance_of_the_same(host: Host) -> None:
    host.deploy()
    outcome = _release.restart("shop", host.root, 0)
    assert (outcome.instance, outcome.previous) == ("0002-aaaa", "0001-aaaa")
    old, new = (host.root / "releases" / instance for instance in ("0001-aaaa", "0002-aaaa"))
    for name in ("secrets", "environment", "gunicorn.conf.py", "release.json", "override.conf"):
        assert (new / name).read_bytes() == (old / name).read_bytes()
        assert (new / name).stat().st_mode == (old / name).stat().st_mode
    assert os.readlink(new / "app.sock").endswith("/0002-aaaa.sock")
    # and it is what the next run wants
    assert host.deploy().changed is False


def test_nothing_to_restart(host: Host) -> None:
    with pytest.raises(HostError, match="nothing is live on this host"):
        _release.restart("shop", host.root, 0)


def test_absent_removes_all_of_it(host: Host) -> None:
    host.deploy()
    other = host.root.parent / "blog"
    other.mkdir()
    outcome = _release.absent("shop", host.root, "asgi-nobody-has-it", 0)
    assert outcome.changed
    assert not host.root.exists()
    assert other.exists()
    assert list(_release.UNITS.iterdir()) == list(_release.TMPFILES.iterdir()) == []
    assert host.runs() == set()
    assert _release.absent("shop", host.root, "asgi-nobody-has-it", 0).changed is False


# --- what differs ----------------------------------------------------------------------------------------------------


def test_a_difference_is_by_part(host: Host) -> None:
    host.deploy()
    before = _release.describe(host.root)
    assert _release.difference(before, host.request()) == []
    found = _release.difference(before, host.request(build="b2", environment={"LOG_LEVEL": "debug"}))
    assert found == [
        {"before_header": f"shop: {part}", "after_header": f"shop: {part}", "before": old, "after": new}
        for part, old, new in [
            ("build", "b1\n", "b2\n"),
            ("environment", 'LOG_LEVEL="info"\n', 'LOG_LEVEL="debug"\n'),
        ]
    ]


def test_all_is_new_at_first(host: Host) -> None:
    assert _release.describe(host.root) == {}
    found = {part["after_header"]: part for part in _release.difference({}, host.request())}
    assert set(found) == {
        f"shop: {name}" for name in ("build", "environment", "gunicorn.conf.py", "override.conf", "secrets")
    }
    assert found["shop: secrets"]["before"] == ""
    assert found["shop: secrets"]["after"] == "TOKEN (hidden, after)\n"


def _secrets_difference(old: dict[str, str], new: dict[str, str]) -> list[dict[str, str]]:
    before, after = request(Path("/nowhere"), secrets=old), request(Path("/nowhere"), secrets=new)
    return _release.difference({**_release._configuration(before), "build": "b1"}, after)


def test_a_secret_that_changed_is_named() -> None:
    found = _secrets_difference({"A": "1", "B": "2", "C": "3"}, {"A": "1", "B": "4", "D": "5"})
    assert [(part["before"], part["after"]) for part in found] == [
        ("A\nB (hidden, before)\nC (hidden, before)\n", "A\nB (hidden, after)\nD (hidden, after)\n")
    ]


SECRET = st.text('"\\$`\n =ab', max_size=6).map(lambda text: f"SECRETA{text}SECRETB\nSECRETC=")
DIFFERENT = st.dictionaries(NAMES, SECRET, max_size=3)


@example({}, {"KEY": "-----BEGIN-----\nSECRETA="})
@given(DIFFERENT, DIFFERENT)
def test_a_difference_never_shows_a_secret(old: dict[str, str], new: dict[str, str]) -> None:
    assert "SECRET" not in str(_secrets_difference(old, new)).replace("shop: secrets", "")


@given(st.dictionaries(NAMES, TRICKY.map(lambda text: f"SECRET{text}."), max_size=3), DIFFERENT)
def test_a_difference_names_the_secrets_only(old: dict[str, str], new: dict[str, str]) -> None:
    new = {name: value + "." for name, value in new.items()}
    shown = "".join(part["before"] + part["after"] for part in _secrets_difference(old, new))
    assert {line.partition(" ")[0] for line in shown.splitlines()} <= {*old, *new}


def test_a_secret_of_several_lines_that_changed_is_named() -> None:
    assert _secrets_difference({"KEY": "-----BEGIN-----\na"}, {"KEY": "-----BEGIN-----\nb"}) != []


# --- asking for health -----------------------------------------------------------------------------------------------


class Server:
    """Answers each connection on a unix socket with the same bytes, from a thread."""

    def __init__(self, path: Path, answer: t.Callable[[socket.socket], None]) -> None:
        self.path = path
        self.requests: list[str] = []
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, __ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    data = b""
                    while b"\r\n\r\n" not in data and (part := connection.recv(4096)):
                        data += part
                    self.requests.append(data.decode())
                    self._answer(connection)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


Serve = t.Callable[..., Server]


@pytest.fixture
def serve() -> t.Iterator[Serve]:
    """Return a function that has a server answer with bytes, or do something with the connection."""
    with tempfile.TemporaryDirectory(prefix="asgi") as folder, contextlib.ExitStack() as stack:

        def start(answer: bytes | t.Callable[[socket.socket], None]) -> Server:
            act = answer if callable(answer) else lambda connection: connection.sendall(answer)
            server = Server(Path(folder, "app.sock"), act)
            stack.callback(server.close)
            return server

        yield start


def http(status: int, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def ask(server: Server, timeout: float = 5, **more: t.Any) -> str | None:
    return _release.probe(server.path, dataclasses.replace(HEALTH, **more), timeout)


def test_what_is_asked(serve: Serve) -> None:
    server = serve(http(200))
    assert ask(server) is None
    first, *headers = server.requests[0].splitlines()
    assert first == "GET /healthz HTTP/1.1"
    assert {"Host: shop.example.com", "X-Forwarded-Proto: https", "Connection: close"} <= set(headers)
    assert len([header for header in headers if header.startswith("Host:")]) == 1


@pytest.mark.parametrize(
    ("status", "wanted", "problem"),
    [
        (200, (), None),
        (302, (), None),
        (404, (), None),
        (499, (), None),
        (500, (), "GET /healthz: status 500, expected any below 500"),
        (503, (), "GET /healthz: status 503, expected any below 500"),
        (204, (200, 204), None),
        (404, (200, 204), "GET /healthz: status 404, expected 200 or 204"),
        (503, (503,), None),
    ],
)
def test_statuses(serve: Serve, status: int, wanted: tuple[int, ...], problem: str | None) -> None:
    assert ask(serve(http(status)), status=wanted) == problem


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"all is well", None),
        ("wéll".encode(), "GET /healthz: the body does not contain 'well'"),
        (b"", "GET /healthz: the body does not contain 'well'"),
    ],
)
def test_the_body(serve: Serve, body: bytes, problem: str | None) -> None:
    assert ask(serve(http(200, body)), contains="well") == problem


def test_the_status_comes_before_the_body(serve: Serve) -> None:
    assert ask(serve(http(500, b"well")), contains="well") == "GET /healthz: status 500, expected any below 500"


def test_a_body_that_never_ends_is_not_waited_for(serve: Serve) -> None:
    done = threading.Event()

    def stream(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\n")
        done.wait(10)

    assert ask(serve(stream)) is None
    done.set()


def test_no_answer(serve: Serve) -> None:
    done = threading.Event()
    server = serve(lambda connection: done.wait(10))
    started = time.monotonic()
    assert ask(server, timeout=0.2) == "GET /healthz: no answer in 0.2 s"
    assert time.monotonic() - started < 5
    done.set()


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_that_trickles_in(serve: Serve, head: bytes) -> None:
    done = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.sendall(head)
        for __ in range(20):
            if done.wait(0.1):
                return
            connection.sendall(b"x")

    server = serve(trickle)
    started = time.monotonic()
    problem = ask(server, timeout=0.3, contains="well")
    taken = time.monotonic() - started
    done.set()
    assert problem is not None
    assert taken < 1


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 99999\r\n\r\n", b"\xff" * 70000])
def test_garbage(serve: Serve, answer: bytes) -> None:
    problem = ask(serve(answer))
    assert problem is not None
    assert problem.startswith("GET /healthz: ")
    assert len(problem) > len("GET /healthz: ")


def test_nobody_listens(serve: Serve) -> None:
    server = serve(http(200))
    server.close()
    assert "Connection refused" in str(ask(server))
    server.path.unlink()
    assert "No such file" in str(ask(server))


# --- waiting for health ----------------------------------------------------------------------------------------------


@pytest.fixture
def probes() -> list[float]:
    """How long each question for health had, in seconds."""
    return []


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch, probes: list[float]) -> t.Callable[..., str | None]:
    """Return a function that waits for health of a server with a given life: what each look finds."""

    def run(*looks: dict[str, t.Any], **more: t.Any) -> str | None:
        now = {"look": -1}
        probes.clear()
        clock = {"now": 0.0}

        def look() -> dict[str, t.Any]:
            return looks[min(now["look"], len(looks) - 1)]

        def show(unit: str) -> dict[str, str]:
            now["look"] += 1
            alive = {"ActiveState": "active", "NRestarts": "0", "MainPID": "5", "Result": "exit-code"}
            return {**alive, "ExecMainStatus": "3", **look().get("show", {})}

        def sleep(seconds: float) -> None:
            clock["now"] += seconds

        monkeypatch.setattr(_release, "_show", show)
        monkeypatch.setattr(_release, "_children", lambda pid: look().get("workers", {10, 11}))
        monkeypatch.setattr(
            _release, "probe", lambda path, health, timeout: probes.append(timeout) or look().get("problem")
        )
        monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
        monkeypatch.setattr(time, "sleep", sleep)
        return _release._await_health("unit", Path("/x"), dataclasses.replace(HEALTH, timeout=5, **more))

    return run


GOOD: dict[str, t.Any] = {}
BAD = {"problem": "status 503"}


def test_a_server_that_ends_before_it_has_started_is_noticed_soon(
    wait: t.Callable[..., str | None], probes: list[float]
) -> None:
    starting = {"show": {"ActiveState": "activating"}, **BAD}
    ended = {"show": {"ActiveState": "failed"}}
    assert "the server ended" in str(wait(starting, starting, ended))
    assert probes == [1.0, 1.0]
    wait(GOOD, successes=1)
    assert probes == [_release._PROBE_TIMEOUT]


def test_healthy(wait: t.Callable[..., str | None]) -> None:
    assert wait(GOOD) is None
    assert wait(BAD, BAD, GOOD) is None


def test_healthy_so_many_times_in_a_row(wait: t.Callable[..., str | None]) -> None:
    assert wait(GOOD, GOOD, BAD, GOOD, GOOD, BAD, successes=3) == "not healthy within 5 s; last: status 503"
    assert wait(GOOD, GOOD, BAD, successes=2) is None


def test_not_healthy_in_time(wait: t.Callable[..., str | None]) -> None:
    assert wait(BAD) == "not healthy within 5 s; last: status 503"


@pytest.mark.parametrize("end", [{"ActiveState": "failed"}, {"ActiveState": "inactive"}, {"NRestarts": "1"}])
def test_a_server_that_ended(wait: t.Callable[..., str | None], end: dict[str, str]) -> None:
    assert wait(BAD, {"show": end}) == "the server ended (result exit-code, status 3); last: status 503"


def test_a_server_that_ends_after_its_last_good_answer(wait: t.Callable[..., str | None]) -> None:
    found = wait(GOOD, GOOD, GOOD, {"show": {"NRestarts": "1"}}, successes=3)
    assert str(found).startswith("the server ended")


def test_workers_that_keep_dying(wait: t.Callable[..., str | None]) -> None:
    dying = [{"workers": {pid}} for pid in range(10, 20)]
    assert wait(*dying) == "its workers keep dying (3 died before it was healthy)"


def test_a_worker_that_died_once(wait: t.Callable[..., str | None]) -> None:
    assert wait({"workers": {1, 2}}, {"workers": {1}}, {"workers": {1, 3}}) is None


def test_what_a_power_cut_left_is_put_right(host: Host) -> None:
    for build in ("b1", "b2"):
        host.build(build)
        _release.deploy(host.request(build=build))
    old, __ = _release.releases(host.root)
    old.mark("live")  # it was switched from, and that was not written any more
    (old.path / ".state.json.new").touch()
    (host.root / ".live.new").symlink_to("releases/x")
    outcome = _release.deploy(host.request(build="b2"))
    assert {"leftover .state.json.new removed", "leftover .live.new removed", f"{old.instance} marked retired"} <= {
        *outcome.did
    }
    assert old.state["state"] == "retired"
    assert _release.deploy(host.request(build="b2")).did == []


def test_restarts_do_not_push_out_what_can_be_rolled_back_to(host: Host) -> None:
    put(host, "0001-a", state="retired", live_at="x")
    for generation in range(2, 6):
        put(host, f"000{generation}-b", state="retired", live_at="x")
        path = host.root / "releases" / f"000{generation}-b" / "release.json"
        path.write_text(path.read_text().replace(f'"digest": "000{generation}-b"', '"digest": "b"'))
    assert _prune(host, "0005-b", 2) == ["0001-a", "0004-b", "0005-b"]
    assert _release._before(host.root, _release.live(host.root)) == _release.releases(host.root)[0]


def test_a_switch_that_fails_after_its_rename_leaves_the_new_release_live(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.deploy()
    point = _system.point

    def failing(link: Path, target: str) -> None:
        point(link, target)
        if link.name == "live":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_system, "point", failing)
    host.build("b2")
    with pytest.raises(HostError, match="Input/output error"):
        _release.deploy(host.request(id="bbbb", build="b2"))
    new = _release.live(host.root)
    assert new is not None
    assert new.info["id"] == "bbbb"
    assert new.state["state"] != "failed"
    assert f"asgi-shop@{new.instance}.service" in host.active


# --- without Nginx ---------------------------------------------------------------------------------------------------


def listening(*ports: int) -> dict[str, str]:
    """The units of an application at the front; of the ports, the last is of UDP too."""
    lines = [*(f"ListenStream={port}" for port in ports), f"ListenDatagram={ports[-1]}"]
    return {
        "asgi-shop-front.socket": "[Socket]\n" + "".join(f"{line}\n" for line in lines),
        "asgi-shop-front.service": "[Service]\n",
    }


def free_port() -> int:
    with socket.socket(socket.AF_INET) as sock:
        sock.bind(("", 0))
        return int(sock.getsockname()[1])


def test_front_sockets_are_there_before_the_release(host: Host) -> None:
    host.deploy(front=listening(free_port(), free_port()))
    started = [asked[-1] for asked in host.asked if asked[0] == "start"]
    assert started[0] == "asgi-shop-front.socket"
    assert started[1].startswith("asgi-shop@")
    assert {"asgi-shop-front.socket"} <= host.active


def test_front_sockets_outlive_a_switch(host: Host) -> None:
    front = listening(free_port(), free_port())
    host.deploy(front=front)
    host.asked.clear()
    host.deploy(front=front, id="bbbb", build="b2")
    assert not [asked for asked in host.asked if asked[0] == "stop" and "asgi-shop-front.socket" in asked]
    assert host.draining() == {"0001-aaaa"}
    (script,) = [asked[-1] for asked in host.asked if asked[0] == "systemd-run"]
    assert "/run/asgi-shop/0001-aaaa/front.*" in script


def test_front_that_was_never_healthy_leaves_the_ports(host: Host) -> None:
    host.unhealthy = "no"
    with pytest.raises(_release.ReleaseFailed):
        host.deploy(front=listening(free_port()))
    assert host.active == set()
    assert not list(_release.UNITS.glob("*front*"))


def test_broken_release_does_not_take_the_ports_from_what_is_live(host: Host) -> None:
    front = listening(free_port())
    host.deploy(front=front)
    host.unhealthy = "no"
    with pytest.raises(_release.ReleaseFailed):
        host.deploy(front=front, id="bbbb", build="b2")
    assert host.active >= {"asgi-shop-front.socket", "asgi-shop@0001-aaaa.service"}


def test_front_gives_way_to_nginx(host: Host) -> None:
    host.deploy(front=listening(free_port()))
    host.deploy(id="bbbb", build="b2")
    assert host.runs() == {"0002-bbbb"}
    assert host.draining() == set()
    assert "asgi-shop-front.socket" not in host.active
    assert not list(_release.UNITS.glob("*front*"))


def test_front_gives_way_to_nginx_wherever_a_run_is_cut_off(host: Host) -> None:
    front = listening(free_port())
    for steps in itertools.count():
        host.deploy(front=front, id=f"a{steps:03x}", build="b1")
        host.drain()
        with host.killed_after(steps):
            host.deploy(id=f"b{steps:03x}", build="b2")
            break
        host.deploy(id=f"b{steps:03x}", build="b2")
        current = host.live()
        assert host.runs() == {current}, f"after {steps} steps"
        assert "asgi-shop-front.socket" not in host.active
        assert not list(_release.UNITS.glob("*front*"))
    assert steps > 20


def test_rollback_does_not_change_who_has_the_ports(host: Host) -> None:
    host.deploy()
    front = listening(free_port())
    host.deploy(front=front, id="bbbb", build="b2")
    with pytest.raises(HostError, match="no release to roll back to"):
        _release.rollback("shop", host.root, None, 1)
    host.deploy(front=front, id="cccc", build="b3")
    assert _release.rollback("shop", host.root, None, 1).instance == "0002-bbbb"


@pytest.mark.parametrize(("kind", "word"), [(socket.SOCK_STREAM, "TCP"), (socket.SOCK_DGRAM, "UDP")])
@pytest.mark.parametrize("check", [False, True])
def test_taken_port_is_said_before_anything_is_done(host: Host, kind: int, word: str, check: bool) -> None:
    host.deploy()
    before = host.tree()
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(HostError, match=f"shop: edge: found {word} port {port} taken on this host"):
            _release.deploy(host.request(front=listening(port), id="bbbb"), check=check)
    assert host.tree() == before


def test_front_does_not_change_ports_while_it_runs(host: Host) -> None:
    host.deploy(front=listening(free_port()))
    with pytest.raises(HostError, match=r"edge: found it on other ports .* stop it \(systemctl stop asgi-shop\)"):
        host.deploy(front=listening(free_port()), id="bbbb", build="b2")


def test_absent_front_leaves_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_release.pwd, "getpwnam", {}.__getitem__)
    monkeypatch.setattr(_release, "OWN_DIRECTORIES", ())
    host.deploy(front=listening(free_port()))
    _release.absent("shop", host.root, "asgi-shop", 1)
    assert "asgi-shop-front.socket" not in host.active
    assert not list(_release.UNITS.glob("*front*"))


def test_a_unit_that_systemd_has_not_come_to_yet_has_not_ended(wait: t.Callable[..., str | None]) -> None:
    waiting = {"show": {"ActiveState": "inactive"}, **BAD}
    assert wait(waiting, waiting, GOOD) is None
    starting = {"show": {"ActiveState": "activating"}, **BAD}
    assert "the server ended" in str(wait(waiting, starting, waiting))
