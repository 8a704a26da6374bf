# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is declared: either clear errors, or a configuration in which no value gets out of its directive.

molecule/edge asks Nginx itself about the latter.
"""

from __future__ import annotations

import re
import sys
import typing as t
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from ansible_collections.asgi.stack.plugins.module_utils import _model, _plan
from ansible_collections.asgi.stack.plugins.plugin_utils import _control

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import declarations  # tests/declarations.py
import test_site_template as site

SPEC = _control.application_spec()
#: Every word at the beginning of a line of the templates: the directives that there can be.
WORDS = {
    word
    for path in (*site.TEMPLATES.rglob("*.j2"), *(site.TEMPLATES.parents[1] / "nginx/templates").rglob("*.j2"))
    for word in re.findall(r"(?:^|[{;]|%\})\s*([a-z_0-9]+)\b", path.read_text(encoding="utf-8"), re.MULTILINE)
}


def planned(app: dict[str, t.Any]) -> dict[str, t.Any]:
    """What the site role is told about it."""
    name = app["name"]
    sized = dict.fromkeys(("workers", "reason", "side_by_side", *_plan._MEMORY), 1)
    room: dict[str, t.Any] = {"requirements": [], "options": {}, "argv": [], "files": {}}
    rooms = {server: {**room, "front": room} for server in SPEC["server"]["choices"]}
    source = {"kind": "tree", "digest": "d", "revision": "r"}
    edge: dict[str, t.Any] = _plan.plan([app], spec=SPEC, sizing={name: sized}, sources={name: source}, servers=rooms)[
        0
    ]["edge"]
    return edge


def directives(blocks: list[site.Block]) -> t.Iterator[str]:
    for words, inner in blocks:
        assert words, blocks
        yield words[0]
        # A map's and a type's entries are values.
        if inner is not None and words[0] not in ("map", "geo", "split_clients", "types"):
            yield from directives(inner)


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(declarations.declarations(SPEC))
def test_a_declaration_is_refused_clearly_or_stays_inside_its_directives(app: dict[str, t.Any]) -> None:
    problems = _model.validate([app], SPEC)
    if problems:
        for line in problems:
            assert re.match(r"asgi_apps(\[0\])?( \(.*\))?: ", line), line
            assert line.isprintable(), line
        return
    if app.get("state") == "absent":
        return
    text = site.render(planned(app))
    numbers = [int(word[1:].rstrip("s")) for word in site.words(text) if re.fullmatch(r"=[0-9]+s?", word)]
    assert max(numbers) < 2**53, text
    assert set(directives(site.parse(site.words(text)))) <= WORDS, text


def test_the_right_declaration_is_right() -> None:
    assert _model.validate([declarations.RIGHT], SPEC) == []
    found = list(directives(site.parse(site.words(site.render(planned(declarations.RIGHT))))))
    assert found.count("server") >= 3
    assert found.count("location") >= 4
    assert set(found) <= WORDS
