# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that was just switched, watched: what its Nginx answered, by its own log, and how its releases are."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
import typing as t
from pathlib import Path

from ansible_collections.asgi.stack.plugins.module_utils import _release

#: `… HOST "METHOD URI PROTOCOL" STATUS …`, as the collection's own text format and most others have it.
_TEXT = re.compile(r' (\S+) "(?:[^"\\]|\\.)*" (\d{3})(?: |$)')
_POLL = 0.5  # seconds


@dataclasses.dataclass
class Tally:
    """What was answered: *errors* are statuses of 500 and above."""

    requests: int = 0
    errors: int = 0

    @property
    def ratio(self) -> float:
        """The share of errors."""
        return self.errors / self.requests if self.requests else 0.0


class Log:
    """An access log from its present end on, also through a rotation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: t.BinaryIO | None = None
        self.rest = b""
        self._open()
        if self.file is not None:
            self.file.seek(0, 2)

    def _open(self) -> None:
        try:
            self.file = self.path.open("rb")
        except FileNotFoundError:
            self.file = None

    def lines(self) -> list[str]:
        """Return the complete lines that came since the last call."""
        data = self.rest
        if self.file is not None:
            data += self.file.read()
        if self._rotated():
            if self.file is not None:
                self.file.close()
            self._open()
            if self.file is not None:
                data += self.file.read()
        *whole, self.rest = data.split(b"\n")
        return [line.decode("utf-8", "replace") for line in whole]

    def _rotated(self) -> bool:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        if self.file is None:
            return True
        stat = os.fstat(self.file.fileno())
        return (stat.st_ino, stat.st_dev) != (found.st_ino, found.st_dev)


def parse(line: str) -> tuple[str, int] | None:
    """Return the host name and the status of a line of an access log, JSON or text; None where it has none."""
    if line.startswith("{"):
        try:
            found = json.loads(line)
            return str(found["host"]).lower(), int(found["status"])
        except (ValueError, KeyError, TypeError):
            return None
    match = _TEXT.search(line)
    return (match[1].lower(), int(match[2])) if match else None


def belongs(host: str, domains: t.Iterable[str]) -> bool:
    """Return whether *host* is one of *domains*, among which may be ``*.example.com``."""
    return any(
        host == domain or (domain.startswith("*.") and host.endswith(domain[1:]) and host != domain[2:])
        for domain in domains
    )


def count(lines: t.Iterable[str], domains: t.Mapping[str, t.Sequence[str]], tallies: t.Mapping[str, Tally]) -> None:
    """Add what *lines* tell to the tally of each application.

    :param domains: the domains of each application.
    """
    for line in lines:
        found = parse(line)
        if found is None:
            continue
        host, status = found
        for name, own in domains.items():
            if belongs(host, own):
                tallies[name].requests += 1
                tallies[name].errors += status >= 500


def verdict(name: str, tally: Tally, max_errors: float, min_requests: int) -> str | None:
    """Return why an application's answers are not good enough, or None."""
    if tally.requests < max(1, min_requests) or tally.ratio <= max_errors:
        return None
    return (
        f"{name}: {tally.errors} of {tally.requests} answers had a status of 500 or above "
        f"({tally.ratio:.1%}), at most {max_errors:.1%} are allowed"
    )


def watch(
    domains: t.Mapping[str, t.Sequence[str]],
    root: Path,
    log: Path,
    seconds: float,
    max_errors: float,
    min_requests: int,
) -> tuple[dict[str, Tally], list[str]]:
    """Watch for so many *seconds*, or until something is wrong; return what was counted and what is wrong."""
    reader = Log(log)
    tallies = {name: Tally() for name in domains}
    until = time.monotonic() + seconds
    while True:
        time.sleep(max(0.0, min(_POLL, until - time.monotonic())))
        count(reader.lines(), domains, tallies)
        problems = [verdict(name, tally, max_errors, min_requests) for name, tally in tallies.items()]
        if time.monotonic() >= until:
            problems += [_unhealthy(name, root / name) for name in domains]
        said = [problem for problem in problems if problem]
        if said or time.monotonic() >= until:
            return tallies, said


def _unhealthy(name: str, root: Path) -> str | None:
    found = _release.status(name, root)
    if found["live"] is None:
        return f"{name}: nothing is live"
    return None if found["health"] == "ok" else f"{name}: {found['live']['release']} is not healthy: {found['health']}"
