"""A member's own folder put back to a moment, from the same backup and the same WAL as the copy that was proved.

The verbs are data_folder.sh's, which says what becomes of the folder. The member's server runs as a standby of nobody
meanwhile: it can't end recovery by itself, and archives nothing before it is promoted.
"""

from __future__ import annotations

import asyncio

import asyncpg
from temporalio import activity

from activities.beating import beating
from activities.commands import TOLD
from activities.data_folder import ask, folder_of, run_job, tell
from activities.jobs import number, one
from activities.restore_host import facts_of
from activities.restoring import progress_of, settings_of
from activities.sessions import BROKEN, nudge, session
from schemas.cut_over import InPlaceOrder
from schemas.failures import MemberUnreachable, NotYet, StartedInVain
from schemas.orders import NodeOrder
from schemas.rejoin import FolderResult, HoldOrder, Room
from schemas.restores import CopyFacts

POLL_S = 0.1
STALLED_S = 120.0
"""Nothing was fetched and nothing replayed for so long: the archive does not give what the copy had of it."""

_STANDS = """
SELECT pg_is_in_recovery() AS recovering,
       CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END AS pause,
       coalesce(pg_last_wal_replay_lsn() - '0/0', 0)::bigint AS replayed,
       pg_last_xact_replay_timestamp() AS committed, to_regclass('lifeboat.heartbeat') IS NOT NULL AS beats
"""
_BEAT = "SELECT max(at) FROM lifeboat.heartbeat"


def _reaching(order: InPlaceOrder) -> tuple[str, ...]:
    """How the member's node reaches the repository: program, file, stanza, number, kind, and its name."""
    assert order.service.backup is not None
    repository = order.service.backup.repository
    config = folder_of(order.service.member(order.member)).backup_config or repository.config
    return (
        *(repository.program, config, repository.stanza, str(repository.repository)),
        *(repository.kind, repository.called),
    )


@activity.defn
async def look_before_restore(order: InPlaceOrder) -> Room:
    """Whether the member's node has the backup in reach, the histories up to the leader's timeline, by which it will
    choose its own, and the room. Nothing is changed. DataFolderFailed.
    """
    # The first timeline has none.
    timelines = (str(max(order.moment.timeline, 2)), str(order.led_on))
    async with beating(f"whether {order.backup.label} can be restored on {order.member}"):
        found = await ask(order, "restorable", order.backup.label, *timelines, *_reaching(order))
    return Room(bytes=order.backup.bytes, free=number(found, "room_kb") * 1024, used=number(found, "used_kb") * 1024)


@activity.defn
async def restore_in_place(order: InPlaceOrder) -> FolderResult:
    """The backup's files in the member's own folder, each compared, and the settings to recover with.

    It is not started. JobFailed: the folder is good for nothing but another attempt, or a rebuild.
    """
    began, folder = asyncio.get_running_loop().time(), folder_of(order.service.member(order.member))
    settings = "\n".join(
        (
            f"lifeboat.epoch = '{order.epoch:d}'",
            "primary_conninfo = ''",
            "primary_slot_name = ''",
            f'restore_command = \'sh "{folder.keep}/fetch" "%f" "%p"\'',
            settings_of(order.moment),
            "recovery_target_action = 'pause'",
        )
    )
    async with beating(f"restoring {order.backup.label} on {order.member}"):
        words = (order.backup.label, settings, *_reaching(order))
        await run_job(order, "restore", *words, progress=progress_of(order.backup))
    took = asyncio.get_running_loop().time() - began
    return FolderResult(evidence=f"{order.member} has the files of {order.backup.label}, in {took:.1f} s", seconds=took)


@activity.defn
async def until_it_stands(order: InPlaceOrder) -> CopyFacts:
    """Wait until the member stands still at the moment, seen twice. StartedInVain where its server has ended."""
    doing: dict[str, object] = {"doing": f"{order.member} recovers to {order.moment.text()}"}
    loop = asyncio.get_running_loop()
    moved, before, stood = loop.time(), CopyFacts(), 0
    async with beating(doing):
        while True:
            found = await _standing(order)
            doing |= {"file": found.newest_file, "files": found.fetched}
            if found.pause == "paused":
                if found.replayed == stood:
                    return found
                stood = found.replayed
            elif not found.running:
                raise StartedInVain(f"{order.member} ended before it stood at {order.moment.text()}: {_why(found)}")
            if found != before:
                moved, before = loop.time(), found
            elif loop.time() - moved > STALLED_S:
                raise NotYet(f"{order.member} recovers nothing for {STALLED_S:.0f} s: {_why(found)}")
            await asyncio.sleep(POLL_S)


def _why(found: CopyFacts) -> str:
    absent = ", ".join(f"{name} (exit {code})" for name, code in found.refused.items())
    return found.why or (f"the archive did not give {absent}" if absent else "its own log says why")


async def _standing(order: InPlaceOrder) -> CopyFacts:
    """The member in recovery, as its files and, once it takes sessions, its server tell it."""
    facts = facts_of(await ask(order, "recovered"))
    try:
        async with session(order.service, order.service.member(order.member)) as conn:
            row = await conn.fetchrow(_STANDS)
            assert row is not None
            beat = await conn.fetchval(_BEAT) if row["beats"] and order.service.detection.heartbeat else None
    except (MemberUnreachable, *BROKEN, asyncpg.PostgresError):
        return facts
    return facts.model_copy(
        update={
            "in_recovery": row["recovering"],
            "pause": row["pause"] or "",
            "replayed": row["replayed"],
            "last_commit": row["committed"],
            "heartbeat": beat,
            "unbeaten": row["beats"] and beat is None,
        }
    )


@activity.defn
async def settle_in_place(order: NodeOrder) -> FolderResult:
    """Once the member leads: nothing in its settings is of the recovery any more."""
    async with beating(f"the settings of {order.member}"):
        await tell(order, "settle")
        async with session(order.service, order.service.member(order.member)) as conn:
            await nudge(conn)
    return FolderResult(evidence=f"{order.member} has its own settings again")


@activity.defn
async def hold_folder(order: HoldOrder) -> FolderResult:
    """Keep a member's folder as it is, whatever a later run would do with it; `why` "": let it go."""
    async with beating(f"holding the folder of {order.member}"):
        await tell(order, *(["hold", order.why] if order.why else ["release"]))
        held = one(await ask(order, "look"), "held")
    return FolderResult(evidence=f"{order.member} is held: {held[-TOLD:]}" if held else f"{order.member} is not held")
