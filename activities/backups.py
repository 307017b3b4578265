"""What there is to restore from: the repository's backups, the archive's WAL, and what is written in it."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime

import asyncpg
from temporalio import activity

from activities.beating import beating
from activities.jobs import Answers, branches_of, number, one
from activities.restore_host import DAMAGED, ask, backups_of, databases_of, run_job, stays_damaged, told
from activities.sessions import BROKEN, session
from schemas.facts import Branch
from schemas.failures import (
    BackupsUnreadable,
    MemberUnreachable,
    NoBackupFits,
    NotYet,
    RestoreFailed,
    RestoreHostFailed,
    WalMissing,
)
from schemas.restores import (
    Archived,
    ArchiveOrder,
    Backup,
    Found,
    HostOrder,
    LookOrder,
    Place,
    Repository,
    ScanOrder,
    Stretch,
)
from schemas.wal import number_of, position

PROBE_S = 300.0
"""Limit of restoring what a cluster has besides its users' databases."""
OPENED_BY = 3
"""The newest backups, that many, of which one must be good enough to open the archive."""
ARCHIVED_S = 30.0
"""How long the leader's archiver is waited for."""

_WRITTEN = """
SELECT pg_walfile_name(pg_switch_wal() - 1) AS file,
       (SELECT setting::int FROM pg_settings WHERE name = 'wal_segment_size') AS bytes,
       (SELECT system_identifier::text FROM pg_control_system()) AS system
"""
_ARCHIVER = """
SELECT last_archived_wal, last_failed_wal, last_failed_time > coalesce(last_archived_time, '-infinity') AS fails
  FROM pg_stat_archiver
"""


@activity.defn
async def archive_what_is_written(order: ArchiveOrder) -> Archived:
    """End the leader's WAL file, and wait until it is archived: NotYet, with what its archiver says, after 30 s."""
    service, leader = order.service, order.service.member(order.leader)
    try:
        async with beating(f"the archiver of {leader.name}"), session(service, leader) as conn:
            row = await conn.fetchrow(_WRITTEN)
            assert row is not None
            file, end = row["file"], asyncio.get_running_loop().time() + ARCHIVED_S
            while True:
                seen = await conn.fetchrow(_ARCHIVER)
                assert seen is not None
                # A history file, or a file of an older timeline, may be the newest that was archived.
                if (seen["last_archived_wal"] or "")[:24] >= file:
                    break
                if asyncio.get_running_loop().time() > end:
                    failing = f": it fails at {seen['last_failed_wal']}" if seen["fails"] else ""
                    raise NotYet(f"{leader.name} has not archived {file}{failing}; its owner should look at its log")
                await asyncio.sleep(0.1)
    except (*BROKEN, asyncpg.PostgresError) as error:
        raise MemberUnreachable(f"{leader.name}: {error}") from error
    return Archived(file=file, segment_bytes=row["bytes"], system=row["system"], timeline=int(file[:8], 16))


@activity.defn
async def open_archive(order: HostOrder) -> str | None:
    """What pgBackRest needs to hand out WAL on the host, where no cluster is: the newest backup's pg_control.

    An older backup has it as well, where the newest is damaged: then that is told.
    """
    stanza, damaged = order.policy.repository.stanza, []
    async with beating("opening the archive"):
        for backup in reversed((await _backups(order))[-OPENED_BY:]):
            left_out = databases_of(one(await ask(order, "info", backup.label), "info"), stanza)
            try:
                await ask(order, "probe", order.run, backup.label, *left_out, limit=PROBE_S)
            except RestoreFailed as error:
                damaged.append((backup.label, error))
                continue
            return "; ".join(f"{label} can't be restored: {why.detail}" for label, why in damaged) or None
    raise damaged[0][1]


async def _backups(order: HostOrder) -> list[Backup]:
    """Oldest first, at least one; else NoBackupFits."""
    stanza = order.policy.repository.stanza
    backups, why = backups_of(one(await ask(order, "info"), "info"), stanza)
    if not backups:
        raise NoBackupFits(f"there is no backup in {stanza}: {why or 'take one'}")
    return backups


