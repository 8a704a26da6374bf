# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Views, all of them async."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import render

from entries.models import Entry

RELEASE = os.environ.get("ASGI_RELEASE", "dev")


async def index(request: HttpRequest) -> HttpResponse:
    return render(request, "entries/index.html")


async def info(request: HttpRequest) -> HttpResponse:
    return JsonResponse(
        {
            "framework": "django",
            "release": RELEASE,
            "scheme": request.scheme,
            "host": request.get_host(),
            "client": request.META["REMOTE_ADDR"],
        }
    )


async def events(request: HttpRequest) -> HttpResponseBase:
    async def stream() -> AsyncIterator[str]:
        for number in range(1, int(request.GET.get("count", "5")) + 1):
            yield f"data: {json.dumps({'n': number})}\n\n"
            await asyncio.sleep(float(request.GET.get("interval", "0.2")))

    return StreamingHttpResponse(stream(), content_type="text/event-stream")


async def entries(request: HttpRequest) -> HttpResponse:
    """Add an entry (POST, the body is the text), and list them."""
    if request.method == "POST":
        await Entry.objects.acreate(text=request.body.decode())
    texts = [entry.text async for entry in Entry.objects.order_by("id")]
    return JsonResponse({"entries": texts}, status=201 if request.method == "POST" else 200)
