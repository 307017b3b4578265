"""The report of a run, from what the run knows when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from schemas.reports import Outcome, Report
    from workflows.keeping import name_of
    from workflows.policy import clock

if TYPE_CHECKING:
    from workflows.database import DatabaseRunbook


def build_report(run: DatabaseRunbook, outcome: Outcome, summary: str = "") -> Report:
    """`recovered, unprotected` until the old primary has come back as a standby (its rejoin)."""
    service = run.estate.service
    now = workflow.now()
    recovered = run.recovered
    outage = (recovered - run.outage_started).total_seconds() if recovered and run.outage_started else None
    waiting = run.waiting.total_seconds()
    assessment = getattr(run, "assessment", None)
    promoted = getattr(run, "promoted", None)
    unprotected = list(run.unprotected)
    if outcome == "recovered, unprotected" and promoted is not None and not run.w:
        unprotected.append(f"{promoted.member} acknowledges alone: {_until(run)}")
    receipt = ""
    if promoted is not None and assessment is not None:
        receipt = {
            "none": "nothing acknowledged was lost",
            "bounded": f"unknown, {assessment.verdict.text().removeprefix('bounded: ')}",
            "unknown": "unknown",
        }[assessment.verdict.kind]
    loss = getattr(run, "loss", None)
    return Report(
        procedure=run.procedure,
        service=run.service_name,
        run=workflow.info().workflow_id,
        reason=run.reason,
        outcome=outcome,
        summary=summary or _summary(run),
        started=workflow.info().start_time,
        ended=now,
        outage_started=run.outage_started,
        detected=run.detected,
        decided=run.decided or (run.decisions[-1].at if run.decisions else None),
        recovered=recovered,
        outage_s=outage,
        machine_s=max((now - workflow.info().start_time).total_seconds() - waiting, 0.0),
        waiting_s=waiting,
        rto_s=service.rto_s,
        rto_met=None if outage is None else outage <= service.rto_s,
        rpo_s=service.rpo_s,
        error_budget_s=outage,
        epoch=run.epoch,
        old_primary=run.suspect or None,
        new_primary=promoted.member if promoted else None,
        assessment=assessment,
        fence=run.fence,
        receipt=loss.text() if loss is not None else receipt,
        loss=loss,
        followed_by=getattr(run, "followed_by", []),
        routes=run.route_writes,
        reads=getattr(run, "read_results", []),
        # By their beginnings: of two that ran side by side the later one may have ended first.
        steps=sorted(run.steps, key=lambda step: (step.started, _place(run, step.title))),
        decisions=run.decisions,
        escalations=run.escalations,
        unprotected=unprotected,
        tasks=run.tasks,
        blockers=run.blockers,
        kept=_place_of_page(run) if outcome != "planned" else "",
        expected_s=clock.forecast(run.expected_s) if outcome == "planned" else None,
    )


def _summary(run: DatabaseRunbook) -> str:
    promoted, how = getattr(run, "promoted", None), getattr(run, "how", None)
    if promoted is not None and run.can_wait:
        now = "follows it" if getattr(run, "returned", False) else "is shut down"
        return f"{promoted.member} leads, {run.suspect} {now}"
    if promoted is not None:
        return f"{promoted.member} leads, {run.suspect} is fenced"
    if how is not None:
        done = {"follow": "as it was", "rewind": "by rewind", "rebuild": "by a copy"}.get(how.method, how.method)
        return f"{run.suspect} is back as a standby, {done}: {how.reason}"
    return ""


def _place_of_page(run: DatabaseRunbook) -> str:
    store = run.estate.reports
    return store.reference(f"{name_of(run.service_name)}.html") if store is not None else ""


def _until(run: DatabaseRunbook) -> str:
    """What ends a new primary's acknowledging alone."""
    others = [name for name in run.estate.service.synchronous.voters if name != run.promoted.member]
    if not others:
        return "replication is asynchronous, so its loss would lose what no other has received"
    return f"what it acknowledges is on no other for certain until the watch has {' or '.join(others)} as a voter again"


def _place(run: DatabaseRunbook, title: str) -> int:
    return run.titles.index(title) if title in run.titles else len(run.titles)


def report_line(report: Report) -> str:
    """The report in one line, for a log."""
    outage = f"{report.outage_s:.2f} s" if report.outage_s is not None else "-"
    return (
        f"{report.procedure} {report.service}: {report.outcome}; {report.old_primary} -> {report.new_primary};"
        f" outage {outage} of {report.rto_s:.0f} s; {report.receipt or report.summary}"
    )
