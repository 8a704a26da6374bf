#!/usr/bin/python
# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate
short_description: Have a certificate and its key for each of several sites
version_added: 0.1.0
description:
  - Makes self-signed certificates (ECDSA P-256) with their keys, and replaces one that is missing or unreadable, is for other names,
    ends soon, or lies beside a key that is not its own.
  - Installs certificates that are provided, from the control node or from the host. Nothing is changed unless they and their keys
    belong together, are in order, have not ended and are good for all domains.
  - Keeps a place for certificates of M(asgi.stack.acme) with self-signed ones, so that Nginx can start.
  - A certificate and its key become visible together, however the module ends.
requirements:
  - The command C(openssl) on the host.
author:
  - the asgi.stack authors (@asgi-stack)
options:
  path:
    description:
      - The directory, mode 0700 and root's, that holds C(NAME/fullchain.pem) and C(NAME/privkey.pem).
      - Each C(NAME) is a symbolic link to the directory of the pair in use.
    type: path
    default: /etc/nginx/asgi/tls
  certificates:
    description: The certificates that must be there.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What the pair is called, as a rule the application's name.
        type: str
        required: true
      domains:
        description: The names that the certificate is for.
        type: list
        elements: str
        required: true
      mode:
        description:
          - Where the certificate comes from.
          - V(acme) makes a self-signed one unless there is any, and leaves the rest to M(asgi.stack.acme).
        type: str
        choices: [self_signed, provided, acme]
        default: self_signed
      certificate:
        description: With O(certificates[].mode=provided), a PEM file of the certificate and of those that signed it, in this order.
        type: str
      key:
        description: With O(certificates[].mode=provided), a PEM file of its private key.
        type: str
      on_host:
        description: Whether these files are on the host. By default they are on the control node, and may be encrypted by Ansible Vault.
        type: bool
        default: false
      chain:
        description: What is in O(certificates[].certificate) on the control node. Read from there; not for playbooks.
        type: str
      private_key:
        description: What is in O(certificates[].key) on the control node. Read from there; not for playbooks.
        type: str
  base:
    description: The directory on the control node that paths of files there are relative to.
    type: path
  absent:
    description: Names whose certificate and key must not be there.
    type: list
    elements: str
    default: []
  days:
    description: How many days a new certificate is valid.
    type: int
    default: 825
  renew_days:
    description: A certificate that ends in fewer days is replaced.
    type: int
    default: 30
attributes:
  check_mode:
    support: full
    description: A certificate that would be made has no fingerprint yet.
  diff_mode:
    support: full
    description: Shows names, end and fingerprint of certificates; of keys nothing.
  idempotence:
    support: full
    description: A pair that is good is left alone.
"""

EXAMPLES = r"""
- name: The shop has a certificate
  asgi.stack.certificate:
    certificates:
      - name: shop
        domains: [shop.example.com, www.shop.example.com]

- name: The blog has the one that was bought
  asgi.stack.certificate:
    certificates:
      - name: blog
        domains: [blog.example.com]
        mode: provided
        certificate: files/blog.pem
        key: files/blog.key
    base: "{{ inventory_dir }}"
"""

RETURN = r"""
certificates:
  description: What is there, by name.
  returned: always
  type: dict
  contains:
    fingerprint:
      description: SHA-256 of the certificate, hexadecimal; null in check mode when it would be made.
      type: str
    not_after:
      description: When it ends, UTC; null in check mode when it would be made.
      type: str
      sample: "2028-02-25T12:00:00Z"
    certificate:
      description: Path of the certificate.
      type: str
      sample: /etc/nginx/asgi/tls/shop/fullchain.pem
    key:
      description: Path of the private key.
      type: str
      sample: /etc/nginx/asgi/tls/shop/privkey.pem
    origin:
      description: Where it came from, or would.
      type: str
      sample: self_signed
    changed:
      description: Whether it is new, or its key was made private again.
      type: bool
    reasons:
      description: Why it was made.
      type: list
      elements: str
      sample: [it expires in 12 days]
present:
  description: All names that have a pair now, those not asked for included.
  returned: always
  type: list
  elements: str
  sample: [shop]
acme:
  description: Names that the host asks an ACME server for.
  returned: always
  type: list
  elements: str
  sample: []
removed:
  description: The absent names that were there.
  returned: always
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.asgi.stack.plugins.module_utils import _acme
from ansible_collections.asgi.stack.plugins.module_utils import _certificate as certificate
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError, explain


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/etc/nginx/asgi/tls"},
            "certificates": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "domains": {"type": "list", "elements": "str", "required": True},
                    "mode": {
                        "type": "str",
                        "choices": ["self_signed", "provided", "acme"],
                        "default": "self_signed",
                    },
                    "certificate": {"type": "str"},
                    "key": {"type": "str", "no_log": False},  # a path
                    "on_host": {"type": "bool", "default": False},
                    "chain": {"type": "str"},
                    "private_key": {"type": "str", "no_log": True},
                },
            },
            "base": {"type": "path"},
            "absent": {"type": "list", "elements": "str", "default": []},
            "days": {"type": "int", "default": 825},
            "renew_days": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    root = Path(module.params["path"])
    wanted = [
        certificate.Wanted(
            one["name"],
            tuple(one["domains"]),
            one["mode"],
            *(one[key] for key in ("certificate", "key", "chain", "private_key")),
        )
        for one in module.params["certificates"]
    ]
    try:
        results, removed = certificate.ensure(
            root,
            wanted,
            module.params["absent"],
            days=module.params["days"],
            renew_before=module.params["renew_days"] * certificate.DAY,
            check_mode=module.check_mode,
        )
        settings = _acme.load_settings()
        acme = sorted(settings.names) if settings else []
    except HostError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=explain(error))

    diff = []
    for result in results:
        header = str(root / result.name)
        after = certificate.describe(result.found) if result.found else f"another one: {'; '.join(result.reasons)}\n"
        if result.reasons:
            before = certificate.describe(result.was)
            diff.append({"before_header": header, "after_header": header, "before": before, "after": after})
        for path in result.tightened:
            diff.append(
                {"before_header": path, "after_header": path, "before": "open to others\n", "after": "root's\n"}
            )
    for name in removed:
        header = str(root / name)
        diff.append({"before_header": header, "after_header": header, "before": "a certificate\n", "after": ""})
    module.exit_json(
        changed=bool(removed) or any(result.changed for result in results),
        certificates={
            result.name: {
                "fingerprint": result.found.fingerprint if result.found else None,
                "not_after": certificate.date(result.found.expires) if result.found else None,
                "certificate": str(root / result.name / certificate.CERTIFICATE),
                "key": str(root / result.name / certificate.KEY),
                "changed": result.changed,
                "reasons": result.reasons,
                "origin": result.origin,
            }
            for result in results
        },
        present=certificate.present(root),
        acme=acme,
        removed=removed,
        diff=diff,
    )


if __name__ == "__main__":
    main()
