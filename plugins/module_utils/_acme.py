# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates that a host asks an ACME server for, and renews by itself.

On the host::

    /var/lib/asgi.acme/settings.json    which names, of which server: what the last play said
    /var/lib/asgi.acme/status.json      how the last request for each name ended
    /var/lib/asgi.acme/webroot/         answers to the server's challenges, which Nginx serves on port 80
    /var/lib/asgi.acme/certbot/         the client's own: account, keys, certificates
    /usr/local/lib/asgi.acme/           this file and what it imports, for the host's own use
    asgi.acme.timer, asgi.acme.service  run it

What the timer runs is the whole of it: it asks for what is missing or ends soon, puts it where Nginx reads it
(:mod:`_certificate`), and reloads Nginx if there was anything new. The play runs the same unit, so that what works once
works at each renewal. A request that fails leaves the certificate that is there, and only the next run makes it again.

The client is certbot, and only :func:`obtain` and :func:`lineage` know it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
import time
import typing as t
from pathlib import Path

from ansible_collections.asgi.stack.plugins.module_utils import _certificate, _system
from ansible_collections.asgi.stack.plugins.module_utils._certificate import Found, date
from ansible_collections.asgi.stack.plugins.module_utils._system import (
    HostError,
    is_there,
    locked,
    read,
    remove,
    run,
    systemctl,
    write,
)

