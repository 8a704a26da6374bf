# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data model of ``asgi_apps``: what a declaration may say, checked in one place.

The keys, their types, choices and defaults are the entry point ``application`` of the role ``app``'s
``meta/argument_specs.yml``; what a type cannot say (a domain's form, one source only, domains used twice)
is said here. Nothing in this module touches a host or prints a value of ``environment`` or ``secrets``.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import typing as t

from ansible_collections.asgi.stack.plugins.module_utils import _sizing

Spec = t.Mapping[str, t.Any]

#: The name becomes a unit, a directory and, with ``asgi-`` before it, a user: 32 characters are Linux' limit.
NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,25}[a-z0-9])?")
_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
IMPORT_STRING = re.compile(rf"{_IDENTIFIER}(?:\.{_IDENTIFIER})*:{_IDENTIFIER}(?:\.{_IDENTIFIER})*")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
URL_PATH = re.compile(r"/[A-Za-z0-9._~!&'()*+,=:@%/-]*")
ROOT_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_STEP = r"(?!\.\.?(?:/|$))[A-Za-z0-9._@+-]+"
RELATIVE_PATH = re.compile(rf"{_STEP}(?:/{_STEP})*")
ABSOLUTE_PATH = re.compile(rf"(?:/{_STEP})+")
HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
#: What Nginx takes as it stands: no variable, no escape, one line.
HEADER_VALUE = re.compile(r"[ -#%-\[\]-~]+")
#: Headers that say how an answer is sent, or are set otherwise.
RESERVED_HEADERS = frozenset(
    ("alt-svc", "connection", "content-encoding", "content-length", "content-type", "date", "keep-alive", "location")
    + ("server", "set-cookie", "trailer", "transfer-encoding", "upgrade", "vary")
)
PACKAGE = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:\[[A-Za-z0-9._,-]+\])?==[A-Za-z0-9][A-Za-z0-9.!+_-]*"
)
GIT_ADDRESS = re.compile(r"[^-\s]\S*")
GIT_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+@-]*")
RANGE = re.compile(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?")
HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
FILE_PATH = re.compile(r"/?[A-Za-z0-9._@+-]+(?:/[A-Za-z0-9._@+-]+)*")
CDNS = ("cloudflare", "cloudfront", "fastly")
#: Seconds or bytes: Nginx multiplies by a thousand, and takes no more than 63 bits.
MOST = 2**50
DIRECTIVE = re.compile(r"[A-Z][A-Za-z]+")
#: Seconds: the least that browsers take for their preload lists (hstspreload.org).
PRELOAD_AGE = 31536000
#: Names that the collection sets itself, or that would change what is started.
RESERVED_ENVIRONMENT = re.compile(r"ASGI_APP|ASGI_RELEASE|LD_.*|LISTEN_(FDS|PID|FDNAMES)|NOTIFY_SOCKET")


def with_domains(apps: t.Any, host: str) -> t.Any:
    """Return *apps* where each application that names no domain has *host*, the host's name in the inventory."""
    if not isinstance(apps, (list, tuple)):
        return apps
    return [
        {**app, "domains": [host.lower()]}
        if isinstance(app, t.Mapping) and app.get("domains") is None and app.get("state") != "absent"
        else app
        for app in apps
    ]


def validate(apps: t.Any, spec: Spec) -> list[str]:
    """Return every mistake in *apps*, each as one line; an empty list when there is none.

    :param apps: the value of ``asgi_apps``, with domains (see :func:`with_domains`).
    :param spec: the options of one application: a mapping of key to ``{type, required, choices, options, …}``
        as in an argument spec.
    :returns: lines of the form ``asgi_apps[0] (shop): health.timeout: found 'soon', expected a whole number``.
    """
    if not isinstance(apps, (list, tuple)):
        return [f"asgi_apps: found {_kind(apps)}, expected a list of applications"]
    problems: list[str] = []
    for index, app in enumerate(apps):
        where = f"asgi_apps[{index}]"
        if not isinstance(app, t.Mapping):
            problems.append(f"{where}: found {_kind(app)}, expected a mapping with at least name, app and source")
            continue
        name = app.get("name")
        if isinstance(name, str) and name:
            where += f" ({_plain(name)})"
        found: list[str] = []
        _check_options(app, spec, "", found)
        _check_application(app, found)
        problems += [f"{where}: {line}" for line in found]
    problems += _check_together([app for app in apps if isinstance(app, t.Mapping)])
    return problems


def resolve(app: t.Mapping[str, t.Any], spec: Spec) -> dict[str, t.Any]:
    """Return *app*, which :func:`validate` found right, with each default filled in and each value of its type."""
    return _resolve_options(app, spec)


def _resolve_options(value: t.Mapping[str, t.Any], spec: Spec) -> dict[str, t.Any]:
    resolved: dict[str, t.Any] = {}
    for key, option in spec.items():
        given = value.get(key)
        if given is None:
            given = option.get("default")
        if given is None and option.get("type") == "dict" and "options" in option:
            given = {}
        if given is None:
            resolved[key] = {"list": [], "dict": {}}.get(option.get("type", "str"))
            continue
        given = _convert(given, option.get("type", "str"))
        if option.get("options"):
            if option["type"] == "list":
                given = [_resolve_options(item, option["options"]) for item in given]
            else:
                given = _resolve_options(given, option["options"])
        elif option.get("type") == "list":
            given = [_convert(item, option.get("elements", "raw")) for item in given]
        resolved[key] = given
    return resolved


def _check_options(value: t.Mapping[str, t.Any], spec: Spec, prefix: str, problems: list[str]) -> None:
    for key in value:
        if key not in spec:
            close = difflib.get_close_matches(str(key), list(spec), n=1)
            hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(sorted(spec))}"
            problems.append(f"{prefix}{_plain(key)}: unknown key, {hint}")
    for key, option in spec.items():
        given = value.get(key)
        if given is None:
            if option.get("required"):
                problems.append(f"{prefix}{key}: missing, expected {_expected(option)}")
            continue
        _check_value(given, option, prefix + key, problems)


