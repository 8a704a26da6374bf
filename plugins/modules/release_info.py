#!/usr/bin/python
# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release_info
version_added: 0.1.0
short_description: What runs of the ASGI applications on a host
description:
  - Reads the releases of each application, asks the live ones for their health, and changes nothing.
author:
  - the asgi.stack authors (@asgi-stack)
options:
  root:
    description: The directory that holds a directory for each application.
    type: path
    default: /srv/asgi
  names:
    description: The applications to look at. By default all that are there.
    type: list
    elements: str
  certificates:
    description: The directories that may hold the applications' certificates.
    type: list
    elements: path
    default: [/etc/nginx/asgi/tls, /etc/asgi/tls]
attributes:
  check_mode:
    support: full
    description: Reads, and so does the same.
  diff_mode:
    support: none
    description: There is nothing to show a difference of.
seealso:
  - module: asgi.stack.release
"""

EXAMPLES = r"""
- name: What runs is known
  asgi.stack.release_info:
  register: found
"""

RETURN = r"""
applications:
  description: The applications, sorted by name.
  type: list
  elements: dict
  returned: success
  sample:
    - name: shop
      active: true
      health: ok
      memory: 138412032
      running: [0012-3f9a2c1b7e]
      rollback: [0011-77b0a1c2d3]
      live:
        release: 0012-3f9a2c1b7e
        id: 3f9a2c1b7e
        revision: v2.4.1 (0f1a2b3c51c5)
        server: gunicorn
        workers: 4
        workers_reason: "4 workers: 2 CPUs x 2 (io); memory would allow 11"
        build: 0f1a2b3c51c5d0b8
        state: live
        live_at: "2026-11-22T18:17:39+00:00"
      releases: []
      certificate:
        mode: acme
        domains: [shop.example.com]
        not_after: "2027-02-20T18:17:39Z"
        days: 89
        problem: null
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.asgi.stack.plugins.module_utils import _acme, _release
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/srv/asgi"},
            "names": {"type": "list", "elements": "str"},
            "certificates": {
                "type": "list",
                "elements": "path",
                "default": ["/etc/nginx/asgi/tls", "/etc/asgi/tls"],
            },
        },
        supports_check_mode=True,
    )
    parent = Path(module.params["root"])
    known = _release.applications(parent)
    names = [name for name in known if module.params["names"] is None or name in module.params["names"]]
    try:
        found = [_release.status(name, parent / name) for name in names]
        roots = [Path(path) for path in module.params["certificates"]]
        for one in found:
            one["certificate"] = _acme.standing(roots, one["name"], time.time())
        module.exit_json(changed=False, applications=found)
    except HostError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