CERTBOT = "/usr/bin/certbot"
NGINX = "nginx.service"
STATE = Path("/var/lib/asgi.acme")
SETTINGS = "settings.json"
STATUS = "status.json"
CA = "ca.pem"
WEBROOT = "webroot"
#: There while Nginx may not have read what was installed.
UNREAD = "unread"
#: Somebody makes it to have all renewed at the next run, whether it is time or not.
RENEW = "renew"
CODE = Path("/usr/local/lib/asgi.acme")
SYSTEMD = Path("/etc/systemd/system")
TIMER = "asgi.acme.timer"
#: Seconds that the client may take for one certificate.
PATIENCE = 300


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a host is asked to have."""

    directory: str  # address of the ACME server's directory
    email: str | None
    has_ca: bool  # whether STATE/ca.pem is what the server's own certificate is checked with
    path: str  # the directory that holds the pairs, as in _certificate
    names: dict[str, list[str]]  # domains by name

    def dump(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"


@dataclasses.dataclass(frozen=True)
class Lineage:
    """What the client holds for a name."""

    chain: str  # PEM
    key: str  # PEM
    found: Found
    directory: str | None  # the server that it came from


# Reading and deciding: nothing here changes anything ----------------------------------------------------------------


def load_settings(state: Path = STATE) -> Settings | None:
    """Return what the last play said, None when there was none."""
    text = read(state / SETTINGS)
    try:
        return Settings(**json.loads(text)) if text else None
    except (ValueError, TypeError):
        raise HostError(f"{state / SETTINGS} cannot be read; the next run of the play writes it anew") from None


def load_status(state: Path = STATE) -> dict[str, dict[str, t.Any]]:
    """Return how the last request for each name ended: ``{asked, problem, since}``."""
    try:
        found = json.loads(read(state / STATUS) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def renew_before(found: Found) -> float:
    """Seconds before its end at which a certificate is renewed: a third of its life, of a short one the half.

    As Let's Encrypt advises (letsencrypt.org/docs/integration-guide); it is right for 90, 45 and 6 days.
    """
    life = found.expires - found.starts
    return life / 3 if life > 10 * _certificate.DAY else life / 2


def wrong(held: Lineage | None, domains: t.Sequence[str], directory: str, now: float) -> list[str]:
    """Why what the client holds is not what is wanted, its age aside; empty when it is."""
    if held is None:
        return [f"there is none of {directory} yet"]
    why = _certificate.reasons(held.found, held.found.public_key, domains, now, 0)
    if held.directory != directory:
        why.append(f"it is of {held.directory}, expected {directory}")
    return why


def due(held: Lineage, now: float) -> bool:
    """Whether it is time to renew."""
    return held.found.expires - now < renew_before(held.found)


def said(output: str) -> str:
    """Return the reason among what certbot printed, as one line."""
    noise = re.compile(
        r"Saving debug log|Requesting a cert|Renewing an existing|Account registered|Some challenges have failed|"
        r"Ask for help|See the logfile|Hint:|An unexpected error occurred:$|Certbot failed to authenticate|"
        r"Unable to change owner|- - -|Plugins selected|Another instance of|Please see the logfile|$"
    )
    kept: list[str] = []
    for line in output.splitlines():
        line = line.strip()
        if line.startswith("Hint:"):
            break
        if not noise.match(line):
            kept.append(line)
    text = re.sub(r"\s+", " ", " ".join(kept))
    return text[-1000:] or "it gave no reason"


# The client ---------------------------------------------------------------------------------------------------------


def lineage(state: Path, name: str) -> Lineage | None:
    """Return what the client holds for *name*."""
    place = state / "certbot/config"
    chain, key = (read(place / "live" / name / file) for file in (_certificate.CERTIFICATE, _certificate.KEY))
    found, key_public = _certificate.look(place / "live" / name)
    if not chain or not key or found is None or found.public_key != key_public:
        return None
    server = re.search(r"^server = (\S+)$", read(place / "renewal" / f"{name}.conf") or "", re.MULTILINE)
    return Lineage(chain, key, found, server.group(1) if server else None)


def obtain(settings: Settings, state: Path, name: str) -> str | None:
    """Have the client ask for a new certificate; return why there is none, or None when there is.

    One request, whatever it ends with: what is tried again at once meets the server's limits.
    """
    command = [CERTBOT, "certonly", "--non-interactive", "--agree-tos", "--no-directory-hooks"]
    for what in ("config", "work", "logs"):
        command += [f"--{what}-dir", str(state / "certbot" / what)]
    command += ["--max-log-backups", "20", "--server", settings.directory]
    command += (
        ["--email", settings.email, "--no-eff-email"] if settings.email else ["--register-unsafely-without-email"]
    )
    command += ["--webroot", "--webroot-path", str(state / WEBROOT), "--preferred-challenges", "http"]
    command += ["--key-type", "ecdsa", "--elliptic-curve", "secp256r1", "--cert-name", name]
    command += ["--force-renewal", "--renew-with-new-domains"]
    for domain in settings.names[name]:
        command += ["--domain", domain]
    environment = {"HOME": str(state)}
    if settings.has_ca:
        environment["REQUESTS_CA_BUNDLE"] = str(state / CA)
    try:
        done = run(command, environment=environment, timeout=PATIENCE)
    except HostError as error:
        return str(error)
    return None if done.returncode == 0 else said(f"{done.stdout}\n{done.stderr}")


def forget(state: Path, name: str) -> None:
    """Remove what the client holds for *name*; its account stays."""
    place = state / "certbot/config"
    (place / "renewal" / f"{name}.conf").unlink(missing_ok=True)
    for what in ("live", "archive"):
        shutil.rmtree(place / what / name, ignore_errors=True)


# On the host --------------------------------------------------------------------------------------------------------


def converge(state: Path = STATE, client: t.Callable[..., str | None] = obtain) -> bool:
    """Ask for what is missing or ends soon, install what is new, and have Nginx read it; return whether all is well."""
    with locked("_acme", PATIENCE):
        settings = load_settings(state)
        if settings is None:
            return True
        status = load_status(state)
        status = {name: status[name] for name in settings.names if name in status}
        installed = False
        force = remove(state / RENEW)
        for name, domains in sorted(settings.names.items()):
            held = lineage(state, name)
            if force or wrong(held, domains, settings.directory, time.time()) or (held and due(held, time.time())):
                if held is None:  # what a client that was cut off left would keep it from beginning anew
                    forget(state, name)
                began = time.time()
                problem = client(settings, state, name)
                held = lineage(state, name)
                before = status.get(name, {})
                since = (before.get("since") or date(began)) if problem else None
                status[name] = {"asked": date(began), "asked_at": began, "problem": problem, "since": since}
                write(state / STATUS, json.dumps(status, indent=1) + "\n", 0o644)
                sys.stdout.write(f"{name}: {problem or 'a new certificate'}\n")
            elif status.get(name, {}).get("problem"):  # what could not be had is not wanted any more
                del status[name]
            if held is not None and _install(Path(settings.path), state, name, held):
                installed = True
        if (state / UNREAD).exists():
            problem = reload()
            if problem:
                sys.stdout.write(f"{problem}\n")
                return False
            (state / UNREAD).unlink()
        elif not installed:
            sys.stdout.write("nothing to do\n")
        write(state / STATUS, json.dumps(status, indent=1) + "\n", 0o644)
        return not any(one["problem"] for one in status.values())


def _install(root: Path, state: Path, name: str, held: Lineage) -> bool:
    """Make what the client holds what Nginx reads; return whether it was not."""
    with locked("_certificate", 60):
        pair = root / name
        same = (read(pair / _certificate.CERTIFICATE), read(pair / _certificate.KEY)) == (held.chain, held.key)
        if same and _certificate.origin(pair) == "acme":
            return False
        write(state / UNREAD, "")
        _certificate.install(root, name, held.chain, held.key, "acme")
        _certificate.prune(root, name)
        return True


def reload() -> str | None:
    """Have Nginx read the certificates if it runs; return why it did not."""
    # A play that has Nginx reload looks at its processes meanwhile.
    with locked("_nginx", 120):
        if systemctl("is-active", "--quiet", NGINX).returncode:
            return None
        done = systemctl("reload", NGINX)
        return f"{NGINX} does not reload: {done.stderr.strip()}" if done.returncode else None


# What there is ------------------------------------------------------------------------------------------------------


def standing(roots: t.Iterable[Path], name: str, now: float, state: Path = STATE) -> dict[str, t.Any] | None:
    """What can be said of the certificate *name*, whatever it came from; None when there is none.

    :param roots: the directories that may hold its pair.
    :param now: seconds since the epoch.
    :returns: ``{mode, domains, not_after, days, problem}``; *problem* is None when all is well.
    """
    for root in roots:
        found = _certificate.look(root / name)[0]
        if found is not None:
            break
    else:
        return None
    settings = load_settings(state)
    origin = _certificate.origin(root / name)
    mode = "acme" if settings is not None and name in settings.names else origin
    left = found.expires - now
    soon = renew_before(found) * 0.75 if mode == "acme" else 30 * _certificate.DAY
    problems = []
    if left <= 0:
        problems.append("it has ended")
    elif left < soon:
        problems.append(f"it ends in {left / _certificate.DAY:.0f} days")
    if mode == "acme":
        last = load_status(state).get(name, {})
        if origin != "acme":
            problems.append(f"there is none of the ACME server yet, a {origin} one serves")
        if last.get("problem"):
            problems.append(f"requests fail since {last.get('since')}: {last['problem']}")
        if not _is_on(TIMER):
            problems.append(f"{TIMER} does not run")
    return {
        "mode": mode,
        "domains": sorted(subject.partition(":")[2] for subject in found.subjects),
        "not_after": date(found.expires),
        "days": int(left // _certificate.DAY),
        "problem": "; ".join(problems) or None,
    }


# What a play does ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Outcome:
    """What was done, or would be done in check mode."""

    diff: list[dict[str, str]] = dataclasses.field(default_factory=list)
    asked: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # why, by name
    problems: dict[str, str] = dataclasses.field(default_factory=dict)  # why there is none, by name

    @property
    def changed(self) -> bool:
        return bool(self.diff)


def ensure(
    wanted: t.Mapping[str, t.Sequence[str]],
    absent: t.Sequence[str],
    *,
    directory: str,
    email: str | None,
    ca: str | None,
    path: str,
    units: t.Mapping[str, str],
    check_mode: bool = False,
    state: Path = STATE,
    code: Path = CODE,
    systemd: Path = SYSTEMD,
) -> Outcome:
    """Have the host ask for, and renew, a certificate for each of *wanted*, and for none of *absent*.

    Names of earlier plays that are in neither stay. Renewals are the timer's: only what is missing, has ended, or is of
    other names or another server is asked for here.

    :param units: text of the units by name: a service, and a timer of the same name.
    :raises HostError: the client is not installed, or the service does not run.
    """
    outcome = Outcome()
    try:
        before = load_settings(state)
    except HostError:
        before = None
    kept = {name: domains for name, domains in (before.names if before else {}).items() if name not in absent}
    names = {**kept, **{name: list(domains) for name, domains in wanted.items()}}
    if not names:
        _remove(state, code, systemd, units, outcome, check_mode)
        return outcome
    settings = Settings(directory, email, bool(ca), path, names)
    files = {
        state / SETTINGS: settings.dump(),
        **({state / CA: ca} if ca else {}),
        **{systemd / name: text for name, text in units.items()},
        **{code / name: text for name, text in _code().items()},
    }
    changed = {file for file, text in files.items() if read(file) != text}
    for file in sorted(changed):
        if code not in file.parents:
            outcome.diff.append(_difference(file, read(file) or "", files[file]))
    if any(code in file.parents for file in changed):
        outcome.diff.append(_difference(code, "", "what the host runs by itself\n"))
    timer = next(name for name in units if name.endswith(".timer"))
    service = next(name for name in units if name.endswith(".service"))
    if not check_mode:
        if not os.path.exists(CERTBOT):
            raise HostError("the ACME client is not installed on this host (package certbot)")
        _write(state, files, changed)
        for name in set(before.names if before else ()) - set(names):
            forget(state, name)
        if changed & {systemd / name for name in units}:
            _must("daemon-reload")
    if not _is_on(timer) or systemd / timer in changed:
        if systemd / timer not in changed:
            outcome.diff.append(_difference(systemd / timer, "not running\n", "enabled and running\n"))
        if not check_mode:
            _must("enable", timer)
            _must("restart", timer)
    for name, domains in wanted.items():
        held = lineage(state, name)
        why = wrong(held, domains, directory, time.time())
        if not why and held is not None and (state / UNREAD).exists():
            why = ["Nginx may not have read it"]
        elif not why and held is not None and read(Path(path) / name / _certificate.CERTIFICATE) != held.chain:
            why = ["it is not installed"]
        if why:
            outcome.asked[name] = why
            after = f"asked of {directory} for {', '.join(domains)}: {'; '.join(why)}\n"
            outcome.diff.append(_difference(Path(path) / name, "", after))
    if outcome.asked and not check_mode:
        _ask(service, state, settings, outcome)
    return outcome


def _ask(service: str, state: Path, settings: Settings, outcome: Outcome) -> None:
    """Run the service and see what came of it. A run of the timer's that has just begun may know other settings."""
    began = time.time()
    patience = PATIENCE * (len(settings.names) + 1)
    for _attempt in (1, 2):
        done = systemctl("start", service, timeout=patience)
        status = load_status(state)
        left = {}
        for name in outcome.asked:
            why = wrong(lineage(state, name), settings.names[name], settings.directory, time.time())
            if why:
                left[name] = status.get(name, {})
        if all(one.get("asked_at", 0) >= began and one.get("problem") for one in left.values()):
            break
    outcome.problems = {name: str(one["problem"]) for name, one in left.items() if one.get("problem")}
    if len(left) > len(outcome.problems) or (done.returncode and (state / UNREAD).exists()):
        said = run(["journalctl", "--unit", service, "--lines", "5", "--output", "cat", "--no-pager"]).stdout.strip()
        raise HostError(f"{service} fails:\n{said}")