def _check_value(given: t.Any, option: Spec, path: str, problems: list[str]) -> None:
    kind = option.get("type", "str")
    try:
        value = _convert(given, kind)
    except ValueError:
        shown = _kind(given) if option.get("no_log") else _show(given)
        problems.append(f"{path}: found {shown}, expected {_expected(option)}")
        return
    choices = option.get("choices")
    if choices and value not in choices:
        problems.append(f"{path}: found {_show(given)}, expected {_expected(option)}")
    elif kind == "dict" and option.get("options"):
        _check_options(value, option["options"], path + ".", problems)
    elif kind == "list":
        element = {"type": option.get("elements", "raw"), "options": option.get("options")}
        for index, item in enumerate(value):
            _check_value(item, element, f"{path}[{index}]", problems)


def _convert(value: t.Any, kind: str) -> t.Any:
    """Return *value* as *kind*, an argument spec's type; strings that a template made of numbers are taken.

    :raises ValueError: it is not of that type.
    """
    if kind == "raw":
        return value
    if value is None:
        raise ValueError(kind)
    if kind == "str":
        if isinstance(value, (t.Mapping, list, tuple, bool)):
            raise ValueError(kind)
        return str(value)
    if kind == "bool":
        if isinstance(value, bool):
            return value
        word = str(value).lower()
        if word in ("true", "yes", "on", "1"):
            return True
        if word in ("false", "no", "off", "0"):
            return False
        raise ValueError(kind)
    if kind in ("int", "float"):
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError(kind)
        if kind == "int" and isinstance(value, float) and not value.is_integer():
            raise ValueError(kind)
        return int(value) if kind == "int" else float(value)
    if kind == "list":
        if not isinstance(value, (list, tuple)):
            raise ValueError(kind)
        return list(value)
    if kind == "dict":
        if not isinstance(value, t.Mapping):
            raise ValueError(kind)
        return dict(value)
    raise AssertionError(f"the argument spec names a type that is not known here: {kind}")


