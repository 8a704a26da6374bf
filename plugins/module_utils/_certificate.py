# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates and keys for Nginx, each pair in a directory that is swapped as a whole.

On the host, below the directory given (``/etc/nginx/asgi/tls``)::

    shop -> shop@<fingerprint>                      the one pointer
    shop@<fingerprint>/{fullchain.pem,privkey.pem}  a pair that belongs together, never edited

so that nobody ever finds a certificate beside another certificate's key, whenever a run is killed.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import ipaddress
import os
import re
import shutil
import ssl
import tempfile
import time
import typing as t
from pathlib import Path

from ansible_collections.asgi.stack.plugins.module_utils._system import HostError, locked, point, read, run, sync, write

OPENSSL = "/usr/bin/openssl"
CERTIFICATE = "fullchain.pem"
KEY = "privkey.pem"
NEW_PREFIX = ".new-"
DAY = 86400

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One certificate that must be there."""

    name: str
    domains: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a certificate on disk says."""

    fingerprint: str  # SHA-256 of the certificate, hexadecimal
    expires: float  # seconds since the epoch
    subjects: frozenset[str]  # as in the extension subjectAltName: DNS:shop.example.com, IP Address:192.0.2.1
    public_key: str  # PEM


@dataclasses.dataclass
class Result:
    """What one name ended with."""

    name: str
    reasons: list[str]  # why a new pair is made; empty when the pair that is there is good
    tightened: list[str]  # files and directories whose owner or mode had to change
    found: Found | None  # None when it would be made (check mode)
    was: Found | None = None

    @property
    def changed(self) -> bool:
        return bool(self.reasons or self.tightened)


# Reading and deciding: nothing here changes anything ----------------------------------------------------------------


def check(wanted: t.Sequence[Wanted], absent: t.Sequence[str]) -> None:
    """Raise HostError for names and domains that must not reach a file name or OpenSSL's configuration."""
    for name in [*(one.name for one in wanted), *absent]:
        if not NAME.fullmatch(name):
            raise HostError(f"found the name {name!r}, expected lower-case letters, digits, '.', '_' and '-'")
    for one in wanted:
        if not one.domains:
            raise HostError(f"{one.name}: domains: found none, expected at least one")
        for domain in one.domains:
            if not DOMAIN.fullmatch(domain) or len(domain) > 253:
                raise HostError(f"{one.name}: domains: found {domain!r}, expected a host name in lower case")
    both = sorted({one.name for one in wanted} & set(absent))
    if both:
        raise HostError(f"{both[0]}: found among the certificates and among the absent, expected one of them")


def subject(domain: str) -> str:
    """A host name or address as ``openssl x509 -ext subjectAltName`` prints it."""
    try:
        return f"IP Address:{ipaddress.IPv4Address(domain)}"
    except ValueError:
        return f"DNS:{domain}"


def configuration(domains: t.Sequence[str]) -> str:
    """The configuration file for ``openssl req -x509``: a server's certificate that can sign no other.

    The common name is a constant: RFC 9525 takes names from subjectAltName only, and a common name has 64 characters
    at most.
    """
    names = ",".join(subject(domain).replace("IP Address:", "IP:") for domain in domains)
    return (
        "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = extensions\n"
        "[name]\nCN = asgi.stack self-signed\n"
        "[extensions]\nbasicConstraints = critical,CA:FALSE\nkeyUsage = critical,digitalSignature\n"
        "extendedKeyUsage = serverAuth\nsubjectKeyIdentifier = hash\n"
        f"subjectAltName = {names}\n"
    )


