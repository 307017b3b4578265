"""Fencing: what the database runbooks do to an old primary, how it is undone, and the proof that it holds."""

from __future__ import annotations

import asyncio
from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities import dns, fencing, isolation, node
    from schemas.attributes import watch_id
    from schemas.decisions import Assessment, Death, Fence
    from schemas.facts import EpochRecord
    from schemas.orders import (
        DnsOrder,
        FenceOrder,
        FenceResult,
        FollowOrder,
        NodeOrder,
        NodeResult,
        ProofOrder,
        ProofResult,
        StallOrder,
    )
    from workflows.database import DatabaseRunbook
    from workflows.policy.fence import judge_fence
    from workflows.policy.merge import merge_fences
    from workflows.policy.voters import render_names
    from workflows.reasons import reason_of


class Fencing(DatabaseRunbook):
    """Disconnect, stall and stop; unfence; prove."""

    def __init__(self) -> None:
        super().__init__()
        self.fenced = FenceResult(disconnected=[], members=[])
        self.bound: EpochRecord | None = None
        """The record that bound the old primary, before clients were routed."""
        self.stalled, self.stall_evidence = False, ""
        self._stopping: asyncio.Future[NodeResult] | None = None
        self._isolating: asyncio.Future[NodeResult] | None = None
        """Only where the topology declares it."""

    async def tell_watch(self) -> None:
        """Its probes would call a planned stop an outage."""
        try:
            await workflow.get_external_workflow_handle(watch_id(self.service_name)).signal(
                "stand_back", workflow.info().workflow_id
            )
        except FailureError:
            self.note("no watch runs")

    async def disconnect(self, suspect: str, likely: Assessment | None = None) -> FenceResult:
        """Disconnect and stamp every direct standby of a suspect, the voters of every set that binds last."""
        return await self.do(
            fencing.disconnect_standbys, self._fence_order(suspect, likely), limit=15, total=60, heartbeat=2.0
        )

    async def disconnect_everywhere(self, suspect: str) -> FenceResult:
        """The same from every region at once: the worker that did it may itself be cut off."""
        order = self._fence_order(suspect, None)
        parts = await self.from_everywhere(fencing.disconnect_standbys, order, limit=6)
        return merge_fences(list(parts.values()))

    def _fence_order(self, suspect: str, likely: Assessment | None) -> FenceOrder:
        bound = {*self.record.voters, *self.record.candidate_voters, *self.estate.service.synchronous.voters}
        return FenceOrder(
            service=self.estate.service,
            zone=self.estate.zone,
            record=self.record if self.recorded else None,
            suspect=suspect,
            epoch=self.record.epoch,
            voters=sorted(bound),
            at_once=self.assessment.death.state == "dead",
            likely=likely.choice.candidate if likely else None,
            followers=likely.survivors if likely else [],
        )

    async def fence_old_primary(self) -> FenceResult:
        """Disconnect every standby; stall the suspect if it answers, read what it had written, and stop its node."""
        stall = StallOrder(service=self.estate.service, member=self.suspect, epoch=self.record.epoch)
        dead, bound = self.assessment.death.state == "dead", self.assessment.verdict.kind == "none"
        if dead and not bound:
            # Nothing is to be read there any more. One that answers is stopped after that: see below.
            self.stop_old_primary()
        if dead and bound:
            fenced = await self.disconnect(self.suspect, self.assessment)
            stalled = ProofResult(acknowledged=True, evidence=f"{self.suspect} is dead, so it is not stalled")
        else:
            fenced, stalled = await self.together(
                self.disconnect(self.suspect),
                self.do(fencing.stall_primary, stall, limit=6, total=20, heartbeat=None),
            )
        self.fenced, self.bound = fenced, self.record if self.recorded else None
        self.stalled, self.stall_evidence = not stalled.acknowledged, stalled.evidence
        if self.stalled:
            # What it has written by now bounds the loss where no voter holds it.
            seen = await self.observe()
            suspect = [facts for facts in seen.members if facts.member == self.suspect]
            self.fenced = fenced.model_copy(update={"members": [*fenced.members, *suspect]})
        if not dead:
            self.stop_old_primary()
        return self.fenced

    def stop_old_primary(self) -> None:
        """Begin to stop the suspect's node, and beside it to isolate it where that is declared. A dead one is stopped
        after its clients are served: by then R + W > N keeps it from acknowledging, and the stop would only take the
        processor from the promotion.
        """
        if self._stopping is not None:
            return
        member, order = self.estate.service.member(self.suspect), self._node_order()
        longest = max(45.0, member.control.longest_s() + 5) if member.control else 45.0
        self._stopping = asyncio.ensure_future(
            self.do(node.stop_node, order, limit=longest, total=2 * longest + 10, attempts=2)
        )
        if member.isolation is not None:
            longest = member.isolation.timeout_s + 15
            self._isolating = asyncio.ensure_future(
                self.do(isolation.isolate_member, order, limit=longest, total=2 * longest, attempts=4)
            )

    def _node_order(self) -> NodeOrder:
        return NodeOrder(
            service=self.estate.service,
            member=self.suspect,
            zone=self.estate.zone if self.recorded else None,
            run=self.record.run,
            epoch=self.record.epoch,
        )

    async def until_stopped(self) -> tuple[NodeResult, NodeResult]:
        """What became of the stop and of the isolation, begun here if they were not before."""
        self.stop_old_primary()
        stopped, isolated = await asyncio.gather(self._outcome(self._stopping), self._outcome(self._isolating))
        return stopped, isolated

    async def _outcome(self, work: asyncio.Future[NodeResult] | None) -> NodeResult:
        """What stopping or isolating came to; a failure is a fence that is not there."""
        try:
            return await work if work is not None else NodeResult(done=False, evidence="")
        except ActivityError as error:
            return NodeResult(done=False, evidence=reason_of(error))

    async def other_fence(self) -> str:
        """Where R + W > N does not keep the old primary from acknowledging, a stall, its stop or its isolation must.

        Why none of them does; "" when one holds.
        """
        if self.stalled:
            return ""
        results = await self.until_stopped()
        shown = "; ".join(each.evidence for each in results if each.evidence)
        self.note(f"what keeps {self.suspect} from acknowledging: {shown}")
        return "" if any(each.done for each in results) else shown

    async def ended(self, death: Death) -> datetime | None:
        """When the old primary ended, if nobody saw it since, and something keeps it from coming back unseen."""
        if not self.vigil_holds() or await self.other_fence() or not self.vigil_holds():
            return None
        return death.gone_at

    async def unfence(self) -> None:
        """Undo of the fence, behind a newer epoch, so that a late attempt of the fence changes nothing any more.

        What fails is told in the end, and holds none of the rest up.
        """
        begun = [each for each in (self._stopping, self._isolating) if each is not None]
        await asyncio.gather(*begun, return_exceptions=True)
        await self.claim_for_undo()
        failed: list[str] = []
        for part in (self.let_back, self.unstall, self.reconnect, self.clear_choice):
            try:
                await part()
            except (ActivityError, ApplicationError) as error:
                failed.append(reason_of(error))
        if failed:
            raise ApplicationError("; ".join(failed), type="NotUndone")

    async def let_back(self) -> None:
        """The suspect is on the network, and its server runs."""
        member = self.estate.service.member(self.suspect)
        if member.isolation is not None and self._isolating is not None:
            limit = member.isolation.timeout_s + 10
            await self.do(isolation.rejoin_network, self._node_order(), limit=limit, total=300)
        await self.do(node.start_node, self._node_order(), limit=60, total=300)

    async def unstall(self) -> None:
        await self.unstall_with(render_names(self.record.w, self.record.voters))

    async def unstall_with(self, names: str) -> None:
        stall = StallOrder(service=self.estate.service, member=self.suspect, epoch=self.record.epoch, names=names)
        await self.do(fencing.unstall_primary, stall, limit=10, total=300, heartbeat=None)

    def to_reconnect(self) -> list[str]:
        """Who followed the suspect directly."""
        members = self.estate.service.members
        return [m.name for m in members if m.name != self.suspect and m.follows in (None, self.suspect)]

    async def reconnect(self) -> None:
        direct = self.to_reconnect()
        if not direct:
            return
        follow = FollowOrder(service=self.estate.service, leader=self.suspect, members=direct, epoch=self.record.epoch)
        await self.do(fencing.reconnect_standbys, follow, limit=30, total=300)

    async def clear_choice(self) -> None:
        """Nobody is chosen any more, and the names lead back."""
        if not self.recorded:
            return  # The names were never moved.
        service, zone = self.estate.service, self.estate.zone
        cleared = self.record.model_copy(update={"candidate": None, "candidate_voters": [], "verdict": ""})
        back = DnsOrder(service=service, zone=zone, target=self.suspect, seen=self.record, wanted=cleared)
        self.record = await self.do(dns.choose_and_lead, back, limit=10, total=300, heartbeat=None)
        if zone.epochs is not None and service.dns_routes():
            led = back.model_copy(update={"seen": self.record, "wanted": self.record})
            await self.do(dns.lead_names, led, limit=10, total=60, heartbeat=None)

    async def claim_for_undo(self) -> None:
        """The next epoch, in the store where it answers, else on the nodes as the fence was."""
        if self.recorded:
            self.record = await self.claim_after(self.record, " (undo)", total=300)
            return
        seen = await self.observe()
        if seen.record is None:
            self.record = self.claim_unrecorded(seen, self.record.epoch)
            return
        self.must_be_free(seen.record)
        self.record = await self.claim_after(seen.record, " (undo)", at_least=self.record.epoch, total=300)
        self.recorded = True

    async def prove_fence(self) -> Fence:
        """What keeps the old primary from acknowledging, strongest first, and a write that shows it."""
        order = ProofOrder(service=self.estate.service, member=self.suspect)
        proof: ProofResult = await self.do(fencing.prove_fence, order, limit=10, total=30, heartbeat=None)
        stopped, isolated = await self.until_stopped()
        direct = [
            m.name for m in self.estate.service.members if m.follows in (None, self.suspect) and m.name != self.suspect
        ]
        fence = judge_fence(
            stopped=stopped.done,
            isolated=isolated.done,
            stalled=self.stalled,
            disconnected=self.fenced.disconnected,
            direct=direct,
            record=self.bound,
            suspect=self.suspect,
            proved=proof.proves and not proof.acknowledged,
        )
        if not stopped.done:
            cut = "is cut off, and " if isolated.done else ""
            self.unprotected.append(
                f"{self.suspect} {cut}is not known to be stopped ({stopped.evidence}): stop it by hand"
                + (", before it is let back" if cut else "")
            )
        stalled = self.stall_evidence if self.stalled else ""
        shown = (fence.evidence, stalled, stopped.evidence, isolated.evidence, proof.evidence)
        strength = "none" if proof.acknowledged else fence.strength
        if strength == "none":
            # Whoever mends it says `retry`, and what was done by hand is looked at anew.
            self._stopping = self._isolating = None
        return fence.model_copy(update={"evidence": "; ".join(filter(None, shown)), "strength": strength})
