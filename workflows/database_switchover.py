"""Database switchover: a planned move without loss, and failback, the same to the home primary.

docs/runbooks/database_switchover.md has the same headings as the steps here.
"""

from __future__ import annotations

import asyncio
import contextlib
import types
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import data_folder, dns, fencing, node, pooler, promotion
    from schemas.decisions import Death
    from schemas.facts import EpochRecord, MemberFacts
    from schemas.failures import NotYet, SurvivorMissing
    from schemas.orders import (
        DnsOrder,
        FollowOrder,
        FollowResult,
        NamesOrder,
        NodeOrder,
        PauseOrder,
        PromoteOrder,
        PromoteResult,
        ProofResult,
    )
    from schemas.rejoin import Shut, ShutOrder
    from schemas.reports import Outcome, Report
    from schemas.requests import RunRequest, SwitchoverRequest
    from schemas.routes import HAProxyRoute, PgBouncerRoute
    from workflows.database_fence import Fencing
    from workflows.database_gates import HOLDS
    from workflows.database_protect import StartingRejoins
    from workflows.database_reads import Reading
    from workflows.database_return import Returning
    from workflows.database_routes import Routing
    from workflows.plan import Planning
    from workflows.policy import switchover
    from workflows.policy.voters import follower_names
    from workflows.reasons import kind_of, reason_of
    from workflows.runbook import Ended

CONFIRM = "Confirm who leads, and choose the candidate"
DECIDE = "Decide"
CLAIM = "Claim the epoch"
PREPARE = "Prepare: checkpoint, and the other standbys behind the candidate"
PAUSE = "Pause the poolers"
STOP = "Shut the primary down"
COMPARE = "Compare: the candidate has all of it"
PROMOTE = "Promote the candidate"
ROUTE = "Route clients"
VERIFY = "Verify through every route"
FOLLOW = "Follow the new primary"
RETURN = "Return the old primary as a standby"
RESTORE = "Restore the synchronous set"
NOTIFY = "Notify"

SETTLED = timedelta(seconds=1.1)
"""The record must change again while clients wait. Knot 3.2.6 lies on a change that comes within a second of the one
before it, and in the next second by the clock, until that second has passed (seen: 0.3 to 0.8 s)."""

START_S = 45.0
"""Limit of a start of the old primary after a move that was called off."""

START_TRIES = 3
TRIES = 4
"""Attempts of what is prepared while clients are served: the first three fail within a second or so."""

TOLD_S = 0.05
"""By then a worker has told the node to stop, and only waits for it."""


