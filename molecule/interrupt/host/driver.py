# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one of the collection's modules on this host, and die in the middle of it.

The module's own code runs, unchanged, with arguments taken from a real play. An audit hook sees each of its effects
before it happens: a file opened for writing, a rename, a directory made or removed, a command started. An effect is
named after the functions that led to it, so that no list of steps has to be kept beside the code:
``deploy/_switch/point os.rename live``. At the chosen one the process ends with SIGKILL: no cleanup, no exit handler.

    driver.py MODULE <PLAN     where PLAN is JSON: {"args": {…}} and one of
        "record": true         return the effects, in order
        "kill": EFFECT         die there; with "delay": SECONDS, so long after the effect began
        "pause": EFFECT        stop with SIGSTOP there
        "full": EFFECT         have the disk be full there
        "occurrence": NUMBER   which of the effects of that name; by default the first

Prints one line of JSON: {"result": {…}} or {"failed": "message"}, with "effects" and "reached".
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
import threading
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

#: Files that say that what is beside them is complete.
MARKERS = ("build.json", "release.json")
HERE = Path(__file__).resolve().parent
OURS = "/ansible_collections/asgi/stack/plugins/"
EVENTS = {
    "open",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "subprocess.Popen",
    "time.sleep",
}
#: Commands that change nothing: a kill before one is a kill after the effect before it.
READING = ("show", "list-units", "is-active", "status", "journalctl", "-t", "x509", "pkey")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def markers_last() -> None:
    """Have directories list their markers last: one of the orders in which a file system may do it."""
    scandir = os.scandir

    class Listing:
        def __init__(self, *arguments: Any) -> None:
            with scandir(*arguments) as entries:
                self.entries = iter(sorted(entries, key=lambda entry: (entry.name in MARKERS, entry.name)))

        def __iter__(self) -> Iterator[Any]:
            return self.entries

        def __next__(self) -> Any:
            return next(self.entries)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_error: object) -> None:
            self.close()

        def close(self) -> None:
            pass

    setattr(os, "scandir", Listing)  # noqa: B010


class Done(BaseException):
    """The module has ended; BaseException, because no handler of the module's may take it for a failure."""


def filled(given: dict[str, Any], specification: dict[str, Any]) -> dict[str, Any]:
    """Return arguments with the defaults of those that are not given, in lists of mappings too."""
    found = {key: option.get("default") for key, option in specification.items()} | given
    for key, option in specification.items():
        if option.get("options") and option.get("elements") == "dict":
            found[key] = [filled(one, option["options"]) for one in found[key] or []]
    return found


class AnsibleModule:
    """The little of the real one that the modules use. The arguments have been checked by the play they come from."""

    given: ClassVar[dict[str, Any]] = {}
    check_mode = False

    def __init__(self, argument_spec: dict[str, Any], **_more: Any) -> None:
        self.params = filled(self.given, argument_spec)

    def warn(self, text: str) -> None:
        pass

    def exit_json(self, **result: Any) -> None:
        raise Done(json.dumps({"result": result}))

    def fail_json(self, **result: Any) -> None:
        raise Done(json.dumps({"failed": result["msg"]}))


def known(path: Any) -> str:
    """Return the name of a file without what differs from run to run."""
    name = os.path.basename(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else "?"
    name = re.sub(r"\d{4,}-[0-9a-f]+", "RELEASE", name)
    name = re.sub(r"(asgi-test|asgi-nginx-test|stage|config)-\w+(-\d+)?", r"\1-*", name)
    name = re.sub(r"\b[0-9a-f]{16}\b", "*", name)
    return re.sub(r"^(\..+)\.(\w{8}|\d+)$|^(\.new)-\w+$", r"\1\3.*", name)


def subject(event: str, arguments: tuple[Any, ...]) -> str | None:
    """Return what the effect is about; None where it is no effect."""
    if event == "open":
        path, _mode, flags = arguments
        if not isinstance(path, (str, bytes)) or path == "/dev/null" or not (flags or 0) & WRITING:
            return None
        return known(path)
    if event == "os.chmod":  # always between two others of the same file
        return None
    # What is not there is not removed, and what is there is not made.
    if event in ("os.remove", "os.mkdir") and os.path.isabs(os.fspath(arguments[0])):
        there = os.path.lexists(arguments[0])
        if there != (event == "os.remove"):
            return None
    if event == "subprocess.Popen":
        words = [os.fsdecode(word) for word in arguments[1]]
        if any(word in READING for word in words[:6]):
            return None
        named = [word for word in words[1:5] if words[0] != "/bin/sh" and re.fullmatch("[a-z-]+", word)]
        return " ".join([os.path.basename(words[0]), *named])
    if event == "time.sleep":
        return "wait"
    return known(arguments[1] if event in ("os.rename", "os.symlink", "os.link") else arguments[0])


class Watch:
    """The audit hook."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.effects: list[str] = []
        self.seen: Counter[str] = Counter()
        self.busy = False
        self.reached = False
        self.active = False
        self.thread = threading.get_ident()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active or event not in EVENTS or self.busy or threading.get_ident() != self.thread:
            return
        self.busy = True
        try:
            about = subject(event, arguments)
            if about is not None:
                self.note(event, about)
        finally:
            self.busy = False

    def note(self, event: str, about: str) -> None:
        frame: types.FrameType | None = sys._getframe(2)
        functions: list[str] = []
        while frame is not None:
            if OURS in frame.f_code.co_filename and "<" not in frame.f_code.co_name:
                functions.append(frame.f_code.co_name)
            frame = frame.f_back
        if not functions:
            return
        effect = " ".join(["/".join(functions[::-1][1:]) or functions[0], event.rpartition(".")[2], about])
        self.seen[effect] += 1
        if self.plan.get("record"):
            self.effects.append(effect)
        if self.seen[effect] != self.plan.get("occurrence", 1):
            return
        if effect == self.plan.get("kill"):
            self.reached = True
            if self.plan.get("delay"):
                timer = threading.Timer(self.plan["delay"], os.kill, (os.getpid(), signal.SIGKILL))
                timer.daemon = True
                timer.start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        elif effect == self.plan.get("pause"):
            self.reached = True
            os.kill(os.getpid(), signal.SIGSTOP)
        elif effect == self.plan.get("full"):
            self.reached = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), effect.rpartition(" ")[2])


def main() -> None:
    name, plan = sys.argv[1], json.load(sys.stdin)
    basic = types.ModuleType("ansible.module_utils.basic")
    vars(basic)["AnsibleModule"] = AnsibleModule
    for package in ("ansible", "ansible.module_utils"):
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = []
    sys.modules["ansible.module_utils.basic"] = basic
    sys.path.insert(0, str(HERE))
    sys.dont_write_bytecode = True
    module = __import__(f"ansible_collections.asgi.stack.plugins.modules.{name}", fromlist=["main"])
    AnsibleModule.given = plan["args"]
    markers_last()
    watch = Watch(plan)
    said: dict[str, Any] = {}
    sys.addaudithook(watch)
    try:
        watch.active = True
        module.main()
    except Done as done:
        watch.active = False
        said = json.loads(str(done))
    print(json.dumps({**said, "effects": watch.effects, "reached": watch.reached}))


if __name__ == "__main__":
    main()
