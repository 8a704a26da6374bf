#!/usr/bin/python
# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: drift_info
version_added: 0.1.0
short_description: What somebody changed by hand, and which certificates end soon
description:
  - Compares Nginx's configuration, units and the live releases' files with what the collection made, reads when certificates
    end, and changes nothing.
author:
  - the asgi.stack authors (@asgi-stack)
options:
  root:
    description: The directory that holds a directory for each application.
    type: path
    default: /srv/asgi
  nginx:
    description: Nginx's configuration directory.
    type: path
    default: /etc/nginx
  front:
    description: The directory with the certificates of applications without Nginx.
    type: path
    default: /etc/asgi/tls
attributes:
  check_mode:
    support: full
    description: Reads, and so does the same.
  diff_mode:
    support: none
    description: There is nothing to show a difference of.
seealso:
  - module: asgi.stack.release_info
"""

EXAMPLES = r"""
- name: What was changed is known
  asgi.stack.drift_info:
  register: found
"""

RETURN = r"""
changed_files:
  description: Files, or directories of files, that are not as they were made.
  type: list
  elements: str
  returned: success
  sample: [/etc/systemd/system/asgi-shop@.service]
certificates:
  description: Whole days until each certificate of Nginx ends, by its name. Negative where it has ended.
  type: dict
  returned: success
  sample:
    shop: 89
"""

import ssl
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.asgi.stack.plugins.module_utils import _nginx, _release
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError, run


def days_left(certificate: Path) -> int | None:
    """Return the whole days until a certificate (PEM) ends, None where it cannot be read."""
    try:
        said = run(["openssl", "x509", "-noout", "-enddate", "-in", str(certificate)])
        ends = ssl.cert_time_to_seconds(said.stdout.strip().removeprefix("notAfter="))
    except (HostError, ValueError):
        return None
    return int((ends - time.time()) // 86400)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/srv/asgi"},
            "nginx": {"type": "path", "default": "/etc/nginx"},
            "front": {"type": "path", "default": "/etc/asgi/tls"},
        },
        supports_check_mode=True,
    )
    root, nginx, front = (Path(module.params[name]) for name in ("root", "nginx", "front"))
    try:
        changed = [file for name in _release.applications(root) for file in _release.changed_files(root / name)]
        changed += _nginx.changed_by_hand(nginx)
    except (HostError, OSError) as error:
        module.fail_json(msg=str(error))
    found = [path for place in (nginx / "asgi/tls", front) for path in place.glob("*/fullchain.pem")]
    pairs = {path.parent.name: days_left(path) for path in found}
    certificates = {name: days for name, days in sorted(pairs.items()) if days is not None and "@" not in name}
    module.exit_json(changed=False, changed_files=changed, certificates=certificates)


if __name__ == "__main__":
    main()
