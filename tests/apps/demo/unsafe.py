# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Endpoints that break or probe the application's own process. Only tests switch them on (DEMO_UNSAFE=1)."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query

router = APIRouter()


@router.get("/block")
async def block(seconds: Annotated[float, Query(ge=0, le=300)] = 1) -> dict[str, Any]:
    """Block the event loop of this worker."""
    time.sleep(seconds)
    return {"seconds": seconds}


@router.post("/exit")
async def leave() -> None:
    """End this worker at once, without an answer."""
    os._exit(1)


@router.get("/env")
async def env(name: str) -> dict[str, str | None]:
    """Prove that a variable arrived without showing it."""
    value = os.environ.get(name)
    return {"name": name, "sha256": None if value is None else hashlib.sha256(value.encode()).hexdigest()}


def failure(error: OSError) -> dict[str, Any]:
    return {"ok": False, "errno": errno.errorcode.get(error.errno or 0, str(error.errno))}


@router.get("/probe/write")
async def probe_write(path: str) -> dict[str, Any]:
    """Try to open a file for writing, or to create one in a directory. Nothing is changed, nothing stays."""
    target = Path(path)
    try:
        if target.is_dir():
            target = target / f".probe-{os.getpid()}"
        existed = target.exists()
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        if not existed:
            target.unlink()
    except OSError as error:
        return failure(error)
    return {"ok": True, "errno": None}


@router.get("/probe/read")
async def probe_read(path: str) -> dict[str, Any]:
    """Try to read the first byte of a file, or to list a directory. What was read is not shown."""
    try:
        if Path(path).is_dir():
            os.listdir(path)
        else:
            with open(path, "rb") as file:
                file.read(1)
    except OSError as error:
        return failure(error)
    return {"ok": True, "errno": None}


@router.get("/probe/processes")
async def probe_processes() -> dict[str, int]:
    """Count the processes that can be seen in /proc: those of this user, and those of others."""
    own = other = 0
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                uid = os.stat(f"/proc/{entry}").st_uid
            except OSError:
                continue
            own, other = (own + 1, other) if uid == os.getuid() else (own, other + 1)
    return {"own": own, "other": other}
