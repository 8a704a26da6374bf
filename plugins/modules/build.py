#!/usr/bin/python
# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: build
version_added: 0.1.0
short_description: Build an ASGI application into an immutable directory
description:
  - Makes a directory with the application's code and a virtual environment that holds its requirements and those of
    its server, resolved together.
  - The directory is addressed by what goes into it. The same input is built once.
  - Build backends run as the user C(_asgi-build), which owns nothing else. The finished build belongs to root.
author:
  - the asgi.stack authors (@asgi-stack)
options:
  name:
    description: The application's name.
    type: str
    required: true
  source:
    description: The source, as M(asgi.stack.source) returned it.
    type: dict
    required: true
  requirements:
    description:
      - The requirements file, relative to the source.
      - By default the first of C(uv.lock), C(pylock.toml), C(requirements.txt) and C(pyproject.toml) that is there.
    type: str
  server_requirements:
    description:
      - The server's packages.
      - Where their bounds contradict the application's own pins, the pins win.
    type: list
    elements: str
    default: []
  hooks:
    description: Shell commands that run in the build when its environment is complete.
    type: list
    elements: str
    default: []
  root:
    description: The application's directory on the host.
    type: path
    required: true
  python:
    description: The interpreter on the host.
    type: path
    default: /usr/bin/python3
  uv:
    description: The program C(uv) on the host.
    type: path
    required: true
  index_url:
    description: The package index, without credentials. By default uv's own.
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
  lock_timeout:
    description: Seconds to wait for another run that works on the same application.
    type: int
    default: 120
  timeout:
    description: Seconds that one step of the build may take.
    type: int
    default: 1800
  archive:
    description: The source as a file on the host. The action plugin sets it.
    type: path
attributes:
  check_mode:
    support: full
    description: Reports whether there is something to build, and builds nothing.
  diff_mode:
    support: full
    description: Shows the build's address and revision where there is something to build.
  idempotence:
    support: full
    description: The same input is built once.
seealso:
  - module: asgi.stack.source
  - module: asgi.stack.release
"""

EXAMPLES = r"""
- name: The shop is built
  asgi.stack.build:
    name: shop
    source: "{{ found.sources.shop }}"
    server_requirements: [gunicorn, uvicorn-worker]
    root: /srv/asgi/shop
    uv: /opt/asgi/bin/uv
  register: built
"""

RETURN = r"""
address:
  description: The build's address, a digest of its input.
  type: str
  returned: success
  sample: 0f1a2b3c51c5d0b8
path:
  description: The build's directory.
  type: str
  returned: success
  sample: /srv/asgi/shop/builds/0f1a2b3c51c5d0b8
"""

import platform
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.asgi.stack.plugins.module_utils import _build
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "source": {"type": "dict", "required": True},
            "requirements": {"type": "str"},
            "server_requirements": {"type": "list", "elements": "str", "default": []},
            "hooks": {"type": "list", "elements": "str", "default": []},
            "root": {"type": "path", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "uv": {"type": "path", "required": True},
            "index_url": {"type": "str"},
            "index_username": {"type": "str"},
            "index_password": {"type": "str", "no_log": True},
            "proxy": {"type": "dict", "default": {}},
            "lock_timeout": {"type": "int", "default": 120},
            "timeout": {"type": "int", "default": 1800},
            "archive": {"type": "path"},
        },
        supports_check_mode=True,
    )
    given = module.params
    environment = _build.index_environment(given["index_url"], given["index_username"], given["index_password"])
    environment.update({key: str(value) for key, value in given["proxy"].items()})
    request = _build.BuildRequest(
        name=given["name"],
        source=given["source"],
        requirements=given["requirements"],
        server_requirements=given["server_requirements"],
        hooks=given["hooks"],
        root=Path(given["root"]),
        python=given["python"],
        uv=given["uv"],
        environment=environment,
        lock_timeout=given["lock_timeout"],
        timeout=given["timeout"],
    )
    try:
        interpreter = _build.interpreter_version(request.python)
        address = _build.digest(request, interpreter, platform.machine())
        path = request.root / "builds" / address
        changed = not _build.is_complete(path)
        needs_archive = changed and request.source["kind"] != "package" and given["archive"] is None
        if changed and not module.check_mode and not needs_archive:
            _build.build(request, Path(given["archive"]) if given["archive"] else None, interpreter, address)
    except HostError as error:
        module.fail_json(msg=str(error))
    after = f"{request.name}: build {address} of {request.source.get('revision')}\n"
    module.exit_json(
        changed=changed,
        address=address,
        path=str(path),
        needs_archive=needs_archive and not module.check_mode,
        diff={"before": "" if changed else after, "after": after},
    )


if __name__ == "__main__":
    main()
