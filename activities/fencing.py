"""What keeps an old primary from acknowledging (safety.md, "One inequality" and "What fences and what doesn't")."""

from __future__ import annotations

import asyncio
import contextlib
import re

import asyncpg
from temporalio import activity

from activities import epoch as epochs
from activities.beating import beating
from activities.sessions import BROKEN, Session, host_port, literal, nudge, open_session, session
from activities.slots import drop_unused_slots, prepare_slot
from activities.stamp import guarded
from activities.survey import look_at_all, read_member
from schemas.facts import MemberFacts
from schemas.failures import EpochSuperseded, MemberUnreachable, NotYet, SlotMissing
from schemas.orders import (
    FenceOrder,
    FenceResult,
    FollowOrder,
    FollowResult,
    ProofOrder,
    ProofResult,
    StallOrder,
)
from schemas.topology import DatabaseService, Member

PROMPT_S = 0.3
STUCK_S = 60.0
"""A standby that replays nothing for so long is stuck, or gone, or its replay is paused."""
STALLED = 'FIRST 1 ("__fenced__")'
"""No standby is called so: every commit that waits for its acknowledgement waits for ever."""


def conninfo(service: DatabaseService, standby: Member, leader: Member) -> str:
    """primary_conninfo from the topology, never from the node: a retry would save the "" of its predecessor."""
    parts = {
        "host": leader.host,
        "port": str(leader.port),
        "user": service.access.replication_user,
        "application_name": standby.name,
        "sslmode": service.access.sslmode,
    }
    if service.access.replication_passfile:
        parts["passfile"] = service.access.replication_passfile
    return " ".join(f"{key}={quoted(value)}" for key, value in parts.items())


