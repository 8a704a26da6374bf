#!/usr/bin/python
# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
short_description: What a host is, in one round trip
version_added: 0.1.0
description:
  - Reads the few facts that the roles of this collection decide by, in one call and without the cost of gathering all facts.
author:
  - the asgi.stack authors (@asgi-stack)
attributes:
  check_mode:
    support: full
    description: It only reads.
  diff_mode:
    support: none
    description: It changes nothing.
  idempotence:
    support: full
    description: It changes nothing.
options:
  packages:
    description: Names of packages whose installed versions to look up.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: What is this host?
  asgi.stack.host_info:
    packages: [nginx, openssl]
  register: result
"""

RETURN = r"""
host:
  description: What was found.
  returned: always
  type: dict
  contains:
    distribution:
      description: The distribution's C(ID) from os-release.
      type: str
      sample: debian
    version:
      description: The distribution's C(VERSION_ID); empty for a testing release.
      type: str
      sample: "13"
    pretty_name:
      description: The distribution's name for people.
      type: str
      sample: Debian GNU/Linux 13 (trixie)
    codename:
      description: The distribution's codename.
      type: str
      sample: trixie
    architecture:
      description: The machine name of the kernel.
      type: str
      sample: x86_64
    packages:
      description: Version by package asked for; null for one that is not installed.
      type: dict
      sample: {"nginx": "1.26.3-3+deb13u1", "openssl": null}
    packages_interrupted:
      description: Whether an installation of packages was cut off, and no other works until it is finished.
      type: bool
      sample: false
    suites:
      description: Suites that apt installs packages from.
      type: list
      elements: str
      sample: [trixie, trixie-security, trixie-updates]
    ipv6:
      description: Whether a socket can be bound to an IPv6 address.
      type: bool
      sample: true
    nginx:
      description:
        - Version, OpenSSL version and compiled-in modules of the installed Nginx, and which directives it knows that its
          version does not tell of; null when there is none.
      type: dict
      sample:
        {"version": "1.26.3", "openssl": "3.5.4", "modules": ["http_ssl", "http_v2", "http_v3"], "directives": ["max_headers"]}
    python:
      description: Path and version of the distribution's Python; null when there is none.
      type: dict
      sample: {"path": "/usr/bin/python3", "version": "3.13.5"}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.asgi.stack.plugins.module_utils._host import describe


def main() -> None:
    module = AnsibleModule(
        argument_spec={"packages": {"type": "list", "elements": "str", "default": []}},
        supports_check_mode=True,
    )
    module.exit_json(changed=False, host=describe(module.params["packages"]))


if __name__ == "__main__":
    main()
