"""Promoting the recorded candidate by the synchronous policy (safety.md, "Promotion")."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
from temporalio import activity

from activities import epoch as epochs
from activities.beating import beating
from activities.fencing import conninfo, set_conninfo, set_names
from activities.sessions import BROKEN, Session, nudge, open_session, session
from activities.slots import prepare_slot
from activities.stamp import STAMP, guarded
from schemas.failures import (
    CandidateChanged,
    EpochSuperseded,
    MemberUnreachable,
    PromotionRefused,
    SlotMissing,
    SurvivorMissing,
)
from schemas.orders import NamesOrder, PromoteOrder, PromoteResult
from schemas.topology import Member

NUDGE_S = 0.01
"""Without a reload every 10 ms, 5 of 10 promotions right after a kill -9 took wal_retrieve_retry_interval, 5 s."""

CATCH_UP_S = 3.0
"""How long the survivors have to reach the candidate; then the run looks whether they are still there."""
LOOK_S, ANSWER_S = 2.0, 3.0
"""How often a server that is at its CHECKPOINT is asked for another session, and how long it has for that."""
SETTLE_S = 2.0
"""How long a promotion waits for its survivors on the new timeline; those that don't come are left to `follow`."""

_PROMOTE = f"SELECT CASE WHEN {STAMP} = $1 AND pg_is_in_recovery() THEN pg_promote(false) END"
"""One statement that checks the stamp and promotes; NULL when it did neither."""

_POSITION = (
    "SELECT greatest(coalesce(pg_last_wal_receive_lsn() - '0/0', 0),"
    " coalesce(pg_last_wal_replay_lsn() - '0/0', 0))::bigint"
)


async def _result(conn: Session, name: str, *, already: bool) -> PromoteResult:
    timeline = await conn.fetchval("SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int")
    written = await conn.fetchval("SELECT (pg_current_wal_lsn() - '0/0')::bigint")
    return PromoteResult(member=name, timeline=timeline, fork=written, already=already)


async def _point(order: PromoteOrder, standby: Member, leader: Member) -> None:
    """Let a survivor follow the candidate; nothing to do when the fence has led it there already."""
    wanted = conninfo(order.service, standby, leader)
    try:
        async with session(order.service, standby) as conn:
            done = f"SELECT {STAMP} = $1 AND current_setting('primary_conninfo') = $2"
            if not await conn.fetchval(done, order.record.epoch, wanted):
                await prepare_slot(order.service, conn, leader)
                async with guarded(conn, order.record.epoch):
                    await set_conninfo(conn, wanted)
    except (MemberUnreachable, SlotMissing, *BROKEN) as error:
        raise SurvivorMissing(f"{standby.name}: {error}") from error


async def _nudge_while(order: PromoteOrder, standby: Member, needed: asyncio.Event, done: asyncio.Event) -> None:
    """Keep a survivor's startup process awake, whenever it is `needed`."""
    with contextlib.suppress(MemberUnreachable, *BROKEN, asyncpg.PostgresError):
        async with session(order.service, standby) as conn:
            while not done.is_set():
                if needed.is_set():
                    await nudge(conn)
                await asyncio.sleep(NUDGE_S)


async def _caught_up(conn: Session, names: list[str], position: int) -> bool:
    """Whether each of `names` streams from this server and has flushed up to `position`."""
    return bool(
        await conn.fetchval(
            "SELECT count(DISTINCT application_name) = cardinality($1::text[]) FROM pg_stat_replication"
            " WHERE application_name = ANY ($1::text[]) AND state = 'streaming' AND (flush_lsn - '0/0') >= $2",
            names,
            position,
        )
    )


async def _must_be_chosen(order: PromoteOrder) -> None:
    """EpochSuperseded or CandidateChanged unless the record is this run's and names its candidate."""
    record, held = order.record, await epochs.read(order.zone, order.service.name)
    if held is None or (held.epoch, held.run) != (record.epoch, record.run):
        raise EpochSuperseded(f"epoch {held.epoch} is held by {held.run}" if held else "the record is gone")
    if record.candidate not in (held.candidate, held.leader):
        raise CandidateChanged(f"this run chose {record.candidate}, the record says {held.candidate}")
    if held.candidate is not None and held.candidate_voters != record.candidate_voters:
        raise CandidateChanged(f"it waits for {record.candidate_voters}, the record says {held.candidate_voters}")


@activity.defn
async def promote_candidate(order: PromoteOrder) -> PromoteResult:
    """Promote the record's candidate, and no other; done already when it leads on this epoch's stamp.

    Policy `required`: the survivors follow the candidate and have reached its position first, and it starts with
    them as its synchronous set, so that nothing it acknowledges dies with it.
    """
    record, service = order.record, order.service
    if order.recorded:
        await _must_be_chosen(order)
    if record.candidate is None:
        raise CandidateChanged("this run chose nobody")
    candidate = service.member(record.candidate)
    survivors = [service.member(name) for name in order.survivors]
    async with session(service, candidate) as conn:
        stamped = int(await conn.fetchval(f"SELECT {STAMP}"))
        if stamped > record.epoch:
            raise EpochSuperseded(f"{candidate.name} carries epoch {stamped}, this run {record.epoch}")
        if not await conn.fetchval("SELECT pg_is_in_recovery()"):
            if stamped != record.epoch and not order.adopt:
                raise PromotionRefused(f"{candidate.name} leads already, on the stamp of epoch {stamped}")
            async with _awake(order) as awake:
                awake.set()
                await _settle(conn, order)
            return await _result(conn, candidate.name, already=True)
        async with _awake(order) as awake:
            await asyncio.gather(
                _start_with(conn, record.epoch, order.names), *(_point(order, each, candidate) for each in survivors)
            )
            position = await conn.fetchval(_POSITION)
            try:
                async with asyncio.timeout(CATCH_UP_S):
                    while survivors and not await _caught_up(conn, order.survivors, position):
                        awake.set()
                        activity.heartbeat("survivors catch up")
                        await asyncio.sleep(NUDGE_S / 2)
            except TimeoutError:
                raise SurvivorMissing(f"{', '.join(order.survivors)}; {candidate.name} is not promoted") from None
            awake.clear()
            async with guarded(conn, record.epoch):
                await conn.fetchval(_PROMOTE, record.epoch)
            # pg_promote returning false is not failure (243 MB to replay: done after 3 s); the server's state is.
            async with asyncio.timeout(20.0):
                while await conn.fetchval("SELECT pg_is_in_recovery()"):
                    await nudge(conn)
                    activity.heartbeat("promoting")
                    await asyncio.sleep(NUDGE_S)
            awake.set()
            await _settle(conn, order)
            return await _result(conn, candidate.name, already=False)


