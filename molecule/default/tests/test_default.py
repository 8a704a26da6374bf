# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two applications on one host, seen from outside and from the host, after a reboot."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests"))

import client
import driver

testinfra_hosts = [f"docker://{name}" for name in driver.hosts()]

APPS = ["secure", "plain"]
PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])


@pytest.fixture
def name(host: Any) -> str:
    """The test host's name."""
    return str(host.backend.name)


@pytest.fixture
def target(name: str) -> str:
    """The test host's address. The first answer after a boot is waited for, bounded."""
    found = driver.Host(name).address
    until = time.monotonic() + 30
    while True:
        try:
            if client.request(found, "plain.test", "/healthz", tls=False).status == 200:
                return found
        except (OSError, http.client.HTTPException):
            pass
        assert time.monotonic() < until, "no application answered within 30 seconds of a boot"
        time.sleep(0.2)


def live(host: Any, app: str) -> Any:
    """What the live release says of itself."""
    return json.loads(host.file(f"/srv/asgi/{app}/live/release.json").content_string)


def unit(host: Any, app: str) -> str:
    """The unit of the live release."""
    release = host.check_output("readlink /srv/asgi/%s/live", app).rsplit("/", 1)[-1]
    return f"asgi-{app}@{release}.service"


def main_pid(host: Any, app: str) -> int:
    return int(host.check_output("systemctl show --property MainPID --value %s", unit(host, app)))


def children(host: Any, pid: int) -> list[int]:
    return [int(child) for child in host.check_output(f"cat /proc/{pid}/task/{pid}/children").split()]


# --- the public side -------------------------------------------------------------------------------------------------


def test_application_answers_over_tls_and_knows_the_client(target: str) -> None:
    answer = client.request(target, "secure.test", "/api/info")
    info = answer.json()
    assert answer.status == 200
    assert info["client"] == answer.client
    assert info["scheme"] == "https"
    assert info["host"] == "secure.test"


def test_application_without_tls_answers_over_http_and_knows_the_client(target: str) -> None:
    answer = client.request(target, "plain.test", "/api/info", tls=False)
    assert answer.status == 200
    assert (answer.json()["client"], answer.json()["scheme"]) == (answer.client, "http")


def test_http_redirects_to_https(target: str) -> None:
    answer = client.request(target, "secure.test", "/api/info?a=b", tls=False)
    assert (answer.status, answer.headers["Location"]) == (308, "https://secure.test/api/info?a=b")


@pytest.mark.parametrize(
    "claim",
    [
        {"X-Forwarded-For": "203.0.113.7"},
        {"X-Forwarded-For": "203.0.113.7, 127.0.0.1"},
        {"X-Real-IP": "203.0.113.7"},
        {"Forwarded": "for=203.0.113.7;proto=http"},
        {"X-Forwarded-Proto": "http"},
        {"X-Forwarded-Host": "evil.test"},
    ],
    ids=lambda claim: next(iter(claim.items()))[0],
)
def test_forged_forwarding_headers_are_not_believed(target: str, claim: dict[str, str]) -> None:
    answer = client.request(target, "secure.test", "/api/info", headers=claim)
    info = answer.json()
    assert (info["client"], info["scheme"], info["host"]) == (answer.client, "https", "secure.test")
    assert "203.0.113.7" not in json.dumps(info)
    assert "evil.test" not in json.dumps(info)


def test_unknown_host_gets_no_application_over_http(target: str) -> None:
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        client.request(target, "unknown.test", "/healthz", tls=False)


def test_unknown_host_gets_no_application_over_tls(target: str) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        client.request(target, "unknown.test", "/healthz")


def test_host_that_is_not_the_certificates_gets_no_application(target: str) -> None:
    for host in ("unknown.test", "plain.test"):
        assert client.request(target, "secure.test", "/api/info", host=host).status == 421


def test_certificate_is_for_the_domains(target: str) -> None:
    for name in ("secure.test", "www.secure.test"):
        with client.connect(target, name, tls=True) as connection:
            assert isinstance(connection, ssl.SSLSocket)
            certificate = connection.getpeercert(binary_form=True)
        assert certificate is not None
        assert name.encode() in certificate


def test_static_file_is_served_by_nginx(target: str) -> None:
    answer = client.request(target, "secure.test", "/static/app.css")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/css")
    assert "X-Release" not in answer.headers, "the application answered"
    assert answer.body == (PROJECT / "tests/apps/demo/static/app.css").read_bytes()


def test_static_files_with_a_hash_are_immutable(target: str) -> None:
    hashed, other = (
        client.request(target, "secure.test", f"/static/{name}").headers["Cache-Control"]
        for name in ("mark.7c1f0a3e.svg", "app.css")
    )
    assert "immutable" in hashed
    assert "immutable" not in other


