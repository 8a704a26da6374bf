#!/usr/bin/python
# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: source
version_added: 0.1.0
short_description: Check declared applications and find their sources on the control node
description:
  - Reports every mistake in the list at once, each with the application, the key, what was found and what was expected.
  - Checks certificates and keys that are provided from the control node.
  - Finds what each source is now, such as the commit of a branch or the digest of a directory.
  - Runs on the control node alone; no host is touched.
author:
  - the asgi.stack authors (@asgi-stack)
options:
  apps:
    description: The list of applications, C(asgi_apps).
    type: list
    elements: dict
    required: true
  base:
    description: The directory on the control node that relative paths of sources start from.
    type: path
    default: .
attributes:
  check_mode:
    support: full
    description: Can run in check mode without changing anything.
  diff_mode:
    support: none
    description: There is nothing to show a difference of.
seealso:
  - module: asgi.stack.build
"""

EXAMPLES = r"""
- name: What is declared is right, and its sources are there
  asgi.stack.source:
    apps: "{{ asgi_apps }}"
    base: "{{ inventory_dir }}"
  register: found
"""

RETURN = r"""
sources:
  description: For each application, by name, what its source is.
  type: dict
  returned: success
  sample:
    shop:
      kind: tree
      digest: 51c5d0b8a5a86e7a1ee3d06c0f1a2b3c51c5d0b8a5a86e7a1ee3d06c0f1a2b3c
      revision: v2.4.1 (0f1a2b3c51c5)
problems:
  description: The mistakes, a line each.
  type: list
  elements: str
  returned: failure
  sample: ["asgi_apps[0] (shop): workerz: unknown key, did you mean workers?"]
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "apps": {"type": "list", "elements": "dict", "required": True},
            "base": {"type": "path", "default": "."},
        },
        supports_check_mode=True,
    )
    module.fail_json(msg="this module is the action plugin of the same name; it does not run on a host")


if __name__ == "__main__":
    main()
