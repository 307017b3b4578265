"""The report of a run, from what the run knows when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from schemas.backup_words import backup_line
    from schemas.reports import Outcome, Report
    from schemas.restore_words import proof_text, restore_line
    from schemas.words import span
    from workflows.keeping import name_of
    from workflows.policy import clock

if TYPE_CHECKING:
    from workflows.procedure import Procedure


def build_report(run: Procedure, outcome: Outcome, summary: str = "") -> Report:
    """`recovered, unprotected` until the old primary has come back as a standby (its rejoin)."""
    service = run.estate.service
    now = workflow.now()
    recovered = run.recovered
    outage = (recovered - run.outage_started).total_seconds() if recovered and run.outage_started else None
    waiting = run.waiting.total_seconds()
    assessment = getattr(run, "assessment", None)
    unprotected = list(run.unprotected)
    if outcome == "recovered, unprotected" and (alone := run.acknowledges_alone()):
        unprotected.append(alone)
    loss = getattr(run, "loss", None)
    return Report(
        procedure=run.procedure,
        service=run.service_name,
        run=workflow.info().workflow_id,
        reason=run.reason,
        outcome=outcome,
        summary=summary or run.summary(),
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
        new_primary=run.leads_now(),
        assessment=assessment,
        fence=run.fence,
        receipt=loss.text() if loss is not None else run.lost_text(),
        loss=loss,
        restore=getattr(run, "evidence", None),
        cut_over=getattr(run, "cut", None),
        damage=getattr(run, "damage", None),
        backup=getattr(run, "taken", None),
        followed_by=run.followed_by,
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


def _place_of_page(run: Procedure) -> str:
    store = run.estate.reports
    return store.reference(f"{name_of(run.service_name)}.html") if store is not None else ""


def _place(run: Procedure, title: str) -> int:
    return run.titles.index(title) if title in run.titles else len(run.titles)


def report_line(report: Report) -> str:
    """The report in one line, for a log."""
    if report.restore is not None:
        return restore_line(report)
    if report.backup is not None:
        return f"{report.procedure} {report.service}: {report.outcome}; {report.summary}"
    outage = f"{report.outage_s:.2f} s" if report.outage_s is not None else "-"
    return (
        f"{report.procedure} {report.service}: {report.outcome}; {report.old_primary} -> {report.new_primary};"
        f" outage {outage} of {report.rto_s:.0f} s; {report.receipt or report.summary}"
    )


def told_at_end(report: Report) -> dict[str, str]:
    """What a notice of the end tells besides that line; what says nothing is left out."""
    found = report.restore
    if report.backup is not None:
        more = {"backup": backup_line(report.backup)}
    elif found is None:
        more = {
            "outage": "not known" if report.outage_s is None else f"{report.outage_s:.2f} s of {report.rto_s:.0f} s",
            "loss": report.receipt or "nothing was promoted",
        }
    else:
        more = {
            "restored": "nothing" if found.took_s is None else f"in {span(found.took_s)}; RTO {span(report.rto_s)}",
            "newest row": ""
            if found.rpo_s is None
            else f"{span(found.rpo_s)} before the target; RPO {span(report.rpo_s)}",
            "proof": proof_text(found),
        }
    rest = {
        "not protected": "; ".join(report.unprotected),
        "a person must": "; ".join(report.tasks),
        "report": report.kept,
    }
    return {name: value for name, value in {"outcome": report.outcome, **more, **rest}.items() if value}
