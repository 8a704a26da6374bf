# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys
from pathlib import Path

from ansible_collections.asgi.stack.plugins.module_utils import _host as host

BOOKWORM = """\
nginx version: nginx/1.22.1
built with OpenSSL 3.0.8 7 Feb 2023 (running with OpenSSL 3.0.17 1 Jul 2025)
TLS SNI support enabled
configure arguments: --prefix=/usr/share/nginx --with-compat --with-debug --with-pcre-jit --with-http_ssl_module \
--with-http_realip_module --with-http_v2_module --with-http_geoip_module=dynamic --with-stream_ssl_module --with-threads
"""
TRIXIE = """\
nginx version: nginx/1.26.3 (Debian)
built with OpenSSL 3.5.4 30 Sep 2025
configure arguments: --with-http_ssl_module --with-http_v2_module --with-http_v3_module --with-stream=dynamic
"""


def test_nginx_build() -> None:
    """The OpenSSL that runs counts; a dynamic module is not compiled in."""
    assert host.parse_nginx_build(BOOKWORM) == {
        "version": "1.22.1",
        "openssl": "3.0.17",
        "modules": ["http_realip", "http_ssl", "http_v2", "stream_ssl"],
    }
    trixie = host.parse_nginx_build(TRIXIE)
    assert trixie is not None
    assert (trixie["version"], trixie["openssl"]) == ("1.26.3", "3.5.4")
    assert "http_v3" in trixie["modules"]
    assert host.parse_nginx_build("nothing of the kind") is None


def test_os_release() -> None:
    text = 'ID=debian\nVERSION_ID="12"\n# a remark\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nBROKEN="\nEMPTY=\n'
    assert host.parse_os_release(text) == {
        "ID": "debian",
        "VERSION_ID": "12",
        "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)",
        "EMPTY": "",
    }


def test_packages() -> None:
    """Removed with its configuration kept is not installed."""
    output = "installed\tnginx\t1.22.1-9\nconfig-files\topenssl\t3.0\nnot-installed\tgit\t\n"
    assert host.parse_packages(output, ["nginx", "openssl", "git", "unheard-of"]) == {
        "nginx": "1.22.1-9",
        "openssl": None,
        "git": None,
        "unheard-of": None,
    }


def test_describe_without_anything(tmp_path: Path) -> None:
    """What cannot be read is empty, and nothing fails."""
    found = host.describe(["surely-not-a-package"], root=tmp_path)
    assert found["distribution"] == found["version"] == ""
    assert found["packages"] == {"surely-not-a-package": None}
    assert isinstance(found["ipv6"], bool)


def test_python() -> None:
    assert host.python_of("/nowhere/python3") is None
    found = host.python_of(sys.executable)
    assert found == {"path": sys.executable, "version": "{}.{}.{}".format(*sys.version_info[:3])}


def test_an_installation_that_was_cut_off_is_seen(tmp_path: Path) -> None:
    updates = tmp_path / "var/lib/dpkg/updates"
    assert not host.packages_interrupted(tmp_path)
    updates.mkdir(parents=True)
    (updates / "tmp.i").touch()
    assert not host.packages_interrupted(tmp_path)
    (updates / "0003").touch()
    assert host.packages_interrupted(tmp_path)


def test_suites_of_both_formats(tmp_path: Path) -> None:
    apt = tmp_path / "etc/apt"
    (apt / "sources.list.d").mkdir(parents=True)
    (apt / "sources.list").write_text(
        "# deb http://x/ commented-security main\n"
        "deb http://deb.example/debian bookworm main # deb http://x/ more main\n"
        "deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://x/ bookworm-security main contrib\n"
        "deb-src http://x/ source-only main\n"
    )
    (apt / "sources.list.d/more.list").write_text("deb\thttp://x/\tbookworm-updates main\n")
    (apt / "sources.list.d/debian.sources").write_text(
        "Types: deb deb-src\nURIs: http://x/\nSuites: trixie\n # a comment's line\n trixie-updates\nComponents: main\n"
        "\n# of the other kind\nEnabled: no\nTypes: deb\nURIs: http://x/\nSuites: disabled-security\n"
        "  \n\ntypes: deb-src\nSuites: source-security\n\nTypes: deb\nSuites: trixie-security"
    )
    (apt / "sources.list.d/debian.sources.save").write_text("Types: deb\nSuites: saved\n")
    assert host.apt_suites(tmp_path) == [
        "bookworm",
        "bookworm-security",
        "bookworm-updates",
        "trixie",
        "trixie-security",
        "trixie-updates",
    ]
    assert host.apt_suites(tmp_path / "nothing") == []


def test_directives_of_a_binary() -> None:
    assert host.directives_in(b"\x7fELF\0keepalive\0max_headers\0limit_req\0") == ["max_headers"]
    assert host.directives_in(b"\x7fELF\0http_max_headers_in\0max_headers_hash\0") == []
