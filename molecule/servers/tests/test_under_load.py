# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A live application changes its server, and back, while requests flow: a deploy like any other, which drops nothing.

A second one does so beside it, and its workers are replaced again and again after a few hundred requests. Each test
is a step; the last ones judge what load clients saw.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import driver
import pytest
import variants
from driver import wait_for

#: From what is served first to the same again, over all others.
STEPS = ["gunicorn-uvicorn", "uvicorn", "hypercorn", "granian", "gunicorn-asgi", "gunicorn-uvicorn"]
RECYCLED = {"max_requests": 100, "max_requests_jitter": 60}
FEWER_REQUESTS = "get_kept=40,get_new=15,post_kept=25,post_slow=4"
NO_REQUESTS = "get_kept=0,get_new=0,post_kept=0,post_slow=0"
NO_STREAMS = "ws=0,sse=0"


def moving(name: str, variant: str) -> dict[str, Any]:
    """Declare one of the two applications with the server of a variant."""
    (like,) = [app.declared for app in variants.ALL_VARIANTS if app.name == variant]
    server = like["server"]
    more = RECYCLED if name == "recycled" else {}
    return {**like, **variants.DECLARED[f"test_{name}"], server: {**like[server], **more}}


class Story:
    """The host, the load on it, and what was live when."""

    def __init__(self, stack: driver.Stack) -> None:
        self.stack = stack
        self.app, self.recycled = (variants.App(stack.host, moving(name, STEPS[0])) for name in ("moving", "recycled"))
        self.releases: dict[str, list[str]] = {"moving": [], "recycled": []}  # one a step
        self.loads: dict[str, driver.Load] = {}
        self.summaries: dict[str, dict[str, Any]] = {}

    def deploy(self, variant: str) -> None:
        """Make a release of each with a variant live, and wait until the one's workers have been replaced."""
        self.stack.play("site", *(moving(name, variant) for name in self.releases)).must()
        for name, releases in self.releases.items():
            live = self.stack.live(name)
            assert live["server"] == moving(name, variant)["server"]
            assert live["release"] not in releases, "it was no deploy"
            releases.append(live["release"])
        self.begin()
        self.recycle(variant)

    def recycle(self, variant: str) -> None:
        """Ask the other application until its workers have been replaced, each once or twice."""
        release = self.releases["recycled"][-1]
        load = driver.Load(self.stack.host, "recycled.test", "recycled", rates=FEWER_REQUESTS, streams=NO_STREAMS)
        try:
            wait_for("workers are replaced", lambda: len(self.recycled.events("startup", release=release)) >= 5, 180)
        finally:
            self.keep(f"recycled {variant}", load)

    def keep(self, name: str, load: driver.Load) -> None:
        """End a load; its summary is known then, and shown."""
        self.summaries[name] = load.end()
        sys.stdout.write(f"\nload {name}: {driver.figures(self.summaries[name])}\n")

    def begin(self) -> None:
        """Start the load, once: requests and streams that end, and WebSockets that do not."""
        if not self.loads:
            host, ends = self.stack.host, "/events?count=4&interval=1"
            self.loads = {
                "moving": driver.Load(host, "moving.test", "moving", streams="ws=0,sse=3", sse_path=ends),
                "sockets": driver.Load(host, "moving.test", "sockets", rates=NO_REQUESTS, streams="ws=3,sse=0"),
            }

    def end(self) -> None:
        """End the load, once; its summaries are known then."""
        for name, load in self.loads.items():
            if name not in self.summaries:
                self.keep(name, load)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """What has happened so far."""
    host = variants.ALL_VARIANTS[0].host
    source = {"test_source": str(variants.PROJECT / "tests/apps")}
    found = Story(driver.Stack(host, tmp_path_factory.mktemp("stack"), source))
    yield found
    found.end()


@pytest.fixture
def app(story: Story) -> variants.App:
    """What is shown with a test that fails."""
    return story.app


@pytest.mark.parametrize("step", range(len(STEPS)), ids=lambda step: f"{step}-{STEPS[step]}")
def test_server_is_changed(story: Story, app: variants.App, step: int) -> None:
    story.deploy(STEPS[step])


def test_no_request_was_lost(story: Story, app: variants.App) -> None:
    """What was live before is stopped by now, with what it had to finish."""
    last = story.releases["moving"][-1]
    wait_for("the releases before have stopped", lambda: story.stack.running("moving") == {last}, 60)
    story.end()
    summary = story.summaries["moving"]
    assert driver.losses(summary) == [], dict(zip(story.releases["moving"], STEPS))
    assert summary["ok"] is True, summary
    assert set(summary["releases"]) == set(story.releases["moving"])
    assert summary["answers_without_release"] == 0


def test_websockets_are_closed_as_a_restart(story: Story, app: variants.App) -> None:
    """With 1012, after `drain` seconds, when the release before is stopped; whatever its server."""
    story.end()
    summary = story.summaries["sockets"]["streams"]["ws"]
    assert summary["lost"] == 0, summary["details"]
    assert set(summary["close_codes"]) == {"1012"}
    assert summary["closed_properly"] >= 3 * (len(STEPS) - 1)


@pytest.mark.parametrize("variant", dict.fromkeys(STEPS))
def test_recycled_workers_lose_nothing(story: Story, app: variants.App, variant: str) -> None:
    summary = story.summaries[f"recycled {variant}"]
    assert driver.losses(summary) == []
    assert summary["ok"] is True, summary
