# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declarations of applications for fuzzing, made from the data model itself, so that a new key is tried at once.

Each begins as a right one and has some values replaced, anywhere: by what is plausible, or by what would become a
directive of its own if it were written to Nginx's configuration as it is. Used by tests/unit/test_edge_fuzz.py and
molecule/edge.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

Spec = Mapping[str, Any]
Path = tuple[Any, ...]

#: A word that is in no template: where it is a directive, a value got out of its own.
EVIL = "evil"
PLAUSIBLE = (
    *("/", "/a", "/a/", "/a/b.c-d_e~f/", "/static/", "static", "a/b", "shop.example.com", "*.example.com", "localhost"),
    *(
        "10r/s",
        "600r/m",
        "8k",
        "1m",
        "512M",
        "10s",
        "1h",
        "0",
        "1",
        "100",
        "on",
        "off",
        "none",
        "auto",
        "DENY",
        "nosniff",
    ),
    *(
        "192.0.2.0/24",
        "2001:db8::/32",
        "192.0.2.1",
        "X-Header",
        "max-age=60",
        "default-src 'self'",
        "camera=(), usb=()",
    ),
    *("cloudflare", "cloudfront", "fastly", "/etc/ssl/a.pem", "a@example.com", "https://ca.example.com/directory"),
)
NASTY = (
    *(f"a; {EVIL} on;", f"a;{EVIL};#", f'a"; {EVIL} on; "', f"a'; {EVIL} on; '", f"a}} {EVIL} {{", f"a\n{EVIL} on;"),
    *(f"/a; {EVIL} on;", f'/a" {{ }} {EVIL} "', f"/a\n{EVIL};", f"/a {{ {EVIL} on; }} #", "/a\\", f'/a\\";{EVIL};"'),
    *(f"${EVIL}", f"${{{EVIL}}}", f"/${EVIL}", f"a${EVIL}", "a\\", '"', "'", "\\\\", f"#{EVIL}", "a b", "a\tb", "a\rb"),
    *(f"{{{{ {EVIL} }}}}", f"{{% {EVIL} %}}", "{#", "\0", "\x7f", "\u2028", "\u00e9", "a" * 300, "/" + "a" * 5000),
    *("..", "/..", "/../", "/a/../b", "/a//b", "~ ^/a", "= /a", "@a", "/(", "/.*$", "/[", "/*", "/a?b=c", "/%0a", "/%"),
    *(
        "",
        " ",
        "-",
        "unix:/a",
        "*",
        "*.",
        "_",
        "~a",
        ".example.com",
        "a..b",
        "a:1",
        "::1",
        "[::1]",
        "0.0.0.0/0",
        "1/33",
    ),
)
NUMBERS = (0, 1, 2, 10, 60, 600, 65535, 65536, 10**6, 2**31, 2**32, 2**63 - 1, 2**63, 10**30, -1, 0.5, 1.5, "10", "a")
RIGHT: dict[str, Any] = {
    "name": "shop",
    "app": "shop.main:app",
    "source": {"path": "."},
    "domains": ["shop.example.com", "*.shop.example.com"],
    "tls": {"mode": "self_signed"},
    "root_path": "/shop",
    "locations": [
        {"path": "/static/", "kind": "static", "root": "static"},
        {"path": "/events", "kind": "sse"},
        {"path": "/ws", "kind": "websocket"},
    ],
    "max_body_size": 10485760,
    "request_timeout": 60,
}
#: Keys that decide what runs, not how it is reached.
NOT_THE_EDGE = frozenset(
    (
        "app",
        "factory",
        "source",
        "requirements",
        "server",
        "workers",
        "workload",
        "sizing",
        "environment",
        "secrets",
        "health",
    )
    + ("hooks", "keep_releases", "drain", "network", "sandbox", "gunicorn", "uvicorn", "hypercorn", "granian", "edge")
)


def texts() -> st.SearchStrategy[str]:
    """Return strings: plausible, nasty, and any."""
    plausible = st.sampled_from(PLAUSIBLE)
    return st.one_of(plausible, plausible, st.sampled_from(NASTY), st.text(max_size=20))


def values(option: Spec, depth: int = 0) -> st.SearchStrategy[Any]:
    """Return values for an option of an argument spec: most of them of its type."""
    kind = option.get("type", "str")
    if option.get("choices"):
        return st.one_of(st.sampled_from(list(option["choices"])), texts())
    if kind == "bool":
        return st.one_of(st.booleans(), st.sampled_from(("yes", "no", EVIL)))
    if kind in ("int", "float"):
        return st.sampled_from(NUMBERS)
    if kind == "dict":
        if option.get("options") and depth < 4:
            keys = {key: values(inner, depth + 1) for key, inner in option["options"].items()}
            needed = {key: keys[key] for key, inner in option["options"].items() if inner.get("required")}
            known = st.fixed_dictionaries(needed, optional={key: keys[key] for key in keys if key not in needed})
            unknown = st.dictionaries(texts(), texts(), min_size=1, max_size=1)
            return st.one_of(known, known, known, st.builds(lambda one, two: {**one, **two}, known, unknown))
        return st.dictionaries(texts(), texts(), max_size=3)
    if kind == "list":
        element = {"type": option.get("elements", "raw"), "options": option.get("options")}
        return st.lists(values(element, depth + 1), max_size=3)
    if kind == "raw":
        lists, mappings = st.lists(texts(), max_size=3), st.dictionaries(texts(), texts(), max_size=3)
        return st.one_of(texts(), st.sampled_from(NUMBERS), st.booleans(), lists, mappings)
    return texts()


def places(value: Any, option: Spec, path: Path = ()) -> Iterator[tuple[Path, Spec]]:
    """Yield each place in *value* where a value may stand, with what the model says of it."""
    if path:
        yield path, option
    if option.get("options") and option.get("type") != "list":
        for key, inner in option["options"].items():
            if path or key not in NOT_THE_EDGE:
                yield from places(value.get(key) if isinstance(value, Mapping) else None, inner, (*path, key))
    elif option.get("type") == "list":
        element = {"type": option.get("elements", "raw"), "options": option.get("options")}
        given = value if isinstance(value, list) else []
        for index in range(len(given) + 1):
            yield from places(given[index] if index < len(given) else None, element, (*path, index))


def put(value: Any, path: Path, new: Any) -> Any:
    """Return *value* with *new* at *path*, and what is missing on the way."""
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(key, int):
        items = list(value) if isinstance(value, list) else []
        items += [{}] * (key + 1 - len(items))
        items[key] = put(items[key], rest, new)
        return items
    return {**(value if isinstance(value, Mapping) else {}), key: put((value or {}).get(key), rest, new)}


@st.composite
def declarations(draw: st.DrawFn, spec: Spec, right: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return an entry of `asgi_apps` in which one to three values are replaced."""
    app: dict[str, Any] = copy.deepcopy(dict(right or RIGHT))
    for __ in range(draw(st.integers(1, 3))):
        found = list(places(app, {"type": "dict", "options": spec}))
        path, option = draw(st.sampled_from(found))
        app = put(app, path, draw(values(option)))
    return app
