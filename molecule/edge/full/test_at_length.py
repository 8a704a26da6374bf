# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What takes minutes: testssl.sh, slow clients for longer and in greater number, HTTP/3 through many reloads, and more
declarations. `./dev test edge-full` runs this instead of tests/, which has a short form of each.
"""

from __future__ import annotations

import json
from pathlib import Path

import driver
import examine
import fuzz
import pytest
from load import attack, reload_under_http3

#: Findings of testssl.sh that are not about Nginx' configuration: its name of the finding, and why.
NOT_OURS = {
    "cert": "the certificate is made for the test, by an authority that has neither OCSP nor revocation lists",
    "intermediate_cert": "as before",
    "DNS_CAArecord": "the test's names are in no DNS",
    "BREACH": "answers are compressed; what holds a secret beside what a client sends is the application's to know",
}


def test_testssl_grades_it_a_plus(tools: examine.Tools) -> None:
    command = ["testssl", "--quiet", "--color", "0", "--warnings", "off", "--ip", "127.0.0.1"]
    command += ["--add-ca", tools.authority(), "--jsonfile", "/tmp/testssl.json", "--overwrite"]
    command += [f"https://{examine.DOMAIN}"]
    done = tools.run(*command, seconds=600)
    found = {item["id"]: item for item in json.loads(tools.read("/tmp/testssl.json") or "[]")}
    assert "overall_grade" in found, done.stdout[-3000:]
    bad = {
        name: f"{item['severity']}: {item['finding']}"
        for name, item in found.items()
        if item["severity"] in ("MEDIUM", "HIGH", "CRITICAL") and not name.startswith(tuple(NOT_OURS))
    }
    print(f"{found['overall_grade']['finding']}, {found.get('final_score', {}).get('finding')}; {bad or 'nothing bad'}")
    assert found["overall_grade"]["finding"] == "A+", found
    assert not bad


@pytest.mark.parametrize("way", ["-H", "-B", "-X"], ids=["headers", "bodies", "reads"])
def test_slow_clients_keep_nobody_else_waiting_for_long(machine: driver.Host, tools: examine.Tools, way: str) -> None:
    attack(machine, tools, way, connections=2000, seconds=40)


def test_http3_through_many_reloads(machine: driver.Host, tools: examine.Tools) -> None:
    if not examine.http3(machine):
        return
    # Without `reuseport` it is about half.
    reload_under_http3(machine, tools, times=20, apart=0.8, most=1 / 4, seconds=120)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[driver.Play, list[fuzz.Application]]:
    """A run of the role `site` with many applications, each with something that is allowed and unusual."""
    apps = fuzz.applications(200)
    directory: Path = tmp_path_factory.mktemp("fuzz")
    return fuzz.serve(directory, apps), apps


def test_nginx_takes_all_that_the_model_takes_of_many(
    machine: driver.Host, served: tuple[driver.Play, list[fuzz.Application]]
) -> None:
    play, apps = served
    play.must()
    print(f"{len(apps)} applications")
    fuzz.check_tree(machine.out("nginx", "-T"), {app.edge["name"] for app in apps})
