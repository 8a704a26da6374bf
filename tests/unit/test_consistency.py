# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A role's argument specs, its defaults and its README say the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_path = Path(__file__).parents[1] / "role_tables.py"
_spec = importlib.util.spec_from_file_location("role_tables", _path)
assert _spec is not None and _spec.loader is not None
role_tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(role_tables)

ROLES = role_tables.roles()


def test_every_role_has_argument_specs() -> None:
    assert [path.name for path in ROLES] == sorted(path.name for path in role_tables.ROLES.iterdir() if path.is_dir())


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_defaults_are_those_of_the_argument_specs(role: Path) -> None:
    specified = {
        name: option.get("default") for name, option in role_tables.options(role).items() if not option.get("required")
    }
    assert role_tables.defaults(role) == specified


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_variables_carry_the_name_of_the_role(role: Path) -> None:
    assert [name for name in role_tables.options(role) if not name.startswith(f"{role.name}_")] == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_readme_lists_the_variables(role: Path) -> None:
    readme = (role / "README.md").read_text(encoding="utf-8")
    assert readme == role_tables.rewritten(role), "run ./dev docs"


def test_markup_becomes_markdown() -> None:
    assert role_tables.markdown(["C(a|b) and O(x)", "see L(this, https://example.com)"]) == (
        "`a\\|b` and `x` see [this](https://example.com)"
    )
