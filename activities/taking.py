"""Taking a backup on the leader's node, seeing that it is good, and removing what is kept no longer."""

from __future__ import annotations

import asyncio
import contextlib

import asyncpg
from temporalio import activity

from activities.beating import beating
from activities.jobs import Answers, one, until_ended
from activities.repository import (
    LOCKED,
    NOT_LATER,
    exit_of,
    job_told,
    lock_held,
    oldest_wal,
    on_node,
    stretches_of,
    trouble,
)
from activities.restore_host import backups_of
from activities.sessions import BROKEN, session
from activities.survey import read_record
from schemas.failures import (
    BackupFailed,
    BackupOvertaken,
    BackupUnderWay,
    FullNeeded,
    LifeboatError,
    MemberUnreachable,
)
from schemas.restores import Backup, Stretch
from schemas.takes import Confirmed, ConfirmOrder, Expired, Inventory, NodeBackupOrder, Taken, TakeOrder, WalSum
from schemas.wal import following

SIZE_S = 5.0
"""Every file of the leader is looked at for its size; one that takes longer is backed up without it."""
UNTIL_FREE_S = 1.0
WATCH_S = 2.0
"""How often it is looked who leads, while a backup is taken."""
_SERVER = """
SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system,
       (SELECT setting::int FROM pg_settings WHERE name = 'wal_segment_size') AS segment
"""
_BYTES = "SELECT sum(pg_database_size(oid))::bigint FROM pg_database"


def _job(order: NodeBackupOrder, what: str) -> str:
    return f"{what}/{order.run}"


@activity.defn
async def look_at_inventory(order: NodeBackupOrder) -> Inventory:
    """The repository's backups, whether one is under way on the node, and the leader's size. Nothing is changed."""
    service, member = order.service, order.service.member(order.member)
    async with beating(f"looking at the backups from {member.name}"):
        try:
            async with session(service, member) as conn:
                row = await conn.fetchrow(_SERVER)
                assert row is not None
                size = 0
                with contextlib.suppress(TimeoutError):
                    size = int(await conn.fetchval(_BYTES, timeout=SIZE_S) or 0)
        except (*BROKEN, asyncpg.PostgresError) as error:
            raise MemberUnreachable(f"{member.name}: {error}") from error
        found = await on_node(order, "info")
    info, stanza = one(found, "info"), order.policy.repository.stanza
    backups, _ = backups_of(info, stanza)
    return Inventory(
        member=member.name,
        backups=backups,
        why=trouble(info, stanza),
        locked=lock_held(info, stanza),
        under_way=one(found, "under_way"),
        system=row["system"],
        bytes=size,
        segment_bytes=row["segment"],
        oldest_wal=oldest_wal(info, stanza, backups[-1].archive) if backups else "",
    )


@activity.defn
async def take_backup(order: TakeOrder) -> Taken:
    """Take one on the node, as a job that outlives this worker; one that has ended well is not taken again by this run.

    BackupUnderWay: another's is. BackupOvertaken: the member leads no more, and the job was ended. FullNeeded.
    BackupFailed.
    """
    began, watched = asyncio.get_running_loop().time(), 0.0
    doing: dict[str, object] = {"doing": f"{order.kind} backup of {order.member}"}

    async def carry_out(verb: str, *words: str) -> Answers:
        return await on_node(order, "take" if verb == "begin" else verb, *words)

    async def progress(_: Answers) -> dict[str, object]:
        nonlocal watched
        passed = asyncio.get_running_loop().time() - began
        if passed - watched > WATCH_S:
            watched = passed
            await _must_lead(order)
        copied, _sign, share = one(await on_node(order, "progress"), "copied").partition(";")
        far = _how_far(int(copied or 0), float(share or 0) / 100, passed)
        doing.update(far)
        return far

    async with beating(doing):
        await _must_lead(order)
        words = ["backup", order.kind]
        answers = await until_ended(carry_out, _job(order, "backup"), words, str(doing["doing"]), progress)
    label = one(answers, "label")
    if answers.get("code") == ["0"] and label:
        return Taken(label=label, seconds=asyncio.get_running_loop().time() - began)
    if answers.get("code") == ["busy"] or exit_of(answers) == LOCKED:
        raise BackupUnderWay(f"{order.member}: {one(answers, 'holder') or job_told(answers)}")
    failure = FullNeeded if exit_of(answers) == NOT_LATER and order.kind != "full" else BackupFailed
    raise failure(f"{order.member}: {one(answers, 'code') or 'nothing'}: {job_told(answers)}")


