"""The referee of the cache: it trusts nothing that the product says, reads ledger and servers, and writes itself.

Missing keys by id, those among them that WAIT had counted on replicas, how long no write was acknowledged on each
route, and which servers acknowledge beside the leader.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lab import cache_findings, findings, ledger, load, resp
from lab.cache_findings import Place
from lab.ledger import Entry
from lab.model import Lab
from lab.referee import READ_S, SAMPLE, WITNESS_S, Audit, Seen, SurvivorUnknown, writers_of
from lab.wire import Lost, NotConnected
from lab.world import assert_inside

_SCANNED = 5000
"""Keys a round trip."""


@dataclass(frozen=True)
class Server:
    """A server as the referee reaches it: straight, as a user that may do everything."""

    name: str
    host: str
    port: int
    password: str

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def session(self) -> resp.Session:
        return await resp.Session.open(self.host, self.port, "referee", self.password, limit=WITNESS_S)


class CacheAudit(Audit):
    """`waited`: acknowledged by WAIT, so that none of them may be missing whatever the verdict was."""

    waited: int = 0
    waited_missing: int | None = None
    waited_missing_ids: list[str] = []
    """The first few."""


@dataclass(frozen=True)
class _Look:
    seen: Seen
    place: Place
    own: Entry | None
    """The referee's own write, where it was acknowledged."""


async def audit(lab: Lab) -> CacheAudit:
    """Audit a lab's cache. LedgerUnreadable when no load ever ran, since then there is nothing to judge."""
    servers = []
    for node in lab.of_kind("redis"):
        assert_inside(lab, node.host, node.port)
        servers.append(Server(node.name, node.host, node.port, lab.secret("cache-referee")))
    routes = lab.routes_of("cache")
    # Before the keys are read, so that what the ledger owes had time to be there.
    entries = [entry for entry in ledger.read(lab.ledger) if entry.route in routes]
    spans = ledger.read_spans(lab.ledger)
    gaps = findings.routes(routes, entries, spans, now=time.time(), running=load.running(lab) is not None)
    looks = await _witness(servers)
    places = [look.place for look in looks]
    told = cache_findings.survivor(places, entries)
    tip = "" if isinstance(told, str) else told.replid
    own = [look.own for look in looks if look.own is not None]
    judged = cache_findings.ordered([*entries, *own], places, tip)
    mine = {entry.server: entry.timeline for entry in judged if entry.writer == "referee"}
    convicted = findings.convictions(judged, history="history")
    guilty = [each.server for each in convicted]
    leader, beside = findings.beside_the_leader(mine, judged, guilty, history="history")
    names = {server.address: server.name for server in servers}
    written = findings.acknowledged(entries)
    result = CacheAudit(
        acknowledged=len(written),
        missing=None,
        concurrent_writers=0,
        routes=gaps,
        unknown=sum(entry.outcome == "unknown" for entry in entries),
        leader=names.get(leader or "", ""),
        servers=list({look.seen.name: look.seen for look in looks}.values()),
        waited=sum(entry.waited for entry in written),
    )
    result.writers = writers_of([*convicted, *beside], names)
    result.concurrent_writers = len(result.writers)
    try:
        if isinstance(told, str):
            raise SurvivorUnknown(told)
        present = await _keys(next(server for server in servers if server.address == told.address))
    except SurvivorUnknown as error:
        result.errors.append(str(error))
        return result
    result.survivor = names[told.address]
    missing = [entry for entry in written if entry.id not in present]
    result.missing, result.missing_ids = len(missing), [entry.id for entry in missing[:SAMPLE]]
    waited = [entry.id for entry in missing if entry.waited]
    result.waited_missing, result.waited_missing_ids = len(waited), waited[:SAMPLE]
    result.unknown_present = sum(entry.outcome == "unknown" and entry.id in present for entry in entries)
    return result


async def _witness(servers: Sequence[Server]) -> list[_Look]:
    """Every server as it is now. Those that acknowledge are asked again where they are several (lab/referee.py)."""
    looks = list(await asyncio.gather(*(_look(server) for server in servers)))
    again = [server for server, look in zip(servers, looks, strict=True) if look.own is not None]
    if len(again) > 1:
        looks += await asyncio.gather(*(_look(server) for server in again))
    return looks


async def _look(server: Server) -> _Look:
    """Ask a server for its state, and a master to acknowledge a write."""
    seen = Seen(name=server.name, address=server.address, state="unreachable")
    place = Place(server.address, "unreachable")
    try:
        session = await server.session()
    except NotConnected as error:
        return _Look(seen.model_copy(update={"detail": str(error)}), place, None)
    try:
        (answer,) = await session.ask(("INFO", "replication"), limit=WITNESS_S)
        told = resp.info(answer)
        if not told:
            detail = answer.text if isinstance(answer, resp.Failure) else "it does not tell its role"
            return _Look(seen.model_copy(update={"state": "silent", "detail": detail}), _silent(server), None)
        followers, offset = told["connected_slaves"], told["master_repl_offset"]
        place = Place(
            server.address,
            "master" if told["role"] == "master" else "replica",
            told["master_replid"],
            told["master_replid2"].strip("0"),
            int(followers),
        )
        detail = f"history {place.replid[:8]} at {offset}, {followers} replicas"
        seen = seen.model_copy(update={"state": place.state, "detail": detail})
        if place.state == "replica":
            return _Look(seen, place, None)
        sent = time.time()
        (answer,) = await session.ask(("SET", "referee:witness", "x", "EX", "60"), limit=WITNESS_S)
        if isinstance(answer, resp.Failure):
            return _Look(seen.model_copy(update={"detail": f"{detail}: {answer.text}"}), place, None)
    except Lost as error:
        return _Look(seen.model_copy(update={"state": "silent", "detail": str(error)}), _silent(server), None)
    finally:
        session.close()
    own = Entry(
        id="",
        route="",
        writer="referee",
        sent=sent,
        acked=time.time(),
        server=server.address,
        replid=place.replid,
        parent=place.parent,
        outcome="acknowledged",
    )
    return _Look(seen.model_copy(update={"acknowledged": True, "sent": sent, "acked": own.acked}), place, own)


def _silent(server: Server) -> Place:
    return Place(server.address, "silent")


async def _keys(server: Server) -> set[str]:
    """The ids of the writes that are there."""
    found: set[str] = set()
    cursor = "0"
    try:
        session = await server.session()
        try:
            async with asyncio.timeout(READ_S):
                while True:
                    command = ("SCAN", cursor, "MATCH", "count:*", "COUNT", str(_SCANNED))
                    (answer,) = await session.ask(command, limit=READ_S)
                    if not isinstance(answer, list) or not isinstance(answer[1], list):
                        raise SurvivorUnknown(f"{server.name}: {answer}")
                    cursor = str(answer[0])
                    found |= {str(key).removeprefix("count:") for key in answer[1]}
                    if cursor == "0":
                        return found
        finally:
            session.close()
    except (NotConnected, Lost, TimeoutError) as error:
        raise SurvivorUnknown(f"{server.name}: {str(error) or f'not read within {READ_S:g} s'}") from error
