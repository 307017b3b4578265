"""What the database runbooks share: looking, weighing, fencing, routing, verifying."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import dns, epoch, estate, fencing, node, pooler, probes, survey
    from schemas.decisions import Assessment, Death, Fence, Go
    from schemas.facts import EpochRecord, MemberFacts, Probe, RouteWrite
    from schemas.orders import (
        ClaimOrder,
        DnsOrder,
        EstablishOrder,
        FenceOrder,
        FenceResult,
        FollowOrder,
        FollowResult,
        NodeOrder,
        NodeResult,
        Observation,
        PoolerOrder,
        ProbeOrder,
        PromoteResult,
        ProofOrder,
        ProofResult,
        RecordOrder,
        StallOrder,
        VerifyOrder,
    )
    from schemas.reports import DecisionReport, Report
    from schemas.requests import FailoverRequest
    from schemas.topology import DatabaseService
    from workflows.policy.assess import assess
    from workflows.policy.death import judge_death
    from workflows.policy.fence import judge_fence
    from workflows.policy.voters import render_names
    from workflows.reporting import build_report
    from workflows.runbook import RETRY, Ended, Runbook, reason_of

T = TypeVar("T")

CONFIRM_ROUNDS = 8
"""How often the vantages and the standbys are asked again while a receiver is not yet silent for long enough."""
NO_WORKER_S = 1.5
"""A region whose workers don't take a task within this has no vote."""


