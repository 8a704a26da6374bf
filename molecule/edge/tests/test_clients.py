# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Browsers and clients of each version of HTTP, and what every response carries."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import driver
import examine
import pytest
from load import workers

BROWSER = examine.HERE / "host/browser.py"
#: Each with the ways that it may read. Those that only make sense for a page of the application are its own.
ALWAYS = ("x-content-type-options", "referrer-policy")


def browse(tools: examine.Tools, url: str, *options: str) -> object:
    """Return what a page in Chromium says."""
    certificate = tools.certificate()
    trust = tools.sh(
        f"openssl x509 -in {certificate} -noout -pubkey | openssl pkey -pubin -outform der"
        " | openssl dgst -sha256 -binary | base64"
    )
    return json.loads(tools.python(BROWSER, url, "--trust", trust, *options, seconds=90))


def keep(tools: examine.Tools, name: str) -> None:
    """Copy a screenshot to where the scenario's files are."""
    place = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / name
    subprocess.run(["docker", "cp", f"{tools.name}:/tmp/{name}", str(place)], check=True, capture_output=True)
    print(f"screenshot: {place}", end="; ")


@pytest.mark.parametrize("protocol", ["h2", "h3"])
def test_a_browser_has_page_websocket_stream_and_upload(
    machine: driver.Host, tools: examine.Tools, protocol: str
) -> None:
    if protocol == "h3" and not examine.http3(machine):
        assert not machine.run("sh", "-c", "nginx -T 2>/dev/null | grep 'listen.*quic'").stdout
        return
    options = ["--done", "document.body.dataset.results", "--result", "JSON.parse(document.body.dataset.results)"]
    options += ["--screenshot", f"/tmp/{protocol}.png"]
    options += ["--http3", f"{examine.DOMAIN}:443"] if protocol == "h3" else []
    found = browse(tools, f"https://{examine.DOMAIN}/check", *options)
    print(found, end="; ")
    keep(tools, f"{protocol}.png")
    assert found == {
        "protocol": protocol,
        "WebSocket": "echoed hello",
        "event stream": "3 events, one by one",
        "upload": "200000 bytes counted",
    }


def test_curl_is_answered_with_each_version(machine: driver.Host, tools: examine.Tools) -> None:
    # While they finish what they have, part of the new connections of HTTP/3 reaches them and is lost.
    driver.wait_for("workers from before the last reload are gone", lambda: len(workers(machine)) <= 2, 90)
    for option in examine.versions(machine):
        answer = tools.curl(f"https://{examine.DOMAIN}/api/info", option)
        print(f"{option}: HTTP/{answer.version} {answer.status}", end="; ")
        assert answer.status == 200
        assert answer.version == option.removeprefix("--http").removesuffix("-only")
        assert json.loads(answer.body)["scheme"] == "https"
        # It says where else it is reached, if and only if it is.
        assert ("h3=" in "".join(answer.headers.get("alt-svc", []))) == examine.http3(machine), answer.headers


def test_every_response_carries_the_security_headers_once(machine: driver.Host, tools: examine.Tools) -> None:
    asked = {
        "a page": ("/", 200, []),
        "a page that is not there": ("/nothing", 404, []),
        "a static file": ("/static/app.css", 200, []),
        "a static file that is not there": ("/static/nothing.css", 404, []),
        "a body that is too large": ("/upload", 413, ["--data-binary", "@/opt/tools/bin/python3"]),
        "a request that is malformed": ("/%00", 400, []),
    }
    for what, (path, status, options) in asked.items():
        answer = tools.curl(f"https://{examine.DOMAIN}{path}", *options)
        assert answer.status == status, (what, answer)
        check(what, answer)
        assert answer.headers.get("strict-transport-security") == ["max-age=63072000; includeSubDomains"], (
            what,
            answer,
        )
    check("the redirect to HTTPS", tools.curl(f"http://{examine.DOMAIN}/"))
    # With its socket, or that would start it again.
    machine.out("systemctl", "stop", "asgi-demo@*.socket", "asgi-demo@*.service", seconds=100)
    try:
        answer = tools.curl(f"https://{examine.DOMAIN}/")
        print(f"while it is stopped: {answer.status}", end="; ")
        assert answer.status == 503, answer
        assert answer.headers.get("retry-after"), answer.headers
        check("the page of an application that is not there", answer)
        assert answer.headers["cache-control"] == ["no-store"]
    finally:
        machine.out("systemctl", "restart", "asgi-demo.service")
    driver.wait_for("it is back", lambda: tools.curl(f"https://{examine.DOMAIN}/healthz").status == 200, 120)


def check(what: str, answer: examine.Answer) -> None:
    for name in ALWAYS:
        assert len(answer.headers.get(name, [])) == 1, (what, name, answer.headers)
    # No version, and no word about what else is behind it.
    assert answer.headers.get("server", ["nginx"]) == ["nginx"], what
    assert "x-powered-by" not in answer.headers, what


def test_observatory_gives_an_a_plus(tools: examine.Tools) -> None:
    program = "/opt/observatory/node_modules/@mdn/mdn-http-observatory/src/scan.js"
    said = json.loads(tools.out("env", f"NODE_EXTRA_CA_CERTS={tools.authority()}", "node", program, examine.DOMAIN))
    found = said.get("scan") or said
    print(
        f"{found.get('grade')}, {found.get('score')}, {found.get('testsFailed')} of {found.get('testsQuantity')} failed"
    )
    failed = {name: test["result"] for name, test in said.get("tests", {}).items() if not test["pass"]}
    assert found.get("grade") == "A+", failed or said
    assert found["score"] >= 100
