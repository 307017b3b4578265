"""Cache switchover: a planned move without loss, and failback, the same to the home master.

docs/runbooks/cache_switchover.md has the same headings as the steps here. Between regions Sentinel takes no part: the
region that serves forgets the name first, and the other's Sentinels watch once their master leads (safety.md).
"""

from __future__ import annotations

import types

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import cache_elections, cache_fencing
    from schemas.cache_facts import CacheSeen
    from schemas.cache_orders import Elected, ElectOrder, EqualOrder, FenceMasterOrder, FollowedBy, Restored
    from schemas.decisions import Assessment, Death, Fence, Verdict
    from schemas.facts import EpochRecord
    from schemas.reports import Outcome, Report
    from schemas.requests import CandidateRequest, RunRequest
    from workflows.cache import CacheRunbook, workflow_error
    from workflows.policy import cache as policy
    from workflows.reasons import reason_of
    from workflows.runbook import Ended

CONFIRM = "Confirm who leads, and choose the candidate"
DECIDE = "Decide"
CLAIM = "Claim the epoch"
PREPARE = "Prepare: what earlier runs left is put right, and the Sentinels are calm"
FENCE = "Fence the master"
COMPARE = "Compare: the candidate has all of it"
PROMOTE = "Promote the candidate"
FOLLOW = "Follow the new master"
VERIFY = "Verify through every route"
RESTORE = "Restore what the topology declares"
NOTIFY = "Notify"

NOTHING = Verdict(kind="none", reason="the master takes no writes until the candidate has everything")


