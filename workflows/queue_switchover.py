"""Queue switchover: a planned move to another region's cluster, nothing lost; and failback, the same to the home.

docs/runbooks/queue_switchover.md has the same headings as the steps here. The order is that of
docs/explanation/safety.md: definitions, the source closed, drained by a shovel that waits for confirms, empty on two
reads, consumers, publishers.
"""

from __future__ import annotations

import types
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import rabbit_drain
    from schemas.decisions import Fence, Verdict
    from schemas.facts import EpochRecord
    from schemas.failures import EpochSuperseded
    from schemas.queue_facts import Closed, Counted, Definitions, Drained, QueueObservation
    from schemas.reports import Outcome, Report
    from schemas.requests import CandidateRequest, RunRequest
    from workflows.policy import queue as policy
    from workflows.policy import queue_moves as moves
    from workflows.queue import QueueRunbook, failed
    from workflows.reasons import kind_of, reason_of
    from workflows.runbook import Ended

CONFIRM = "Confirm who serves, and choose the region"
DECIDE = "Decide"
CLAIM = "Claim the epoch"
DEFINE = "Import and compare the definitions"
CLOSE = "Close the source"
DRAIN = "Drain the source"
CONSUMERS = "Lead consumers over"
PUBLISHERS = "Let publishers in"
VERIFY = "Verify through every route"
STANDBY = "Leave the source as a standby"
NOTIFY = "Notify"

REOPEN_S = 900.0
"""Clients wait for nothing else; without an end a source that dies meanwhile would keep its failover from the lock."""
BACK_S = 3600.0
"""Messages go back for as long as any move; with none for `drain.stalled_s` it is given up."""

NOTHING = Verdict(kind="none", reason="clients are let in only once everything is there")


