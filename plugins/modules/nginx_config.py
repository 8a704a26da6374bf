#!/usr/bin/python
# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_config
short_description: Nginx's configuration as one transaction
version_added: 0.1.0
description:
  - Writes a complete new set of configuration files, has C(nginx -t) test it, makes it live with one rename, reloads Nginx and
    waits until new worker processes have taken it. Nginx ends enabled and running.
  - When anything fails, what was there is back and serving, and the task fails; also on each further run, until Nginx takes it.
  - The files that are live are tested on each run. A file of the operator's that would keep Nginx from starting again fails the task even
    when nothing of ours changed.
  - C(nginx.conf) becomes a symbolic link to the live set. What it was is kept as C(asgi/replaced-nginx.conf). The distribution's
    default site is disabled. No other file is touched.
  - The settings of C(nginx.service) belong to the set. When they change, Nginx is tested with them and then restarted; when it does
    not start, what was there is back and started.
  - An Nginx whose program was replaced, by an upgrade of the package, is restarted.
author:
  - the asgi.stack authors (@asgi-stack)
options:
  root:
    description: Nginx's configuration directory.
    type: path
    default: /etc/nginx
  config:
    description: The text of C(nginx.conf). It includes the other files by names that begin with C(asgi/live/), relative to O(root).
    type: str
    required: true
  files:
    description:
      - Text by path, relative to the live directory.
      - These files must not themselves include one another as C(asgi/live/), which is the old set while the new one is tested.
      - C(nginx.service.conf) is a drop-in for C(nginx.service). Without it, the distribution's unit is as it is.
      - C(prepare) is a shell script that root runs before each test. The drop-in may have it run before Nginx starts.
    type: dict
    default: {}
  absent:
    description: Paths, relative to the live directory, that must not be there. Live files named in neither option stay.
    type: list
    elements: str
    default: []
  reload_timeout:
    description: How many seconds a reload may take until a new worker process exists.
    type: int
    default: 30
  proof:
    description:
      - How Nginx shows that it serves the configuration and does not only run. Without it, new worker processes are enough.
      - A unix socket on which it answers C(/configuration) with what one of O(files) says as C(@configuration@), for which
        the name of the whole set is put, those files included that are live and not named.
    type: path
attributes:
  check_mode:
    support: full
    description: Also on a host that has no Nginx yet. The files that would be written are not tested.
  diff_mode:
    support: full
    description: Shows each file that changes.
  idempotence:
    support: full
    description: Nothing is written and nothing is reloaded when what runs is what is asked for.
"""

EXAMPLES = r"""
- name: Nginx says hello
  asgi.stack.nginx_config:
    config: |
      user www-data;
      pid /run/nginx.pid;
      events {}
      http {
          include asgi/live/sites/*.conf;
          include conf.d/*.conf;
      }
    files:
      sites/hello.conf: |
        server { listen 80; return 200 "hello\n"; }
    absent:
      - sites/old.conf
"""

RETURN = r"""
files:
  description: The files that changed.
  returned: success
  type: list
  elements: str
  sample: [/etc/nginx/asgi/live/sites/hello.conf]
actions:
  description: What was done to the service, of enabled, started, reloaded and restarted.
  returned: success
  type: list
  elements: str
  sample: [reloaded]
digest:
  description: Names the whole set of files that is live.
  returned: success
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.asgi.stack.plugins.module_utils import _nginx as nginx
from ansible_collections.asgi.stack.plugins.module_utils._system import HostError, explain


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/etc/nginx"},
            "config": {"type": "str", "required": True},
            "files": {"type": "dict", "default": {}},
            "absent": {"type": "list", "elements": "str", "default": []},
            "reload_timeout": {"type": "int", "default": 30},
            "proof": {"type": "path"},
        },
        supports_check_mode=True,
    )
    proof = module.params["proof"]
    try:
        outcome = nginx.apply(
            Path(module.params["root"]),
            module.params["config"],
            {str(name): str(text) for name, text in module.params["files"].items()},
            module.params["absent"],
            nginx.Systemd(
                timeout=module.params["reload_timeout"],
                proof=Path(proof) if proof else None,
            ),
            check=module.check_mode,
        )
    except HostError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=explain(error))
    for warning in outcome.warnings + nginx.short_queues(module.params["files"]):
        module.warn(f"nginx: {warning}")
    module.exit_json(
        changed=outcome.changed,
        files=outcome.files,
        actions=outcome.actions,
        digest=outcome.digest,
        diff=outcome.diff + [{"prepared": f"{nginx.SERVICE}: {action}\n"} for action in outcome.actions],
    )


if __name__ == "__main__":
    main()
