# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts, each with an ACME server of its own, and the collection applied to both at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2] / "tests")]

import driver
from authority import Pair, made, point_acme

PEBBLE = {
    "listenAddress": "127.0.0.1:14000",
    "managementListenAddress": "127.0.0.1:15000",
    "certificate": "/etc/pebble/cert.pem",
    "privateKey": "/etc/pebble/key.pem",
    "httpPort": 80,
    "tlsPort": 443,
    "certificateValidityPeriod": 45 * 86400,
}
UNIT = """[Service]
ExecStart=/usr/bin/pebble -config /etc/pebble/config.json
Environment=PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask what concerns one host of each."""
    if "machine" in metafunc.fixturenames:
        metafunc.parametrize("machine", [driver.Host(name) for name in driver.hosts()], ids=lambda host: host.name)


@pytest.fixture(scope="session")
def acme() -> Pair:
    """What the ACME servers show of themselves."""
    return made("acme.test")


@pytest.fixture(scope="session")
def machines(acme: Pair) -> list[driver.Host]:
    """The hosts. Each has an ACME server, which its name does not lead to yet."""

    def prepare(host: driver.Host) -> None:
        install = "apt-get install -q -y --no-install-recommends pebble openssl"
        host.sh(f"export DEBIAN_FRONTEND=noninteractive; apt-get update -q; {install}", seconds=180)
        host.sh("mkdir -p /etc/pebble")
        host.write("/etc/pebble/config.json", json.dumps({"pebble": PEBBLE}))
        host.write("/etc/pebble/cert.pem", acme.certificate)
        host.write("/etc/pebble/key.pem", acme.key)
        host.write("/etc/systemd/system/pebble.service", UNIT)
        host.sh("cp /etc/hosts /etc/hosts.before; systemctl daemon-reload; systemctl restart pebble")
        point_acme(host, "127.0.0.2")

    hosts = [driver.Host(name) for name in driver.hosts()]
    with ThreadPoolExecutor() as pool:
        list(pool.map(prepare, hosts))
    return hosts


@pytest.fixture(scope="session")
def stack(machines: list[driver.Host], acme: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[driver.Stack]:
    """The collection, applied to both."""
    place = tmp_path_factory.mktemp("stack")
    (place / "acme.pem").write_text(acme.certificate, encoding="utf-8")
    variables: dict[str, object] = {"site_acme_directory": "https://acme.test:14000/dir", "site_acme_ca": "acme.pem"}
    # Each host is tried, whatever becomes of the others: a canary that fails would leave them untouched.
    variables |= {"asgi_canary": [], "asgi_serial": "100%"}
    first, *others = machines
    yield driver.Stack(first, place, variables, beside=[host.name for host in others])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show with each test that fails what the hosts' services logged."""
    report = yield
    if report.when == "call" and report.failed:
        for name in driver.hosts():
            driver.add_logs(report, driver.Host(name), "journalctl -n 60 --no-pager -u 'asgi*' -u nginx -u pebble")
    return report
