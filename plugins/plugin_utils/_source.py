# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources, on the control node: from what ``source`` says to a digest and an archive.

Repositories are read here and not on the hosts: with the operator's own credentials, once for all hosts, so that
a branch is the same commit everywhere and no host needs git or a deploy key.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import gzip
import hashlib
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import time
import typing as t
from pathlib import Path

#: Never part of an application: version control, caches, virtual environments.
EXCLUDED = (
    ".git",
    ".hg",
    ".svn",
    "__pycache__",
    "*.py[co]",
    ".venv",
    "venv",
    ".tox",
    ".nox",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    "node_modules",
    ".DS_Store",
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ARCHIVE_LIFETIME = 7 * 86400  # seconds that an unused archive stays in the control node's cache


class SourceError(Exception):
    """A source cannot be had; the message begins with the key, such as ``source.path``."""


def resolve(source: t.Mapping[str, t.Any], base: Path, cache: Path, run: str = "") -> dict[str, t.Any]:
    """Return what *source* is now: ``{kind, digest, revision, …}``.

    :param source: the application's ``source``, valid.
    :param base: the directory that relative paths start from.
    :param cache: the control node's cache directory.
    :param run: names the run of Ansible: within one, a branch is one commit, for whatever host it is asked.
    :returns: ``kind`` is ``tree`` (a directory or a repository), ``file`` (a wheel or sdist) or ``package``; ``digest``
        changes with the content; ``revision`` is for people; the rest is what :func:`archive` needs.
    :raises SourceError: it isn't there, or the version does not exist.
    """
    if source.get("package"):
        package = str(source["package"])
        return {"kind": "package", "digest": _hash(package), "revision": package, "package": package}
    if source.get("git"):
        version = str(source["version"])
        mirror = _mirror(str(source["git"]), cache)
        commit = _commit(str(source["git"]), version, mirror, run)
        revision = commit[:12] if commit.startswith(version) else f"{version} ({commit[:12]})"
        # Without the address: it may hold credentials, and this goes into the plan.
        return {
            "kind": "tree",
            "digest": _hash(f"git {commit}"),
            "revision": revision,
            "mirror": mirror.name,
            "commit": commit,
        }
    path = (base / os.path.expanduser(source["path"])).resolve()
    if path.is_dir():
        exclude = [*EXCLUDED, *(source.get("exclude") or [])]
        digest = tree_digest(path, exclude)
        revision = f"{path.name} {digest[:12]}"
        return {"kind": "tree", "digest": digest, "revision": revision, "path": str(path), "exclude": exclude}
    if not path.exists():
        raise SourceError(f"source.path: found nothing at {path}, expected a directory, a wheel or an sdist")
    if not path.name.endswith((".whl", ".tar.gz", ".zip")):
        raise SourceError(f"source.path: found the file {path}, expected a directory, a wheel or an sdist")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"kind": "file", "digest": digest, "revision": path.name, "path": str(path), "filename": path.name}


def archive(source: t.Mapping[str, t.Any], cache: Path) -> Path:
    """Return the file that brings *source*, a result of :func:`resolve`, to a host: a tar.gz of a tree, or the file.

    :raises SourceError: the tree has changed since it was resolved, or cannot be read.
    """
    if source["kind"] == "file":
        return Path(source["path"])
    archives = cache / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    _forget_old(archives)
    target = archives / f"{source['digest']}.tar.gz"
    with _locked(archives / f".{source['digest']}.lock"):
        if target.exists():
            os.utime(target)
            return target
        if "commit" in source:
            with _checkout(cache / "git" / source["mirror"], source["commit"], cache) as tree:
                _pack(tree, EXCLUDED[:3], target)
        else:
            tree = Path(source["path"])
            _pack(tree, source["exclude"], target)
            if tree_digest(tree, source["exclude"]) != source["digest"]:
                target.unlink()
                raise SourceError(f"source.path: {tree} has changed while it was read")
    return target


def tree_digest(tree: Path, exclude: t.Sequence[str]) -> str:
    """Return a SHA-256 over names, kinds, executable bits and content of the files below *tree*.

    :raises SourceError: a symbolic link points out of the tree, or a file is none of file, directory and link.
    """
    digest = hashlib.sha256()
    for relative, path, mode in _walk(tree, exclude):
        if stat.S_ISLNK(mode):
            content = b"link " + os.fsencode(os.readlink(path))
        elif stat.S_ISDIR(mode):
            content = b"directory"
        else:
            kind = b"executable " if mode & 0o100 else b"file "
            content = kind + hashlib.sha256(path.read_bytes()).digest()
        digest.update(hashlib.sha256(os.fsencode(relative) + b"\0" + content).digest())
    return digest.hexdigest()


def _walk(tree: Path, exclude: t.Sequence[str]) -> t.Iterator[tuple[str, Path, int]]:
    """Yield (relative path, path, mode) of all below *tree* that is not excluded, sorted."""
    pending = [tree]
    while pending:
        path = pending.pop()
        if path != tree:
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                target = os.readlink(path)
                landing = os.path.normpath(os.path.join(path.relative_to(tree).parent, target))
                if os.path.isabs(target) or landing.split(os.sep)[0] == "..":
                    raise SourceError(f"source.path: the link {path} points out of the source, to {target}")
            elif not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise SourceError(f"source.path: {path} is neither a file nor a directory")
            yield path.relative_to(tree).as_posix(), path, mode
            if not stat.S_ISDIR(mode):
                continue
        names = [name for name in os.listdir(path) if not any(fnmatch.fnmatchcase(name, glob) for glob in exclude)]
        pending += [path / name for name in sorted(names, reverse=True)]


