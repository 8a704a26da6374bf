# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests examine a host with: tools in a container beside it, that has its network, and plays on all hosts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
sys.path.insert(0, str(PROJECT / "tests"))

import driver

DOMAIN = "demo.test"
VARIABLES: dict[str, Any] = {
    **yaml.safe_load((HERE / "group_vars/asgi_app_hosts.yml").read_text(encoding="utf-8")),
    "test_source": str(PROJECT / "tests/apps"),
    "test_certificates": os.environ["MOLECULE_EPHEMERAL_DIRECTORY"],
}
APPS: list[dict[str, Any]] = VARIABLES.pop("asgi_apps")


@dataclass
class Answer:
    """What curl was answered: its exit status, and where there was an answer its status, version and headers."""

    exit: int
    status: int
    version: str
    headers: dict[str, list[str]]  # by their names in lower case
    body: str


@dataclass
class Tools(driver.Host):
    """The container beside a host. *beside* is the host; there, its names are those of 127.0.0.1."""

    beside: driver.Host

    def python(self, program: Path, *arguments: str, seconds: float = 60) -> str:
        """Return what a program printed that runs with the packages of requirements/edge-tools.txt."""
        place = f"/tmp/{program.name}"
        self.write(place, program.read_text(encoding="utf-8"))
        return self.out("/opt/tools/bin/python", place, *arguments, seconds=seconds)

    def curl(self, url: str, *options: str) -> Answer:
        """Ask without looking at the certificate; a refusal is an answer too.

        Debian 13's curl now and then keeps back a part of what it asks over HTTP/3, and waits (curl's issue 21463,
        mended in 8.20): such a one is asked again. 28: the time is over; 95: the server's patience is. That the server
        itself loses none is for another client to see, in test_load.py.
        """
        command = ["curl", "--silent", "--insecure", "--include", "--write-out", "\n%{json}"]
        command += ["--max-time", "4" if "--http3-only" in options else "15"]
        for _attempt in range(12):
            done = self.run(*command, *options, url)
            text, _newline, about = done.stdout.rpartition("\n")
            told = json.loads(about)
            if "--http3-only" not in options or done.returncode not in (28, 95) or told["response_code"]:
                break
        head, _empty, body = text.replace("\r\n", "\n").partition("\n\n")
        headers: dict[str, list[str]] = {}
        for line in head.splitlines()[1:]:
            name, _colon, value = line.partition(":")
            headers.setdefault(name.strip().lower(), []).append(value.strip())
        return Answer(done.returncode, int(told["response_code"]), str(told["http_version"]), headers, body)

    def authority(self) -> str:
        """Return the path of a copy of the certificate of who signed the host's."""
        self.write("/tmp/authority.pem", authority())
        return "/tmp/authority.pem"

    def certificate(self) -> str:
        """Return the path of a copy of the certificate that the host shows."""
        shown = self.sh(f"openssl s_client -connect 127.0.0.1:443 -servername {DOMAIN} </dev/null 2>/dev/null")
        begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
        text = begin + shown.partition(begin)[2].partition(end)[0] + end
        self.write("/tmp/certificate.pem", text + "\n")
        return "/tmp/certificate.pem"


def authority() -> str:
    """Return the certificate of who signed the one that the hosts show."""
    return (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "authority.pem").read_text(encoding="utf-8")


def http3(machine: driver.Host) -> bool:
    """Whether the host's Nginx can do HTTP/3."""
    return "--with-http_v3_module" in machine.sh("nginx -V 2>&1")


def versions(machine: driver.Host) -> list[str]:
    """Return curl's options for each version of HTTP that the host speaks with TLS."""
    return ["--http1.1", "--http2", *(["--http3-only"] if http3(machine) else [])]


def play(directory: Path, playbook: str, variables: Mapping[str, Any]) -> driver.Play:
    """Run a playbook of the checkout on all hosts at once, as a user would, with variables above all others."""
    given = directory / f"{Path(playbook).stem}.json"
    given.write_text(json.dumps({**VARIABLES, "asgi_apps": APPS, **variables}), encoding="utf-8")
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    return driver.start(playbook, "--inventory", inventory, "--extra-vars", f"@{given}").play()
