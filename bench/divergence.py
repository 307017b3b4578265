"""A primary that acknowledges on its own, dies under its writers, and is followed by a standby that lacks it.

What a failover without a synchronous standby leaves, made by hand, so that a bench knows which commits were lost.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from activities import epoch as epochs
from activities.fencing import conninfo
from activities.topology import load_topology
from bench.common import BenchFailed
from bench.stand import Stand
from lab.traffic import INSERT
from lab.wire import Lost, Refused, Session
from schemas.facts import EpochRecord

WRITERS = 8
ASK_S = 10.0
STEP_S = 30.0
POLL_S = 0.02


@dataclass
class Written:
    """What the writers were told: ids that were acknowledged, and those whose outcome they never learned."""

    acknowledged: set[str] = field(default_factory=set)
    in_flight: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Diverged:
    """`lost`: acknowledged by the old primary, and not on the leader. `in_flight`: may be on the old one or not."""

    leader: str
    lost: int
    in_flight: int


async def diverge(stand: Stand, commits: int) -> Diverged:
    """At least `commits` acknowledged by the home primary alone, which is killed meanwhile; another leads, recorded."""
    service, home = stand.service, stand.service.home
    leader = next(name for name in service.may_be_promoted() if name != home)
    direct = [each.name for each in service.members if each.name != home and each.follows in (None, home)]
    sessions = {name: await stand.session(name) for name in (home, *direct)}
    try:
        await _alone(sessions, home, direct)
        written = Written()
        writing = [asyncio.create_task(_write(stand, written, commits)) for _ in range(WRITERS)]
        try:
            await until(lambda: _enough(writing, written, commits), STEP_S, f"{commits} commits are acknowledged")
            await stand.kill_primary()
            await asyncio.wait_for(asyncio.gather(*writing), STEP_S)
        finally:
            for task in writing:
                task.cancel()
        await _lead(stand, sessions, leader, [name for name in direct if name != leader])
        answer = await sessions[leader].ask("SELECT id FROM counting_results", limit=ASK_S)
        present = {str(row[0]) for row in answer.rows}
    finally:
        for session in sessions.values():
            session.close()
    topology = load_topology(stand.lab.topology)
    record = EpochRecord(epoch=1, run="bench", leader=leader, w=0, voters=[], verdict="unknown")
    await epochs.replace(topology.zone, service.name, None, record)
    return Diverged(leader, len(written.acknowledged - present), len(written.in_flight - present))


async def _enough(writing: list[asyncio.Task[None]], written: Written, commits: int) -> bool:
    for task in writing:
        if task.done():
            task.result()
    return len(written.acknowledged) >= commits


async def _alone(sessions: Mapping[str, Session], home: str, direct: list[str]) -> None:
    """The primary waits for nobody, and nobody receives anything from it any more."""
    await _set(sessions[home], "synchronous_standby_names", "")
    await asyncio.gather(*(_set(sessions[name], "primary_conninfo", "") for name in direct))

    async def is_alone() -> bool:
        left = await sessions[home].ask(
            "SELECT count(*) + (current_setting('synchronous_standby_names') <> '')::int FROM pg_stat_replication",
            limit=ASK_S,
        )
        return left.rows[0][0] == "0"

    await until(is_alone, STEP_S, f"{home} is alone")


async def _write(stand: Stand, written: Written, commits: int) -> None:
    """One commit after another until the server is gone. Each is `in_flight` until it is acknowledged."""
    session = await stand.session(stand.service.home)
    try:
        while True:
            ident = str(uuid.uuid4())
            written.in_flight.add(ident)
            await session.ask(INSERT, ident, "bench", datetime.now(UTC).isoformat(), 1, "straight", limit=ASK_S)
            written.in_flight.discard(ident)
            written.acknowledged.add(ident)
            if len(written.acknowledged) > 4 * commits:
                raise BenchFailed("the primary was not killed")
    except (Lost, Refused):
        return
    finally:
        session.close()


async def _lead(stand: Stand, sessions: Mapping[str, Session], leader: str, others: list[str]) -> None:
    """The leader is promoted, the others stream from it, and a checkpoint tells pg_rewind of the new timeline."""
    service = stand.service
    await _set(sessions[leader], "synchronous_standby_names", "")
    await sessions[leader].ask("SELECT pg_promote(false)", limit=ASK_S)

    async def leads() -> bool:
        await sessions[leader].ask("SELECT pg_reload_conf()", limit=ASK_S)
        return (await sessions[leader].ask("SELECT pg_is_in_recovery()", limit=ASK_S)).rows[0][0] == "f"

    await until(leads, STEP_S, f"{leader} leads")
    for name in others:
        wanted = conninfo(service, service.member(name), service.member(leader))
        await _set(sessions[name], "primary_conninfo", wanted)

    async def follow() -> bool:
        await asyncio.gather(*(sessions[name].ask("SELECT pg_reload_conf()", limit=ASK_S) for name in others))
        return set(others) <= await streaming(sessions[leader])

    await until(follow, STEP_S, f"{', '.join(others)} stream from {leader}")
    await sessions[leader].ask("CHECKPOINT", limit=ASK_S)


async def streaming(leader: Session) -> set[str]:
    """Who streams from the leader, by its own account."""
    asked = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"
    return {str(row[0]) for row in (await leader.ask(asked, limit=ASK_S)).rows}


async def until(condition: Callable[[], Awaitable[bool]], limit: float, what: str) -> None:
    """Wait for it; BenchFailed when it is not so within `limit` seconds."""
    try:
        async with asyncio.timeout(limit):
            while not await condition():
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise BenchFailed(f"not within {limit:g} s: {what}") from None


async def _set(session: Session, name: str, value: str) -> None:
    escaped = value.replace("'", "''")
    await session.ask(f"ALTER SYSTEM SET {name} = '{escaped}'", limit=ASK_S)
    await session.ask("SELECT pg_reload_conf()", limit=ASK_S)
