# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds, on the host: source + requirements + interpreter → an immutable directory with code and environment.

A build is addressed by what goes into it, so the same input is built once. Its marker ``build.json`` is
written last; a directory without it is what an interrupted run left, never used and removed by the next.
Code that comes with a package (build backends, hooks) runs as a user of its own that owns nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pwd
import re
import shutil
import tarfile
import typing as t
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from ansible_collections.asgi.stack.plugins.module_utils import _system
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError

BUILDER = "_asgi-build"
BUILDER_HOME = Path("/var/cache/asgi-build")
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
MARKER = "build.json"
HOOK_LINES = 30
#: In the order in which they are looked for.
REQUIREMENTS = ("uv.lock", "pylock.toml", "requirements.txt", "pyproject.toml")
#: Raise it when the way of building changes so that what is on hosts must be built anew.
SCHEMA = 1


class BuildRequest(t.NamedTuple):
    """What a build is made of, and with. Times are in seconds."""

    name: str
    source: t.Mapping[str, t.Any]  # as _source.resolve() returned it
    requirements: str | None  # relative to the source; None: the first of REQUIREMENTS
    server_requirements: t.Sequence[str]  # PEP 508
    hooks: t.Sequence[str]  # shell commands
    root: Path  # of the application
    python: str  # the interpreter on the host
    uv: str
    environment: t.Mapping[str, str]  # for uv: index, proxy
    lock_timeout: float
    timeout: float


def interpreter_version(python: str) -> str:
    """Return the version of *python* that its virtual environments depend on, such as ``cpython-3.13``.

    :raises HostError: it cannot be run.
    """
    script = "import sys; print(sys.implementation.name + '-' + '.'.join(map(str, sys.version_info[:2])))"
    done = _system.run([python, "-I", "-c", script])
    if done.returncode:
        raise HostError(f"the interpreter {python} does not run: {done.stderr.strip()}")
    return done.stdout.strip()


def digest(request: BuildRequest, interpreter: str, machine: str) -> str:
    """Return the address of the build: the same for the same input."""
    what = [SCHEMA, request.source["digest"], request.source["kind"], request.requirements]
    what += [sorted(request.server_requirements), list(request.hooks), interpreter, machine]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def is_complete(path: Path) -> bool:
    """Return whether *path* is a build that was finished, and that nobody began to remove."""
    return not path.name.startswith(".") and (path / MARKER).is_file()


def newest_generation(root: Path) -> int:
    """Return the number of the application's newest release on this host, 0 if there is none."""
    folder = root / "releases"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name.partition("-")[0]) for name in names if re.match(r"\d+-", name)), default=0)


def made_after(path: Path) -> int:
    """Return the number of the newest release when the build *path* was made."""
    return int(json.loads((path / MARKER).read_text(encoding="utf-8")).get("after", 0))


def clear_incomplete(builds: Path) -> list[Path]:
    """Remove what runs that were cut off left in *builds*, and return it. The caller holds the application's lock."""
    found = [path for path in builds.iterdir() if not is_complete(path)] if builds.is_dir() else []
    for path in found:
        _system.remove(path)
    return found


def index_environment(url: str | None, username: str | None, password: str | None) -> dict[str, str]:
    """Return the environment that has uv use the host's trust store and, if given, another index with credentials.

    The credentials stand in the environment of the process and nowhere else.
    """
    environment = {
        "SSL_CERT_FILE": str(CA_BUNDLE),
        "UV_NO_PROGRESS": "1",
        "NO_COLOR": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_LINK_MODE": "copy",  # a hard link would let the cache change the build
    }
    if url:
        environment["UV_DEFAULT_INDEX"] = with_credentials(url, username, password)
    return environment


def with_credentials(url: str, username: str | None, password: str | None) -> str:
    """Return *url* with the credentials in it."""
    if not username:
        return url
    parts = urlsplit(url)
    user = quote(username, safe="") + (":" + quote(password, safe="") if password else "")
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))


def redact(text: str) -> str:
    """Return *text* without the credentials that an address in it may hold, be they quoted or not."""
    return re.sub(r"(://)(?:[^\s/@:]*:\S*@|[^\s/@]+@)", r"\1****@", text)


