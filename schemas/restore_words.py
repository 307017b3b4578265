"""How a restore reads, in every view: its facts, how many clauses hold, and the whole in a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from schemas.reports import Report
from schemas.restores import Proof, RestoreEvidence
from schemas.words import instant, moment, size, span

REACHED = ("done", "done, unprotected")


def facts(report: Report) -> Iterator[tuple[str, str]]:
    """Name and text of what a reader asks next; what the run did not come to is left out, except that nothing was
    restored.
    """
    found = report.restore
    assert found is not None
    backup = found.backup
    if backup is not None:
        what = f"{backup.label} ({backup.kind}), {size(backup.bytes)}, taken {moment(backup.stopped)}"
        yield "restored" if found.restore_s is not None else "backup", what
    if found.restore_s is None and report.outcome != "planned":
        yield "restored", "nothing"
    if found.moment is not None:
        yield "target", found.moment.text()
        yield "why", found.moment.reason
    if found.reached_lsn:
        last = f"last commit {instant(found.last_commit)} UTC" if found.last_commit else "no commit replayed"
        yield "reached", f"{found.reached_lsn >> 32:X}/{found.reached_lsn & 0xFFFFFFFF:08X}, {last}"
    yield "RTO", _rto(report, found)
    yield "RPO", _rpo(report, found)
    if found.restore_s is not None:
        yield "copy", found.where or "removed"
    for table, rows in found.copied.items():
        yield "copied back", f"{table}: {rows:,} rows"
    yield from cut_facts(report)


def cut_facts(report: Report) -> Iterator[tuple[str, str]]:
    """Of a cut-over: who leads now, how long clients waited, what is lost, and who keeps that."""
    if report.cut_over is None:
        return
    if report.new_primary is None:
        yield "cut over", "no: undone"
        return
    yield "cut over", f"{report.old_primary or '?'} → {report.new_primary}"
    yield "outage", "not known" if report.outage_s is None else f"{span(report.outage_s)}; RTO {span(report.rto_s)}"
    yield "lost", report.receipt
    if report.cut_over.written is not None:
        yield "kept", f"what {report.old_primary} wrote {report.cut_over.written.text()}: on it, stopped"


def _rto(report: Report, found: RestoreEvidence) -> str:
    target = span(report.rto_s)
    if found.restore_s is None or found.took_s is None:
        return f"{target} (target)"
    speed = f" at {size(found.bytes / found.restore_s)}/s" if found.restore_s and found.bytes else ""
    parts = f"restore {span(found.restore_s)}{speed}"
    if found.recovery_s is None:
        return f"{parts}, not recovered; RTO {target}"
    within = "within" if found.took_s <= report.rto_s else "over"
    return f"{span(found.took_s)}, {within} the RTO of {target}: {parts}, recovery {span(found.recovery_s)}"


def _rpo(report: Report, found: RestoreEvidence) -> str:
    target = span(report.rpo_s)
    if not found.checks:
        return f"{target} (target)"
    if found.newest_row is None:
        return f"{target} (target); no newest row: the service names no table for it (`backup.newest`), or it has none"
    if found.rpo_s is None:
        return f"{target} (target); newest row {instant(found.newest_row)} UTC, the target has no time"
    within = "within" if found.rpo_s <= report.rpo_s else "over"
    return (
        f"newest row {span(found.rpo_s)} before the target, {within} the RPO of {target}"
        f" ({instant(found.newest_row)} UTC)"
    )


def tally(found: Sequence[Proof], what: str = "") -> str:
    """`5 hold, 1 not to be told, 1 fails`: of clauses that hold, don't apply, or fail."""
    failing, open_ = sum(each.ok is False for each in found), sum(each.ok is None for each in found)
    parts = [f"{sum(each.ok is True for each in found)}{what} hold"]
    if open_:
        parts.append(f"{open_} not to be told")
    if failing:
        parts.append(f"{failing} fail" + ("s" if failing == 1 else ""))
    return ", ".join(parts)


def proof_text(found: RestoreEvidence) -> str:
    """Of both, proof and checks: `11 proofs and checks hold`; "" where nothing was looked at."""
    both = [*found.proofs, *found.checks]
    if not both:
        return ""
    failed = "; ".join(f"{each.clause}: {each.evidence}" for each in found.failed())
    return tally(both, " proofs and checks") + (f": {failed}" if failed else "")


def restore_line(report: Report) -> str:
    """The run in one line, for a log or a notice."""
    found = report.restore
    assert found is not None
    parts = []
    if found.backup is not None and found.restore_s is not None:
        parts.append(f"{found.backup.label} restored in {span(found.took_s)}")
        if report.procedure == "PitrRestore" and found.moment is not None and found.reached_lsn:
            parts[0] += f", to {found.moment.text()}"
    if proved := proof_text(found):
        parts[-1:] = [f"{parts[-1]}, {proved}"] if parts else [proved]
    if found.copied:
        parts.append("copied back: " + ", ".join(f"{table} ({rows:,} rows)" for table, rows in found.copied.items()))
    if report.cut_over is not None and report.new_primary is not None:
        parts.append(f"cut over to {report.new_primary}; {report.receipt}")
    # A failed clause is named already.
    if (report.outcome not in REACHED and not found.failed()) or not parts:
        parts.append(report.summary)
    return f"{report.procedure} {report.service}: " + "; ".join(part for part in (report.outcome, *parts) if part)
