"""How a backup that was taken reads, in every view: what it is, why of that kind, and what it costs in bytes."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.reports import Report
from schemas.takes import BackupEvidence
from schemas.words import moment, size, span


def facts(report: Report) -> Iterator[tuple[str, str]]:
    """Name and text of what a reader asks next; what the run did not come to is left out."""
    found = report.backup
    assert found is not None
    backup = found.backup
    if backup is not None:
        yield "taken", f"{backup.label} ({backup.kind}) on {found.member}, {moment(backup.stopped)}"
    elif report.outcome != "planned":
        yield "taken", "nothing"
    if found.reason:
        yield "why this kind", found.reason
    if found.previous:
        yield "the one before", found.previous
    if found.seconds is not None:
        yield "took", span(found.seconds)
    if backup is not None:
        yield "cluster", size(backup.bytes)
        speed = f", at {size(backup.delta_bytes / found.seconds)}/s" if found.seconds and backup.delta_bytes else ""
        yield "copied", size(backup.delta_bytes) + speed
        yield "kept", f"{size(backup.kept_bytes)} in the repository, for this backup alone"
        since = f"since {found.previous}" if found.previous else "of its own"
        yield "WAL", f"{found.wal_files} files {since}, {size(found.wal_bytes)}, kept {size(found.wal_kept_bytes)}"
    if found.left:
        yield "removed", ", ".join(found.removed) or "none: retention keeps them all"
        yield "kept backups", f"{len(found.left)}: {', '.join(found.left)}"
    if found.oldest_wal:
        yield "oldest WAL", found.oldest_wal


def backup_line(found: BackupEvidence) -> str:
    """What was taken and what of it is kept, in a line; "" where nothing was."""
    backup = found.backup
    if backup is None:
        return ""
    return f"{backup.label} ({backup.kind}), {size(backup.kept_bytes)} kept, WAL {size(found.wal_kept_bytes)}"
