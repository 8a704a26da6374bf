# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the control node's plugins share."""

from __future__ import annotations

import functools
import os
import secrets
import typing as t
from pathlib import Path

import yaml

#: Names this run of Ansible: this file is loaded before Ansible forks its workers.
RUN = secrets.token_hex(8)

_ROLES = Path(__file__).parents[2] / "roles"


@functools.lru_cache(maxsize=1)
def application_spec() -> dict[str, t.Any]:
    """Return the options of one entry of ``asgi_apps``, from the role ``app``'s argument specs.

    Under the name of each server stand the options of its role that one application may set for itself.
    """
    options = _specs("app")["application"]["options"]
    for server in options["server"]["choices"]:
        own = {
            key[len(server) + 1 :]: {name: value for name, value in option.items() if name != "default"}
            for key, option in _specs(server)["main"]["options"].items()
            if not key.endswith(("_requirements", "_template"))
        }
        options[server] = {"type": "dict", "options": own}
    return t.cast("dict[str, t.Any]", options)


def _specs(role: str) -> dict[str, t.Any]:
    with (_ROLES / role / "meta" / "argument_specs.yml").open(encoding="utf-8") as file:
        return t.cast("dict[str, t.Any]", yaml.safe_load(file)["argument_specs"])


def cache() -> Path:
    """Return the control node's cache directory, made if it is not there."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base) / "asgi.stack"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
