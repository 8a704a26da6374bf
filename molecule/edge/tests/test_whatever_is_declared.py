# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator may write: nonsense does no harm, and all that the model takes, Nginx takes.

The last tests: after them the hosts serve forty sites more.
"""

from __future__ import annotations

from pathlib import Path

import driver
import examine
import fuzz
import pytest


@pytest.fixture(scope="module")
def nonsense(tmp_path_factory: pytest.TempPathFactory) -> driver.Play:
    """A run with a setting of the operator that Nginx does not take."""
    directory = tmp_path_factory.mktemp("nonsense")
    return examine.play(directory, "site.yml", {"nginx_http_extra": "server { listen 80; nonsense on; }"})


def test_nonsense_is_red_and_harmless(machine: driver.Host, tools: examine.Tools, nonsense: driver.Play) -> None:
    nonsense.must_fail()
    assert nonsense.output.count('unknown directive "nonsense"') >= 1, nonsense.end_of_output
    assert "nonsense" not in machine.sh("nginx -T 2>/dev/null")
    assert tools.curl(f"https://{examine.DOMAIN}/healthz").status == 200
    # A restart would end what a reload forgives.
    machine.out("systemctl", "restart", "nginx")
    driver.wait_for("it serves", lambda: tools.curl(f"https://{examine.DOMAIN}/healthz").status == 200, 20)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[driver.Play, list[fuzz.Application]]:
    """A run of the role `site` with 40 applications, each with something that is allowed and unusual."""
    apps = fuzz.applications(40)
    directory: Path = tmp_path_factory.mktemp("fuzz")
    return fuzz.serve(directory, apps), apps


def test_nginx_takes_all_that_the_model_takes(
    machine: driver.Host, tools: examine.Tools, served: tuple[driver.Play, list[fuzz.Application]]
) -> None:
    play, apps = served
    play.must()
    changed: dict[str, int] = {}
    for app in apps:
        for key in app.changed:
            changed[key] = changed.get(key, 0) + 1
    print(f"{len(apps)} applications; what was unusual: {changed}")
    fuzz.check_tree(machine.out("nginx", "-T"), {app.edge["name"] for app in apps})
    assert tools.curl(f"https://{examine.DOMAIN}/healthz").status == 200