def _how_far(copied: int, share: float, passed: float) -> dict[str, object]:
    """What pgBackRest copies in all it doesn't say: only how much it has, and which share of the whole that is."""
    if not copied or not share:
        return {}
    left = round(passed * (1 - share) / share, 1)
    return {"bytes": copied, "of": round(copied / share), "rate": round(copied / passed), "left_s": left}


async def _must_lead(order: NodeBackupOrder) -> None:
    """By the epoch record, where it can be read: a server that leads no more can't end its backup, nor archive."""
    record, _ = await read_record(order.service, order.zone)
    if record is None or record.leader == order.member:
        return
    with contextlib.suppress(LifeboatError):
        await on_node(order, "stop", _job(order, "backup"))
    raise BackupOvertaken(f"{record.leader} leads, and {order.member} did when the backup was begun")


@activity.defn
async def stop_backup(order: NodeBackupOrder) -> str:
    """Undo of `take_backup`: its job is ended, where it is still under way. A backup that has ended stays; what was
    copied of another is resumed, or dropped, by the next one."""
    async with beating(f"ending the backup of {order.member}"):
        found = await on_node(order, "stop", _job(order, "backup"))
    return f"the backup was ended on {order.member}" if found.get("ended") else "none was under way"


@activity.defn
async def until_no_other(order: NodeBackupOrder) -> str:
    """Wait until no other backup or removal is under way on the node; how long."""
    began = asyncio.get_running_loop().time()
    async with beating(f"waiting for another backup on {order.member}"):
        while True:
            found = await on_node(order, "info")
            if not found.get("under_way") and not lock_held(one(found, "info"), order.policy.repository.stanza):
                return f"{asyncio.get_running_loop().time() - began:.0f} s"
            await _must_lead(order)
            await asyncio.sleep(UNTIL_FREE_S)


@activity.defn
async def confirm_backup(order: ConfirmOrder) -> Confirmed:
    """The backup as the repository has it, and the WAL since the one before. Nothing is changed."""
    async with beating(f"looking at {order.label}"):
        backups, _ = backups_of(one(await on_node(order, "info"), "info"), order.policy.repository.stanza)
        backup = next((each for each in backups if each.label == order.label), None)
        if backup is None:
            return Confirmed(backup=None)
        stretches, wal = await _archived(order, backup, backup.wal_start)
        if order.previous is not None:
            _, wal = await _archived(order, backup, following(order.previous.wal_stop, order.segment_bytes))
    return Confirmed(backup=backup, stretches=stretches, wal=wal)


async def _archived(order: ConfirmOrder, backup: Backup, first: str) -> tuple[list[Stretch], WalSum]:
    words = ("archive", backup.archive, str(order.segment_bytes), first[8:], backup.wal_stop[8:])
    return stretches_of(await on_node(order, *words))


@activity.defn
async def expire_backups(order: NodeBackupOrder) -> Expired:
    """Remove, or archive, what retention no longer keeps: done where there is nothing."""
    stanza = order.policy.repository.stanza

    async def carry_out(*words: str) -> Answers:
        return await on_node(order, *words, kind="expire")

    doing = f"removing what is kept no longer, from {order.member}"
    async with beating(doing):
        answers = await until_ended(carry_out, _job(order, "expire"), ["expire"], doing)
        if exit_of(answers) == LOCKED:
            raise BackupUnderWay(f"{order.member}: {job_told(answers)}")
        if answers.get("code") != ["0"]:
            raise BackupFailed(f"{order.member}: {job_told(answers)}")
        info = one(await on_node(order, "info"), "info")
    backups, _ = backups_of(info, stanza)
    return Expired(
        left=[each.label for each in backups],
        oldest_wal=oldest_wal(info, stanza, backups[-1].archive) if backups else "",
        warnings=answers.get("warning", []),
        classes={name: int(kept) for name, _, kept in (each.partition(";") for each in answers.get("class", []))},
    )
