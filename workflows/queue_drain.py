"""Queue drain: a cluster that was lost returns in isolation, and what it still holds goes to the one that serves.

docs/runbooks/queue_drain.md has the same headings as the steps here.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import rabbit_nodes
    from schemas.decisions import Choice, Verdict
    from schemas.facts import EpochRecord
    from schemas.queue_facts import Closed, Drained
    from schemas.reports import Outcome, Report
    from schemas.requests import RunRequest
    from workflows.policy import queue as policy
    from workflows.policy import queue_moves as moves
    from workflows.queue import QueueRunbook, not_yet
    from workflows.reasons import reason_of
    from workflows.runbook import Ended

CONFIRM = "Confirm who serves, and what may be left behind"
DECIDE = "Decide"
CLAIM = "Claim the epoch"
START = "Start its nodes"
CLOSE = "Keep its clients out"
DRAIN = "Drain what it holds"
STANDBY = "Leave it as a standby"
NOTIFY = "Notify"

DRAIN_S = 3600.0
"""Nobody waits for it: as long as messages move."""


@workflow.defn(name="QueueDrain", failure_exception_types=[Exception])
class QueueDrain(QueueRunbook):
    """Start with `{"service": "counting-queue", "reason": "…"}`; ends with a Report."""

    procedure = "QueueDrain"
    can_wait = True
    titles = (CONFIRM, DECIDE, CLAIM, START, CLOSE, DRAIN, STANDBY, NOTIFY)

    def __init__(self) -> None:
        super().__init__()
        self.left: list[str] = []
        """Regions that do not serve."""

    @workflow.run
    async def run(self, request: RunRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))

    def reached(self) -> Outcome:
        return "done, unprotected" if self.unprotected else "done"

    def summary(self) -> str:
        return self.receipt

    @property
    def serving(self) -> str:
        return self.region_of(self.suspect)

    async def carry_out(self, request: RunRequest) -> None:
        if not request.dry_run:
            await self.lock()
        first = await self.step(CONFIRM, self.confirm, told=lambda r: self.assessment.choice.reason)
        await self.step(DECIDE, lambda: self.decide(request), told=lambda text: text)
        if request.dry_run:
            where = ", ".join(self.left)
            await self.plan_rest(
                {
                    CLAIM: "the run takes the next epoch",
                    START: f"the nodes in {where} are started",
                    CLOSE: f"clients lose their permissions in {where}, every connection is closed",
                    DRAIN: f"all that {where} holds goes to {self.serving}, behind what came there meanwhile",
                    STANDBY: f"{where} has the definitions of {self.serving}, and no clients",
                    NOTIFY: f"told: {', '.join(each.name for each in self.estate.service.notify) or 'nobody'}",
                }
            )
            return
        self.claiming = True
        self.record = await self.step(CLAIM, lambda: self.claim_after(first), told=lambda r: f"epoch {r.epoch}")
        await self.tell_watch()
        await self.step(START, self.start_nodes, told="; ".join)
        await self.step(CLOSE, self.close_all, told=self.closed_text)
        await self.step(DRAIN, self.drain_all, told=lambda text: text)
        await self.step_or_skip(STANDBY, self.stand_by, told=lambda text: text)
        await self.step_or_skip(NOTIFY, self.notify, told=lambda names: f"told: {names}")

    # What the steps do, in their order

    async def confirm(self) -> EpochRecord:
        service = self.estate.service
        seen = await self.look()
        leader, why = policy.led_to(service, seen)
        if leader is None:
            raise Ended("refused", f"{why}: a person must look")
        self.suspect = leader
        serves = seen.cluster(self.serving)
        if not serves.reached:
            raise Ended("refused", f"{self.serving} should serve, and is not reached: `queue-failover` comes first")
        self.left = [region for region in service.clusters() if region != self.serving]
        wrong = moves.why_not_close(serves, [seen.cluster(region) for region in self.left])
        if wrong is not None:
            raise Ended("refused", wrong)
        if not self.left:
            raise Ended("not needed", f"{service.name} has no other cluster")
        choice = Choice(candidate=leader, reason=f"{self.serving} serves; {', '.join(self.left)} is drained into it")
        verdict = Verdict(kind="none", reason="each message is acknowledged once its destination has confirmed it")
        self.assessment = policy.assess(leader, policy.state_of(service, seen, leader), choice, verdict)
        return await self.record_or_first(seen.record, seen.epoch_error, leader)

    async def decide(self, request: RunRequest) -> str:
        if request.dry_run or request.approval == "policy":
            return "by policy alone: nobody is cut off that is served"
        text = (
            f"Drain {', '.join(self.left)} into {self.serving}? What it holds is older than what came meanwhile, and is"
            " delivered after it."
        )
        return await self.ask_about(text, needs_override=False, machine_s=15.0)

    async def start_nodes(self) -> list[str]:
        async def one(member: str) -> str:
            order = self.on(member)
            limit = self.estate.service.failover.return_s + 60
            found = await self.do(rabbit_nodes.start_broker, order, limit=limit, total=2 * limit)
            return found.evidence

        # Together: the last node that stopped must be there for the others to start.
        members = [each.name for region in self.left for each in self.estate.service.cluster(region)]
        # And as soon as one of them answers its clients are kept out, whether the others start or not.
        found = await self.together(*(one(name) for name in members), *(self.close_early(each) for each in self.left))
        for region in self.left:
            facts = await self.do(rabbit_nodes.until_queues_lead, self.at(region), limit=30, total=120, heartbeat=15)
            if bound := moves.dropped_when_given_back(facts):
                raise not_yet("; ".join(bound))
        return [text for text in found if text]

    async def close_early(self, region: str) -> str:
        try:
            closed = await self.close(region, total=self.estate.service.failover.return_s + 60)
        except ActivityError as error:
            # The step after this one tries again, and says why.
            self.note(f"{region} is not closed yet: {reason_of(error)}")
            return ""
        return f"{region} was closed as its first node answered: {closed.ended} connections ended"

    async def close_all(self) -> list[Closed]:
        """And nothing that an earlier run left there pulls from the cluster that serves."""
        for region in self.left:
            await self.stop_drain(self.serving, region)
        return [await self.close(region) for region in self.left]

    def closed_text(self, closed: list[Closed]) -> str:
        return "; ".join(f"{each.region}: {each.ended} connections ended, {'; '.join(each.refused)}" for each in closed)

    async def drain_all(self) -> str:
        moved = 0
        for region in self.left:
            found: Drained = await self.drain(region, self.serving, total=DRAIN_S)
            moved += found.total
        where = ", ".join(self.left)
        self.receipt = (
            f"{moved} messages that {where} still held went to {self.serving}, which has confirmed each"
            if moved
            else f"{where} held none"
        )
        return self.receipt

    async def stand_by(self) -> str:
        for region in self.left:
            await self.define(self.serving, region)
            await self.stop_drain(region, self.serving)
        self.unprotected = await self.look_at_protection(self.suspect)
        try:
            await self.settle(self.suspect)
        except ActivityError as error:
            self.note(f"the record is not settled: {reason_of(error)}")
        return f"{', '.join(self.left)} stands by"
