# Copyright: (c) 2026, the asgi.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Address ranges of content delivery networks: what each publishes, read and checked before anybody believes it.

Whoever is in such a list may say who the client is. A list that is too wide, or that was tampered with on its way, lets
others say it too, and one that lost entries makes visitors look like the network's own servers.
"""

from __future__ import annotations

import ipaddress
import json
import re
import typing as t

Network = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

#: Where each network publishes its ranges.
SOURCES: dict[str, tuple[str, ...]] = {
    "cloudflare": ("https://www.cloudflare.com/ips-v4", "https://www.cloudflare.com/ips-v6"),
    "cloudfront": ("https://ip-ranges.amazonaws.com/ip-ranges.json",),
    "fastly": ("https://api.fastly.com/public-ip-list",),
}

#: The most addresses that one entry may stand for, as the least length of its prefix.
WIDEST = {4: 8, 6: 16}

#: The most of a list that may be new or gone before somebody must have looked at it.
MOST_CHANGED = 0.3


class Doubtful(ValueError):
    """A list that must not be used as it is."""


def parse(network: str, texts: t.Sequence[str]) -> tuple[list[str], str | None]:
    """Return the ranges in what a network publishes, sorted, and the day that it says it is of, if it says so.

    :param network: a key of :data:`SOURCES`.
    :param texts: what was read from each of its addresses, in their order.
    :raises Doubtful: it has another form, or :func:`check` refuses it.
    """
    day = None
    try:
        if network == "cloudflare":
            found = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
        elif network == "fastly":
            document = json.loads(texts[0])
            found = [*document["addresses"], *document["ipv6_addresses"]]
        else:
            document = json.loads(texts[0])
            day = "-".join(str(document["createDate"]).split("-")[:3])
            found = [
                entry[key]
                for kind, key in (("prefixes", "ip_prefix"), ("ipv6_prefixes", "ipv6_prefix"))
                for entry in document[kind]
                if entry["service"] == "CLOUDFRONT_ORIGIN_FACING"
            ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Doubtful(f"{network}: found another form than the one that is known ({error!r})") from error
    if day is not None and not re.fullmatch(r"\d{4}-\d\d-\d\d", day):
        raise Doubtful(f"{network}: found the day {day!r}, expected year-month-day")
    return check(network, found), day


def check(network: str, ranges: t.Any) -> list[str]:
    """Return published *ranges* sorted, without those that others contain.

    :raises Doubtful: one of them is no range, is not of the public Internet or is very wide, or one of IPv4 and IPv6 is
        missing.
    """
    if not isinstance(ranges, list):
        raise Doubtful(f"{network}: found no list of ranges")
    networks: list[Network] = []
    for entry in ranges:
        try:
            one = ipaddress.ip_network(entry)
        except (ValueError, TypeError) as error:
            raise Doubtful(f"{network}: found {entry!r}, expected a range such as 192.0.2.0/24 ({error})") from error
        if one.prefixlen < WIDEST[one.version]:
            raise Doubtful(f"{network}: found {entry}, expected a range of /{WIDEST[one.version]} or narrower")
        if not one.is_global or one.is_multicast:
            raise Doubtful(f"{network}: found {entry}, expected a range of the public Internet")
        networks.append(one)
    v4 = [one for one in networks if isinstance(one, ipaddress.IPv4Network)]
    v6 = [one for one in networks if isinstance(one, ipaddress.IPv6Network)]
    for version, of_it in (("IPv4", v4), ("IPv6", v6)):
        if not of_it:
            raise Doubtful(f"{network}: found no range of {version}")
    return [str(one) for one in (*_alone(v4), *_alone(v6))]


N = t.TypeVar("N", ipaddress.IPv4Network, ipaddress.IPv6Network)


def _alone(networks: t.Sequence[N]) -> list[N]:
    """Return *networks* sorted and each once, without those that lie in another of them. None are joined."""
    kept: list[N] = []
    for one in sorted(networks, key=lambda network: (int(network.network_address), network.prefixlen)):
        if not kept or not one.subnet_of(kept[-1]):
            kept.append(one)
    return kept


def compare(network: str, before: t.Sequence[str], after: t.Sequence[str]) -> None:
    """Raise Doubtful if more than :data:`MOST_CHANGED` of *before* is gone, or as much is new."""
    if not before:
        return
    gone, new = set(before) - set(after), set(after) - set(before)
    if max(len(gone), len(new)) > MOST_CHANGED * len(before):
        raise Doubtful(
            f"{network}: of {len(before)} ranges {len(gone)} are gone and {len(new)} are new, "
            f"expected at most {MOST_CHANGED:.0%} of either. Look at the list, and use force if it is right"
        )


def document(network: str, ranges: t.Sequence[str], day: str) -> str:
    """Return the text of a list's file."""
    content = {"source": list(SOURCES[network]), "date": day, "ranges": list(ranges)}
    return json.dumps(content, indent=2) + "\n"
