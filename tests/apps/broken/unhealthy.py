# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts, and answers everything, its health path included, with 503."""

from __future__ import annotations

from typing import Any

from answer import answer


async def app(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, receive, send, status=503)
