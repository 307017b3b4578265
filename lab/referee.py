"""The referee trusts nothing that the product says: it reads the ledger and the servers, and writes itself.

Missing rows by id, how long no write was acknowledged on each route, and which servers acknowledge beside the leader.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from lab import findings, ledger, load
from lab.errors import LabError
from lab.findings import Conviction, RouteFinding
from lab.ledger import Entry
from lab.model import Lab
from lab.secrets import SUPERUSER
from lab.wire import Lost, NotConnected, Refused, Session, Target
from lab.world import assert_inside

WITNESS_S = 1.5
"""Limit of the referee's own write; a stalled server's is ended by closing the socket, never by a cancel."""
READ_S = 15.0
SAMPLE = 10

_STATE = (
    "SELECT pg_is_in_recovery(), CASE WHEN NOT pg_is_in_recovery()"
    " THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END"
)
_WITNESS = "SELECT pg_logical_emit_message(true, 'lifeboat.referee', 'x')"


@dataclass(frozen=True)
class Server:
    """A member as the referee reaches it: straight, as superuser, in the database that holds counting_results."""

    name: str
    target: Target

    @property
    def address(self) -> str:
        return self.target.address


@dataclass(frozen=True)
class Case:
    """What is audited. `running`: the load runs still."""

    ledger: Path
    routes: list[str]
    servers: list[Server]
    running: bool


class Seen(BaseModel):
    """A server as the referee found it just now. `acknowledged`: it acknowledged a write of the referee's itself."""

    name: str
    address: str
    state: Literal["primary", "standby", "master", "replica", "unreachable", "silent"]
    """`silent`: it took the session, and did not answer."""
    detail: str = ""
    timeline: int = 0
    acknowledged: bool = False
    sent: float = 0.0
    acked: float = 0.0


class Writer(BaseModel):
    """A server that counts as a concurrent writer, and everything that convicts it."""

    name: str
    server: str
    timeline: int
    reasons: list[str]


class Audit(BaseModel):
    """`missing` is None when the surviving history can't be read; `errors` says why, and it is never shown as 0."""

    acknowledged: int
    missing: int | None
    concurrent_writers: int
    routes: dict[str, RouteFinding]
    missing_ids: list[str] = []
    """The first few."""
    unknown: int = 0
    """Writes whose outcome no client learned, or that came with a warning: they may be there or not."""
    unknown_present: int | None = None
    survivor: str = ""
    """The server whose table counts as the surviving history."""
    leader: str = ""
    """The server that acknowledged the referee's write and leads, as far as it could find out."""
    writers: list[Writer] = []
    servers: list[Seen] = []
    errors: list[str] = []

    @property
    def clean(self) -> bool:
        """Nothing is missing, nobody writes beside the leader, and all of it is known."""
        return self.missing == 0 and self.concurrent_writers == 0 and not self.errors


async def audit(lab: Lab) -> Audit:
    """Audit a lab. LedgerUnreadable when no load ever ran, since then there is nothing to judge."""
    password = lab.secret(SUPERUSER)
    database = Target.from_dsn(lab.routes["dns"]).database
    servers = []
    for node in lab.members():
        assert_inside(lab, node.host, node.port)
        servers.append(Server(node.name, Target(node.host, node.port, SUPERUSER, password, database)))
    running = load.running(lab) is not None
    routes = list(lab.routes_of("database"))
    return await examine(Case(ledger=lab.ledger, routes=routes, servers=servers, running=running))


async def examine(case: Case) -> Audit:
    """Audit one case. The ledger is read before the table, so that what it owes had time to be there."""
    entries = [entry for entry in ledger.read(case.ledger) if entry.route in case.routes]
    spans = ledger.read_spans(case.ledger)
    gaps = findings.routes(case.routes, entries, spans, now=time.time(), running=case.running)
    seen, own = await _witness(case.servers)
    witnessed = {each.address: each.timeline for each in seen if each.acknowledged}
    convicted = findings.convictions([*entries, *own])
    leader, beside = findings.beside_the_leader(witnessed, entries, [each.server for each in convicted])
    names = {server.address: server.name for server in case.servers}
    result = Audit(
        acknowledged=len(findings.acknowledged(entries)),
        missing=None,
        concurrent_writers=0,
        routes=gaps,
        unknown=sum(entry.outcome == "unknown" for entry in entries),
        leader=names.get(leader or "", ""),
        servers=seen,
    )
    result.writers = writers_of([*convicted, *beside], names)
    result.concurrent_writers = len(result.writers)
    try:
        survivor = _survivor(case.servers, entries, seen)
        present = await _ids(survivor)
    except LabError as error:
        result.errors.append(str(error))
        return result
    result.survivor = survivor.name
    missing = [entry.id for entry in findings.acknowledged(entries) if entry.id not in present]
    result.missing, result.missing_ids = len(missing), missing[:SAMPLE]
    result.unknown_present = sum(entry.outcome == "unknown" and entry.id in present for entry in entries)
    return result