def _write(state: Path, files: t.Mapping[Path, str], changed: t.Collection[Path]) -> None:
    for place, mode in ((state, 0o711), (state / "certbot", 0o700), (state / WEBROOT, 0o755)):
        place.mkdir(mode=mode, parents=True, exist_ok=True)
        place.chmod(mode)
    for file in changed:
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write(file, files[file], 0o600 if file.parent == state else 0o644)


def _remove(
    state: Path, code: Path, systemd: Path, units: t.Mapping[str, str], outcome: Outcome, check_mode: bool
) -> None:
    """Have no certificate asked for any more. The account stays, so that a later play finds it."""
    there = [systemd / name for name in units if (systemd / name).exists()]
    there += [place for place in (code, state / SETTINGS, state / STATUS) if is_there(place)]
    outcome.diff = [_difference(place, "there\n", "") for place in there]
    if check_mode or not there:
        return
    for name in units:
        systemctl("disable", "--now", name)
    before = read(state / SETTINGS)
    for place in there:
        remove(place)
    _must("daemon-reload")
    for name in json.loads(before or "{}").get("names", {}):
        forget(state, name)


def _code() -> dict[str, str]:
    """The files that the host needs to do this by itself: text by path."""
    package = Path(*__name__.split(".")[:-1])
    files = {str(parent / "__init__.py"): "" for parent in (package, *package.parents) if parent != Path(".")}
    for module in (sys.modules[__name__], _certificate, _system):
        # In a module that Ansible sent, they are in an archive.
        loader: t.Any = module.__loader__
        files[str(package / f"{module.__name__.rpartition('.')[2]}.py")] = loader.get_source(module.__name__) or ""
    return files


def _is_on(timer: str) -> bool:
    shown = systemctl("show", "--property=ActiveState,UnitFileState", timer).stdout.split()
    return set(shown) == {"ActiveState=active", "UnitFileState=enabled"}


def _must(*arguments: str) -> None:
    done = systemctl(*arguments)
    if done.returncode:
        raise HostError(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")


def _difference(path: Path, before: str, after: str) -> dict[str, str]:
    return {"before_header": str(path), "after_header": str(path), "before": before, "after": after}


def main() -> None:
    """What the service runs."""
    os.umask(0o022)
    try:
        good = converge()
    except (HostError, OSError) as error:
        raise SystemExit(str(error)) from None
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
