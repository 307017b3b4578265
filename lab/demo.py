"""The demonstrations: a real fault under load, the run as it goes, and what the referee found."""

from __future__ import annotations

import asyncio
import contextlib
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
)
from temporalio.service import RPCError

from lab import findings, ledger, load
from lab.errors import LabError
from lab.lab import connect, fault, reset
from lab.layout import HOME, shape_of
from lab.model import Lab
from lab.observe import status
from lab.referee import Audit, audit, audit_text
from lab.waiting import until
from schemas.base import Fact
from schemas.decisions import Question
from schemas.reports import EXIT_CODES, Report, StepReport
from schemas.requests import Answer
from schemas.state import RunState

DEMOS = {"database-failover": "database", "round-trip": "database", "pitr": "backup", "corruption": "backup"}
"""Demonstration → the profile of the lab that it takes."""
APPROVER = "ana"
OVERRIDE_REASON = "the demonstration: clients wait, and the loss was seen"
BEFORE = 100
"""Rows that are acknowledged before the fault: two seconds or so."""

START_S = 30.0
_RUN_S = 120.0
_WRITING_S = 15.0
_DETAIL = 120
"""Characters; the report has the whole."""
_QUERY_S = timedelta(seconds=2)

Print = Callable[[str], None]


class DemoFailed(LabError):
    """The demonstration did not come to its end; the lab's logs, and `lifeboat runs`, tell more."""


class Demonstration(Fact):
    """`lifeboat lab demo NAME --json`: the referee's audit, and the report of each run that there was."""

    audit: Audit
    runs: list[Report]
    fault: str = f"killed     {HOME}"
    astray: list[str] = []
    """What keeps the estate from being as it was: who does not stream on the last timeline, what else was touched."""

    @property
    def passed(self) -> bool:
        """Every route writes, no row is missing that no verdict spoke of, one server writes, and the runs recovered."""
        return (
            self._within_the_verdict()
            and not self.astray
            and all(route.writing for route in self.audit.routes.values())
            and bool(self.runs)
            and all(EXIT_CODES[report.outcome] == 0 for report in self.runs)
        )

    def _within_the_verdict(self) -> bool:
        """Rows may be missing only where each run's verdict said before that they could be, and a person took that."""
        foretold = any(report.assessment and report.assessment.verdict.kind != "none" for report in self.runs)
        return self.audit.clean or (
            foretold and self.audit.missing is not None and not self.audit.concurrent_writers and not self.audit.errors
        )


async def demonstrate(name: str, lab: Lab, tell: Print, *, loops: int = 1) -> Demonstration:
    """Run one demonstration on a lab whose watch runs; `tell` is told each thing. `loops`: of a round trip."""
    if name not in DEMOS:
        raise DemoFailed(f"there is no demonstration {name}; one of: {', '.join(DEMOS)}")
    client = await connect(lab)
    tell(f"Temporal UI: {lab.temporal.ui}")
    if not await _as_at_first(lab):
        tell("the lab is not as it was at first: it is reset")
        lab = await reset(lab)
    tell("camera traffic along every route")
    await asyncio.to_thread(load.start, lab)
    await until(f"{BEFORE} rows are acknowledged", lambda: _acknowledged(lab, BEFORE), START_S, every=0.1)
    if name == "round-trip":
        from lab.round_trip import round_trips

        return await round_trips(lab, client, tell, loops)
    if name in ("pitr", "corruption"):
        from lab.demo_restore import recover_damaged, restore_dropped

        return await (restore_dropped if name == "pitr" else recover_damaged)(lab, client, tell)
    report = await kill_and_follow(lab, client, tell)
    found = await until_writing(lab)
    return Demonstration(audit=found, runs=[witnessed(report, lab)])


async def kill_and_follow(lab: Lab, client: Client, tell: Print) -> Report:
    """Kill the home primary, and follow the failover to its report."""
    killed = datetime.now(UTC)
    began = time.monotonic()
    await fault(lab, "kill", HOME)
    tell(f"{HOME}, the primary, is killed: SIGKILL to its whole process tree")
    person = APPROVER if shape_of(lab.shape).asks else None
    handle = await until("the watch starts a failover", lambda: _begun(client, killed), START_S)
    tell(f"the watch has started the run {handle.id}")
    return await follow(handle, lambda text: tell(f"{time.monotonic() - began:6.2f} s  {text}"), person)


def witnessed(report: Report, lab: Lab, part: str = "database") -> Report:
    """The report with what the lab's load saw of the outage, where it ran."""
    if report.outage_started is None or not lab.ledger.exists():
        return report
    seen = findings.outages(lab.routes_of(part), ledger.read(lab.ledger), report.outage_started.timestamp())
    return report.model_copy(update={"witness": seen})


