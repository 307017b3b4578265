"""What every client of the load does, whatever it writes to: again and again, each outcome into the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import dns.asyncquery
import dns.exception
import dns.message
import dns.rdatatype

from lab.ledger import Entry, Ledger
from lab.wire import NotConnected

CONNECT_S = 1.5
WRITE_S = 1.5
"""Limits of a connection and of a write, so that a frozen server holds no writer for ever."""
RESOLVE_S = 0.5
RETRY_S = (0.010, 0.020)
"""A route's first writer tries again after a time from this range: an outage is measured to about this."""
COMPANION_RETRY_S = (0.080, 0.120)
"""Its other writers take their time: every try through a pooler costs milliseconds of SCRAM on both sides."""
SAME_ERROR_S = 1.0
"""A writer that was sent nowhere notes the same error once in this time, not sixty times."""
WRITERS = 2
RETRIES = (RETRY_S, *([COMPANION_RETRY_S] * (WRITERS - 1)))
"""How long each of a route's writers waits after a failure."""


async def resolve(server: str, name: str) -> str:
    """The A record of `name` at `server`; NotConnected when there is none within RESOLVE_S."""
    host, _, port = server.rpartition(":")
    try:
        answer = await dns.asyncquery.udp(dns.message.make_query(name, "A"), host, RESOLVE_S, int(port))
    except (OSError, dns.exception.DNSException) as error:
        raise NotConnected(f"{name}: the DNS server {server} doesn't answer: {error}") from error
    for records in answer.answer:
        if records.rdtype == dns.rdatatype.A:
            return str(records[0])
    raise NotConnected(f"{name}: the DNS server {server} has no address for it")


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def inside(address: str, addresses: frozenset[str]) -> None:
    """NotConnected for an address that is not one of these: a lab's traffic never leaves it."""
    if address not in addresses:
        raise NotConnected(f"{address} is not in this lab, so nothing is sent there")


@dataclass
class Writer:
    """One client of a route. It keeps its connection for as long as that works, as applications do.

    `rate`: writes a second of all the route's writers together.
    """

    name: str
    route: str
    ledger: Ledger
    stop: asyncio.Event
    on_first: Callable[[str], None]
    rate: float
    retry: tuple[float, float]
    _noted: tuple[str, float] = field(default=("", 0.0), init=False)

    async def write(self, entry: Entry) -> bool:
        """One write, connecting first where there is no connection, and its outcome noted; whether it was acknowledged.

        `entry` is what is known of it before.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End the connection, if there is one."""
        raise NotImplementedError

    async def run(self) -> None:
        """Write until `stop` is set."""
        interval = WRITERS / self.rate
        due = time.monotonic() + random.uniform(0, interval)
        first = True
        await self._pause(due - time.monotonic())
        while not self.stop.is_set():
            if await self.write(Entry(id=str(uuid.uuid4()), route=self.route, writer=self.name, outcome="failed")):
                if first:
                    self.on_first(self.route)
                    first = False
                # After an outage the schedule begins anew: a burst to catch up would be another load than asked for.
                due = max(due + interval, time.monotonic())
                await self._pause(due - time.monotonic())
            else:
                await self._pause(random.uniform(*self.retry))
        self.close()

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), seconds)

    def note_failure(self, entry: Entry, error: str) -> None:
        """Note a write that did not happen; the same error again only now and then."""
        text, when = self._noted
        now = time.monotonic()
        if error != text or now - when >= SAME_ERROR_S:
            self._noted = (error, now)
            self.ledger.record(entry.model_copy(update={"error": error}))
