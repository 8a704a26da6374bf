# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The applications of the scenario as they are declared, and how a test asks one of them."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import client
import driver
import yaml

HERE = Path(__file__).resolve().parent
#: What the inventory says. Templates in it stay as they are.
DECLARED: dict[str, Any] = yaml.safe_load((HERE / "group_vars/asgi_app_hosts.yml").read_text(encoding="utf-8"))
WIRE = (HERE / "host/wire.py").read_text(encoding="utf-8")


class Tape(io.BytesIO):
    """What came over a connection, as HTTPResponse wants to read it."""

    def makefile(self, *__: Any) -> Tape:
        return self

    def close(self) -> None:
        """Stay open: the next answer follows."""


@dataclass(frozen=True)
class App:
    """A declared application on a host."""

    host: driver.Host
    declared: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.declared["name"])

    @property
    def domain(self) -> str:
        return str(self.declared["domains"][0])

    @property
    def root(self) -> str:
        """The prefix of all its paths."""
        return str(self.declared.get("root_path", ""))

    @property
    def options(self) -> Mapping[str, Any]:
        """What is declared for its server."""
        found: Mapping[str, Any] = self.declared.get(self.declared["server"], {})
        return found

    # Through Nginx

    def request(self, path: str, **options: Any) -> client.Answer:
        """Return the answer to a request through Nginx; see client.open_request."""
        return client.request(self.host.address, self.domain, self.root + path, **options)

    def websocket(self, path: str, **options: Any) -> Any:
        """Open a WebSocket through Nginx; used with `with`."""
        return client.websocket(self.host.address, self.domain, self.root + path, **options)

    def info(self) -> Any:
        """Return what the application knows about a request."""
        answer = self.request("/api/info")
        assert answer.status == 200, answer
        return answer.json()

    # Past Nginx, at the application's own socket

    @property
    def socket(self) -> str:
        return f"/srv/asgi/{self.name}/live/app.sock"

    def message(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> bytes:
        """Return a request in bytes, as Nginx would send it."""
        fields = {
            "Host": self.domain,
            "X-Forwarded-For": "203.0.113.9",
            "X-Forwarded-Proto": "https",
            **({} if body is None else {"Content-Length": str(len(body))}),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        lines = [f"{method} {self.root}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode() + (body or b"")

    def in_host(self, **asked: Any) -> Any:
        """Run host/wire.py in the host."""
        text = json.dumps({"unix": self.socket, **asked})
        return json.loads(self.host.out("python3", "-c", WIRE, text=text, seconds=90))

    def exchange(self, *pieces: tuple[float, bytes], hold: float = 0, keep: int = 1 << 20) -> tuple[Tape, int]:
        """Send each piece after a pause of so many seconds; the last must ask for the connection's end.

        Reading begins after *hold* seconds. Returns the first *keep* bytes of what came, and how many came.
        """
        encoded = [[pause, base64.b64encode(piece).decode()] for pause, piece in pieces]
        done = self.in_host(pieces=encoded, hold=hold, keep=keep)
        assert done["ended"], "the server did not close the connection"
        return Tape(base64.b64decode(done["answer"])), done["bytes"]

    def many(self, path: str, count: int, fresh: bool = False) -> dict[int, int]:
        """Return how many GETs each worker answered with 200, on one connection or on a *fresh* one each."""
        found = self.in_host(get=self.root + path, host=self.domain, count=count, fresh=fresh)
        return {int(pid): right for pid, right in found.items()}

    # On the host

    def events(self, *kinds: str, release: str | None = None) -> list[dict[str, Any]]:
        """Return what tests/apps/contract wrote down, the earliest first."""
        lines = (self.host.read(f"/var/lib/asgi/{self.name}/events.jsonl") or "").splitlines()
        found = [json.loads(line) for line in lines]
        return [each for each in found if each["event"] in kinds and release in (None, each["release"])]

    def live(self) -> str:
        """Return the live release."""
        return self.host.out("readlink", f"/srv/asgi/{self.name}/live").rpartition("/")[2]

    @property
    def unit(self) -> str:
        return f"asgi-{self.name}@{self.live()}.service"

    def workers(self) -> set[int]:
        """Return the processes of the live release that have started the application, and run."""
        found = self.host.run("sh", "-c", 'grep -lsF "/$1" /proc/[0-9]*/cgroup', "sh", self.unit)
        running = {int(path.split("/")[2]) for path in found.stdout.split()}
        return running & {event["pid"] for event in self.events("startup", release=self.live())}

    def answering(self, count: int) -> set[int]:
        """Return the workers that answer so many GETs, each on a new connection."""
        return set(self.many("/api/info", count, fresh=True))


def read(tape: Tape, method: str = "GET") -> tuple[http.client.HTTPResponse, Any]:
    """Read the next answer: itself, and what its body says if it is JSON, else the body."""
    # Of a socket it only wants makefile(), which a tape has.
    response = http.client.HTTPResponse(tape, method=method)  # type: ignore[arg-type]
    response.begin()
    body = response.read()
    is_json = response.headers.get_content_type() == "application/json" and body
    return response, json.loads(body) if is_json else body


def name_of(app: App) -> str:
    """Name a parameter of a test."""
    return f"{app.host.name.removeprefix('servers-')}-{app.name}"


APPS = [App(driver.Host(host), app) for host, apps in DECLARED["test_apps"].items() for app in apps]


def broken(like: App) -> dict[str, Any]:
    """Declare an application whose lifespan fails, on the server of another one."""
    server = like.declared["server"]
    return {
        "name": f"broken-{like.name}",
        "app": "lifespan_error:app",
        "source": {"path": "{{ test_source }}/broken"},
        "domains": [f"broken-{like.name}.test"],
        "workers": 2,
        "health": {"path": "/", "timeout": 20},
        "server": server,
        server: like.declared[server],
    }


#: tests/apps/contract on each server and worker class.
CONTRACT = [app for app in APPS if app.root == DECLARED["test_contract"]["root_path"]]
#: Those of the host that has them all.
ALL_VARIANTS = [app for app in CONTRACT if app.host.name == "servers-debian13"]
LESS_BUSY = driver.Host("servers-debian12")
PROJECT = Path(os.environ.get("MOLECULE_PROJECT_DIRECTORY", HERE.parents[1]))