class Moving(CacheRunbook):
    """The fenced order of docs/explanation/safety.md."""

    can_wait = True
    titles = (CONFIRM, DECIDE, CLAIM, PREPARE, FENCE, COMPARE, PROMOTE, FOLLOW, VERIFY, RESTORE, NOTIFY)
    expected_s = types.MappingProxyType({FENCE: 0.2, COMPARE: 0.3, PROMOTE: 1.5, FOLLOW: 1.0, VERIFY: 1.0})

    def __init__(self) -> None:
        super().__init__()
        self.asked: str | None = None
        self.history = ""
        """The line of descent of what clients wrote."""
        self.offset, self.compared = 0, False
        """What the old master had when everybody had it."""

    def wanted(self) -> str | None:
        """The candidate that is asked for; None leaves the choice."""
        return self.asked

    def reached(self) -> Outcome:
        return "done, unprotected" if self.unprotected else "done"

    def summary(self) -> str:
        return f"{self.elected.member} leads, {self.suspect} follows it" if self.elected is not None else ""

    @property
    def across(self) -> bool:
        """Whether the move leaves the region that serves."""
        return self.region_of(self.suspect) != self.region_of(self.candidate)

    async def carry_out(self, request: RunRequest) -> None:
        if not request.dry_run:
            await self.lock()
        seen = await self.step(CONFIRM, self.confirm, told=lambda r: self.assessment.choice.reason)
        await self.step(DECIDE, lambda: self.decide(request), told=lambda text: text)
        if request.dry_run:
            await self.plan_rest(self.would())
            return
        self.claiming = True
        self.record = await self.step(CLAIM, lambda: self.claim_after(seen), told=lambda r: f"epoch {r.epoch}")
        as_before = ("Let the Sentinels watch as before", self.watch_again)
        await self.step(PREPARE, self.prepare, undo=as_before, told=lambda text: text, parks=False)

        self.urgent = True
        # From here clients wait: what fails is undone at once, and asks nobody.
        unfence = ("Let the old master take writes again, and lead the names back", self.let_write)
        self.fence = await self.step(FENCE, self.fence_master, undo=unfence, told=lambda f: f.evidence, parks=False)
        self.record = await self.step(COMPARE, self.compare, told=lambda r: f"{r.candidate} has all of it", parks=False)

        self.point_of_no_return()
        self.elected = await self.step(PROMOTE, self.promote, told=lambda e: f"{e.member} leads, promoted by {e.by}")
        await self.step(FOLLOW, self.follow, told=self.followed_text)
        self.calm()
        await self.step_or_skip(VERIFY, lambda: self.verify_leader(self.leader), told=lambda text: text)
        await self.step_or_skip(RESTORE, self.restore_declared, told=self.restored_text)
        await self.step_or_skip(NOTIFY, self.notify, told=lambda names: f"told: {names}")

    def would(self) -> dict[str, str]:
        """What each step of a real run would do."""
        others = ", ".join(each.name for each in self.estate.service.members if each.name != self.candidate)
        by = f"one Sentinel of {self.region_of(self.suspect)} is asked"
        if self.across:
            by = f"the Sentinels of {self.region_of(self.suspect)} forget the name, {self.candidate} is promoted"
        return {
            CLAIM: "the run takes the next epoch",
            PREPARE: f"fences that were left are undone; {self.candidate} is preferred; no watch meanwhile",
            FENCE: f"{self.suspect} refuses writes, and its clients wait"
            f" {self.estate.service.switchover.pause_s:g} s at most",
            COMPARE: f"offsets are equal, else {self.suspect} takes writes again; every name leads to {self.candidate}",
            PROMOTE: by,
            FOLLOW: f"{others} follow {self.candidate}; clients of {self.suspect} are cut off, and connect anew",
            VERIFY: f"a write and its reading back through every name from {', '.join(self.estate.vantages)}",
            RESTORE: "priorities, fences and Sentinels are what the topology declares",
            NOTIFY: f"told: {', '.join(target.name for target in self.estate.service.notify) or 'nobody'}",
        }

    # What the steps do, in their order

    async def confirm(self) -> EpochRecord:
        """The master is well, its Sentinels agree, and somebody close behind it can take over."""
        seen = await self.look()
        leader, why = policy.leader_of(self.estate.service, seen)
        if leader is None:
            raise Ended("refused", f"{why}; `cache-failover` is for a cache whose master is gone")
        self.suspect = leader
        target = self.wanted()
        if target == leader:
            raise Ended("not needed", f"{leader} leads already")
        choice = policy.choose(self.estate.service, seen, leader, target)
        if choice.candidate is None:
            raise Ended("refused", choice.reason)
        self.candidate = choice.candidate
        self.history = seen.of(leader).history
        blocked = policy.why_not_move(self.estate.service, seen, leader, self.candidate)
        if blocked is not None:
            raise Ended("refused", blocked)
        await self.must_be_ready(seen)
        self.assessment = Assessment(
            suspect=leader,
            death=Death(state="alive", reason=why),
            choice=choice,
            verdict=NOTHING,
            w=0,
            voters=[],
            digest=policy.digest_of(leader, self.candidate, NOTHING),
        )
        return await self.record_or_first(seen.record, seen.epoch_error, leader)

    async def must_be_ready(self, seen: CacheSeen) -> None:
        """What must hold besides; a failback asks for more."""

    async def decide(self, request: RunRequest) -> str:
        go = policy.may_move(self.estate.service, self.suspect, self.candidate, approval=request.approval)
        if request.dry_run:
            return {"go": "by policy alone: ", "ask": "a person is asked: "}.get(go.action, "refused: ") + go.reason
        if go.action == "refuse":
            raise Ended("refused", go.reason)
        if go.action == "go":
            return go.reason
        text = (
            f"Move {self.service_name} from {self.suspect} to {self.candidate}? {go.reason}. Approving lets clients"
            f" wait {self.estate.service.switchover.pause_s:g} s at most, and cuts them off {self.suspect} once"
            f" {self.candidate} leads."
        )
        decision = await self.ask(text, self.assessment.digest, needs_override=False, machine_s=5.0)
        self.decided = workflow.now()
        if decision.answer != "approved":
            if self._abort is not None:
                raise Ended("aborted", self.aborted_by())
            raise Ended(
                "rejected" if decision.answer == "rejected" else "expired", f"{decision.answer} by {decision.by}"
            )
        return f"approved by {decision.by}"

    async def prepare(self) -> str:
        """What can be done while clients are served. Between regions the Sentinels that serve forget the name now: for
        a while nobody would elect, and the watch stands back; what fails has them watch again.
        """
        await self.tell_watch()
        here = self.region_of(self.suspect)
        restored = await self.restore(here, preferred=None if self.across else self.candidate)
        if self.candidate in restored.unreachable or self.suspect in restored.unreachable:
            raise Ended("undone", f"not reached: {restored.unreachable}")
        told = await self.until_calm(self.suspect, None if self.across else self.candidate)
        if not self.across:
            return told
        forgotten = await self.monitor(here, None)
        if forgotten.missing:
            raise Ended("undone", f"these must forget the name first, and can't be told: {forgotten.missing}")
        return f"{told}, and have forgotten it: they would turn {self.candidate} into its replica again"

    async def watch_again(self) -> None:
        """Sentinels and priorities as before."""
        await self.claim_once()
        if self.across:
            await self.monitor(self.region_of(self.suspect), self.suspect)
        await self.restore(self.region_of(self.suspect))

    async def fence_master(self) -> Fence:
        self.start_clock(workflow.now())
        order = FenceMasterOrder.model_validate(
            {**self.within_epoch(), "member": self.suspect, "pause_s": self.estate.service.switchover.pause_s}
        )
        proof = await self.do(cache_fencing.fence_master, order, limit=4, total=6, attempts=2, heartbeat=None)
        if proof.acknowledged:
            raise Ended("undone", f"nobody was promoted: {proof.evidence}")
        return Fence(strength="stalled", evidence=proof.evidence, proved=True)

    async def let_write(self) -> None:
        """The fence first: the names may take long, and clients that still know the old master are served meanwhile."""
        await self.claim_once()
        await self.unfence(self.suspect)
        if self.compared:
            await self.claim_once()
            await self.lead_back(self.suspect)

    async def compare(self) -> EpochRecord:
        """Without this nobody is promoted. Whoever else could be elected must have everything as well."""
        service = self.estate.service
        others = [each.name for each in service.members_of(self.region_of(self.suspect)) if each.priority]
        order = EqualOrder.model_validate(
            {
                **self.within_epoch(),
                "old": self.suspect,
                "new": self.candidate,
                "others": [] if self.across else others,
                "limit_s": service.switchover.pause_s,
            }
        )
        limit = service.switchover.pause_s + 2
        self.offset = await self.do(cache_fencing.until_equal, order, limit=limit, total=limit, attempts=2)
        self.compared = True
        return await self.choose_and_lead(self.candidate, "none", total=5.0)

    async def promote(self) -> Elected:
        try:
            if self.across:
                elected = await self.promote_alone(self.suspect, self.candidate)
            else:
                self.asked_sentinels = True
                elected = await self.do(cache_elections.let_sentinel_elect, self.election(), limit=20, total=30)
        except ActivityError as error:
            await self.call_off(error)
            raise
        if 0 <= elected.had < self.offset:
            # Nothing is led after it: the old master has the rest.
            raise workflow_error(f"{elected.member} was promoted with {elected.had} of {self.offset} bytes")
        return elected

    def election(self) -> ElectOrder:
        return ElectOrder.model_validate(
            {
                **self.within_epoch(),
                "region": self.region_of(self.suspect),
                "old": self.suspect,
                "history": self.history,
            }
        )

    async def call_off(self, error: ActivityError) -> None:
        """Where nothing has moved, and nobody is at it, the old master, which has everything, takes writes again.

        Whatever was ordered finds a newer epoch, or its connection gone.
        """
        seen = await self.look()
        here = {each.name for each in self.estate.service.sentinels_of(self.region_of(self.suspect))}
        unsure = [each.sentinel for each in seen.sentinels if each.sentinel in here and not each.reachable]
        busy = [each.sentinel for each in seen.sentinels if each.failing_over]
        moved = [each.member for each in seen.masters() if each.member != self.suspect]
        if busy or moved or (unsure and not self.across) or seen.of(self.suspect).role != "master":
            return
        await self.claim_once()
        await self.restore(self.region_of(self.suspect), but=[self.suspect])
        seen = await self.look()
        if seen.of(self.candidate).role != "replica":
            return
        self.past_no_return = False
        raise Ended("undone", f"nobody was promoted: {reason_of(error)}") from error

    @property
    def leader(self) -> str:
        assert self.elected is not None
        return self.elected.member

    async def follow(self) -> FollowedBy:
        """The others replicate it, so that it takes writes; clients that wait on the old one are let go."""
        if self.leader != self.candidate:
            self.note(f"Sentinel promoted {self.leader}, and not {self.candidate}")
            self.record = await self.choose_and_lead(self.leader, "none")
        region = self.region_of(self.leader)
        wanted = policy.upstreams(self.estate.service, self.leader)
        first = {name: at for name, at in wanted.items() if self.region_of(name) == region or name == self.suspect}
        found = await self.lead_members(
            self.leader, first, cut=[self.suspect], enough=self.estate.service.master.min_replicas
        )
        if self.across:
            watching = await self.monitor(region, self.leader)
            found = found.model_copy(update={"missing": found.missing | watching.missing})
        return found

    def followed_text(self, found: FollowedBy) -> str:
        late = "".join(f"; {name} not yet: {why}" for name, why in found.missing.items())
        return f"{', '.join(found.following) or 'nobody'} follow {self.leader}{late}"

    async def restore_declared(self) -> Restored:
        """Everybody follows, the Sentinels agree, and every setting is the declared one again."""
        await self.settle(self.leader)
        region = self.region_of(self.leader)
        restored = await self.restore(region)
        wanted = policy.upstreams(self.estate.service, self.leader, list(restored.unreachable))
        await self.lead_for_good(self.leader, wanted)
        try:
            await self.until_calm(self.leader, limit=20.0)
        except ActivityError as error:
            self.note(f"the Sentinels do not agree yet: {reason_of(error)}")
        self.unprotected = await self.look_at_protection(self.leader)
        return restored

    def restored_text(self, found: Restored) -> str:
        late = "".join(f"; {name} not reached: {why}" for name, why in found.unreachable.items())
        return f"{len(found.changed)} members put right{late}"


@workflow.defn(name="CacheSwitchover", failure_exception_types=[Exception])
class CacheSwitchover(Moving):
    """Start with `{"service": "counting-cache", "reason": "…", "candidate": "cache-east-2"}`; ends with a Report."""

    procedure = "CacheSwitchover"

    @workflow.run
    async def run(self, request: CandidateRequest) -> Report:
        self.asked = request.candidate
        return await self.shielded(self.from_start_to_report(request))


@workflow.defn(name="CacheFailback", failure_exception_types=[Exception])
class CacheFailback(Moving):
    """Home again: start with `{"service": "counting-cache", "reason": "…"}`; ends with a Report."""

    procedure = "CacheFailback"

    @workflow.run
    async def run(self, request: RunRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))

    def wanted(self) -> str | None:
        return self.estate.service.home

    async def must_be_ready(self, seen: CacheSeen) -> None:
        """Home is back, and the cache protected: a failback is no emergency."""
        missing = await self.look_at_protection(self.suspect)
        if missing:
            raise Ended("refused", f"the cache is not protected yet: {'; '.join(missing)}")
