# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the sources: tiny applications as directories, repositories, wheels and locks."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path

#: An application that says who it is, what is installed beside it, and what it was given.
APPLICATION = '''
"""Answers each request with what it knows of itself."""

import json
import os
from importlib.metadata import distributions
from pathlib import Path

MARK = "MARK HERE"


async def app(scope, receive, send):
    assert scope["type"] == "http"  # a server takes this for: it has no lifespan
    about = {
        "mark": MARK,
        "file": __file__,
        "versions": {found.metadata["Name"].lower(): found.version for found in distributions()},
        "environment": {name: value for name, value in os.environ.items() if name.startswith("TEST_")},
        "files": sorted(path.as_posix() for path in Path().rglob("*") if "__pycache__" not in path.parts),
    }
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(about).encode()})


def create():
    return app


def silent():
    """No application."""


class Picky:
    """Raises when it is made."""

    def __init__(self):
        raise RuntimeError("the shelf is empty")
'''


def run(*command: str, cwd: Path) -> str:
    """Return what a command printed that must succeed."""
    # What surrounds the test must not decide where uv works, nor what git does.
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "UV_", "VIRTUAL_ENV"))}
    identity = {f"GIT_{who}_NAME": "tester" for who in ("AUTHOR", "COMMITTER")}
    identity |= {f"GIT_{who}_EMAIL": "tester@example.com" for who in ("AUTHOR", "COMMITTER")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**kept, **identity, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def write(place: Path, files: Mapping[str, str]) -> Path:
    """Write files, by their names relative to *place*."""
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
    return place


def application(mark: str) -> str:
    """Return the module of an application that answers with *mark*."""
    return APPLICATION.replace("MARK HERE", mark).lstrip()


def tree(place: Path, files: Mapping[str, str]) -> Path:
    """Make a directory with an application, `main:app`, that answers with the directory's name, and more files."""
    return write(place, {"main.py": application(place.name), **files})


def project(place: Path, name: str, version: str, *dependencies: str) -> Path:
    """Make a project that is built with hatchling: a package *name* below src, whose application answers with it."""
    listed = ", ".join(f'"{dependency}"' for dependency in dependencies)
    pyproject = f"""
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"

        [project]
        name = "{name}"
        version = "{version}"
        requires-python = ">=3.9"
        dependencies = [{listed}]

        [tool.hatch.build.targets.wheel]
        packages = ["src/{name}"]
    """
    package = f"src/{name}"
    module = application(f"{name} {version}")
    return write(place, {"pyproject.toml": pyproject, f"{package}/__init__.py": "", f"{package}/main.py": module})


def built(place: Path, *kinds: str) -> list[Path]:
    """Return what a project is built to: *kinds* of `wheel` and `sdist`, in that order."""
    run("uv", "build", "--quiet", "--no-config", *(f"--{kind}" for kind in kinds), ".", cwd=place)
    globs = {"wheel": "*.whl", "sdist": "*.tar.gz"}
    return [next((place / "dist").glob(globs[kind])) for kind in kinds]


def with_wrong_hashes(text: str) -> str:
    """Return a lock file's text in which each SHA-256 is another."""
    wrong, count = re.subn(r"\b[0-9a-f]{64}\b", lambda found: found[0][::-1], text)
    assert count, "there are no hashes in the lock"
    return wrong


class Repository:
    """A repository with the application `main:app`, in a directory of the control node, and a submodule `parts`."""

    def __init__(self, place: Path) -> None:
        self.path = place / "shop"
        self.parts = place / "parts"
        for path in (self.parts, self.path):
            path.mkdir(parents=True)
            self._git("init", "--quiet", "--initial-branch", "main", path=path)
        write(self.parts, {"part.txt": "one\n"})
        self._git("add", ".", path=self.parts)
        self._git("commit", "--quiet", "--message", "one", path=self.parts)

    def _git(self, *arguments: str, path: Path | None = None) -> str:
        return run("git", "-c", "protocol.file.allow=always", *arguments, cwd=path or self.path)

    def commit(self, mark: str, tag: str | None = None, annotated: bool = False, submodule: bool = False) -> str:
        """Commit an application that answers with *mark*, and return the commit."""
        write(self.path, {"main.py": application(mark), "requirements.txt": "six==1.16.0\n"})
        if submodule:
            # A relative address: relative to the repository's own.
            self._git("submodule", "--quiet", "add", "../parts", "parts")
        self._git("add", ".")
        self._git("commit", "--quiet", "--message", mark)
        if tag:
            self._git("tag", *(["--annotate", "--message", mark] if annotated else []), tag)
        return self._git("rev-parse", "HEAD")
