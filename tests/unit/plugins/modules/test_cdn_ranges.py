# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lists are read anew: all of them or none, and only what has changed is written."""

from __future__ import annotations

import io
import json
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils import basic

from ansible_collections.asgi.stack.plugins.modules import cdn_ranges

FASTLY = {
    "addresses": [f"103.21.{third}.0/24" for third in range(10)],
    "ipv6_addresses": ["2a04:4e40::/32"],
}
CLOUDFLARE = "173.245.48.0/20\n"


class Ended(Exception):
    """The module has said its result."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> t.Callable[..., dict[str, t.Any]]:
    """Run the module against what the networks would publish; return its result."""

    def end(_module: object, **result: t.Any) -> t.NoReturn:
        raise Ended(result)

    monkeypatch.setattr(basic.AnsibleModule, "exit_json", end)
    monkeypatch.setattr(basic.AnsibleModule, "fail_json", lambda module, **result: end(module, failed=True, **result))

    def started(fastly: t.Any = None, cloudflare: str = CLOUDFLARE, check: bool = False, **more: t.Any) -> t.Any:
        published = {
            "https://api.fastly.com/public-ip-list": json.dumps(FASTLY if fastly is None else fastly),
            "https://www.cloudflare.com/ips-v4": cloudflare,
            "https://www.cloudflare.com/ips-v6": "2400:cb00::/32\n",
        }
        monkeypatch.setattr(cdn_ranges, "open_url", lambda address, timeout: io.BytesIO(published[address].encode()))
        arguments = {"directory": str(tmp_path), "networks": ["fastly", "cloudflare"], **more}
        internal = {"check_mode": check, "remote_tmp": "/tmp", "keep_remote_files": False}
        arguments.update({f"_ansible_{name}": value for name, value in internal.items()})
        monkeypatch.setattr(basic, "_load_params", lambda *__none: dict(arguments))
        with pytest.raises(Ended) as ended:
            cdn_ranges.main()
        return ended.value.args[0]

    return started


def test_the_lists_are_written_once(run: t.Callable[..., dict[str, t.Any]], tmp_path: Path) -> None:
    assert run(check=True)["changed"]
    assert list(tmp_path.iterdir()) == []
    assert run()["networks"]["fastly"]["ranges"] == 11
    assert json.loads((tmp_path / "cloudflare.json").read_text())["ranges"] == ["173.245.48.0/20", "2400:cb00::/32"]
    assert not run()["changed"]


def test_a_doubtful_list_changes_none(run: t.Callable[..., dict[str, t.Any]], tmp_path: Path) -> None:
    run()
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    shorter = {**FASTLY, "addresses": FASTLY["addresses"][:6]}
    changed = "173.245.48.0/21\n"
    assert "4 are gone" in run(fastly=shorter, cloudflare=changed)["msg"]
    assert "expected a range" in run(fastly={**FASTLY, "addresses": ["0.0.0.0/0"]}, force=True)["msg"]
    assert "cloudflare" in run(fastly=shorter, cloudflare="<html>", force=True)["msg"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    assert run(fastly=shorter, force=True)["diff"]
