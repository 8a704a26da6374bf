# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open a page in a headless Chromium, wait until it says that it is done, and print what it says, as JSON.

Chromium is told what to do through a pipe, with messages of its DevTools protocol, each ended by a NUL.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


class Browser:
    """A running Chromium with one page."""

    def __init__(self, options: list[str], seconds: float) -> None:
        self.until = time.monotonic() + seconds
        self.count = 0
        self.unread = b""
        theirs, self.to = os.pipe()
        self.of, ours = os.pipe()
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += [
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
            "--remote-debugging-pipe",
        ]
        # It reads from 3 and writes to 4.
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" 3<&{theirs} 4>&{ours}', "sh", *command, *options],
            pass_fds=(theirs, ours),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        os.close(theirs)
        os.close(ours)
        self.session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result; events that come meanwhile are passed over."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            found = self.message()
            if found.get("id") == self.count:
                if "error" in found:
                    raise SystemExit(f"{method}: {found['error']}")
                return found["result"]

    def message(self) -> dict[str, Any]:
        while b"\0" not in self.unread:
            left = self.until - time.monotonic()
            if left <= 0 or not select.select([self.of], [], [], left)[0]:
                self.fail("no answer in time")
            part = os.read(self.of, 1 << 16)
            if not part:
                self.fail("it ended")
            self.unread += part
        text, self.unread = self.unread.split(b"\0", 1)
        found: dict[str, Any] = json.loads(text)
        return found

    def fail(self, reason: str) -> None:
        self.process.kill()
        lines = self.process.communicate()[1].decode(errors="replace").splitlines()
        raise SystemExit("\n".join([f"chromium: {reason}", *[line for line in lines if "dbus" not in line][-30:]]))

    def evaluate(self, expression: str) -> Any:
        """Return an expression's value on the page, None where it has none yet."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--trust", required=True, help="SHA-256 of the key of a certificate to trust, in base64")
    parser.add_argument("--http3", metavar="HOST:PORT", help="speak HTTP/3 with it, without being told to")
    parser.add_argument("--done", default="document.readyState === 'complete'", help="what becomes true")
    parser.add_argument("--result", default="document.body.innerText", help="the expression to print")
    parser.add_argument("--screenshot", type=Path)
    parser.add_argument("--size", default="900,700")
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        options = [f"--user-data-dir={directory}", f"--ignore-certificate-errors-spki-list={given.trust}"]
        options += [f"--window-size={given.size}"]
        if given.http3:
            options += ["--enable-quic", f"--origin-to-force-quic-on={given.http3}"]
        else:
            options += ["--disable-quic"]
        browser = Browser(options, given.seconds)
        went = browser.call("Page.navigate", url=given.url)
        if went.get("errorText"):
            browser.fail(f"{given.url}: {went['errorText']}")
        while not browser.evaluate(given.done):
            if time.monotonic() > browser.until:
                browser.fail(f"not done: {browser.evaluate('document.body.innerText')}")
            time.sleep(0.1)
        print(json.dumps(browser.evaluate(given.result)))
        if given.screenshot:
            given.screenshot.write_bytes(base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"]))
        browser.process.terminate()
        browser.process.wait(10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
