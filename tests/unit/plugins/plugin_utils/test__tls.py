# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates on the control node, made here by cryptography."""

from __future__ import annotations

import datetime
import typing as t
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ansible_collections.asgi.stack.plugins.plugin_utils import _tls

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.timezone.utc)
PEM = serialization.Encoding.PEM


class Made:
    """A certificate with its key."""

    def __init__(self, name: str, by: Made | None = None, days: int = 90) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signer = by or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(signer.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - datetime.timedelta(days=100))
            .not_valid_after(NOW + datetime.timedelta(days=days))
        )
        if "." in name:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        self.certificate = builder.sign(signer.key, hashes.SHA256())

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(PEM).decode()

    def secret(self, passphrase: bytes | None = None) -> str:
        how = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        return self.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, how).decode()


ROOT = Made("root")
MIDDLE = Made("middle", by=ROOT)
LEAF = Made("shop.example.com", by=MIDDLE)
ENDED = Made("shop.example.com", by=MIDDLE, days=-1)


def judge(place: Path, certificate: str, key: str, domains: t.Sequence[str] = ("shop.example.com",)) -> list[str]:
    (place / "shop.pem").write_text(certificate)
    (place / "shop.key").write_text(key)
    files = {"certificate": "shop.pem", "key": "shop.key"}
    return _tls.problems(files, domains, place, DataLoader(), NOW.timestamp())


@pytest.mark.parametrize("chain", [[LEAF], [LEAF, MIDDLE], [LEAF, MIDDLE, ROOT]])
def test_right(tmp_path: Path, chain: list[Made]) -> None:
    assert judge(tmp_path, "".join(one.pem for one in chain), LEAF.secret()) == []


@pytest.mark.parametrize(
    ("certificate", "key", "expected"),
    [
        ("nothing", LEAF.secret(), ["tls.certificate: shop.pem: found no certificate in it, expected one in PEM"]),
        (LEAF.pem, "nothing", ["tls.key: shop.key: found no private key in it"]),
        (LEAF.pem, LEAF.secret(b"word"), ["tls.key: shop.key: found no private key in it"]),
        (LEAF.pem, MIDDLE.secret(), ["tls.key: shop.key: it does not belong to the certificate"]),
        (ENDED.pem, ENDED.secret(), ["tls.certificate: shop.pem: it ended on 2026-05-31T00:00:00Z"]),
        (LEAF.pem + ROOT.pem + MIDDLE.pem, LEAF.secret(), ["tls.certificate: shop.pem: certificate 2 in it did not"]),
        (LEAF.pem.replace("MII", "AAA", 1), LEAF.secret(), ["tls.certificate: shop.pem: it cannot be read"]),
        (
            MIDDLE.pem + LEAF.pem,
            LEAF.secret(),
            [
                "tls.key: shop.key: it does not belong to the certificate",
                "tls.certificate: shop.pem: it is for no name, and not for shop.example.com",
                "tls.certificate: shop.pem: certificate 2 in it did not sign certificate 1",
            ],
        ),
    ],
)
def test_wrong(tmp_path: Path, certificate: str, key: str, expected: list[str]) -> None:
    found = judge(tmp_path, certificate, key)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected)), found
    assert not [line for line in found if any(part and part in line for part in key.splitlines() if len(part) > 20)]


def test_no_such_file(tmp_path: Path) -> None:
    files = {"certificate": "no.pem", "key": str(tmp_path / "no.key")}
    assert _tls.problems(files, ["a.example"], tmp_path, DataLoader(), 0) == [
        "tls.certificate: no.pem: there is no such file on the control node",
        f"tls.key: {tmp_path}/no.key: there is no such file on the control node",
    ]


def test_an_encrypted_key_is_read(tmp_path: Path) -> None:
    loader = DataLoader()
    secrets = [("default", VaultSecret(b"word"))]
    loader.set_vault_secrets(secrets)
    (tmp_path / "shop.pem").write_text(LEAF.pem)
    (tmp_path / "shop.key").write_bytes(VaultLib(secrets).encrypt(LEAF.secret()))
    files = {"certificate": "shop.pem", "key": "shop.key"}
    assert _tls.load(files, tmp_path, loader) == (LEAF.pem, LEAF.secret(), [])
