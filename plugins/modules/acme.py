#!/usr/bin/python
# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: acme
short_description: Have the host ask an ACME server for certificates, and renew them by itself
version_added: 0.1.0
description:
  - Proves over HTTP (HTTP-01) that the host answers for each domain. Nginx must serve the directory
    C(/var/lib/asgi.acme/webroot) for C(/.well-known/acme-challenge/) on port 80 by then.
  - A timer of systemd on the host renews each certificate when a third of its life is left, without Ansible, and has Nginx reload only
    when there is a new one.
  - A request that fails leaves the certificate that is there, and is not made again before the next run of the module or of the timer.
requirements:
  - The commands C(certbot) and C(openssl) on the host.
author:
  - the asgi.stack authors (@asgi-stack)
options:
  certificates:
    description: The certificates that the host must ask for.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What the pair is called, as in M(asgi.stack.certificate).
        type: str
        required: true
      domains:
        description: The names that the certificate is for.
        type: list
        elements: str
        required: true
  absent:
    description: Names that the host must not ask for. Names in neither list stay as they are.
    type: list
    elements: str
    default: []
  directory:
    description: Address of the ACME server's directory.
    type: str
    default: https://acme-v02.api.letsencrypt.org/directory
  email:
    description: Where the server may write to.
    type: str
  ca:
    description: The certificate, PEM, that a private ACME server's own is checked with.
    type: str
  path:
    description: The directory that holds the pairs, as in M(asgi.stack.certificate).
    type: path
    default: /etc/nginx/asgi/tls
  service:
    description: The unit C(asgi.acme.service).
    type: str
    required: true
  timer:
    description: The unit C(asgi.acme.timer).
    type: str
    required: true
attributes:
  check_mode:
    support: full
    description: Says what would be asked for; asks nothing.
  diff_mode:
    support: full
    description: Shows settings, units, and what is asked for and why; of keys nothing.
  idempotence:
    support: full
    description: A certificate of the right server for the right domains is left to the timer.
seealso:
  - module: asgi.stack.certificate
"""

EXAMPLES = r"""
- name: The shop has a certificate that browsers trust
  asgi.stack.acme:
    certificates:
      - name: shop
        domains: [shop.example.com, www.shop.example.com]
    email: ops@example.com
    service: "{{ lookup('ansible.builtin.template', 'acme.service.j2') }}"
    timer: "{{ lookup('ansible.builtin.template', 'acme.timer.j2') }}"
"""

RETURN = r"""
asked:
  description: Names that were asked for, or would be, and why.
  returned: always
  type: dict
  sample: {shop: [it is for shop.example.com, expected shop.example.com, www.shop.example.com]}
problems:
  description: Names that there is no certificate for, and what the server said.
  returned: always
  type: dict
  sample: {}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.asgi.stack.plugins.module_utils import _acme
from ansible_collections.asgi.stack.plugins.module_utils import _certificate as certificate
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError, explain


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "certificates": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "domains": {"type": "list", "elements": "str", "required": True},
                },
            },
            "absent": {"type": "list", "elements": "str", "default": []},
            "directory": {"type": "str", "default": "https://acme-v02.api.letsencrypt.org/directory"},
            "email": {"type": "str"},
            "ca": {"type": "str"},
            "path": {"type": "path", "default": "/etc/nginx/asgi/tls"},
            "service": {"type": "str", "required": True},
            "timer": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    wanted = {one["name"]: one["domains"] for one in given["certificates"]}
    try:
        certificate.check(
            [certificate.Wanted(name, tuple(domains)) for name, domains in wanted.items()], given["absent"]
        )
        outcome = _acme.ensure(
            wanted,
            given["absent"],
            directory=given["directory"],
            email=given["email"],
            ca=given["ca"],
            path=str(Path(given["path"])),
            units={"asgi.acme.service": given["service"], "asgi.acme.timer": given["timer"]},
            check_mode=module.check_mode,
        )
    except HostError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=explain(error))
    found = {
        "changed": outcome.changed,
        "asked": outcome.asked,
        "problems": outcome.problems,
        "diff": outcome.diff,
    }
    if outcome.problems:
        lines = [f"{name}: {given['directory']} gives no certificate: {why}" for name, why in outcome.problems.items()]
        lines.append("What was there still serves. The next run, or the host's timer, asks again.")
        module.fail_json(msg="\n".join(lines), **found)
    module.exit_json(**found)


if __name__ == "__main__":
    main()
