"""Names in an authoritative zone: what one can do with them, and the question to one server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype

from activities.addresses import address_of
from schemas.failures import RouteUnavailable

LIMIT_S = 1.0
"""Limit of one exchange with a server, which is in another region at most."""
AGAIN_S = 0.4
"""A question that was not answered by then is sent once more: one datagram may be lost."""


class Record(NamedTuple):
    """One name's only record of its kind; `ttl` in seconds, `text` as in a zone file."""

    name: str
    kind: str
    ttl: int
    text: str

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,)


class RecordSet(NamedTuple):
    """All records of one kind that a name has; without `texts` it has none."""

    name: str
    kind: str
    ttl: int
    texts: tuple[str, ...]


class Names(Protocol):
    """What a zone can do for routes and epochs. RouteUnavailable: no answer, and a change may have taken effect."""

    async def read(self, name: str, kind: str) -> list[str]:
        """The records of a name where changes are made, as text; empty when there are none."""

    async def apply(self, seen: Record | None, wanted: Record, more: Sequence[Record | RecordSet]) -> str | None:
        """Replace `seen` by `wanted` and set `more`: all at once, or nothing. None of `seen`: there is none yet.

        Returns why not, when something else than `seen` stands there; None when it took effect.
        """

    async def servers(self) -> list[str]:
        """Every authoritative server, as `host:port`."""


def absolute(name: str) -> str:
    return name if name.endswith(".") else name + "."


async def where(server: str) -> tuple[str, int]:
    """Address and port of `host:port`; RouteUnavailable for a name that has none."""
    host, _, port = server.rpartition(":")
    return await address_of(host.strip("[]")), int(port)


async def ask(server: str, name: str, kind: str) -> list[str]:
    """The records of one name at one authoritative server, as text; empty when there are none."""
    found, _ = await ask_with_ttl(server, name, kind)
    return found


async def ask_with_ttl(server: str, name: str, kind: str) -> tuple[list[str], int]:
    """As `ask`, with the TTL in seconds, 0 where there is no record."""
    host, port = await where(server)
    query = dns.message.make_query(absolute(name), kind)
    try:
        try:
            answer, _ = await dns.asyncquery.udp_with_fallback(query, host, timeout=AGAIN_S, port=port)
        except dns.exception.Timeout:
            answer, _ = await dns.asyncquery.udp_with_fallback(query, host, timeout=LIMIT_S - AGAIN_S, port=port)
    except (OSError, EOFError, dns.exception.DNSException) as error:
        raise RouteUnavailable(f"DNS server {server}: {type(error).__name__}: {error}") from error
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise RouteUnavailable(f"DNS server {server} answers {dns.rcode.to_text(answer.rcode())} for {name}")
    wanted = dns.rdatatype.from_text(kind)
    rrsets = [rrset for rrset in answer.answer if rrset.rdtype == wanted]
    return [rdata.to_text() for rrset in rrsets for rdata in rrset], max((rrset.ttl for rrset in rrsets), default=0)