def _check_application(app: t.Mapping[str, t.Any], problems: list[str]) -> None:
    """Append what the argument spec cannot say about one application."""

    def check(path: str, value: t.Any, pattern: re.Pattern[str], expected: str) -> bool:
        if value is None or isinstance(value, (t.Mapping, list, tuple, bool)):
            return False  # of the wrong type: that was said already
        if pattern.fullmatch(str(value)):
            return True
        problems.append(f"{path}: found {_show(value)}, expected {expected}")
        return False

    check("name", app.get("name"), NAME, "1 to 27 of a-z, 0-9 and -, a letter first, no - at the end")
    if app.get("state") == "absent":
        return
    for key in ("app", "source"):
        if app.get(key) is None:
            problems.append(f"{key}: missing, expected {_REQUIRED[key]}")
    check("app", app.get("app"), IMPORT_STRING, "an import string, module:attribute, such as shop.main:app")
    _check_source(app.get("source"), check, problems)
    check("requirements", app.get("requirements"), RELATIVE_PATH, "a path relative to the source, and inside of it")
    domains = app.get("domains")
    if isinstance(domains, (list, tuple)) and not domains:
        problems.append("domains: found an empty list, expected at least one host name")
    for index, domain in enumerate(_list(domains)):
        well_formed = check(f"domains[{index}]", domain, DOMAIN, "a host name in lower case, such as shop.example.com")
        if well_formed and len(str(domain)) > 253:
            problems.append(f"domains[{index}]: found {len(str(domain))} characters, expected 253 at most")
    workers = app.get("workers")
    if workers is not None and workers != "auto" and not _is_whole(workers, 1):
        problems.append(f"workers: found {_show(workers)}, expected auto or a whole number from 1")
    for key, least in (("keep_releases", 1), ("drain", 0), ("max_body_size", 1), ("request_timeout", 1)):
        _check_least(app, key, least, problems, key)
    if app.get("root_path") not in (None, ""):
        check("root_path", app.get("root_path"), ROOT_PATH, "a path such as /shop, without a / at the end")
    _check_sizing(app.get("sizing"), problems)
    health = app.get("health")
    if isinstance(health, t.Mapping):
        check("health.path", health.get("path"), URL_PATH, "a path that begins with /")
        for key in ("timeout", "successes"):
            _check_least(health, key, 1, problems, f"health.{key}")
        interval = health.get("interval")
        if isinstance(interval, (int, float)) and not isinstance(interval, bool) and not 0 <= interval <= 60:
            problems.append(f"health.interval: found {interval}, expected seconds from 0 to 60")
        for index, status in enumerate(_list(health.get("status"))):
            if _is_whole(status, None) and not 100 <= int(status) <= 599:
                problems.append(f"health.status[{index}]: found {_show(status)}, expected an HTTP status")
    for key in ("environment", "secrets"):
        variables = app.get(key)
        for name, value in variables.items() if isinstance(variables, t.Mapping) else ():
            if not isinstance(name, str) or not ENVIRONMENT_NAME.fullmatch(name):
                problems.append(f"{key}: found the name {_show(name)}, expected letters, digits and _, no digit first")
            elif RESERVED_ENVIRONMENT.fullmatch(str(name)):
                problems.append(f"{key}.{name}: this name is set by the service manager or the collection itself")
            if value is None or isinstance(value, (t.Mapping, list, tuple, bool)):
                problems.append(f"{key}.{name}: found {_kind(value)}, expected a string or a number")
            elif "\0" in str(value):
                problems.append(f"{key}.{name}: found a NUL character, which an environment cannot hold")
    both = set(_keys(app.get("environment"))) & set(_keys(app.get("secrets")))
    for name in sorted(both):
        problems.append(f"secrets.{name}: also in environment, expected in one of them")
    _check_locations(app.get("locations"), check, problems)
    _check_headers(app.get("security_headers"), problems)
    _check_http3(app, problems)
    _check_cdn(app, check, problems)
    _check_limits(app.get("limits"), problems)
    _check_tls(app, problems)
    if app.get("edge") == "hypercorn":
        _check_front(app, problems)
    for kind, commands in _items(app.get("hooks")):
        for index, command in enumerate(_list(commands)):
            parts = command if isinstance(command, (list, tuple)) else [command]
            if not parts or not all(isinstance(part, str) and part and "\0" not in part for part in parts):
                problems.append(f"hooks.{kind}[{index}]: found {_kind(command)}, expected a command or its arguments")
    for name, value in _items(app.get("sandbox")):
        if not DIRECTIVE.fullmatch(str(name)):
            problems.append(f"sandbox: found {_show(name)}, expected the name of a systemd directive")
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, (t.Mapping, list, tuple)) or "\n" in str(item):
                problems.append(f"sandbox.{name}: found {_kind(item)}, expected one line, a boolean or a list of lines")


