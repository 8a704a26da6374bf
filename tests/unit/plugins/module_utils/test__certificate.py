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


def test_several_that_are_self_signed_are_believed_together(tmp_path: Path) -> None:
    """They have one name; their keys' identifiers tell them apart."""
    ensure(tmp_path, SHOP, certificate.Wanted("blog", ("blog.example",)))
    files = [tmp_path / name / "fullchain.pem" for name in ("shop", "blog")]
    believed = tmp_path / "believed.pem"
    believed.write_text("".join(file.read_text() for file in files))
    command = [certificate.OPENSSL, "verify", "-no-CApath", "-CAfile", str(believed), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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


def test_names_that_a_certificate_is_good_for() -> None:
    subjects = {"DNS:example.com", "DNS:*.example.com", "IP Address:192.0.2.1"}
    good = ["example.com", "www.example.com", "*.example.com", "192.0.2.1"]
    bad = ["a.b.example.com", "com", "example.org", "*.a.example.com", "192.0.2.2", "2.0.2.1"]
    assert [domain for domain in [*good, *bad] if certificate.covers(subjects, domain)] == good


GOOD = certificate.Found("ab" * 32, 100, frozenset({"DNS:a.example"}), "KEY", 10)
ENDED = certificate.Found("cd" * 32, 40, frozenset({"DNS:a.example"}), "KEY", 10)


@pytest.mark.parametrize(
    ("chain", "unsigned", "key", "domain", "expected"),
    [
        ([GOOD], None, "KEY", "a.example", []),
        ([], None, "KEY", "a.example", [("certificate", "found no certificate in it")]),
        ([GOOD], None, None, "a.example", [("key", "found no private key in it")]),
        ([GOOD], None, "OTHER", "a.example", [("key", "it does not belong to the certificate")]),
        ([GOOD], None, "KEY", "b.example", [("certificate", "it is for a.example, and not for b.example")]),
        ([ENDED], None, "KEY", "a.example", [("certificate", "it ended on 1970-01-01T00:00:40Z")]),
        ([GOOD, ENDED], None, "KEY", "a.example", [("certificate", "certificate 2 in it ended on")]),
        ([GOOD, None], None, "KEY", "a.example", [("certificate", "certificate 2 in it cannot be read")]),
        ([GOOD, GOOD], 0, "KEY", "a.example", [("certificate", "certificate 2 in it did not sign certificate 1")]),
    ],
)
def test_what_is_wrong_with_what_is_provided(
    chain: list[certificate.Found | None],
    unsigned: int | None,
    key: str | None,
    domain: str,
    expected: list[tuple[str, str]],
) -> None:
    found = certificate.problems(chain, unsigned, key, [domain], 50)
    assert [what for what, _words in found] == [what for what, _words in expected]
    assert all(words.startswith(start) for (_what, words), (_same, start) in zip(found, expected))


def test_not_yet_good() -> None:
    assert certificate.problems([GOOD], None, "KEY", ["a.example"], 5)[0][1].endswith("which is not yet")


def provided(pair: Path, *domains: str, **more: t.Any) -> certificate.Wanted:
    """What is in *pair*, as somebody provides it."""
    files = (str(pair / certificate.CERTIFICATE), str(pair / certificate.KEY))
    return certificate.Wanted("shop", domains, "provided", *files, **more)


@pytest.mark.parametrize("on_host", [True, False])
def test_provided(tmp_path: Path, on_host: bool) -> None:
    root, elsewhere = tmp_path / "tls", tmp_path / "elsewhere"
    ensure(root, SHOP)
    ensure(elsewhere, certificate.Wanted("shop", ("new.example",)))
    texts = [(elsewhere / "shop" / name).read_text() for name in (certificate.CERTIFICATE, certificate.KEY)]
    given = {} if on_host else {"chain": "comment\n" + texts[0], "private_key": texts[1]}
    wanted = provided(elsewhere / "shop", "new.example", **given)
    [told], _removed = ensure(root, wanted, check_mode=True)
    assert told.reasons == ["it is another one than is provided"]
    [made], _removed = ensure(root, wanted)
    assert [(root / "shop" / name).read_text() for name in (certificate.CERTIFICATE, certificate.KEY)] == texts
    assert (root / "shop" / certificate.KEY).stat().st_mode & 0o777 == 0o600
    assert (made.origin, certificate.origin(root / "shop")) == ("provided", "provided")
    assert not ensure(root, wanted)[0][0].changed
    # A key that was damaged on the host is put right beside the same certificate.
    (root / "shop" / certificate.KEY).write_text("nonsense")
    assert ensure(root, wanted)[0][0].changed
    assert belongs(root / "shop")
    assert len(list(root.iterdir())) == 2
    # and back
    assert ensure(root, SHOP)[0][0].reasons
    assert certificate.origin(root / "shop") == "self_signed"


def test_what_is_provided_must_be_right_before_anything_changes(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "tls", tmp_path / "elsewhere"
    ensure(root, SHOP)
    before = os.readlink(root / "shop")
    ensure(elsewhere, certificate.Wanted("shop", ("new.example",)), certificate.Wanted("other", ("new.example",)))
    key = (elsewhere / "other" / certificate.KEY).read_text()
    with pytest.raises(system.HostError) as caught:
        ensure(root, provided(elsewhere / "shop", "shop.example.com", private_key=key))
    said = str(caught.value)
    assert "shop: tls.key: " in said
    assert "it does not belong to the certificate" in said
    assert "it is for new.example, and not for shop.example.com" in said
    assert key.splitlines()[1] not in said
    with pytest.raises(system.HostError, match=r"shop: tls.certificate: .*nowhere.*: there is no such file"):
        ensure(root, provided(tmp_path / "nowhere", "shop.example.com"))
    assert os.readlink(root / "shop") == before


def test_an_acme_server_finds_a_certificate_in_place(tmp_path: Path) -> None:
    """A self-signed one is made where there is none; what is there stays, whatever it is for."""
    root = tmp_path / "tls"
    wanted = certificate.Wanted("shop", ("shop.example.com",), "acme")
    [made], _removed = ensure(root, wanted)
    assert (made.changed, made.origin) == (True, "self_signed")
    [same], _removed = ensure(root, certificate.Wanted("shop", ("shop.example.com", "new.example"), "acme"))
    assert (same.changed, same.found) == (False, made.found)
    (root / "shop" / certificate.KEY).unlink()
    assert ensure(root, wanted)[0][0].reasons == ["there is no readable key"]


def test_a_key_is_never_in_what_a_declaration_prints() -> None:
    assert "c2VjcmV0" not in repr(certificate.Wanted("shop", ("a.example",), private_key="c2VjcmV0"))


def test_absent(tmp_path: Path) -> None:
    root = tmp_path / "tls"
    ensure(root, SHOP, certificate.Wanted("blog", ("blog.example",)))
    assert ensure(root, absent=["shop", "never"], check_mode=True)[1] == ["shop"]
    assert certificate.present(root) == ["blog", "shop"]
    assert ensure(root, absent=["shop", "never"])[1] == ["shop"]
    assert certificate.present(root) == ["blog"]
    assert ensure(root, absent=["shop", "never"])[1] == []


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