@contextlib.asynccontextmanager
async def _awake(order: PromoteOrder) -> AsyncIterator[asyncio.Event]:
    """Keep the survivors awake while the event is set: each looks for its new upstream, then for the new timeline.

    Not in between: a reload goes to every process of a server, and clients wait for the same processors.
    """
    needed, done = asyncio.Event(), asyncio.Event()
    standbys = [order.service.member(name) for name in order.survivors]
    nudges = [asyncio.create_task(_nudge_while(order, standby, needed, done)) for standby in standbys]
    try:
        yield needed
    finally:
        done.set()
        await asyncio.gather(*nudges)


async def _settle(conn: Session, order: PromoteOrder) -> None:
    """Wait until the survivors follow the new timeline, for whom its first commit waits. Not for ever: it leads."""
    written = await conn.fetchval("SELECT (pg_current_wal_lsn() - '0/0')::bigint")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            while order.survivors and not await _caught_up(conn, order.survivors, written):
                activity.heartbeat("survivors follow the new timeline")
                await asyncio.sleep(NUDGE_S / 2)


_STARTS_WITH = f"SELECT {STAMP} = $1 AND current_setting('synchronous_standby_names') = $2"


async def _start_with(conn: Session, epoch: int, names: str) -> None:
    """The set that it will start with; nothing to do where this run has seen to it already."""
    if await conn.fetchval(_STARTS_WITH, epoch, names):
        return
    async with guarded(conn, epoch):
        # Looked at under the lock: a worker that was frozen before it must not bind a primary that leads by now.
        if await conn.fetchval("SELECT pg_is_in_recovery()"):
            await set_names(conn, names)


@activity.defn
async def prepare_candidate(order: NamesOrder) -> str:
    """Before clients wait: a standby that is to be promoted has this run's stamp, and the set that it will start with.

    A server in recovery waits for nobody, so that its set is without effect until then.
    """
    async with session(order.service, order.service.member(order.leader)) as conn:
        await _start_with(conn, order.epoch, order.names)
    return order.names


@activity.defn
async def apply_names(order: NamesOrder) -> str:
    """Set the leader's synchronous_standby_names; returns what is in force."""
    async with session(order.service, order.service.member(order.leader)) as conn:
        if await conn.fetchval("SELECT pg_is_in_recovery()"):
            raise PromotionRefused(f"{order.leader} is a standby, so its synchronous set is not changed")
        async with guarded(conn, order.epoch):
            await set_names(conn, order.names)
    return order.names


@activity.defn
async def checkpoint(order: NamesOrder) -> str:
    """CHECKPOINT after a promotion: below PostgreSQL 16 pg_rewind trusts a stale control file otherwise."""
    async with beating("CHECKPOINT"), session(order.service, order.service.member(order.leader)) as conn:
        await conn.execute("CHECKPOINT", timeout=120)
        return str(await conn.fetchval("SELECT pg_current_wal_lsn()"))


@activity.defn
async def prepare_primary(order: NamesOrder) -> str:
    """Before a planned stop: a fresh WAL file, and CHECKPOINT, so that little is left for the shutdown to write.

    A standby that changes to a new timeline asks for the WAL file under way from its beginning (RequestXLogStreaming in
    PostgreSQL's walreceiverfuncs.c), and the first commit there waits for it: 0.15 s for 10 MB, where clients wait.
    """
    async with beating("CHECKPOINT"), session(order.service, order.service.member(order.leader)) as conn:
        # A role that may not do it has a slower switchover.
        with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
            await conn.execute("SELECT pg_switch_wal()")
        writing = asyncio.create_task(conn.execute("CHECKPOINT", timeout=120))
        try:
            while not (await asyncio.wait({writing}, timeout=LOOK_S))[0]:
                # It may take long, and a failover waits for it: not for one of a server that is gone.
                await _must_answer(order)
            await writing
        finally:
            writing.cancel()
        return str(await conn.fetchval("SELECT pg_current_wal_lsn()"))


async def _must_answer(order: NamesOrder) -> None:
    """MemberUnreachable where a server takes no other session either."""
    member = order.service.member(order.leader)
    try:
        other = await open_session(order.service, member.host, member.port, limit=ANSWER_S)
    except BROKEN as error:
        raise MemberUnreachable(f"{member.name}: {error}") from error
    other.terminate()


@activity.defn
async def confirm_commit(order: NamesOrder) -> str:
    """A commit that is acknowledged under the set in force: everything before it is on those who acknowledged it."""
    async with session(order.service, order.service.member(order.leader)) as conn:
        await conn.execute("SELECT pg_logical_emit_message(true, 'lifeboat.set', 'confirm')", timeout=5)
        return str(await conn.fetchval("SELECT current_setting('synchronous_standby_names')"))
