#!/usr/bin/python
# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release
version_added: 0.1.0
short_description: Make a release of an ASGI application live, without dropping a request
description:
  - Puts a build and its configuration together in an immutable directory, starts it beside the live release on a socket
    of its own, and asks it for its health.
  - When it is healthy, the symbolic link C(live) is renamed to it, which is the whole switch. The release before is
    stopped by the host when nothing is connected to it any more, or C(drain) seconds have passed.
  - When it is not, it is stopped and kept for inspection. What was live is live still.
  - Nothing is done where the live release is the wanted one and runs.
  - One run at a time works on an application. A second one waits.
author:
  - the asgi.stack authors (@asgi-stack)
options:
  name:
    description: The application's name.
    type: str
    required: true
  state:
    description:
      - With C(present), the wanted release is live.
      - With C(staged), it is complete on the disk, and nothing is started.
      - With C(prepared), it is started and healthy, and has no traffic yet.
      - With C(migrated), the hooks of the prepared release have run, once for all releases of the same O(id).
      - With C(restarted), a fresh instance of the live release is live.
      - With C(rolled_back), a release that was live before is live again, with its code and its configuration.
      - With C(absent), the application's units, directories, data and user are gone.
    type: str
    choices: [present, staged, prepared, migrated, restarted, rolled_back, absent]
    default: present
  release:
    description:
      - The release to roll back to, by its name or O(id).
      - By default the last one before the live one that was healthy while it was live, and that nobody has rolled back from.
    type: str
  root:
    description: The application's directory.
    type: path
    required: true
  user:
    description: The user that the application runs as. It is made if it is not there.
    type: str
    required: true
  id:
    description: What the release is called, besides its number on the host. Lower-case hexadecimal.
    type: str
  build:
    description: The address of the build, as M(asgi.stack.build) returned it.
    type: str
  info:
    description: What is written down about the release for people. C(app) is its import string.
    type: dict
    default: {}
  service:
    description: The text of the template unit.
    type: str
  socket:
    description: The text of the template socket unit.
    type: str
  boot:
    description: The text of the unit that starts what is live at a boot.
    type: str
  override:
    description: The text of the settings that belong to this release.
    type: str
  migrate:
    description: Shell commands that must succeed before the release gets traffic. They run with its code and
      environment, as the application's user.
    type: list
    elements: str
    default: []
  files:
    description: Files of the release's directory, by name.
    type: dict
    default: {}
  binds:
    description: Whether the server makes its socket itself, C(/run/asgi-NAME/RELEASE/edge/app.sock). Else systemd does.
    type: bool
    default: false
  front:
    description: The texts of the units that hold the network's sockets, C(asgi-NAME-front.socket) and C(.service), by
      name, for an application without Nginx.
    type: dict
    default: {}
  environment:
    description: Environment variables.
    type: dict
    default: {}
  secrets:
    description: Environment variables that nobody may see, packed by P(asgi.stack.sealed_secrets#filter).
    type: str
    default: ""
  health:
    description: What the release must answer before it gets traffic.
    type: dict
    suboptions:
      path:
        description: The path to ask for.
        type: str
        default: /
      host:
        description: The header C(Host).
        type: str
        default: localhost
      scheme:
        description: The header C(X-Forwarded-Proto).
        type: str
        default: http
      status:
        description: The healthy statuses. None given is any below 500.
        type: list
        elements: int
      contains:
        description: A text that the body must contain.
        type: str
      timeout:
        description: Seconds in which it must become healthy.
        type: int
        default: 60
      successes:
        description: So many healthy answers in a row.
        type: int
        default: 3
      interval:
        description: Seconds between two of them. What crashes meanwhile is not healthy.
        type: float
        default: 1
  keep:
    description: So many releases stay on the host.
    type: int
    default: 5
  drain:
    description: Seconds that the release before may finish what is connected to it.
    type: int
    default: 60
  pool:
    description: Seconds after the switch in which Nginx has given up its pooled connections to the release before.
    type: int
    default: 6
  side_by_side:
    description: Whether there is memory for the new release beside the live one. If not, that is stopped first, and
      started again where the new one is not healthy.
    type: bool
    default: true
  lock_timeout:
    description: Seconds to wait for another run that works on the same application.
    type: int
    default: 120
attributes:
  check_mode:
    support: full
    description: Reports what would be done.
  diff_mode:
    support: full
    description: Shows the release's files, units and environment. Of secrets it shows the names alone.
  idempotence:
    support: full
    description: Compares the live release with the wanted one, secrets included.
seealso:
  - module: asgi.stack.build
"""

EXAMPLES = r"""
- name: The shop's release is live
  asgi.stack.release:
    name: shop
    root: /srv/asgi/shop
    user: asgi-shop
    id: 3f9a2c1b7e
    build: "{{ built.address }}"
    service: "{{ lookup('ansible.builtin.template', 'service.j2') }}"
    socket: "{{ lookup('ansible.builtin.template', 'socket.j2') }}"
    boot: "{{ lookup('ansible.builtin.template', 'boot.j2') }}"
    override: "{{ lookup('ansible.builtin.template', 'override.j2') }}"
    secrets: "{{ asgi_apps | asgi.stack.sealed_secrets('shop') }}"
    health:
      path: /healthz

- name: The shop is as it was before
  asgi.stack.release:
    name: shop
    state: rolled_back
    root: /srv/asgi/shop
    user: asgi-shop

- name: The shop is gone
  asgi.stack.release:
    name: shop
    state: absent
    root: /srv/asgi/shop
    user: asgi-shop
"""

RETURN = r"""
release:
  description: The live release.
  type: str
  returned: success
  sample: 0012-3f9a2c1b7e
previous:
  description: The release that was live before, if this run switched.
  type: str
  returned: success
  sample: 0011-77b0a1c2d3
did:
  description: What was done, or in check mode would be done, in words.
  type: list
  elements: str
  returned: success
  sample: ["release 3f9a2c1b7e made live after 0011-77b0a1c2d3"]
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.asgi.stack.plugins.module_utils import _release
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError

WANTED = ("id", "build", "service", "socket", "boot", "override")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["present", "staged", "prepared", "migrated", "restarted", "rolled_back", "absent"],
                "default": "present",
            },
            "release": {"type": "str"},
            "root": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "id": {"type": "str"},
            "build": {"type": "str"},
            "info": {"type": "dict", "default": {}},
            "service": {"type": "str"},
            "socket": {"type": "str"},
            "boot": {"type": "str"},
            "override": {"type": "str"},
            "migrate": {"type": "list", "elements": "str", "default": []},
            "files": {"type": "dict", "default": {}},
            "binds": {"type": "bool", "default": False},
            "front": {"type": "dict", "default": {}},
            "environment": {"type": "dict", "default": {}},
            "secrets": {"type": "str", "no_log": True, "default": ""},
            "health": {
                "type": "dict",
                "apply_defaults": True,
                "options": {
                    "path": {"type": "str", "default": "/"},
                    "host": {"type": "str", "default": "localhost"},
                    "scheme": {"type": "str", "default": "http"},
                    "status": {"type": "list", "elements": "int"},
                    "contains": {"type": "str"},
                    "timeout": {"type": "int", "default": 60},
                    "successes": {"type": "int", "default": 3},
                    "interval": {"type": "float", "default": 1},
                },
            },
            "keep": {"type": "int", "default": 5},
            "drain": {"type": "int", "default": 60},
            "pool": {"type": "int", "default": 6},
            "side_by_side": {"type": "bool", "default": True},
            "lock_timeout": {"type": "int", "default": 120},
        },
        required_if=[("state", state, WANTED) for state in ("present", "staged", "prepared", "migrated")],
        supports_check_mode=True,
    )
    given = module.params
    name, root, check, wait = given["name"], Path(given["root"]), module.check_mode, given["lock_timeout"]
    diff: t.Any = []
    try:
        if given["state"] == "absent":
            outcome = _release.absent(name, root, given["user"], wait, check)
            diff = {"before": "".join(f"{line.removesuffix(' removed')}\n" for line in outcome.did), "after": ""}
        elif given["state"] == "rolled_back":
            outcome = _release.rollback(name, root, given["release"], wait, check)
        elif given["state"] == "restarted":
            outcome = _release.restart(name, root, wait, check)
        elif given["state"] == "migrated":
            outcome = _release.migrate(_request(given), check)
        elif given["state"] == "staged":
            outcome = _release.stage(_request(given), check)
        else:
            before = _release.describe(root)
            outcome = _release.deploy(_request(given), prepare=given["state"] == "prepared", check=check)
            diff = _release.difference(before, _request(given))
    except _release.ReleaseFailed as error:
        module.fail_json(msg="\n".join([str(error), *(f"  {line}" for line in error.journal)]))
    except HostError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=outcome.changed, release=outcome.instance, previous=outcome.previous, did=outcome.did, diff=diff
    )


def _request(given: dict[str, t.Any]) -> _release.Request:
    health = given["health"]
    return _release.Request(
        name=given["name"],
        root=Path(given["root"]),
        user=given["user"],
        id=given["id"],
        build=given["build"],
        info=given["info"],
        service=given["service"],
        socket=given["socket"],
        boot=given["boot"],
        override=given["override"],
        files=given["files"],
        binds=given["binds"],
        front=given["front"],
        environment={key: str(value) for key, value in given["environment"].items()},
        secrets=_release.unseal(given["secrets"]),
        migrate=tuple(given["migrate"]),
        settings=_release.Settings(
            health=_release.Health(
                path=health["path"],
                host=health["host"],
                scheme=health["scheme"],
                status=tuple(health["status"] or ()),
                contains=health["contains"] or "",
                timeout=health["timeout"],
                successes=health["successes"],
                interval=health["interval"],
            ),
            keep=given["keep"],
            drain=given["drain"],
            pool=given["pool"],
            lock_timeout=given["lock_timeout"],
            side_by_side=given["side_by_side"],
        ),
    )


if __name__ == "__main__":
    main()
