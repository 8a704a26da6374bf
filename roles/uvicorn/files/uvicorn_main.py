# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Uvicorn's command line, with a supervisor that sees at once that a worker has ended.

It asks each worker over a pipe whether it lives, and keeps the worker's end of the pipe open itself. So a worker that
ends between the question and the answer leaves it waiting for the whole `timeout_worker_healthcheck`, deaf to all else.
"""

from __future__ import annotations

import os
import sys

from asgi_stack_worker import make_patient
from uvicorn.main import main
from uvicorn.server import Server
from uvicorn.supervisors.multiprocess import Process


def start(self: Process) -> None:
    """Start a worker, which then is the only one that holds its end of the pipe."""
    self.process.start()
    self.child_conn.close()


Process.start = start
make_patient(Server)

if __name__ == "__main__":
    # Where the application is, as with `python -m uvicorn`.
    sys.path.insert(0, os.getcwd())
    main()
