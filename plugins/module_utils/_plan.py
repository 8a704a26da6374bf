# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: declared applications + sizing + sources → applications with nothing left to decide.

A pure function. Its result holds no secret, so that it may be a fact and be printed.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import typing as t

from ansible_collections.asgi.stack.plugins.module_utils import _model

#: Seconds after which Nginx gives up a pooled connection to a release: in use, and idle. Their sum is how long a
#: connection to an old release can stay in the pool after the switch.
KEEPALIVE = {"time": 3, "timeout": 2}

#: What the edge is told about an application; none of it makes a release another one.
_EDGE = (
    "domains",
    "tls",
    "http3",
    "locations",
    "security_headers",
    "max_body_size",
    "request_timeout",
    "maintenance",
    "unavailable_page",
    "cdn",
    "cdn_only",
    "cdn_client_ca",
    "limits",
)

#: So many releases back are static files looked for that pages of earlier releases may still ask for.
PREVIOUS = 3

#: What the unit is told about memory and CPUs.
_MEMORY = ("memory_per_worker", "memory_high", "memory_max", "cpu_weight")


def plan(
    apps: t.Sequence[t.Mapping[str, t.Any]],
    *,
    spec: _model.Spec,
    sizing: t.Mapping[str, t.Mapping[str, t.Any]],
    sources: t.Mapping[str, t.Mapping[str, t.Any]],
    servers: t.Mapping[str, t.Mapping[str, t.Any]],
    root: str = "/srv/asgi",
) -> list[dict[str, t.Any]]:
    """Return one dict for each application, in the order of *apps*.

    :param apps: valid entries of ``asgi_apps``, with domains.
    :param spec: the options of one application (see :mod:`_model`).
    :param sizing: for each name ``{workers, reason, …}``, as :mod:`_sizing` returns it.
    :param sources: for each name what :mod:`_source` resolved: ``{kind, digest, revision, …}``.
    :param servers: for each declared server its room's description: ``{requirements, options, argv, files}`` and,
        each optional, ``environment_file`` (one of the files), ``binds`` (it makes its socket itself), ``farewell``
        (its workers are told to close WebSockets) and ``front`` (``{requirements, files}``: what it needs besides to
        do without Nginx).
    :param root: the directory of builds and releases on the host.
    """
    return [
        _absent(app["name"], root)
        if app.get("state") == "absent"
        else _present(app, spec, sizing, sources, servers, root)
        for app in apps
    ]


def site(app: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return what the edge is told about a resolved application, wherever the edge is."""
    return {key: app[key] for key in ("name", "state", *_EDGE)}


def _absent(name: str, root: str) -> dict[str, t.Any]:
    edge = {"name": name, "state": "absent"}
    return {"name": name, "state": "absent", "root": f"{root}/{name}", "user": f"asgi-{name}", "edge": edge}


def _present(
    declared: t.Mapping[str, t.Any],
    spec: _model.Spec,
    sizing: t.Mapping[str, t.Mapping[str, t.Any]],
    sources: t.Mapping[str, t.Mapping[str, t.Any]],
    servers: t.Mapping[str, t.Mapping[str, t.Any]],
    root: str,
) -> dict[str, t.Any]:
    app = _model.resolve(declared, spec)
    name = app["name"]
    live = f"{root}/{name}/live"
    sized = sizing[name]
    application = f"{app['app']}()" if app["factory"] else app["app"]
    places = {
        "release": f"{root}/{name}/releases/%i",
        "application": application,
        "socket": f"/run/asgi-{name}/%i/edge/app.sock",
    }
    front = app["edge"] == "hypercorn"
    planned = {
        **{key: value for key, value in app.items() if key not in ("secrets", "sizing", *spec["server"]["choices"])},
        "root": f"{root}/{name}",
        "user": f"asgi-{name}",
        "source": dict(sources[name]),
        "server": _server(declared, app, servers[app["server"]], places),
        "application": application,
        "workers": sized["workers"],
        "workers_reason": sized["reason"],
        "memory": {key: sized[key] for key in _MEMORY},
        "side_by_side": sized["side_by_side"],
        # After so many seconds nothing of Nginx' pool is connected to an old release, or to a worker that wants to end.
        "pool": KEEPALIVE["time"] + KEEPALIVE["timeout"] + 1,
        "front": front,
        # To Nginx, an application that does without it is not there.
        "edge": {"name": name, "state": "absent", "front": True}
        if front
        else {
            **site(app),
            "upstream": f"{live}/app.sock",
            "source_dir": f"{live}/build/src",
            # Each release has a link to the one that it replaced.
            "previous_source_dirs": [f"{live}{'/previous' * back}/build/src" for back in range(1, PREVIOUS + 1)],
            "keepalive": dict(KEEPALIVE),
        },
        "hooks": {kind: [_shell(command) for command in app["hooks"][kind]] for kind in ("build", "migrate")},
        "environment": {key: str(value) for key, value in sorted(app["environment"].items())},
        "secret_names": sorted(str(key) for key in app["secrets"]),
    }
    planned["id"] = _identity(planned)
    return planned


def _shell(command: str | t.Sequence[str]) -> str:
    """Return a command, a string for the shell or a list of arguments, as the former."""
    return str(command) if isinstance(command, str) else shlex.join(str(part) for part in command)


def _server(
    declared: t.Mapping[str, t.Any],
    app: t.Mapping[str, t.Any],
    room: t.Mapping[str, t.Any],
    places: t.Mapping[str, str],
) -> dict[str, t.Any]:
    """Return the room's description with the options that the application itself declares over the room's.

    In the command line, ``%i`` is what systemd replaces by the release.
    """
    name = app["server"]
    front = room["front"] if app["edge"] == name else {"requirements": [], "files": {}}
    own = {key: app[name][key] for key, value in (declared.get(name) or {}).items() if value is not None}
    return {
        **room,
        "name": name,
        "options": {**room["options"], **own},
        "requirements": [*room["requirements"], *front["requirements"]],
        "files": {**room.get("files", {}), **front["files"]},
        "argv": [part.format(**places) for part in room["argv"]],
    }


def _identity(planned: t.Mapping[str, t.Any]) -> str:
    """Return the release's id: the same on every host that deploys the same thing.

    It stands for what runs, not for how Nginx treats it (a new domain is no new release). It leaves out what
    differs between hosts (the worker count) and the values of secrets, because the id is public.
    """
    keys = ("name", "application", "root_path", "requirements", "environment", "secret_names", "network", "sandbox")
    what = {key: planned[key] for key in (*keys, "hooks")}
    what["server"] = {key: planned["server"][key] for key in ("name", "options", "requirements", "argv")}
    what["source"] = planned["source"]["digest"]
    if planned["front"]:
        what["front"] = {key: planned[key] for key in ("domains", "max_body_size")}
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:10]