def test_every_answer_has_the_security_headers_once(target: str) -> None:
    answers = {
        path: client.request(target, "secure.test", path)
        for path in ("/api/info", "/missing", "/static/app.css", "/static/missing", "/static/.env", "/healthz", "/work")
    }
    answers["redirect"] = client.request(target, "secure.test", "/", tls=False)
    statuses = {path: answer.status for path, answer in answers.items()}
    assert statuses["/work"] == statuses["/static/missing"] == statuses["/static/.env"] == 404
    for path, answer in answers.items():
        for name in ("X-Content-Type-Options", "Referrer-Policy", "X-Frame-Options"):
            assert len(answer.headers.get_all(name, [])) == 1, (path, name)
    assert answers["/healthz"].headers["Cache-Control"] == "no-store"


def test_what_nginx_can_is_used(host: Any, target: str) -> None:
    answer = client.request(target, "secure.test", "/", headers={"Accept-Encoding": "br"})
    assert answer.headers["Content-Encoding"] == "br"
    http3 = "--with-http_v3_module" in host.run("nginx -V").stderr
    assert ("h3=" in answer.headers.get("Alt-Svc", "")) is http3
    assert bool(host.check_output("ss --no-header --listening --udp --numeric 'sport = :443'")) is http3


def test_page_says_that_the_application_does_not_answer(host: Any, target: str) -> None:
    name = unit(host, "plain").removesuffix(".service")
    host.check_output(f"systemctl stop {name}.socket {name}.service")
    try:
        page = client.request(target, "plain.test", "/", tls=False, method="POST", body=b"a=b")
        program = client.request(target, "plain.test", "/", tls=False, headers={"Accept": "application/json"})
    finally:
        host.check_output(f"systemctl start {name}.socket {name}.service")
    assert page.headers.get_content_type() == "text/html"
    assert program.json()["status"] == 503
    for answer in (page, program):
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_events_arrive_one_by_one(target: str) -> None:
    arrivals = client.event_times(target, "secure.test", "/events?count=5&interval=0.3")
    client.assert_one_by_one(arrivals, 5, 0.3)


def test_websocket_echoes(target: str) -> None:
    with client.websocket(target, "secure.test", "/ws") as socket:
        for message in ("grüezi", b"\x00\xff", "x" * 70_000):
            socket.send(message)
            assert socket.recv(timeout=client.SECONDS) == message


def test_upload_arrives_whole(target: str) -> None:
    body = os.urandom(3_000_000)
    answer = client.request(target, "secure.test", "/upload", method="POST", body=body)
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()


# --- on the host -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("app", APPS)
def test_workers_are_as_many_as_planned(host: Any, target: str, app: str) -> None:
    release = live(host, app)
    assert release["workers"] >= 1
    assert release["workers_reason"]
    assert len(children(host, main_pid(host, app))) == release["workers"]


def test_number_of_workers_that_was_declared_is_taken(host: Any) -> None:
    assert live(host, "plain")["workers"] == 3


@pytest.mark.parametrize("app", APPS)
def test_unit_is_enabled(host: Any, app: str) -> None:
    """That it is, is also shown by all the rest: the host was rebooted before."""
    assert host.service(f"asgi-{app}").is_enabled
    assert host.service("nginx").is_enabled
    assert host.service("nginx").is_running


@pytest.mark.parametrize("app", APPS)
def test_process_is_not_root_and_cannot_change_its_code(host: Any, target: str, app: str) -> None:
    user = host.user(f"asgi-{app}")
    pids = [main_pid(host, app), *children(host, main_pid(host, app))]
    for pid in pids:
        status = host.file(f"/proc/{pid}/status").content_string
        assert re.findall(r"^Uid:((?:\s+\d+)+)$", status, re.M) == [f"\t{user.uid}" * 4]
        assert re.findall(r"^CapEff:\s+(\w+)$", status, re.M) == ["0" * 16]
    assert user.uid != 0
    assert user.shell == "/usr/sbin/nologin"
    assert host.check_output("find -L /srv/asgi/%s/live -user %s", app, user.name) == ""
    for place in ("", "/live", "/live/build", "/live/build/src", "/live/build/venv", "/live/build/src/main.py"):
        # As the process sees it: its user, in its mount namespace.
        path = f"/srv/asgi/{app}{place}"
        found = host.check_output(
            f"nsenter --target {pids[-1]} --mount -- setpriv --reuid {user.uid} --regid {user.gid} --clear-groups"
            f" sh -c 'test -e {path} && if test -w {path}; then echo writable; else echo read-only; fi'"
        )
        assert found == "read-only", path


@pytest.mark.parametrize("app", APPS)
def test_socket_is_for_nginx_alone(host: Any, app: str) -> None:
    path = host.check_output("readlink --canonicalize /srv/asgi/%s/live/app.sock", app)
    socket = host.file(path)
    assert socket.is_socket
    assert (socket.group, socket.mode) == ("www-data", 0o660)


