# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many hosts: in which order they are deployed, and what an edge must know of them. Pure."""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.asgi.stack.plugins.module_utils import _model, _plan

#: A host as a directive of Nginx may name it: a name, an IPv4 address, or an IPv6 address in brackets.
ADDRESS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
#: Seconds that an edge keeps an idle connection to an application host: less than that host's Nginx does (65 s).
KEEPALIVE = {"time": 3600, "timeout": 30}


class FleetError(ValueError):
    """The fleet is declared wrong; the message says where."""


def batches(hosts: t.Sequence[str], serial: t.Any, canary: t.Any = None) -> list[list[str]]:
    """Return *hosts* in the order in which they are deployed, a list for each batch; the canaries are the first.

    :param hosts: the hosts of the run, in the inventory's order.
    :param serial: how many a batch has, as Ansible's ``serial``: a number, a percentage of all hosts, or a list of
        them, whose last one is for all further batches. 0 is all at once.
    :param canary: the name of the first host, or a list of names; None is the first of *hosts*. Those that are not
        among *hosts* do not count; an empty list is no canary.
    :raises FleetError: *serial* is none of these.
    """
    if canary is None:
        first = list(hosts[:1])
    else:
        names = [canary] if isinstance(canary, str) else list(canary)
        first = [host for host in hosts if host in names]
    rest = [host for host in hosts if host not in first]
    sizes = [_size(one, len(hosts)) for one in (serial if isinstance(serial, (list, tuple)) else [serial])]
    if not sizes:
        raise FleetError("asgi_serial: found an empty list, expected a number, a percentage or a list of them")
    found = [first] if first else []
    while rest:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        found.append(rest[:size])
        rest = rest[size:]
    return found


