# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds: what their address is made of, what uv is asked, and that nothing half-built is ever used."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
import tarfile
import typing as t
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.asgi.stack.plugins.module_utils import _build, _system
from ansible_collections.asgi.stack.plugins.module_utils._build import BuildRequest
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError

TREE = {"kind": "tree", "digest": "d" * 64, "revision": "v1"}


def make(**more: t.Any) -> BuildRequest:
    """A request to build the application shop."""
    request = BuildRequest(
        name="shop",
        source=TREE,
        requirements=None,
        server_requirements=["gunicorn>=25,<28", "uvicorn>=0.41"],
        hooks=[],
        root=Path("/srv/asgi/shop"),
        python="/usr/bin/python3",
        uv="/opt/uv",
        environment={},
        lock_timeout=0,
        timeout=60,
    )
    return request._replace(**more)


# --- the address -----------------------------------------------------------------------------------------------------


def address(interpreter: str = "cpython-3.13", machine: str = "x86_64", **more: t.Any) -> str:
    return _build.digest(make(**more), interpreter, machine)


def test_an_address_is_a_name() -> None:
    assert len(address()) == 16
    int(address(), 16)


@pytest.mark.parametrize(
    "more",
    [
        {"source": {**TREE, "digest": "e" * 64}},
        {"source": {**TREE, "kind": "file"}},
        {"requirements": "requirements.txt"},
        {"server_requirements": ["gunicorn>=25,<28"]},
        {"hooks": ["make"]},
        {"interpreter": "cpython-3.11"},
        {"machine": "aarch64"},
    ],
)
def test_another_address(more: dict[str, t.Any]) -> None:
    assert address(**more) != address()


@pytest.mark.parametrize(
    "more",
    [
        {"source": {**TREE, "revision": "other words", "path": "/elsewhere"}},
        {"server_requirements": ["uvicorn>=0.41", "gunicorn>=25,<28"]},
        {"root": Path("/data"), "uv": "/opt/uv2", "python": "/opt/python", "lock_timeout": 9, "timeout": 9},
        {"environment": {"UV_DEFAULT_INDEX": "https://user:password@index.example/simple"}},
    ],
)
def test_the_same_address(more: dict[str, t.Any]) -> None:
    assert address(**more) == address()


def test_the_order_of_hooks_matters() -> None:
    assert address(hooks=["a", "b"]) != address(hooks=["b", "a"])


# --- the interpreter -------------------------------------------------------------------------------------------------


def test_the_version_of_the_interpreter() -> None:
    version = ".".join(map(str, sys.version_info[:2]))
    assert _build.interpreter_version(sys.executable) == f"{sys.implementation.name}-{version}"


def test_an_interpreter_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="/nowhere/python: No such file"):
        _build.interpreter_version("/nowhere/python")
    broken = script(tmp_path / "python", "echo broken >&2; exit 1")
    with pytest.raises(HostError, match=f"^the interpreter {broken} does not run: broken$"):
        _build.interpreter_version(str(broken))


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# --- the index and its credentials -----------------------------------------------------------------------------------

URL = "https://index.example:8443/simple/"


def test_the_default_index() -> None:
    environment = _build.index_environment(None, None, None)
    assert "UV_DEFAULT_INDEX" not in environment
    assert environment["UV_PYTHON_DOWNLOADS"] == "never"


def test_an_index_with_credentials() -> None:
    found = _build.index_environment(URL, "me@example.com", "p/w:@ #%")
    assert found["UV_DEFAULT_INDEX"] == "https://me%40example.com:p%2Fw%3A%40%20%23%25@index.example:8443/simple/"


@pytest.mark.parametrize(
    ("username", "password", "wanted"),
    [
        (None, None, URL),
        (None, "alone", URL),
        ("token", None, "https://token@index.example:8443/simple/"),
        ("a", "b", "https://a:b@index.example:8443/simple/"),
    ],
)
def test_credentials(username: str | None, password: str | None, wanted: str) -> None:
    assert _build.with_credentials(URL, username, password) == wanted


def test_credentials_replace_those_of_the_address() -> None:
    assert _build.with_credentials("https://old:one@index.example/", "a", "b") == "https://a:b@index.example/"


PRINTABLE = st.text(st.characters(exclude_categories=["C"]), min_size=1)


