# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where servers differ by nature. A test reads it by name, and asserts what is written here, not nothing."""

from __future__ import annotations

#: What is otherwise than with the rest: {difference: {variant: why}}.
DIFFERENCES: dict[str, dict[str, str]] = {
    # Messages of a WebSocket are not compressed, whatever the client offers.
    "no permessage-deflate": {
        "gunicorn-asgi": "Gunicorn's own WebSocket implementation knows no extensions",
        "granian": "its WebSocket library, tungstenite, has no permessage-deflate",
    },
    # What an application adds to the headers when it accepts a WebSocket reaches nobody.
    "no headers of websocket.accept": {
        "granian": "it answers the handshake itself, with the subprotocol alone",
    },
    # Of a WebSocket that the client has closed, the application sees 1006 instead of the client's code.
    "no close code of the client": {
        "hypercorn": "it tells its own state, and not what the client sent",
    },
}


def differs(difference: str, variant: str) -> bool:
    """Return whether a variant is otherwise than the rest; the difference must be in the table."""
    return variant in DIFFERENCES[difference]
