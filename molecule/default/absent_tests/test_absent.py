# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After one of two applications was declared absent: nothing of it is left, and nothing else is gone."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests"))

import client
import driver

testinfra_hosts = [f"docker://{name}" for name in driver.hosts()]


def test_nothing_is_left_of_it(host: Any) -> None:
    assert not host.user("asgi-plain").exists
    assert not host.group("asgi-plain").exists
    for path in ("/srv/asgi/plain", "/var/lib/asgi/plain", "/run/asgi/plain", "/etc/nginx/asgi/live/sites/plain.conf"):
        assert not host.file(path).exists, path
    assert host.check_output("find /etc/systemd /run/systemd/system -name 'asgi-plain*'") == ""
    assert host.check_output("systemctl list-units --all --no-legend --plain 'asgi-plain*'") == ""


def test_its_domain_gets_no_application(host: Any) -> None:
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        client.request(driver.Host(host.backend.name).address, "plain.test", "/healthz", tls=False)


def test_the_other_application_answers(host: Any) -> None:
    assert client.request(driver.Host(host.backend.name).address, "secure.test", "/healthz").status == 200


def test_what_is_not_ours_is_there(host: Any) -> None:
    assert host.file("/srv/asgi-other").is_directory
    assert host.file("/etc/nginx/conf.d/other.conf").content_string == "# not ours\n"
    assert host.file("/srv/asgi/secure/live").is_symlink