def _size(value: t.Any, hosts: int) -> int:
    """Return how many hosts one entry of ``asgi_serial`` means."""
    match = re.fullmatch(r"(\d+)(%?)", str(value)) if not isinstance(value, bool) else None
    if match is None:
        raise FleetError(f"asgi_serial: found {value!r}, expected a number, or a percentage such as '25%'")
    number = int(match[1])
    if match[2]:
        number = max(1, hosts * number // 100)
    return number or max(1, hosts)


def address(host: str, variables: t.Mapping[str, t.Any]) -> str:
    """Return where *host* is reached by the others: ``asgi_address``, ``ansible_host``, or its name.

    :raises FleetError: it could not stand in a directive.
    """
    found = str(variables.get("asgi_address") or variables.get("ansible_host") or host)
    if ":" in found and not found.startswith("["):
        found = f"[{found}]"
    if not ADDRESS.fullmatch(found):
        raise FleetError(f"{host}: asgi_address: found {found!r}, expected a host name or an IP address")
    return found


def edge_addresses(edges: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[str]:
    """Return the addresses and networks that the edges come from, for what lets only them in.

    :param edges: the variables of each edge. ``asgi_addresses`` lists what it connects from, by default its address.
    :raises FleetError: one is no IP address and no network.
    """
    found: set[str] = set()
    for host, variables in edges.items():
        given = variables.get("asgi_addresses") or [address(host, variables).strip("[]")]
        for one in [given] if isinstance(given, str) else given:
            try:
                found.add(str(ipaddress.ip_network(str(one))).removesuffix("/32").removesuffix("/128"))
            except ValueError:
                raise FleetError(
                    f"asgi_edge_hosts ({host}): asgi_address: found {one!r}, expected the IP address it connects from"
                ) from None
    return sorted(found)


def edge_apps(
    hosts: t.Mapping[str, t.Mapping[str, t.Any]], *, spec: _model.Spec, drained: t.Sequence[str] = ()
) -> list[dict[str, t.Any]]:
    """Return the sites of an edge, one for each application that some host declares, sorted by name.

    :param hosts: the variables of each application host: ``asgi_apps``, and what :func:`address` reads,
        ``asgi_drained``, ``asgi_weight``, ``nginx_http_port`` and ``nginx_https_port``.
    :param spec: the options of one application (see :mod:`_model`).
    :param drained: hosts that get no new request, besides those that say so.
    :raises FleetError: hosts differ in what the edge must know, or it cannot serve what they declare.
    """
    found: dict[str, dict[str, t.Any]] = {}
    first: dict[str, str] = {}
    absent: set[str] = set()
    for host, variables in hosts.items():
        for declared in variables.get("asgi_apps") or []:
            name = str(declared.get("name"))
            if declared.get("state") == "absent":
                absent.add(name)
                continue
            site = _site(declared, spec)
            known = found.setdefault(name, {**site, "servers": []})
            origin = first.setdefault(name, host)
            for key, value in site.items():
                if known[key] != value:
                    raise FleetError(
                        f"asgi_apps ({name}): {key}: differs between {origin} and {host}, expected the same, because "
                        "an edge serves them together"
                    )
            known["servers"].append(_server(host, variables, site, drained))
    for name, site in found.items():
        if all(server["down"] for server in site["servers"]):
            raise FleetError(f"asgi_apps ({name}): all of its hosts are drained, expected one that serves")
    gone = [{"name": name, "state": "absent"} for name in sorted(absent - set(found))]
    return [found[name] for name in sorted(found)] + gone


def _site(declared: t.Mapping[str, t.Any], spec: _model.Spec) -> dict[str, t.Any]:
    name = declared.get("name")
    if not declared.get("domains"):
        raise FleetError(f"asgi_apps ({name}): domains: missing, expected at least one with asgi_edge_hosts")
    app = _model.resolve(declared, spec)
    if app["edge"] != "nginx":
        raise FleetError(f"asgi_apps ({name}): edge: found {app['edge']}, expected nginx with asgi_edge_hosts")
    # Files are where the releases are: on the application hosts, which also know what only they may hand out.
    locations = [
        {**location, "kind": "app", "root": None} if location["kind"] == "static" else location
        for location in app["locations"]
        if location["kind"] != "internal"
    ]
    return {
        **_plan.site(app),
        "locations": locations,
        "keepalive": dict(KEEPALIVE),
    }


def _server(
    host: str, variables: t.Mapping[str, t.Any], site: t.Mapping[str, t.Any], drained: t.Sequence[str]
) -> dict[str, t.Any]:
    encrypted = site["tls"]["mode"] != "none"
    port = variables.get("nginx_https_port") or 443 if encrypted else variables.get("nginx_http_port") or 80
    return {
        "host": host,
        "address": address(host, variables),
        "port": int(port),
        "weight": int(variables.get("asgi_weight") or 1),
        "down": bool(variables.get("asgi_drained")) or host in drained,
    }


def behind(site: t.Mapping[str, t.Any], edges: t.Sequence[str]) -> dict[str, t.Any]:
    """Return an application host's own site as it is behind *edges*: the public certificate is theirs.

    :param site: what the plan says to the site role.
    :param edges: addresses that may connect, and are believed what they say of clients.
    """
    if not edges or site["state"] == "absent":
        return dict(site)
    mode = "none" if site["tls"]["mode"] == "none" else "self_signed"
    # What the edges do for all of their hosts is not done a second time.
    locations = [{**location, "cache": None} for location in site.get("locations") or []]
    done = {"http3": "false", "limits": None, "cdn_client_ca": None, "locations": locations}
    return {**site, **done, "tls": {"mode": mode}, "edges": list(edges)}


def table(found: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[str]:
    """Return, as lines, what runs on each host at the end of a deploy.

    :param found: for each host ``{state, applications: {name: {release, previous}}}``; *state* is a word or a sentence.
    """
    rows = [("HOST", "APP", "RELEASE", "BEFORE", "DEPLOY")]
    for host, about in found.items():
        apps = about.get("applications") or {}
        for name, app in apps.items():
            rows.append((host, name, app.get("release") or "none is live", app.get("previous") or "-", about["state"]))
        if not apps:
            rows.append((host, "-", "not known", "-", about["state"]))
    return columns(rows)


def drift(found: t.Mapping[str, t.Mapping[str, t.Any]], renew_days: int = 14) -> list[str]:
    """Return, a line each, what on a fleet is not as it should be; none where all is.

    :param found: for each host ``{reached, problems, applications, wanted, changed_files, certificates}``: *problems*
        why it could not be read, *applications* as the module ``release_info`` returns them (none where it failed),
        *wanted* the declared release's id by application (empty where it is not known), the others as ``drift_info``
        returns them.
    :param renew_days: a certificate that ends in fewer days is one that should have been renewed.
    """
    lines = []
    usual = _usual(found)
    for host, about in found.items():
        if not about.get("reached", True):
            lines.append(f"{host}: is not reached")
            continue
        lines += [f"{host}: cannot be read: {problem}" for problem in about.get("problems") or []]
        wanted = (about.get("wanted") or {}) if about.get("applications") is not None else {}
        apps = {app["name"]: app for app in about.get("applications") or []}
        lines += [f"{host}: {name}: is declared and not there" for name in wanted if name not in apps]
        for name, app in apps.items():
            live = app.get("live") or {}
            expected, whose = (wanted[name], "declared") if name in wanted else (usual[name], "live on most hosts")
            if not live:
                lines.append(f"{host}: {name}: nothing is live")
            elif live.get("id") != expected:
                lines.append(f"{host}: {name}: {live.get('release')} is live, {expected} is {whose}")
            if live and app.get("health") != "ok":
                lines.append(f"{host}: {name}: is not healthy: {app.get('health')}")
        lines += [f"{host}: {path} was changed by hand" for path in about.get("changed_files") or []]
        for name, days in (about.get("certificates") or {}).items():
            if days < renew_days:
                lines.append(
                    f"{host}: the certificate of {name} " + (f"ends in {days} days" if days >= 0 else "has ended")
                )
    return lines


def _usual(found: t.Mapping[str, t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """Return for each application the id that most hosts have; of as many, that of the first host."""
    ids: dict[str, list[t.Any]] = {}
    for about in found.values():
        for app in about.get("applications") or []:
            ids.setdefault(app["name"], []).append((app.get("live") or {}).get("id"))
    return {name: max(seen, key=seen.count) for name, seen in ids.items()}


def columns(rows: t.Sequence[t.Sequence[str]]) -> list[str]:
    """Return rows of cells as aligned lines."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