def _check_sizing(sizing: t.Any, problems: list[str]) -> None:
    if not isinstance(sizing, t.Mapping):
        return
    for key in ("min", "max"):
        _check_least(sizing, key, 1, problems, f"sizing.{key}")
    least, most = sizing.get("min"), sizing.get("max")
    if _is_whole(least, 1) and _is_whole(most, 1) and int(t.cast(int, least)) > int(t.cast(int, most)):
        problems.append(f"sizing.min: found {least}, expected at most sizing.max, {most}")
    factor = sizing.get("per_cpu")
    if isinstance(factor, (int, float)) and not isinstance(factor, bool) and not 0 < factor < 1000:
        problems.append(f"sizing.per_cpu: found {factor}, expected a number above 0")
    share = sizing.get("share")
    if isinstance(share, (int, float)) and not isinstance(share, bool) and not 0.01 <= share <= 100:
        problems.append(f"sizing.share: found {share}, expected a number from 0.01 to 100")
    if sizing.get("memory_per_worker") is not None:
        try:
            _sizing.parse_size(sizing["memory_per_worker"], "sizing.memory_per_worker")
        except ValueError as error:
            problems.append(str(error))


def _check_source(source: t.Any, check: t.Callable[..., bool], problems: list[str]) -> None:
    if not isinstance(source, t.Mapping):
        return
    kinds = [kind for kind in ("path", "git", "package") if source.get(kind) is not None]
    if len(kinds) != 1:
        found = " and ".join(kinds) if kinds else "none of them"
        problems.append(f"source: found {found}, expected exactly one of path, git and package")
    if source.get("git") is not None:
        if source.get("version") is None:
            problems.append("source.version: missing, expected a tag, a branch or a commit for source.git")
        check("source.git", source.get("git"), GIT_ADDRESS, "a repository's address")
        check("source.version", source.get("version"), GIT_VERSION, "a tag, a branch or a commit")
    elif source.get("version") is not None:
        problems.append("source.version: goes with source.git only (a package has its own: shop==2.4.1)")
    if source.get("exclude") and source.get("path") is None:
        problems.append("source.exclude: goes with source.path only")
    check("source.package", source.get("package"), PACKAGE, "a package with its exact version, such as shop==2.4.1")


#: The kinds of locations that a key goes with.
_LOCATION_KEYS = {
    "exact": ("app", "sse", "websocket", "upload"),
    "root": ("static", "internal"),
    "timeout": ("app", "sse", "websocket", "upload", "health"),
    "max_body_size": ("app", "upload"),
    "cache": ("app",),
    "immutable": ("static",),
}


def _check_locations(locations: t.Any, check: t.Callable[..., bool], problems: list[str]) -> None:
    seen: set[tuple[bool, str]] = set()
    for index, location in enumerate(_list(locations)):
        if not isinstance(location, t.Mapping):
            continue
        where = f"locations[{index}]"
        kind = location.get("kind")
        path = str(location.get("path") or "/")
        check(f"{where}.path", location.get("path"), URL_PATH, "a path that begins with /")
        place = (kind == "health" or location.get("exact") is True, path)
        if location.get("path") is not None and place in seen:
            problems.append(f"{where}.path: found {_show(path)} a second time, expected each path once")
        seen.add(place)
        for key, kinds in _LOCATION_KEYS.items():
            if kind not in kinds and location.get(key) not in (None, False):
                problems.append(f"{where}.{key}: goes with kind {' and '.join(kinds)} only")
        if kind == "static" and location.get("root") is None:
            problems.append(f"{where}.root: missing, expected a directory relative to the source")
        if (kind == "static" or (kind == "internal" and location.get("root") is not None)) and not path.endswith("/"):
            problems.append(f"{where}.path: found {_show(path)}, expected a / at the end for kind {kind}")
        root = location.get("root")
        if kind == "internal" and isinstance(root, str) and root.startswith("/"):
            check(f"{where}.root", root, ABSOLUTE_PATH, "an absolute directory without . and .. in it")
        else:
            check(f"{where}.root", root, RELATIVE_PATH, "a directory relative to the source, and inside of it")
        for key in ("timeout", "max_body_size", "cache"):
            _check_least(location, key, 1, problems, f"{where}.{key}")
        for key in ("timeout", "cache"):
            if _is_whole(location.get(key), 86401):
                problems.append(f"{where}.{key}: found {location[key]}, expected seconds, a day (86400) at most")


