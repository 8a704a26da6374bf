# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sample applications: each framework on two servers or more, the other things that applications do on one."""

from __future__ import annotations

import re
import uuid
from datetime import datetime

import client
import pytest
import variants
from driver import ask, wait_for
from variants import App


def on(*names: str) -> pytest.MarkDecorator:
    """Ask these applications, on all hosts and servers."""
    found = [app for app in variants.APPS if app.name.partition("-")[0] in names]
    return pytest.mark.parametrize("app", found, ids=variants.name_of)


@pytest.mark.parametrize("framework", ["fastapi", "starlette", "django", "quart"])
def test_each_framework_is_on_two_servers(framework: str) -> None:
    servers = {str(app.declared["server"]) for app in variants.APPS if app.name.startswith(framework)}
    assert len(servers) >= 2


@on("fastapi", "starlette", "django", "quart")
def test_framework_answers_and_knows_who_asks(app: App) -> None:
    answer = app.request("/api/info", headers={"X-Forwarded-For": "203.0.113.7"})
    assert answer.status == 200
    info = answer.json()
    assert (info["client"], info["scheme"], info["host"]) == (answer.client, "https", app.domain)
    assert info["release"] == app.live()


@on("starlette", "quart")
def test_lifespan_of_the_framework_has_run(app: App) -> None:
    assert app.info()["started"] is True


@on("fastapi", "starlette", "django", "quart")
def test_framework_sends_events_one_by_one(app: App) -> None:
    arrivals = client.event_times(app.host.address, app.domain, "/events?count=4&interval=0.3")
    client.assert_one_by_one(arrivals, 4, 0.3)


@on("fastapi", "starlette", "quart")
def test_framework_echoes_over_a_websocket(app: App) -> None:
    with app.websocket("/ws") as socket:
        for message in ("grüezi", "x" * 70_000):
            socket.send(message)
            assert socket.recv(timeout=client.SECONDS) == message


@on("starlette")
def test_factory_made_the_application(app: App) -> None:
    """With its environment, which is there when the factory is called."""
    assert app.declared["factory"] is True
    assert app.info()["greeting"] == "good morning"


@on("django")
def test_static_files_are_collected_and_served_by_nginx(app: App) -> None:
    page = app.request("/").body.decode()
    found = re.search(r'href="(/static/entries/style\.[0-9a-f]+\.css)"', page)
    assert found is not None, page
    answer = app.request(found[1])
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/css")
    assert answer.body == (variants.PROJECT / "tests/apps/django/entries/static/entries/style.css").read_bytes()
    # Nginx answers these paths alone. Its log is written once a second.
    assert app.request("/static/there-is-none.css").status == 404

    def logged(path: str) -> bool:
        line = f'"path":"{path}".*"upstream_status":""'
        return app.host.run("grep", "--quiet", line, "/var/log/nginx/access.log").returncode == 0

    wait_for("both are logged", lambda: logged(found[1]) and logged("/static/there-is-none.css"), 10)


@on("django")
def test_database_is_migrated_and_keeps_what_is_written(app: App) -> None:
    word = uuid.uuid4().hex
    assert app.request("/entries", method="POST", body=word.encode()).status == 201
    assert word in app.request("/entries").json()["entries"]
    database = f"/var/lib/asgi/{app.name}/db.sqlite3"
    assert app.host.out("stat", "--format", "%U %a", database) == f"asgi-{app.name} 600"


@on("slow")
def test_slow_lifespan_is_waited_for(app: App) -> None:
    """The release became live once its lifespan was over, and not before."""
    assert ask(app.host, app.domain, "/").status == 200
    shown = app.host.show(app.unit, "ExecMainStartTimestamp", "NRestarts")
    assert shown["NRestarts"] == "0"
    started = app.host.out("date", "--date", shown["ExecMainStartTimestamp"], "+%s")
    state = app.host.out("cat", f"/srv/asgi/{app.name}/live/state.json")
    live_at = re.search(r'"live_at": "([^"]+)"', state)
    assert live_at is not None, state
    waited = datetime.fromisoformat(live_at[1]).timestamp() - int(started)
    assert waited >= float(app.declared["environment"]["START_SECONDS"])
