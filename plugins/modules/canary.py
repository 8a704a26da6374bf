#!/usr/bin/python
# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: canary
version_added: 0.1.0
short_description: Watch a host on which releases just went live
description:
  - Counts what Nginx on the host answers from now on, by its access log, and fails as soon as too many answers are errors.
  - At the end it asks each live release for its health.
  - Changes nothing.
author:
  - the asgi.stack authors (@asgi-stack)
options:
  applications:
    description: For each application, by name, its domains, by which its lines in the log are known.
    type: dict
    required: true
  root:
    description: The directory that holds a directory for each application.
    type: path
    default: /srv/asgi
  log:
    description: Nginx's access log. Lines of JSON with C(host) and C(status) are read, and lines of text with the name before the request.
    type: path
    default: /var/log/nginx/access.log
  seconds:
    description: How long to watch.
    type: float
    default: 30
  max_errors:
    description: The share of answers that may have a status of 500 or above.
    type: float
    default: 0.01
  min_requests:
    description: With fewer requests the share says nothing.
    type: int
    default: 20
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
- name: The shop serves well
  asgi.stack.canary:
    applications:
      shop: [shop.example.com]
    seconds: 60
"""

RETURN = r"""
applications:
  description: What was counted for each application, by name.
  type: dict
  returned: always
  sample:
    shop:
      requests: 1204
      errors: 0
"""

import dataclasses
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.asgi.stack.plugins.module_utils import _canary
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "applications": {"type": "dict", "required": True},
            "root": {"type": "path", "default": "/srv/asgi"},
            "log": {"type": "path", "default": "/var/log/nginx/access.log"},
            "seconds": {"type": "float", "default": 30},
            "max_errors": {"type": "float", "default": 0.01},
            "min_requests": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        tallies, problems = _canary.watch(
            {str(name): [str(domain) for domain in domains] for name, domains in given["applications"].items()},
            Path(given["root"]),
            Path(given["log"]),
            given["seconds"],
            given["max_errors"],
            given["min_requests"],
        )
    except (HostError, OSError) as error:
        module.fail_json(msg=str(error), applications={})
    counted = {name: dataclasses.asdict(tally) for name, tally in tallies.items()}
    if problems:
        module.fail_json(msg="\n".join(problems), applications=counted)
    module.exit_json(changed=False, applications=counted)


if __name__ == "__main__":
    main()