class DatabaseRunbook(Runbook):
    """A runbook on one PostgreSQL service, behind its epoch."""

    assessment: Assessment
    record: EpochRecord
    promoted: PromoteResult

    def __init__(self) -> None:
        super().__init__()
        self.suspect = ""
        self.detected: datetime | None = None
        self.decided: datetime | None = None
        self.recovered: datetime | None = None
        self.decided_by_person = False
        self.adopted = False
        self.w, self.names = 0, ""
        self.fence: Fence | None = None
        self.fenced = FenceResult(disconnected=[], members=[])
        self.bound: EpochRecord | None = None
        """The record that bound the old primary, before clients were routed."""
        self.stalled, self.stall_evidence = False, ""
        self.route_writes: list[RouteWrite] = []
        self.unprotected: list[str] = []
        self._stopping: asyncio.Future[NodeResult] | None = None

    async def carry_out(self, request: FailoverRequest) -> None:
        raise NotImplementedError

    async def from_start_to_report(self, request: FailoverRequest) -> Report:
        """The whole run: what `carry_out` says, and its undo when it ends before the point of no return."""
        self.service_name, self.reason = request.service, request.reason
        self.attribute("LifeboatService", request.service)
        self.attribute("LifeboatProcedure", self.procedure)
        self.estate = await workflow.execute_local_activity(
            estate.describe_estate,
            request.service,
            start_to_close_timeout=timedelta(seconds=5),
            schedule_to_close_timeout=timedelta(seconds=30),
            retry_policy=RETRY,
        )
        self.rto_s = self.estate.service.rto_s
        self.note(f"started: {request.reason}")
        if request.suspicion is not None:
            self.detected = workflow.info().start_time
            self.start_clock(request.suspicion.first_failure)
        try:
            await self.carry_out(request)
            report = build_report(self, "needs a person" if self.tasks else "recovered, unprotected")
        except Ended as end:
            report = await self._end(end)
        except Exception:
            if not self.past_no_return:
                await self.undo_all()
            self.outcome = "failed"
            raise
        self.calm()
        self.outcome = report.outcome
        self.attribute("LifeboatOutcome", report.outcome)
        self.attribute("LifeboatStep", "")
        self.note(f"ended: {report.outcome}")
        await workflow.wait_condition(workflow.all_handlers_finished)
        return report

    async def _end(self, end: Ended) -> Report:
        outcome = end.outcome
        if not self.past_no_return:
            undone = bool(self._undos)
            whole = await self.undo_all()
            if not whole:
                outcome = "needs a person"
            elif undone and outcome == "aborted" and self._abort is None:
                outcome = "undone"
        else:
            self.tasks.append(end.summary)
        return build_report(self, outcome, end.summary)

    async def together(self, *works: Awaitable[Any]) -> list[Any]:
        """All of them to their end, then the first failure: nothing may go on beside an undo."""
        results = await asyncio.gather(*works, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def point_of_no_return(self) -> None:
        if self._abort is not None:
            raise Ended("aborted", f"aborted by {self._abort.by}")
        self.past_no_return = True
        self.note("point of no return: from here the run only goes forward")

    # Looking

    async def probe_from(self, region: str, member: str) -> Probe | None:
        """One region's probe; None when no worker of the region took it in time."""
        order = ProbeOrder(service=self.estate.service, member=member, region=region)
        try:
            return await self.do(
                probes.probe,
                order,
                region=region,
                limit=5,
                total=6,
                attempts=1,
                waits_for_worker=NO_WORKER_S,
                heartbeat=None,
            )
        except ActivityError:
            return None

    async def observe(self) -> Observation:
        return await self.do(survey.observe, self.estate, limit=4, total=20, heartbeat=None)

    def suspect_of(self, seen: Observation) -> str:
        """Who leads by the record; without one, the only member that is no standby; else the declared home."""
        if seen.record is not None:
            return seen.record.leader
        leading = [facts.member for facts in seen.members if facts.reachable and not facts.in_recovery]
        return leading[0] if len(leading) == 1 else self.estate.service.home

    async def confirm(self, request: FailoverRequest) -> tuple[Death, Observation]:
        """Probes from every region beside the standbys' testimony; judged as soon as enough has come in."""
        seen: Observation | None = None
        if request.suspicion is None:
            seen = await self.observe()
            self.suspect = self.suspect_of(seen)
        else:
            self.suspect = request.suspicion.member
        self.estate.service.member(self.suspect)
        first_failure = request.suspicion.first_failure if request.suspicion else None
        death = Death(state="ask", reason="nothing was seen")
        votes = list(request.suspicion.votes) if request.suspicion else []
        for _ in range(CONFIRM_ROUNDS):
            looking = asyncio.ensure_future(self.observe())
            # The watch's own votes are a moment old: they are heard first, and every region is asked again only if
            # they, with what the standbys say, do not settle it.
            asking = [
                asyncio.ensure_future(self.probe_from(region, self.suspect))
                for region in (self.estate.vantages if len(votes) < self.estate.service.detection.quorum else [])
            ]
            pending: Sequence[asyncio.Future[Any]] = [looking, *asking]
            while pending and death.state != "dead":
                _, pending = await workflow.wait(list(pending), return_when=asyncio.FIRST_COMPLETED)
                if looking.done():
                    seen = looking.result()
                    answers = [each.result() for each in asking if each.done()]
                    known = [*votes, *(answer for answer in answers if answer is not None)]
                    death = judge_death(
                        self.estate.service, self.suspect, known, seen.members, first_failure=first_failure
                    )
                    failed = [vote.at for vote in known if vote.outcome in ("refused", "timeout")]
                    if first_failure is None and failed:
                        first_failure = min(failed)
            if death.state == "dead" or (not votes and death.state != "wait"):
                break
            votes = []
            if death.state == "wait":
                await workflow.sleep(timedelta(seconds=max(death.wait_s, 0.05)), summary="until silence is proof")
        if death.state == "wait":
            death = death.model_copy(update={"state": "ask"})
        assert seen is not None
        if seen.record is not None and request.suspicion is not None and seen.record.leader != self.suspect:
            raise Ended("not needed", f"{self.suspect} leads no more; {seen.record.leader} does")
        if death.state != "alive" and first_failure is not None:
            self.start_clock(first_failure)
        if self.detected is None:
            self.detected = workflow.now()
        return death, seen

    def weigh(
        self,
        requested: str | None,
        death: Death,
        record: EpochRecord | None,
        facts: Sequence[MemberFacts],
        *,
        disconnected: Sequence[str] | None,
        service: DatabaseService | None = None,
    ) -> Assessment:
        result = assess(
            service or self.estate.service,
            suspect=self.suspect,
            death=death,
            record=record,
            facts=facts,
            requested=requested,
            disconnected=disconnected,
        )
        self.attribute("LifeboatVerdict", result.verdict.kind)
        # A candidate that an earlier run had promoted before it was cut off is taken as it is.
        leading = [each.member for each in facts if each.reachable and not each.in_recovery]
        self.adopted = result.choice.candidate in leading
        return result

    async def ask_for(self, go: Go, assessment: Assessment) -> DecisionReport:
        """A person's decision; anything but an approval ends the run."""
        text = (
            f"Fail over {self.service_name} from {self.suspect} to {assessment.choice.candidate or 'nobody'}?"
            f" {go.reason}. Loss: {assessment.verdict.text()} ({assessment.verdict.reason})."
            f" Primary: {assessment.death.reason}. Approving cuts clients off {self.suspect}, disconnects its"
            " standbys (if it is alive it acknowledges nothing from then on), and promotes the candidate."
        )
        if assessment.choice.candidate is None:
            raise Ended("refused", f"{go.reason}; {assessment.choice.reason}")
        decision = await self.ask(text, assessment.digest, needs_override=go.action == "refuse", machine_s=5.0)
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

    # Fencing

    async def first_record(self, seen: Observation) -> EpochRecord:
        """A first record for a service that has none: reached only by a person's override, or by the watch."""
        if seen.epoch_error:
            raise ApplicationError(seen.epoch_error, type="EpochUnavailable")
        service = self.estate.service
        record = EpochRecord(
            epoch=max([facts.stamp for facts in seen.members if facts.reachable], default=0),
            run="none",
            leader=self.suspect,
            # Nobody knows who had to acknowledge: it must not look as if anybody did.
            w=0,
            voters=[],
        )
        order = EstablishOrder(service=service, zone=self.estate.zone, first=record)
        return await self.do(epoch.establish_epoch, order)

    async def hold_poolers(self) -> list[str]:
        """Poolers cut and refuse their clients. One out of reach serves nobody, and doesn't hold the run up."""
        if self.outage_started is None:
            self.start_clock(workflow.now())

        async def hold(route: Any) -> str:
            try:
                held = await self.do(pooler.hold_pooler, self._pooler_order(route, self.suspect), limit=6, total=8)
            except ActivityError as error:
                return f"{route.name} not held: {reason_of(error)}"
            return held.evidence

        return list(await asyncio.gather(*(hold(route) for route in self.estate.service.poolers())))

    def _pooler_order(self, route: Any, target: str) -> PoolerOrder:
        return PoolerOrder(service=self.estate.service, route=route, target=target, epoch=self.epoch or 0)

    async def resume_poolers(self) -> None:
        for route in self.estate.service.poolers():
            await self.do(pooler.point_pooler, self._pooler_order(route, self.suspect), limit=10, total=60)

    async def claim_after(self, seen: EpochRecord, note: str = "") -> EpochRecord:
        """The next epoch, for this run."""
        run = workflow.info().workflow_id + note
        order = ClaimOrder(zone=self.estate.zone, service=self.service_name, run=run, seen=seen)
        record = await self.do(epoch.claim_epoch, order, total=60)
        self.epoch = record.epoch
        self.number("LifeboatEpoch", record.epoch)
        return record

    async def is_dead(self, member: str) -> bool:
        """Whether a member is dead by the same rule as a primary."""
        seen = await self.observe()
        votes = await asyncio.gather(*(self.probe_from(region, member) for region in self.estate.vantages))
        known = [vote for vote in votes if vote is not None]
        return judge_death(self.estate.service, member, known, seen.members, first_failure=None).state == "dead"

    async def disconnect(self, suspect: str) -> FenceResult:
        """Disconnect and stamp every direct standby of a suspect, the voters of every set that binds last."""
        bound = {*self.record.voters, *self.record.candidate_voters}
        order = FenceOrder(
            service=self.estate.service,
            suspect=suspect,
            epoch=self.record.epoch,
            voters=sorted(bound),
            at_once=self.assessment.death.state == "dead",
        )
        return await self.do(fencing.disconnect_standbys, order, limit=15, total=60)

    async def fence_old_primary(self) -> FenceResult:
        """Disconnect every standby; stall the suspect if it answers; stop its node meanwhile."""
        stall = StallOrder(service=self.estate.service, member=self.suspect, epoch=self.record.epoch)
        if self.assessment.death.state != "dead":
            self.stop_old_primary()
        if self.assessment.death.state == "dead" and self.assessment.verdict.kind == "none":
            fenced = await self.disconnect(self.suspect)
            stalled = ProofResult(acknowledged=True, evidence=f"{self.suspect} is dead, so it is not stalled")
        else:
            fenced, stalled = await self.together(
                self.disconnect(self.suspect),
                self.do(fencing.stall_primary, stall, limit=6, total=20, heartbeat=None),
            )
        self.fenced, self.bound = fenced, self.record
        self.stalled, self.stall_evidence = not stalled.acknowledged, stalled.evidence
        if self.stalled:
            # What it has written by now bounds the loss where no voter holds it.
            seen = await self.observe()
            suspect = [facts for facts in seen.members if facts.member == self.suspect]
            self.fenced = fenced.model_copy(update={"members": [*fenced.members, *suspect]})
        return self.fenced

    def stop_old_primary(self) -> None:
        """Begin to stop the suspect's node. A dead one is stopped after its clients are served: by then R + W > N
        keeps it from acknowledging, and the stop would only take the processor from the promotion.
        """
        if self._stopping is None:
            order = NodeOrder(service=self.estate.service, member=self.suspect)
            self._stopping = asyncio.ensure_future(
                self.do(node.stop_node, order, limit=45, total=100, attempts=2, heartbeat=None)
            )

    async def unfence(self) -> None:
        """Undo of the fence, behind a newer epoch, so that a late attempt of the fence changes nothing any more."""
        service = self.estate.service
        if self._stopping is not None:
            await asyncio.gather(self._stopping, return_exceptions=True)
        self.record = await self.claim_after(self.record, " (undo)")
        await self.do(
            node.start_node,
            NodeOrder(service=service, member=self.suspect),
            limit=60,
            total=300,
            heartbeat=None,
        )
        names = render_names(self.record.w, self.record.voters)
        stall = StallOrder(service=service, member=self.suspect, epoch=self.record.epoch, names=names)
        await self.do(fencing.unstall_primary, stall, limit=10, total=300, heartbeat=None)
        direct = [m.name for m in service.members if m.name != self.suspect and m.follows in (None, self.suspect)]
        follow = FollowOrder(service=service, leader=self.suspect, members=direct, epoch=self.record.epoch)
        await self.do(fencing.reconnect_standbys, follow, limit=30, total=300)
        cleared = self.record.model_copy(update={"candidate": None, "candidate_voters": [], "verdict": ""})
        back = DnsOrder(service=service, zone=self.estate.zone, target=self.suspect, seen=self.record, wanted=cleared)
        self.record = await self.do(dns.choose_and_lead, back, limit=10, total=300, heartbeat=None)

    async def prove_fence(self) -> Fence:
        """What keeps the old primary from acknowledging, strongest first, and a write that shows it."""
        order = ProofOrder(service=self.estate.service, member=self.suspect)
        proof: ProofResult = await self.do(fencing.prove_fence, order, limit=10, total=30, heartbeat=None)
        self.stop_old_primary()
        assert self._stopping is not None
        try:
            stopped = await self._stopping
        except ActivityError as error:
            stopped = NodeResult(done=False, evidence=reason_of(error))
        direct = [
            m.name for m in self.estate.service.members if m.follows in (None, self.suspect) and m.name != self.suspect
        ]
        fence = judge_fence(
            stopped=stopped.done,
            stalled=self.stalled,
            disconnected=self.fenced.disconnected,
            direct=direct,
            record=self.bound,
            suspect=self.suspect,
            proved=not proof.acknowledged,
        )
        evidence = "; ".join(part for part in (fence.evidence, stopped.evidence, proof.evidence) if part)
        strength = "none" if proof.acknowledged else fence.strength
        return fence.model_copy(update={"evidence": evidence, "strength": strength, "proved": not proof.acknowledged})

    # Routes and followers

    def final_record(self) -> EpochRecord:
        """The record once the candidate leads: its own set binds, and the old one no more."""
        return self.record.model_copy(
            update={
                "leader": self.record.candidate,
                "w": self.w,
                "voters": self.record.candidate_voters,
                "candidate": None,
                "candidate_voters": [],
            }
        )

    async def move_routes(self, leader: str) -> list[str]:
        """Poolers are led to the new leader, and the names, which moved with the choice, seen at every server."""
        service, zone = self.estate.service, self.estate.zone
        names = DnsOrder(service=service, zone=zone, target=leader, seen=self.record, wanted=self.record)
        works: list[Awaitable[ProofResult]] = [
            self.do(pooler.point_pooler, self._pooler_order(route, leader), limit=8, total=20)
            for route in service.poolers()
        ]
        works.append(self.do(dns.confirm_names, names, limit=8, total=20, heartbeat=None))
        results = await asyncio.gather(*works, return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        for failure in failed:
            if not isinstance(failure, ActivityError):
                raise failure
        if failed:
            raise ApplicationError("; ".join(reason_of(failure) for failure in failed), type="RouteUnavailable")
        return [result.evidence for result in results if isinstance(result, ProofResult)]

    async def write_final_record(self) -> None:
        wanted = self.final_record()
        change = RecordOrder(zone=self.estate.zone, service=self.service_name, seen=self.record, wanted=wanted)
        self.record = await self.do(epoch.write_record, change, limit=10, total=60, heartbeat=None)

    async def write_through_routes(self, leader: str) -> list[RouteWrite]:
        """Every region that has a worker writes through every route."""

        async def from_region(region: str) -> list[RouteWrite]:
            order = VerifyOrder(
                service=self.estate.service,
                zone=self.estate.zone,
                region=region,
                run=workflow.info().workflow_id,
                expected=leader,
            )
            try:
                return await self.do(
                    probes.verify_routes,
                    order,
                    region=region,
                    limit=12,
                    total=20,
                    attempts=2,
                    waits_for_worker=5.0,
                )
            except ActivityError as error:
                self.note(f"{region} could not verify: {reason_of(error)}")
                return []

        return [write for found in await asyncio.gather(*map(from_region, self.estate.vantages)) for write in found]

    def first_good(self, route: str) -> datetime | None:
        """When the first region's write through the route was good."""
        return min((write.at for write in self.route_writes if write.route == route and write.ok), default=None)

    def errors_of(self, route: str) -> str:
        return "; ".join(f"{w.region}: {w.error}" for w in self.route_writes if w.route == route and not w.ok)

    async def let_follow(self, leader: str) -> FollowResult:
        """Every direct standby but the old primary; their answers are kept for the report."""
        members = [
            m.name
            for m in self.estate.service.members
            if m.name not in (leader, self.suspect) and m.follows in (None, leader, self.suspect)
        ]
        order = FollowOrder(service=self.estate.service, leader=leader, members=members, epoch=self.record.epoch)
        return await self.do(fencing.follow_leader, order, limit=30, total=60)
