"""Cache failover: the master is gone, Sentinel elects another or is helped, clients are led to it, and it comes home.

docs/runbooks/cache_failover.md has the same headings as the steps here.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Sequence
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import cache_elections, cache_probes, node
    from schemas.cache_facts import CacheSeen
    from schemas.cache_orders import CacheProbeOrder, Elected, ElectionOrder
    from schemas.cache_requests import CacheFailoverRequest, CacheSuspicion
    from schemas.decisions import Assessment, Choice, Death, Fence, Go
    from schemas.facts import EpochRecord, Probe
    from schemas.orders import NodeResult
    from schemas.reports import Outcome, Report
    from workflows.cache_return import Returning
    from workflows.policy import cache as policy
    from workflows.policy import cache_failover as judging
    from workflows.reasons import reason_of
    from workflows.runbook import Ended

CONFIRM = "Confirm that the master is gone"
ASSESS = "Assess who comes next, and what is lost at most"
DECIDE = "Decide"
CLAIM = "Claim the epoch"
FENCE = "Keep the old master from coming back"
ELECT = "Let Sentinel elect, or help it"
ROUTE = "Route clients"
WARM = "Warm the cache"
VERIFY = "Verify through every route"
FOLLOW = "Follow the new master"
NOTIFY = "Notify"
PROTECT = "Return the old master as a replica"

CONFIRM_S = 3.0
"""How much longer than its own down-after a Sentinel may take to say so."""
TURNED_S = 30.0
"""The same where the master was turned into a replica: it asks twice more, every 10 s, before it believes that."""
STOP_S = 8.0
"""Limit of a stop: a host that is gone does not answer at all."""


class FailingOver(Returning):
    """The strategy's seven steps, and what makes them safe between them."""

    urgent_need = True
    titles = (
        *(CONFIRM, ASSESS, DECIDE, CLAIM, FENCE, ELECT),
        *(ROUTE, WARM, VERIFY, FOLLOW, NOTIFY, PROTECT),
    )
    expected_s = types.MappingProxyType({FENCE: 0.5, ELECT: 7.0, ROUTE: 1.0, VERIFY: 1.0})

    def __init__(self) -> None:
        super().__init__()
        self.moved = False
        """Sentinel had promoted another before this run looked."""
        self.seen: CacheSeen
        self.history = ""
        """The line of descent of what clients wrote."""
        self.helped = ""
        """Why Sentinel could not elect by itself."""

    def reached(self) -> Outcome:
        return "recovered, unprotected" if self.unprotected else "recovered"

    def summary(self) -> str:
        if self.elected is None:
            return ""
        how = f", which Sentinel could not do by itself: {self.helped}" if self.helped else ""
        return f"{self.elected.member} leads instead of {self.suspect}, promoted by {self.elected.by}{how}"

    async def carry_out(self, request: CacheFailoverRequest) -> None:
        locking = asyncio.ensure_future(self.lock()) if not request.dry_run else None
        death, seen = await self.step(CONFIRM, lambda: self.confirm(request), told=lambda r: r[0].reason)
        self.sure = death.state == "dead" or self.moved
        if locking is not None:
            await locking
        go = await self.step(ASSESS, lambda: self.assess(request, death, seen), told=lambda g: self.assessed_text())
        await self.step(DECIDE, lambda: self.decide(request, go), told=lambda text: text)
        if request.dry_run:
            await self.plan_rest(self.would())
            return
        self.claiming = True
        first = await self.record_or_first(seen.record, seen.epoch_error, self.suspect)
        self.record = await self.step(CLAIM, lambda: self.claim_after(first), told=lambda r: f"epoch {r.epoch}")
        start = ("Start the old master again", self.start_again)
        self.fence = await self.step(FENCE, self.keep_down, undo=start, told=lambda f: f.evidence)

        # Sentinel may promote at any moment, whoever asked it or not.
        self.point_of_no_return()
        self.elected = await self.step(ELECT, self.elect, told=self.elected_text)
        await self.step(ROUTE, self.route, told=lambda text: text)
        self.calm()
        # Nothing waits for it but the return of the old master, whose keys it may need.
        self.meanwhile(WARM, self.warm)
        await self.step_or_skip(VERIFY, lambda: self.verify_leader(self.leader), told=lambda text: text)
        await self.step_or_skip(FOLLOW, self.follow, told=self.followed_text)
        await self.step_or_skip(NOTIFY, self.notify, told=lambda names: f"told: {names}")
        await self.all_done()
        await self.step_or_skip(PROTECT, self.protect, told=lambda text: text)

    def would(self) -> dict[str, str]:
        """What each step of a real run would do."""
        control = self.estate.service.member(self.suspect).control
        stop = f"{self.suspect} is stopped by its node control, and does not start by itself" if control else "nothing"
        candidate = self.assessment.choice.candidate or "nobody"
        elect = f"Sentinel is expected to choose {candidate}, {self.estate.service.monitor.down_after_s:g} s after the"
        return {
            CLAIM: "the run takes the next epoch",
            FENCE: stop,
            ELECT: f"{elect} master is gone" if not self.helped else f"Sentinel is helped ({self.helped}): {candidate}",
            ROUTE: f"{', '.join(route.record for route in self.estate.service.routes) or 'no name'} → {candidate}",
            VERIFY: f"a write and its reading back through every name from {', '.join(self.estate.vantages)}",
            FOLLOW: f"the others follow {candidate}",
            NOTIFY: f"told: {', '.join(target.name for target in self.estate.service.notify) or 'nobody'}",
            WARM: self.would_warm(),
            PROTECT: f"{self.suspect} starts, and follows {candidate}",
        }

    # What the steps do, in their order

    async def confirm(self, request: CacheFailoverRequest) -> tuple[Death, CacheSeen]:
        """Every region's probe, the replicas' links and the Sentinels' word; again until they settle it."""
        suspicion = request.suspicion
        seen = suspicion.seen if suspicion is not None and suspicion.seen is not None else await self.look()
        self.suspect = self.suspect_of(seen, suspicion)
        votes: list[Probe] = list(suspicion.votes) if suspicion is not None else []
        self.last = suspicion.last_seen if suspicion is not None else None
        end = workflow.now() + timedelta(seconds=self.estate.service.monitor.down_after_s + CONFIRM_S)
        while True:
            if len(votes) < self.estate.service.detection.quorum:
                votes = await self.probe_everywhere()
            self.begin_clock(votes)
            moved = judging.moved_to(self.estate.service, seen, self.suspect)
            if moved is not None:
                self.moved = True
                reason = f"Sentinel has promoted {moved} already"
                return Death(state="dead", reason=reason, votes={v.region: v.outcome for v in votes}), seen
            death = judging.judge_master(self.estate.service, self.suspect, votes, seen)
            if seen.of(self.suspect).role == "replica":
                end = max(end, self.detected_at() + timedelta(seconds=TURNED_S))
            if death.state != "wait" or workflow.now() > end:
                break
            await workflow.sleep(timedelta(seconds=max(death.wait_s, 0.1)), summary="until the Sentinels say so")
            votes, seen = [], await self.look()
        if death.state == "wait":
            death = death.model_copy(update={"state": "ask"})
        return death, seen

    def suspect_of(self, seen: CacheSeen, suspicion: CacheSuspicion | None) -> str:
        """Who leads by the record, else the watch's suspect, else the only master, else the declared home."""
        if seen.record is not None:
            if suspicion is not None and suspicion.member != seen.record.leader:
                raise Ended("not needed", f"{suspicion.member} leads no more; {seen.record.leader} does")
            return seen.record.leader
        masters = [each.member for each in seen.masters()]
        return suspicion.member if suspicion is not None else [*masters, self.estate.service.home][0]

    async def probe_everywhere(self) -> list[Probe]:
        async def from_one(region: str) -> Probe | None:
            order = CacheProbeOrder(service=self.estate.service, member=self.suspect, region=region)
            return await self.from_region(region, cache_probes.probe_master, order, limit=5)

        found = await asyncio.gather(*(from_one(region) for region in self.estate.vantages))
        return [probe for probe in found if probe is not None]

    def detected_at(self) -> datetime:
        assert self.detected is not None
        return self.detected

    def begin_clock(self, votes: Sequence[Probe]) -> None:
        if (first := judging.first_failure(votes)) is not None:
            self.start_clock(first)
        if self.detected is None:
            self.detected = workflow.now()

    async def assess(self, request: CacheFailoverRequest, death: Death, seen: CacheSeen) -> Go:
        service = self.estate.service
        moved = judging.moved_to(service, seen, self.suspect)
        choice = (
            Choice(candidate=moved, reason=f"Sentinel promoted {moved}", leads=True)
            if moved is not None
            else judging.choose_next(service, seen, self.suspect, request.candidate)
        )
        self.helped = "" if moved is not None else policy.why_not_elect(service, seen, self.suspect) or ""
        if request.candidate is not None and moved is None:
            self.helped = self.helped or f"{request.candidate} was asked for"
        verdict = judging.lost_at_most(service, seen, self.suspect, choice.candidate, self.last)
        self.candidate = choice.candidate or ""
        self.seen, self.history = seen, judging.history_of(service, seen, self.suspect, self.last)
        self.others_had = max((each.keys for each in seen.members if each.reachable), default=0)
        self.assessment = Assessment(
            suspect=self.suspect,
            death=death,
            choice=choice,
            verdict=verdict,
            w=0,
            voters=[],
            digest=policy.digest_of(self.suspect, choice.candidate, verdict),
        )
        self.attribute("LifeboatVerdict", verdict.kind)
        return judging.may_fail_over(
            service,
            self.suspect,
            death,
            choice,
            verdict,
            approval=request.approval,
            automatic=request.suspicion is not None,
            moved=moved is not None,
        )

    def assessed_text(self) -> str:
        verdict = self.assessment.verdict
        return f"{self.assessment.choice.reason}; loss {verdict.text()} ({verdict.reason})"

    async def decide(self, request: CacheFailoverRequest, go: Go) -> str:
        if request.dry_run:
            return {"go": "by policy alone: ", "stop": "nothing is done: "}.get(go.action, "a person: ") + go.reason
        if go.action == "go":
            return go.reason
        if go.action == "stop":
            raise Ended("not needed", go.reason)
        if self.assessment.choice.candidate is None:
            raise Ended("refused", go.reason)
        text = (
            f"Fail {self.service_name} over from {self.suspect} to {self.candidate}? {go.reason}."
            f" Loss: {self.assessment.verdict.text()} ({self.assessment.verdict.reason}). Approving stops"
            f" {self.suspect} as far as its node answers, and"
            f" {f'helps Sentinel: {self.helped}' if self.helped else 'lets Sentinel elect'}."
        )
        decision = await self.ask(text, self.assessment.digest, needs_override=go.action == "refuse", machine_s=10.0)
        self.decided = workflow.now()
        if decision.answer != "approved":
            if self._abort is not None:
                raise Ended("aborted", self.aborted_by())
            told = f"{decision.answer} by {decision.by}"
            raise Ended("rejected" if decision.answer == "rejected" else "expired", told)
        return f"approved by {decision.by}"

    async def keep_down(self) -> Fence:
        """One that restarts empty within down-after would wipe its replicas; one that thaws would acknowledge."""
        facts = self.seen.of(self.suspect)
        if self.moved and facts.reachable:
            if facts.role == "replica":
                return Fence(strength="disconnected", evidence=f"{self.suspect} is a replica of {facts.follows}")
            return Fence(strength="none", evidence=f"{self.suspect} is a master still, until Sentinel turns it")
        try:
            found: NodeResult = await self.do(node.stop_node, self.node_order(), limit=STOP_S, total=STOP_S, attempts=1)
        except ActivityError as error:
            found = NodeResult(done=False, evidence=f"{self.suspect} was not stopped: {reason_of(error)}")
        if found.done:
            return Fence(strength="stopped", evidence=found.evidence, proved=True)
        policy_of = self.estate.service.master
        if not policy_of.min_replicas:
            return Fence(strength="none", evidence=found.evidence)
        stops = f"it takes no write {policy_of.max_lag_s + 2} s after its last replica has left it"
        return Fence(strength="disconnected", evidence=f"{found.evidence}; {stops}")

    async def start_again(self) -> None:
        await self.claim_once()
        await self.do(node.start_node, self.node_order(), limit=45, total=90, attempts=2)

    async def elect(self) -> Elected:
        """Sentinel, as long as it can; else one of them is made to, and where none is left Lifeboat promotes.

        Beside it what earlier runs left is put right: a master that was fenced once would take no write.
        """
        if self.region_of(self.candidate) != self.region_of(self.suspect):
            return await self.take_over_elsewhere()
        service = self.estate.service
        patience = 0.0 if self.helped else service.monitor.down_after_s + service.failover.patience_s
        order = ElectionOrder.model_validate(
            {
                **self.within_epoch(),
                "region": self.region_of(self.suspect),
                "old": self.suspect,
                "history": self.history,
                "candidate": self.candidate,
                "help_at": max(workflow.now(), (self.outage_started or workflow.now()) + timedelta(seconds=patience)),
            }
        )
        limit = patience + 2 * service.monitor.failover_timeout_s + 30
        electing = self.do(cache_elections.until_elected, order, limit=limit, total=2 * limit)
        elected: Elected
        elected, _ = await self.together(electing, self.restore(order.region, but=[self.suspect]))
        worse = judging.after_election(service, self.seen, self.suspect, elected.member, elected.had)
        if worse is not None:
            self.note(f"worse than was thought: {worse.reason}")
            self.assessment = self.assessment.model_copy(update={"verdict": worse})
        return elected

    async def take_over_elsewhere(self) -> Elected:
        """The other region's deployment: whoever of the old Sentinels answers must have forgotten the name first."""
        forgotten = await self.monitor(self.region_of(self.suspect), None)
        if forgotten.missing:
            self.note(f"these Sentinels have not forgotten the name: {', '.join(forgotten.missing)}")
        elected = await self.promote_alone(self.suspect, self.candidate)
        await self.restore(self.region_of(self.candidate))
        await self.monitor(self.region_of(self.candidate), self.candidate)
        return elected

    def elected_text(self, elected: Elected) -> str:
        return f"{elected.member} leads, promoted by {elected.by}"

    async def route(self) -> str:
        """The names, and enough replicas behind the new master, without which it takes no write."""
        service = self.estate.service
        region = self.region_of(self.leader)
        wanted = policy.upstreams(service, self.leader, [self.suspect])
        near = {name: at for name, at in wanted.items() if self.region_of(name) == region}

        async def choose() -> EpochRecord:
            return await self.choose_and_lead(self.leader, self.assessment.verdict.kind)

        record, found = await self.together(
            choose(), self.lead_members(self.leader, near, enough=service.master.min_replicas)
        )
        self.record = record
        evidence = await self.confirm_names(self.leader)
        return f"{evidence}; {', '.join(found.following) or 'nobody'} follow {self.leader}"


@workflow.defn(name="CacheFailover", failure_exception_types=[Exception])
class CacheFailover(FailingOver):
    """Start with `{"service": "counting-cache", "reason": "…"}`; ends with a Report."""

    procedure = "CacheFailover"

    @workflow.run
    async def run(self, request: CacheFailoverRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))
