# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host offers with TLS, as scanners and OpenSSL see it."""

from __future__ import annotations

import examine
import pytest

MOZILLA = examine.HERE / "host/mozilla-intermediate-6.0.json"


def talk(tools: examine.Tools, *options: str) -> str:
    """Return what `openssl s_client` says of a handshake with the host."""
    command = ["openssl", "s_client", "-connect", "127.0.0.1:443", "-servername", examine.DOMAIN, *options]
    done = tools.run(*command)
    return done.stdout + done.stderr


def test_sslyze_says_that_it_is_mozilla_6_intermediate(tools: examine.Tools) -> None:
    tools.write("/tmp/mozilla.json", MOZILLA.read_text(encoding="utf-8"))
    command = ["/opt/tools/bin/sslyze", "--custom_tls_config", "/tmp/mozilla.json"]
    command += ["--certinfo", "--certinfo_ca_file", tools.authority()]
    done = tools.run(*command, f"{examine.DOMAIN}:443")
    verdict = done.stdout.partition("COMPLIANCE AGAINST")[2]
    print(" ".join(verdict.split()))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert "OK - Compliant" in verdict


@pytest.mark.parametrize("version", ["tls1", "tls1_1"])
def test_old_tls_is_refused(tools: examine.Tools, version: str) -> None:
    # The client itself has to be told to offer it.
    said = talk(tools, f"-{version}", "-cipher", "DEFAULT:@SECLEVEL=0")
    assert "alert protocol version" in said, said


def test_a_session_is_resumed_and_there_is_no_early_data(tools: examine.Tools) -> None:
    for version in ("tls1_2", "tls1_3"):
        # With TLS 1.3 the session comes after the handshake: a request makes sure that it came.
        script = (
            "rm -f /tmp/session; "
            f"ask='openssl s_client -connect 127.0.0.1:443 -servername {examine.DOMAIN} -{version}'; "
            f"request='GET /healthz HTTP/1.1\\r\\nHost: {examine.DOMAIN}\\r\\nConnection: close\\r\\n\\r\\n'; "
            'printf "$request" | $ask -ign_eof -sess_out /tmp/session 2>&1; '
            'printf "$request" | $ask -ign_eof -sess_in /tmp/session 2>&1'
        )
        said = tools.sh(script)
        begun = [line.split(",")[0] for line in said.splitlines() if line.startswith(("New,", "Reused,"))]
        print(version, begun, end="; ")
        assert begun == ["New", "Reused"], said
        early = {line.strip() for line in said.splitlines() if "Max Early Data" in line}
        assert early <= {"Max Early Data: 0"}, early


def test_the_key_exchange_is_post_quantum_where_openssl_has_it(tools: examine.Tools) -> None:
    said = talk(tools, "-brief")
    group = next((line for line in said.splitlines() if "group:" in line or "Temp Key" in line), said)
    print(group.strip())
    new = tools.beside.sh("nginx -V 2>&1 | grep -oE 'OpenSSL 3\\.[0-9]+' | head -n 1").rpartition(".")[2]
    assert ("X25519MLKEM768" if int(new) >= 5 else "X25519") in group


def test_no_ocsp_response_is_stapled_and_nginx_has_nothing_to_complain_of(tools: examine.Tools) -> None:
    assert "OCSP response: no response sent" in talk(tools, "-status")
    assert "ssl_stapling" not in tools.beside.sh("cat /var/log/nginx/error.log || true")
