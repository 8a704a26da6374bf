# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An application whose lifespan fails is no release, whatever its server: some would go on, some would say nothing."""

from __future__ import annotations

from pathlib import Path

import driver
import pytest
import variants


@pytest.fixture(scope="module")
def play(broken: driver.Running) -> driver.Play:
    """The run with all of them is red; it began with the first of all tests."""
    return broken.play().must_fail()


@pytest.mark.parametrize("app", variants.ALL_VARIANTS, ids=variants.name_of)
def test_application_whose_lifespan_fails_is_no_release(play: driver.Play, app: variants.App) -> None:
    stack, name = driver.Stack(variants.LESS_BUSY, Path()), variants.broken(app)["name"]
    release = stack.releases(name)[-1]
    assert stack.about(name, release)["state"] == "failed"
    assert stack.running(name) == set()
    assert stack.host.run("test", "-e", f"/srv/asgi/{name}/live").returncode != 0
    # The run says which, and shows the journal's last lines, which say why.
    assert play.says(rf"{name}: health: (?s:.){{0,6000}}this application cannot start"), play.end_of_output
