# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re
import socket
import threading
import typing as t
from pathlib import Path

import pytest

from ansible_collections.asgi.stack.plugins.module_utils import _nginx as nginx
from ansible_collections.asgi.stack.plugins.module_utils import _system as system

CONFIG = "http { include asgi/live/sites/*.conf; include conf.d/*.conf; }\n"
STEPS = ["staged", "tested", "named", "linked", "live", "taken", "marked"]


class Fake:
    """An Nginx that refuses the word BAD when it tests, and the word TAKEN (a port, say) only when it loads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.drop_in = root.parent / "systemd/asgi-stack.conf"
        self.has: str | None = None  # what it runs
        self.unit: str | None = None  # the unit's settings that it runs with
        self.loaded: str | None = None  # those that systemd has read
        self.enabled = False
        self.outdated = False
        self.reloads = self.restarts = 0
        self.prepared: list[str] = []
        self.proved = ""

    def installed(self) -> bool:
        return True

    def all(self, config: Path) -> str:
        text = config.read_text()
        for glob in re.findall(r"include (\S+);", text):
            text += "".join(path.read_text() for path in sorted(self.root.glob(glob)))
        return text

    def prepare(self, script: Path) -> None:
        self.prepared.append(script.read_text())

    def test(self, config: Path, unit: str | None) -> tuple[bool, str]:
        if unit is not None and "ROOT" in self.all(config):
            return False, "nginx: [emerg] open() failed (13: Permission denied)\n"
        if "BAD" not in self.all(config):
            return True, 'nginx: [warn] conflicting server name "x" on 0.0.0.0:80, ignored\n'
        include = re.findall(r"include (\S+);", config.read_text())
        for path in [path for glob in include for path in sorted(self.root.glob(glob))]:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if "BAD" in line:
                    return False, (
                        f'2026/01/01 00:00:00 [emerg] 7#7: unknown directive "BAD" in {path}:{number}\n'
                        f'nginx: [emerg] unknown directive "BAD" in {path}:{number}\n'
                        f"nginx: configuration file {config} test failed\n"
                    )
        return False, f"nginx: [emerg] in {config}:1\n"

    def status(self) -> nginx.Status:
        return nginx.Status(active=self.has is not None, enabled=self.enabled, master=7, outdated=self.outdated)

    def enable(self) -> None:
        self.enabled = True

    def stop(self) -> None:
        self.has = None

    def load(self) -> None:
        self.loaded = self.drop_in.read_text() if self.drop_in.exists() else None

    def start(self) -> None:
        self.load()
        self.unit, self.outdated = self.loaded, False
        self.has = None
        if "UNUSABLE" in (self.unit or ""):
            raise nginx.Refused("status=226/NAMESPACE")
        self.take()

    def prove(self, stamp: str) -> None:
        self.proved = stamp
        if "MUTE" in (self.has or ""):
            raise nginx.Refused("no answer")

    def restart(self) -> None:
        self.restarts += 1
        self.start()

    def reload(self) -> None:
        self.reloads += 1
        self.take()

    def take(self) -> None:
        text = self.all(self.root / "nginx.conf")
        if "TAKEN" in text:
            raise nginx.Refused("bind() failed")
        self.has = text


class Host(t.NamedTuple):
    root: Path
    marker: Path
    service: Fake

    def apply(self, files: nginx.Tree, **more: t.Any) -> nginx.Outcome:
        options: dict[str, t.Any] = {"config": CONFIG, "absent": [], **more}
        places = {"marker": self.marker, "drop_in": self.service.drop_in}
        return nginx.apply(self.root, files=files, service=self.service, **places, **options)

    def state(self) -> dict[str, str]:
        """Every file and link, without the lock's directory."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if path.is_symlink():
                found[name] = "-> " + os.readlink(path)
            elif path.is_file():
                found[name] = path.read_text()
        return found


