"""A zone that is changed by RFC 2136 with TSIG; its prerequisites (§2.4) are the compare-and-set."""

from __future__ import annotations

from collections.abc import Sequence

import dns.asyncquery
import dns.exception
import dns.name
import dns.rcode
import dns.tsig
import dns.tsigkeyring
import dns.update

from activities.names import LIMIT_S, Record, RecordSet, absolute, ask, where
from activities.secrets import resolve
from schemas.failures import RouteUnavailable
from schemas.zones import Rfc2136Zone


class Rfc2136Names:
    """See `activities.names.Names`."""

    def __init__(self, zone: Rfc2136Zone) -> None:
        self.zone = zone

    async def servers(self) -> list[str]:
        return self.zone.servers

    async def read(self, name: str, kind: str) -> list[str]:
        return await ask(self.zone.servers[0], name, kind)

    async def apply(self, seen: Record | None, wanted: Record, more: Sequence[Record | RecordSet]) -> str | None:
        update = new_update(self.zone)
        if seen is None:
            update.absent(absolute(wanted.name), wanted.kind)
        else:
            update.present(absolute(seen.name), seen.kind, seen.text)
        for record in (wanted, *more):
            # An empty set is a deletion (RFC 2136, 2.5.2).
            update.delete(absolute(record.name), record.kind)
            if record.texts:
                update.add(absolute(record.name), record.ttl, record.kind, *record.texts)
        rcode = await send(self.zone, update)
        return None if rcode == dns.rcode.NOERROR else dns.rcode.to_text(dns.rcode.Rcode(rcode))


def new_update(zone: Rfc2136Zone) -> dns.update.UpdateMessage:
    """A signed, still empty update of the zone."""
    keyring = dns.tsigkeyring.from_text({zone.key_name: resolve(zone.key_secret) or ""})
    return dns.update.UpdateMessage(zone.name, keyring=keyring, keyalgorithm=dns.name.from_text(zone.key_algorithm))


async def send(zone: Rfc2136Zone, update: dns.update.UpdateMessage) -> int:
    """The answer's rcode. RouteUnavailable when no answer came, so that nobody knows whether it took effect."""
    host, port = await where(zone.servers[0])
    try:
        answer = await dns.asyncquery.tcp(update, host, timeout=LIMIT_S, port=port)
    except (OSError, EOFError, dns.exception.DNSException) as error:
        raise RouteUnavailable(f"DNS server {zone.servers[0]}: {type(error).__name__}: {error}") from error
    return answer.rcode()
