"""Camera traffic: writers that insert counts along a route, again and again, and note each outcome in the ledger."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lab import writer
from lab.ledger import Entry, Ledger
from lab.wire import Lost, NotConnected, Refused, Session, Target
from lab.writer import CONNECT_S, RETRIES, WRITE_S, inside, is_address, resolve

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


async def connect(target: Target, *, dns_server: str, addresses: frozenset[str], name: str) -> Session:
    """A session along a route, whose server has answered; NotConnected."""
    if not is_address(target.host):
        target = target._replace(host=await resolve(dns_server, target.host))
    inside(target.address, addresses)
    session = await Session.open(target, limit=CONNECT_S, name=name)
    try:
        # A pooler takes a client in before it looks for a server: without this, each write that it has none for
        # would count as one whose outcome nobody knows.
        await session.ask("SELECT 1", limit=CONNECT_S)
    except (Lost, Refused) as error:
        session.close()
        raise NotConnected(str(error)) from error
    return session


@dataclass
class Writer(writer.Writer):
    """A client of the database.

    A client of a name looks it up again after an error; a client of a pooler leaves the routing to the pooler.
    """

    target: Target
    traffic: Traffic
    session: Session | None = None

    async def write(self, entry: Entry) -> bool:
        try:
            if self.session is None:
                self.session = await connect(
                    self.target,
                    dns_server=self.traffic.dns_server,
                    addresses=self.traffic.addresses,
                    name=f"load-{self.name}",
                )
        except NotConnected as error:
            self.note_failure(entry, str(error))
            return False
        counted = datetime.now(UTC).isoformat()
        sent = time.time()
        try:
            values = (entry.id, f"camera-{self.name}", counted, random.randrange(100), self.route)
            answer = await self.session.ask(INSERT, *values, limit=WRITE_S)
        except Refused as error:
            if not is_address(self.target.host):
                self.close()
            self.note_failure(entry.model_copy(update={"sent": sent}), str(error))
            return False
        except Lost as error:
            self.close()
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

    def close(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None


def writers(
    traffic: Traffic, ledger: Ledger, stop: asyncio.Event, on_first: Callable[[str], None]
) -> list[writer.Writer]:
    """The clients of every route."""
    return [
        Writer(f"{route}-{number}", route, ledger, stop, on_first, traffic.rate, retry, target, traffic)
        for route, target in traffic.routes.items()
        for number, retry in enumerate(RETRIES, start=1)
    ]


async def drive(traffic: Traffic, stop: asyncio.Event, on_first: Callable[[str], None] = lambda _: None) -> None:
    """Run the writers of every route until `stop`; `on_first(route)` at a writer's first acknowledgement."""
    with Ledger(traffic.ledger) as ledger:
        await asyncio.gather(*(each.run() for each in writers(traffic, ledger, stop, on_first)))
