# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources on the control node: digests, archives and repositories, with real trees and real git."""

from __future__ import annotations

import os
import subprocess
import tarfile
import typing as t
from pathlib import Path

import pytest

from ansible_collections.asgi.stack.plugins.plugin_utils import _source
from ansible_collections.asgi.stack.plugins.plugin_utils._source import SourceError

GIT_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "protocol.file.allow",
    "GIT_CONFIG_VALUE_0": "always",
    "GIT_CONFIG_KEY_1": "init.defaultBranch",
    "GIT_CONFIG_VALUE_1": "main",
    **{f"GIT_{who}_{what}": "tester@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "GIT_AUTHOR_DATE": "2020-02-02T02:02:02Z",
    "GIT_COMMITTER_DATE": "2020-02-02T02:02:02Z",
}


def fill(root: Path, files: dict[str, str]) -> Path:
    """Write *files* below *root*."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = fill(tmp_path / "shop", {"main.py": "app = 1\n", "static/a.css": "a {}\n", "run": "#!/bin/sh\n"})
    (root / "run").chmod(0o755)
    (root / "empty").mkdir()
    (root / "link").symlink_to("static/a.css")
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    path.mkdir()
    return path


def digest(root: Path, *exclude: str) -> str:
    return _source.tree_digest(root, [*_source.EXCLUDED, *exclude])


def content(root: Path) -> dict[str, tuple[str, bool]]:
    """What is below *root*: for each name its content and whether it can be run."""
    found = {}
    for path in sorted(root.rglob("*")):
        text = f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text() if path.is_file() else "/"
        found[path.relative_to(root).as_posix()] = (text, os.access(path, os.X_OK) and path.is_file())
    return found


def unpack(archive: Path, target: Path) -> dict[str, tuple[str, bool]]:
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data") if hasattr(tarfile, "data_filter") else tar.extractall(target)
    return content(target)


# --- trees -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "main.py").write_text("app = 2\n"),
        lambda root: (root / "main.py").rename(root / "more.py"),
        lambda root: (root / "main.py").rename(root / "static/main.py"),
        lambda root: (root / "main.py").unlink(),
        lambda root: (root / "new").touch(),
        lambda root: (root / "main.py").chmod(0o755),
        lambda root: (root / "empty").rmdir(),
        lambda root: ((root / "link").unlink(), (root / "link").symlink_to("main.py")),
        lambda root: ((root / "link").unlink(), (root / "link").write_text("a {}\n")),
    ],
    ids=["content", "name", "place", "removed", "added", "executable", "directory", "link", "file for link"],
)
def test_another_digest(tree: Path, change: t.Callable[[Path], t.Any]) -> None:
    before = digest(tree)
    change(tree)
    assert digest(tree) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: os.utime(root / "main.py", (1, 1)),
        lambda root: (root / "main.py").chmod(0o600),
        lambda root: root.rename(root.parent / "moved") and (root.parent / "moved").rename(root),
        lambda root: fill(root, {".git/HEAD": "x", "static/__pycache__/a.pyc": "x", "b.pyo": "x", ".venv/x": "x"}),
        lambda root: fill(root, {"notes.md": "x", "static/notes.md": "x"}),
    ],
    ids=["time", "other permissions", "moved", "caches", "excluded"],
)
def test_the_same_digest(tree: Path, change: t.Callable[[Path], t.Any]) -> None:
    before = digest(tree, "*.md")
    change(tree)
    assert digest(tree, "*.md") == before


def test_the_digest_does_not_depend_on_where_or_when(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-R", "--no-dereference", str(tree), str(other)], check=True)
    assert digest(other) == digest(tree)


def test_two_files_are_not_one(tmp_path: Path) -> None:
    assert digest(fill(tmp_path / "a", {"ab": "c"})) != digest(fill(tmp_path / "b", {"a": "bc"}))


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "../other",
        "static/../../other",
        "../shop/main.py",
    ],
)
def test_a_link_out_of_the_tree(tree: Path, target: str) -> None:
    (tree / "bad").symlink_to(target)
    with pytest.raises(SourceError, match=r"source\.path: the link .*/bad points out of the source, to "):
        digest(tree)


def test_an_excluded_link_may_point_anywhere(tree: Path) -> None:
    (tree / "venv").symlink_to("/usr")
    digest(tree)


def test_a_pipe_is_no_source(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with pytest.raises(SourceError, match=r"/pipe is neither a file nor a directory"):
        digest(tree)


def test_any_name_of_a_file(tree: Path) -> None:
    (tree / os.fsdecode(b"caf\xe9")).touch()
    digest(tree)


# --- directories, files and packages ---------------------------------------------------------------------------------


def test_a_directory(tree: Path, cache: Path) -> None:
    found = _source.resolve({"path": "shop", "exclude": ["*.css"]}, tree.parent, cache)
    assert found["kind"] == "tree"
    assert found["path"] == str(tree)
    assert found["digest"] == digest(tree, "*.css")
    assert found["revision"] == f"shop {found['digest'][:12]}"


def test_home_is_known(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree.parent))
    assert _source.resolve({"path": "~/shop"}, Path("/nowhere"), cache)["path"] == str(tree)


def test_a_wheel(tmp_path: Path, cache: Path) -> None:
    wheel = tmp_path / "shop-1.0-py3-none-any.whl"
    wheel.write_bytes(b"one")
    found = _source.resolve({"path": wheel.name}, tmp_path, cache)
    assert (found["kind"], found["filename"], found["revision"]) == ("file", wheel.name, wheel.name)
    assert _source.archive(found, cache) == wheel
    wheel.write_bytes(b"two")
    assert _source.resolve({"path": wheel.name}, tmp_path, cache)["digest"] != found["digest"]


def test_a_package(cache: Path) -> None:
    found = _source.resolve({"package": "shop==2.4.1"}, Path("."), cache)
    assert (found["kind"], found["package"], found["revision"]) == ("package", "shop==2.4.1", "shop==2.4.1")
    assert found["digest"] != _source.resolve({"package": "shop==2.4.2"}, Path("."), cache)["digest"]


@pytest.mark.parametrize(("name", "words"), [("nothing", "found nothing at /"), ("shop/main.py", "found the file /")])
def test_not_a_source(tree: Path, cache: Path, name: str, words: str) -> None:
    with pytest.raises(SourceError, match=f"^source.path: {words}.*expected a directory"):
        _source.resolve({"path": name}, tree.parent, cache)


# --- archives --------------------------------------------------------------------------------------------------------


def test_an_archive_is_the_tree(tree: Path, cache: Path, tmp_path: Path) -> None:
    fill(tree, {".git/HEAD": "x", "notes.md": "x"})
    os.link(tree / "main.py", tree / "same.py")
    archive = _source.archive(_source.resolve({"path": "shop", "exclude": ["*.md"]}, tree.parent, cache), cache)
    assert unpack(archive, tmp_path / "unpacked") == {
        "empty": ("/", False),
        "link": ("-> static/a.css", False),
        "main.py": ("app = 1\n", False),
        "run": ("#!/bin/sh\n", True),
        "same.py": ("app = 1\n", False),
        "static": ("/", False),
        "static/a.css": ("a {}\n", False),
    }


def test_an_archive_is_roots(tree: Path, cache: Path) -> None:
    (tree / "main.py").chmod(0o6660)
    (tree / "static").chmod(0o700)
    if os.getuid() == 0:
        os.chown(tree / "main.py", 1234, 1234)
    archive = _source.archive(_source.resolve({"path": "shop"}, tree.parent, cache), cache)
    with tarfile.open(archive) as tar:
        members = {member.name: member for member in tar}
    assert {(m.uid, m.gid, m.uname, m.gname) for m in members.values()} == {(0, 0, "root", "root")}
    assert {name: member.mode for name, member in members.items() if not member.issym()} == {
        "empty": 0o755,
        "main.py": 0o644,
        "run": 0o755,
        "static": 0o755,
        "static/a.css": 0o644,
    }


def test_an_archive_is_made_once(tree: Path, cache: Path) -> None:
    found = _source.resolve({"path": "shop"}, tree.parent, cache)
    first = _source.archive(found, cache)
    inode = first.stat().st_ino
    assert _source.archive(found, cache).stat().st_ino == inode


def test_a_tree_that_changed_meanwhile(tree: Path, cache: Path) -> None:
    found = _source.resolve({"path": "shop"}, tree.parent, cache)
    (tree / "main.py").write_text("app = 2\n")
    with pytest.raises(SourceError, match="has changed while it was read"):
        _source.archive(found, cache)
    assert not list((cache / "archives").glob("*.tar.gz"))


def test_old_archives_are_forgotten(tree: Path, cache: Path) -> None:
    old = _source.archive(_source.resolve({"path": "shop"}, tree.parent, cache), cache)
    os.utime(old, (1, 1))
    (tree / "main.py").write_text("app = 2\n")
    new = _source.archive(_source.resolve({"path": "shop"}, tree.parent, cache), cache)
    assert new.exists()
    assert not old.exists()


# --- repositories ----------------------------------------------------------------------------------------------------


class Repository:
    """A git repository with one commit on the branch main."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet")
        self.first = self.commit("one")

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(self.path), *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, text: str) -> str:
        fill(self.path, {"main.py": text})
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", text)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name, value in GIT_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return Repository(tmp_path / "repository")


