#!/usr/bin/python
# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cdn_ranges
short_description: Address ranges of content delivery networks, as they publish them
version_added: 0.1.0
description:
  - Reads the lists that the networks publish, and writes each to a file that the role C(site) reads. Runs where the playbooks run;
    no host ever downloads a list.
  - Who is in such a list may say who a client is. A list is refused when it has another form than the known one, has no range
    of IPv4 or of IPv6, has one that is wider than /8 (IPv4) or /16 (IPv6) or is not of the public Internet, or when more than 30 % of
    its ranges are gone or new. When one is refused, none is written.
  - A file is written only when ranges have changed, for a changed file reloads Nginx.
author:
  - the asgi.stack authors (@asgi-stack)
options:
  directory:
    description: Where the lists are kept, a file C(NETWORK.json) for each. For the role, it is C(site_cdn_directory).
    type: path
    required: true
  networks:
    description: Whose lists to read.
    type: list
    elements: str
    choices: [cloudflare, cloudfront, fastly]
    default: [cloudflare, cloudfront, fastly]
  force:
    description: Whether more than 30 % of a list may be gone or new.
    type: bool
    default: false
  timeout:
    description: Seconds that one answer may take.
    type: int
    default: 30
attributes:
  check_mode:
    support: full
    description: The lists are read and checked; nothing is written.
  diff_mode:
    support: full
    description: Shows each list that changes.
  idempotence:
    support: full
    description: Nothing is written when no range has changed.
"""

EXAMPLES = r"""
- name: The lists are those of today
  asgi.stack.cdn_ranges:
    directory: "{{ inventory_dir }}/cdn"
  delegate_to: localhost
"""

RETURN = r"""
networks:
  description: For each network how many ranges it has, and the day from which its list is.
  returned: success
  type: dict
  sample: {"fastly": {"ranges": 21, "date": "2026-07-24"}}
"""

import datetime
import json
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

from ansible_collections.asgi.stack.plugins.module_utils import _cdn
from ansible_collections.asgi.stack.plugins.module_utils._system import write


def held(network: str, path: Path) -> dict[str, t.Any] | None:
    """What the file has now; None if there is no file, or none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"date": str(found["date"]), "ranges": _cdn.check(network, found["ranges"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "networks": {
                "type": "list",
                "elements": "str",
                "choices": list(_cdn.SOURCES),
                "default": list(_cdn.SOURCES),
            },
            "force": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    directory = Path(module.params["directory"])
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    networks: dict[str, dict[str, t.Any]] = {}
    diff: list[dict[str, str]] = []
    texts: dict[Path, str] = {}
    for network in module.params["networks"]:
        path = directory / f"{network}.json"
        before = held(network, path)
        try:
            read = [
                open_url(address, timeout=module.params["timeout"]).read().decode("utf-8")
                for address in _cdn.SOURCES[network]
            ]
            ranges, day = _cdn.parse(network, read)
            if before and not module.params["force"]:
                _cdn.compare(network, before["ranges"], ranges)
        except _cdn.Doubtful as error:
            module.fail_json(msg=str(error))
        except (OSError, ValueError) as error:  # of urllib, of TLS, or of what is no text
            module.fail_json(msg=f"{network}: its list cannot be read: {error}")
        if before and before["ranges"] == ranges:
            networks[network] = {"ranges": len(ranges), "date": before["date"]}
            continue
        networks[network] = {"ranges": len(ranges), "date": day or today}
        texts[path] = _cdn.document(network, ranges, day or today)
        old = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        diff.append({"before_header": str(path), "after_header": str(path), "before": old, "after": texts[path]})
    if not module.check_mode:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, text)
    module.exit_json(changed=bool(texts), networks=networks, diff=diff)


if __name__ == "__main__":
    main()
