# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Speak to an application's socket from within the host, in bytes as they are. Standard library only.

It reads a JSON object from standard input and prints one:

  {"unix": path, "pieces": [[seconds, base64], …], "hold": seconds, "keep": bytes}
      sends each piece after its pause, reads nothing for `hold` seconds, then reads until the other side closes.
      {"answer": base64 of the first `keep` bytes, "bytes": of all, "ended": whether the other side closed}
  {"unix": path, "get": path, "host": name, "count": number, "fresh": whether each is on a connection of its own}
      sends so many GETs, whose answer is JSON with a pid; {pid: so many were answered with 200}
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import sys
import threading
import time
from typing import Any

SECONDS = 30


def connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(SECONDS)
    connection.connect(path)
    return connection


def exchange(asked: Any) -> dict[str, Any]:
    with connect(asked["unix"]) as connection:

        def send() -> None:
            for pause, piece in asked["pieces"]:
                time.sleep(pause)
                connection.sendall(base64.b64decode(piece))

        # Beside the reading: a server may answer before it has all, and neither side must wait for the other.
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        time.sleep(asked["hold"])
        kept, size, ended = bytearray(), 0, False
        try:
            while data := connection.recv(1 << 16):
                size += len(data)
                kept += data[: asked["keep"] - len(kept)]
            ended = True
        except (TimeoutError, ConnectionResetError):
            pass
    return {"answer": base64.b64encode(kept).decode(), "bytes": size, "ended": ended}


def many(asked: Any) -> dict[int, int]:
    right: dict[int, int] = {}
    connection = None
    for __ in range(asked["count"]):
        if connection is None:
            connection = http.client.HTTPConnection(asked["host"])
            connection.sock = connect(asked["unix"])
        connection.request("GET", asked["get"], headers={"Host": asked["host"]})
        response = connection.getresponse()
        pid = json.loads(response.read())["pid"]
        right[pid] = right.get(pid, 0) + (response.status == 200)
        if asked["fresh"]:
            connection.close()
            connection = None
    return right


if __name__ == "__main__":
    question = json.load(sys.stdin)
    print(json.dumps(many(question) if "get" in question else exchange(question)))