def _check_headers(headers: t.Any, problems: list[str]) -> None:
    names: dict[str, str] = {}
    for name, value in _items(headers):
        if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
            problems.append(f"security_headers: found the name {_show(name)}, expected letters, digits and -")
            continue
        if name.lower() in RESERVED_HEADERS:
            problems.append(f"security_headers.{name}: this header is set by the server itself")
        if name.lower() in names:
            problems.append(f"security_headers.{name}: found a second time, expected it once, whatever the case")
        names[name.lower()] = name
        if value is None:
            continue
        if isinstance(value, (t.Mapping, list, tuple, bool)) or not HEADER_VALUE.fullmatch(str(value)):
            problems.append(
                f"security_headers.{name}: found {_show(value)}, expected null or one line of ASCII without $ and \\"
            )


def _check_http3(app: t.Mapping[str, t.Any], problems: list[str]) -> None:
    given = app.get("http3")
    if given is not None and str(given).lower() not in ("auto", "true", "false"):
        problems.append(f"http3: found {_show(given)}, expected auto, true or false")
    tls = app.get("tls")
    if str(given).lower() == "true" and isinstance(tls, t.Mapping) and tls.get("mode") == "none":
        problems.append("http3: found true with tls.mode none, expected TLS with it")


def _check_cdn(app: t.Mapping[str, t.Any], check: t.Callable[..., bool], problems: list[str]) -> None:
    cdn = app.get("cdn")
    if isinstance(cdn, t.Mapping):
        _check_proxy(cdn, check, problems)
    elif cdn is not None and cdn not in CDNS:
        problems.append(f"cdn: found {_show(cdn)}, expected one of {', '.join(CDNS)}, or a mapping with ranges")
    if cdn is None:
        for key in ("cdn_only", "cdn_client_ca"):
            if str(app.get(key)).lower() not in ("none", "false", "no", "off", "0"):
                problems.append(f"{key}: goes with cdn only")
    check("cdn_client_ca", app.get("cdn_client_ca"), FILE_PATH, "a file's path, of letters, digits and ._@+-")
    tls = app.get("tls")
    if app.get("cdn_client_ca") is not None and isinstance(tls, t.Mapping) and tls.get("mode") == "none":
        problems.append("cdn_client_ca: needs TLS, expected another tls.mode than none")


def _check_proxy(cdn: t.Mapping[str, t.Any], check: t.Callable[..., bool], problems: list[str]) -> None:
    """Append what is wrong about a proxy that the collection does not know by name."""
    for key in cdn:
        if key not in ("ranges", "header", "headers"):
            problems.append(f"cdn.{_plain(key)}: unknown key, expected one of header, headers, ranges")
    ranges = cdn.get("ranges")
    if not isinstance(ranges, (list, tuple)) or not ranges:
        problems.append("cdn.ranges: missing, expected a list of addresses such as 192.0.2.0/24")
    for index, entry in enumerate(_list(ranges)):
        where = f"cdn.ranges[{index}]"
        try:
            network = ipaddress.ip_network(entry if isinstance(entry, str) and RANGE.fullmatch(entry) else "")
        except ValueError:
            problems.append(f"{where}: found {_show(entry)}, expected an address or a range such as 192.0.2.0/24")
            continue
        if network.prefixlen < 7 + (network.version == 4):  # 10.0.0.0/8 and fc00::/7 are the widest private ones
            problems.append(f"{where}: found {_show(entry)}, expected fewer addresses, who say who a client is")
    expected = "a header's name, of letters, digits and -"
    if isinstance(cdn.get("header"), (t.Mapping, list, tuple, bool)):
        problems.append(f"cdn.header: found {_show(cdn['header'])}, expected {expected}")
    check("cdn.header", cdn.get("header"), HEADER, expected)
    if cdn.get("headers") is not None and not isinstance(cdn["headers"], (list, tuple)):
        problems.append(f"cdn.headers: found {_show(cdn['headers'])}, expected a list of headers' names")
    for index, name in enumerate(_list(cdn.get("headers"))):
        if not isinstance(name, str):
            problems.append(f"cdn.headers[{index}]: found {_show(name)}, expected {expected}")
        elif check(f"cdn.headers[{index}]", name, HEADER, expected) and name.lower() in _OWN_HEADERS:
            problems.append(f"cdn.headers[{index}]: found {_show(name)}, which the edge sets itself")