def quoted(value: str) -> str:
    """As libpq reads a value: in quotes where it holds anything that ends one."""
    if not re.search(r"[\s'\\]", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


async def set_conninfo(conn: Session, value: str) -> None:
    await conn.execute(f"ALTER SYSTEM SET primary_conninfo = {literal(value)}")
    await nudge(conn)


_CONNECTED = """
SELECT current_setting('primary_conninfo') <> $1
    OR EXISTS (SELECT FROM pg_stat_wal_receiver WHERE (sender_host, sender_port) IS DISTINCT FROM ($2::text, $3::int))
"""


async def _still_wanted(order: FenceOrder) -> None:
    """EpochSuperseded once the run has gone on: a worker that was frozen before it acts would cut off what follows the
    new primary by now, in the same epoch.
    """
    if order.record is not None:
        held = await epochs.read(order.zone, order.service.name)
        if held is None or (held.epoch, held.candidate, held.leader) != (
            order.record.epoch,
            order.record.candidate,
            order.record.leader,
        ):
            raise EpochSuperseded(f"the record says {held.candidate or held.leader} now" if held else "no record")


async def _disconnect(order: FenceOrder, member: Member) -> MemberFacts:
    """Stamp one standby, take its upstream away, and wait until nothing is received from it any more.

    One of `order.followers` is led to the likely candidate instead, which has no more than it had before either.
    """
    leader = order.service.member(order.likely) if order.likely and member.name in order.followers else None
    wanted = conninfo(order.service, member, leader) if leader else ""
    upstream = (leader.host, leader.port) if leader else (None, None)
    async with session(order.service, member) as conn:
        if leader is not None:
            with contextlib.suppress(SlotMissing, MemberUnreachable, *BROKEN):  # the fence first
                await prepare_slot(order.service, conn, leader)
        async with guarded(conn, order.epoch):
            await _still_wanted(order)
            await set_conninfo(conn, wanted)
        async with asyncio.timeout(2.0):
            # A receiver that is gone has flushed all that it got: the position no longer moves.
            while await conn.fetchval(_CONNECTED, wanted, *upstream):
                await asyncio.sleep(0.003)
        return await read_member(conn, member)


async def _in_time(order: FenceOrder, member: Member) -> MemberFacts:
    """Clients wait: an asynchronous standby of a dead primary, on which nobody counts, is heard only if prompt."""
    needed = member.name in (*order.voters, order.likely) or not order.at_once
    async with asyncio.timeout(None if needed else PROMPT_S):
        return await _disconnect(order, member)


@activity.defn
async def disconnect_standbys(order: FenceOrder) -> FenceResult:
    """Every member but the suspect, and but those that cascade from another: asynchronous first, voters last.

    A member that can't be reached is named, not waited for: the inequality decides whether it was needed.
    """
    suspect = order.service.member(order.suspect)
    direct = [m for m in order.service.members if m.name != suspect.name and m.follows in (None, suspect.name)]
    asynchronous = [m for m in direct if m.name not in order.voters]
    voters = [m for m in direct if m.name in order.voters]
    done: dict[str, MemberFacts] = {}
    missed: dict[str, str] = {}
    # Nothing can reach a dead primary's standbys past the fork, so that all are disconnected at once.
    groups = (asynchronous + voters,) if order.at_once else (asynchronous, voters)
    async with beating("disconnecting"):
        for group in (*groups, voters):
            group = [member for member in group if member.name not in done]  # the voters' second turn: those missed
            results = await asyncio.gather(*(_in_time(order, m) for m in group), return_exceptions=True)
            for member, result in zip(group, results, strict=True):
                if isinstance(result, MemberFacts):
                    done[member.name] = result
                    missed.pop(member.name, None)
                elif isinstance(result, EpochSuperseded):
                    raise result
                elif isinstance(result, (MemberUnreachable, *BROKEN, asyncpg.PostgresError)):
                    missed[member.name] = str(result) or type(result).__name__
                else:
                    raise result
    return FenceResult(disconnected=sorted(done), missed=missed, members=list(done.values()))


_RECEIVER = """
SELECT status, sender_host, sender_port, coalesce(greatest(received_tli, receive_start_tli), 0) AS timeline
  FROM pg_stat_wal_receiver
"""


async def _streams(conn: Session, leader: Member, timeline: int) -> bool:
    row = await conn.fetchrow(_RECEIVER)
    if row is None or row["timeline"] < timeline:
        return False
    return (row["status"], row["sender_host"], row["sender_port"]) == ("streaming", leader.host, leader.port)


_SENDS = "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming')"


async def follow(
    service: DatabaseService, standby: Member, leader: Member, epoch: int, *, limit: float, timeline: int = 0
) -> bool:
    """Let a standby follow the leader; whether it streams `timeline` from there within `limit` seconds."""
    async with session(service, standby) as conn:
        wanted = conninfo(service, standby, leader)
        if not await conn.fetchval("SELECT pg_is_in_recovery()"):
            raise MemberUnreachable(f"{standby.name} is not a standby")
        async with guarded(conn, epoch):
            await set_conninfo(conn, wanted)
        await prepare_slot(service, conn, leader)
        try:
            async with asyncio.timeout(limit), session(service, leader) as sender:
                # A receiver says `streaming` before its sender has agreed: both must say so.
                while not (await _streams(conn, leader, timeline) and await sender.fetchval(_SENDS, standby.name)):
                    await nudge(conn)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            return False
        return True


@activity.defn
async def follow_leader(order: FollowOrder) -> FollowResult:
    """Let each member follow the leader, confirmed by `streaming`. One that can't has diverged or is out of reach.

    A member that is declared to follow another one does so if that one follows; else the leader.
    """
    leader = order.service.member(order.leader)
    following: list[str] = []
    diverged: dict[str, str] = {}
    missing: dict[str, str] = {}

    async def one(name: str, upstream: Member) -> None:
        member = order.service.member(name)
        try:
            if await follow(order.service, member, upstream, order.epoch, limit=8.0, timeline=order.timeline):
                following.append(name)
            elif upstream is not leader:
                await one(name, leader)
            else:
                facts = (await look_at_all(order.service, [member]))[0]
                state = facts.receiver.status if facts.receiver else "no receiver"
                diverged[name] = (
                    f"{state} at timeline {facts.timeline}: rebuild it, or rewind it if it is past the fork"
                )
        except (MemberUnreachable, SlotMissing, *BROKEN, asyncpg.PostgresError) as error:
            missing[name] = str(error) or type(error).__name__
        activity.heartbeat({"following": following, "diverged": diverged, "unreachable": missing})

    waiting = dict(order.cascades)
    async with beating(f"until they stream from {leader.name}"):
        await asyncio.gather(*(one(name, leader) for name in order.members))
        while waiting:
            # One level after another: whether an upstream follows must be known before anybody is led to it.
            ready = {name: of for name, of in waiting.items() if of not in waiting}
            waiting = {name: of for name, of in waiting.items() if name not in ready}
            await asyncio.gather(
                *(one(name, order.service.member(of) if of in following else leader) for name, of in ready.items())
            )
        await drop_unused_slots(order.service, following)
    return FollowResult(following=sorted(following), diverged=diverged, unreachable=missing)


@activity.defn
async def until_caught_up(order: FollowOrder) -> ProofResult:
    """Wait until the members have replayed, within the RPO, all that the leader had written when it was asked."""
    service, leader = order.service, order.service.member(order.leader)
    loop = asyncio.get_running_loop()
    began = moved = loop.time()
    stood: dict[str, int] = {}
    while True:
        asked = loop.time()
        async with session(service, leader) as conn:
            target = int(await conn.fetchval("SELECT (pg_current_wal_lsn() - '0/0')::bigint"))
        while True:
            found = await look_at_all(service, [service.member(name) for name in order.members])
            behind = {each.member: target - (each.replayed or 0) for each in found}
            left = {name: bytes_ for name, bytes_ in behind.items() if bytes_ > 0}
            if not left:
                break
            if left != stood:
                moved, stood = loop.time(), left
            if loop.time() - moved > STUCK_S:
                raise NotYet(f"no progress for {STUCK_S:.0f} s; bytes behind {leader.name}: {left}")
            activity.heartbeat({"doing": "catching up", "bytes behind": left})
            await asyncio.sleep(0.05)
        lag = loop.time() - asked
        if lag <= max(service.rpo_s, 1.0):
            names = ", ".join(order.members)
            return ProofResult(
                acknowledged=True,
                evidence=f"{names} streams from {leader.name}, and replayed all within {lag:.1f} s"
                f" ({loop.time() - began:.1f} s to catch up)",
            )


@activity.defn
async def reconnect_standbys(order: FollowOrder) -> FollowResult:
    """Undo of the disconnection, behind a newer epoch; every member that is reached must stream again."""
    result = await follow_leader(order)
    if result.diverged or not result.following:
        raise NotYet(f"not streaming from {order.leader} yet: {result.diverged | result.unreachable}")
    return result


_END_CLIENTS = """
SELECT count(pg_terminate_backend(pid)) FILTER (WHERE mine) AS ended, count(*) FILTER (WHERE NOT mine) AS spared
  FROM (SELECT pid, mine FROM pg_stat_activity AS client,
               LATERAL (SELECT NOT usesuper OR (SELECT usesuper FROM pg_user WHERE usename = current_user) AS mine
                          FROM pg_user WHERE usesysid = client.usesysid) AS allowed
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND usename IS DISTINCT FROM current_user
       ) AS clients
"""
"""pg_signal_backend ends nobody's sessions who is a superuser (PostgreSQL's manual, 22.5)."""


@activity.defn
async def stall_primary(order: StallOrder) -> ProofResult:
    """Stall a primary that is reachable, and end its sessions; one that isn't is left to the other fences."""
    member = order.service.member(order.member)
    try:
        async with asyncio.timeout(2.0), session(order.service, member, limit=0.5) as conn:
            if await conn.fetchval("SELECT pg_is_in_recovery()"):
                return ProofResult(acknowledged=False, evidence=f"{member.name} is a standby")
            async with guarded(conn, order.epoch):
                await set_names(conn, STALLED)
            row = await conn.fetchrow(_END_CLIENTS)
    except (MemberUnreachable, *BROKEN, asyncpg.PostgresError) as error:
        return ProofResult(acknowledged=True, evidence=f"not stalled: {str(error) or type(error).__name__}")
    assert row is not None
    spared = f", {row['spared']} of superusers left" if row["spared"] else ""
    return ProofResult(acknowledged=False, evidence=f"{member.name} stalled, {row['ended']} sessions ended{spared}")


@activity.defn
async def unstall_primary(order: StallOrder) -> ProofResult:
    """Undo of the stall: the synchronous set of before, which the topology and the record give."""
    member = order.service.member(order.member)
    async with session(order.service, member) as conn:
        if await conn.fetchval("SELECT current_setting('synchronous_standby_names')") == STALLED:
            async with guarded(conn, order.epoch):
                await set_names(conn, order.names)
        names = await conn.fetchval("SELECT current_setting('synchronous_standby_names')")
    return ProofResult(acknowledged=True, evidence=f"{member.name} acknowledges with {names or 'no standby'}")


async def set_names(conn: Session, names: str) -> None:
    """Set synchronous_standby_names, and wait until this session shows it: the postmaster has reloaded then."""
    await conn.execute(f"ALTER SYSTEM SET synchronous_standby_names = {literal(names)}")
    async with asyncio.timeout(2.0):
        while await conn.fetchval("SELECT current_setting('synchronous_standby_names')") != names:
            await nudge(conn)
            await asyncio.sleep(0.005)


@activity.defn
async def prove_fence(order: ProofOrder) -> ProofResult:
    """A write that must not be acknowledged, ended by closing the socket: a cancelled wait would answer success."""
    member = order.service.member(order.member)
    where = host_port(member.host, member.port)
    try:
        conn = await open_session(order.service, member.host, member.port)
    except MemberUnreachable as error:
        closed = isinstance(error.__cause__, ConnectionRefusedError)
        how = "nothing listens there" if closed else f"no write could be tried: {error.detail}"
        return ProofResult(acknowledged=False, evidence=f"{where}: {how}", proves=closed)
    try:
        if await conn.fetchval("SELECT pg_is_in_recovery()", timeout=1.0):
            return ProofResult(acknowledged=False, evidence=f"{where} is a standby")
        await asyncio.wait_for(
            asyncio.shield(
                asyncio.ensure_future(
                    conn.fetchval("SELECT pg_logical_emit_message(true, 'lifeboat.fence', 'proof')", timeout=30)
                )
            ),
            1.0,
        )
    except TimeoutError:
        return ProofResult(acknowledged=False, evidence=f"{where}: a write waited 1 s and was not acknowledged")
    except (*BROKEN, asyncpg.PostgresError) as error:
        return ProofResult(acknowledged=False, evidence=f"{where}: the write failed: {type(error).__name__}: {error}")
    finally:
        conn.terminate()
    return ProofResult(acknowledged=True, evidence=f"{where} acknowledged a write")