def resolve(repository: Repository, version: t.Any, cache: Path) -> dict[str, t.Any]:
    return _source.resolve({"git": str(repository.path), "version": version}, Path("."), cache)


def test_every_kind_of_version_is_a_commit(repository: Repository, cache: Path) -> None:
    repository.git("tag", "light")
    repository.git("tag", "--annotate", "--message", "x", "v1")
    second = repository.commit("two")
    repository.git("branch", "feature/x")
    for version, commit in [
        ("light", repository.first),
        ("v1", repository.first),
        ("main", second),
        ("feature/x", second),
        ("HEAD", second),
        (repository.first, repository.first),
        (repository.first[:8], repository.first),
    ]:
        assert resolve(repository, version, cache)["commit"] == commit, version


def test_the_revision_is_for_people(repository: Repository, cache: Path) -> None:
    short = repository.first[:12]
    assert resolve(repository, "main", cache)["revision"] == f"main ({short})"
    assert resolve(repository, repository.first, cache)["revision"] == short
    assert resolve(repository, short, cache)["revision"] == short


def test_the_digest_is_the_commits(repository: Repository, cache: Path) -> None:
    repository.git("tag", "v1")
    first = resolve(repository, "v1", cache)
    assert resolve(repository, "main", cache)["digest"] == first["digest"]
    repository.commit("two")
    assert resolve(repository, "main", cache)["digest"] != first["digest"]


