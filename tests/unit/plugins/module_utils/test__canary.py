# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A canary is judged by what its Nginx logged since it was switched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.asgi.stack.plugins.module_utils import _canary

TEXT = '10.0.0.9 [2026-11-23T01:02:03+00:00] {host} "GET /a" {status} 12 0.001 0.001 f00 "curl \\"8\\" x"'


def text(host: str, status: int) -> str:
    return TEXT.format(host=host, status=status)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (text("shop.test", 502), ("shop.test", 502)),
        (json.dumps({"host": "Shop.test", "status": 200, "path": '/" 500 "'}), ("shop.test", 200)),
        ('1.2.3.4 [x] shop.test "GET /a\\" 500 HTTP/1.1" 200 5', ("shop.test", 200)),
        ("{not json", None),
        ('{"host": "shop.test"}', None),
        ("", None),
    ],
)
def test_a_line_is_read(line: str, found: tuple[str, int] | None) -> None:
    assert _canary.parse(line) == found


def test_applications_are_told_apart_by_their_domains() -> None:
    tallies = {"shop": _canary.Tally(), "blog": _canary.Tally()}
    lines = [text("shop.test", 200), text("a.blog.test", 500), text("blog.test", 500), text("other.test", 500)]
    _canary.count(lines, {"shop": ["shop.test"], "blog": ["*.blog.test"]}, tallies)
    assert tallies == {"shop": _canary.Tally(1, 0), "blog": _canary.Tally(1, 1)}


def test_a_log_is_read_from_its_end_on_and_through_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("old\n")
    log = _canary.Log(path)
    assert log.lines() == []
    with path.open("a") as file:
        file.write("one\ntw")
    assert log.lines() == ["one"]
    with path.open("a") as file:
        file.write("o\n")
    path.rename(tmp_path / "access.log.1")
    path.write_text("three\n")
    assert log.lines() == ["two", "three"]
    assert log.lines() == []


def test_a_log_that_begins_later_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = _canary.Log(tmp_path / "access.log")
    assert log.lines() == []
    (tmp_path / "access.log").write_text("one\n")
    assert log.lines() == ["one"]


@pytest.mark.parametrize(
    ("requests", "errors", "good"), [(100, 1, True), (100, 2, False), (19, 19, True), (20, 1, False), (0, 0, True)]
)
def test_a_canary_is_judged_by_its_share_of_errors(requests: int, errors: int, good: bool) -> None:
    said = _canary.verdict("shop", _canary.Tally(requests, errors), 0.01, 20)
    assert (said is None) == good
    assert said is None or f"{errors} of {requests}" in said


def test_watching_ends_early_when_something_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "access.log"
    path.write_text("")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        with path.open("a") as file:
            file.write(f"{text('shop.test', 500)}\n" * 30)

    monkeypatch.setattr("time.sleep", sleep)
    tallies, problems = _canary.watch({"shop": ["shop.test"]}, tmp_path, path, 600, 0.01, 20)
    assert (tallies["shop"].errors, len(slept)) == (30, 1)
    assert "30 of 30" in problems[0]


def test_at_the_end_the_release_must_be_healthy(tmp_path: Path) -> None:
    __, problems = _canary.watch({"shop": ["shop.test"]}, tmp_path, tmp_path / "none", 0, 0.01, 20)
    assert problems == ["shop: nothing is live"]
