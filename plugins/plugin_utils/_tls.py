# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates and keys that lie on the control node: read and checked there, before any host is touched.

Uses cryptography, which ansible-core itself needs. No error holds anything of a key.
"""

from __future__ import annotations

import datetime
import typing as t
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader

from ansible_collections.asgi.stack.plugins.module_utils import _certificate


def load(tls: t.Mapping[str, t.Any], base: Path, loader: DataLoader) -> tuple[str, str, list[tuple[str, str]]]:
    """Return what is in the files of a certificate and its key, and what is wrong: ``(certificate or key, words)``.

    :param tls: ``{certificate, key}``: paths, relative to *base*. Files that Ansible Vault encrypted are decrypted.
    """
    texts: dict[str, str] = {}
    wrong: list[tuple[str, str]] = []
    for what in ("certificate", "key"):
        try:
            texts[what] = _read(base / str(tls[what]), loader)
        except UnicodeDecodeError:
            wrong.append((what, f"{tls[what]}: it is not text, expected PEM"))
        except (AnsibleError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            wrong.append((what, f"{tls[what]}: {reason}"))
    return texts.get("certificate", ""), texts.get("key", ""), wrong


def problems(
    tls: t.Mapping[str, t.Any], domains: t.Sequence[str], base: Path, loader: DataLoader, now: float
) -> list[str]:
    """Return what is wrong with the files that ``tls.certificate`` and ``tls.key`` name, each as one line.

    :param now: seconds since the epoch.
    """
    chain_text, key_text, wrong = load(tls, base, loader)
    if not wrong:
        found, unsigned = _chain(_certificate.certificates_in(chain_text))
        key = _certificate.private_key_in(key_text)
        checked = _certificate.problems(found, unsigned, _public_half(key) if key else None, domains, now)
        wrong = [(what, f"{tls[what]}: {words}") for what, words in checked]
    return [f"tls.{what}: {words}" for what, words in wrong]


def _read(path: Path, loader: DataLoader) -> str:
    path = path.expanduser().absolute()
    if not path.is_file():
        raise AnsibleError("there is no such file on the control node")
    real = loader.get_real_file(str(path), decrypt=True)
    try:
        return Path(real).read_text(encoding="utf-8")
    finally:
        loader.cleanup_tmp_file(real)


def _chain(texts: t.Sequence[str]) -> tuple[list[_certificate.Found | None], int | None]:
    """Return what each certificate says, and the index of the first that the next one did not sign."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    found: list[_certificate.Found | None] = []
    unsigned = None
    before: x509.Certificate | None = None
    for index, text in enumerate(texts):
        try:
            certificate = x509.load_pem_x509_certificate(text.encode())
            found.append(_say(certificate))
        except ValueError:
            found.append(None)
            before = None
            continue
        if before is not None and unsigned is None:
            try:
                before.verify_directly_issued_by(certificate)
            except (ValueError, TypeError, InvalidSignature):
                unsigned = index - 1
        before = certificate
    return found, unsigned


def _say(certificate: t.Any) -> _certificate.Found:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        subjects = [f"DNS:{name}" for name in names.get_values_for_type(x509.DNSName)]
        subjects += [f"IP Address:{address}" for address in names.get_values_for_type(x509.IPAddress)]
    except x509.ExtensionNotFound:
        subjects = []
    public = certificate.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return _certificate.Found(
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        expires=_seconds(certificate, "not_valid_after"),
        subjects=frozenset(subjects),
        public_key=public.decode().strip(),
        starts=_seconds(certificate, "not_valid_before"),
    )


def _seconds(certificate: t.Any, name: str) -> float:
    """Return an end of a certificate's life; before cryptography 42 it had no time zone, and was UTC."""
    value: datetime.datetime | None = getattr(certificate, f"{name}_utc", None)
    if value is None:
        value = getattr(certificate, name).replace(tzinfo=datetime.timezone.utc)
    return value.timestamp()


def _public_half(key: str) -> str | None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        public = serialization.load_pem_private_key(key.encode(), password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    encoded = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode().strip()