def build(request: BuildRequest, archive: Path | None, interpreter: str, address: str) -> Path:
    """Build what *request* names, unless it was built before, and return its directory.

    :param archive: the source as a file on the host; None for a package from the index.
    :raises HostError: it cannot be built; the message names the app and the key. Nothing half-built stays.
    """
    builds = request.root / "builds"
    target = builds / address
    with _system.locked(request.name, request.lock_timeout):
        if is_complete(target):
            return target
        builds.mkdir(mode=0o755, parents=True, exist_ok=True)
        clear_incomplete(builds)
        _system.ensure_user(BUILDER, str(BUILDER_HOME))
        _make_builder_home()
        try:
            _fill(target, request, archive)
            _seal(target)
            os.sync()  # a marker that survives a power cut stands for files that do
            marker: dict[str, t.Any] = {
                "address": address,
                "interpreter": interpreter,
                "revision": request.source.get("revision"),
            }
            marker["digest"] = request.source["digest"]
            # Another run may make a release before this build has one, and must not take it for unused.
            marker["after"] = newest_generation(request.root)
            _system.write(target / MARKER, json.dumps(marker, indent=1) + "\n")
            _system.sync(target)
        except BaseException as error:
            shutil.rmtree(target, ignore_errors=True)
            if isinstance(error, OSError):
                raise HostError(f"{request.name}: the build failed: {_system.explain(error)}") from None
            if isinstance(error, tarfile.TarError):
                raise HostError(f"{request.name}: source: the archive cannot be read: {error}") from None
            raise
    return target


def _make_builder_home() -> None:
    BUILDER_HOME.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    BUILDER_HOME.mkdir(mode=0o700, exist_ok=True)
    shutil.chown(BUILDER_HOME, BUILDER, BUILDER)


def _fill(target: Path, request: BuildRequest, archive: Path | None) -> None:
    source = target / "src"
    source.mkdir(mode=0o755, parents=True)
    extra: list[str] = []
    if request.source["kind"] == "tree":
        if archive is None:
            raise HostError(f"{request.name}: the source was not brought to the host")
        _unpack(archive, source)
    elif request.source["kind"] == "file":
        if archive is None:
            raise HostError(f"{request.name}: the source was not brought to the host")
        file = target / request.source["filename"]
        shutil.copyfile(archive, file)
        extra = [str(file)]
    else:
        extra = [request.source["package"]]
    _own(target, BUILDER)
    tool = _Uv(request, target)
    tool.run(["venv", "--quiet", "--python", request.python, str(target / "venv")], "source")
    tool.install(extra, _requirements(request, source))
    for command in request.hooks:
        _run_hook(request, target, command)
    # Bytecode beside the code: the application may not write there. A file that does not compile is not ours to judge.
    _system.run(
        [str(target / "venv/bin/python"), "-I", "-m", "compileall", "-q", str(source)],
        user=BUILDER,
        timeout=request.timeout,
    )


def _run_hook(request: BuildRequest, target: Path, command: str) -> None:
    """Run a hook in the build, as its user.

    :raises HostError: it failed; the message holds the end of what it said.
    """
    done = _system.run(
        ["/bin/sh", "-c", command],
        user=BUILDER,
        environment={
            "PATH": f"{target / 'venv/bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(BUILDER_HOME),
            "VIRTUAL_ENV": str(target / "venv"),
            "SSL_CERT_FILE": str(CA_BUNDLE),
        },
        cwd=target / "src",
        timeout=request.timeout,
    )
    if done.returncode:
        said = "\n".join(f"  {line}" for line in (done.stdout + done.stderr).splitlines()[-HOOK_LINES:])
        what = f"{_disk_full(said)}{command!r} ended with status {done.returncode}"
        raise HostError(f"{request.name}: hooks.build: {what}\n{said}")


def _disk_full(said: str) -> str:
    """Return the words to begin an error with, where what a command said means that the disk is full."""
    return "the disk is full; " if os.strerror(errno.ENOSPC) in said else ""


#: What uv says on the way to an error.
_PROGRESS = re.compile(r"^(?:Using|Resolved|Prepared|Downloading|Downloaded|Building|Built|Audited) .*\n", re.MULTILINE)