class Switching(Planning, Fencing, Reading, Routing, StartingRejoins, Returning):
    """The steps of a planned move, in the order of docs/explanation/safety.md."""

    can_wait = True
    titles = (
        *(CONFIRM, DECIDE, CLAIM, PREPARE, PAUSE, STOP, COMPARE),
        *(PROMOTE, ROUTE, VERIFY, FOLLOW, RETURN, RESTORE, NOTIFY),
    )
    expected_s = types.MappingProxyType({PAUSE: 0.5, STOP: 1.0, COMPARE: 0.2, PROMOTE: 1.0, ROUTE: 0.6, VERIFY: 1.5})

    def __init__(self) -> None:
        super().__init__()
        self.candidate = ""
        self.survivors: list[str] = []
        self.behind: list[str] = []
        """Who follows the candidate before it is promoted."""
        self.shut: Shut | None = None
        self.why = ""
        self.asked: str | None = None
        self._undo_claimed = False
        self.returned = False
        """The old primary follows the new one."""
        self.needed = 0
        """How many others had to acknowledge a commit of the old primary."""
        self.alone = False
        """No other voter streams, so that the candidate would acknowledge alone."""

    def reached(self) -> Outcome:
        return "done, unprotected" if self.unprotected else "done"

    def wanted(self, request: RunRequest) -> str | None:
        """The candidate that is asked for; None leaves the choice."""
        return None

    async def carry_out(self, request: RunRequest) -> None:
        if not request.dry_run:
            await self.lock()
        seen = await self.step(CONFIRM, lambda: self.choose(request), told=lambda r: self.why)
        await self.step(DECIDE, lambda: self.decide(request), told=lambda text: text)
        if request.dry_run:
            await self.plan_rest(self.would())
            return
        self.claiming = True
        self.record = await self.step(CLAIM, lambda: self.claim_after(seen), told=lambda r: f"epoch {r.epoch}")
        back = ("Lead the standbys back", self.lead_back)
        await self.step(PREPARE, self.prepare, undo=back, told=lambda text: text, parks=False)

        self.urgent = self.clients_wait = True
        # From here clients wait: what fails is undone at once, and asks nobody.
        resume = ("Resume the poolers", self.resume_poolers)
        await self.step(PAUSE, self.pause, undo=resume, told="; ".join, parks=False)
        again = ("Start the old primary again", self.start_again)
        await self.step(STOP, self.shut_down, undo=again, told=self.shut_text, parks=False)
        self.record = await self.step(COMPARE, self.compare, told=lambda r: f"{r.candidate} has all of it", parks=False)

        self.point_of_no_return()
        self.promoted = await self.step(
            PROMOTE, self.promote, told=lambda p: f"{p.member} leads on timeline {p.timeline}"
        )
        await self.step_or_skip(ROUTE, lambda: self.move_routes(self.candidate), told="; ".join)
        self.calm()
        await self.step_or_skip(VERIFY, self.verify, told=lambda text: text)
        await self.step_or_skip(FOLLOW, self.follow, told=lambda r: f"{', '.join(r.following) or 'nobody'} follow")
        await self.step_or_skip(RETURN, self.return_old_primary, told=lambda text: text)
        await self.step_or_skip(RESTORE, self.restore_protection, told=lambda text: text)
        await self.step_or_skip(NOTIFY, self.notify, told=lambda names: f"told: {names}")

    def would(self) -> dict[str, str]:
        """What each step of a real run would do."""
        gates = ", ".join(route.name for route in self.estate.service.gates()) or "no pooler"
        others = ", ".join(
            each.name
            for each in self.estate.service.members
            if each.name not in (self.suspect, self.candidate) and each.follows in (None, self.suspect)
        )
        return {
            CLAIM: "the run takes the next epoch",
            PREPARE: f"fresh WAL file, CHECKPOINT on {self.suspect}; behind {self.candidate}: {others or 'nobody'};"
            " no watch meanwhile",
            PAUSE: f"{gates}: transaction pools wait, session clients are cut",
            STOP: f"{self.suspect} is shut down by its node control",
            COMPARE: f"{self.candidate} has received past its last checkpoint, else {self.suspect} starts again",
            PROMOTE: f"{self.candidate} is promoted",
            ROUTE: f"{gates} and every name lead to {self.candidate}{self.would_tell()}",
            VERIFY: f"a write and its reading back through every route from {', '.join(self.estate.vantages)}",
            FOLLOW: f"{others or 'nobody'} stream from {self.candidate}",
            RETURN: f"{self.suspect} starts as a standby of {self.candidate}",
            RESTORE: "the synchronous set is what the policy says",
            NOTIFY: f"told: {', '.join(target.name for target in self.estate.service.notify) or 'nobody'}",
        }

    # What the steps do, in their order

    async def choose(self, request: RunRequest) -> EpochRecord:
        """The primary is well, and somebody close behind it can take over."""
        seen = await self.observe()
        if seen.record is None:
            raise Ended("refused", seen.epoch_error or "there is no epoch record: start the watch first")
        self.suspect = self.member = seen.record.leader
        leader = next((each for each in seen.members if each.member == self.suspect), None)
        if leader is None or not leader.reachable or leader.in_recovery:
            raise Ended("refused", f"{self.suspect} should lead, and does not answer as a primary: fail over instead")
        target = self.wanted(request)
        if target == self.suspect:
            raise Ended("not needed", f"{self.suspect} leads already")
        await self.must_be_ready(target, seen.members, leader)
        if self.why_no_return():
            raise Ended("refused", self.why_no_return())
        if silent := await self.gates_out_of_reach():
            raise Ended("refused", f"clients could not be paused: {silent}")
        chosen, self.why = switchover.choose(self.estate.service, leader, seen.members, target)
        if chosen is None:
            raise Ended("refused", self.why)
        self.candidate = chosen
        dead = Death(state="alive", reason=f"{self.suspect} answers: this is planned")
        self.assessment = self.weigh(chosen, dead, seen.record, seen.members, disconnected=None)
        self.needed = seen.record.w
        self.alone = switchover.leads_alone(self.estate.service, leader, chosen)
        return seen.record

    async def must_be_ready(self, target: str | None, members: list[MemberFacts], leader: MemberFacts) -> None:
        """What must hold besides; a failback asks for more."""

    def why_no_return(self) -> str:
        member = self.estate.service.member(self.suspect)
        if member.control is None or member.data is None:
            return (
                f"{self.suspect} has no `control` and `data` in the topology, so it could not be shut down and return"
            )
        return ""

    async def decide(self, request: RunRequest) -> str:
        go = switchover.may_switch(
            self.estate.service, self.suspect, self.candidate, approval=request.approval, alone=self.alone
        )
        if request.dry_run:
            return self.would_decide(go)
        if go.action == "go":
            return go.reason
        text = (
            f"Move {self.service_name} from {self.suspect} to {self.candidate}? {go.reason}. Approving pauses the"
            f" poolers, shuts {self.suspect} down, and promotes the candidate once it has all of it; clients that go"
            " through no transaction pool are cut off."
        )
        decision = await self.ask(text, self.assessment.digest, needs_override=False, machine_s=5.0)
        self.decided = workflow.now()
        if decision.answer != "approved":
            if self._abort is not None:
                raise Ended("aborted", self.aborted_by())
            outcome: Outcome = "rejected" if decision.answer == "rejected" else "expired"
            raise Ended(outcome, f"{decision.answer} by {decision.by}")
        return f"approved by {decision.by}"

    async def prepare(self) -> str:
        """What can be done while clients are served: afterwards they only wait for what can't."""
        settled = workflow.now() + SETTLED
        service = self.estate.service
        voters = [name for name in service.synchronous.voters if name not in (self.suspect, self.candidate)]
        direct = [each.name for each in service.members if each.follows in (None, self.suspect)]
        others = [name for name in direct if name not in (self.suspect, self.candidate)]
        # Whoever is left on the primary must satisfy its synchronous set meanwhile.
        enough = self.record.w == 0 or (self.record.w == 1 and self.candidate in self.record.voters)
        bound = {*voters, *self.record.voters}
        early = others if enough else [name for name in others if name not in bound]
        names = NamesOrder(service=service, leader=self.suspect, names="", epoch=self.record.epoch)
        order = FollowOrder(service=service, leader=self.candidate, members=early, epoch=self.record.epoch)
        # Not again and again: a primary that died meanwhile is for a failover, which waits for this run's end.
        led, _, _ = await self.together(
            self.do(fencing.follow_leader, order, limit=30, attempts=TRIES),
            self.do(promotion.prepare_primary, names, limit=120, total=180, attempts=TRIES),
            self.do(data_folder.keep_from_starting, self.node_order(), limit=30, attempts=TRIES, heartbeat=None),
        )
        await self.tell_watch()
        self.behind = led.following
        able = [name for name in voters if name in led.following or name not in early]
        self.survivors = able if service.synchronous.policy == "required" else []
        if service.synchronous.policy == "required" and not able and not self.alone:
            lost = "; ".join(f"{name}: {why}" for name, why in (led.diverged | led.unreachable).items())
            why = f"no other voter follows {self.candidate} ({lost or 'none is declared'})"
            raise Ended("undone", f"nobody was promoted, as the candidate would acknowledge alone: {why}")
        self.w, self.names = follower_names(service, self.survivors)
        await self.start_with(self.names)
        self.narrow_reads(self.candidate, self.behind, PREPARE)
        near = order.model_copy(update={"leader": self.suspect, "members": [self.candidate, *self.survivors]})
        await self.do(fencing.until_caught_up, near, limit=60, total=90, attempts=TRIES)
        await self.narrowed()
        if (left := settled - workflow.now()) > timedelta():
            await workflow.sleep(left, summary="until the zone takes the next change at once")
        missing = "".join(f"; not {name}: {why}" for name, why in (led.diverged | led.unreachable).items())
        return f"{', '.join(led.following) or 'nobody'} behind {self.candidate}{missing}"

    async def start_with(self, names: str) -> None:
        """The set that the candidate would start with, without effect while it is a standby."""
        service, epoch = self.estate.service, self.record.epoch
        order = NamesOrder(service=service, leader=self.candidate, names=names, epoch=epoch)
        await self.do(promotion.prepare_candidate, order, limit=10, total=30, heartbeat=None)

    def node_order(self) -> NodeOrder:
        return NodeOrder.model_validate({k: v for k, v in self.folder_order().items() if k != "leader"})

    async def pause(self) -> list[str]:
        """Clients of transaction pools wait from here on, instead of failing."""
        self.start_clock(workflow.now())
        gates = self.estate.service.gates()
        proxies = [self._hold_proxy(route) for route in gates if isinstance(route, HAProxyRoute)]
        results = await self.together(self._pause([r for r in gates if isinstance(r, PgBouncerRoute)]), *proxies)
        told = [result.evidence for found in results for result in found]
        return told or ["no pooler: clients fail until they are led on"]

    async def _pause(self, routes: list[PgBouncerRoute]) -> list[ProofResult]:
        limit = self.estate.service.switchover.pause_s
        at: dict[str, Any] = {"service": self.estate.service, "target": self.suspect, "epoch": self.record.epoch}
        orders = [PauseOrder(route=route, limit_s=limit, **at) for route in routes]
        if not orders:
            return []
        return await self.do(pooler.pause_poolers, orders, limit=limit + 5, total=limit + 10, heartbeat=None)

    async def _hold_proxy(self, route: HAProxyRoute) -> list[ProofResult]:
        return [await self.gate(HOLDS, route, self.suspect, limit=6, total=10)]

    async def shut_down(self) -> Shut:
        """Down, and what it and the candidate have then, for the comparison.

        Meanwhile the paused poolers are led to the candidate, without letting anybody in before it leads.
        """
        order = ShutOrder(**dict(self.node_order()), candidate=self.candidate)
        stopping = asyncio.ensure_future(self.do(data_folder.stop_cleanly, order, limit=60, total=90, attempts=2))
        self.open_poolers(self.candidate, ROUTE, after_s=TOLD_S)
        self.shut = await stopping
        return self.shut

    def shut_text(self, shut: Shut) -> str:
        return f"{shut.folder.member} is {shut.folder.state}"

    async def compare(self) -> EpochRecord:
        """Without this nobody is promoted: a fast stop does not wait for a standby that is not connected."""
        assert self.shut is not None
        why = switchover.has_all(self.shut.folder, self.shut.candidate)
        if why is not None:
            raise Ended("undone", f"nobody was promoted: {why}")
        wanted = self.record.model_copy(
            update={
                "candidate": self.candidate,
                "candidate_voters": self.survivors if self.w else [],
                "verdict": "none",
            }
        )
        order = DnsOrder(
            service=self.estate.service,
            zone=self.estate.zone,
            target=self.candidate,
            seen=self.record,
            wanted=wanted,
            reads=self.names_next(self.candidate, self.behind),
        )
        return await self.do(dns.choose_and_lead, order, limit=4, heartbeat=None)

    async def promote(self) -> PromoteResult:
        order = PromoteOrder(
            service=self.estate.service,
            zone=self.estate.zone,
            record=self.record,
            names=self.names,
            survivors=self.record.candidate_voters,
        )
        try:
            return await self.do(promotion.promote_candidate, order, limit=30, total=60, heartbeat=2.0)
        except ActivityError as error:
            self.give_up_openings()
            if kind_of(error) != SurvivorMissing.__name__:
                raise
            # Told before the candidate is promoted. Behind a newer stamp no late attempt promotes it any more, and the
            # old primary, which has everything, can serve on.
            await self._claim_once()
            await self.start_with("")
            seen = next(each for each in (await self.observe()).members if each.member == self.candidate)
            if not seen.in_recovery or seen.stamp != self.record.epoch:
                raise
            self.past_no_return = False
            raise Ended("undone", f"nobody was promoted: {reason_of(error)}") from error

    async def verify(self) -> str:
        """A write and its reading back through every route from every region."""
        self.route_writes = await self.write_through_routes(self.promoted.member)
        self.recovered = self.served_since()
        if self.recovered is None:
            raise ApplicationError(f"not served yet: {self.unserved()}", type=NotYet.__name__)
        return f"every route serves {self.promoted.member}"

    async def follow(self) -> FollowResult:
        """The record names the new leader; the other standbys stream from it."""
        result = await self.let_follow(self.promoted.member)
        await self.write_final_record()
        lost = result.diverged | result.unreachable
        self.unprotected += [f"{name} does not follow ({why}): rejoin it" for name, why in lost.items()]
        return result

    async def return_old_primary(self) -> str:
        """It was shut down with nothing of its own, so that it only has to follow. Where somebody has started it since,
        it may have written: nobody acknowledged that for it where commits needed others.
        """
        self.predicted = "none" if self.needed else ""
        try:
            how = await self.keep_what_only_it_has()
            if how.method == "follow":
                await self.return_member()
                await self.start_member()
                streams = await self.until_it_streams()
                self.returned = True
                return f"{how.method}: {how.reason}; {streams}"
            why = how.reason
        except (ActivityError, ApplicationError) as error:
            why = reason_of(error)
        # That takes a run of its own, beside which the service can be failed over.
        self.note(f"{self.suspect} does not return here: {why}")
        return await self.protect_member(self.suspect) or f"left to a person: {why}"

    def lost_by(self) -> str:
        return self.predicted

    async def restore_protection(self) -> str:
        told = await self.restore_set()
        _, self.unprotected = await self.look_at_protection()
        await self.update_reads(self.record.leader)
        return told

    # The undos, in the order in which they run

    async def start_again(self) -> None:
        """Nobody was promoted, so the old primary serves again, behind a newer epoch than that of what is undone."""
        self.give_up_openings()
        await self._claim_once()
        await self.start_primary()

    async def start_primary(self) -> None:
        """Not for long: one that does not start is the watch's to fail over from, once this run has ended."""
        await self.do(node.start_node, self.node_order(), limit=START_S, total=START_S, attempts=START_TRIES)

    async def lead_back(self) -> None:
        """What fails is told in the end, and holds none of the rest up."""
        await self._claim_once()
        failed: list[str] = []
        for part in (self.start_primary, self.clear_choice, self.reconnect):
            if part == self.reconnect and failed:
                break  # There may be nobody to follow; a failover waits for the end of this run, and leads them itself.
            try:
                await part()
            except (ActivityError, ApplicationError) as error:
                failed.append(reason_of(error))
        # What is left of it on a candidate out of reach is set anew by whoever promotes it.
        with contextlib.suppress(ActivityError):
            await self.start_with("")
        if failed:
            raise ApplicationError("; ".join(failed), type="NotUndone")

    async def _claim_once(self) -> None:
        if not self._undo_claimed:
            await self.claim_for_undo()
            self._undo_claimed = True