#: What the edge tells the application, or what says where a request ends.
_OWN_HEADERS = frozenset(
    [
        *("host", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-forwarded-for", "x-real-ip"),
        *("x-request-id", "traceparent", "tracestate", "forwarded", "proxy", "upgrade", "connection", "keep-alive"),
        *("content-length", "transfer-encoding", "te", "trailer"),
    ]
)


def _check_limits(limits: t.Any, problems: list[str]) -> None:
    if not isinstance(limits, t.Mapping):
        return
    for key, least, most in (
        ("rate", 0, 1000000),
        ("burst", 0, 1000000),
        ("connections", 0, 65535),
        ("headers", 1, 10000),
        ("header_size", 1024, 1048576),
        ("header_timeout", 1, 3600),
        ("body_timeout", 1, 3600),
        ("send_timeout", 1, 3600),
    ):
        given = limits.get(key)
        if given is not None and _is_whole(given, None) and not least <= int(given) <= most:
            problems.append(f"limits.{key}: found {given}, expected a whole number from {least} to {most}")


def _check_tls(app: t.Mapping[str, t.Any], problems: list[str]) -> None:
    tls = app.get("tls")
    if not isinstance(tls, t.Mapping):
        return
    mode = tls.get("mode") or "self_signed"
    on_host = _is_true(tls.get("on_host"))
    for key in ("certificate", "key"):
        path = tls.get(key)
        if mode == "provided" and path in (None, ""):
            problems.append(f"tls.{key}: missing, expected the path of a PEM file with tls.mode: provided")
        elif mode != "provided" and path is not None:
            problems.append(f"tls.{key}: goes with tls.mode: provided only, found {_show(mode)}")
        elif isinstance(path, str) and ("-----BEGIN" in path or not path.isprintable()):
            problems.append(f"tls.{key}: found text that is no path, expected the path of a PEM file")
        elif mode == "provided" and on_host and not str(path).startswith("/"):
            problems.append(f"tls.{key}: found {_show(path)}, expected an absolute path with tls.on_host")
    if on_host and mode != "provided":
        problems.append(f"tls.on_host: goes with tls.mode: provided only, found {_show(mode)}")
    if mode == "acme":
        for index, domain in enumerate(_list(app.get("domains"))):
            if str(domain).startswith("*.") or _is_address(str(domain)):
                problems.append(
                    f"domains[{index}]: found {_show(domain)} with tls.mode: acme, expected a plain host name: nothing "
                    "else can be proven over HTTP"
                )
    hsts = tls.get("hsts")
    if isinstance(hsts, t.Mapping):
        _check_hsts(hsts, mode, problems)


def _check_hsts(hsts: t.Mapping[str, t.Any], mode: str, problems: list[str]) -> None:
    age = hsts.get("max_age")
    _check_least(hsts, "max_age", 0, problems, "tls.hsts.max_age")
    if mode == "none" and age is not None:
        problems.append(
            "tls.hsts: goes with TLS only, found tls.mode 'none': let what ends TLS before it send the header"
        )
    for key in ("include_subdomains", "preload"):
        if age is None and _is_true(hsts.get(key)):
            problems.append(f"tls.hsts.max_age: missing, expected seconds with tls.hsts.{key}")
    if _is_true(hsts.get("preload")):
        if not _is_true(hsts.get("include_subdomains")):
            problems.append("tls.hsts.preload: expected tls.hsts.include_subdomains: true with it")
        if age is not None and _is_whole(age, 0) and int(age) < PRELOAD_AGE:
            problems.append(f"tls.hsts.max_age: found {age}, expected at least {PRELOAD_AGE} with tls.hsts.preload")


def _is_true(value: t.Any) -> bool:
    try:
        return value is not None and bool(_convert(value, "bool"))
    except ValueError:
        return False


def _is_address(domain: str) -> bool:
    try:
        ipaddress.ip_address(domain)
    except ValueError:
        return False
    return True


def _check_front(app: t.Mapping[str, t.Any], problems: list[str]) -> None:
    """Append what an application without Nginx cannot have."""
    server = app.get("server") or "gunicorn"
    if server != "hypercorn":
        problems.append(f"edge: found hypercorn with the server {_show(server)}, expected server: hypercorn with it")
    tls = app.get("tls")
    if isinstance(tls, t.Mapping) and tls.get("mode") == "none":
        problems.append("tls.mode: found 'none', expected TLS with edge: hypercorn (HTTP/2 and HTTP/3 need it)")
    for key in ("cdn", "limits"):
        if app.get(key):
            problems.append(f"{key}: needs Nginx, expected it not with edge: hypercorn")
    if isinstance(tls, t.Mapping) and tls.get("mode") == "acme":
        problems.append("tls.mode: found 'acme', which Nginx answers for, expected another one with edge: hypercorn")
    if isinstance(tls, t.Mapping) and isinstance(tls.get("hsts"), t.Mapping) and tls["hsts"].get("max_age") is not None:
        problems.append("tls.hsts: found with edge: hypercorn, expected the application itself to send the header")
    for index, location in enumerate(_list(app.get("locations"))):
        kind = location.get("kind") if isinstance(location, t.Mapping) else None
        if kind in ("static", "internal"):
            problems.append(f"locations[{index}].kind: found {kind!r}, which only Nginx serves, not edge: hypercorn")
    for key in ("security_headers", "maintenance", "unavailable_page"):
        if app.get(key):
            problems.append(f"{key}: goes with Nginx only, not with edge: hypercorn")


def _check_together(apps: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
    problems: list[str] = []
    names: dict[str, int] = {}
    domains: dict[str, str] = {}
    for app in apps:
        name = _plain(app.get("name"))
        names[name] = names.get(name, 0) + 1
        if app.get("state") == "absent" or not isinstance(app.get("domains"), (list, tuple)):
            continue
        for index, domain in enumerate(app["domains"]):
            other = domains.setdefault(str(domain), name)
            if domain in app["domains"][:index]:
                problems.append(f"asgi_apps ({name}): domains: found {_plain(domain)} a second time, expected it once")
            elif other != name:
                problems.append(
                    f"asgi_apps ({name}): domains: found {_plain(domain)}, which the application {other} has too"
                )
    present = [app for app in apps if app.get("state") != "absent"]
    names_present = [_plain(app.get("name")) for app in present]
    fronts = [_plain(app.get("name")) for app in present if app.get("edge") == "hypercorn"]
    if fronts and len(present) > 1:
        others = ", ".join(name for name in names_present if name != fronts[0]) or fronts[0]
        problems.append(
            f"asgi_apps ({fronts[0]}): edge: found hypercorn beside {others} on the same host, expected no other "
            "application: it has the ports of HTTP and HTTPS to itself"
        )
    for name, count in names.items():
        if count > 1 and name != "None":
            problems.append(f"asgi_apps ({name}): name: found {count} times, expected once")
    return problems


_REQUIRED = {
    "app": "an import string, module:attribute, such as shop.main:app",
    "source": "one of path, git and package",
}


def _expected(option: Spec) -> str:
    if option.get("choices"):
        return "one of " + ", ".join(str(choice) for choice in option["choices"])
    return {
        "str": "a string",
        "bool": "true or false",
        "int": "a whole number",
        "float": "a number",
        "list": "a list",
        "dict": "a mapping",
    }.get(option.get("type", "str"), "a value")


def _check_least(value: t.Mapping[str, t.Any], key: str, least: int, problems: list[str], path: str) -> None:
    given = value.get(key)
    if given is not None and _is_whole(given, None) and int(given) < least:
        problems.append(f"{path}: found {given}, expected a whole number from {least}")
    elif given is not None and _is_whole(given, MOST + 1):
        problems.append(f"{path}: found {given}, expected a whole number from {least} to {MOST}")


def _is_whole(value: t.Any, least: int | None) -> bool:
    try:
        number = _convert(value, "int")
    except ValueError:
        return False
    return least is None or number >= least


def _list(value: t.Any) -> t.Sequence[t.Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _keys(value: t.Any) -> list[str]:
    return [str(key) for key in value] if isinstance(value, t.Mapping) else []


def _items(value: t.Any) -> t.Iterable[tuple[str, t.Any]]:
    return value.items() if isinstance(value, t.Mapping) else ()


def _kind(value: t.Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, t.Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, bool):
        return "a boolean"
    return "a number" if isinstance(value, (int, float)) else "a string"


def _plain(value: t.Any) -> str:
    """Return a name as it is, or quoted where it would not be one line."""
    return str(value) if str(value).isprintable() else _show(str(value))


def _show(value: t.Any) -> str:
    if isinstance(value, (t.Mapping, list, tuple)):
        return _kind(value)
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "...'"