def test_key_is_for_root_alone(host: Any) -> None:
    key = host.file("/etc/nginx/asgi/tls/secure/privkey.pem")
    assert (key.user, key.mode) == ("root", 0o600)
    assert host.file("/etc/nginx/asgi/tls/secure").mode == 0o700


# --- Nginx -----------------------------------------------------------------------------------------------------------


def nginx_master(host: Any) -> int:
    """Return Nginx's master process; 0 if there is none."""
    return int(host.check_output("systemctl show --property MainPID --value nginx"))


def nginx_pids(host: Any) -> list[int]:
    """Nginx's master process and its workers."""
    master = nginx_master(host)
    return [master, *children(host, master)]


def test_no_process_interrupts_another_to_answer_it(host: Any) -> None:
    pids = nginx_pids(host)
    for app in APPS:
        pids += [main_pid(host, app), *children(host, main_pid(host, app))]
    for pid in pids:
        assert "SCHED_BATCH" in host.check_output(f"chrt --pid {pid}"), pid


def test_nginx_has_no_right_but_to_bind_low_ports(host: Any, target: str) -> None:
    pids = nginx_pids(host)
    assert len(pids) > 1
    for pid in pids:
        status = host.file(f"/proc/{pid}/status").content_string
        assert re.findall(r"^Uid:((?:\s+\d+)+)$", status, re.M) == [f"\t{host.user('www-data').uid}" * 4]
        for capabilities in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert re.findall(rf"^{capabilities}:\s+(\w+)$", status, re.M) == ["0000000000000400"], capabilities
        assert re.findall(r"^(?:NoNewPrivs|Seccomp):\s+(\d)$", status, re.M) == ["1", "2"]
    wanted = int(host.check_output("systemctl show --property LimitNOFILE --value nginx"))
    assert f"worker_rlimit_nofile {wanted};" in host.file("/etc/nginx/nginx.conf").content_string
    for pid in pids[1:]:
        assert re.search(rf"^Max open files\s+{wanted}\s", host.file(f"/proc/{pid}/limits").content_string, re.M)
    assert "setrlimit" not in host.file("/var/log/nginx/error.log").content_string


def test_nginx_is_in_a_sandbox(host: Any) -> None:
    done = host.run("systemd-analyze --no-pager --threshold=15 security nginx.service")
    print(done.stdout.strip().splitlines()[-1])
    assert done.rc == 0, done.stdout
    for place, writable in (("/etc/nginx", False), ("/srv/asgi", False), ("/var/lib/nginx/body", True)):
        found = host.run(f"nsenter --target {nginx_master(host)} --mount -- touch {place}/probe && rm -f {place}/probe")
        assert (found.rc == 0) is writable, f"{place}: {found.stderr}"


def test_roots_test_of_the_configuration_leaves_uploads_alone(host: Any, target: str) -> None:
    """It gives the directories for bodies to `nobody` where nginx.conf names no user."""
    assert host.run("nginx -t").rc == 0
    body = os.urandom(1 << 20)
    answer = client.request(target, "secure.test", "/upload", method="POST", body=body)
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()


def test_nginx_starts_after_roots_test_and_after_a_kill(host: Any, target: str) -> None:
    """The one leaves a pid file that is root's, the other a socket."""
    assert host.run("systemctl stop nginx && nginx -t -q && systemctl start nginx").rc == 0
    before = nginx_master(host)
    host.check_output("systemctl kill --signal KILL nginx")  # all of its processes: systemd ends the others too
    driver.wait_for(
        "Nginx is started again",
        lambda: nginx_master(host) not in (0, before) and host.run("systemctl is-active nginx").rc == 0,
        30,
    )
    assert client.request(target, "secure.test", "/healthz").status == 200


def test_rotated_logs_go_on_in_new_files(host: Any, target: str) -> None:
    log = host.file("/var/log/nginx/access.log")
    client.request(target, "secure.test", "/?before")
    inode = host.check_output("stat --format %i /var/log/nginx/access.log")
    assert host.run("logrotate --force /etc/logrotate.d/nginx").rc == 0
    assert host.check_output("stat --format %i /var/log/nginx/access.log") != inode
    until = time.monotonic() + 10
    while not log.content_string:
        client.request(target, "secure.test", "/?after")
        assert time.monotonic() < until, "requests are logged to the old file"
        time.sleep(0.2)
    assert (log.user, log.group, log.mode) == ("www-data", "adm", 0o640)
    assert host.file("/var/log/nginx").user == "root"


