# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: what changes a release's id and what does not, whose options win, and that no secret is in it."""

from __future__ import annotations

import copy
import json
import typing as t

import pytest

from ansible_collections.asgi.stack.plugins.module_utils import _model, _plan
from ansible_collections.asgi.stack.plugins.plugin_utils import _control

SPEC = _control.application_spec()
SIZED = {
    "workers": 4,
    "reason": "4 workers: 2 CPUs x 2 (io)",
    "memory_per_worker": 1,
    "memory_high": 2,
    "memory_max": 3,
    "cpu_weight": 100,
    "side_by_side": True,
}
SOURCE = {"kind": "tree", "digest": "d" * 64, "revision": "shop dddd", "path": "/x/shop", "exclude": []}
ROOM: dict[str, t.Any] = {
    "requirements": ["gunicorn>=25"],
    "options": {"timeout": 60, "extra": {}, "preload": False},
    "argv": ["{release}/build/venv/bin/gunicorn", "--config", "{release}/gunicorn.conf.py", "{application}"],
    "files": {"gunicorn.conf.py": "t.j2"},
}


def one(
    sized: dict[str, t.Any] | None = None,
    source: dict[str, t.Any] | None = None,
    room: dict[str, t.Any] | None = None,
    root: str = "/srv/asgi",
    **more: t.Any,
) -> dict[str, t.Any]:
    """The plan of a single application."""
    sized, source, room = sized or SIZED, source or SOURCE, room or ROOM
    app = {"name": "shop", "app": "main:app", "source": {"path": "."}, "domains": ["a.example"], **more}
    assert _model.validate([app], SPEC) == []
    return _plan.plan(
        [app], spec=SPEC, sizing={"shop": sized}, sources={"shop": source}, servers={"gunicorn": room}, root=root
    )[0]


def test_places() -> None:
    found = one(root="/data")
    assert found["root"] == "/data/shop"
    assert found["user"] == "asgi-shop"
    assert found["server"]["argv"] == [
        "/data/shop/releases/%i/build/venv/bin/gunicorn",
        "--config",
        "/data/shop/releases/%i/gunicorn.conf.py",
        "main:app",
    ]


def test_what_the_edge_needs() -> None:
    locations = [{"path": "/static/", "kind": "static", "root": "static"}, {"path": "/ws", "kind": "websocket"}]
    declared = {"max_body_size": "5", "tls": {"mode": "none"}, "cdn": "fastly", "limits": {"rate": "7"}}
    found = one(locations=locations, **declared)["edge"]
    assert found.pop("tls")["mode"] == "none"
    assert [{key: value for key, value in one.items() if value} for one in found.pop("locations")] == locations
    assert found == {
        "name": "shop",
        "state": "present",
        "domains": ["a.example"],
        "upstream": "/srv/asgi/shop/live/app.sock",
        "source_dir": "/srv/asgi/shop/live/build/src",
        "previous_source_dirs": [
            "/srv/asgi/shop/live/previous/build/src",
            "/srv/asgi/shop/live/previous/previous/build/src",
            "/srv/asgi/shop/live/previous/previous/previous/build/src",
        ],
        "keepalive": {"time": 3, "timeout": 2},
        "http3": "auto",
        "security_headers": {},
        "max_body_size": 5,
        "request_timeout": 60,
        "maintenance": False,
        "unavailable_page": None,
        "cdn": "fastly",
        "cdn_only": False,
        "cdn_client_ca": None,
        "limits": {
            "rate": 7,
            "burst": 500,
            "connections": 512,
            "headers": 100,
            "header_size": 8192,
            "header_timeout": 10,
            "body_timeout": 15,
            "send_timeout": 15,
        },
    }


def test_workers_come_with_their_reason() -> None:
    found = one()
    assert (found["workers"], found["workers_reason"]) == (4, "4 workers: 2 CPUs x 2 (io)")


def test_a_factory_is_called() -> None:
    assert one(factory="yes")["application"] == "main:app()"
    assert one(factory=True)["server"]["argv"][-1] == "main:app()"


def test_environment_is_text_in_a_fixed_order() -> None:
    found = one(environment={"B": 5, "A": "x"})["environment"]
    assert list(found.items()) == [("A", "x"), ("B", "5")]


def test_hooks_are_shell_commands() -> None:
    found = one(hooks={"build": ["make all", ["touch", "a b"]], "migrate": []})["hooks"]
    assert found == {"build": ["make all", "touch 'a b'"], "migrate": []}


def test_an_absent_application() -> None:
    found = _plan.plan(
        [{"name": "old", "state": "absent"}], spec=SPEC, sizing={}, sources={}, servers={}, root="/srv/asgi"
    )
    assert found == [
        {
            "name": "old",
            "state": "absent",
            "root": "/srv/asgi/old",
            "user": "asgi-old",
            "edge": {"name": "old", "state": "absent"},
        }
    ]


def test_the_order_is_kept() -> None:
    apps = [{"name": name, "app": "main:app", "source": {"path": "."}, "domains": [name]} for name in ("b", "a")]
    apps.insert(1, {"name": "c", "state": "absent"})
    each = {"a": SIZED, "b": SIZED}
    found = _plan.plan(
        apps, spec=SPEC, sizing=each, sources={"a": SOURCE, "b": SOURCE}, servers={"gunicorn": ROOM}, root="/srv/asgi"
    )
    assert [app["name"] for app in found] == ["b", "c", "a"]


