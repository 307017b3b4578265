"""Which kind of backup is due, whether one is good, and where the archive has gaps."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from schemas.backup import BackupKind, BackupPolicy
from schemas.restores import Backup, Proof, Stretch
from schemas.takes import Confirmed, Expired, Inventory

SLACK = 0.98
"""A weekly full is due in the run of the same hour a week later, however a schedule's moment wavers."""
_RANK: dict[str, int] = {"incr": 0, "diff": 1, "full": 2}


def choose_kind(
    wanted: BackupKind | None, seen: Inventory, policy: BackupPolicy, now: datetime
) -> tuple[BackupKind | None, str]:
    """The kind to take and why; or None, and why the one that was asked for can't be had.

    pgBackRest makes a full one, in silence, of any other that has none to build upon.
    """
    if policy.repository.kind == "plain":
        if wanted not in (None, "full"):
            return None, f"a plain archive has full backups only, and a {wanted} was asked for"
        return "full", "it was asked for" if wanted else "a plain archive has no others"
    fulls = [each for each in seen.of_system() if each.kind == "full" and not each.broken]
    newest = fulls[-1] if fulls else None
    if wanted is not None:
        if wanted != "full" and newest is None:
            return None, f"there is no full backup that a {wanted} could build upon; ask for a full one"
        return wanted, "it was asked for"
    if newest is None:
        return "full", "there is no full one yet"
    age = (now - newest.started).total_seconds()
    told = f"the newest full, {newest.label}, is {_span(age)} old"
    if age >= SLACK * policy.full_every_s:
        return "full", f"{told}, and one is due every {_span(policy.full_every_s)}"
    return policy.between, f"{told}; the next is due after {_span(policy.full_every_s)}"


def _span(seconds: float) -> str:
    return f"{seconds / 86400:.1f} days" if seconds >= 86400 else f"{seconds / 3600:.1f} h"


def retention_text(policy: BackupPolicy) -> str:
    """What the step of removing does."""
    if policy.repository.kind == "pgbackrest":
        return "what pgBackRest's own retention no longer keeps"
    declared = policy.repository.retention
    if declared is None:
        return "nothing: no `retention` is declared"
    kept = [f"the newest {declared.keep_fulls}"] if declared.keep_fulls else []
    kept += [f"what is younger than {declared.keep_days:g} days"] if declared.keep_days else []
    then = f"archived in {declared.archive_class}" if declared.archive_class else "removed"
    if declared.keep_archived_days:
        then += f", and removed after {declared.keep_archived_days:g} days"
    return f"kept: {', '.join(kept)}; the rest is {then}"


def taken_meanwhile(kind: BackupKind, before: Sequence[Backup], now: Sequence[Backup]) -> Backup | None:
    """A backup of somebody else's that does as well, and was not there before."""
    known = {each.label for each in before}
    return next(
        (
            each
            for each in reversed(now)
            if each.label not in known and not each.broken and _RANK[each.kind] >= _RANK[kind]
        ),
        None,
    )


def prove(label: str, kind: BackupKind, found: Confirmed) -> list[Proof]:
    """Clause by clause what makes a backup one, as far as it can be told without restoring it."""
    backup = found.backup
    if backup is None:
        return [Proof(clause="the repository lists it", ok=False, evidence=f"{label} is not there")]
    whole = holds(found.stretches, backup)
    return [
        Proof(clause="the repository lists it", ok=True, evidence=f"{label}, {backup.bytes} bytes"),
        Proof(
            clause="no page was bad",
            ok=not backup.broken,
            evidence="bad pages were found while it was taken" if backup.broken else "none was found",
        ),
        Proof(clause="it is of the kind that was due", ok=backup.kind == kind, evidence=f"{backup.kind}; due: {kind}"),
        Proof(
            clause="the WAL that it needs is archived",
            ok=whole,
            evidence=f"{backup.wal_start} to {backup.wal_stop}"
            + (
                ""
                if whole
                else f"; there: {', '.join(f'{each.first} to {each.last}' for each in found.stretches) or 'none'}"
            ),
        ),
    ]


def holds(stretches: Sequence[Stretch], backup: Backup) -> bool:
    """Whether one of them has all WAL that the backup can't be restored without."""
    return any(each.first <= backup.wal_start and backup.wal_stop <= each.last for each in stretches)


def removed(before: Sequence[Backup], label: str, after: Expired) -> list[str]:
    """The backups that retention removed."""
    return [each for each in (*(backup.label for backup in before), label) if each not in after.left]
