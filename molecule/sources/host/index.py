# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A package index for one user, on 127.0.0.1 of the test host: the wheels in a directory, and nothing else.

The first line of its standard input is the password, so that it is in no file and no command line; it ends when the
input does. The first line of its output is its port. Then it prints a line for each request that came without the right
password, and for each process whose command line holds the password while a request is answered.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import html
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

USERNAME = "builder"


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def seen_in_processes(words: list[bytes]) -> list[str]:
    """Return the processes whose command line holds one of *words*."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if any(word in path.read_bytes() for word in words):
                found.append(path.parent.name)
    return found


def main(directory: Path) -> None:
    password = sys.stdin.readline().rstrip("\n")
    wanted = "Basic " + base64.b64encode(f"{USERNAME}:{password}".encode()).decode()
    words = [password.encode(), quote(password, safe="").encode(), wanted.encode()]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def send(self, status: int, body: bytes, kind: str = "text/html", **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            for process in seen_in_processes(words):
                print(f"the command line of process {process} holds the password", flush=True)
            if not hmac.compare_digest(self.headers.get("Authorization", ""), wanted):
                given = "a wrong one" if self.headers.get("Authorization") else "none"
                print(f"asked for the password, found {given}: {self.path}", flush=True)
                return self.send(401, b"who are you?", WWW_Authenticate='Basic realm="wheels"')
            place = unquote(self.path).strip("/").split("/")
            files = sorted(directory.glob("*.whl"))
            if len(place) == 2 and place[0] == "simple":
                mine = [path.name for path in files if normalized(path.name.split("-")[0]) == normalized(place[1])]
                if mine:
                    links = "".join(f'<a href="/files/{quote(name)}">{html.escape(name)}</a>\n' for name in mine)
                    return self.send(200, f"<!DOCTYPE html><html><body>{links}</body></html>".encode())
            if len(place) == 2 and place[0] == "files":
                for path in files:
                    if path.name == place[1]:
                        return self.send(200, path.read_bytes(), "application/octet-stream")
            return self.send(404, b"not here")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
