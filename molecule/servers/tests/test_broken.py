# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An application that cannot start is no release, whatever the server: each has a way of its own to go on or to say nothing."""

from __future__ import annotations

from typing import Any

import driver
import pytest
import variants

#: What is declared broken (tests/apps/broken), and what the failed release gives as the reason.
KINDS = {"import": "this application cannot be imported", "lifespan": "this application cannot start"}


def broken(kind: str, like: variants.App) -> dict[str, Any]:
    """Declare an application that is broken, with the server of a variant."""
    server = like.declared["server"]
    return {
        "name": f"{kind}-{like.name}",
        "app": f"{kind}_error:app",
        "source": {"path": "{{ test_source }}/broken"},
        "domains": [f"{kind}-{like.name}.test"],
        "workers": 2,
        "health": {"path": "/", "timeout": 20},
        "server": server,
        server: like.declared[server],
    }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> driver.Stack:
    """The collection, applied to the host with all servers."""
    source = {"test_source": str(variants.PROJECT / "tests/apps")}
    return driver.Stack(variants.ALL_VARIANTS[0].host, tmp_path_factory.mktemp("stack"), source)


@pytest.fixture(scope="module")
def play(stack: driver.Stack) -> driver.Play:
    """One run with all of them, which is red."""
    return stack.play("site", *(broken(kind, like) for like in variants.ALL_VARIANTS for kind in KINDS)).must_fail()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("app", variants.ALL_VARIANTS, ids=variants.name_of)
def test_application_that_cannot_start_is_no_release(
    stack: driver.Stack, play: driver.Play, app: variants.App, kind: str
) -> None:
    name = f"{kind}-{app.name}"
    (release,) = stack.releases(name)
    found = stack.about(name, release)
    assert (found["state"], KINDS[kind] in found["reason"]) == ("failed", True), found
    assert play.says(f"{name}.*{KINDS[kind]}|{KINDS[kind]}"), play.end_of_output
    assert stack.host.run("test", "-e", f"/srv/asgi/{name}/live").returncode != 0
    assert stack.running(name) == set()