@given(PRINTABLE, PRINTABLE)
def test_any_credentials_arrive_and_are_redacted(username: str, password: str) -> None:
    url = _build.with_credentials(URL, username, "SECRET" + password)
    parts = urlsplit(url)
    assert (unquote(parts.username or ""), unquote(parts.password or "")) == (username, "SECRET" + password)
    assert parts.hostname == "index.example"
    assert _build.redact(f"error: {url} not found") == f"error: {URL.replace('://', '://****@')} not found"


@pytest.mark.parametrize("text", ["no address", "https://index.example/a", "mail me@example.com", ""])
def test_nothing_to_redact(text: str) -> None:
    assert _build.redact(text) == text


@pytest.mark.parametrize(
    "url",
    [
        "https://u:SECRET@h/",
        "git+ssh://SECRET@h/x",
        "a https://u:SECRET@h b http://u:SECRET@i",
        "https://u:p/SECRET@h/",
        "https://u:p@SECRET@h/",
    ],
)
def test_redacted(url: str) -> None:
    assert "SECRET" not in _build.redact(f"error: {url} not found")


# --- requirements ----------------------------------------------------------------------------------------------------


def test_which_requirements(tmp_path: Path) -> None:
    assert _build._requirements(make(), tmp_path) is None
    (tmp_path / "uv.lock").mkdir()  # not a file
    (tmp_path / "dev-requirements.txt").touch()
    for name in ("pyproject.toml", "requirements.txt", "pylock.toml"):
        (tmp_path / name).touch()
        assert _build._requirements(make(), tmp_path) == name
    (tmp_path / "uv.lock").rmdir()
    (tmp_path / "uv.lock").touch()
    assert _build._requirements(make(), tmp_path) == "uv.lock"
    assert _build._requirements(make(requirements="dev-requirements.txt"), tmp_path) == "dev-requirements.txt"


def test_requirements_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").touch()
    with pytest.raises(HostError, match="^shop: requirements: found no file deploy/prod.txt in the source$"):
        _build._requirements(make(requirements="deploy/prod.txt"), tmp_path)


@pytest.mark.parametrize(
    ("requirement", "bare"),
    [
        ("gunicorn>=25,<28", "gunicorn"),
        ("gunicorn", "gunicorn"),
        ("uvicorn[standard]>=0.41", "uvicorn[standard]"),
        ("uvicorn [standard, x] == 1", "uvicorn [standard, x]"),
        ("zope.interface-x_y~=1", "zope.interface-x_y"),
        ('uvloop>=0.21; python_version < "3.14"', 'uvloop ; python_version < "3.14"'),
    ],
)
def test_without_bounds(requirement: str, bare: str) -> None:
    assert _build._without_bounds(requirement) == bare


@pytest.mark.parametrize(
    ("text", "is_package"),
    [
        ('[build-system]\nrequires = ["hatchling"]\n', True),
        ('[project]\nname = "shop"\n  [build-system]\n', True),
        ('[project]\nname = "shop"\n', False),
        ("# [build-system]\n", False),
        (None, False),
    ],
)
def test_a_project_that_is_a_package(tmp_path: Path, text: str | None, is_package: bool) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    assert _build._is_package(tmp_path) is is_package


# --- building, with a uv that only writes down what it was asked -----------------------------------------------------

UV = """
echo "$*" >> {log}
case "$1" in
    venv) mkdir -p "$VIRTUAL_ENV/bin" && ln -s /bin/true "$VIRTUAL_ENV/bin/python" ;;
    export) while [ $# -gt 1 ]; do [ "$1" = --output-file ] && echo locked==1 > "$2"; shift; done ;;
esac
case "$*" in
    *freeze*) echo shop-dependency==1 ;;
    {fails}) echo "error: no versions at https://user:SECRET@index.example/" >&2; exit 1 ;;
esac
"""


