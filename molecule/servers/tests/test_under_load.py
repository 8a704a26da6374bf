# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A live application changes its server, and back, while requests flow: a deploy like any other, which drops nothing.

Meanwhile its workers are replaced again and again after a few hundred requests, which drops nothing either. Each test
is a step; the last ones judge what the load clients saw.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import driver
import pytest
import variants
from differences import differs
from driver import wait_for

#: From what is served first to the same again, over all others.
STEPS = ["gunicorn-uvicorn", "uvicorn", "hypercorn", "granian", "gunicorn-asgi", "gunicorn-uvicorn"]
RECYCLED = {"max_requests": 300, "max_requests_jitter": 100}


def moving(variant: str) -> dict[str, Any]:
    """Declare the application with the server of a variant."""
    (like,) = [app.declared for app in variants.ALL_VARIANTS if app.name == variant]
    server = like["server"]
    recycled = {} if differs("no max_requests", variant) else RECYCLED
    return {**like, **variants.DECLARED["test_moving"], server: {**like[server], **recycled}}


class Story:
    """The host, the load on it, and which variant each release of the application was."""

    def __init__(self, stack: driver.Stack) -> None:
        self.stack = stack
        self.app = variants.App(stack.host, moving(STEPS[0]))
        self.releases: dict[str, str] = {}
        self.loads: dict[str, driver.Load] = {}
        self.summaries: dict[str, dict[str, Any]] = {}

    def deploy(self, variant: str) -> None:
        """Make a release with a variant live, and wait until its workers have been replaced."""
        self.stack.play("site", moving(variant)).must()
        live = self.stack.live("moving")
        assert live["server"] == moving(variant)["server"]
        assert live["release"] not in self.releases, "it was no deploy"
        self.releases[live["release"]] = variant
        self.begin()
        if not differs("no max_requests", variant):
            # Each of the two has been replaced twice, about.
            wait_for("workers are replaced", lambda: len(self.started(live["release"])) >= 6, 60)

    def started(self, release: str) -> list[dict[str, Any]]:
        return self.app.events("startup", release=release)

    def begin(self) -> None:
        """Start the load, once: requests and streams that end, and WebSockets that do not."""
        if not self.loads:
            self.loads["requests"] = driver.Load(
                self.stack.host, "moving.test", "requests", streams="ws=0,sse=3", sse_path="/events?count=4&interval=1"
            )
            none = "get_kept=0,get_new=0,post_kept=0,post_slow=0"
            self.loads["sockets"] = driver.Load(
                self.stack.host, "moving.test", "sockets", rates=none, streams="ws=3,sse=0"
            )

    def end(self) -> None:
        """End the load, once; its summaries are known then."""
        for name, load in self.loads.items():
            if name not in self.summaries:
                self.summaries[name] = load.end()
                sys.stdout.write(f"\nload {name}: {driver.figures(self.summaries[name])}\n")


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
    last = list(story.releases)[-1]
    wait_for("the releases before have stopped", lambda: story.stack.running("moving") == {last}, 60)
    story.end()
    summary = story.summaries["requests"]
    when = {release: story.stack.about("moving", release).get("live_at") for release in story.releases}
    assert driver.losses(summary) == [], f"{story.releases} were live at {when}"
    assert summary["ok"] is True, summary
    assert set(summary["releases"]) == set(story.releases)
    assert summary["answers_without_release"] == 0


def test_websockets_end_as_their_server_ends_them(story: Story, app: variants.App) -> None:
    """After `drain` seconds, at the latest, the release before is stopped: see differences.py for what that means."""
    story.end()
    records = story.summaries["sockets"]["streams"]["ws"]["records"]
    for release, variant in list(story.releases.items())[:-1]:
        named = None if differs("no headers of websocket.accept", variant) else release
        ends = [record["end"] for record in records if record["release"] == named]
        assert ends, f"no WebSocket of {variant}"
        cut = differs("WebSockets are cut at a stop", variant)
        assert set(ends) == ({"lost"} if cut else {"proper"}), f"{variant}: {records}"


@pytest.mark.parametrize("app", [app for app in variants.APPS if app.name == "aged-granian"], ids=variants.name_of)
def test_workers_that_are_replaced_by_age_lose_nothing(app: variants.App, aged: driver.Load) -> None:
    """Granian's are a minute old at most; the load on them began with the first of all tests."""
    assert differs("no max_requests", app.declared["server"])
    wait_for("all workers are replaced", lambda: len(app.events("startup")) >= 4, 120)
    summary = aged.end()
    assert driver.losses(summary) == []
    assert summary["ok"] is True, summary
