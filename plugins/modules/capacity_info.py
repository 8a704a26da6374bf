#!/usr/bin/python
# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module capacity_info: see its documentation below."""

from __future__ import annotations

DOCUMENTATION = r"""
module: capacity_info
version_added: 0.1.0
short_description: Find out how many CPUs and how much memory services may use
author:
  - the asgi.stack authors (@asgi-stack)
description:
  - Reads what services that systemd starts on a Linux host may really use, which is often less than the hardware has.
    CPUs are what affinity, cpusets and the CPU quota leave, as a fraction. Memory is the tightest limit of the cgroups
    and of the host.
  - Reads cgroup v1, v2, and hosts that have both, on bare hosts, in virtual machines and in containers.
  - Limits of the session that runs the module do not count, because services do not run in it. The cgroups that
    count are those of process 1 and its ancestors as far as they can be seen, and C(system.slice) below it.
  - CPU affinity is that of process 1, from which services inherit it, or the module's own where that cannot be read.
  - Tells also what the applications of this collection hold, and what all else does.
options:
  root:
    description: Where the applications' builds and releases are kept.
    type: path
    default: /srv/asgi
attributes:
  check_mode:
    description: Can run in check mode and return what it would return without it.
    support: full
  diff_mode:
    description: Returns details on what has changed in diff mode.
    support: none
    details: The module changes nothing.
  platform:
    description: Target platforms.
    support: full
    platforms: linux
"""

EXAMPLES = r"""
- name: The host's capacity is known
  asgi.stack.capacity_info:
  register: found

- name: It is shown
  ansible.builtin.debug:
    msg: "{{ found.capacity.cpus }} CPUs ({{ found.capacity.cpus_from }})"
"""

RETURN = r"""
capacity:
  description: What services may use, and where each figure comes from.
  returned: success
  type: dict
  contains:
    cpus:
      description: Usable CPUs, the smaller of the quota and of the CPUs that affinity and cpusets have in common.
      type: float
      sample: 1.5
    cpus_from:
      description: The limit that decided RV(capacity.cpus).
      type: str
      sample: cpu.max of /system.slice
    cpus_total:
      description: CPUs that are online, V(null) where the kernel does not say.
      type: int
      sample: 4
    cpus_affinity:
      description: CPUs that process 1 may run on.
      type: int
      sample: 2
    cpus_cpuset:
      description: CPUs of the smallest cpuset, V(null) without cpusets.
      type: int
      sample: 2
    cpus_quota:
      description: The tightest CPU quota, in CPUs, V(null) without one.
      type: float
      sample: 1.5
    memory:
      description: Usable memory in bytes, the smaller of RV(capacity.memory_total) and RV(capacity.memory_limit).
      type: int
      sample: 1073741824
    memory_from:
      description: The limit that decided RV(capacity.memory).
      type: str
      sample: memory.max of /system.slice
    memory_total:
      description: Memory of the host in bytes.
      type: int
      sample: 4108517376
    memory_limit:
      description:
        - The tightest memory limit in bytes, V(null) without one.
        - C(memory.high), from which on the kernel slows processes down, counts as a limit.
      type: int
      sample: 1073741824
    memory_available:
      description: Memory in bytes that is free now within all limits, droppable page cache included.
      type: int
      sample: 805306368
    memory_others:
      description: Memory in bytes that all but the applications hold now, droppable page cache not included.
      type: int
      sample: 209715200
    applications:
      description:
        - By name, the C(workers) of what is live, and what was C(measured) since, V(null) until it has been. Of that, C(base)
          and C(per_worker) are bytes of the main process and of the largest worker.
      type: dict
      sample: {shop: {workers: 4, measured: {base: 29360128, per_worker: 41943040, release: 0012-3f9a2c1b7e}}}
  sample:
    cpus: 1.5
    cpus_from: cpu.max of /system.slice
    cpus_total: 4
    cpus_affinity: 2
    cpus_cpuset: 2
    cpus_quota: 1.5
    memory: 1073741824
    memory_from: memory.max of /system.slice
    memory_total: 4108517376
    memory_limit: 1073741824
    memory_available: 805306368
    memory_others: 209715200
    applications: {}
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.asgi.stack.plugins.module_utils import _capacity, _memory


def affinity() -> set[int]:
    """Return the numbers of the CPUs that process 1 may run on, or those of this process."""
    try:
        return os.sched_getaffinity(1)
    except OSError:
        return os.sched_getaffinity(0)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"root": {"type": "path", "default": "/srv/asgi"}}, supports_check_mode=True)
    try:
        found = _capacity.capacity(affinity())
        applications, held = _memory.applications(Path(module.params["root"]))
    except ValueError as error:
        module.fail_json(msg=str(error))
    others = max(0, found["memory"] - found["memory_available"] - held)
    found.update(memory_others=others, applications=applications)
    module.exit_json(changed=False, capacity=found)


if __name__ == "__main__":
    main()