def _pack(tree: Path, exclude: t.Sequence[str], target: Path) -> None:
    """Write a tar.gz of *tree* to *target*, owned by root, without the control node's permission bits; atomically."""

    def add(archive: tarfile.TarFile, relative: str, path: Path, mode: int) -> None:
        info = archive.gettarinfo(str(path), relative)
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        info.mode = 0o755 if stat.S_ISDIR(mode) or mode & 0o100 else 0o644
        if info.islnk():  # a hard link inside the tree: as a file of its own
            info.type, info.linkname, info.size = tarfile.REGTYPE, "", path.stat().st_size
        if info.isreg():
            with path.open("rb") as content:
                archive.addfile(info, content)
        else:
            archive.addfile(info)

    descriptor, name = tempfile.mkstemp(prefix=".", dir=target.parent)
    try:
        with (
            os.fdopen(descriptor, "wb") as raw,
            gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0, filename="") as packed,
            tarfile.open(fileobj=t.cast("t.IO[bytes]", packed), mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for relative, path, mode in _walk(tree, exclude):
                add(tar, relative, path, mode)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _commit(url: str, version: str, mirror: Path, run: str) -> str:
    """Return the commit that *version* names in the repository at *url*, and have it in *mirror*.

    A full commit that the mirror has needs no network, nor does what was found in the same *run*.
    """
    with _locked(mirror.with_suffix(".lock")):
        if not (mirror / "HEAD").exists():
            _git(["init", "--quiet", "--bare", str(mirror)])
        _git([f"--git-dir={mirror}", "config", "remote.origin.url", url])
        if _COMMIT.fullmatch(version) and _has(mirror, version):
            return version
        found = mirror / "asgi-found" / _hash(version)
        if run and found.is_file():
            of_run, __, commit = found.read_text(encoding="ascii").partition(" ")
            if of_run == run and _has(mirror, commit):
                return commit
        commit = _fetch(url, version, mirror)
        found.parent.mkdir(exist_ok=True)
        found.write_text(f"{run} {commit}", encoding="ascii")
        return commit


def _fetch(url: str, version: str, mirror: Path) -> str:
    """Ask the repository what *version* is, and bring it to *mirror*."""
    listed = _git(["ls-remote", "--", url], "source.git").splitlines()
    refs = {name: commit for commit, __, name in (line.partition("\t") for line in listed)}
    # An annotated tag is listed twice; ^{} is the commit that it stands for.
    names = (f"refs/tags/{version}^{{}}", f"refs/tags/{version}", f"refs/heads/{version}", version)
    commit = next((refs[name] for name in names if name in refs), None)
    if commit is None and re.fullmatch(r"[0-9a-f]{7,40}", version):
        commit = version
    unknown = f"source.version: found {version!r}, which is no tag, branch or commit of {_public(url)}"
    if commit is None:
        raise SourceError(unknown)
    into = f"--git-dir={mirror}"
    if not _has(mirror, commit):
        every = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        _git([into, "fetch", "--quiet", "--force", "--prune", "--", url, *every], "source.git")
    if not _has(mirror, commit) and _COMMIT.fullmatch(commit):
        with contextlib.suppress(SourceError):  # many servers hand out any commit by its name
            _git([into, "fetch", "--quiet", "--", url, commit])
    if not _has(mirror, commit):
        raise SourceError(unknown)
    return _git([into, "rev-parse", "--verify", f"{commit}^{{commit}}"]).strip()


@contextlib.contextmanager
def _checkout(mirror: Path, commit: str, cache: Path) -> t.Iterator[Path]:
    """A temporary tree of *commit* with its submodules; each file's time is the commit's."""
    with tempfile.TemporaryDirectory(prefix="tree-", dir=cache) as folder:
        tree = Path(folder)
        _git(["clone", "--quiet", "--no-checkout", "--shared", str(mirror), str(tree)])
        _git(["-C", str(tree), "checkout", "--quiet", "--detach", commit])
        if (tree / ".gitmodules").exists():
            url = _git([f"--git-dir={mirror}", "config", "remote.origin.url"]).strip()
            _git(["-C", str(tree), "remote", "set-url", "origin", url])
            _git(["-C", str(tree), "submodule", "--quiet", "update", "--init", "--recursive"], "source.git")
        moment = int(_git(["-C", str(tree), "show", "--no-patch", "--format=%ct", commit]))
        for path in tree.rglob("*"):
            if not path.is_symlink():
                os.utime(path, (moment, moment))
        for path in tree.rglob(".git"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield tree


def _git(arguments: list[str], key: str = "source.git") -> str:
    # Nobody is there to type a password.
    environment = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes", **os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environment,
            timeout=600,
            check=False,
        )
    except FileNotFoundError:
        raise SourceError(f"{key}: git is not installed on the control node") from None
    except subprocess.TimeoutExpired:
        raise SourceError(f"{key}: git did not finish within 10 minutes") from None
    if done.returncode:
        raise SourceError(f"{key}: git: {_public(done.stderr.strip()) or 'failed without a word'}")
    return done.stdout


def _mirror(url: str, cache: Path) -> Path:
    folder = cache / "git"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / _hash(url)[:16]


def _has(mirror: Path, commit: str) -> bool:
    command = ["git", f"--git-dir={mirror}", "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0


@contextlib.contextmanager
def _locked(path: Path) -> t.Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget_old(archives: Path) -> None:
    for path in archives.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - _ARCHIVE_LIFETIME:
                path.unlink()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _public(text: str) -> str:
    """Return *text* without the credentials that an address may hold."""
    return re.sub(r"(://)(?:[^\s/@:]*:\S*@|[^\s/@]+@)", r"\1", text)