class _Uv:
    """uv, run for one build as the build's user."""

    def __init__(self, request: BuildRequest, target: Path) -> None:
        self.request = request
        self.target = target
        self.environment = {
            **request.environment,
            "HOME": str(BUILDER_HOME),
            "UV_CACHE_DIR": str(BUILDER_HOME / "uv"),
            "VIRTUAL_ENV": str(target / "venv"),
        }

    def try_run(self, arguments: t.Sequence[str]) -> tuple[bool, str]:
        """Return whether uv succeeded, and what it said."""
        done = _system.run(
            [self.request.uv, *arguments],
            user=BUILDER,
            environment=self.environment,
            cwd=self.target / "src",
            timeout=self.request.timeout,
        )
        said = done.stdout if done.returncode == 0 else _PROGRESS.sub("", done.stderr)
        return done.returncode == 0, redact(said.strip())

    def run(self, arguments: t.Sequence[str], key: str) -> str:
        """Return what uv printed.

        :raises HostError: it failed; *key* says what of the declaration it was about.
        """
        good, said = self.try_run(arguments)
        if not good:
            raise HostError(f"{self.request.name}: {key}: {_disk_full(said)}uv: {said}")
        return said

    def install(self, extra: t.Sequence[str], requirements: str | None) -> None:
        """Install the application's requirements and the server's packages, resolved together.

        The application's own pins win: where the server's bounds contradict them, its packages are taken without.
        """
        key = "source.package" if self.request.source["kind"] == "package" else "requirements"
        folder = self.target / "src"
        install = ["pip", "install", "--compile-bytecode"]
        wanted = list(extra)
        if requirements is None:
            pass
        elif requirements.endswith("uv.lock"):
            locked = self.target / "locked.txt"
            project = str((folder / requirements).parent)
            export = ["export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--project", project]
            self.run([*export, "--format", "requirements-txt", "--output-file", str(locked)], key)
            wanted += ["-r", str(locked)]
        elif Path(requirements).name.startswith("pylock."):
            # uv takes nothing beside such a file: so it comes first, and holds for what comes after.
            self.run([*install, "--preview-features", "pylock", "-r", requirements], key)
            frozen = self.target / "locked.txt"
            self._write(frozen, self.run(["pip", "freeze"], key) + "\n")
            wanted += ["-c", str(frozen)]
        else:
            wanted += ["-r", requirements]
        good, _said = self.try_run([*install, *wanted, *self.request.server_requirements])
        if not good:
            self.run([*install, *wanted, *map(_without_bounds, self.request.server_requirements)], key)
        if requirements is not None and _is_package(folder):
            self.run([*install, "--no-deps", str(folder)], "source")
        self._write(self.target / "packages.txt", self.run(["pip", "freeze"], key) + "\n")

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        shutil.chown(path, BUILDER, BUILDER)


def _requirements(request: BuildRequest, source: Path) -> str | None:
    """Return the requirements file to use, relative to *source*; None where there is none.

    :raises HostError: the one that is named is not there.
    """
    if request.requirements:
        if not (source / request.requirements).is_file():
            raise HostError(f"{request.name}: requirements: found no file {request.requirements} in the source")
        return request.requirements
    return next((name for name in REQUIREMENTS if (source / name).is_file()), None)


def _is_package(source: Path) -> bool:
    """Return whether the project says how it is built, and so is to be installed itself."""
    text = _system.read(source / "pyproject.toml") or ""
    return re.search(r"^\s*\[build-system\]", text, re.MULTILINE) is not None


def _without_bounds(requirement: str) -> str:
    """Return the name and extras of a PEP 508 requirement, with its marker, without its version bounds."""
    if "@" in requirement:
        return requirement  # an address, not bounds
    wanted, separator, marker = requirement.partition(";")
    name = re.match(r"\s*[A-Za-z0-9._-]+\s*(?:\[[^\]]*\])?", wanted)
    return (name.group(0).strip() if name else wanted) + (f" ;{marker}" if separator else "")


def _unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        # The archive is the control node's own, with checked links; newer Pythons want to be told.
        with contextlib.suppress(AttributeError):
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(target)


def _own(path: Path, user: str) -> None:
    entry = pwd.getpwnam(user)
    for folder, folders, files in os.walk(path):
        for name in [*folders, *files]:
            os.lchown(os.path.join(folder, name), entry.pw_uid, entry.pw_gid)
    os.lchown(path, entry.pw_uid, entry.pw_gid)


def _seal(target: Path) -> None:
    """Give the build to root, readable for all and writable for nobody else."""
    for folder, folders, files in os.walk(target):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            os.lchown(path, 0, 0)
            if not os.path.islink(path):
                mode = os.stat(path).st_mode
                os.chmod(path, 0o755 if mode & 0o100 or name in folders else 0o644)
    os.lchown(target, 0, 0)
    os.chmod(target, 0o755)