def test_a_tag_comes_before_a_branch(repository: Repository, cache: Path) -> None:
    repository.git("tag", "same")
    repository.commit("two")
    repository.git("branch", "same")
    assert resolve(repository, "same", cache)["commit"] == repository.first


def test_a_moved_branch_is_a_new_commit(repository: Repository, cache: Path) -> None:
    resolve(repository, "main", cache)
    repository.git("commit", "--quiet", "--amend", "--allow-empty", "--message", "rewritten")
    assert resolve(repository, "main", cache)["commit"] == repository.git("rev-parse", "HEAD") != repository.first


def test_a_moved_tag_is_a_new_commit(repository: Repository, cache: Path) -> None:
    repository.git("tag", "v1")
    resolve(repository, "v1", cache)
    second = repository.commit("two")
    repository.git("tag", "--force", "v1")
    assert resolve(repository, "v1", cache)["commit"] == second


def test_a_known_commit_needs_no_repository(repository: Repository, cache: Path) -> None:
    resolve(repository, "main", cache)
    repository.path.rename(repository.path.parent / "gone")
    assert resolve(repository, repository.first, cache)["commit"] == repository.first


def test_a_commit_that_no_branch_has(repository: Repository, cache: Path) -> None:
    lost = repository.commit("two")
    repository.git("reset", "--quiet", "--hard", repository.first)
    repository.git("config", "uploadpack.allowAnySHA1InWant", "true")
    assert resolve(repository, lost, cache)["commit"] == lost


def test_a_branch_in_the_place_of_another(repository: Repository, cache: Path) -> None:
    repository.git("branch", "fix")
    resolve(repository, "fix", cache)
    repository.git("branch", "--move", "fix", "fix/one")
    second = repository.commit("two")
    repository.git("branch", "--force", "fix/one", second)
    assert resolve(repository, "fix/one", cache)["commit"] == second


