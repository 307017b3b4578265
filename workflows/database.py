"""What the database runbooks share: weighing, asking, the epoch, what a report tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import dns, epoch
    from schemas.decisions import Assessment, Choice, Death, Go
    from schemas.facts import EpochRecord, MemberFacts
    from schemas.failures import EpochSuperseded, EpochUnavailable
    from schemas.orders import (
        DnsOrder,
        EstablishOrder,
        Observation,
        PromoteResult,
    )
    from schemas.reports import DecisionReport
    from schemas.topology import DatabaseService
    from workflows.looking import Looking
    from workflows.policy import clock
    from workflows.policy.assess import assess
    from workflows.runbook import Ended


class DatabaseRunbook(Looking):
    """A runbook on one PostgreSQL service, behind its epoch."""

    assessment: Assessment
    record: EpochRecord
    promoted: PromoteResult

    def __init__(self) -> None:
        super().__init__()
        self.decided_by_person = False
        self.adopted = False
        self.accepted_loose = False
        """A person knows that nothing keeps the old primary from acknowledging, and goes on, on record."""
        self.recorded = True
        """False: a person went on although the epoch store is out of reach, and the record is this run's alone."""
        self.w, self.names = 0, ""
        self.read_only = False
        """The service's clients may not write, by a person's word."""

    # What a report tells

    def leads_now(self) -> str | None:
        promoted = getattr(self, "promoted", None)
        return promoted.member if promoted is not None else None

    def summary(self) -> str:
        promoted, how = getattr(self, "promoted", None), getattr(self, "changed", None) or getattr(self, "how", None)
        if promoted is not None and self.can_wait:
            now = "follows it" if getattr(self, "returned", False) else "is shut down"
            return f"{promoted.member} leads, {self.suspect} {now}"
        if promoted is not None:
            return f"{promoted.member} leads, {self.suspect} is fenced"
        if how is not None:
            done = {"follow": "as it was", "rewind": "by rewind", "rebuild": "by a copy"}.get(how.method, how.method)
            return f"{self.suspect} is back as a standby, {done}: {how.reason}"
        return ""

    def lost_text(self) -> str:
        assessment = getattr(self, "assessment", None)
        if self.leads_now() is None or assessment is None:
            return ""
        return {
            "none": "nothing acknowledged was lost",
            "bounded": f"unknown, {assessment.verdict.text().removeprefix('bounded: ')}",
            "unknown": "unknown",
        }[str(assessment.verdict.kind)]

    def acknowledges_alone(self) -> str:
        leader = self.leads_now()
        if leader is None or self.w:
            return ""
        others = [name for name in self.estate.service.synchronous.voters if name != leader]
        until = (
            f"what it acknowledges is on no other for certain until the watch has {' or '.join(others)} as a voter"
            " again"
            if others
            else "replication is asynchronous, so its loss would lose what no other has received"
        )
        return f"{leader} acknowledges alone: {until}"

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

    def claim_unrecorded(self, seen: Observation, at_least: int) -> EpochRecord:
        """An epoch without its store, over a person's override: only the nodes' stamps keep older runs out."""
        record = self._record_of_stamps(seen, 1, workflow.info().workflow_id)
        record = record.model_copy(update={"epoch": max(record.epoch, at_least + 1)})
        self.recorded = False
        self.note(f"the epoch store is out of reach: by override, epoch {record.epoch} stands on the nodes only")
        self._take_epoch(record)
        return record

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
