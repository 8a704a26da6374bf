# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Applications for a fuzz of the role `site`: what the model takes, made from the model."""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import driver
from examine import APPS, PROJECT, play
from hypothesis import HealthCheck, given, settings

sys.path[:0] = [str(PROJECT / "collections"), str(PROJECT / "tests/unit")]

import declarations

# The same as the unit tests do, in which the collection is imported from the checkout.
_unit: Any = importlib.import_module("test_edge_fuzz")
planned = _unit.planned


@dataclass
class Application:
    """One that the model takes: what the role `site` is told, and which keys are unusual."""

    edge: dict[str, Any]
    changed: list[str]


def applications(count: int) -> list[Application]:
    """Return so many, each with a name and domains of its own; the same ones each time."""
    found: dict[str, Application] = {}

    @settings(
        max_examples=40 * count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(declarations.declarations(_unit.SPEC))
    def collect(app: dict[str, Any]) -> None:
        if len(found) >= count or app.get("state") == "absent" or _unit._model.validate([app], _unit.SPEC):
            return
        text = json.dumps(app, sort_keys=True)
        changed = [key for key in app if app[key] != declarations.RIGHT.get(key)]
        # To Ansible braces are a template, wherever they stand. Files on the control node would have to be there.
        if (
            text in found
            or not changed
            or re.search(r"\{[{%#]", text)
            or app.keys() & {"unavailable_page", "cdn_client_ca"}
        ):
            return
        if app["tls"].get("mode") in ("provided", "acme"):
            return
        number = len(found)
        app = {**app, "name": f"fuzz-{number}", "domains": [f"{name[:240]}.f{number}" for name in app["domains"]]}
        if not _unit._model.validate([app], _unit.SPEC):
            found[text] = Application(planned(app), changed)

    collect()
    assert len(found) == count, f"only {len(found)} valid ones"
    return list(found.values())


def serve(directory: Path, apps: list[Application]) -> driver.Play:
    """Have all hosts serve them, beside the scenario's own."""
    return play(directory, "molecule/edge/fuzz.yml", {"site_apps": [planned(APPS[0]), *(app.edge for app in apps)]})


def check_tree(dump: str, names: set[str]) -> None:
    """Fail unless `nginx -T` shows a file for each name, made of directives that the templates have."""
    files = dict(
        re.findall(
            r"^# configuration file \S*/sites/(\S+)\.conf:\n(.*?)(?=^# configuration file |\Z)", dump, re.M | re.S
        )
    )
    assert names <= set(files), names - set(files)
    for name in names:
        blocks = _unit.site.parse(_unit.site.words(files[name]))
        strange = set(_unit.directives(blocks)) - _unit.WORDS
        assert not strange, (name, strange, files[name])