@activity.defn
async def read_repository(order: LookOrder) -> Repository:
    """Every backup, and the archive's WAL of the intended timeline and of those that it comes from.

    The archive must be open (`open_archive`): a timeline's history is had from it.
    """
    async with beating("reading the repository"):
        backups = await _backups(order)
        archive, oldest = backups[-1].archive, min(each.wal_start for each in backups)
        known = [] if order.timeline else await _timelines(order, archive)
        timeline = order.timeline or max(known, default=int(oldest[:8], 16))
        found = await ask(order, "history", f"{timeline:08X}") if timeline > 1 else {}
        if timeline > 1 and "branch" not in found:
            raise NoBackupFits(f"the archive knows no timeline {timeline}: {timeline:08X}.history is not in it")
        branches = branches_of(found.get("branch", []))
        _must_be_clear(timeline, known, branches)
        stretches: list[Stretch] = []
        for each in [*(branch.timeline for branch in branches), timeline]:
            stretches += await _stretches(order, archive, each, oldest)
    return Repository(
        backups=backups,
        timeline=timeline,
        branches=branches,
        stretches=stretches,
        segment_bytes=order.segment_bytes,
    )


async def _timelines(order: LookOrder, archive: str) -> list[int]:
    """All that the archive has a history of: where nobody leads who could be asked, the newest is taken for his."""
    return [int(each, 16) for each in (await ask(order, "timelines", archive)).get("timeline", [])]


def _must_be_clear(timeline: int, known: list[int], branches: list[Branch]) -> None:
    """A number is given to whoever is promoted next, on whichever branch: the highest need not be the living one."""
    beside = sorted({*known} - {timeline} - {each.timeline for each in branches})
    if beside:
        raise NoBackupFits(
            f"nobody leads who could tell which branch is the living one: timeline {timeline} does not come from"
            f" {', '.join(map(str, beside))}, which the archive has as well; name one (`--timeline`)"
        )


async def _stretches(order: LookOrder, archive: str, timeline: int, oldest: str) -> list[Stretch]:
    name = f"{timeline:08X}"
    answers = await ask(order, "segments", archive, name, name + oldest[8:], str(order.segment_bytes))
    pairs = [each.split(";") for each in answers.get("stretch", [])]
    return [Stretch(first=first, last=last) for first, last in pairs]


@activity.defn
async def read_wal(order: ScanOrder) -> Found:
    """Read the archive's WAL for a moment, on the restore host. WalMissing names a file that isn't there."""
    stretches = [f"{each.first};{each.last}" for each in order.stretches]
    start = f"{order.lsn >> 32:X}/{order.lsn & 0xFFFFFFFF:X}" if order.lsn else ""
    words = ["scan", str(order.segment_bytes), start, order.what, *stretches]

    async def progress(answers: Answers) -> dict[str, object]:
        _, had, file = (answers.get("line") or [""])[-1].rpartition("have ")
        return {"file": file, "to": order.stretches[-1].last} if had else {}

    mark = f"scan/{order.what}/{'/'.join(stretches)}"
    answers = await run_job(order, mark, *words, doing="reading WAL", progress=progress)
    if answers.get("code") != ["0"] or "done" not in answers:
        raise _wal_failure(told(answers), activity.info().attempt)
    _must_be_whole(order, answers)
    commit = one(answers, "newest").split(";")
    return Found(
        places=[_place(each) for each in answers.get("moment", [])],
        newest_commit=utc(commit[2]) if len(commit) == 3 else None,
        newest_commit_lsn=position(commit[0]),
        newest_lsn=position(one(answers, "end")),
        records=number(answers, "records"),
    )


def _wal_failure(text: str, attempt: int = 1) -> Exception:
    exited = re.search(r"archive-get exited (\d+)", text)
    if exited is None:
        return RestoreHostFailed(text)
    if exited[1] == "1":
        return WalMissing(text)
    return WalMissing(f"{text}: {DAMAGED}") if stays_damaged(text, attempt) else BackupsUnreadable(text)


def _must_be_whole(order: ScanOrder, answers: Answers) -> None:
    """pg_waldump ends with an error at the end of the WAL, and at a page that is no good: only the place tells."""
    last = order.stretches[-1].last
    reached = position(one(answers, "end")) // order.segment_bytes
    if reached < number_of(last, order.segment_bytes):
        at = one(answers, "end") or "its beginning"
        raise WalMissing(f"the WAL can't be read past {at}, and it goes on to {last}: a file is damaged")


def _place(told_as: str) -> Place:
    lsn, xid, at, what = told_as.split(";")
    return Place(lsn=position(lsn), xid=int(xid), at=utc(at), what=what)


def utc(text: str) -> datetime | None:
    """`2026-11-25 10:00:00.123456` of pg_waldump, which runs in UTC; None for none."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None
