# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import shutil
import subprocess
import typing as t
from pathlib import Path

import pytest

from ansible_collections.asgi.stack.plugins.module_utils import _certificate as certificate
from ansible_collections.asgi.stack.plugins.module_utils import _system as system

SHOP = certificate.Wanted("shop", ("shop.example.com", "*.shop.example.com", "192.0.2.1"))
FOUND = certificate.Found("ab" * 32, 1000 * certificate.DAY, frozenset({"DNS:a.example"}), "KEY")


@pytest.fixture(name="openssl", autouse=True)
def _openssl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(system, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(certificate, "OPENSSL", shutil.which("openssl") or "/nowhere/openssl")


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")


def ensure(
    root: Path, *wanted: certificate.Wanted, absent: t.Sequence[str] = (), days: int = 100, **more: t.Any
) -> tuple[list[certificate.Result], list[str]]:
    return certificate.ensure(root, wanted, absent, days=days, renew_before=30 * certificate.DAY, **more)


def belongs(pair: Path) -> bool:
    """Whether OpenSSL itself finds that key and certificate belong together."""
    commands = (["x509", "-noout", "-pubkey", "-in", "fullchain.pem"], ["pkey", "-pubout", "-in", "privkey.pem"])
    keys = [subprocess.run(["openssl", *command], cwd=pair, capture_output=True, check=True) for command in commands]
    return keys[0].stdout == keys[1].stdout


@pytest.mark.parametrize(
    ("found", "key", "now", "expected"),
    [
        (FOUND, "KEY", 0, []),
        (None, "KEY", 0, ["there is no readable certificate"]),
        (FOUND, None, 0, ["there is no readable key"]),
        (FOUND, "OTHER", 0, ["the key belongs to another certificate"]),
        (FOUND, "KEY", 975, ["it expires in 25 days"]),
        (FOUND, "KEY", 970, []),
        (FOUND, "KEY", 1000, ["it has expired"]),
    ],
)
def test_reasons(found: certificate.Found | None, key: str | None, now: int, expected: list[str]) -> None:
    day = certificate.DAY
    assert certificate.reasons(found, key, ["a.example"], now * day, 30 * day) == expected


def test_other_names_are_a_reason() -> None:
    assert certificate.reasons(FOUND, "KEY", ["a.example", "b.example"], 0, 0) == [
        "it is for a.example, expected a.example, b.example"
    ]


@pytest.mark.parametrize(
    ("name", "domains"),
    [
        ("../shop", ("a.example",)),
        ("shop@1", ("a.example",)),
        ("shop", ()),
        ("shop", ("a.example\nbasicConstraints = CA:TRUE",)),
        ("shop", ("a.example,DNS:evil.example",)),
        ("shop", ("A.example",)),
    ],
)
def test_what_must_not_reach_openssl(tmp_path: Path, name: str, domains: tuple[str, ...]) -> None:
    with pytest.raises(system.HostError):
        ensure(tmp_path / "tls", certificate.Wanted(name, domains))
    assert not (tmp_path / "tls").exists()


def test_no_renewal_on_every_run(tmp_path: Path) -> None:
    with pytest.raises(system.HostError, match="days: found 30"):
        ensure(tmp_path / "tls", SHOP, days=30)


@needs_openssl
def test_first_and_second_run(tmp_path: Path) -> None:
    root = tmp_path / "etc/tls"
    told, _removed = ensure(root, SHOP, check_mode=True)
    assert not root.exists()
    assert (told[0].changed, told[0].found) == (True, None)

    [made], _removed = ensure(root, SHOP)
    assert made.changed
    assert made.found is not None
    assert made.found.subjects == {"DNS:shop.example.com", "DNS:*.shop.example.com", "IP Address:192.0.2.1"}
    assert belongs(root / "shop")
    modes = [path.stat().st_mode & 0o777 for path in (root, root / "shop", root / "shop" / certificate.KEY)]
    assert modes == [0o700, 0o700, 0o600]
    assert certificate.present(root) == ["shop"]

    [same], _removed = ensure(root, SHOP)
    assert not same.changed
    assert same.found == made.found


@needs_openssl
def test_replaced_when_it_will_not_do(tmp_path: Path) -> None:
    root = tmp_path / "tls"
    fingerprints = set()

    def run(days: int = 100, wanted: certificate.Wanted = SHOP) -> list[str]:
        [result], _removed = ensure(root, wanted, days=days)
        assert result.found is not None
        fingerprints.add(result.found.fingerprint)
        assert belongs(root / "shop")
        assert len(list(root.iterdir())) == 2  # the pair and the link
        return result.reasons

    run()
    (root / "shop" / certificate.KEY).unlink()
    assert run() == ["there is no readable key"]
    (root / "shop" / certificate.CERTIFICATE).write_text("nonsense")
    assert run() == ["there is no readable certificate"]
    ensure(root, certificate.Wanted("other", ("other.example",)))
    shutil.copy(root / "other" / certificate.KEY, root / "shop" / certificate.KEY)
    ensure(root, absent=["other"])
    assert run() == ["the key belongs to another certificate"]
    assert run(wanted=certificate.Wanted("shop", ("new.example",)))[0].startswith("it is for")
    assert len(fingerprints) == 5


@needs_openssl
def test_modes_are_put_right(tmp_path: Path) -> None:
    root = tmp_path / "tls"
    [made], _removed = ensure(root, SHOP)
    key = root / "shop" / certificate.KEY
    key.chmod(0o644)
    [told], _removed = ensure(root, SHOP, check_mode=True)
    assert told.tightened == [str(key)]
    [done], _removed = ensure(root, SHOP)
    assert (done.changed, done.reasons, done.found) == (True, [], made.found)
    assert key.stat().st_mode & 0o777 == 0o600
    assert not ensure(root, SHOP)[0][0].changed


@needs_openssl
def test_absent(tmp_path: Path) -> None:
    root = tmp_path / "tls"
    ensure(root, SHOP, certificate.Wanted("blog", ("blog.example",)))
    assert ensure(root, absent=["shop", "never"], check_mode=True)[1] == ["shop"]
    assert certificate.present(root) == ["blog", "shop"]
    assert ensure(root, absent=["shop", "never"])[1] == ["shop"]
    assert certificate.present(root) == ["blog"]
    assert ensure(root, absent=["shop", "never"])[1] == []


@needs_openssl
@pytest.mark.parametrize("at", ["made", "named", "live"])
def test_killed(tmp_path: Path, at: str) -> None:
    """The pair that can be seen belongs together at any moment, and the next run makes it right."""
    root = tmp_path / "tls"
    ensure(root, certificate.Wanted("shop", ("old.example",)))

    def step(name: str) -> None:
        if name == at:
            os._exit(9)

    child = os.fork()
    if child == 0:
        ensure(root, SHOP, step=step)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert belongs(root / "shop")
    [result], _removed = ensure(root, SHOP)
    assert result.changed == (at != "live")
    assert belongs(root / "shop")
    assert len(list(root.iterdir())) == 2
