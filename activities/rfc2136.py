"""Questions and updates to an authoritative zone: RFC 2136 with TSIG, and prerequisites as compare-and-set."""

from __future__ import annotations

import dns.asyncquery
import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import dns.update

from activities.addresses import address_of
from activities.secrets import resolve
from schemas.failures import RouteUnavailable
from schemas.zones import Zone

LIMIT_S = 1.0
"""Limit of one exchange with a server, which is in another region at most."""


async def _where(server: str) -> tuple[str, int]:
    host, _, port = server.rpartition(":")
    return await address_of(host), int(port)


def new_update(zone: Zone) -> dns.update.UpdateMessage:
    """A signed, still empty update of the zone."""
    keyring = dns.tsigkeyring.from_text({zone.key_name: resolve(zone.key_secret) or ""})
    return dns.update.UpdateMessage(zone.name, keyring=keyring, keyalgorithm=dns.name.from_text(zone.key_algorithm))


async def send(zone: Zone, update: dns.update.UpdateMessage) -> int:
    """The answer's rcode. RouteUnavailable when no answer came, so that nobody knows whether it took effect."""
    host, port = await _where(zone.servers[0])
    try:
        answer = await dns.asyncquery.tcp(update, host, timeout=LIMIT_S, port=port)
    except (OSError, EOFError, dns.exception.DNSException) as error:
        raise RouteUnavailable(f"DNS server {zone.servers[0]}: {type(error).__name__}: {error}") from error
    return answer.rcode()


async def ask(server: str, name: str, kind: str) -> list[str]:
    """The records of one name at one authoritative server, as text; empty when there are none."""
    host, port = await _where(server)
    query = dns.message.make_query(name, kind)
    try:
        answer, _ = await dns.asyncquery.udp_with_fallback(query, host, timeout=LIMIT_S, port=port)
    except (OSError, EOFError, dns.exception.DNSException) as error:
        raise RouteUnavailable(f"DNS server {server}: {type(error).__name__}: {error}") from error
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise RouteUnavailable(f"DNS server {server} answers {dns.rcode.to_text(answer.rcode())} for {name}")
    wanted = dns.rdatatype.from_text(kind)
    found: list[str] = []
    for rrset in answer.answer:
        if rrset.rdtype == wanted:
            found.extend(rdata.to_text() for rdata in rrset)
    return found


def absolute(name: str) -> str:
    return name if name.endswith(".") else name + "."
