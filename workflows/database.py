"""What the database runbooks share: from start to report, looking, weighing, asking, the epoch."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import dns, epoch, estate
    from schemas.decisions import Assessment, Choice, Death, Fence, Go
    from schemas.facts import EpochRecord, MemberFacts, RouteWrite
    from schemas.failures import EpochSuperseded, EpochUnavailable, UnknownMember
    from schemas.orders import (
        ClaimOrder,
        DnsOrder,
        EstablishOrder,
        JourneyQuestion,
        Observation,
        PromoteResult,
    )
    from schemas.reports import DecisionReport, Outcome, Report
    from schemas.requests import FailoverRequest, RunRequest
    from schemas.topology import DatabaseService
    from workflows.keeping import keep
    from workflows.looking import Looking
    from workflows.policy import clock
    from workflows.policy.assess import assess
    from workflows.reasons import reason_of
    from workflows.reporting import build_report, report_line
    from workflows.runbook import RETRY, Ended


class DatabaseRunbook(Looking):
    """A runbook on one PostgreSQL service, behind its epoch."""

    assessment: Assessment
    record: EpochRecord
    promoted: PromoteResult

    def __init__(self) -> None:
        super().__init__()
        self.decided: datetime | None = None
        self.recovered: datetime | None = None
        self.decided_by_person = False
        self.adopted = False
        self.accepted_loose = False
        """A person knows that nothing keeps the old primary from acknowledging, and goes on, on record."""
        self.recorded = True
        """False: a person went on although the epoch store is out of reach, and the record is this run's alone."""
        self.w, self.names = 0, ""
        self.fence: Fence | None = None
        self.route_writes: list[RouteWrite] = []
        self.unprotected: list[str] = []
        self.blockers: list[str] = []
        self.end_told = False

    async def carry_out(self, request: Any) -> None:
        raise NotImplementedError

    async def from_start_to_report(self, request: RunRequest) -> Report:
        """The whole run: what `carry_out` says, and its undo when it ends before the point of no return."""
        self.service_name, self.reason = request.service, request.reason
        self.attribute("LifeboatService", request.service)
        self.attribute("LifeboatProcedure", self.procedure)
        # A run of the watch has clients waiting from its first moment.
        suspicion = request.suspicion if isinstance(request, FailoverRequest) else None
        self.urgent = suspicion is not None
        self.estate = await workflow.execute_local_activity(
            estate.describe_estate,
            request.service,
            start_to_close_timeout=timedelta(seconds=5),
            schedule_to_close_timeout=timedelta(seconds=30),
            retry_policy=RETRY,
        )
        self.rto_s = self.estate.service.rto_s
        self._must_be_members(request.names())
        self.note(f"started: {request.reason}")
        if not request.dry_run:
            self.tell("started", f"{self.procedure} of {self.service_name} has started: {request.reason}")
        if suspicion is not None:
            self.detected = workflow.info().start_time
            self.start_clock(suspicion.outage_began or suspicion.first_failure)
        try:
            await self.carry_out(request)
            done: Outcome = "planned" if request.dry_run else self.reached()
            end = Ended("needs a person" if self.tasks else done, "")
        except Ended as early:
            end = await self._end(early)
        except Exception:
            if not self.past_no_return:
                await self.undo_all()
            self.outcome = "failed"
            self.calm()
            raise
        self.calm()
        await self.learn_journey()
        report = build_report(self, end.outcome, end.summary)
        self.outcome = report.outcome
        self.attribute("LifeboatOutcome", report.outcome)
        self.attribute("LifeboatStep", "")
        self.note(f"ended: {report.outcome}")
        if not self.end_told and not request.dry_run:
            self.tell_end(report)
        if report.kept and self.estate.reports is not None and (failed := await keep(report, self.estate.reports)):
            self.note(f"the report is not kept: {failed}")
        await self.all_told()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return report

    def tell_end(self, report: Report) -> None:
        self.end_told = True
        more = {
            "outcome": report.outcome,
            "outage": "not known" if report.outage_s is None else f"{report.outage_s:.2f} s of {report.rto_s:.0f} s",
            "loss": report.receipt or "nothing was promoted",
            "not protected": "; ".join(report.unprotected),
            "a person must": "; ".join(report.tasks),
            "report": report.kept,
        }
        self.tell("ended", report_line(report), {name: value for name, value in more.items() if value})

    async def after_undo(self) -> None:
        """Look at what clients get now that everything was undone."""

    def reached(self) -> Outcome:
        """What a run that came to its end has reached."""
        return "recovered, unprotected"

    def _must_be_members(self, asked: Sequence[str]) -> None:
        names = [member.name for member in self.estate.service.members]
        for name in [name for name in asked if name not in names]:
            told = str(UnknownMember(f"{name}; {self.service_name} has {', '.join(names)}"))
            raise ApplicationError(told, type=UnknownMember.__name__, non_retryable=True)

    async def _end(self, end: Ended) -> Ended:
        """What an early end comes to, once everything is undone that can be."""
        if self.past_no_return:
            self.tasks.append(end.summary)
            return Ended("needs a person", end.summary)
        undone = bool(self._undos)
        whole = await self.undo_all()
        if undone:
            await self.after_undo()
        if not whole or self.tasks:
            return Ended("needs a person", end.summary)
        if undone and end.outcome == "aborted" and self._abort is None:
            return Ended("undone", end.summary)
        return end

    async def learn_journey(self) -> None:
        """Attempts and regions of each step, as the engine recorded them; a report without them is better than none."""
        try:
            question = JourneyQuestion(run=workflow.info().workflow_id, run_id=workflow.info().run_id)
            journey = await self.do(estate.read_journey, question, limit=5, total=10)
        except ActivityError as error:
            self.note(f"attempts and regions are not known: {reason_of(error)}")
            return
        for index, step in enumerate(self.steps):
            if step.title in journey.attempts:
                update = {"attempts": journey.attempts[step.title], "region": ", ".join(journey.regions[step.title])}
                self.steps[index] = step.model_copy(update=update)

    def point_of_no_return(self) -> None:
        if self._abort is not None:
            raise Ended("aborted", f"aborted by {self._abort.by}")
        self.past_no_return = True
        self.note("point of no return: from here the run only goes forward")

    # Weighing and asking

    def weigh(
        self,
        requested: str | None,
        death: Death,
        record: EpochRecord | None,
        facts: Sequence[MemberFacts],
        *,
        disconnected: Sequence[str] | None,
        lost: Sequence[str] = (),
        service: DatabaseService | None = None,
        ended: datetime | None = None,
    ) -> Assessment:
        result = assess(
            service or self.estate.service,
            suspect=self.suspect,
            death=death,
            record=record,
            facts=facts,
            requested=requested,
            disconnected=disconnected,
            lost=lost,
            ended=ended,
        )
        self.attribute("LifeboatVerdict", result.verdict.kind)
        # A candidate that an earlier run had promoted before it was cut off is taken as it is.
        leading = [each.member for each in facts if each.reachable and not each.in_recovery]
        self.adopted = result.choice.candidate in leading
        return result

    async def ask_for(self, go: Go, assessment: Assessment) -> DecisionReport:
        """A person's decision; anything but an approval ends the run."""
        text = (
            f"Fail over {self.service_name} from {self.suspect} to {assessment.choice.candidate or 'nobody'}"
            f"{self._or_another(assessment.choice)}?"
            f" {go.reason}. Loss: {assessment.verdict.text()} ({assessment.verdict.reason})."
            f" Primary: {assessment.death.reason}. Approving cuts clients off {self.suspect}, disconnects its"
            f" standbys ({self._what_that_does(assessment)}), and promotes the candidate."
        )
        if assessment.choice.candidate is None:
            raise Ended("refused", f"{go.reason}; {assessment.choice.reason}")
        done = [step.title for step in self.steps]
        left = {title: seconds for title, seconds in self.expected_s.items() if title not in done}
        decision = await self.ask(
            text, assessment.digest, needs_override=go.action == "refuse", machine_s=clock.forecast(left)
        )
        if decision.answer == "approved":
            self.decided_by_person = True
            self.decided = workflow.now()
            self.assessment = assessment
            return decision
        if decision.answer == "rejected":
            raise Ended("rejected", f"rejected by {decision.by}" + (f": {decision.reason}" if decision.reason else ""))
        if decision.answer == "expired":
            raise Ended("expired", "nobody decided in time")
        raise Ended("aborted", f"aborted by {self._abort.by if self._abort else 'an operator'}")

    @staticmethod
    def _what_that_does(assessment: Assessment) -> str:
        if assessment.w:
            return "if it is alive it acknowledges nothing from then on"
        return "it acknowledges alone, or nobody knows: if it is alive, only its stop keeps it from going on"

    @staticmethod
    def _or_another(choice: Choice) -> str:
        others = [name for name in choice.open_to if name != choice.candidate]
        return f" (or {' or '.join(others)}, if that is furthest in the end)" if others else ""

    # The epoch

    async def first_record(self, seen: Observation) -> EpochRecord:
        """A first record for a service that has none: reached only by a person's override, or by the watch."""
        if seen.epoch_error:
            raise ApplicationError(seen.epoch_error, type=EpochUnavailable.__name__)
        order = EstablishOrder(
            service=self.estate.service, zone=self.estate.zone, first=self._record_of_stamps(seen, 0, "none")
        )
        return await self.do(epoch.establish_epoch, order)

    def _record_of_stamps(self, seen: Observation, more: int, run: str) -> EpochRecord:
        """What the nodes alone tell: the newest epoch stamped on them, and not who had to acknowledge."""
        return EpochRecord(
            epoch=max([facts.stamp for facts in seen.members if facts.reachable], default=0) + more,
            run=run,
            leader=self.suspect,
            # Nobody knows who had to acknowledge: it must not look as if anybody did.
            w=0,
            voters=[],
        )

    async def claim_after(self, seen: EpochRecord, note: str = "", *, at_least: int = 0) -> EpochRecord:
        """The next epoch, for this run."""
        run = workflow.info().workflow_id + note
        order = ClaimOrder(zone=self.estate.zone, service=self.service_name, run=run, seen=seen, at_least=at_least)
        record = await self.do(epoch.claim_epoch, order, limit=5, total=30)
        self._take_epoch(record)
        return record

    def claim_unrecorded(self, seen: Observation, at_least: int) -> EpochRecord:
        """An epoch without its store, over a person's override: only the nodes' stamps keep older runs out."""
        record = self._record_of_stamps(seen, 1, workflow.info().workflow_id)
        record = record.model_copy(update={"epoch": max(record.epoch, at_least + 1)})
        self.recorded = False
        self.note(f"the epoch store is out of reach: by override, epoch {record.epoch} stands on the nodes only")
        self._take_epoch(record)
        return record

    def _take_epoch(self, record: EpochRecord) -> None:
        self.epoch = record.epoch
        self.number("LifeboatEpoch", record.epoch)

    def must_be_free(self, held: EpochRecord) -> None:
        """A run without its store takes the record only as it left it: another run may have gone on meanwhile."""
        if held.leader != self.suspect or held.candidate not in (None, self.record.candidate):
            told = f"epoch {held.epoch} is held by {held.run}, which says {held.candidate or held.leader}"
            raise ApplicationError(str(EpochSuperseded(told)), type=EpochSuperseded.__name__, non_retryable=True)

    async def record_late(self) -> None:
        """The choice of a run without its store is recorded, and the names moved, once the store is back."""
        seen = await self.observe()
        if seen.record is None:
            raise ApplicationError(seen.epoch_error or "there is no record", type=EpochUnavailable.__name__)
        self.must_be_free(seen.record)
        unrecorded = self.record
        claimed = await self.claim_after(seen.record, at_least=unrecorded.epoch)
        wanted = unrecorded.model_copy(update={"epoch": claimed.epoch, "run": claimed.run})
        order = DnsOrder(
            service=self.estate.service,
            zone=self.estate.zone,
            target=wanted.candidate or wanted.leader,
            seen=claimed,
            wanted=wanted,
        )
        self.record = await self.do(dns.choose_and_lead, order, limit=4, heartbeat=None)
        self.recorded = True
