# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates and keys for Nginx, each pair in a directory that is swapped as a whole.

On the host, below the directory given (``/etc/nginx/asgi/tls``)::

    shop -> shop@<fingerprint>                      the one pointer
    shop@<fingerprint>/{fullchain.pem,privkey.pem}  a pair that belongs together, never edited
    shop@<fingerprint>/origin                       where it came from: self_signed, provided or acme

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
#: What Nginx sees in the place of the directory above, made at its reloads by a script of the role nginx.
COPIES = Path("/run/asgi/_nginx/tls")
ORIGIN = "origin"
NEW_PREFIX = ".new-"
DAY = 86400

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


#: In a PEM file: a certificate, and a private key that needs no passphrase.
_CERTIFICATES = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_PRIVATE_KEY = re.compile(r"-----BEGIN (?P<kind>(?:[A-Z]+ )?PRIVATE KEY)-----.*?-----END (?P=kind)-----", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One certificate that must be there.

    With the mode ``provided`` *certificate* and *key* say where it is: files on the host, or, with *chain* and
    *private_key* given, what they are called elsewhere.
    """

    name: str
    domains: tuple[str, ...]
    mode: str = "self_signed"
    certificate: str | None = None
    key: str | None = None
    chain: str | None = None  # PEM
    private_key: str | None = dataclasses.field(default=None, repr=False)  # PEM


@dataclasses.dataclass(frozen=True)
class Found:
    """What a certificate on disk says."""

    fingerprint: str  # SHA-256 of the certificate, hexadecimal
    expires: float  # seconds since the epoch
    subjects: frozenset[str]  # as in the extension subjectAltName: DNS:shop.example.com, IP Address:192.0.2.1
    public_key: str  # PEM
    starts: float = 0  # seconds since the epoch


@dataclasses.dataclass
class Result:
    """What one name ended with."""

    name: str
    reasons: list[str]  # why a new pair is made; empty when the pair that is there is good
    tightened: list[str]  # files and directories whose owner or mode had to change
    found: Found | None  # None when it would be made (check mode)
    was: Found | None = None
    origin: str = "self_signed"  # where the pair came from that is there at the end

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
        if one.mode == "provided" and not (one.certificate and one.key):
            raise HostError(f"{one.name}: certificate and key: expected both with the mode provided")
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
    at most. Because of that it is the identifiers of keys that tell such certificates apart where several are believed.
    """
    names = ",".join(subject(domain).replace("IP Address:", "IP:") for domain in domains)
    return (
        "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = extensions\n"
        "[name]\nCN = asgi.stack self-signed\n"
        "[extensions]\nbasicConstraints = critical,CA:FALSE\nkeyUsage = critical,digitalSignature\n"
        "extendedKeyUsage = serverAuth\nsubjectKeyIdentifier = hash\n"
        "authorityKeyIdentifier = keyid:always\n"
        f"subjectAltName = {names}\n"
    )


def parse(output: str) -> Found | None:
    """What ``openssl x509 -outform PEM -enddate -ext subjectAltName -pubkey`` printed; None when it is not that."""
    pem = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", output, re.DOTALL)
    key = re.search(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", output, re.DOTALL)
    begin = re.search(r"^notBefore=(.+)$", output, re.MULTILINE)
    end = re.search(r"^notAfter=(.+)$", output, re.MULTILINE)
    names = re.search(r"X509v3 Subject Alternative Name:[^\n]*\n\s*(.+)", output)
    if pem is None or key is None or end is None:
        return None
    try:
        der = ssl.PEM_cert_to_DER_cert(pem.group(0))
        expires = float(ssl.cert_time_to_seconds(end.group(1).strip()))
        starts = float(ssl.cert_time_to_seconds(begin.group(1).strip())) if begin else 0.0
    except ValueError:
        return None
    return Found(
        fingerprint=hashlib.sha256(der).hexdigest(),
        expires=expires,
        subjects=frozenset(names.group(1).strip().split(", ")) if names else frozenset(),
        public_key=key.group(0).strip(),
        starts=starts,
    )


def certificates_in(text: str) -> list[str]:
    """The certificates in a PEM file, each as PEM, in their order."""
    return [match.group(0) + "\n" for match in _CERTIFICATES.finditer(text)]


def private_key_in(text: str) -> str | None:
    """The first private key in a PEM file that could be read without a passphrase, as PEM; None without one."""
    match = _PRIVATE_KEY.search(text)
    if match is None or match.group("kind") == "ENCRYPTED PRIVATE KEY" or "Proc-Type: 4,ENCRYPTED" in match.group(0):
        return None
    return match.group(0) + "\n"


def covers(subjects: t.Iterable[str], domain: str) -> bool:
    """Whether a certificate with these names is good for *domain* (RFC 9525: a wildcard stands for one label)."""
    subjects = set(subjects)
    wanted = subject(domain)
    if wanted in subjects:
        return True
    label, dot, parent = domain.partition(".")
    return bool(dot) and label != "*" and wanted.startswith("DNS:") and f"DNS:*.{parent}" in subjects


def problems(
    chain: t.Sequence[Found | None],
    unsigned: int | None,
    key_public: str | None,
    domains: t.Sequence[str],
    now: float,
) -> list[tuple[str, str]]:
    """What is wrong with a certificate and a key that somebody provides: ``(certificate or key, words)``.

    :param chain: the certificate and those that come after it in its file, in their order; None for one that cannot
        be read.
    :param unsigned: index of the first in the chain that the next one did not sign, None when each did.
    :param key_public: the public half of the private key as PEM, None when there is no key that can be read.
    :param now: seconds since the epoch.
    """
    found = []
    if not chain:
        found.append(("certificate", "found no certificate in it, expected one in PEM"))
    if key_public is None:
        found.append(("key", "found no private key in it, expected one in PEM that needs no passphrase"))
    for index, one in enumerate(chain):
        which = f"certificate {index + 1} in it" if len(chain) > 1 else "it"
        if one is None:
            found.append(("certificate", f"{which} cannot be read"))
        elif one.expires <= now:
            found.append(("certificate", f"{which} ended on {date(one.expires)}"))
        elif one.starts > now:
            found.append(("certificate", f"{which} is good from {date(one.starts)} on, which is not yet"))
    first = chain[0] if chain else None
    if first is not None:
        if key_public is not None and key_public != first.public_key:
            found.append(("key", "it does not belong to the certificate"))
        missing = [domain for domain in domains if not covers(first.subjects, domain)]
        if missing:
            found.append(("certificate", f"it is for {_names(first.subjects)}, and not for {', '.join(missing)}"))
    if unsigned is not None:
        found.append(
            (
                "certificate",
                f"certificate {unsigned + 2} in it did not sign certificate {unsigned + 1}, expected the site's "
                "certificate first and after each the one that signed it",
            )
        )
    return found


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
    """Have a good pair for each of *wanted*, and none for *absent*.

    With the mode ``acme`` any pair whose halves belong together will do, and without one a self-signed one is made:
    Nginx must start before a certificate can be asked for.

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
                result.origin = "provided" if one.mode == "provided" else "self_signed"
            for path in result.tightened:
                _tighten(Path(path))
            prune(root, one.name)
            results.append(result)
        removed = [name for name in absent if _remove(root, name)]
        return results, removed


def present(root: Path) -> list[str]:
    """The names that have a pair."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_symlink() and "@" not in path.name)


def origin(pair: Path) -> str:
    """Where a pair came from."""
    return (read(pair / ORIGIN) or "self_signed").strip()


def look(pair: Path) -> tuple[Found | None, str | None]:
    """What the certificate in the directory *pair* says, and the public half of the key beside it."""
    if not os.path.exists(OPENSSL):
        return None, None
    certificate, key = pair / CERTIFICATE, pair / KEY
    return (_show(certificate) if read(certificate) else None, _public_half(key) if read(key) else None)


def install(
    root: Path, name: str, chain: str, key: str, where_from: str, step: t.Callable[[str], None] = lambda name: None
) -> Found:
    """Make a pair that is there already, as PEM, the one in use. The caller holds the lock ``_certificate``."""

    def fill(new: Path) -> None:
        write(new / KEY, key, 0o600)
        write(new / CERTIFICATE, chain, 0o644)

    return _place(root, name, where_from, fill, step)


def _judge(root: Path, one: Wanted, renew_before: float) -> Result:
    pair = root / one.name
    if pair.exists() and not pair.is_symlink():
        raise HostError(f"{pair} is not ours, expected a symbolic link or nothing")
    found, key_public = look(pair)
    now = time.time()
    if one.mode == "provided":
        why = _why_not_provided(root, one, found, key_public, now)
    elif one.mode == "acme":
        why = [] if found is not None and key_public == found.public_key else reasons(found, key_public, (), now, 0)[:1]
    else:
        why = reasons(found, key_public, one.domains, now, renew_before)
        if found is not None and origin(pair) != one.mode:
            why.append(f"it is {origin(pair)}, expected {one.mode}")
    loose = [path for path in (root, pair, pair / KEY) if path.exists() and _is_loose(path)]
    if why:
        loose = [path for path in loose if path == root]
    return Result(one.name, why, [str(path) for path in loose], None if why else found, found, origin(pair))


def _why_not_provided(root: Path, one: Wanted, found: Found | None, key_public: str | None, now: float) -> list[str]:
    """Why the pair that is there is not the one that is provided; raise HostError when that one will not do."""
    chain, key = _provided(one)
    if not os.path.exists(OPENSSL):
        return ["there is no readable pair"]  # in check mode, before it is installed
    # 0700, and in memory: the check writes nothing to the disk.
    with tempfile.TemporaryDirectory(dir="/run" if os.access("/run", os.W_OK) else None) as directory:
        place = Path(directory)
        write(place / KEY, key or "", 0o600)
        shown: list[Found | None] = []
        unsigned = None
        for index, text in enumerate(chain):
            write(place / f"{index}.pem", text)
            shown.append(_show(place / f"{index}.pem"))
            if index and unsigned is None and not _signed(place / f"{index - 1}.pem", place / f"{index}.pem"):
                unsigned = index - 1
        wrong = problems(shown, unsigned, _public_half(place / KEY) if key else None, one.domains, now)
    if wrong:
        paths = {"certificate": one.certificate, "key": one.key}
        raise HostError("\n".join(f"{one.name}: tls.{what}: {paths[what]}: {words}" for what, words in wrong))
    if found is None or key_public is None:
        return ["there is no readable pair"]
    pair = root / one.name
    if (read(pair / CERTIFICATE), read(pair / KEY)) != ("".join(chain), key):
        return ["it is another one than is provided"]
    return [] if origin(pair) == "provided" else [f"it is {origin(pair)}, expected provided"]


def _provided(one: Wanted) -> tuple[list[str], str | None]:
    """The certificates and the key that *one* provides, from the run or from files on this host."""
    texts = []
    for what, given, path in (("certificate", one.chain, one.certificate), ("key", one.private_key, one.key)):
        try:
            text = read(Path(path or "")) if given is None else given
        except OSError as error:
            raise HostError(f"{one.name}: tls.{what}: {path}: {error.strerror}") from None
        if text is None:
            raise HostError(f"{one.name}: tls.{what}: {path}: there is no such file on this host")
        texts.append(text)
    return certificates_in(texts[0]), private_key_in(texts[1])


def _show(certificate: Path) -> Found | None:
    shown = run([OPENSSL, "x509", "-in", str(certificate), "-dates", "-ext", "subjectAltName", "-pubkey"])
    return parse(shown.stdout) if shown.returncode == 0 else None


def _public_half(key: Path) -> str | None:
    shown = run([OPENSSL, "pkey", "-in", str(key), "-passin", "pass:", "-pubout"])
    return shown.stdout.strip() if shown.returncode == 0 else None


def _signed(certificate: Path, by: Path) -> bool:
    command = [OPENSSL, "verify", "-partial_chain", "-no_check_time", "-trusted", str(by), str(certificate)]
    return run(command).returncode == 0


def _make(root: Path, one: Wanted, days: int, step: t.Callable[[str], None]) -> Found:
    if one.mode == "provided":
        chain, key = _provided(one)
        return install(root, one.name, "".join(chain), key or "", "provided", step)

    def fill(new: Path) -> None:
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
        why = reasons(*look(new), one.domains, time.time(), 0)
        if why:
            raise HostError(f"{one.name}: the certificate that OpenSSL made will not do: {'; '.join(why)}")

    return _place(root, one.name, "self_signed", fill, step)


def _place(
    root: Path, name: str, where_from: str, fill: t.Callable[[Path], None], step: t.Callable[[str], None]
) -> Found:
    """Have a pair filled into a directory of its own, and point to it when it is whole."""
    new = Path(tempfile.mkdtemp(prefix=NEW_PREFIX, dir=root))  # 0700
    try:
        fill(new)
        found, key_public = look(new)
        if found is None or key_public != found.public_key:
            raise HostError(f"{name}: the certificate and the key do not belong together")
        write(new / ORIGIN, f"{where_from}\n")
        for file, mode in ((KEY, 0o600), (CERTIFICATE, 0o644)):
            write(new / file, (new / file).read_bytes(), mode)  # durable
        final = root / f"{name}@{found.fingerprint[:16]}"
        number = 1
        while final.exists():  # the same certificate, with a key that was damaged
            number += 1
            final = root / f"{name}@{found.fingerprint[:16]}.{number}"
        new.rename(final)
        sync(root)
        step("named")
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    point(root / name, final.name)
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


def prune(root: Path, name: str) -> None:
    """Remove pairs that *name* no longer points to."""
    keep = os.readlink(root / name)
    for path in root.glob(f"{name}@*"):
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)


def _remove(root: Path, name: str) -> bool:
    there = (root / name).is_symlink()
    if there:
        (root / name).unlink()
    (COPIES / name).unlink(missing_ok=True)
    for path in [*root.glob(f"{name}@*"), *COPIES.glob(f"{name}@*")]:
        shutil.rmtree(path, ignore_errors=True)
    return there
