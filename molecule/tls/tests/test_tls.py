# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One application and its certificates, the tests in order: each begins with what the one before left."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import driver
from authority import Pair, made, point_acme

SHOP: dict[str, Any] = {
    "name": "shop",
    "app": "main:app",
    "server": "uvicorn",
    "workers": 1,
    "domains": ["shop.test"],
    "health": {"successes": 1},
    "locations": [{"path": "/events", "kind": "sse"}],
    "tls": {"mode": "acme"},
}
BOTH = ["shop.test", "www.shop.test"]
GET = r"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n"
ROOT = "import ssl, urllib.request as r; u = 'https://127.0.0.1:15000/roots/0'; " + (
    "print(r.urlopen(u, context=ssl._create_unverified_context()).read().decode())"
)


def shop(stack: driver.Stack, **more: Any) -> dict[str, Any]:
    return {**SHOP, "source": {"path": stack.source("shop")}, **more}


def handshake(host: driver.Host, *options: str, name: str = "shop.test") -> str:
    """Return all that OpenSSL says of a connection that asks for the first page."""
    client = f"openssl s_client -connect 127.0.0.1:443 -servername {name} -ign_eof {' '.join(options)}"
    return host.run("sh", "-c", f"printf '{GET}' | timeout 20 {client} 2>&1").stdout


def certificate(host: driver.Host, what: str = "-issuer -serial") -> str:
    """Return what is served, as OpenSSL describes it."""
    client = "openssl s_client -connect 127.0.0.1:443 -servername shop.test < /dev/null 2> /dev/null"
    return host.sh(f"{client} | openssl x509 -noout {what}")


def reloads(host: driver.Host) -> int:
    return int(host.sh("journalctl -u nginx -o cat | grep -c '^Reloaded ' || true"))


def renew(host: driver.Host) -> bool:
    """Have the host renew now, as the documentation says."""
    host.sh("touch /var/lib/asgi.acme/renew")
    return host.run("systemctl", "start", "asgi.acme.service", seconds=120).returncode == 0


def test_a_server_that_does_not_answer(stack: driver.Stack, machines: list[driver.Host]) -> None:
    """The play is red and says why; the site is up all the same, with a certificate of its own."""
    played = stack.play("site", shop(stack)).must_fail()
    assert played.says(r"shop: https://acme\.test:14000/dir gives no certificate: .*refused"), played.end_of_output
    for host in machines:
        assert "self-signed" in certificate(host)
        assert driver.ask(host, "shop.test", "/").status == 200


def test_issued(stack: driver.Stack, machines: list[driver.Host]) -> None:
    for host in machines:
        point_acme(host, "127.0.0.1")
    stack.play("site", shop(stack)).must()
    for host in machines:
        assert "Pebble Intermediate" in certificate(host)
        assert "P-256" in certificate(host, "-text")
        host.write("/tmp/root.pem", host.out("python3", "-c", ROOT))
        said = handshake(host, "-CAfile /tmp/root.pem -verify_return_error -verify_hostname shop.test")
        assert "Verify return code: 0 (ok)" in said, said
        assert "200 OK" in said
        modes = host.sh("stat -c '%a %U' /etc/nginx/asgi/tls /etc/nginx/asgi/tls/shop/privkey.pem")
        assert modes.splitlines() == ["700 root", "600 root"]
        # Of other people's requests, the challenges' place answers none, and nothing else is served without TLS.
        assert driver.ask(host, "shop.test", "/.well-known/acme-challenge/x", tls=False).status == 404
        assert driver.ask(host, "shop.test", "/", tls=False).status == 308


def test_sessions_are_resumed(machine: driver.Host) -> None:
    for version in ("-tls1_2", "-tls1_3"):
        assert "New, TLSv1" in handshake(machine, version, "-sess_out /tmp/session")
        again = handshake(machine, version, "-sess_in /tmp/session")
        assert "Reused, TLSv1" in again, again
        assert "Max Early Data: 0" in again or version == "-tls1_2"