async def _as_at_first(lab: Lab) -> bool:
    """Whether every node is in its first role. One that is too busy to answer counts as such."""
    first = {node.name: node.role for node in lab.nodes}
    return all(node.role in (first[node.name], "silent") for node in (await status(lab)).nodes)


async def _acknowledged(lab: Lab, count: int) -> bool:
    return sum(entry.outcome == "acknowledged" for entry in await asyncio.to_thread(ledger.read, lab.ledger)) >= count


async def _begun(client: Client, since: datetime) -> WorkflowHandle[object, Report] | None:
    """The failover that began after `since` and was not refused at once, if there is one."""
    async for run in client.list_workflows("WorkflowType = 'DatabaseFailover' AND ExecutionStatus != 'Failed'"):
        if run.start_time >= since - timedelta(milliseconds=100):
            return client.get_workflow_handle(run.id, run_id=run.run_id, result_type=Report)
    return None


async def follow(
    handle: WorkflowHandle[object, Report], tell: Print, person: str | None = None, limit: float = _RUN_S
) -> Report:
    """Tell each of a run's steps, and return its report. `person` answers what it asks, if one is named."""
    result = asyncio.ensure_future(handle.result())
    told = 0
    try:
        async with asyncio.timeout(limit):
            while not result.done():
                state = await _state(handle)
                if state is not None:
                    for step in state.steps[told:]:
                        tell(step_line(step, state.deadline))
                    told = max(told, len(state.steps))
                    if state.question is not None and person is not None:
                        await _answer(handle, state.question, person, tell)
                # Each look costs the run's own worker some milliseconds.
                await asyncio.wait({result}, timeout=0.2)
            report = await result
    except TimeoutError as error:
        raise DemoFailed(f"{handle.id} has not ended within {limit:.0f} s") from error
    except WorkflowFailureError as error:
        raise DemoFailed(f"{handle.id} failed: {error.cause}") from error
    finally:
        result.cancel()
    for step in report.steps[told:]:
        tell(step_line(step, _deadline(report)))
    return report


async def _answer(handle: WorkflowHandle[object, Report], question: Question, person: str, tell: Print) -> None:
    """Play the person who sees what could be lost, and goes on."""
    tell(f"the run asks: {question.text}")
    tell(f"the demonstration answers as {person}: approved{', by an override' if question.needs_override else ''}")
    answer = Answer(by=person, digest=question.digest, override=question.needs_override, reason=OVERRIDE_REASON)
    with contextlib.suppress(WorkflowUpdateFailedError):  # the question was another by then: it is read again
        await handle.execute_update("approve", answer, result_type=str)


async def _state(handle: WorkflowHandle[object, Report]) -> RunState | None:
    """Where the run stands; None while no worker answers."""
    with contextlib.suppress(RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError):
        found = await handle.query("state", result_type=RunState, rpc_timeout=_QUERY_S)
        assert isinstance(found, RunState)
        return found
    return None


def _deadline(report: Report) -> datetime | None:
    return report.outage_started and report.outage_started + timedelta(seconds=report.rto_s)


def step_line(step: StepReport, deadline: datetime | None) -> str:
    """A step that ended, and how much of the RTO was left then."""
    took = (step.ended - step.started).total_seconds()
    left = f", RTO {(deadline - step.ended).total_seconds():.1f} s left" if deadline else ""
    detail = f"  ({textwrap.shorten(step.detail, _DETAIL)})" if step.detail else ""
    return f"{step.title}: {step.outcome} in {took:.2f} s{left}{detail}"


async def until_writing(lab: Lab) -> Audit:
    """The audit once every route writes, or the last one before the limit."""
    end = time.monotonic() + _WRITING_S
    while True:
        found = await audit(lab)
        if all(route.writing for route in found.routes.values()) or time.monotonic() > end:
            return found
        await asyncio.sleep(0.2)


def text(found: Demonstration) -> str:
    """What a person wants to know of it: what was killed, outages, rows, verdict, receipt."""
    lines = [found.fault]
    for report in found.runs:
        lines.append(f"outcome    {report.outcome}: {report.summary}")
        if report.assessment is not None:
            lines.append(f"verdict    loss {report.assessment.verdict.text()} ({report.assessment.verdict.reason})")
        lines += [f"receipt    {report.receipt}"] if report.receipt else []
        if report.outage_s is not None:
            lines.append(f"recovered  {report.outage_s:.2f} s after the first failed probe, RTO {report.rto_s:.0f} s")
        lines += [f"not safe   {each}" for each in report.unprotected]
    lines += [f"outage     {name}: {route.longest_gap_s:.2f} s" for name, route in found.audit.routes.items()]
    return "\n".join((*lines, audit_text(found.audit)))
