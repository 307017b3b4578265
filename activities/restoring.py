"""Restoring a copy beside the service: room, files, recovery to the target, and its removal."""

from __future__ import annotations

import asyncio
import hashlib
import re

from temporalio import activity

from activities.beating import beating
from activities.jobs import Answers, Progress, number, one
from activities.restore_host import DAMAGED, ask, code_of, facts_of, lasting_failure, run_job, stays_damaged, told
from activities.sessions import literal
from schemas.failures import (
    BackupsUnreadable,
    NoBackupFits,
    NoRoomToRestore,
    RestoreFailed,
    RestoreHostFailed,
    TargetNotReached,
    WalMissing,
)
from schemas.restores import (
    Backup,
    CopyFacts,
    HostOrder,
    Moment,
    RecoverOrder,
    Restored,
    RestoreOrder,
    RoomOrder,
    SnapshotOrder,
    TableOrder,
    TableState,
)
from schemas.wal import position

POLL_S = 0.1
PERCENT = re.compile(r"\(([0-9.]+ ?[KMGT]?B), ([0-9.]+)%\)")
"""How pgBackRest tells of a file that it has restored: its size, and how much of the whole there is."""
LASTING = {*range(25, 38), 80, 81}
"""pgBackRest's own codes of what it was given and can't use (src/build/error/error.yaml)."""
WRITE = 64
"""It could not write what it restored: a full disk has no other words."""
FULL_BYTES = 16 * 1024 * 1024
"""Less than this is no room: not for one WAL file of the usual size."""
LOCAL = re.compile(r"[0-9A-F]{24}$")


@activity.defn
async def look_for_room(order: RoomOrder) -> int:
    """The bytes that are free for the copy. NoRoomToRestore where it would not fit; RestoreFailed where it can't have
    the network of its own that is declared.
    """
    async with beating(f"room on {order.host.name}"):
        answers = await ask(order, "room")
    if order.host.isolation == "namespace" and "shared" in answers:
        raise RestoreFailed(
            f"{order.host.name}: {one(answers, 'shared')}; its owner must let the servers' user make user and network"
            " namespaces there (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone,"
            " kernel.apparmor_restrict_unprivileged_userns), or declare `isolation: configuration`; then retry"
        )
    free, used = number(answers, "room_kb") * 1024, number(answers, "used_kb") * 1024
    needed = order.bytes + order.host.keep_free_bytes
    if free + used < needed:
        raise NoRoomToRestore(
            f"{order.host.name}: {order.host.directory} has {free} bytes free; the copy takes {order.bytes}, and"
            f" {order.host.keep_free_bytes} must be left"
        )
    return free


async def _full(order: HostOrder) -> NoRoomToRestore | None:
    """Why work on a copy ended, where its disk is full: by then no program can be relied on to have said so."""
    free = number(await ask(order, "room"), "room_kb") * 1024
    if free >= FULL_BYTES:
        return None
    return NoRoomToRestore(f"{order.host.name}: {order.host.directory} has filled up; {free} bytes are free")


def progress_of(backup: Backup) -> Progress:
    """Of a restore that begins now, as pgBackRest's own lines tell it."""
    began = asyncio.get_running_loop().time()

    async def progress(answers: Answers) -> dict[str, object]:
        found = PERCENT.search((answers.get("line") or [""])[-1])
        if found is None:
            return {}
        share, passed = float(found[2]) / 100, asyncio.get_running_loop().time() - began
        done = int(backup.bytes * share)
        left = None if not share else round(passed * (1 - share) / share, 1)
        return {"bytes": done, "of": backup.bytes, "rate": round(done / passed), "left_s": left}

    return progress


@activity.defn
async def restore_backup(order: RestoreOrder) -> Restored:
    """The backup's files, each with its checksum compared; one that was broken off goes on with what is there."""
    began, progress = asyncio.get_running_loop().time(), progress_of(order.backup)
    doing = f"restoring {order.backup.label}"
    mark = f"restore/{order.backup.label}/{order.round}"
    words = ["restore", order.backup.label, str(order.round)]
    answers = await run_job(order, mark, *words, doing=doing, progress=progress)
    if answers.get("code") != ["0"] or "done" not in answers:
        raise await _full(order) or _restore_failure(order, told(answers))
    return Restored(seconds=asyncio.get_running_loop().time() - began)


@activity.defn
async def keep_good(order: SnapshotOrder) -> str:
    """The copy's files as they are, to come back to, sharing their blocks; its server is stopped. Why not, or ""."""
    words = ["snapshot", order.moment]
    answers = await run_job(order, f"snapshot/{order.round}/{order.moment}", *words, doing="keeping the copy's files")
    return _why_none(answers)


@activity.defn
async def roll_back(order: RestoreOrder) -> str:
    """The copy as it was when its files were last kept. Why not, or "": it must be restored anew then."""
    words = ["roll_back", str(order.round)]
    answers = await run_job(order, f"roll-back/{order.round}", *words, doing="putting the copy's files back")
    return _why_none(answers)


def _why_none(answers: Answers) -> str:
    if answers.get("code") != ["0"] or "done" not in answers:
        raise RestoreHostFailed(told(answers))
    return (one(answers, "none") or "the file system shares no blocks") if "none" in answers else ""


