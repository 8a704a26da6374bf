# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates that are provided, and where the ACME server of a host is."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import driver
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True)
class Pair:
    """A self-signed certificate and its key, PEM."""

    certificate: str
    key: str
    serial: int


def made(*names: str) -> Pair:
    """Make a certificate for *names* that is good for a month and a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=31))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Pair(certificate.public_bytes(encoding).decode(), secret.decode(), certificate.serial_number)


def point_acme(host: driver.Host, address: str) -> None:
    """Say where the ACME server is: it listens at 127.0.0.1 alone."""
    # The engine mounts this file: it cannot be replaced, only written to.
    host.sh(f"(cat /etc/hosts.before; echo {address} acme.test; echo 127.0.0.1 shop.test www.shop.test) > /etc/hosts")