# --- a server's options ----------------------------------------------------------------------------------------------


def test_an_applications_own_options_win_over_the_rooms() -> None:
    found = one(gunicorn={"timeout": "5", "extra": {"x": 1}})["server"]
    assert found["options"] == {"timeout": 5, "extra": {"x": 1}, "preload": False}
    assert found["name"] == "gunicorn"
    assert found["files"] == ROOM["files"]


def test_options_that_are_not_said_are_the_rooms() -> None:
    assert one()["server"]["options"] == ROOM["options"]
    assert one(gunicorn={})["server"]["options"] == ROOM["options"]


def test_null_is_an_option_that_is_not_said() -> None:
    assert one(gunicorn={"timeout": None})["server"]["options"] == ROOM["options"]


def test_the_room_is_not_changed() -> None:
    room = copy.deepcopy(ROOM)
    found = one(room=room, gunicorn={"timeout": 5})["server"]
    found["requirements"].append("x")
    assert room == ROOM


# --- the id ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"source": {**SOURCE, "digest": "e" * 64}},
        {"app": "main:other"},
        {"factory": True},
        {"requirements": "r.txt"},
        {"environment": {"A": "1"}},
        {"secrets": {"TOKEN": "x"}},
        {"sandbox": {"PrivateTmp": False}},
        {"hooks": {"build": ["make"]}},
        {"gunicorn": {"timeout": 61}},
        {"room": {**ROOM, "requirements": ["gunicorn>=26"]}},
        {"room": {**ROOM, "options": {**ROOM["options"], "timeout": 61}}},
        {"room": {**ROOM, "argv": [*ROOM["argv"], "--x"]}},
        {"root_path": "/shop"},
    ],
)
def test_another_id(more: dict[str, t.Any]) -> None:
    assert one(**more)["id"] != one()["id"]


@pytest.mark.parametrize(
    "more",
    [
        {"sized": {**SIZED, "workers": 9, "reason": "9 workers", "memory_max": 9}},
        {"workers": 3},
        {"workload": "cpu"},
        {"sizing": {"max": 3}},
        {"domains": ["other.example"]},
        {"tls": {"mode": "none"}},
        {"locations": [{"path": "/ws", "kind": "websocket"}]},
        {"drain": 5, "keep_releases": 9, "health": {"path": "/healthz"}},
        {"gunicorn": {"timeout": 60}},
        {"environment": {}},
        {"source": {**SOURCE, "revision": "other words"}},
    ],
)
def test_the_same_id(more: dict[str, t.Any]) -> None:
    assert one(**more)["id"] == one()["id"]


def test_the_id_does_not_tell_the_value_of_a_secret() -> None:
    assert one(secrets={"A": "x"})["id"] == one(secrets={"A": "y"})["id"]
    assert one(secrets={"A": "x"})["id"] != one(secrets={"B": "x"})["id"]


def test_the_order_of_the_environment_does_not_matter() -> None:
    assert one(environment={"A": 1, "B": 2})["id"] == one(environment={"B": 2, "A": 1})["id"]


def test_the_id_is_a_part_of_a_name() -> None:
    assert len(one()["id"]) == 10
    int(one()["id"], 16)


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_the_plan() -> None:
    found = one(secrets={"TOKEN": "hunter2-canary", "A": 12345678})
    text = json.dumps(found)
    assert "hunter2" not in text
    assert "12345678" not in text
    assert found["secret_names"] == ["A", "TOKEN"]
    assert "secrets" not in found


FRONT = {"requirements": ["aioquic>=1.2"], "files": {"front.py": "front.py"}}


def front(**more: t.Any) -> dict[str, t.Any]:
    """The plan of an application with Hypercorn at the front."""
    app = {"name": "shop", "app": "main:app", "source": {"path": "."}, "domains": ["a.example"], **more}
    app = {"server": "hypercorn", "edge": "hypercorn", **app}
    assert _model.validate([app], SPEC) == []
    servers = {"hypercorn": {**ROOM, "front": FRONT}}
    return _plan.plan([app], spec=SPEC, sizing={"shop": SIZED}, sources={"shop": SOURCE}, servers=servers)[0]


def test_front_brings_what_it_needs() -> None:
    found = front()
    assert found["front"] is True
    assert found["server"]["requirements"] == ["gunicorn>=25", "aioquic>=1.2"]
    assert found["server"]["files"] == {"gunicorn.conf.py": "t.j2", "front.py": "front.py"}
    behind = front(edge="nginx")
    assert behind["front"] is False
    assert behind["server"]["requirements"] == ["gunicorn>=25"]
    assert behind["server"]["files"] == {"gunicorn.conf.py": "t.j2"}
    assert behind["id"] != found["id"]


def test_front_is_not_nginx_business() -> None:
    assert front()["edge"] == {"name": "shop", "state": "absent", "front": True}


def test_front_has_its_domains_in_the_release() -> None:
    assert front(domains=["b.example"])["id"] != front()["id"]
    assert front(max_body_size=5)["id"] != front()["id"]
    assert front(edge="nginx", domains=["b.example"])["id"] == front(edge="nginx")["id"]
