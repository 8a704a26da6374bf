# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that counts workers."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.asgi.stack.plugins.module_utils import _sizing


def size(workloads: t.Any, capacity: t.Any, policy: t.Mapping[str, t.Any] | None = None) -> dict[str, dict[str, t.Any]]:
    """See ``ansible-doc -t filter asgi.stack.size``."""
    if not isinstance(workloads, (list, tuple)) or not all(isinstance(app, t.Mapping) for app in workloads):
        raise AnsibleFilterError("size: expected a list of applications, each a mapping")
    if not isinstance(capacity, t.Mapping):
        raise AnsibleFilterError("size: capacity: expected the mapping that asgi.stack.capacity_info returns")
    try:
        return _sizing.size(workloads, capacity, policy)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"size": size}