class Site:
    """A place where builds are made, as whoever runs the tests."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "shop"
        self.builds = self.root / "builds"
        self.log = folder / "uv.log"
        self.folder = folder
        self._archives = itertools.count()
        self.uv("nothing")

    def uv(self, fails: str) -> None:
        """Have a uv that fails where its arguments match *fails*, a pattern of the shell."""
        text = UV.replace("{log}", shlex.quote(str(self.log))).replace("{fails}", fails)
        self.uv_path = script(self.folder / "uv", text)

    def archive(self, files: dict[str, str]) -> Path:
        tree = self.folder / f"tree{next(self._archives)}"
        tree.mkdir()
        for name, text in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        path = tree.with_suffix(".tar.gz")
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tree, ".")
        return path

    def build(self, files: dict[str, str] | None = None, name: str = "a1", **more: t.Any) -> Path:
        request = make(root=self.root, uv=str(self.uv_path), **more)
        return _build.build(request, None if files is None else self.archive(files), "cpython-3.13", name)

    def asked(self) -> list[str]:
        """What uv was asked since the last look, without the paths of this build."""
        text = self.log.read_text() if self.log.exists() else ""
        self.log.unlink(missing_ok=True)
        return text.replace(str(self.builds / "a1"), "B").splitlines()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    run = _system.run

    def as_ourselves(command: t.Sequence[str], **more: t.Any) -> subprocess.CompletedProcess[str]:
        assert more.pop("user") == _build.BUILDER, f"{command} would run as root"
        return run(command, **more)

    monkeypatch.setattr(_system, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(_system, "run", as_ourselves)
    monkeypatch.setattr(_system, "ensure_user", lambda name, home: False)
    monkeypatch.setattr(_build, "BUILDER_HOME", tmp_path / "home")
    monkeypatch.setattr(_build, "_own", lambda path, user: None)
    monkeypatch.setattr(os, "lchown", lambda path, uid, gid: None)
    monkeypatch.setattr("shutil.chown", lambda path, user, group: None)
    return Site(tmp_path)


SERVER = "gunicorn>=25,<28 uvicorn>=0.41"


def test_a_build(site: Site) -> None:
    path = site.build({"main.py": "app = 1\n", "requirements.txt": "starlette\n"})
    assert path == site.builds / "a1"
    assert _build.is_complete(path)
    assert (path / "src/main.py").read_text() == "app = 1\n"
    assert (path / "packages.txt").read_text() == "shop-dependency==1\n"
    marker = json.loads((path / "build.json").read_text())
    assert marker == {
        "address": "a1",
        "interpreter": "cpython-3.13",
        "revision": "v1",
        "digest": TREE["digest"],
        "after": 0,
    }
    assert site.asked() == [
        "venv --quiet --python /usr/bin/python3 B/venv",
        f"pip install --compile-bytecode -r requirements.txt {SERVER}",
        "pip freeze",
    ]


def test_a_build_is_made_once(site: Site) -> None:
    path = site.build({"main.py": ""})
    site.asked()
    inode = path.stat().st_ino
    assert site.build({"main.py": ""}).stat().st_ino == inode
    assert site.asked() == []


def test_a_build_can_be_read_by_all_and_written_by_nobody_else(site: Site) -> None:
    path = site.build({"main.py": "", "deep/run": ""}, hooks=["chmod 700 deep; chmod 4775 deep/run; chmod 600 main.py"])
    modes = {
        name: oct((path / name).stat().st_mode & 0o7777)
        for name in ("", "src", "src/deep", "src/deep/run", "src/main.py")
    }
    assert modes == {"": "0o755", "src": "0o755", "src/deep": "0o755", "src/deep/run": "0o755", "src/main.py": "0o644"}


def test_a_build_can_be_reached_under_any_umask(site: Site) -> None:
    umask = os.umask(0o077)
    try:
        site.build({"main.py": ""})
    finally:
        os.umask(umask)
    assert [oct(path.stat().st_mode & 0o777) for path in (site.builds, site.root)] == ["0o755", "0o755"]


def test_a_locked_project(site: Site) -> None:
    site.build({"uv.lock": "", "pyproject.toml": "[build-system]\n"})
    assert site.asked()[1:-1] == [
        "export --quiet --frozen --no-dev --no-emit-project --project B/src --format requirements-txt"
        " --output-file B/locked.txt",
        f"pip install --compile-bytecode -r B/locked.txt {SERVER}",
        "pip install --compile-bytecode --no-deps B/src",
    ]


def test_a_pylock(site: Site) -> None:
    site.build({"pylock.toml": ""})
    assert site.asked()[1:-1] == [
        "pip install --compile-bytecode --preview-features pylock -r pylock.toml",
        "pip freeze",
        f"pip install --compile-bytecode -c B/locked.txt {SERVER}",
    ]


def test_a_package(site: Site) -> None:
    site.build(source={"kind": "package", "digest": "d", "package": "shop==2.4.1"})
    assert site.asked()[1] == f"pip install --compile-bytecode shop==2.4.1 {SERVER}"


def test_a_wheel(site: Site) -> None:
    site.build({}, source={"kind": "file", "digest": "d", "filename": "shop-1.0-py3-none-any.whl"})
    assert site.asked()[1] == f"pip install --compile-bytecode B/shop-1.0-py3-none-any.whl {SERVER}"


def test_the_applications_own_pins_win(site: Site) -> None:
    site.uv("*gunicorn\\>=*")
    site.build({"requirements.txt": "gunicorn==24\n"})
    assert site.asked()[1:3] == [
        f"pip install --compile-bytecode -r requirements.txt {SERVER}",
        "pip install --compile-bytecode -r requirements.txt gunicorn uvicorn",
    ]


def test_hooks_run_in_the_build(site: Site) -> None:
    path = site.build({"main.py": ""}, hooks=["echo $VIRTUAL_ENV > where", "cat where > again"])
    assert (path / "src/again").read_text() == f"{path}/venv\n"


@pytest.mark.parametrize(
    ("fails", "more", "words"),
    [
        ("venv*", {}, "shop: source: uv: error: no versions at"),
        ("pip*", {}, "shop: requirements: uv: error: no versions at"),
        ("pip*", {"source": {"kind": "package", "digest": "d", "package": "a==1"}}, "shop: source.package: uv: error:"),
        ("nothing", {"requirements": "r.txt"}, "shop: requirements: found no file r.txt in the source"),
        ("nothing", {"hooks": ["echo no; exit 3"]}, "shop: hooks.build: 'echo no; exit 3' ended with status 3\n  no$"),
    ],
)
def test_a_build_that_fails_leaves_nothing(site: Site, fails: str, more: dict[str, t.Any], words: str) -> None:
    site.uv(fails)
    with pytest.raises(HostError, match=f"^{words}") as error:
        site.build({"requirements.txt": ""}, **more)
    assert "SECRET" not in str(error.value)
    assert list(site.builds.iterdir()) == []


@pytest.mark.parametrize("kind", ["tree", "file"])
def test_a_source_that_did_not_come(site: Site, kind: str) -> None:
    with pytest.raises(HostError, match="^shop: the source was not brought to the host$"):
        site.build(source={"kind": kind, "digest": "d", "filename": "x.whl"})
    assert list(site.builds.iterdir()) == []


def test_an_archive_that_is_broken(site: Site) -> None:
    archive = site.folder / "broken.tar.gz"
    archive.write_bytes(b"no archive")
    with pytest.raises(HostError):
        _build.build(make(root=site.root, uv=str(site.uv_path)), archive, "cpython-3.13", "a1")


def test_a_build_that_was_cut_off_is_not_used(site: Site) -> None:
    other = site.build({"main.py": ""}, name="other")
    half = site.builds / "a1"
    (half / "src").mkdir(parents=True)
    (half / "src/half").touch()
    (site.builds / "half").mkdir()
    assert not _build.is_complete(half)
    path = site.build({"main.py": ""})
    assert _build.is_complete(path)
    assert sorted(file.name for file in (path / "src").glob("*.py")) == ["main.py"]
    assert not (path / "src/half").exists()
    assert sorted(site.builds.iterdir()) == [path, other]
    assert _build.is_complete(other)


def test_the_marker_is_written_last(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    seal = _build._seal

    def watch(target: Path) -> None:
        seal(target)
        seen.append(_build.is_complete(target))

    monkeypatch.setattr(_build, "_seal", watch)
    site.build({"main.py": ""})
    assert seen == [False]


def test_a_full_disk_is_said_in_words(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(target: Path) -> None:
        raise OSError(28, "No space left on device", "/srv/x")

    monkeypatch.setattr(_build, "_seal", full)
    with pytest.raises(HostError, match=r"^shop: the build failed: the disk is full \(/srv/x\)$"):
        site.build({"main.py": ""})
    assert list(site.builds.iterdir()) == []


def test_two_runs_do_not_interleave(site: Site) -> None:
    with _system.locked("shop", 0), pytest.raises(HostError, match="another run is working on shop"):
        site.build({"main.py": ""})


def test_an_archive_cannot_write_elsewhere(site: Site) -> None:
    path = site.folder / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../escaped"))
    with pytest.raises((tarfile.TarError, HostError)):
        _build.build(make(root=site.root, uv=str(site.uv_path)), path, "cpython-3.13", "a1")
    assert not list(site.root.rglob("escaped"))
    assert list(site.builds.iterdir()) == []