def test_status_page_is_for_root_and_adm(host: Any) -> None:
    ask = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/nginx/status.sock');"
        " s.sendall(b'GET /status HTTP/1.0\\r\\n\\r\\n'); print(s.makefile().read())"
    )
    assert "Active connections:" in host.check_output(f'python3 -c "{ask}"')
    assert "Active" in host.check_output(f'setpriv --reuid nobody --regid adm --clear-groups python3 -c "{ask}"')
    refused = host.run(f'setpriv --reuid nobody --regid nogroup --clear-groups python3 -c "{ask}"')
    assert "Permission denied" in refused.stderr


def test_key_is_reachable_through_nginx_only(host: Any, target: str) -> None:
    """Nginx is not root and has a copy; others of its user, and those who look into its processes, do not get it."""
    master = nginx_master(host)
    inside = host.check_output(f"nsenter --target {master} --mount -- cat /etc/nginx/asgi/tls/secure/privkey.pem")
    assert inside == host.check_output("cat /etc/nginx/asgi/tls/secure/privkey.pem")
    for path in (
        "/etc/nginx/asgi/tls/secure/privkey.pem",
        "/run/asgi/_nginx/tls/secure/privkey.pem",
        f"/proc/{master}/root/etc/nginx/asgi/tls/secure/privkey.pem",
    ):
        assert host.run("test -f %s", path).rc == 0, "there is nothing to protect"
        assert host.run("setpriv --reuid www-data --regid www-data --init-groups cat %s", path).rc != 0, path


def test_renewed_certificate_is_served_after_a_reload(host: Any, target: str) -> None:
    """As a client for ACME would do it: a new pair, a new link, and a reload that tests first."""
    host.check_output(
        "cd /etc/nginx/asgi/tls && readlink secure >/run/old && cp -R secure/ secure@new"
        " && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3 -subj /CN=renewed"
        " -keyout secure@new/privkey.pem -out secure@new/fullchain.pem 2>/dev/null"
        " && ln -s secure@new .next && mv -T .next secure && systemctl reload nginx"
    )
    try:
        until = time.monotonic() + 10
        while b"renewed" not in certificate(target):
            assert time.monotonic() < until, "the old certificate is served"
            time.sleep(0.2)
        assert host.check_output("ls /run/asgi/_nginx/tls | grep -c secure@") == "1"
    finally:
        host.check_output(
            "cd /etc/nginx/asgi/tls && ln -s $(cat /run/old) .next && mv -T .next secure && rm -rf secure@new"
            " && systemctl reload nginx"
        )


def certificate(target: str) -> bytes:
    with client.connect(target, "secure.test", tls=True) as connection:
        assert isinstance(connection, ssl.SSLSocket)
        return connection.getpeercert(binary_form=True) or b""


def test_broken_file_of_the_operators_stops_a_reload_not_nginx(host: Any, target: str) -> None:
    host.check_output("echo 'server { listen 8088; access_log /var/log/elsewhere.log; }' >/etc/nginx/conf.d/wrong.conf")
    try:
        assert host.run("systemctl reload nginx").rc != 0
        assert client.request(target, "secure.test", "/healthz").status == 200
    finally:
        host.check_output("rm /etc/nginx/conf.d/wrong.conf")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_methods_that_are_not_for_servers_are_refused(target: str, method: str) -> None:
    answer = client.request(target, "secure.test", "/", method=method)
    assert 400 <= answer.status < 500
    assert not re.search(rb"nginx/\d", answer.body)
    assert not re.search(r"\d", answer.headers.get("Server", ""))


def test_secrets_are_for_root_alone_and_reach_the_application(host: Any, target: str) -> None:
    holding = host.check_output("grep --recursive --files-with-matches not-in-any-log /srv/asgi/secure/live/").split()
    assert holding
    for path in holding:
        assert (host.file(path).user, host.file(path).mode) == ("root", 0o600), path
    assert "not-in-any-log" not in host.check_output("journalctl --boot --output cat")
    environment = host.check_output(f"tr '\\0' '\\n' < /proc/{main_pid(host, 'secure')}/environ").splitlines()
    assert "PASSWORD=not-in-any-log" in environment
    assert "GREETING=hello" in environment


def test_uvicorns_fast_parts_are_in_use(target: str) -> None:
    info = client.request(target, "secure.test", "/api/info").json()
    assert (info["loop"], info["http"]) == ("uvloop.Loop", "httptools")


# --- the next run ----------------------------------------------------------------------------------------------------


def test_check_mode_announces_nothing(name: str) -> None:
    done = subprocess.run(
        ["ansible-playbook", "--check", "--diff", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"]]
        + ["--limit", name, str(PROJECT / "site.yml")],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
    )
    recap = re.search(rf"^{name}\s*:.*$", done.stdout, re.M)
    assert recap is not None, done.stdout + done.stderr
    assert "changed=0 " in recap[0], done.stdout
    assert "failed=0 " in recap[0], done.stdout
    assert "not-in-any-log" not in done.stdout + done.stderr