def test_renewed_without_ansible_under_load(machine: driver.Host) -> None:
    """One reload for a new certificate and none without; nobody notices."""
    timer = machine.show("asgi.acme.timer", "ActiveState", "UnitFileState", "NextElapseUSecRealtime")
    assert (timer["ActiveState"], timer["UnitFileState"]) == ("active", "enabled")
    assert timer["NextElapseUSecRealtime"]
    machine.sh("systemd-analyze security --threshold=20 asgi.acme.service")
    before, count = certificate(machine), reloads(machine)
    log = driver.Log(machine)
    load = driver.Load(machine, "shop.test", seconds=120, rates="get_kept=30,get_new=10,post_kept=10")
    assert renew(machine)
    driver.wait_for("the new one is served", lambda: certificate(machine) != before, 20)
    summary = load.end()
    after = certificate(machine)
    assert "Pebble Intermediate" in after
    assert reloads(machine) == count + 1
    machine.sh("systemctl start asgi.acme.service")  # it is not time
    assert (certificate(machine), reloads(machine)) == (after, count + 1)
    # What met an idle connection at the moment in which Nginx closed it, Nginx never took: the client's to send again
    # (RFC 9112 9.3.1). Whatever Nginx took is answered.
    lost = driver.losses(summary)
    raced = [one for one in lost if one["reason"] in ("eof", "reset") and one["kind"] != "get_new"]
    assert lost == raced, lost
    answered = summary["requests"] - len(lost)
    driver.wait_for("what is answered is logged", lambda: log.count() >= answered, 10)
    assert log.count() == answered
    assert answered > 100


def test_other_names(stack: driver.Stack, machines: list[driver.Host]) -> None:
    stack.play("site", shop(stack, domains=BOTH)).must()
    for host in machines:
        names = certificate(host, "-ext subjectAltName")
        assert re.findall(r"DNS:([a-z.]+)", names) == BOTH
    again = stack.play("site", shop(stack, domains=BOTH)).must()
    assert again.changed == 0, again.end_of_output


def test_a_renewal_that_fails_is_seen(stack: driver.Stack, machines: list[driver.Host], tmp_path: Path) -> None:
    found = tmp_path / "status.json"
    for host in machines:
        before = certificate(host)
        point_acme(host, "127.0.0.2")
        assert not renew(host)
        assert certificate(host) == before
    played = stack.play("status", shop(stack), variables={"asgi_status_file": str(found)}).must()
    told = re.findall(r"acme, until [0-9-]+: requests fail since .*refused", played.output)
    assert len(told) == len(machines), played.output
    for apps in json.loads(found.read_text()).values():
        (app,) = apps
        assert app["certificate"]["mode"] == "acme"
        assert "refused" in app["certificate"]["problem"]
        assert 40 <= app["certificate"]["days"] <= 45


def provided(stack: driver.Stack, pair: Pair, key: Pair) -> dict[str, Any]:
    (stack.directory / "shop.pem").write_text(pair.certificate, encoding="utf-8")
    (stack.directory / "shop.key").write_text(key.key, encoding="utf-8")
    tls = {"mode": "provided", "certificate": "shop.pem", "key": "shop.key", "hsts": {"max_age": 60}}
    return shop(stack, domains=BOTH, tls=tls)


def shows_a_key(output: str, *pairs: Pair) -> bool:
    return any(line in output for pair in pairs for line in pair.key.splitlines() if "-----" not in line)


def test_a_wrong_key_touches_no_host(stack: driver.Stack) -> None:
    pair, other = made(*BOTH), made(*BOTH)
    played = stack.play("site", provided(stack, pair, other)).must_fail()
    assert played.says(r"asgi_apps\[0\] \(shop\): tls\.key: shop\.key: it does not belong to the certificate")
    assert "Applications are served" not in played.output
    assert not shows_a_key(played.output, pair, other)


def test_provided(stack: driver.Stack, machines: list[driver.Host]) -> None:
    """Said as loudly as Ansible can, nothing of the key is seen; the host asks nobody for certificates any more."""
    pair = made(*BOTH)
    modern = {"nginx_tls_profile": "modern"}
    played = stack.play("site", provided(stack, pair, pair), options=("-vvv", "--diff"), variables=modern).must()
    assert not shows_a_key(played.output, pair)
    for host in machines:
        assert int(certificate(host, "-serial").partition("=")[2], 16) == pair.serial
        assert host.sh("stat -c '%a %U' /etc/nginx/asgi/tls/shop/privkey.pem") == "600 root"
        assert host.show("asgi.acme.timer", "LoadState")["LoadState"] == "not-found"
        assert "Strict-Transport-Security: max-age=60\n" in handshake(host)
        assert "200 OK" in handshake(host, "-tls1_3")
        assert "alert protocol version" in handshake(host, "-tls1_2")
