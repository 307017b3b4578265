"""A server's name as an address: an A record carries one, and a DNS message is sent to one."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from schemas.failures import RouteUnavailable

LIMIT_S = 1.0
"""Limit of asking this worker's resolver: /etc/hosts, then its name servers."""


async def address_of(host: str) -> str:
    """`host` itself where it is an address, else the first IPv4 address of that name; RouteUnavailable without one."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        async with asyncio.timeout(LIMIT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, family=socket.AF_INET)
    except (OSError, TimeoutError) as error:
        why = getattr(error, "strerror", None) or f"no answer within {LIMIT_S:.0f} s"
        raise RouteUnavailable(f"the name {host} has no address here: {why}") from error
    return str(found[0][4][0])
