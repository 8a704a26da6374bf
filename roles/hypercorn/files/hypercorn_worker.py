# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker of Gunicorn that is a whole Hypercorn, with the settings of hypercorn.toml beside this file.

Gunicorn's supervisor replaces a worker that died or hangs, and waits for those that finish their requests.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker
from hypercorn.asyncio import serve
from hypercorn.config import Config


class HypercornWorker(Worker):
    """Serves the sockets that Gunicorn holds until it is told to stop.

    With *front* set, it stands at the front of the network too: see hypercorn_front.py.
    """

    front: Any = None

    def init_signals(self) -> None:
        """Leave signals to the event loop."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def run(self) -> None:
        """Serve; end with a status of Gunicorn's that says so if the application does not start."""
        config = self._config()
        loop = _new_loop(config.worker_class)
        self.listening: list[asyncio.AbstractServer] = []
        create_server = loop.create_server

        async def remembered(*arguments: Any, **more: Any) -> Any:
            self.listening.append(await create_server(*arguments, **more))
            return self.listening[-1]

        loop.create_server = remembered
        asyncio.set_event_loop(loop)
        loop.run_until_complete(self._serve(loop, config))

    async def _serve(self, loop: asyncio.AbstractEventLoop, config: Config) -> None:
        stop = asyncio.Event()
        leaving: list[asyncio.Task[None]] = []

        def leave() -> None:
            if not leaving:
                leaving.append(loop.create_task(self._leave(stop, config.graceful_timeout)))

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, leave)
        loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        beating = loop.create_task(self._beat())
        try:
            ended = stop.wait
            if self.front is not None:
                from hypercorn_front import Front

                ended = partial(Front(self.wsgi, config, self.front).run, stop)
            await serve(self.wsgi, config, shutdown_trigger=ended, mode="asgi")
        except Exception as error:
            if self.wsgi.started:
                raise
            self.log.error("%s: %s", type(error).__name__, error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        finally:
            beating.cancel()

    def _config(self) -> Config:
        config = Config.from_toml(Path(__file__).with_name("hypercorn.toml"))
        config.bind = [f"fd://{os.dup(listener.fileno())}" for listener in self.sockets]
        return config

    async def _leave(self, stop: asyncio.Event, graceful_timeout: float) -> None:
        """Take leave of WebSockets, which Hypercorn would drop; end what is still open after *graceful_timeout*."""
        await self.wsgi.leave()
        # Hypercorn closes idle connections before it stops to listen. One that it has accepted just before has its
        # request waiting in the kernel, unread, and seems to be idle: that is to be answered.
        for server in self.listening:
            server.close()
        await asyncio.sleep(0.5)
        stop.set()
        # From Python 3.12 on Hypercorn would wait for it without an end, and the application's shutdown with it.
        await asyncio.sleep(graceful_timeout)
        self.wsgi.cut()

    async def _beat(self) -> None:
        while True:
            self.notify()
            await asyncio.sleep(1)


def _new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Return the event loop that ``worker_class`` names; ``auto`` is uvloop's where it is installed.

    :raises ImportError: uvloop was asked for, and is not installed.
    """
    if kind == "asyncio":
        return asyncio.new_event_loop()
    try:
        import uvloop
    except ImportError:
        if kind == "uvloop":
            raise
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