@pytest.mark.parametrize("version", [2024, 1.5])
def test_a_version_that_yaml_reads_as_a_number(repository: Repository, cache: Path, version: float) -> None:
    repository.git("tag", str(version))
    assert resolve(repository, version, cache)["commit"] == repository.first


@pytest.mark.parametrize("version", ["v9", "0123456", "0" * 40, "v1^{tree}"])
def test_a_version_that_does_not_exist(repository: Repository, cache: Path, version: str) -> None:
    with pytest.raises(SourceError) as error:
        resolve(repository, version, cache)
    assert str(error.value) == (
        f"source.version: found {version!r}, which is no tag, branch or commit of {repository.path}"
    )


def test_a_repository_that_does_not_exist(repository: Repository, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^source\.git: git: (?s:.*)/nowhere"):
        _source.resolve({"git": str(tmp_path / "nowhere"), "version": "main"}, Path("."), cache)


def test_a_control_node_without_git(repository: Repository, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SourceError, match="^source.git: git is not installed on the control node"):
        resolve(repository, "main", cache)


@pytest.mark.parametrize(
    "credentials",
    [
        "deploy:hunter2",
        "hunter2",
        "deploy:p@hunter2",
        "deploy:p/hunter2",
    ],
)
def test_credentials_are_not_in_an_error(repository: Repository, cache: Path, credentials: str) -> None:
    url = f"https://{credentials}@localhost:1/shop.git"  # nothing listens there
    with pytest.raises(SourceError) as error:
        _source.resolve({"git": url, "version": "main"}, Path("."), cache)
    assert "source.git: git: " in str(error.value)
    assert "hunter2" not in str(error.value)
    assert "hunter2" not in _source._public(f"no tag of {url}")


def test_credentials_are_not_in_the_result(
    repository: Repository, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_source, "_commit", lambda url, version, mirror, run: repository.first)
    found = _source.resolve({"git": "https://deploy:hunter2@git.example/shop.git", "version": "main"}, Path("."), cache)
    assert "hunter2" not in str(found)


def test_the_archive_of_a_repository_is_its_commit(repository: Repository, cache: Path, tmp_path: Path) -> None:
    (repository.path / "run").touch(mode=0o755)
    fill(repository.path, {"node_modules/kept": "as committed", ".gitignore": "junk"})
    repository.git("add", "--all", "--force")
    repository.commit("two")
    fill(repository.path, {"main.py": "not committed", "junk": "x"})
    archive = _source.archive(resolve(repository, "main", cache), cache)
    assert unpack(archive, tmp_path / "unpacked") == {
        ".gitignore": ("junk", False),
        "main.py": ("two", False),
        "node_modules": ("/", False),
        "node_modules/kept": ("as committed", False),
        "run": ("", True),
    }
    assert (tmp_path / "unpacked/main.py").stat().st_mtime == 1580608922  # the commit's


def test_submodules_come_along(repository: Repository, cache: Path, tmp_path: Path) -> None:
    Repository(tmp_path / "library")
    repository.git("submodule", "--quiet", "add", "../library", "lib")
    repository.commit("with a library")
    archive = _source.archive(resolve(repository, "main", cache), cache)
    found = unpack(archive, tmp_path / "unpacked")
    assert found["lib/main.py"] == ("one", False)
    assert not any(".git" in name.split("/") for name in found)


def test_a_checkout_leaves_nothing(repository: Repository, cache: Path) -> None:
    _source.archive(resolve(repository, "main", cache), cache)
    assert sorted(path.name for path in cache.iterdir()) == ["archives", "git"]


def test_a_branch_is_one_commit_for_all_hosts_of_a_run(repository: Repository, cache: Path) -> None:
    source = {"git": str(repository.path), "version": "main"}
    first = _source.resolve(source, Path("."), cache, run="one")
    repository.commit("two")
    assert _source.resolve(source, Path("."), cache, run="one")["commit"] == first["commit"]
    assert _source.resolve(source, Path("."), cache, run="two")["commit"] != first["commit"]