async def _witness(servers: Sequence[Server]) -> tuple[list[Seen], list[Entry]]:
    """Every server as it is now, and the referee's own writes that were acknowledged.

    Where several acknowledge they are asked again: the first may have handed over before the last was asked, and only
    what is sent after all of them had acknowledged shows that they do so at once.
    """
    seen = {each.name: each for each in await asyncio.gather(*(look(server) for server in servers))}
    own = [_as_entry(each) for each in seen.values() if each.acknowledged]
    if len(own) > 1:
        again = [server for server in servers if seen[server.name].acknowledged]
        seen |= {each.name: each for each in await asyncio.gather(*(look(server) for server in again))}
        own += [_as_entry(seen[server.name]) for server in again if seen[server.name].acknowledged]
    return list(seen.values()), own


class SurvivorUnknown(LabError):
    """The server with the surviving history can't be read, so nobody knows what is missing; bring it back first."""


async def look(server: Server) -> Seen:
    """Ask a server for its state, and one that is not in recovery to acknowledge a write."""
    seen = Seen(name=server.name, address=server.address, state="unreachable")
    try:
        session = await Session.open(server.target, limit=WITNESS_S, name="lifeboat-referee")
    except NotConnected as error:
        return seen.model_copy(update={"detail": str(error)})
    try:
        ((in_recovery, timeline),) = (await session.ask(_STATE, limit=WITNESS_S)).rows
        if in_recovery == "t":
            return seen.model_copy(update={"state": "standby"})
        seen = seen.model_copy(update={"state": "primary", "timeline": int(timeline or 0), "sent": time.time()})
        answer = await session.ask(_WITNESS, limit=WITNESS_S)
        # With a warning the wait for the standbys was cut short: that is not an acknowledgement.
        return seen.model_copy(update={"acknowledged": not answer.warnings, "acked": time.time()})
    except (Refused, Lost) as error:
        state = seen.state if seen.state == "primary" else "silent"
        return seen.model_copy(update={"state": state, "detail": str(error)})
    finally:
        session.close()


def _as_entry(seen: Seen) -> Entry:
    """The referee's own acknowledged write, judged by the same rule as the clients'."""
    return Entry(
        id="",
        route="",
        writer="referee",
        sent=seen.sent,
        acked=seen.acked,
        server=seen.address,
        timeline=seen.timeline,
        outcome="acknowledged",
    )


def _survivor(servers: Iterable[Server], entries: list[Entry], seen: list[Seen]) -> Server:
    """The server that acknowledged on the newest timeline last; else the only one reachable that leads."""
    by_address = {server.address: server for server in servers}
    primaries = {each.address: each.timeline for each in seen if each.state == "primary"}
    newest = findings.newest_acknowledger(entries)
    if newest is not None:
        if newest.server in primaries and newest.server in by_address:
            return by_address[newest.server]
        # It may have handed over since, or died: then who leads on a later timeline has the history, or lost it.
        primaries = {address: timeline for address, timeline in primaries.items() if timeline > newest.timeline}
        last = f"{newest.server} acknowledged last, on timeline {newest.timeline}"
    else:
        last = "nothing was ever acknowledged"
    if len(primaries) != 1:
        states = ", ".join(f"{each.name} {each.state}" for each in seen)
        raise SurvivorUnknown(f"{last}; now: {states}")
    return by_address[next(iter(primaries))]


async def _ids(server: Server) -> set[str]:
    try:
        session = await Session.open(server.target, limit=WITNESS_S, name="lifeboat-referee")
        try:
            answer = await session.ask("SELECT id FROM counting_results", limit=READ_S)
        finally:
            session.close()
    except (NotConnected, Refused, Lost) as error:
        raise SurvivorUnknown(f"{server.name}: {error}") from error
    return {str(row[0]) for row in answer.rows}


def writers_of(convicted: Iterable[Conviction], names: Mapping[str, str]) -> list[Writer]:
    """The convictions, by server."""
    found: dict[str, Writer] = {}
    for each in convicted:
        name = names.get(each.server, each.server)
        writer = found.setdefault(
            each.server, Writer(name=name, server=each.server, timeline=each.timeline, reasons=[])
        )
        writer.reasons.append(each.reason)
    return list(found.values())


def audit_text(audit: Audit, what: str = "rows") -> str:
    """The audit as a person reads it; `what` was written."""
    missing = "UNKNOWN" if audit.missing is None else str(audit.missing)
    lines = [
        f"acknowledged {audit.acknowledged} {what}, missing {missing}"
        + (f" on {audit.survivor}" if audit.survivor else ""),
    ]
    if audit.missing_ids:
        lines.append(f"  missing: {', '.join(audit.missing_ids)}{' …' if (audit.missing or 0) > SAMPLE else ''}")
    if audit.unknown:
        present = "?" if audit.unknown_present is None else audit.unknown_present
        lines.append(f"unknown to their clients {audit.unknown} {what}, of which {present} are there")
    lines.append(f"concurrent writers {audit.concurrent_writers}" + (f", {audit.leader} leads" if audit.leader else ""))
    lines += [f"  {writer.name}: {reason}" for writer in audit.writers for reason in writer.reasons]
    width = max((len(name) for name in audit.routes), default=0)
    for name, route in audit.routes.items():
        state = "writing" if route.writing else "NOT writing"
        lines.append(f"route {name:<{width}}  longest gap {route.longest_gap_s:7.3f} s  {state}")
    lines += [f"error: {error}" for error in audit.errors]
    return "\n".join(lines)