class MovingQueues(QueueRunbook):
    """The steps of a planned move."""

    can_wait = True
    titles = (CONFIRM, DECIDE, CLAIM, DEFINE, CLOSE, DRAIN, CONSUMERS, PUBLISHERS, VERIFY, STANDBY, NOTIFY)
    expected_s = types.MappingProxyType({CLOSE: 1.0, DRAIN: 10.0, CONSUMERS: 0.6, PUBLISHERS: 0.3, VERIFY: 1.5})

    def __init__(self) -> None:
        super().__init__()
        self.asked: str | None = None
        self.there: Counted | None = None
        """What the source held once it was closed, and the target by then."""
        self.before: Counted | None = None
        self.drained: Drained | None = None
        self.pause_ends: datetime | None = None
        """From the closing on clients wait, and until then at most."""
        self.stays: list[str] = []
        """What no move takes along."""

    def wanted(self) -> str | None:
        """The candidate that is asked for; None leaves the choice."""
        return self.asked

    def reached(self) -> Outcome:
        return "done, unprotected" if self.unprotected else "done"

    def summary(self) -> str:
        return f"{self.target} serves, {self.source} stands by" if self.led else ""

    @property
    def source(self) -> str:
        return self.region_of(self.suspect)

    @property
    def target(self) -> str:
        return self.region_of(self.candidate)

    async def carry_out(self, request: RunRequest) -> None:
        if not request.dry_run:
            await self.lock()
        seen = await self.step(CONFIRM, lambda: self.confirm(request), told=lambda r: self.assessment.choice.reason)
        await self.step(DECIDE, lambda: self.decide(request), told=lambda text: text)
        if request.dry_run:
            await self.plan_rest(self.would())
            return
        self.claiming = True
        self.record = await self.step(CLAIM, lambda: self.claim_after(seen), told=lambda r: f"epoch {r.epoch}")
        await self.step(
            DEFINE,
            self.make_ready,
            told=lambda r: f"{r.defined} things are the same in both (digest {r.digest})",
            parks=False,
        )
        await self.tell_watch()

        self.urgent = self.clients_wait = True
        # From here clients wait: what fails is undone at once, and asks nobody.
        reopen = ("Reopen the source", self.reopen)
        closed = await self.step(CLOSE, self.close_source, undo=reopen, told=self.closed_text, parks=False)
        self.fence = Fence(strength="stalled", evidence="; ".join(closed.refused), proved=bool(closed.refused))
        back = ("Bring the messages back", self.bring_back)
        await self.step(DRAIN, self.drain_source, undo=back, told=lambda text: text, parks=False)
        names = ("Lead consumers back", self.lead_consumers_back)
        await self.step(CONSUMERS, self.lead_consumers, undo=names, told="; ".join, parks=False)

        # Its undo is that of the steps before: the target closed, what came there brought back.
        await self.step(PUBLISHERS, self.let_publishers_in, told="; ".join, parks=False)
        self.point_of_no_return()
        self.clients_wait = False
        self.calm()
        await self.step_or_skip(VERIFY, lambda: self.verify_leader(self.led), told=lambda text: text)
        await self.step_or_skip(STANDBY, self.leave_as_standby, told=lambda text: text)
        await self.step_or_skip(NOTIFY, self.notify, told=lambda names: f"told: {names}")

    def would(self) -> dict[str, str]:
        """What each step of a real run would do."""
        service = self.estate.service
        users = ", ".join(each.name for each in service.clients)
        records = ", ".join(route.record for route in service.routes) or "no name"
        return {
            CLAIM: "the run takes the next epoch, and leaves it on both clusters",
            DEFINE: f"what {self.source} defines is imported in {self.target}, and compared; a message is shovelled",
            CLOSE: f"{users} lose their permissions in {self.source}, every connection is closed, a publish is refused",
            DRAIN: f"a shovel for each queue that holds messages, on-confirm, {service.drain.prefetch} at a time; given"
            f" up after {service.switchover.pause_s:g} s, and undone",
            CONSUMERS: f"{records} leads to {self.candidate}, where {users} may read",
            PUBLISHERS: f"{users} may write in {self.target}",
            VERIFY: f"a message through every name and back from {', '.join(self.estate.vantages)}",
            STANDBY: f"{self.source} has the definitions of {self.target}, and no clients",
            NOTIFY: f"told: {', '.join(target.name for target in service.notify) or 'nobody'}",
        }

    # What the steps do, in their order

    async def confirm(self, request: RunRequest) -> EpochRecord:
        """Clients are served by one cluster, all of it can be read, and another is fit to take over."""
        service = self.estate.service
        seen = await self.look()
        leader, why = policy.led_to(service, seen)
        if leader is None:
            raise Ended("refused", f"{why}: a person must look")
        self.suspect = leader
        target = self.wanted()
        if target is not None and self.region_of(target) == self.source:
            raise Ended("not needed", f"{self.source} serves already")
        facts = seen.cluster(self.source)
        blocked = policy.why_not_drain(facts)
        if blocked is not None:
            raise Ended("refused", f"{blocked}; `queue-failover` is for a cluster that is lost")
        apart = policy.split(service, facts)
        bound = moves.why_not_move(facts)
        if apart or bound:
            raise Ended("refused", "; ".join(filter(None, [apart, *bound])))
        choice = policy.choose_region(service, seen, self.source, target)
        if choice.candidate is None:
            raise Ended("refused", choice.reason)
        self.candidate = choice.candidate
        await self.must_be_ready(seen)
        self.stays = moves.not_moved(facts)
        told = (*self.stays, *moves.weaker(facts.queues), *moves.careless(facts), *moves.unproved_clients(service))
        for text in (*told, *moves.stray_shovels(seen.clusters)):
            self.note(text)
            if request.dry_run:
                self.blockers.append(text)
        state = policy.state_of(service, seen, leader).model_copy(update={"loss": "nothing", "reason": why})
        self.assessment = policy.assess(leader, state, choice, NOTHING)
        return await self.record_or_first(seen.record, seen.epoch_error, leader)

    async def must_be_ready(self, seen: QueueObservation) -> None:
        """What must hold besides; a failback asks for more."""

    async def decide(self, request: RunRequest) -> str:
        go = policy.may_move(self.target, approval=request.approval)
        if request.dry_run:
            return {"go": "by policy alone: "}.get(go.action, "a person is asked: ") + go.reason
        if go.action == "go":
            return go.reason
        pause = self.estate.service.switchover.pause_s
        text = (
            f"Move {self.service_name} from {self.source} to {self.target}? {go.reason}. Approving keeps every client"
            f" out while messages are moved, {pause:g} s at most, and then leads them to {self.candidate}."
        )
        text += "".join(f" {each}." for each in moves.unproved_clients(self.estate.service))
        return await self.ask_about(text, needs_override=False, machine_s=15.0)

    async def make_ready(self) -> Definitions:
        """Nothing of an earlier run pulls from either, all that the source defines is there, and a shovel gets
        through: while clients are still served."""
        await self.together(
            self.stop_drain(self.source, self.target, total=20), self.stop_drain(self.target, self.source, total=20)
        )
        found = await self.define(self.source, self.target)
        await self.do(rabbit_drain.try_shovel, self.move(self.source, self.target), limit=20, total=45)
        return found

    def remaining(self) -> float:
        """Seconds that clients may still be kept waiting."""
        assert self.pause_ends is not None
        return max((self.pause_ends - workflow.now()).total_seconds(), 5.0)

    async def close_source(self) -> Closed:
        self.start_clock(workflow.now())
        self.pause_ends = workflow.now() + timedelta(seconds=self.estate.service.switchover.pause_s)
        closed = await self.close(self.source, total=min(30.0, self.remaining()), attempts=3)
        # Nobody publishes or consumes any more, so that these are exact.
        self.there, self.before = await self.together(self.count(self.source), self.count(self.target))
        return closed

    def closed_text(self, closed: Closed) -> str:
        return f"{closed.ended} connections ended; {'; '.join(closed.refused) or 'no client user has a password here'}"

    async def drain_source(self) -> str:
        """Empty on two reads, and as much more at the target as was at the source."""
        found = await self.drain(self.source, self.target, total=self.remaining())
        # Nobody came in meanwhile either, after whom "empty" would mean nothing.
        again, after = await self.together(
            self.close(self.source, total=self.remaining(), attempts=3),
            self.count(self.target, total=self.remaining()),
        )
        if again.ended:
            raise failed("SomebodyCameIn", f"{again.ended} clients were in {self.source} while it was drained")
        assert self.there is not None
        assert self.before is not None
        self.drained = found
        arrived, expected = after.total - self.before.total, self.there.total
        short = moves.short_of(self.there, self.before, after)
        if short:
            raise failed(
                "MessagesMissing",
                f"of what left {self.source} less is in {self.target} ({'; '.join(short)}): a limit of a queue there,"
                " or messages whose time to live ended",
            )
        twice = f", {arrived - expected} of them twice" if arrived > expected else ""
        stays = f"; {'; '.join(self.stays)}" if self.stays else ""
        self.receipt = f"nothing confirmed was lost: {expected} messages moved{twice}{stays}"
        return f"{expected} messages in {found.seconds:.1f} s{twice}; {self.source} is empty"

    async def lead_consumers(self) -> list[str]:
        """Consumers have what came over before anything new can come."""
        told = await self.open(self.target, write=False, total=self.remaining())
        self.record = await self.choose_and_lead(self.candidate, "none", total=self.remaining())
        return told

    async def let_publishers_in(self) -> list[str]:
        """And the record says at once who serves, whatever becomes of this run."""
        told = await self.open(self.target)
        self.led = self.candidate
        try:
            await self.settle(self.led, total=20)
        except ActivityError as error:
            if kind_of(error) == EpochSuperseded.__name__:
                raise
            # They are served: no reason to keep them out again. It is settled below.
            self.note(f"the record is not settled yet: {reason_of(error)}")
        return told

    async def leave_as_standby(self) -> str:
        """It has what is defined now, and nobody in it: the next move, or failover, finds it ready."""
        await self.settle(self.led)
        await self.confirm_names(self.led)
        told = f"{self.source} stands by"
        try:
            await self.define(self.target, self.source, total=20)
        except ActivityError as error:
            self.unprotected.append(f"{self.source} can't take over as it stands: {reason_of(error)}")
            told = f"{self.source} does not have the definitions of {self.target} yet"
        self.unprotected += await self.look_at_protection(self.led)
        return told

    # The undos, in the order in which they run

    async def lead_consumers_back(self) -> None:
        """Whatever consumers have taken meanwhile was delivered; the rest goes back with what follows."""
        self.led = ""
        await self.lead_back(self.suspect)
        await self.close(self.target, total=10)

    async def bring_back(self) -> None:
        """What can be brought back while clients wait; they are let in again whatever becomes of it.

        Shovels that can't be taken away take nothing out of the source, once it is open (activities/rabbit_shovels.py).
        """
        await self.claim_once()
        await self.stop_drain(self.source, self.target, total=6)
        held, had = await self.together(self.count(self.target, total=20), self.count(self.source, total=20))
        await self.drain(self.target, self.source, total=BACK_S)
        short = moves.short_of(held, had, await self.count(self.source))
        if short:
            raise failed("MessagesMissing", f"of what was in {self.target} less came back: {'; '.join(short)}")

    async def reopen(self) -> None:
        """Whatever else could not be undone: nobody is served meanwhile."""
        try:
            await self.claim_once()
        except ActivityError as error:
            if kind_of(error) == EpochSuperseded.__name__:
                raise
            # This run's own epoch still lets it act.
            self.note(f"no epoch could be claimed for the undo: {reason_of(error)}")
        await self.open(self.source, total=REOPEN_S)


@workflow.defn(name="QueueSwitchover", failure_exception_types=[Exception])
class QueueSwitchover(MovingQueues):
    """Start with `{"service": "counting-queue", "reason": "…", "candidate": "rabbit-west-1"}`; ends with a Report."""

    procedure = "QueueSwitchover"

    @workflow.run
    async def run(self, request: CandidateRequest) -> Report:
        self.asked = request.candidate
        return await self.shielded(self.from_start_to_report(request))


@workflow.defn(name="QueueFailback", failure_exception_types=[Exception])
class QueueFailback(MovingQueues):
    """Home again: start with `{"service": "counting-queue", "reason": "…"}`; ends with a Report."""

    procedure = "QueueFailback"

    @workflow.run
    async def run(self, request: RunRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))

    def wanted(self) -> str | None:
        return self.estate.service.home

    async def must_be_ready(self, seen: QueueObservation) -> None:
        """Home is whole: a failback is no emergency."""
        home = seen.cluster(self.region_of(self.estate.service.home))
        down = [each.member for each in home.brokers if not each.answers]
        if down:
            raise Ended("refused", f"{home.region} is not whole yet: {', '.join(down)} must be started first")
