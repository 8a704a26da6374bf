#!/usr/bin/python
# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: uv
version_added: 0.1.0
short_description: Have one version of uv in a place of its own
description:
  - Installs the package manager uv from the package index as one file, beside whatever else the host has.
  - Another version is another file, so that a version in use is never changed.
author:
  - the asgi.stack authors (@asgi-stack)
options:
  version:
    description: The exact version.
    type: str
    required: true
  directory:
    description: Where the file C(uv-VERSION) is put.
    type: path
    default: /opt/asgi/bin
  python:
    description: An interpreter with the modules venv and ensurepip.
    type: path
    default: /usr/bin/python3
  index_url:
    description: The package index, without credentials. By default pip's own.
    type: str
  index_username:
    description: The user of the package index.
    type: str
  index_password:
    description: The password of that user.
    type: str
  proxy:
    description: Environment variables such as C(https_proxy) and C(no_proxy).
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Reports whether it would be installed.
  diff_mode:
    support: full
    description: Shows the file that would be there.
  idempotence:
    support: full
    description: Nothing is done where the file is.
"""

EXAMPLES = r"""
- name: The package manager is there
  asgi.stack.uv:
    version: 0.13.9
"""

RETURN = r"""
path:
  description: The program.
  type: str
  returned: success
  sample: /opt/asgi/bin/uv-0.13.9
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.asgi.stack.plugins.module_utils import _build, _system
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError


def install(target: Path, version: str, python: str, environment: dict[str, str]) -> None:
    """Put the uv of *version* at *target*, by way of a temporary virtual environment.

    :raises HostError: it cannot be had; the message shows what pip said.
    """
    with _system.locked("_uv", timeout=900):
        if target.is_file():
            return
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder = target.with_name(".uv")
        _system.remove(folder)
        try:
            for command in (
                [python, "-I", "-m", "venv", str(folder)],
                [
                    f"{folder}/bin/python",
                    "-I",
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--only-binary=:all:",
                    f"uv=={version}",
                ],
            ):
                done = _system.run(command, environment={**environment, "HOME": str(folder)}, timeout=600)
                if done.returncode:
                    said = _build.redact((done.stderr or done.stdout).strip())
                    raise HostError(f"uv {version} cannot be installed: {said}")
            os.chmod(folder / "bin/uv", 0o755)
            os.replace(folder / "bin/uv", target)
        finally:
            _system.remove(folder)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "directory": {"type": "path", "default": "/opt/asgi/bin"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "index_url": {"type": "str"},
            "index_username": {"type": "str"},
            "index_password": {"type": "str", "no_log": True},
            "proxy": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    given = module.params
    target = Path(given["directory"]) / f"uv-{given['version']}"
    changed = not target.is_file()
    if changed and not module.check_mode:
        environment = {
            "PIP_CERT": str(_build.CA_BUNDLE),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            **{key: str(value) for key, value in given["proxy"].items()},
        }
        if given["index_url"]:
            environment["PIP_INDEX_URL"] = _build.with_credentials(
                given["index_url"], given["index_username"], given["index_password"]
            )
        try:
            install(target, given["version"], given["python"], environment)
        except HostError as error:
            # pip keeps it to itself when an index refuses it.
            hint = (
                f"\nThe index is {given['index_url']}; credentials that it refuses look the same"
                if given["index_url"]
                else ""
            )
            module.fail_json(msg=f"{error}{hint}")
        except OSError as error:
            module.fail_json(msg=f"uv {given['version']} cannot be installed: {_system.explain(error)}")
    after = f"{target}\n"
    module.exit_json(changed=changed, path=str(target), diff={"before": "" if changed else after, "after": after})


if __name__ == "__main__":
    main()
