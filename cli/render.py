"""A report as text: the outcome first, then what a reader at 3 a.m. asks next, in that order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.words import MARKS, instant, moment, outcome_text, span
from schemas import backup_words, damage_words, restore_words
from schemas.damage import DamageEvidence
from schemas.reports import DecisionReport, Report, StepReport
from schemas.restores import CutOverEvidence, Proof, RestoreEvidence
from schemas.takes import BackupEvidence

PROOF_MARKS = {True: ("✓", "green", ""), False: ("✗", "bold red", "bold red"), None: ("–", "yellow", "")}
"""Whether a clause holds → its mark, the mark's style, and the clause's."""


def report_text(report: Report) -> RenderableType:
    """Outcome and outage; where the time went; verdict and fence; steps, decisions; what is left to do."""
    return Group(*_parts(report))


def _parts(report: Report) -> Iterator[RenderableType]:
    yield Text.assemble(
        outcome_text(report.outcome), f"  {report.procedure} of {report.service}", (f"  {report.run}", "dim")
    )
    if report.summary:
        yield Text(report.summary)
    yield Text()
    if report.damage is not None:
        yield from _damage(report, report.damage)
    elif report.restore is not None:
        yield from _restore(report, report.restore)
    elif report.backup is not None:
        yield from _backup(report, report.backup)
    else:
        yield _facts(report)
    if report.cut_over is not None and report.cut_over.proofs:
        yield from _cut_over(report.cut_over)
    yield from _titled("Where the time went (UTC)", _time(report))
    yield from _titled("Steps", steps_table(report.steps))
    if report.decisions:
        yield from _titled("Decisions", _decisions(report.decisions))
    if report.escalations:
        lines = [f"{each.percent} % of the RTO at {moment(each.at)}: {each.text}" for each in report.escalations]
        yield from _titled("Escalations", lines)
    if report.unprotected:
        yield from _titled("Not protected yet", report.unprotected, style="bold yellow")
    if report.blockers:
        yield from _titled("In the way", report.blockers, style="bold red")
    if report.tasks:
        yield from _titled("A person must now", report.tasks, style="bold red")
    if report.damage is not None and report.damage.post_mortem:
        yield from _titled("Post-mortem, to be completed", report.damage.post_mortem.splitlines())


def _facts(report: Report) -> Table:
    """One line a fact; a fact that this run has not is left out, except the outage and the loss."""
    table = _grid()
    outage = span(report.outage_s)
    if report.outage_s is not None:
        within = "within" if report.rto_met else "over"
        outage += f", {within} the RTO of {span(report.rto_s)}"
    if report.outcome == "planned":
        if report.procedure == "DatabaseRejoin":
            told = f"{span(report.expected_s)} from the decision on, and a copy's own time; no client waits"
        else:
            told = f"{span(report.expected_s)} from the decision to the first write, RTO {span(report.rto_s)}"
        table.add_row("expected", told)
    else:
        table.add_row("outage", outage)
    if report.error_budget_s is not None:
        table.add_row("error budget", f"{span(report.error_budget_s)} of the month's spent")
    verdict = report.assessment.verdict if report.assessment else None
    table.add_row("loss, before", f"{verdict.text()} ({verdict.reason})" if verdict else "not assessed")
    if report.receipt:
        table.add_row("loss, after", report.receipt)
    for line in loss_lines(report):
        table.add_row("", line)
    for run in report.followed_by:
        table.add_row("goes on in", run)
    table.add_row("RPO", f"{span(report.rpo_s)} (target)")
    if report.procedure == "DatabaseRejoin":
        table.add_row("member", report.old_primary or "?")
    elif report.new_primary:
        table.add_row(report.leader_word(), f"{report.old_primary or '?'} → {report.new_primary}")
    elif report.old_primary:
        table.add_row(report.leader_word(), report.old_primary)
    if report.fence is not None:
        proof = "proved" if report.fence.proved else "not proved"
        table.add_row("fence", f"{report.fence.strength}, {proof}: {report.fence.evidence}")
    if report.epoch is not None:
        table.add_row("epoch", str(report.epoch))
    for route in _routes(report):
        table.add_row("route", route)
    for each in report.reads:
        table.add_row(
            "read-only", f"{each.route}: {each.error or 'read from ' + (', '.join(each.members) or 'nobody')}"
        )
    table.add_row("reason", report.reason)
    if report.kept:
        table.add_row("page", report.kept)
    return table


def _restore(report: Report, found: RestoreEvidence) -> Iterator[RenderableType]:
    """Of a run that restored a copy beside its service: no outage, no loss, and nobody leads anew."""
    yield _named(report, restore_words.facts(report))
    yield from _proved(found)


def _damage(report: Report, found: DamageEvidence) -> Iterator[RenderableType]:
    """Of a recovery from corruption: what is damaged, since when, and the copy by which that was found."""
    yield _named(report, damage_words.facts(report))
    if found.queries:
        yield from _titled(f"Owner's queries, at first: {restore_words.tally(found.queries)}", _proofs(found.queries))
    if report.restore is not None and report.restore.restore_s is not None:
        yield from _titled("The copy", _grid_of(restore_words.facts(report)))
        yield from _proved(report.restore)


def _backup(report: Report, found: BackupEvidence) -> Iterator[RenderableType]:
    """Of a run that took a backup."""
    yield _named(report, backup_words.facts(report))
    if found.proofs:
        yield from _titled(f"Proof: {restore_words.tally(found.proofs)}", _proofs(found.proofs))


def _named(report: Report, facts: Iterator[tuple[str, str]]) -> Table:
    table = _grid_of(facts)
    table.add_row("reason", report.reason)
    if report.kept:
        table.add_row("page", report.kept)
    return table


def _grid_of(facts: Iterator[tuple[str, str]]) -> Table:
    table = _grid()
    for name, text in facts:
        table.add_row(name, text)
    return table


def _proved(found: RestoreEvidence) -> Iterator[RenderableType]:
    if found.proofs:
        yield from _titled(f"Proof: {restore_words.tally(found.proofs)}", _proofs(found.proofs))
    if found.checks:
        yield from _titled(f"Checks: {restore_words.tally(found.checks)}", _proofs(found.checks))
    if found.considered:
        yield from _titled("Considered, and not taken", found.considered)


def _cut_over(found: CutOverEvidence) -> Iterator[RenderableType]:
    """The member that was put back, beside the copy."""
    title = f"Proof once more, on {found.candidate}: {restore_words.tally(found.proofs)}"
    yield from _titled(title, _proofs(found.proofs))


def _proofs(proofs: list[Proof]) -> Table:
    """In two columns, since a clause and its evidence are long, and a terminal may be narrow."""
    table = Table.grid(padding=(0, 1, 0, 0))
    for each in proofs:
        mark, style, clause = PROOF_MARKS[each.ok]
        table.add_row(Text(mark, style=style), Text.assemble((each.clause, clause), f": {each.evidence}"))
    return table


def loss_lines(report: Report) -> list[str]:
    """What was counted: when, in which tables, whether it was foretold, and where the WAL is."""
    loss = report.loss
    if loss is None or not loss.commits:
        return []
    lines = [f"commits from {moment(loss.first_commit)} to {moment(loss.last_commit)}"] if loss.first_commit else []
    lines += [
        f"{each.table}: {each.inserted} inserted, {each.updated} updated, {each.deleted} deleted"
        for each in loss.tables
    ]
    foretold = {True: "within", False: "beyond", None: "not comparable with"}[loss.within]
    lines.append(f"{foretold} what was predicted ({loss.predicted or 'nothing'}); {loss.bytes} bytes of WAL")
    return [*lines, f"kept in {loss.kept}"] if loss.kept else lines


def _routes(report: Report) -> Iterator[str]:
    """Each route once: its regions that wrote, and the errors of those that could not."""
    for name in dict.fromkeys(write.route for write in report.routes):
        writes = [write for write in report.routes if write.route == name]
        good = [write for write in writes if write.ok]
        failed = [f"{write.region}: {write.error}" for write in writes if not write.ok]
        parts = []
        if good:
            first = min(good, key=lambda write: write.at)
            regions = ", ".join(dict.fromkeys(write.region for write in good))
            timeline = f" (timeline {first.timeline})" if first.timeline else ""
            where = f"writes reach {first.server}{timeline}" if first.server else "leads to it, as seen"
            parts.append(f"{where} from {regions}")
        parts += failed
        yield f"{name}: {'; '.join(parts)}"


def _time(report: Report) -> Table:
    table = _grid()
    before: datetime | None = None
    moments = (
        ("started", report.started if report.is_of_copies() else None),
        (report.outage_began_with(), report.outage_started),
        ("detected", report.detected),
        ("decided", report.decided),
        ("recovered", report.recovered),
        ("ended", report.ended),
    )
    for label, at in sorted(
        (each for each in moments if each[1] is not None), key=lambda each: each[1] or report.ended
    ):
        if at is None:
            continue
        table.add_row(label, instant(at), "" if before is None else f"+ {span((at - before).total_seconds())}")
        before = at
    table.add_row("machine", span(report.machine_s))
    table.add_row("waiting for a person", span(report.waiting_s))
    return table


def steps_table(steps: list[StepReport]) -> Table:
    """Mark, title, seconds, and what the step found; rounds and region only where they say something."""
    table = _grid()
    for step in steps:
        mark, style = MARKS[step.outcome]
        more = [step.detail] if step.detail else []
        if step.outcome not in ("done", "failed", "planned"):
            more.insert(0, step.outcome)
        if step.rounds > 1:
            more.append(f"{step.rounds} rounds")
        if step.attempts > 1:
            more.append(f"{step.attempts} attempts")
        if step.region:
            more.append(step.region)
        took = span((step.ended - step.started).total_seconds())
        if step.outcome == "planned":
            took = f"≤ {span(step.expected_s)}" if step.expected_s is not None else ""
        table.add_row(Text(f"{mark} {step.title}", style=style), took, "; ".join(more))
    return table


def _decisions(decisions: list[DecisionReport]) -> list[str]:
    lines = []
    for each in decisions:
        line = f"{moment(each.at)}  {each.answer} by {each.by}"
        if each.override:
            line += ", overriding the policy"
        if each.reason:
            line += f": {each.reason}"
        line += f"\nasked: {each.question}" + (f" (digest {each.digest})" if each.digest else "")
        lines.append(line)
    return lines


def _titled(title: str, body: RenderableType | list[str], style: str = "bold") -> Iterator[RenderableType]:
    yield Text()
    yield Text(title, style=style)
    if isinstance(body, list):
        for line in body:
            yield Padding(Text(line), (0, 0, 0, 2))
    else:
        yield body


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_column()
    return table
