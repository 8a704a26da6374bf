# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nginx as a service and its files: its sandbox, its rights, and the intent of dev-sec's nginx-baseline and CIS.

docs/edge.md lists the items that are not followed, and why.
"""

from __future__ import annotations

import json
import re

import driver
import examine
import pytest

#: Findings of gixy-ng that are none: its name of the check, and why. docs/edge.md has them too.
FALSE_POSITIVES = {
    "ssl_ecdh_curve": "the post-quantum group is written only where OpenSSL has it",
    "try_files_is_evil_too": "a cache of open files would serve the old release's files after a switch",
    "filesystem_root_exposure": "what is tried begins with the directories of releases, whatever is asked for",
}
#: What the commands below have at hand.
PRELUDE = """
config() { nginx -T 2>/dev/null; }
value() { config | awk -v name="$1" '$1 == name { print $2 }' | tr -d '";' | sort -u; }
none() { if [ -n "$(cat)" ]; then return 1; fi; }
master=$(systemctl show --property MainPID --value nginx)
workers=$(cat /proc/$master/task/$master/children)
"""
#: What must succeed on the host, by the items that want it.
BASELINE = {
    "dev-sec 01, CIS 2.2.1: no worker is root's": """
        test -n "$workers"
        for worker in $workers; do grep -P '^Uid:.*\\t0\\b' /proc/$worker/status; done | none""",
    "CIS 2.2.2, 2.2.3: their account is locked and has no shell": """
        getent passwd www-data | grep nologin
        grep -E '^www-data:[*!]' /etc/shadow""",
    "dev-sec 02, CIS 2.3.1, 2.3.2: only root may write the configuration": """
        find -L /etc/nginx ! -type l '(' ! -user root -o -perm /022 ')' | none""",
    "CIS 2.3.3: only Nginx may write its process id": """
        pid=$(systemctl show --property PIDFile --value nginx)
        test -s "$pid"
        find "$pid" -perm /022 | none""",
    "dev-sec 03: there is no default site": """
        test ! -e /etc/nginx/sites-enabled/default
        test ! -e /etc/nginx/conf.d/default.conf""",
    "dev-sec 04: there is one master": """
        test "$(echo $master $workers | wc -w)" = "$(grep -lsx nginx /proc/[0-9]*/comm | wc -l)"
        """,
    "CIS 2.4.1: it listens on ports 80 and 443 only": """
        ss -Hlntup | grep '"nginx"' | awk '{ print $5 }' | grep -vE ':(80|443)$' | none""",
    "dev-sec 05, CIS 2.5.1: no version is told": """
        test "$(value server_tokens)" = off""",
    "CIS 3.2: there is an access log": """
        value access_log | grep -vx off""",
    "CIS 3.4: every log is rotated": """
        grep -F '/var/log/nginx/*.log' /etc/logrotate.d/nginx
        find /var/log/nginx -type f ! -name '*.log' ! -name '*.log.*' | none""",
    "CIS 4.1.3: private keys are root's, and no others may read them": """
        test -n "$(value ssl_certificate_key)"
        for key in $(value ssl_certificate_key); do find -L "$key" '(' ! -user root -o -perm /027 ')'; done | none""",
    "dev-sec 17, CIS 5.2.1: slow clients are let go": """
        for name in client_header_timeout client_body_timeout send_timeout; do
            value $name | grep -E '^[0-9]+s$'
        done""",
    "CIS 5.2.2: bodies are limited": """
        value client_max_body_size | grep -E '^[1-9]'""",
}


@pytest.mark.parametrize("item", BASELINE)
def test_baseline(machine: driver.Host, item: str) -> None:
    done = machine.run("sh", "-euc", PRELUDE + BASELINE[item])
    assert done.returncode == 0, f"{item}: {done.stdout}{done.stderr}"


def test_the_services_exposure_is_small(machine: driver.Host) -> None:
    done = machine.run("systemd-analyze", "--no-pager", "security", "--threshold=15", "nginx.service")
    print(next(line for line in reversed(done.stdout.splitlines()) if line.strip()))
    assert done.returncode == 0, [line for line in done.stdout.splitlines() if "✗" in line]


def test_a_check_of_the_configuration_by_root_does_not_take_the_bodies_directory_away(
    machine: driver.Host, tools: examine.Tools
) -> None:
    machine.out("nginx", "-t")
    machine.out("nginx", "-T")
    answer = tools.curl(f"https://{examine.DOMAIN}/upload", "--data-binary", "@/etc/ssl/certs/ca-certificates.crt")
    assert answer.status == 200, answer
    assert json.loads(answer.body)["bytes"] > 16384


def test_gixy_finds_nothing(tools: examine.Tools) -> None:
    tools.write("/tmp/nginx.conf", tools.beside.out("nginx", "-T"))
    done = tools.run("/opt/tools/bin/gixy", "--format", "json", "/tmp/nginx.conf")
    found = json.loads(done.stdout)
    issues = found["issues"] if isinstance(found, dict) else found
    counted = [f"{issue['severity']} {issue['plugin']}" for issue in issues]
    print(", ".join(sorted(set(counted))) or "nothing")
    bad = [
        issue for issue in issues if issue["severity"] in ("MEDIUM", "HIGH") and issue["plugin"] not in FALSE_POSITIVES
    ]
    assert not bad, bad


def test_trace_and_connect_are_refused(tools: examine.Tools) -> None:
    for method in ("TRACE", "CONNECT"):
        answer = tools.curl(f"https://{examine.DOMAIN}/", "--http1.1", "--request", method)
        assert answer.status in (400, 405, 501), (method, answer)


def test_files_beside_the_static_ones_are_not_served(tools: examine.Tools) -> None:
    paths = (
        "/static../main.py",
        "/static/../main.py",
        "/static/%2e%2e/main.py",
        "/static/..%2fmain.py",
        "/static/.git/config",
    )
    for path in (*paths, "/static//../../main.py", "/.env", "/../../etc/passwd", "/static/..%5cmain.py"):
        answer = tools.curl(f"https://{examine.DOMAIN}{path}", "--path-as-is", "--http1.1")
        assert answer.status in (301, 308, 400, 404), (path, answer)
        assert not re.search("FastAPI|root:", answer.body), (path, answer)
