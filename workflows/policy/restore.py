"""Which backup leads to a target, which WAL that takes, and whether a copy is what it should be.

docs/explanation/safety.md, Point-in-time restore: a target before the backup's end gives a later state in silence, one
after the last commit ends the server, and `latest` follows whatever branch was promoted last.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from schemas.restore_requests import Target
from schemas.restores import Backup, CopyFacts, Found, Moment, Place, Proof, Repository, Stretch
from schemas.wal import file_of, following, named, number_of, position

HEARTBEAT_S = 2.0
"""A heartbeat is written every second; the one before the target is not older than this."""
FAILOVER_S = 60.0
"""But for so long while somebody else comes to lead: clients may commit before the heartbeat is back."""


def lsn_text(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:08X}"


# Timelines


def switches(repository: Repository) -> dict[int, int]:
    """Where each timeline of the intended one's history was left."""
    return {each.timeline: each.switch for each in repository.branches}


def on_the_way(repository: Repository, backup: Backup) -> bool:
    """Whether the intended timeline comes from where the backup ended."""
    if backup.timeline == repository.timeline:
        return True
    left = switches(repository).get(backup.timeline)
    return left is not None and backup.lsn_stop <= left


def legs(repository: Repository, backup: Backup, since: int | None = None) -> tuple[list[Stretch], str]:
    """The WAL from the backup's start (or `since`) to the archive's end, one stretch a timeline, and what is missing.

    A timeline that was left has its last file under the next one's name: the old one is archived as `.partial`.
    """
    size, at = repository.segment_bytes, backup.lsn_start if since is None else since
    left = switches(repository)
    chain = [*(each.timeline for each in repository.branches), repository.timeline]
    found: list[Stretch] = []
    for timeline in chain[chain.index(backup.timeline) :]:
        if timeline in left and left[timeline] <= at:
            continue
        first = file_of(timeline, at, size)
        stretch = next(
            (each for each in repository.stretches if each.first <= first <= each.last and each.first[:8] == first[:8]),
            None,
        )
        if timeline not in left:
            if stretch is None:
                return found, first
            found.append(Stretch(first=first, last=stretch.last))
            later = any(each.first > stretch.last for each in repository.stretches)
            claimed = repository.archived[:8] == stretch.last[:8] and repository.archived > stretch.last
            return found, following(stretch.last, size) if later or claimed else ""
        at = left[timeline]
        if file_of(timeline, at, size) == first:
            continue
        last = file_of(timeline, at // size * size - 1, size)
        if stretch is None or stretch.last < last:
            return found, first if stretch is None else following(stretch.last, size)
        found.append(Stretch(first=first, last=last))
    return found, ""


def last_file(repository: Repository, backup: Backup, moment: Moment) -> str:
    """The last WAL file that recovery to this moment may need; of a time it is not known where it lies."""
    if moment.kind == "immediate":
        return backup.wal_stop
    if moment.kind == "lsn":
        return file_of(moment.timeline, moment.lsn, repository.segment_bytes)
    stretches, _ = legs(repository, backup)
    return stretches[-1].last if stretches else ""


def end_of(stretch: Stretch, files: int, size: int) -> Stretch:
    """The last files of a stretch, that many at most."""
    first = named(stretch.last[:8], max(number_of(stretch.last, size) - files + 1, 0), size)
    return Stretch(first=max(first, stretch.first), last=stretch.last)


def before_lsn(stretches: Sequence[Stretch], lsn: int, size: int) -> list[Stretch]:
    """The stretches up to the file that holds `lsn`."""
    found = []
    for each in stretches:
        last = file_of(int(each.first[:8], 16), lsn, size)
        if each.first <= last:
            found.append(Stretch(first=each.first, last=min(each.last, last)))
    return found


def left_text(repository: Repository) -> str:
    """What is on no way to the intended timeline, though it may be archived; "" where nothing was left."""
    left = [f"timeline {each.timeline} at {lsn_text(each.switch)}" for each in repository.branches]
    return f"it left {', '.join(left)}: what was written there afterwards takes that `timeline`" if left else ""


# The target


def choose_backup(
    repository: Repository, *, before: datetime | None = None, lsn: int | None = None
) -> tuple[Backup | None, str]:
    """The newest backup that had ended by then, on the intended timeline's way; or None, and what could be had."""
    able = [each for each in repository.backups if not each.broken and on_the_way(repository, each)]
    if not able:
        bad = broken_text(repository)
        return None, f"no backup leads to timeline {repository.timeline}: take one" + (f"; {bad}" if bad else "")
    fits = [
        each for each in able if (before is None or each.stopped <= before) and (lsn is None or each.lsn_stop <= lsn)
    ]
    if not fits:
        oldest = able[0]
        return None, (
            f"the oldest backup, {oldest.label}, ended after it: at {oldest.stopped.isoformat(sep=' ')}, at"
            f" {lsn_text(oldest.lsn_stop)}; nothing before that can be restored"
        )
    newest = fits[-1]
    skipped = [
        each.label
        for each in repository.backups
        if each.broken and each.stopped > newest.stopped and (before is None or each.stopped <= before)
        if on_the_way(repository, each) and (lsn is None or each.lsn_stop <= lsn)
    ]
    passed = f"; passed over, since pages were bad when it was taken: {', '.join(skipped)}" if skipped else ""
    return newest, f"{newest.label} is the newest that had ended by then{passed}"


def broken_text(repository: Repository, after: Backup | None = None) -> str:
    """Backups, newer than `after`, in which pgBackRest itself found bad pages; "" for none."""
    bad = [each.label for each in repository.backups if each.broken and (after is None or each.stopped > after.stopped)]
    return f"pages were bad when {', '.join(bad)} was taken" if bad else ""


def after_backup(found: Found, backup: Backup) -> Found:
    """Without a newest commit that was made while the backup was taken: recovery can't stand still before its end."""
    early = found.newest_commit_lsn < backup.lsn_stop
    return found.model_copy(update={"newest_commit": None, "newest_commit_lsn": 0}) if early else found


def resolve(target: Target, repository: Repository, found: Found, missing: str) -> Moment | str:
    """A time or an LSN as recovery takes it, or why it can't be reached. `found`: the newest that is archived."""
    timeline = repository.timeline
    gone = f"; WAL file {missing} is missing from the archive" if missing else ""
    if target.time is not None:
        if found.newest_commit is None:
            return f"the archive holds no commit after the backup{gone}"
        if target.time > found.newest_commit:
            newest = found.newest_commit.isoformat(sep=" ")
            return f"{target.time.isoformat(sep=' ')} is after the last commit that is archived, at {newest}{gone}"
        if target.time == found.newest_commit:
            return newest_moment(found, timeline, "its time is that of the last commit that is archived")
        return Moment(kind="time", timeline=timeline, time=target.time, reason=_branch_reason(target, repository))
    assert target.lsn is not None
    at = position(target.lsn)
    if at > found.newest_lsn:
        return f"{target.lsn} is after the end of the archived WAL, at {lsn_text(found.newest_lsn)}{gone}"
    return Moment(
        kind="lsn",
        timeline=timeline,
        lsn=at,
        inclusive=not target.exclusive,
        reason=_branch_reason(target, repository),
    )


def newest_moment(found: Found, timeline: int, reason: str) -> Moment:
    """The last commit that is archived, by its LSN: by its time, recovery would wait for one that is later than it, and
    end in vain.
    """
    return Moment(kind="lsn", timeline=timeline, lsn=found.newest_commit_lsn, near=found.newest_commit, reason=reason)


def _branch_reason(target: Target, repository: Repository) -> str:
    if target.timeline is not None:
        return f"timeline {repository.timeline} was asked for"
    if repository.branches:
        return f"timeline {repository.timeline} is the living branch of history"
    return "there is one timeline only"


def place_of(target: Target, places: Sequence[Place], timeline: int) -> Moment | str | None:
    """The moment among the places that were found; None where none fits, or why it is not clear which one is meant."""
    fits = [each for each in places if target.until is None or each.at is None or each.at <= target.until]
    if not fits:
        return None
    if target.xid is not None:
        place = fits[0]
        if place.what.startswith("ABORT"):
            return f"transaction {target.xid} was rolled back: there is no state with it"
        return Moment(
            kind="lsn",
            timeline=timeline,
            lsn=place.lsn,
            inclusive=not target.exclusive,
            xid=place.xid,
            near=place.at,
            reason=f"transaction {target.xid} committed at {lsn_text(place.lsn)}, {place.at}",
        )
    if len(fits) > 1 and target.until is None:
        listed = ", ".join(f"{lsn_text(each.lsn)} ({each.at or 'no time'})" for each in fits)
        return f"{target.text()}: it happened more than once, at {listed}; say `until` or name one by its `lsn`"
    place = fits[-1]
    if target.before_drop is not None:
        return Moment(
            kind="lsn",
            timeline=timeline,
            lsn=place.lsn,
            inclusive=False,
            xid=place.xid,
            near=place.at,
            reason=f"transaction {place.xid} dropped {target.before_drop} and committed at {place.at}; its lock is at"
            f" {lsn_text(place.lsn)}",
        )
    return Moment(
        kind="lsn",
        timeline=timeline,
        lsn=place.lsn,
        inclusive=not target.exclusive,
        near=place.at,
        reason=f"restore point {target.name} is at {lsn_text(place.lsn)}",
    )


def not_taken(target: Target, places: Sequence[Place], moment: Moment) -> list[str]:
    """The other places that were found, and why it is not one of them."""
    told = []
    for each in places:
        if each.lsn == moment.lsn:
            continue
        late = target.until is not None and each.at is not None and each.at > target.until
        why = "after `until`" if late else "an earlier one" if each.lsn < moment.lsn else "a later one"
        told.append(f"{lsn_text(each.lsn)} ({each.at or 'no time'}): {why}")
    return told


# The proof


def prove(
    copy: CopyFacts, backup: Backup, moment: Moment, repository: Repository, *, system: str, heartbeat: bool
) -> list[Proof]:
    """Clause by clause what makes a copy that stands still good (safety.md, "good only if")."""
    return [
        _ended_before(copy, backup, moment),
        _stands_still(copy),
        _not_after(copy, moment),
        _close(copy, moment, heartbeat, led_before=bool(repository.branches)),
        _branch(copy, moment, repository),
        Proof(
            clause="it is the same cluster",
            ok=copy.system == backup.system and (not system or copy.system == system),
            evidence=f"system identifier {copy.system}; the backup's {backup.system}"
            + (f", the leader's {system}" if system else "; nobody leads who could be compared"),
        ),
        _whole(copy, backup),
        _reaches_nobody(copy),
    ]


def _ended_before(copy: CopyFacts, backup: Backup, moment: Moment) -> Proof:
    at = f"{backup.stopped.isoformat(sep=' ')}, {lsn_text(backup.lsn_stop)}"
    ok = copy.replayed >= backup.lsn_stop and (moment.time is None or backup.stopped <= moment.time)
    return Proof(
        clause="the backup had ended before the target",
        ok=ok,
        evidence=f"{backup.label} ended at {at}; replayed to {lsn_text(copy.replayed)}",
    )


def _stands_still(copy: CopyFacts) -> Proof:
    ok = copy.running and copy.in_recovery and copy.pause == "paused"
    return Proof(
        clause="recovery stands still at the target",
        ok=ok,
        evidence=f"{copy.pause or 'not paused'}, in recovery: {'yes' if copy.in_recovery else 'no'}, twice at"
        f" {lsn_text(copy.replayed)}",
    )


def _not_after(copy: CopyFacts, moment: Moment) -> Proof:
    clause = "nothing after the target was replayed"
    last = copy.last_commit.isoformat(sep=" ") if copy.last_commit else "none"
    if moment.kind == "time":
        ok = copy.last_commit is None or moment.time is None or copy.last_commit <= moment.time
        return Proof(clause=clause, ok=ok, evidence=f"last commit at {last}, target {moment.time}")
    if moment.kind == "lsn":
        late = moment.near is not None and copy.last_commit is not None and copy.last_commit > moment.near
        # With the record itself, what was replayed ends behind it.
        ok = not late and (moment.inclusive or copy.replayed <= moment.lsn)
        return Proof(clause=clause, ok=ok, evidence=f"replayed to {lsn_text(copy.replayed)}, last commit at {last}")
    return Proof(clause=clause, ok=None, evidence="the target is the backup's own end")


def _close(copy: CopyFacts, moment: Moment, heartbeat: bool, *, led_before: bool) -> Proof:
    clause = "the heartbeat is within a second or two of the target"
    at = moment.time or moment.near or (copy.last_commit if moment.kind == "lsn" else None)
    if not heartbeat or at is None:
        why = "the service declares none (`detection.heartbeat`)" if not heartbeat else "the target has no time"
        return Proof(clause=clause, ok=None, evidence=why)
    if copy.unbeaten:
        return Proof(clause=clause, ok=None, evidence="none had been written by then")
    if copy.heartbeat is None:
        return Proof(clause=clause, ok=False, evidence="there is no heartbeat row in the copy")
    age = (at - copy.heartbeat).total_seconds()
    since = (at - copy.last_commit).total_seconds() if copy.last_commit is not None else None
    if led_before and HEARTBEAT_S < age <= FAILOVER_S and since is not None and 0 <= since <= HEARTBEAT_S:
        told = f"{age:.2f} s before the target, and the last commit {since:.2f} s: it pauses while another takes over"
        return Proof(clause=clause, ok=None, evidence=told)
    return Proof(
        clause=clause,
        ok=-HEARTBEAT_S <= age <= HEARTBEAT_S,
        evidence=f"{copy.heartbeat.isoformat(sep=' ')}, {age:.2f} s before the target",
    )


def _branch(copy: CopyFacts, moment: Moment, repository: Repository) -> Proof:
    left = switches(repository).get(copy.timeline)
    ok = copy.timeline == moment.timeline or (left is not None and copy.replayed <= left)
    told = f"replayed WAL of timeline {copy.timeline}; wanted {moment.timeline}"
    if left is not None:
        told += f", which left it at {lsn_text(left)}"
    return Proof(clause="it is on the intended timeline", ok=ok, evidence=told)


def _whole(copy: CopyFacts, backup: Backup) -> Proof:
    absent = [name for name, code in copy.refused.items() if code not in (0, 1)]
    named = [name for name, code in copy.refused.items() if code == 1 and len(name) == 24]
    inside = [name for name in named if name[8:] <= copy.newest_file[8:]]
    return Proof(
        clause="every WAL file was there",
        ok=copy.fetched > 0 and not absent and not inside,
        evidence=f"{copy.fetched} files from {backup.wal_start} to {copy.newest_file}"
        + (f"; not had: {', '.join([*absent, *inside])}" if absent or inside else ", none refused"),
    )


def _reaches_nobody(copy: CopyFacts) -> Proof:
    clause = "it reaches nobody"
    if copy.network == "own":
        told = ", ".join(copy.reaches) or "no address, no route"
        return Proof(clause=clause, ok=not copy.reaches, evidence=f"a network of its own: {told}")
    if copy.network == "shared":
        why = copy.shared or "its server was started without one of its own"
        return Proof(clause=clause, ok=None, evidence=f"its settings alone keep it from its host's network: {why}")
    return Proof(clause=clause, ok=None, evidence="its host does not tell which network it has (/proc/PID/net)")


def failed_text(found: Sequence[Proof]) -> str:
    """Which clauses do not hold, and why; "" for none."""
    return "; ".join(f"{each.clause}: no: {each.evidence}" for each in found if each.ok is False)


def hold_text(found: Sequence[Proof]) -> str:
    """How many clauses hold, and which can't be told."""
    open_ = [each.clause for each in found if each.ok is None]
    told = f"; not to be told: {', '.join(open_)}" if open_ else ""
    return f"{sum(bool(each.ok) for each in found)} hold{told}"


THAW_S = {"GLACIER": 13 * 3600.0, "DEEP_ARCHIVE": 49 * 3600.0}
"""The longest that objects of these classes take to be had back, and an hour (S3 User Guide, Archive retrieval)."""


def time_limit(bytes_: int, rate: float, storage: str = "") -> float:
    """Seconds that a restore may take: three times what is expected, a quarter of an hour, and what thawing takes."""
    return 900.0 + 3 * bytes_ / rate + THAW_S.get(storage, 0.0)


def rpo_of(newest: datetime | None, at: datetime | None) -> float | None:
    """How much older the newest row was than the target."""
    return max((at - newest).total_seconds(), 0.0) if newest is not None and at is not None else None