def parse(output: str) -> Found | None:
    """What ``openssl x509 -outform PEM -enddate -ext subjectAltName -pubkey`` printed; None when it is not that."""
    pem = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", output, re.DOTALL)
    key = re.search(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", output, re.DOTALL)
    end = re.search(r"^notAfter=(.+)$", output, re.MULTILINE)
    names = re.search(r"X509v3 Subject Alternative Name:[^\n]*\n\s*(.+)", output)
    if pem is None or key is None or end is None:
        return None
    try:
        der = ssl.PEM_cert_to_DER_cert(pem.group(0))
        expires = float(ssl.cert_time_to_seconds(end.group(1).strip()))
    except ValueError:
        return None
    return Found(
        fingerprint=hashlib.sha256(der).hexdigest(),
        expires=expires,
        subjects=frozenset(names.group(1).strip().split(", ")) if names else frozenset(),
        public_key=key.group(0).strip(),
    )


def reasons(
    found: Found | None, key_public: str | None, domains: t.Sequence[str], now: float, renew_before: float
) -> list[str]:
    """Why the pair that is there will not do; empty when it will.

    :param key_public: the public half of the private key on disk, None when that cannot be read.
    :param now: seconds since the epoch.
    :param renew_before: seconds before its end at which a certificate is replaced.
    """
    if found is None:
        return ["there is no readable certificate"]
    why = []
    if key_public is None:
        why.append("there is no readable key")
    elif key_public != found.public_key:
        why.append("the key belongs to another certificate")
    expected = {subject(domain) for domain in domains}
    if found.subjects != expected:
        why.append(f"it is for {_names(found.subjects)}, expected {_names(expected)}")
    left = found.expires - now
    if left <= 0:
        why.append("it has expired")
    elif left < renew_before:
        why.append(f"it expires in {left / DAY:.0f} days")
    return why


def date(seconds: float) -> str:
    """Seconds since the epoch as an ISO 8601 time in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe(found: Found | None) -> str:
    """A certificate as a diff shows it."""
    if found is None:
        return ""
    return f"names: {_names(found.subjects)}\nexpires: {date(found.expires)}\nsha256: {found.fingerprint}\n"


def _names(subjects: t.Iterable[str]) -> str:
    return ", ".join(sorted(name.partition(":")[2] for name in subjects)) or "no name"


# On the host --------------------------------------------------------------------------------------------------------


def ensure(
    root: Path,
    wanted: t.Sequence[Wanted],
    absent: t.Sequence[str],
    *,
    days: int,
    renew_before: float,
    check_mode: bool = False,
    lock_timeout: float = 60,
    step: t.Callable[[str], None] = lambda name: None,
) -> tuple[list[Result], list[str]]:
    """Have a good self-signed pair for each of *wanted*, and none for *absent*.

    :param root: the directory that holds the pairs; 0700, root's.
    :param days: how long a new certificate is valid.
    :param renew_before: seconds before its end at which a certificate is replaced.
    :param step: called with a name between the steps; tests cut the process off there.
    :return: a result for each of *wanted*, and the absent names that were there.
    :raises HostError: a value that will not do; no OpenSSL, or it fails.
    """
    check(wanted, absent)
    if days * DAY <= renew_before:
        raise HostError(f"days: found {days}, expected more than the {renew_before / DAY:g} days of renew_days")
    if check_mode:
        results = [_judge(root, one, renew_before) for one in wanted]
        return results, [name for name in absent if (root / name).is_symlink()]
    if wanted and not os.path.exists(OPENSSL):
        raise HostError("OpenSSL's command line tool is not installed on this host (package openssl)")
    with locked("_certificate", lock_timeout):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in root.glob(f"{NEW_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        results = []
        for one in wanted:
            result = _judge(root, one, renew_before)
            if result.reasons:
                result.found = _make(root, one, days, step)
            for path in result.tightened:
                _tighten(Path(path))
            _prune(root, one.name)
            results.append(result)
        removed = [name for name in absent if _remove(root, name)]
        return results, removed


def present(root: Path) -> list[str]:
    """The names that have a pair."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_symlink() and "@" not in path.name)


def _judge(root: Path, one: Wanted, renew_before: float) -> Result:
    pair = root / one.name
    if pair.exists() and not pair.is_symlink():
        raise HostError(f"{pair} is not ours, expected a symbolic link or nothing")
    found, key_public = _read_pair(pair)
    why = reasons(found, key_public, one.domains, time.time(), renew_before)
    loose = [path for path in (root, pair, pair / KEY) if path.exists() and _is_loose(path)]
    if why:
        loose = [path for path in loose if path == root]
    return Result(one.name, why, [str(path) for path in loose], None if why else found, found)


def _read_pair(pair: Path) -> tuple[Found | None, str | None]:
    if not os.path.exists(OPENSSL):
        return None, None
    certificate, key = pair / CERTIFICATE, pair / KEY
    found = key_public = None
    if read(certificate):
        shown = run([OPENSSL, "x509", "-in", str(certificate), "-enddate", "-ext", "subjectAltName", "-pubkey"])
        found = parse(shown.stdout) if shown.returncode == 0 else None
    if read(key):
        shown = run([OPENSSL, "pkey", "-in", str(key), "-passin", "pass:", "-pubout"])
        key_public = shown.stdout.strip() if shown.returncode == 0 else None
    return found, key_public


def _make(root: Path, one: Wanted, days: int, step: t.Callable[[str], None]) -> Found:
    """Make a pair in a directory of its own, and point to it when it is whole."""
    new = Path(tempfile.mkdtemp(prefix=NEW_PREFIX, dir=root))  # 0700
    try:
        write(new / "openssl.cnf", configuration(one.domains), 0o600)
        write(new / KEY, "", 0o600)  # OpenSSL writes into it and keeps its mode
        done = run(
            [OPENSSL, "req", "-x509", "-config", str(new / "openssl.cnf"), "-sha256", "-days", str(days)]
            + ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
            + ["-keyout", str(new / KEY), "-out", str(new / CERTIFICATE)]
        )
        if done.returncode:
            raise HostError(f"{one.name}: OpenSSL makes no certificate: {done.stderr.strip()}")
        (new / "openssl.cnf").unlink()
        step("made")
        found, key_public = _read_pair(new)
        why = reasons(found, key_public, one.domains, time.time(), 0)
        if found is None or why:
            raise HostError(f"{one.name}: the certificate that OpenSSL made will not do: {'; '.join(why)}")
        for name, mode in ((KEY, 0o600), (CERTIFICATE, 0o644)):
            write(new / name, (new / name).read_bytes(), mode)  # durable
        final = root / f"{one.name}@{found.fingerprint[:16]}"
        new.rename(final)
        sync(root)
        step("named")
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    point(root / one.name, final.name)
    step("live")
    return found


def _is_loose(path: Path) -> bool:
    """Whether somebody else than root could read *path*. As another user (a test), the owner is not looked at."""
    status = path.stat()
    mine = os.geteuid()
    return bool(status.st_mode & 0o077) or (mine == 0 and (status.st_uid, status.st_gid) != (0, 0))


def _tighten(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, 0, 0)
    path.chmod(0o700 if path.is_dir() else 0o600)


def _prune(root: Path, name: str) -> None:
    keep = os.readlink(root / name)
    for path in root.glob(f"{name}@*"):
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)


def _remove(root: Path, name: str) -> bool:
    there = (root / name).is_symlink()
    if there:
        (root / name).unlink()
    for path in root.glob(f"{name}@*"):
        shutil.rmtree(path, ignore_errors=True)
    return there
