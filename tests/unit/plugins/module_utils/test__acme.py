# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.asgi.stack.plugins.module_utils import _acme as acme
from ansible_collections.asgi.stack.plugins.module_utils import _certificate as certificate
from ansible_collections.asgi.stack.plugins.module_utils import _system as system

DAY = certificate.DAY
DIRECTORY = "https://acme.example/directory"
UNITS = {"asgi.acme.service": "[Service]\n", "asgi.acme.timer": "[Timer]\n"}


class Host:
    """A host with a client that makes certificates itself, or refuses."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.state, self.root = place / "state", place / "tls"
        self.refuses: str | None = None
        self.days = 90
        self.asked: list[str] = []
        self.reloads: list[str] = []
        self.broken = False

    def client(self, settings: acme.Settings, state: Path, name: str) -> str | None:
        self.asked.append(name)
        if self.refuses:
            return self.refuses
        made = self.place / "made"
        wanted = certificate.Wanted(name, tuple(settings.names[name]))
        # A new pair each time.
        certificate.ensure(made, [], [name], days=self.days, renew_before=0)
        certificate.ensure(made, [wanted], [], days=self.days, renew_before=0)
        live = state / "certbot/config/live" / name
        shutil.rmtree(live, ignore_errors=True)
        shutil.copytree(made / name, live)
        (state / "certbot/config/renewal").mkdir(exist_ok=True)
        (state / f"certbot/config/renewal/{name}.conf").write_text(f"server = {settings.directory}\n")
        return None

    def reload(self) -> str | None:
        self.reloads.append((self.root / "shop" / certificate.CERTIFICATE).read_text())
        return "nginx.service does not reload" if self.broken else None

    def systemctl(self, *arguments: str, timeout: float = 0) -> subprocess.CompletedProcess[str]:
        del timeout
        if arguments[:1] == ("start",):
            self.renew()
        state = "ActiveState=active\nUnitFileState=enabled" if arguments[0] == "show" else ""
        return subprocess.CompletedProcess(arguments, 0, state, "")

    def renew(self, force: bool = False) -> bool:
        if force:
            (self.state / acme.RENEW).touch()
        return acme.converge(self.state, client=self.client)

    def play(self, *domains: str, absent: t.Sequence[str] = (), **more: t.Any) -> acme.Outcome:
        wanted = {"shop": list(domains)} if domains else {}
        if domains and not more.get("check_mode"):
            first = certificate.Wanted("shop", domains, "acme")
            certificate.ensure(self.root, [first], [], days=825, renew_before=30 * DAY)
        given: dict[str, t.Any] = {"directory": DIRECTORY, "email": None, "ca": None, "path": str(self.root), **more}
        places = {"state": self.state, "code": self.place / "code", "systemd": self.place}
        return acme.ensure(wanted, absent, units=UNITS, **places, **given)

    def status(self) -> dict[str, t.Any]:
        return acme.load_status(self.state).get("shop", {})

    def standing(self, days: float = 0) -> dict[str, t.Any]:
        now = certificate.time.time() + days * DAY
        found = acme.standing([self.root], "shop", now, self.state)
        assert found is not None
        return found


@pytest.fixture(name="host")
def _host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setattr(system, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(certificate, "OPENSSL", shutil.which("openssl"))
    monkeypatch.setattr(acme, "CERTBOT", sys.executable)
    monkeypatch.setattr(acme, "reload", host.reload)
    monkeypatch.setattr(acme, "systemctl", host.systemctl)
    return host


def test_first_and_second_run(host: Host) -> None:
    told = host.play("shop.example.com", check_mode=True)
    assert told.asked == {"shop": [f"there is none of {DIRECTORY} yet"]}
    assert told.changed
    assert not host.state.exists()

    done = host.play("shop.example.com")
    assert (done.changed, done.problems, host.asked) == (True, {}, ["shop"])
    assert certificate.origin(host.root / "shop") == "acme"
    assert len(host.reloads) == 1
    modes = [host.state, host.state / "certbot", host.state / acme.SETTINGS, host.root / "shop" / certificate.KEY]
    assert [path.stat().st_mode & 0o777 for path in modes] == [0o711, 0o700, 0o600, 0o600]

    assert not host.play("shop.example.com").changed
    assert host.renew()
    assert (host.asked, len(host.reloads)) == (["shop"], 1)
    assert (host.standing()["mode"], host.standing()["problem"]) == ("acme", None)


def test_what_is_asked_for_again(host: Host) -> None:
    host.play("shop.example.com")
    assert (
        host.play("shop.example.com", "new.example").asked["shop"][0].startswith("it is for shop.example.com, expected")
    )
    assert host.play("shop.example.com").asked["shop"][0].startswith("it is for new.example, shop.example.com")
    assert host.play("shop.example.com", directory="https://other.example/").asked == {
        "shop": [f"it is of {DIRECTORY}, expected https://other.example/"]
    }
    assert len(host.reloads) == 4


def test_a_server_that_refuses(host: Host) -> None:
    """What was there serves; one request a run; the reason is told until there is a certificate."""
    host.refuses = "too many certificates"
    done = host.play("shop.example.com")
    assert (done.problems, host.asked) == ({"shop": "too many certificates"}, ["shop"])
    assert certificate.origin(host.root / "shop") == "self_signed"
    assert host.reloads == []
    since = host.status()["since"]
    assert not host.renew()
    assert (host.asked, host.status()["since"]) == (["shop", "shop"], since)
    assert host.standing()["problem"] == (
        "there is none of the ACME server yet, a self_signed one serves; "
        f"requests fail since {since}: too many certificates"
    )
    host.refuses = None
    assert host.play("shop.example.com").problems == {}
    assert host.standing()["problem"] is None


@pytest.mark.parametrize(("days", "left", "renews"), [(90, 31, False), (90, 29, True), (45, 16, False), (6, 2.9, True)])
def test_when_it_is_renewed(host: Host, monkeypatch: pytest.MonkeyPatch, days: int, left: float, renews: bool) -> None:
    host.days = days
    host.play("shop.example.com")
    before = host.status()
    now = certificate.time.time()
    monkeypatch.setattr(certificate.time, "time", lambda: now + (days - left) * DAY)
    host.refuses = "down"
    assert not host.play("shop.example.com").changed  # renewals are the timer's
    assert host.renew() == (not renews)
    assert len(host.asked) == 1 + renews
    assert (host.status() != before) == renews


def test_renewal_fails_and_it_is_seen(host: Host) -> None:
    host.play("shop.example.com")
    host.refuses = "connection refused"
    assert not host.renew(force=True)
    assert "connection refused" in host.standing()["problem"]
    assert host.standing(80)["problem"].startswith("it ends in 10 days; requests fail since ")
    assert host.standing(91)["problem"].startswith("it has ended")
    assert len(host.reloads) == 1


def test_nginx_reads_it_in_the_end(host: Host) -> None:
    """A reload that failed, or did not happen because the run was killed, is made up for."""
    host.play("shop.example.com")
    host.broken = True
    assert not host.renew(force=True)
    assert host.play("shop.example.com", check_mode=True).asked == {"shop": ["Nginx may not have read it"]}
    host.broken = False
    assert host.renew()
    assert len(host.asked) == 2
    assert len(host.reloads) == 3
    assert host.reloads[0] != host.reloads[1] == host.reloads[2]
    # killed before it was installed
    host.client(t.cast("acme.Settings", acme.load_settings(host.state)), host.state, "shop")
    assert host.play("shop.example.com", check_mode=True).asked == {"shop": ["it is not installed"]}
    assert host.renew()
    assert len(host.reloads) == 4


def test_what_a_client_that_was_killed_left(host: Host) -> None:
    host.play("shop.example.com")
    config = host.state / "certbot/config"
    (config / "archive/shop").mkdir(parents=True)
    (config / "live/shop" / certificate.KEY).unlink()
    assert host.renew()
    assert len(host.asked) == 2
    assert not (config / "archive/shop").exists()
    assert host.standing()["problem"] is None


def test_absent(host: Host) -> None:
    host.play("shop.example.com")
    code = host.place / "code"
    assert code.exists()
    (host.state / "certbot/config/accounts").mkdir()
    assert host.play(absent=["shop"], check_mode=True).changed
    assert code.exists()
    assert host.play(absent=["shop"]).changed
    assert not code.exists()
    assert not (host.place / "asgi.acme.timer").exists()
    assert [path.name for path in (host.state / "certbot/config/live").iterdir()] == []
    assert (host.state / "certbot/config/accounts").exists()
    assert not host.play(absent=["shop"]).changed


def test_another_name_stays(host: Host) -> None:
    host.play("shop.example.com")
    settings = json.loads((host.state / acme.SETTINGS).read_text())
    settings["names"]["blog"] = ["blog.example"]
    (host.state / acme.SETTINGS).write_text(json.dumps(settings))
    host.play("shop.example.com")
    found = acme.load_settings(host.state)
    assert found is not None
    assert found.names == {"shop": ["shop.example.com"], "blog": ["blog.example"]}


def test_the_host_runs_it_by_itself(host: Host) -> None:
    """What is installed is complete, and needs nothing but Python."""
    host.play("shop.example.com")
    command = [sys.executable, "-S", "-c", f"import {acme.__name__} as found; print(found.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(host.place / "code")}
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(host.place / "code"))


def test_what_certbot_said() -> None:
    output = """Saving debug log to /var/lib/asgi.acme/certbot/logs/letsencrypt.log
Requesting a certificate for shop.example.com

Certbot failed to authenticate some domains (authenticator: webroot). The Certificate Authority reported these problems:
  Domain: shop.example.com
  Type:   connection
  Detail: dial tcp 192.0.2.1:80: connect: connection refused

Hint: The Certificate Authority failed to download the temporary challenge files created by Certbot.

Some challenges have failed.
Ask for help or search for solutions at https://community.letsencrypt.org.
"""
    assert acme.said(output) == (
        "Domain: shop.example.com Type: connection Detail: dial tcp 192.0.2.1:80: connect: connection refused"
    )
    assert acme.said("An unexpected error occurred:\nToo many certificates already issued") == (
        "Too many certificates already issued"
    )
    assert acme.said("") == "it gave no reason"
