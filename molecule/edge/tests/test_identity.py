# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who a client is, what it may say about itself, how much it may do, and what is written down of it.

The site stands behind a proxy at 127.0.0.1; what comes from the host's outer address is a client of its own.
"""

from __future__ import annotations

import json
import re
from typing import Any

import driver
import examine
import pytest

INFO = f"https://{examine.DOMAIN}/api/info"
CHAIN = "6.6.6.6, 203.0.113.9, 127.0.0.1"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LOG = "/var/log/nginx/access.log"


def options(headers: dict[str, str]) -> list[str]:
    return [word for name, value in headers.items() for word in ("--header", f"{name}: {value}")]


def from_outside(machine: driver.Host) -> list[str]:
    """Options of curl to connect to the host's outer address, and from it."""
    address = machine.out("hostname", "--all-ip-addresses").split()[0]
    return ["--connect-to", f"{examine.DOMAIN}:443:{address}:443"]


def logged(machine: driver.Host, identifier: str) -> dict[str, Any]:
    """Return the line of the access log about a request."""

    def line() -> str:
        return machine.run("grep", "--fixed-strings", identifier, LOG).stdout

    found: dict[str, Any] = json.loads(driver.wait_for("a line in the log", line, 5))
    return found


def test_the_proxy_is_believed(tools: examine.Tools) -> None:
    told = json.loads(tools.curl(INFO, *options({"X-Forwarded-For": CHAIN, "X-Forwarded-Proto": "http"})).body)
    assert (told["client"], told["scheme"]) == ("203.0.113.9", "http")


def test_nobody_else_is(machine: driver.Host, tools: examine.Tools) -> None:
    outside = from_outside(machine)
    names = ("For", "Proto", "Host", "Port", "Prefix", "User", "Ssl", "Server", "Scheme")
    forged = {f"X-Forwarded-{name}": "forged.test" for name in names}
    forged |= dict.fromkeys(("X-Real-IP", "Forwarded", "Proxy", "X_Forwarded_For", "X-Forwarded_For"), "forged.test")
    for option in examine.versions(machine):
        answer = tools.curl(INFO, option, *outside, *options({**forged, "X-Request-ID": "forged-identifier"}))
        told = json.loads(answer.body)
        assert "forged" not in answer.body, (option, told)
        assert (told["client"], told["scheme"]) == (outside[1].split(":")[2], "https"), (option, told)
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"][0]), (option, answer)


@pytest.mark.parametrize("path", ["/api/info", "/static/app.css", "/static/nothing-here", "/nothing-here", "/.env"])
def test_every_answer_has_one_identifier(tools: examine.Tools, path: str) -> None:
    assert len(tools.curl(f"https://{examine.DOMAIN}{path}").headers["x-request-id"]) == 1


def test_a_request_is_one_line_of_json(machine: driver.Host, tools: examine.Tools) -> None:
    asked = options({"X-Forwarded-For": CHAIN, "traceparent": TRACE, "User-Agent": 'a "b\\', "Referer": "/?secret"})
    answer = tools.curl(f"{INFO}?secret=1", "--http2", *asked)
    line = logged(machine, answer.headers["x-request-id"][0])
    expected = {
        "status": 200,
        "method": "GET",
        "path": "/api/info",
        "client": "203.0.113.9",
        "peer": "127.0.0.1",
        "protocol": "HTTP/2.0",
        "traceparent": TRACE,
        "user_agent": 'a "b\\',
        "release": json.loads(answer.body)["release"],
    }
    assert {key: line[key] for key in expected} == expected
    assert "secret" not in json.dumps(line)
    assert "x-asgi-release" not in answer.headers
    answer = tools.curl(INFO, *options({"traceparent": TRACE.upper()}))
    assert logged(machine, answer.headers["x-request-id"][0])["traceparent"] == ""


def test_the_log_is_json_whatever_is_asked(machine: driver.Host) -> None:
    lines = machine.read(LOG)
    assert lines
    for line in lines.splitlines():
        json.loads(line)


def test_who_asks_too_much_is_told_to_wait_and_others_are_not(tools: examine.Tools) -> None:
    asked = ["h2load", "--requests=2500", "--clients=8", "--header=X-Forwarded-For: 203.0.113.77", INFO]
    said = tools.out(*asked)
    found = re.search(r"finished in ([\d.]+)(m?s)", said)
    codes = re.search(r"status codes: (\d+) 2xx, \d+ 3xx, (\d+) 4xx, (\d+) 5xx", said)
    assert found, said
    assert codes, said
    served, refused, failed = map(int, codes.groups())
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1)
    print(f"{served} of 2500 served in {seconds:.2f} s, {refused} refused")
    # 500 at once and 100 a second, and all that was not served was refused.
    assert served <= 501 + 100 * (seconds + 0.5)
    assert served >= 500
    assert (served + refused, failed) == (2500, 0)
    answer = tools.curl(INFO, *options({"X-Forwarded-For": "203.0.113.77"}))
    others = tools.curl(INFO, *options({"X-Forwarded-For": "203.0.113.78"}))
    assert others.status == 200
    assert "retry-after" not in others.headers
    assert answer.status == 200 or answer.headers["retry-after"] == ["1"]


def test_malformed_requests_are_refused(machine: driver.Host, tools: examine.Tools) -> None:
    said = tools.out(
        "/opt/tools/bin/python",
        "-c",
        (examine.PROJECT / "tests/probes.py").read_text(encoding="utf-8"),
        *("--connect", "127.0.0.1:443", "--tls", "--host", examine.DOMAIN, "--summary"),
        seconds=180,
    )
    print(said)
    assert " 0 wrong" in said
    log = machine.read(LOG) or ""
    assert "/smuggled" not in log