@pytest.fixture(name="host")
def _host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host as the package leaves it, its service not started."""
    monkeypatch.setattr(system, "LOCKS", tmp_path / "locks")
    root = tmp_path / "etc"
    for name in ("sites-enabled", "sites-available", "conf.d"):
        (root / name).mkdir(parents=True)
    (root / "nginx.conf").write_text("http { include sites-enabled/*; } # the distribution's\n")
    (root / "sites-available/default").write_text("server { welcome; }\n")
    (root / "sites-enabled/default").symlink_to("../sites-available/default")
    return Host(root, tmp_path / "run/nginx.json", Fake(root))


def test_first_and_second_run(host: Host) -> None:
    before = host.state()
    told = host.apply({"sites/a.conf": "A\n"}, check=True)
    assert host.state() == before
    assert not host.marker.exists()

    done = host.apply({"sites/a.conf": "A\n"})
    assert (done.changed, done.files, done.actions) == (True, told.files, told.actions)
    assert done.actions == ["enabled", "started"]
    assert [entry["after_header"] for entry in done.diff] == [
        f"{host.root}/asgi/live/sites/a.conf",
        f"{host.root}/nginx.conf",
        f"{host.root}/sites-enabled/default",
    ]
    assert done.warnings == ['conflicting server name "x" on 0.0.0.0:80, ignored']
    assert host.service.has == CONFIG + "A\n"
    assert os.readlink(host.root / "nginx.conf") == "asgi/live/nginx.conf"
    assert (host.root / "asgi/replaced-nginx.conf").read_text() == before["nginx.conf"]
    assert not (host.root / "sites-enabled/default").is_symlink()
    assert (host.root / "asgi/live").resolve().stat().st_mode & 0o777 == 0o755

    again = host.apply({"sites/a.conf": "A\n"})
    assert (again.changed, again.files, again.actions, again.diff) == (False, [], [], [])
    assert host.service.reloads == 0


def test_other_files_stay_and_absent_ones_go(host: Host) -> None:
    host.apply({"sites/a.conf": "A\n", "sites/b.conf": "B\n"})
    done = host.apply({"sites/c.conf": "C\n"}, absent=["sites/a.conf", "sites/never.conf"])
    assert done.actions == ["reloaded"]
    assert host.service.has == CONFIG + "B\nC\n"
    (host.root / "sites-enabled/default").write_text("the operator's own\n")
    assert not host.apply({}).changed
    kept = sorted(path.name for path in (host.root / "asgi").glob("config-*"))
    host.apply({"sites/c.conf": "D\n"})
    assert len(kept) == len(list((host.root / "asgi").glob("config-*"))) == 2


def test_refused_configuration_changes_nothing(host: Host) -> None:
    first = host.state()
    for _run in range(2):
        with pytest.raises(nginx.Refused):
            host.apply({"sites/a.conf": "ok\nBAD\n"})
        assert {name: text for name, text in host.state().items() if name in first} == first
        assert host.service.has is None
    host.apply({"sites/a.conf": "A\n"})
    before, runs = host.state(), host.service.has
    for _run in range(2):
        with pytest.raises(nginx.Refused) as raised:
            host.apply({"sites/a.conf": "one\nBAD\nthree\n"})
        assert host.state() == before
        assert host.service.has == runs
    place = f"{host.root}/asgi/live/sites/a.conf"
    assert str(raised.value).splitlines()[1:] == [
        f'[emerg] unknown directive "BAD" in {place}:2',
        f"{place}:",
        "     1 | one",
        ">    2 | BAD",
        "     3 | three",
    ]


def test_an_operators_mistake_is_told_on_every_run(host: Host) -> None:
    host.apply({"sites/a.conf": "A\n"})
    (host.root / "conf.d/x.conf").write_text("BAD\n")
    for check in (False, True):
        with pytest.raises(nginx.Refused, match="conf.d/x.conf:1"):
            host.apply({"sites/a.conf": "A\n"}, check=check)
    with pytest.raises(nginx.Refused, match="conf.d/x.conf:1"):
        host.apply({"sites/a.conf": "B\n"})
    assert host.service.has == CONFIG + "A\n"
    (host.root / "conf.d/x.conf").unlink()
    assert not host.apply({"sites/a.conf": "A\n"}).changed


def test_what_is_refused_at_the_reload_is_put_back(host: Host) -> None:
    host.service.take()
    distributions = host.state()
    with pytest.raises(nginx.Refused):
        host.apply({"sites/a.conf": "TAKEN\n"})
    after = host.state()
    assert after.pop("asgi/replaced-nginx.conf") == distributions["nginx.conf"]
    assert after == distributions
    host.apply({"sites/a.conf": "A\n"})
    before, reloads = host.state(), host.service.reloads
    for run in (1, 2):
        with pytest.raises(nginx.Refused):
            host.apply({"sites/a.conf": "TAKEN\n"})
        assert host.state() == before
        assert host.service.has == CONFIG + "A\n"
        assert host.service.reloads == reloads + 2 * run  # the second one reads again what was put back
    assert not host.apply({"sites/a.conf": "A\n"}).changed


def test_what_is_taken_and_not_served_is_put_back(host: Host) -> None:
    with pytest.raises(nginx.Refused, match="no answer"):
        host.apply({"sites/a.conf": "MUTE\n"})
    assert host.service.has is None
    host.apply({"sites/a.conf": "A\n"})
    before = host.state()
    with pytest.raises(nginx.Refused, match="no answer"):
        host.apply({"sites/a.conf": "MUTE\n"})
    assert host.state() == before
    assert host.service.has == CONFIG + "A\n"
    assert not host.apply({"sites/a.conf": "A\n"}).changed


def test_edited_in_place(host: Host) -> None:
    """Our files are put right; nginx.conf replaced by a file becomes ours again."""
    host.apply({"sites/a.conf": "A\n"})
    (host.root / "asgi/live/sites/a.conf").write_text("edited\n")
    done = host.apply({"sites/a.conf": "A\n"})
    assert done.files == [f"{host.root}/asgi/live/sites/a.conf"]
    assert host.service.has == CONFIG + "A\n"
    (host.root / "nginx.conf").unlink()
    (host.root / "nginx.conf").write_text(CONFIG)
    assert host.apply({"sites/a.conf": "A\n"}).files == [f"{host.root}/nginx.conf"]
    assert not host.apply({"sites/a.conf": "A\n"}).changed


def test_what_somebody_changed_is_known(host: Host) -> None:
    assert nginx.changed_by_hand(host.root) == []  # nothing is ours yet
    host.apply({"sites/a.conf": "A\n"})
    assert nginx.changed_by_hand(host.root) == []
    (host.root / "asgi/live/sites/b.conf").write_text("B\n")
    assert nginx.changed_by_hand(host.root) == [f"{host.root}/asgi/live"]
    (host.root / "nginx.conf").unlink()
    assert nginx.changed_by_hand(host.root) == [f"{host.root}/nginx.conf", f"{host.root}/asgi/live"]
    (host.root / "asgi/live/sites/b.conf").unlink()
    host.apply({"sites/a.conf": "A\n"})
    assert nginx.changed_by_hand(host.root) == []


def test_a_stopped_or_disabled_nginx_is_a_change(host: Host) -> None:
    host.apply({"sites/a.conf": "A\n"})
    host.service.has, host.service.enabled = None, False
    assert host.apply({}, check=True).actions == ["enabled", "started"]
    assert host.service.has is None
    assert host.apply({}).actions == ["enabled", "started"]
    assert host.service.has == CONFIG + "A\n"


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("at", STEPS)
def test_killed(host: Host, at: str, first: bool, restarted: bool) -> None:
    """Whatever step a run ends at, Nginx can start, and the next run makes it right, once."""
    host.service.enabled = True
    host.service.take()
    if not first:
        host.apply({"sites/a.conf": "old\n"})
    seen: list[str] = []

    def step(name: str) -> None:
        seen.append(name)
        if name == at:
            os._exit(9)

    child = os.fork()
    if child == 0:
        host.apply({"sites/a.conf": "new\n"}, step=step)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

    if at in ("taken", "marked"):  # the child's Nginx is gone with it
        host.service.take()
    good, _output = host.service.test(host.root / "nginx.conf", None)
    assert good
    if restarted:
        host.service.take()
        assert (host.root / "nginx.conf").read_text() in (host.service.has or "")
    told = host.apply({"sites/a.conf": "new\n"}, check=True)
    done = host.apply({"sites/a.conf": "new\n"})
    assert (told.changed, told.files, told.actions) == (done.changed, done.files, done.actions)
    assert host.service.has == CONFIG + "new\n"
    assert not host.apply({"sites/a.conf": "new\n"}).changed
    names = [path.name for path in [*host.root.iterdir(), *(host.root / "asgi").iterdir()]]
    assert not [name for name in names if name.startswith((".asgi-test", "stage-"))]


def test_steps_are_the_ones_tested(host: Host) -> None:
    seen: list[str] = []
    host.apply({"sites/a.conf": "A\n"}, step=seen.append)
    assert seen == STEPS


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../b", "a//b", "", ".hidden", "a b", "sites/\n.conf"])
def test_names_stay_below(host: Host, name: str) -> None:
    before = host.state()
    with pytest.raises(system.HostError, match="file name"):
        host.apply({name: "x"})
    with pytest.raises(system.HostError, match="file name"):
        host.apply({}, absent=[name])
    assert host.state() == before


def test_digest() -> None:
    """Moving text from a name to its content, or between files, is another digest."""
    trees: list[nginx.Tree] = [
        {},
        {"a": "bc"},
        {"ab": "c"},
        {"a": "b", "c": ""},
        {"a": "", "b": "c"},
        {"a": "c", "b": ""},
    ]
    assert len({nginx.digest(tree) for tree in trees}) == len(trees)


def test_a_set_bears_its_name(host: Host) -> None:
    """Whichever of the files a run names: one that names fewer is nothing to do."""
    status = {"status.conf": f"return 200 {nginx.STAMP};"}
    first = host.apply({"sites/a.conf": "a", "sites/b.conf": "b", **status})
    answer = host.service.proved
    assert f"return 200 {answer};" in (host.root / "asgi/live/status.conf").read_text()
    assert not host.apply({"sites/a.conf": "a", **status}).changed
    assert host.apply({"sites/a.conf": "A", **status}).digest != first.digest
    assert host.service.proved != answer


def test_workers(tmp_path: Path) -> None:
    """Only workers of this master that still take connections count; a command may hold blanks and brackets."""

    def process(pid: int, parent: int, title: str, command: str = "nginx") -> None:
        (tmp_path / str(pid)).mkdir()
        fields = ["S", str(parent), *["0"] * 17, str(pid * 10)]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({command}) {' '.join(fields)} 0 0\n")
        (tmp_path / str(pid) / "cmdline").write_bytes(title.encode() + b"\0\0\0")

    process(7, 1, "nginx: master process /usr/sbin/nginx")
    process(8, 7, "nginx: worker process", command="a ) b (")
    process(9, 7, "nginx: worker process is shutting down")
    process(10, 6, "nginx: worker process")
    (tmp_path / "11").mkdir()
    (tmp_path / "self").mkdir()
    assert nginx.Systemd(proc=tmp_path).workers(7) == {(8, "80")}


# --- the unit's settings ---------------------------------------------------------------------------------------------


def sandboxed(settings: str = "[Service]\nUser=www-data\n", **files: str) -> nginx.Tree:
    return {"nginx.service.conf": settings, "prepare": "true\n", **files}


def runs(host: Host) -> tuple[str | None, str | None]:
    """What Nginx runs, and with which unit."""
    return host.service.has, host.service.unit


def test_new_settings_are_a_restart_once(host: Host) -> None:
    host.service.enabled = True
    host.service.take()
    before = host.state()
    told = host.apply(sandboxed(), check=True)
    assert host.state() == before
    assert not host.service.prepared
    done = host.apply(sandboxed())
    assert (told.files, told.actions) == (done.files, done.actions)
    assert done.actions == ["restarted"]
    assert str(host.service.drop_in) in done.files
    assert runs(host) == (CONFIG, "[Service]\nUser=www-data\n")
    assert not host.apply(sandboxed()).changed
    assert host.service.restarts == 1
    # A change of other files is a reload.
    assert host.apply(sandboxed(**{"sites/a.conf": "A\n"})).actions == ["reloaded"]
    assert host.apply(sandboxed("[Service]\nNice=1\n")).actions == ["restarted"]
    assert host.service.unit == "[Service]\nNice=1\n"
    # As the distribution has it again.
    done = host.apply({}, absent=["nginx.service.conf"])
    assert done.actions == ["restarted"]
    assert runs(host) == (CONFIG + "A\n", None)
    assert not host.service.drop_in.is_symlink()
    assert not host.apply({}, absent=["nginx.service.conf"]).changed


def test_prepared_before_each_test(host: Host) -> None:
    host.apply(sandboxed())
    host.apply(sandboxed())
    host.apply({"prepare": "false\n"})
    assert host.service.prepared == ["true\n", "true\n", "false\n"]


def test_what_only_root_can_do_is_refused_with_the_settings(host: Host) -> None:
    host.service.enabled = True
    host.service.take()
    (host.root / "conf.d/x.conf").write_text("ROOT\n")
    before = host.state()
    for __run in range(2):
        with pytest.raises(nginx.Refused, match="13: Permission denied") as raised:
            host.apply(sandboxed())
        assert "nginx_sandbox" in str(raised.value)
        assert host.state() == before
        assert not host.service.drop_in.is_symlink()
    assert host.service.restarts == 0
    assert host.apply({}).actions == ["reloaded"]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("active", [False, True])
def test_settings_that_do_not_start_are_put_back(host: Host, first: bool, active: bool) -> None:
    host.service.enabled = True
    if not first:
        host.apply(sandboxed())
    host.service.take()
    was, unit = runs(host)
    if not active:
        host.service.has = None
    before = host.state()
    for __run in range(2):
        with pytest.raises(nginx.Refused):
            host.apply(sandboxed("UNUSABLE"))
        after = host.state()
        if first:
            assert after.pop("asgi/replaced-nginx.conf")
        assert after == before
        assert host.service.drop_in.is_symlink() is not first
        assert host.service.loaded == unit
        if active:
            assert runs(host) == (was, unit)
        else:
            assert host.service.has is None
    assert host.apply(sandboxed()).actions == (["restarted"] if first and active else [] if active else ["started"])


def test_a_replaced_program_is_a_restart(host: Host) -> None:
    host.apply(sandboxed())
    host.service.outdated = True
    assert host.apply(sandboxed()).actions == ["restarted"]
    assert not host.apply(sandboxed()).changed


@pytest.mark.parametrize("restarted", ["no", "restart", "boot"])
@pytest.mark.parametrize("change", ["first", "new", "away"])
@pytest.mark.parametrize("at", STEPS)
def test_killed_when_the_settings_change(host: Host, at: str, change: str, restarted: str) -> None:
    """Configuration and unit always belong together, whatever step a run ends at."""
    host.service.enabled = True
    host.service.take()
    if change != "first":
        host.apply(sandboxed("OLD\n", **{"sites/a.conf": "for OLD\n"}))
    old = host.service.unit
    wanted = {"sites/a.conf": "no unit\n"} if change == "away" else sandboxed("NEW\n", **{"sites/a.conf": "for NEW\n"})
    more: dict[str, t.Any] = {"absent": ["nginx.service.conf"] if change == "away" else []}

    def step(name: str) -> None:
        if name == at:
            os._exit(9)

    child = os.fork()
    if child == 0:
        host.apply(wanted, step=step, **more)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

    done_there = at in ("taken", "marked")
    if done_there or restarted == "boot":
        if restarted == "boot":
            host.marker.unlink(missing_ok=True)
        host.service.start()
        text, unit = runs(host)
        assert (f"for {unit}" in (text or "")) is (unit is not None), "one set's unit with another's configuration"
    elif restarted == "restart":
        host.service.unit = host.service.loaded
        host.service.take()
    assert old in (None, "OLD\n")
    told = host.apply(wanted, check=True, **more)
    done = host.apply(wanted, **more)
    assert (told.changed, told.files, told.actions) == (done.changed, done.files, done.actions)
    assert runs(host) == (CONFIG + wanted["sites/a.conf"], wanted.get("nginx.service.conf"))
    assert not host.apply(wanted, **more).changed
    assert host.service.drop_in.is_symlink() is ("nginx.service.conf" in wanted)


def test_a_configuration_is_tested_as_the_unit_runs_it() -> None:
    unit = "[Service]\nUser=www-data\nExecStart=\nExecStart=/usr/sbin/nginx -g 'pid /x;'\nExecReload=/bin/true\n"
    lines = nginx.as_tested(unit, Path("/etc/nginx/t.conf"), Path("/run/o")).splitlines()
    assert "User=www-data" in lines
    starts = [line for line in lines if line.startswith("ExecStart=")]
    assert starts[-2:] == ["ExecStart=", "ExecStart=/usr/sbin/nginx -g 'pid /x;' -t -c /etc/nginx/t.conf"]
    assert [line for line in lines if line.startswith("ExecReload=")][-1] == "ExecReload="
    assert "ExecStart=/usr/sbin/nginx -t -c /c" in nginx.as_tested("[Service]\n", Path("/c"), Path("/o")).splitlines()


def test_the_warning_about_the_user_is_expected() -> None:
    warned = f"nginx: [warn] {nginx.EXPECTED_WARNING}, ignored in /etc/nginx/nginx.conf:6\n"
    assert nginx.warnings_of(warned + "nginx: [warn] other\n") == ["other"]
    assert nginx.explain(warned + "nginx: [emerg] bad\n", {}) == "[emerg] bad"


def test_queues_that_the_kernel_cuts_are_told(tmp_path: Path) -> None:
    tree = {"a": "listen 80 backlog=4096;\nlisten [::]:80 backlog=511;"}
    setting = tmp_path / "somaxconn"
    assert nginx.short_queues(tree, setting) == []
    setting.write_text("4096\n")
    assert nginx.short_queues(tree, setting) == []
    setting.write_text("128\n")
    assert len(nginx.short_queues(tree, setting)) == 1
    assert "backlog=4096" in nginx.short_queues(tree, setting)[0]


def test_proof(tmp_path: Path) -> None:
    """The new configuration's answer is waited for, whatever an old worker says; none in time is an error."""
    answers = ["old", "new", "old"]
    with socket.socket(socket.AF_UNIX) as listening:
        place = tmp_path / "status.sock"
        listening.bind(str(place))
        listening.listen()

        def serve() -> None:
            for text in answers:
                connection = listening.accept()[0]
                with connection:
                    assert connection.recv(1000).startswith(b"GET /configuration ")
                    connection.sendall(f"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{text}\n".encode())

        thread = threading.Thread(target=serve)
        thread.start()
        nginx.Systemd(proof=place).prove("new")
        with pytest.raises(nginx.Refused, match="answers 'old'"):
            nginx.Systemd(timeout=0, proof=place).prove("new")
        thread.join()
    with pytest.raises(nginx.Refused, match="refused"):
        nginx.Systemd(timeout=0, proof=place).prove("new")
    nginx.Systemd().prove("new")


def test_a_replaced_program(tmp_path: Path) -> None:
    for pid, target in ((7, "/usr/sbin/nginx"), (8, "/usr/sbin/nginx (deleted)")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "exe").symlink_to(target)
    service = nginx.Systemd(proc=tmp_path)
    assert [service.is_replaced(pid) for pid in (7, 8, 9)] == [False, True, False]