def _restore_failure(order: HostOrder, text: str) -> Exception:
    """Which failures trying again can't help, by what pgBackRest says."""
    lower, code = text.lower(), code_of(text)
    if "no space left" in lower:
        return NoRoomToRestore(f"{order.host.name}: {text}")
    if (lasting := lasting_failure(text)) is not None:
        return lasting
    if code in LASTING:
        return RestoreFailed(text)
    # The same is said where the list of backups can't be read; the line before it says that, then.
    if re.search(r"backup set \S+ is not valid", lower) and "unable to load info file" not in lower:
        return RestoreFailed(f"the backup is gone: {text}")
    if code == WRITE:
        return RestoreHostFailed(f"{order.host.name}: {text}")
    return BackupsUnreadable(text)


def settings_of(moment: Moment) -> str:
    """Recovery's target, as postgresql.conf has it."""
    lines = [f"recovery_target_timeline = '{moment.timeline:d}'"]
    match moment.kind:
        case "immediate":
            lines.append("recovery_target = 'immediate'")
        case "time":
            assert moment.time is not None
            lines.append(f"recovery_target_time = {literal(moment.time.isoformat(sep=' ', timespec='microseconds'))}")
        case "lsn":
            lines.append(f"recovery_target_lsn = '{moment.lsn >> 32:X}/{moment.lsn & 0xFFFFFFFF:X}'")
            lines.append(f"recovery_target_inclusive = {'on' if moment.inclusive else 'off'}")
    return "\n".join(lines)


@activity.defn
async def recover_copy(order: RecoverOrder) -> CopyFacts:
    """Replay WAL to the target and stand still there, seen twice. It is never resumed: that would promote it."""
    settings = settings_of(order.moment)
    wanted = hashlib.sha256(settings.encode()).hexdigest()[:16]
    doing: dict[str, object] = {"doing": f"recovering to {order.moment.text()}"}
    async with beating(doing):
        await ask(order, "recover", wanted, ",".join(order.host.preload), settings)
        before: int | None = None
        while True:
            answers = await ask(order, "settle", _heartbeat_in(order))
            facts, still = facts_of(answers), position(one(answers, "still")) or None
            doing |= {"file": facts.newest_file, "to": order.last, "files": facts.fetched, "log": facts.line[-200:]}
            if facts.running and facts.pause == "paused" and facts.wanted == wanted:
                if facts.replayed in (still, before):
                    return facts
                before = facts.replayed
            elif facts.running and not facts.in_recovery and facts.replayed:
                await ask(order, "stop", "immediate")
                raise RestoreFailed(f"the copy left recovery by itself, and was stopped: {facts.line}")
            elif not facts.running:
                raise await _full(order) or _recovery_failure(facts, order.moment, activity.info().attempt)
            await asyncio.sleep(POLL_S)


def _recovery_failure(facts: CopyFacts, moment: Moment, attempt: int = 1) -> Exception:
    """Why the copy's server ended before its target."""
    fatal = " | ".join(facts.fatal) or facts.line or "it said nothing"
    unread = [f"{name} (exit {code})" for name, code in facts.refused.items() if code not in (0, 1)]
    if unread:
        why = f"recovery can't have {', '.join(unread)}" + (f": {facts.why}" if facts.why else "")
        return WalMissing(f"{why}: {DAMAGED}") if stays_damaged(why, attempt) else BackupsUnreadable(why)
    if "before configured recovery target was reached" in fatal:
        absent = [name for name, code in facts.refused.items() if code == 1 and LOCAL.match(name)]
        last = f", the last commit there was at {facts.ended_at}" if facts.ended_at else ""
        return TargetNotReached(f"{moment.text()}: {', '.join(absent) or 'the next file'} isn't in the archive{last}")
    if "before consistent recovery point" in fatal or "WAL ends before end of online backup" in fatal:
        return NoBackupFits(f"{moment.text()}: {fatal}")
    return (NoRoomToRestore if "No space left" in fatal else RestoreFailed)(fatal)


def _heartbeat_in(order: HostOrder) -> str:
    """The database that has the heartbeat row, if there is any."""
    return order.service.access.database if order.service.detection.heartbeat else ""


@activity.defn
async def look_at_copy(order: HostOrder) -> CopyFacts:
    """The copy as it stands. Nothing is changed."""
    return facts_of(await ask(order, "look", _heartbeat_in(order)))


_TABLE = """
SELECT c.oid::bigint, d.oid::bigint FROM pg_class c, pg_database d
 WHERE c.oid = to_regclass({name}) AND d.datname = current_database()
"""


@activity.defn
async def look_at_tables(order: TableOrder) -> list[TableState]:
    """Those of the tables that the copy has in the service's database, with their exact rows."""
    database, found = order.service.access.database, []
    async with beating("looking at the tables"):
        for table in order.tables:
            rows = (await ask(order, "query", database, _TABLE.format(name=literal(table)))).get("row", [])
            if not rows:
                continue
            oid, in_database = (int(each) for each in rows[0].split("|"))
            schema, _, name = table.partition(".")
            counted = await ask(order, "query", database, f'SELECT count(*) FROM "{schema}"."{name}"', limit=3600.0)
            found.append(TableState(table=table, oid=oid, database=in_database, rows=int(one(counted, "row"))))
    return found


@activity.defn
async def remove_copy(order: HostOrder) -> str:
    """The copy's server, jobs and folder are gone; done where there is none."""
    async with beating(f"removing {order.copy_name}"):
        answers = await ask(order, "look")
        owner = one(answers, "owner")
        if owner and owner != order.run:
            raise RestoreHostFailed(f"{order.copy_name} belongs to {owner}, and is left alone")
        await ask(order, "remove")
    return f"{order.copy_name} is removed from {order.host.name}"