@workflow.defn(name="DatabaseSwitchover", failure_exception_types=[Exception])
class DatabaseSwitchover(Switching):
    """Start with `{"service": "counting-db", "reason": "…", "candidate": "pg-east-2"}`; ends with a Report."""

    procedure = "DatabaseSwitchover"

    @workflow.run
    async def run(self, request: SwitchoverRequest) -> Report:
        self.asked, self.read_only = request.candidate, request.read_only
        return await self.shielded(self.from_start_to_report(request))

    def wanted(self, request: RunRequest) -> str | None:
        return self.asked


@workflow.defn(name="DatabaseFailback", failure_exception_types=[Exception])
class DatabaseFailback(Switching):
    """Home again: start with `{"service": "counting-db", "reason": "…"}`; ends with a Report."""

    procedure = "DatabaseFailback"

    @workflow.run
    async def run(self, request: RunRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))

    def wanted(self, request: RunRequest) -> str | None:
        return self.estate.service.home

    async def must_be_ready(self, target: str | None, members: list[MemberFacts], leader: MemberFacts) -> None:
        """Home is back, and the estate protected: a failback is no emergency."""
        _, missing = await self.look_at_protection()
        if missing:
            raise Ended("refused", f"the estate is not protected yet: {'; '.join(missing)}")
