"""Camera traffic: writers that insert counts along a route, again and again, and note each outcome in the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.message
import dns.rdatatype

from lab.ledger import Entry, Ledger
from lab.wire import Lost, NotConnected, Refused, Session, Target

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

INSERT = (
    "INSERT INTO counting_results (id, camera, counted_at, count, route) VALUES ($1, $2, $3, $4, $5)"
    " RETURNING host(inet_server_addr()), inet_server_port(),"
    " ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"
)


@dataclass(frozen=True)
class Traffic:
    """What runs: `routes` by name, each about `rate` writes a second in all.

    A target whose host is a name is resolved at `dns_server` (`host:port`) whenever a writer connects. Only
    `addresses` (`host:port`) may be connected to: a lab's traffic never leaves it.
    """

    routes: dict[str, Target]
    addresses: frozenset[str]
    ledger: Path
    dns_server: str = ""
    rate: float = 25.0


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


@dataclass
class Writer:
    """One client of a route. It keeps its connection for as long as that works, as applications do.

    A client of a name looks it up again after an error; a client of a pooler leaves the routing to the pooler.
    """

    name: str
    route: str
    target: Target
    traffic: Traffic
    ledger: Ledger
    stop: asyncio.Event
    on_first: Callable[[str], None]
    retry: tuple[float, float] = RETRY_S
    session: Session | None = None
    _noted: tuple[str, float] = field(default=("", 0.0))

    async def run(self) -> None:
        """Write until `stop` is set."""
        interval = WRITERS / self.traffic.rate
        due = time.monotonic() + random.uniform(0, interval)
        first = True
        await self._pause(due - time.monotonic())
        while not self.stop.is_set():
            if await self._write():
                if first:
                    self.on_first(self.route)
                    first = False
                # After an outage the schedule begins anew: a burst to catch up would be another load than asked for.
                due = max(due + interval, time.monotonic())
                await self._pause(due - time.monotonic())
            else:
                await self._pause(random.uniform(*self.retry))
        if self.session is not None:
            self.session.close()

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), seconds)

    async def _connect(self) -> Session:
        target = self.target
        if not is_address(target.host):
            target = target._replace(host=await resolve(self.traffic.dns_server, target.host))
        if target.address not in self.traffic.addresses:
            raise NotConnected(f"{target.address} is not in this lab, so nothing is sent there")
        session = await Session.open(target, limit=CONNECT_S, name=f"load-{self.name}")
        try:
            # A pooler takes a client in before it looks for a server: without this, each write that it has none for
            # would count as one whose outcome nobody knows.
            await session.ask("SELECT 1", limit=CONNECT_S)
        except (Lost, Refused) as error:
            session.close()
            raise NotConnected(str(error)) from error
        return session

    async def _write(self) -> bool:
        """One write, connecting first where there is no connection; whether it was acknowledged."""
        key = str(uuid.uuid4())
        entry = Entry(id=key, route=self.route, writer=self.name, outcome="failed")
        try:
            if self.session is None:
                self.session = await self._connect()
        except NotConnected as error:
            self._note_failure(entry, str(error))
            return False
        counted = datetime.now(UTC).isoformat()
        sent = time.time()
        try:
            values = (key, f"camera-{self.name}", counted, random.randrange(100), self.route)
            answer = await self.session.ask(INSERT, *values, limit=WRITE_S)
        except Refused as error:
            if not is_address(self.target.host):
                self._drop()
            self._note_failure(entry.model_copy(update={"sent": sent}), str(error))
            return False
        except Lost as error:
            self._drop()
            self.ledger.record(entry.model_copy(update={"sent": sent, "outcome": "unknown", "error": str(error)}))
            return False
        host, port, timeline = answer.rows[0]
        told = {"sent": sent, "acked": time.time(), "server": f"{host}:{port}", "timeline": int(timeline or 0)}
        if answer.warnings:
            # 01000 says that the wait for the synchronous standby was cut short: it may be on this server alone.
            told |= {"outcome": "unknown", "error": f"warning {', '.join(answer.warnings)} with the answer"}
        else:
            told |= {"outcome": "acknowledged"}
        self.ledger.record(entry.model_copy(update=told))
        return not answer.warnings

    def _drop(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None

    def _note_failure(self, entry: Entry, error: str) -> None:
        text, when = self._noted
        now = time.monotonic()
        if error != text or now - when >= SAME_ERROR_S:
            self._noted = (error, now)
            self.ledger.record(entry.model_copy(update={"error": error}))


async def drive(traffic: Traffic, stop: asyncio.Event, on_first: Callable[[str], None] = lambda _: None) -> None:
    """Run the writers of every route until `stop`; `on_first(route)` at a writer's first acknowledgement."""
    with Ledger(traffic.ledger) as ledger:
        running: list[Awaitable[None]] = [
            Writer(f"{route}-{number}", route, target, traffic, ledger, stop, on_first, retry).run()
            for route, target in traffic.routes.items()
            for number, retry in enumerate((RETRY_S, *([COMPANION_RETRY_S] * (WRITERS - 1))), start=1)
        ]
        await asyncio.gather(*running)
