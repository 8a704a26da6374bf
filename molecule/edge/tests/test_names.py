# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who asks for a name that no site has gets nothing, and who names two gets neither."""

from __future__ import annotations

import json
import time

import driver
import examine
import pytest

UNKNOWN = "unknown.test"


def test_an_unknown_name_without_tls_gets_not_a_byte(tools: examine.Tools) -> None:
    for name in (UNKNOWN, "127.0.0.1"):
        answer = tools.curl(f"http://{name}/")
        # 52: an empty reply; 56: the connection was reset.
        assert answer.exit in (52, 56), answer
        assert answer.status == 0, answer


def test_an_unknown_name_gets_no_handshake(machine: driver.Host, tools: examine.Tools) -> None:
    for option in examine.versions(machine):
        answer = tools.curl(f"https://{UNKNOWN}/", option)
        print(f"{option} exit {answer.exit}", end="; ")
        assert answer.status == 0, (option, answer)


def test_no_name_gets_no_handshake(machine: driver.Host, tools: examine.Tools) -> None:
    for option in examine.versions(machine):
        answer = tools.curl("https://127.0.0.1/", option)
        assert answer.status == 0, (option, answer)


@pytest.mark.parametrize("name", [UNKNOWN, "127.0.0.1"])
def test_a_known_name_in_tls_with_another_in_http_is_misdirected(
    machine: driver.Host, tools: examine.Tools, name: str
) -> None:
    for option in examine.versions(machine):
        answer = tools.curl(f"https://{examine.DOMAIN}/", option, "--header", f"Host: {name}")
        print(f"{option} {answer.status}", end="; ")
        assert answer.status == 421, (option, answer)


def test_a_known_name_is_redirected_to_https_by_its_own_name(tools: examine.Tools) -> None:
    answer = tools.curl(f"http://{examine.DOMAIN}/a/b?c=d")
    assert answer.status == 308
    assert answer.headers["location"] == [f"https://{examine.DOMAIN}/a/b?c=d"]


def test_malformed_and_smuggling_requests_get_one_error_or_nothing(machine: driver.Host, tools: examine.Tools) -> None:
    tools.write("/tmp/probes.py", (examine.PROJECT / "tests/probes.py").read_text(encoding="utf-8"))
    done = tools.run(
        "python3", "/tmp/probes.py", "--connect", "127.0.0.1:443", "--tls", "--host", examine.DOMAIN, seconds=300
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    print(f"{len(results)} probes")
    assert done.returncode == 0, [result for result in results if result["problem"]] or done.stderr
    assert len(results) >= 18
    time.sleep(1.5)  # the log is written once a second
    assert machine.run("grep", "-c", "/smuggled", "/var/log/nginx/access.log").stdout.strip() == "0"
