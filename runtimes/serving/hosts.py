"""By which names a server may be asked for.

A web page may name a host of its own and then say that it is at 127.0.0.1: the browser then lets it read what a server
answers there (DNS rebinding). It tells the name all the same, in the Host header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
ANY = "*"
_HOST = re.compile(r"(?:\[(?P<address>[0-9a-fA-F:.]+)\]|(?P<name>[^\[\]:/@\s]+))(?::[0-9]*)?")


def is_local(host: str) -> bool:
    """Whether an address is reached from its own machine alone."""
    try:
        return host in LOCAL or ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_of(address: str, allowed: Iterable[str] = ()) -> frozenset[str]:
    """The names by which a server at an address may be asked for; none where any will do.

    At an address of this machine alone those are its own, and `allowed` ones; elsewhere `allowed` ones.
    """
    named = {name if name == ANY else host_named(name) or name.lower() for name in allowed}
    if ANY in named:
        return frozenset()
    return frozenset({*LOCAL, address.lower(), *named} if is_local(address) else named)


def host_named(header: str) -> str:
    """The host in a Host header, without its port; "" where the header is none."""
    found = _HOST.fullmatch(header)
    return (found["address"] or found["name"]).lower() if found else ""
