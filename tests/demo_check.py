# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show what `./dev demo` deployed, and that it answers: demo_check.py CONTAINER HTTP_PORT HTTPS_PORT."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request


def main(container: str, http: str, https: str) -> None:
    """Print the live release, then each URL with the status of its answer; a bad one ends with an error."""
    described = subprocess.run(
        ["docker", "exec", container, "cat", "/srv/asgi/demo/live/release.json"],
        stdout=subprocess.PIPE,
        check=True,
    )
    release = json.loads(described.stdout)
    sys.stdout.write("\nDeployed to the container " + container + ":\n")
    for key in ("name", "app", "revision", "server", "workers_reason", "id"):
        sys.stdout.write(f"  {key.replace('_reason', ''):10}{release[key]}\n")

    # The certificate is self-signed: nobody vouches for it.
    context = ssl._create_unverified_context()
    sys.stdout.write("\nThese answer (the certificate is self-signed, a browser will say so):\n")
    for url, what in (
        (f"https://localhost:{https}/", "a page to click through"),
        (f"https://localhost:{https}/healthz", "the health path"),
        (f"https://localhost:{https}/api/info", "what the application knows of the request"),
        (f"https://localhost:{https}/events?count=2", "a stream of events"),
        (f"https://localhost:{https}/static/app.css", "a static file, served by Nginx"),
        (f"http://localhost:{http}/", "redirects to HTTPS"),
    ):
        try:
            with urllib.request.urlopen(url, timeout=20, context=context) as answer:
                answer.read()
                status = answer.status
        except (urllib.error.URLError, OSError) as error:
            sys.exit(f"{url} does not answer: {error}")
        sys.stdout.write(f"  {status}  {url:42} {what}\n")
    sys.stdout.write(f"\nInside: docker exec -it {container} bash      Remove it: ./dev demo down\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
