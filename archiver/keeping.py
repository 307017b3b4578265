"""What is kept, what is archived and what goes: a decision about what is there. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from archiver.catalogue import OURS, Held, backups
from archiver.config import Limits
from archiver.errors import Unusable
from archiver.store import COLD, Stored
from archiver.wal import SEGMENT

DAY_S = 86400.0
LEFT_OVER_S = 7 * DAY_S
"""What nobody has ended for so long was killed: no backup takes a week. An object's time is when its upload began."""
LEAST_DAYS = {"GLACIER": 90, "DEEP_ARCHIVE": 180}
"""For which an object there is paid, however soon it goes."""


@dataclass
class Plan:
    """Labels and keys. `why`: of each backup, what becomes of it, and for which reason."""

    archive: list[str] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    debris: list[str] = field(default_factory=list)
    wal_archive: list[Stored] = field(default_factory=list)
    wal_remove: list[Stored] = field(default_factory=list)
    why: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def plan(found: Sequence[Held], wal: Sequence[Stored], limits: Limits, now: float) -> Plan:
    """The newest good backup always stays where it is, and so does the WAL from the oldest that stays there on.

    `wal` are the archive's files. Good: no page was bad while it was taken.
    """
    made = Plan()
    if not limits.keep_fulls and not limits.keep_days:
        made.warnings.append("no retention is declared: all is kept, for ever")
        return made
    _must_fit(limits, made)
    whole = backups(list(found))
    good = [each for each in whole if each.record and not each.record.error]
    if not good:
        made.warnings.append("there is no good backup: nothing is removed")
        return made
    counted = {
        each.label: f"kept: one of the newest {limits.keep_fulls}" for each in good[-max(limits.keep_fulls, 1) :]
    }
    older = [each for each in good if each.record and now - each.record.stop > limits.keep_days * DAY_S]
    if limits.keep_days and older:
        # The moments of keep_days ago on are recovered from this one.
        counted.setdefault(older[-1].label, f"kept: what was {limits.keep_days:g} days ago is recovered from it")
    counted[good[-1].label] = "kept: the newest good one"
    for each in whole:
        _judge(each, counted, good[-1], limits, now, made)
    _wal(found, whole, wal, now, made)
    return made


def _must_fit(limits: Limits, made: Plan) -> None:
    if limits.keep_archived_days and not limits.archive_class:
        raise Unusable("keep_archived_days says how long an archive class keeps backups, and no archive_class is named")
    if limits.keep_archived_days and limits.keep_archived_days <= limits.keep_days:
        raise Unusable(
            f"keep_archived_days, {limits.keep_archived_days:g}, ends before keep_days, {limits.keep_days:g}: nothing"
            " would ever be archived"
        )
    least = LEAST_DAYS.get(limits.archive_class, 0)
    if limits.keep_archived_days and limits.keep_archived_days - limits.keep_days < least:
        made.warnings.append(
            f"what goes from {limits.archive_class} before {least} days have passed there is paid for until then"
        )


def _judge(each: Held, counted: dict[str, str], newest: Held, limits: Limits, now: float, made: Plan) -> None:
    record = each.record
    assert record is not None
    assert newest.record is not None
    days = (now - record.stop) / DAY_S
    if each.label in counted:
        told = counted[each.label]
    elif record.place > newest.record.place:
        told = "kept: no good one is newer"
    elif limits.keep_days and days <= limits.keep_days:
        told = f"kept: {days:.1f} days old, of {limits.keep_days:g}"
    elif not limits.archive_class:
        made.remove.append(each.label)
        told = f"goes: {days:.1f} days old"
    elif limits.keep_archived_days and days > limits.keep_archived_days:
        made.remove.append(each.label)
        told = f"goes: {days:.1f} days old, of {limits.keep_archived_days:g}"
    elif any(tar.storage != limits.archive_class and tar.storage not in COLD for tar in each.tars):
        made.archive.append(each.label)
        told = f"to {limits.archive_class}: {days:.1f} days old"
    else:
        made.archive.append(each.label)
        told = f"in {each.storage}: {days:.1f} days old"
    made.why[each.label] = told


def _wal(found: Sequence[Held], whole: Sequence[Held], wal: Sequence[Stored], now: float, made: Plan) -> None:
    """WAL files are compared without their timelines: a place in the WAL is passed once, on whatever branch."""
    stays = [each.record.wal_start[8:] for each in whole if each.record and each.label in _warm(whole, made)]
    archived = [each.record.wal_start[8:] for each in whole if each.record and each.label in made.archive]
    for each in found:
        if each.record is not None:
            continue
        age = now - max(stored.at.timestamp() for stored in each.objects)
        if each.unreadable:
            stays.append("")
            made.warnings.append(f"{each.label} can't be read, and all WAL is kept: {each.unreadable}")
        elif OURS.fullmatch(each.label):
            # One that is under way needs it.
            if age > LEFT_OVER_S:
                made.debris.append(each.label)
            elif each.wal_start:
                stays.append(each.wal_start[8:])
        elif each.wal_start:
            # Somebody's own. It is not ours to remove, and its WAL neither.
            stays.append(each.wal_start[8:])
            made.warnings.append(
                f"{each.label} is no backup of this program's: its WAL is kept; adopt it, or remove it"
            )
        else:
            stays.append("")
            made.warnings.append(
                f"{each.label} has no backup_manifest: which WAL it needs is not known, and all is kept"
            )
    warm = min(stays)
    kept = min([*archived, warm])
    for file in wal:
        name = file.name.partition(".")[0]
        if not SEGMENT.fullmatch(name):
            continue  # a timeline's history, without which no later backup can be recovered from
        if name[8:] < kept:
            made.wal_remove.append(file)
        elif name[8:] < warm and file.storage not in COLD:
            made.wal_archive.append(file)


def _warm(whole: Sequence[Held], made: Plan) -> set[str]:
    return {each.label for each in whole} - set(made.archive) - set(made.remove)
