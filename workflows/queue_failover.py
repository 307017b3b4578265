"""Queue failover: a node, a majority or the whole cluster is gone, and clients are led to where they are served.

docs/runbooks/queue_failover.md has the same headings as the steps here. Messages are never left out of account: what
a lost cluster still holds is named, and `queue-drain` brings it over when it returns.
"""

from __future__ import annotations

import asyncio
import types

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import rabbit_definitions, rabbit_nodes, rabbit_watch
    from schemas.decisions import Fence
    from schemas.facts import EpochRecord
    from schemas.queue_facts import Grown, QueueObservation, QueueOrder, QueueState
    from schemas.queue_requests import QueueFailoverRequest, QueueWatchOrder
    from schemas.reports import DecisionReport, Outcome, Report
    from workflows.policy import queue as policy
    from workflows.policy import queue_moves as moves
    from workflows.queue import QueueRunbook, not_yet
    from workflows.reasons import reason_of
    from workflows.runbook import WAIT_S, Ended

CONFIRM = "Confirm what is lost"
ASSESS = "Assess where clients can go, and the loss"
DECIDE = "Decide"
CLAIM = "Claim the epoch"
ISOLATE = "Start or isolate what is lost"
READY = "Confirm that the queues can serve"
ROUTE = "Lead clients over"
VERIFY = "Verify through every route"
REGROW = "Regrow what is left"
NOTIFY = "Notify"

HELD_S = rabbit_nodes.HELD_S + 4.0
"""Limit of asking each machine whether its node runs: one that is gone does not answer at all."""
LOOKS = 3
"""A node that was lost a moment ago may be seen, or not, by its neighbours: two looks in a row must agree."""


