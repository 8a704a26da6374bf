# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is: distribution, packages and where they come from, Nginx build, interpreter, IPv6.

Parsing here, reading in host_info.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
import typing as t
from pathlib import Path

from ansible_collections.asgi.stack.plugins.module_utils._system import run

NGINX = "/usr/sbin/nginx"
PYTHON = "/usr/bin/python3"
DPKG_QUERY = "/usr/bin/dpkg-query"

#: Directives that the version does not tell of: distributions add them to older versions with security updates.
DIRECTIVES = ("max_headers",)


def parse_os_release(text: str) -> dict[str, str]:
    """The fields of os-release(5), shell quoting undone. Lines that are not assignments are left out."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if not separator or not re.match(r"^[A-Z][A-Z0-9_]*$", key):
            continue
        try:
            words = shlex.split(value)
        except ValueError:
            continue
        fields[key] = words[0] if words else ""
    return fields


def parse_packages(output: str, names: t.Sequence[str]) -> dict[str, str | None]:
    """Versions from dpkg-query lines `status<TAB>name<TAB>version`; None for a package that is not installed."""
    found: dict[str, str | None] = dict.fromkeys(names)
    for line in output.splitlines():
        fields = line.split("\t")
        if len(fields) == 3 and fields[0] == "installed" and fields[1] in found:
            found[fields[1]] = fields[2]
    return found


def parse_sources_list(text: str) -> list[str]:
    """The suites of binary packages in a file of the one-line format, sources.list(5)."""
    found = (re.match(r"\s*deb\s+(?:\[[^\]]*\]\s*)?\S+\s+([^\s#]+)", line) for line in text.splitlines())
    return [match.group(1) for match in found if match]


def parse_deb822_sources(text: str) -> list[str]:
    """The suites of binary packages in a file of the deb822 format, sources.list(5); disabled ones left out."""
    suites: list[str] = []
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for stanza in re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines)):
        unfolded = re.sub(r"\n[ \t]+", " ", stanza.strip("\n"))
        pairs = (line.split(":", 1) for line in unfolded.splitlines() if ":" in line)
        fields = {name.strip().lower(): value.split() for name, value in pairs}
        enabled = [word.lower() for word in fields.get("enabled", [])] not in (["no"], ["false"], ["0"], ["off"])
        if enabled and "deb" in fields.get("types", []):
            suites += fields.get("suites", [])
    return suites


def apt_suites(root: Path = Path("/")) -> list[str]:
    """The suites that apt installs from, such as `trixie-security`."""
    directory = root / "etc/apt"
    parsers = [("sources.list", parse_sources_list), ("sources.list.d/*.list", parse_sources_list)]
    found: set[str] = set()
    for pattern, parse in [*parsers, ("sources.list.d/*.sources", parse_deb822_sources)]:
        for path in directory.glob(pattern):
            try:
                found.update(parse(path.read_text(encoding="utf-8", errors="replace")))
            except OSError:
                continue
    return sorted(found)


def parse_nginx_build(text: str) -> dict[str, t.Any] | None:
    """What `nginx -V` says: version, OpenSSL in use, modules compiled in (names as in --with-NAME_module).

    None when the text names no version.
    """
    version = re.search(r"nginx version: nginx/(\d+(?:\.\d+)+)", text)
    if version is None:
        return None
    # "built with OpenSSL 3.0.15 … (running with OpenSSL 3.0.17 …)": what runs decides.
    openssl = re.search(r"running with OpenSSL (\d[\w.]*)", text) or re.search(r"built with OpenSSL (\d[\w.]*)", text)
    modules = re.findall(r"--with-(\w+)_module(?![\w=])", text)
    return {
        "version": version.group(1),
        "openssl": openssl.group(1) if openssl else None,
        "modules": sorted(set(modules)),
    }


def directives_in(program: bytes) -> list[str]:
    """Which of :data:`DIRECTIVES` a binary of Nginx knows, by its strings."""
    return [name for name in DIRECTIVES if b"\0%s\0" % name.encode() in program]


def ipv6_usable() -> bool:
    """Whether a socket can be bound to `::`, which is what Nginx does for `listen [::]:80`."""
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def packages_interrupted(root: Path = Path("/")) -> bool:
    """Whether dpkg was cut off and wants to be asked to go on: it then keeps numbered files in its `updates`."""
    updates = root / "var/lib/dpkg/updates"
    return updates.is_dir() and any(path.name.isdigit() for path in updates.iterdir())


def python_of(path: str = PYTHON) -> dict[str, str] | None:
    """Path and version of the distribution's interpreter; None when it has none."""
    if not os.path.exists(path):
        return None
    if os.path.realpath(path) == os.path.realpath(sys.executable or ""):
        return {"path": path, "version": ".".join(map(str, sys.version_info[:3]))}
    done = run([path, "-c", "import platform; print(platform.python_version())"])
    return {"path": path, "version": done.stdout.strip()} if done.returncode == 0 else None


def describe(packages: t.Sequence[str], root: Path = Path("/")) -> dict[str, t.Any]:
    """All that host_info returns as `host`. Reads only; what cannot be read is empty or None."""
    try:
        release: t.Mapping[str, str] = parse_os_release((root / "etc/os-release").read_text(encoding="utf-8"))
    except OSError:
        release = {}
    names: list[str] = list(dict.fromkeys(packages))
    installed: dict[str, str | None] = dict.fromkeys(names)
    if names and os.path.exists(DPKG_QUERY):
        # dpkg-query exits 1 when it does not know one of the names, and prints the others all the same.
        query = [DPKG_QUERY, "--show", "--showformat", "${db:Status-Status}\t${Package}\t${Version}\n", *names]
        installed = parse_packages(run(query).stdout, names)
    build = None
    if os.path.exists(NGINX):
        done = run([NGINX, "-V"])
        build = parse_nginx_build(done.stdout + done.stderr) if done.returncode == 0 else None
        if build:
            build["directives"] = directives_in(Path(NGINX).read_bytes())
    return {
        "distribution": release.get("ID", ""),
        "version": release.get("VERSION_ID", ""),
        "pretty_name": release.get("PRETTY_NAME", ""),
        "codename": release.get("VERSION_CODENAME", ""),
        "architecture": os.uname().machine,
        "packages": installed,
        "packages_interrupted": packages_interrupted(root),
        "suites": apt_suites(root),
        "ipv6": ipv6_usable(),
        "nginx": build,
        "python": python_of(),
    }
