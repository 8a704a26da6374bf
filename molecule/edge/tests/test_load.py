# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reloads and slow clients under load: what others ask meanwhile is answered."""

from __future__ import annotations

import driver
import examine
import pytest
from load import Modern, attack, raced, reload, reload_under_http3, workers


def test_reloads_lose_no_request_that_nginx_took(machine: driver.Host, tools: examine.Tools) -> None:
    """An idle connection that Nginx closes at the moment in which a client sends something is the client's to see."""
    log = driver.Log(machine)
    first = driver.Load(machine, examine.DOMAIN)
    second = Modern(tools, "h2_kept,h2_slow,h2_new")
    try:
        reload(machine, times=4, apart=1.5)
    finally:
        summaries = [first.end(), second.end()]
    races = [raced(summary) for summary in summaries]
    for version, summary, race in zip(("HTTP/1.1", "HTTP/2"), summaries, races, strict=True):
        print(f"{version}: {summary['requests']} requests, {race} met a connection that was being closed", end="; ")
    streams = summaries[0]["streams"]
    assert not any(tally["lost"] for tally in streams.values()), [tally["details"] for tally in streams.values()]
    answered = sum(summary["requests"] for summary in summaries) - sum(races)
    driver.wait_for("all that is answered is logged", lambda: log.count() >= answered, 10)
    assert log.count() == answered


def test_http3_listens_once_for_each_worker(machine: driver.Host) -> None:
    """Without `reuseport` on its sockets, a third of the new connections are lost while Nginx reloads."""
    sockets = machine.sh("ss -Hlnu 'sport = :443' | wc -l")
    families = machine.sh("ss -Hlnu 'sport = :443' | awk '{print $4}' | sort -u | wc -l")
    print(f"{sockets} sockets at {families} addresses, {len(workers(machine))} workers")
    assert (int(sockets) > 0) == examine.http3(machine)
    assert int(sockets) >= int(families) * int(
        machine.sh("nginx -T 2>/dev/null | awk '$1 == \"worker_processes\" {print $2+0}'")
    )


def test_http3_is_there_during_and_after_reloads(machine: driver.Host, tools: examine.Tools) -> None:
    if not examine.http3(machine):
        return
    # Most come through: what does not, browsers ask again with HTTP/2.
    reload_under_http3(machine, tools, times=4, apart=1, most=1 / 2, seconds=60)


@pytest.mark.parametrize("way", ["-H", "-B", "-X"], ids=["headers", "bodies", "reads"])
def test_slow_clients_keep_nobody_else_waiting(machine: driver.Host, tools: examine.Tools, way: str) -> None:
    attack(machine, tools, way, connections=1000, seconds=8)