@workflow.defn(name="QueueFailover", failure_exception_types=[Exception])
class QueueFailover(QueueRunbook):
    """Start with `{"service": "counting-queue", "reason": "…"}`; ends with a Report."""

    procedure = "QueueFailover"
    urgent_need = True
    titles = (CONFIRM, ASSESS, DECIDE, CLAIM, ISOLATE, READY, ROUTE, VERIFY, REGROW, NOTIFY)
    expected_s = types.MappingProxyType({CLAIM: 0.2, ISOLATE: 6.0, READY: 1.0, ROUTE: 0.5, VERIFY: 1.5})

    lost: QueueState
    seen: QueueObservation

    def __init__(self) -> None:
        super().__init__()
        self.left_behind = ""
        self.grown = False
        """More was lost after this run had set out."""

    @workflow.run
    async def run(self, request: QueueFailoverRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))

    @property
    def source(self) -> str:
        return self.region_of(self.suspect)

    @property
    def across(self) -> bool:
        return bool(self.candidate) and self.region_of(self.candidate) != self.source

    def reached(self) -> Outcome:
        return "recovered, unprotected" if self.unprotected else "recovered"

    def summary(self) -> str:
        if not self.led:
            return ""
        return f"clients are led to {self.led}; {self.left_behind}" if self.across else f"clients are led to {self.led}"

    async def carry_out(self, request: QueueFailoverRequest) -> None:
        if not request.dry_run:
            await self.lock()
        while True:
            await self.step(CONFIRM, lambda: self.confirm(request), told=lambda text: text)
            await self.step(ASSESS, lambda: self.weigh(request), told=lambda text: text)
            if request.dry_run:
                await self.plan_rest(self.would(request))
                return
            await self.step(DECIDE, lambda: self.decide(request), told=lambda text: text)
            self.urgent = True
            self.record = await self.step(CLAIM, lambda: self.claim(request), told=lambda r: f"epoch {r.epoch}")
            if request.suspicion is None and not self.grown:
                await self.tell_watch()
            if self.lost.loss != "node":
                await self.leave_cluster()
                break
            if await self.stay_in_cluster():
                break
            self.led, self.past_no_return = "", False
        await self.step_or_skip(NOTIFY, self.notify, told=lambda names: f"told: {names}")

    async def stay_in_cluster(self) -> bool:
        """The majority goes on, and clients are led to one of its nodes; False when more was lost meanwhile."""
        await self.step(ISOLATE, self.start_or_isolate, told=lambda text: text)
        try:
            # Its clients have nowhere to go meanwhile: wherever they are led in the cluster, it is no worse.
            self.meanwhile(READY, self.confirm_ready, parks=False)
            await self.step(ROUTE, self.route_clients, told=lambda text: text)
            await self.all_done()
            await self.step(VERIFY, self.verify_led, told=lambda text: text, parks=False)
        except Ended as early:
            if await self.must_begin_anew(early):
                return False
            await self.step_or_skip(VERIFY, self.verify_led, told=lambda text: text)
        self.point_of_no_return()
        self.calm()
        try:
            await self.step(REGROW, self.regrow_while_served, told=lambda text: text, parks=False)
        except Ended as early:
            if await self.must_begin_anew(early):
                return False
            await self.step_or_skip(REGROW, self.regrow, told=lambda text: text)
        return True

    async def verify_led(self) -> str:
        return await self.verify_leader(self.led)

    async def must_begin_anew(self, early: Ended) -> bool:
        """Whether a step failed because more is gone; any other end is passed on."""
        if early.outcome != "undone":
            raise early
        await asyncio.gather(*self._beside, return_exceptions=True)
        self._beside = []
        return await self.has_grown()

    async def leave_cluster(self) -> None:
        """Another region takes over, unless a majority can be started again."""
        again = ("Let the nodes start again", self.let_start)
        await self.step(ISOLATE, self.start_or_isolate, undo=again, told=lambda text: text)
        await self.step(READY, self.confirm_ready, told=lambda text: text)
        self.point_of_no_return()
        await self.step(ROUTE, self.route_clients, told=lambda text: text)
        self.calm()
        await self.step_or_skip(VERIFY, self.verify_led, told=lambda text: text)
        await self.step_or_skip(REGROW, self.regrow, told=lambda text: text)

    async def regrow_while_served(self) -> str:
        """A node takes its time to return, and meanwhile nobody else watches those that clients are led to."""
        order = QueueWatchOrder(
            service=self.estate.service,
            zone=self.estate.zone,
            member=self.led,
            region=self.source,
            known=self.lost.down,
        )
        growing = asyncio.ensure_future(self.regrow())
        watching = asyncio.ensure_future(
            self.do(rabbit_watch.watch_brokers, order, limit=WAIT_S, total=None, heartbeat=6.0)
        )
        try:
            await workflow.wait([growing, watching], return_when=asyncio.FIRST_COMPLETED)
            if growing.done() or watching.exception() is not None:
                return await growing
            raise not_yet(f"{', '.join(watching.result().down)} is lost as well")
        finally:
            for task in (growing, watching):
                task.cancel()
            await asyncio.gather(growing, watching, return_exceptions=True)

    async def has_grown(self) -> bool:
        """Whether more is gone than what this run set out for: then it begins anew, with what is true now."""
        state = policy.state_of(self.estate.service, await self.look(), self.suspect)
        self.grown = set(state.down) > set(self.lost.down) or state.loss not in ("nothing", self.lost.loss)
        if self.grown:
            self.note(f"more was lost meanwhile: {state.reason}")
        return self.grown

    def would(self, request: QueueFailoverRequest) -> dict[str, str]:
        """What each step of a real run would do."""
        go = policy.may_fail_over(self.estate.service, self.lost, approval=request.approval)
        lost = ", ".join(self.lost.down) or "nothing"
        where = self.candidate or "nobody"
        return {
            DECIDE: {"go": "by policy alone: ", "ask": "a person is asked: ", "stop": "nothing is done: "}.get(
                go.action, "refused: "
            )
            + go.reason,
            CLAIM: "the run takes the next epoch",
            ISOLATE: f"{lost} is stopped and kept from starting" if self.across else f"{lost} is left to its cluster",
            READY: "the standby's definitions are compared" if self.across else "every queue has a leader",
            ROUTE: f"every name leads to {where}",
            VERIFY: f"a message through every name and back from {', '.join(self.estate.vantages)}",
            REGROW: "what the lost cluster holds is named" if self.across else f"{lost} is started, members are added",
            NOTIFY: f"told: {', '.join(each.name for each in self.estate.service.notify) or 'nobody'}",
        }

    # What the steps do, in their order

    async def confirm(self, request: QueueFailoverRequest) -> str:
        """From every region, and twice where something is lost."""
        suspicion = request.suspicion
        service = self.estate.service
        before: QueueState | None = None
        for _ in range(LOOKS):
            self.seen = await self.first_look(request) if before is None and not self.grown else await self.look()
            leader, why = policy.led_to(service, self.seen)
            if leader is None:
                raise Ended("refused", f"{why}: a person must look")
            self.suspect = leader
            self.lost = policy.state_of(service, self.seen, leader)
            same = before is not None and before.down == self.lost.down
            # What a quorum of regions counted to its limit, and then saw, needs no second look.
            counted = suspicion is not None and suspicion.member in self.lost.down and not self.grown
            if self.lost.loss == "nothing" or same or counted:
                break
            before = self.lost
        if self.lost.loss == "nothing":
            raise Ended("not needed", self.lost.reason)
        if self.lost.loss == "cluster":
            self.lost = policy.with_held_back(self.lost, await self.held_back())
        if self.lost.loss in ("partitioned", "unclear"):
            # Neither is a loss: those who can't be asked may well be serving.
            raise Ended("refused", self.lost.reason)
        if suspicion is None and self.detected is None:
            self.start_clock(workflow.now())
            self.detected = workflow.now()
        self.sure = True
        return self.lost.reason

    async def held_back(self) -> list[str]:
        """Nodes that only wait for a majority; none where their machines don't say so."""
        order = QueueOrder(service=self.estate.service, region=self.source, epoch=0)
        try:
            return await self.do(rabbit_nodes.held_back, order, limit=HELD_S, total=HELD_S, attempts=1)
        except ActivityError as error:
            self.note(f"whether nodes hold back was not found out: {reason_of(error)}")
            return []

    async def first_look(self, request: QueueFailoverRequest) -> QueueObservation:
        """What the watch saw is enough for a node that its cluster does without; else every region looks."""
        suspicion, service = request.suspicion, self.estate.service
        if suspicion is not None and suspicion.record is not None:
            seen = policy.of_watch(service, suspicion.seen, suspicion.record)
            if seen is not None and policy.state_of(service, seen, suspicion.record.leader).loss == "node":
                return seen
        return await self.look()

    async def claim(self, request: QueueFailoverRequest) -> EpochRecord:
        """From here an older run changes nothing. The watch that started this run holds an epoch for it in reserve."""
        suspicion = request.suspicion
        if self.grown:
            return await self.claim_after(self.seen.record or self.record)
        reserve = suspicion.record if suspicion is not None else None
        if reserve is not None and self.seen.record == reserve:
            # What the watch holds may have been claimed since by a run that it did not hear of.
            held = await self.record_now(reserve)
            if held == reserve:
                self._take_epoch(reserve)
                return reserve
            if held.leader != reserve.leader:
                raise Ended("not needed", f"{held.leader} leads by now, by the record of {held.run}")
            return await self.claim_after(held)
        first = await self.record_or_first(self.seen.record, self.seen.epoch_error, self.suspect)
        return await self.claim_after(first)

    async def weigh(self, request: QueueFailoverRequest) -> str:
        service, state = self.estate.service, self.lost
        facts = self.seen.cluster(self.source)
        if state.loss == "node":
            choice = policy.choose_node(service, facts, state, request.candidate)
        else:
            choice = policy.choose_region(service, self.seen, self.source, request.candidate, lost=True)
        self.candidate = choice.candidate or ""
        mirror = self.seen.mirrors.get(self.region_of(self.candidate)) if self.across else None
        self.left_behind = policy.held_text(self.source, mirror, workflow.now())
        before = [queue for each in request.suspicion.before for queue in each.queues] if request.suspicion else []
        gone = [service.member(name).node for name in state.down]
        verdict = policy.verdict_of(state, facts.queues, self.left_behind, read=facts.read, gone=gone, before=before)
        self.attribute("LifeboatVerdict", verdict.kind)
        self.assessment = policy.assess(self.suspect, state, choice, verdict)
        return f"{choice.reason}; loss {verdict.text()}: {verdict.reason}"

    async def decide(self, request: QueueFailoverRequest) -> str:
        go = policy.may_fail_over(self.estate.service, self.lost, approval=request.approval)
        if not self.candidate and not self._may_start():
            raise Ended("refused", f"{self.lost.reason}; {self.assessment.choice.reason}")
        if go.action == "go":
            self.decisions.append(
                DecisionReport(
                    question=DECIDE,
                    answer="approved",
                    by="policy",
                    at=workflow.now(),
                    reason=go.reason,
                    digest=self.assessment.digest,
                )
            )
            return go.reason
        first = "Approving starts the lost nodes, and only if that gives no majority " if self._may_start() else ""
        text = (
            f"{self.lost.reason}. Lead clients of {self.service_name} to {self.candidate or 'nobody'}? {go.reason}."
            f" {self.left_behind}. {first or 'Approving '}stops what is left in {self.source}, and lets clients in"
            " elsewhere; what it holds is drained once it returns."
        )
        text += "".join(f" {each}." for each in moves.without_control(self.estate.service, self.source))
        text += "".join(f" {each}." for each in moves.unproved_clients(self.estate.service))
        return await self.ask_about(text, needs_override=go.action == "refuse", machine_s=12.0)

    def _may_start(self) -> bool:
        members = [self.estate.service.member(name) for name in self.lost.down]
        return self.lost.loss == "majority" and any(member.control is not None for member in members)

    async def start_or_isolate(self) -> str:
        """A minority is brought back where its nodes can be started; else clients are kept out of what is left."""
        if self.lost.loss == "node":
            return f"{', '.join(self.lost.down)} is kept out by the majority of its cluster"
        if self._may_start() and await self._majority_again():
            return f"a majority of {self.source} runs again: clients stay there"
        if not self.candidate:
            raise Ended("undone", f"no node could be started, and {self.assessment.choice.reason}")
        told = []
        if any(each.answers for each in self.seen.cluster(self.source).brokers):
            try:
                closed = await self.close(self.source, total=15, attempts=1)
                told.append(f"{closed.ended} connections were ended")
            except ActivityError as error:
                self.note(f"{self.source} could not be closed: {reason_of(error)}")
        found = await asyncio.gather(*(self.stop(each.name) for each in self.estate.service.cluster(self.source)))
        whole = all(done for done, _ in found)
        self.fence = Fence(
            strength="stopped" if whole else "none", evidence="; ".join(text for _, text in found), proved=whole
        )
        self.tasks += [f"keep it from coming back with its old clients: {text}" for done, text in found if not done]
        return "; ".join([*told, *(text for _, text in found)])

    async def _majority_again(self) -> bool:
        await asyncio.gather(*(self.start(name) for name in self.lost.down))
        try:
            await self.do(
                rabbit_nodes.until_queues_lead, self.at(self.source), limit=60, total=60, attempts=1, heartbeat=15
            )
        except ActivityError as error:
            self.note(f"{self.source} has no majority: {reason_of(error)}")
            # Nodes that were started let their clients in, and must be closed with the rest.
            self.seen = await self.look()
            return False
        self.seen = await self.look()
        facts = self.seen.cluster(self.source)
        down = [each.member for each in facts.brokers if not each.answers]
        member = self.suspect if self.suspect not in down else policy.other_node(self.estate.service, facts, down)
        self.candidate = member or ""
        return bool(member)

    async def confirm_ready(self) -> str:
        """Where clients stay every queue has a leader; where they go everything is defined."""
        if not self.across:
            facts = await self.do(
                rabbit_nodes.until_queues_lead, self.at(self.source), limit=30, total=60, heartbeat=15
            )
            running = facts.running()
            leaders = ", ".join(f"{each.place} by {each.leader}" for each in facts.queues if each.leader in running)
            gone = [f"{each.place} is with {each.leader}" for each in facts.queues if each.leader not in running]
            return "; ".join([f"led: {leaders}", *gone])
        order = self.move(self.source, self.region_of(self.candidate))
        # One that a run has left would pull from the lost cluster once that is back.
        await self.stop_drain(self.source, self.region_of(self.candidate), total=30)
        found = await self.do(rabbit_definitions.compare_with_mirror, order, limit=10, total=60, heartbeat=None)
        if found.differ:
            raise not_yet("; ".join(found.differ[:5]))
        return f"{found.defined} things are defined there as they were in {self.source} (digest {found.digest})"

    async def route_clients(self) -> str:
        """In one change with the record; another region lets clients in before anybody is led there."""
        told = await self.open(self.region_of(self.candidate)) if self.across else []
        if self.across or self.candidate != self.suspect:
            self.record = await self.choose_and_lead(self.candidate, self.assessment.verdict.kind)
        self.led = self.candidate
        # At once: whatever becomes of this run, the record says who serves.
        await self.settle(self.led)
        self.receipt = self.left_behind if self.across else policy.receipt_of(self.assessment.verdict)
        return "; ".join([*told, await self.confirm_names(self.led)])

    async def regrow(self) -> str:
        """A node that was lost is started, and is a member of every queue again; a lost cluster returns later."""
        await self.settle(self.led)
        if self.across:
            self.unprotected = await self.look_at_protection(self.led)
            self.unprotected.append(f"{self.left_behind}: start `queue-drain` once its nodes can run")
            return self.left_behind
        started = await asyncio.gather(*(self.start(name) for name in self.lost.down))
        found: Grown = await self.do(rabbit_nodes.regrow, self.at(self.source), limit=90, total=120, heartbeat=15)
        self.unprotected = await self.look_at_protection(self.led)
        added = "; ".join(f"{place} has a new member on {', '.join(nodes)}" for place, nodes in found.added.items())
        left = "; ".join(f"{place} is not on {', '.join(nodes)}" for place, nodes in found.missing.items())
        self.tasks += [
            f"{node} runs and is no online member of every queue: `rabbitmq-queues delete_member`, then `add_member`"
            for node in sorted(set(found.waits))
        ]
        return "; ".join(text for text in (*started, added, left) if text)

    # The undo

    async def let_start(self) -> None:
        """What was stopped serves again, and lets clients in as before."""
        if self.lost.loss == "node":
            return
        await self.claim_once()
        await asyncio.gather(*(self.start(each.name) for each in self.estate.service.cluster(self.source)))
        await self.open(self.source)
