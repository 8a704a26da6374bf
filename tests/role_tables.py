# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the variable tables of the roles' READMEs from their argument specs: `./dev docs`.

A README says where its table belongs with the line `| variable | type | default | meaning |`, and where that of the
keys of an application belongs with `| key | type | default | meaning |`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).parents[1] / "roles"
HEADER = "| variable | type | default | meaning |"
KEYS_HEADER = "| key | type | default | meaning |"
RULE = "| --- | --- | --- | --- |"


def roles() -> list[Path]:
    """Return the roles' directories, by name."""
    return sorted(path.parents[1] for path in ROLES.glob("*/meta/argument_specs.yml"))


def options(role: Path, entry: str = "main") -> dict[str, dict[str, Any]]:
    """Return the variables of *role* as its argument specs describe them."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    return dict(specs.get(entry, {}).get("options") or {})


def with_parts(described: dict[str, dict[str, Any]], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return the options with those that they consist of, `health.path` after `health`."""
    found = {}
    for name, option in described.items():
        found[prefix + name] = option
        item = "[]." if option.get("type") == "list" else "."
        found.update(with_parts(option.get("options") or {}, prefix + name + item))
    return found


def defaults(role: Path) -> dict[str, Any]:
    """Return what the role's defaults/main.yml sets."""
    path = role / "defaults" / "main.yml"
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def markdown(text: str | list[str]) -> str:
    """Return Ansible's documentation markup as Markdown on one line, fit for a table's cell."""
    line = " ".join(" ".join([text] if isinstance(text, str) else text).split())
    line = re.sub(r"\b[COVEPM]\(([^()]*)\)", r"`\1`", line)
    line = re.sub(r"\bB\(([^()]*)\)", r"**\1**", line)
    line = re.sub(r"\bI\(([^()]*)\)", r"*\1*", line)
    line = re.sub(r"\bL\(([^(),]*),\s*([^()]*)\)", r"[\1](\2)", line)
    line = re.sub(r"\bU\(([^()]*)\)", r"<\1>", line)
    return line.replace("|", "\\|")


def value(option: dict[str, Any]) -> str:
    """Return the default of *option* as a table's cell: a YAML value, `none`, or `required`."""
    if option.get("required"):
        return "required"
    default = option.get("default")
    if default is None:
        return "none"
    text = default if isinstance(default, str) and default else json.dumps(default, ensure_ascii=False)
    return "`" + text.replace("|", "\\|") + "`"


def kind(option: dict[str, Any]) -> str:
    """Return the type of *option* as a table's cell."""
    if option.get("choices"):
        return ", ".join(f"`{choice}`" for choice in option["choices"])
    name = option.get("type", "str")
    return f"{name} of {option['elements']}" if option.get("elements", "raw") != "raw" else str(name)


def table(header: str, described: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of a table."""
    return [
        header,
        RULE,
        *(
            f"| `{name}` | {kind(option)} | {value(option)} | {markdown(option['description'])} |"
            for name, option in described.items()
        ),
    ]


def rewritten(role: Path) -> str:
    """Return the README of *role* with the tables that its argument specs ask for.

    :raises ValueError: it does not say where a table belongs.
    """
    lines = (role / "README.md").read_text(encoding="utf-8").splitlines()
    tables = {HEADER: options(role), KEYS_HEADER: with_parts(options(role, "application"))}
    for header, described in tables.items():
        if not described and header != HEADER:
            continue
        if header not in lines:
            raise ValueError(f"roles/{role.name}/README.md: the line '{header}' is missing: there the table belongs")
        start = end = lines.index(header)
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        lines[start:end] = table(header, described)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite every README that is not as it should be."""
    problems = []
    for role in roles():
        readme = role / "README.md"
        try:
            text = rewritten(role)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        if text != readme.read_text(encoding="utf-8"):
            readme.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote roles/{role.name}/README.md\n")
    sys.exit("\n".join(problems) or 0)


if __name__ == "__main__":
    main()
