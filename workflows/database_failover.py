"""Database failover: the primary is gone, a standby takes over, and nothing that was acknowledged is lost.

docs/runbooks/database_failover.md has the same headings as the steps here.
"""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Sequence

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import dns, promotion
    from schemas.decisions import Assessment, Death, Go
    from schemas.facts import EpochRecord, MemberFacts
    from schemas.failures import EpochSuperseded, EpochUnavailable, SurvivorMissing
    from schemas.orders import (
        DnsOrder,
        FenceResult,
        FollowResult,
        NamesOrder,
        Observation,
        PromoteOrder,
        PromoteResult,
    )
    from schemas.reports import DecisionReport, Report
    from schemas.requests import FailoverRequest
    from workflows.database_protect import StartingRejoins
    from workflows.database_reads import Reading
    from workflows.database_verify import Verifying
    from workflows.plan import Planning
    from workflows.policy.assess import covers
    from workflows.policy.go import may_go
    from workflows.policy.merge import merge_fences, merge_observations
    from workflows.policy.voters import follower_names
    from workflows.reasons import kind_of, reason_of
    from workflows.runbook import Ended

CONFIRM = "Confirm that the primary is dead"
ASSESS = "Assess standbys and loss"
DECIDE = "Decide"
CLAIM = "Claim the epoch"
HOLD = "Hold the poolers"
FENCE = "Fence the old primary"
COMPARE = "Compare positions and record the choice"
PROMOTE = "Promote the candidate"
ROUTE = "Route clients"
VERIFY = "Verify through every route"
FOLLOW = "Follow the new primary"
PROTECT = "Bring the old primary back"
NOTIFY = "Notify"

PROMOTIONS = 4
"""How often a promotion begins anew, after a candidate or a survivor has died, before the run parks."""


@workflow.defn(name="DatabaseFailover", failure_exception_types=[Exception])
class DatabaseFailover(Planning, Reading, Verifying, StartingRejoins):
    """Start with `{"service": "counting-db", "reason": "…", "approval": "policy"}`; ends with a Report."""

    procedure = "DatabaseFailover"
    urgent_need = True
    titles = (CONFIRM, ASSESS, DECIDE, CLAIM, HOLD, FENCE, COMPARE, PROMOTE, ROUTE, VERIFY, FOLLOW, PROTECT, NOTIFY)
    expected_s = types.MappingProxyType({CLAIM: 0.2, FENCE: 1.0, COMPARE: 0.2, PROMOTE: 1.5, ROUTE: 0.6, VERIFY: 1.5})

    @workflow.run
    async def run(self, request: FailoverRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))

    async def carry_out(self, request: FailoverRequest) -> None:
        if request.dry_run:
            await self.plan(request)
            return
        locking = asyncio.ensure_future(self.lock())

        death, first = await self.step(CONFIRM, lambda: self.confirm(request), told=lambda r: r[0].reason)
        self.assessment, seen = await self.step(
            ASSESS,
            lambda: self.assess(request, death, first),
            told=lambda r: f"{r[0].choice.reason}; {r[0].verdict.reason}",
        )
        self.sure = death.state == "dead"
        if await locking:
            # Whoever held it may have claimed an epoch since this run looked.
            seen = seen.model_copy(update={"record": (await self.observe()).record})
            if seen.record is not None and seen.record.leader != self.suspect:
                raise Ended(
                    "not needed", f"{seen.record.leader} leads by epoch {seen.record.epoch}, of {seen.record.run}"
                )
            self.assessment = self.weigh(
                request.candidate, death, seen.record, seen.members, disconnected=None, ended=death.gone_at
            )
        await self.step(DECIDE, lambda: self.decide(request, seen), told=lambda d: f"{d.answer} by {d.by}")

        self.urgent = True
        self.record = await self.step(CLAIM, lambda: self.claim(request, seen), told=lambda r: f"epoch {r.epoch}")
        self.meanwhile(HOLD, self.hold_poolers, undo=("Resume the poolers", self.resume_poolers))
        fenced = await self.step(
            FENCE, self.fence_old_primary, undo=("Unfence the old primary", self.unfence), told=self.fence_text
        )
        self.record = await self.step(
            COMPARE,
            lambda: self.compare(request, death, fenced),
            told=lambda r: f"{r.candidate}, loss {r.verdict}",
        )

        self.point_of_no_return()
        self.promoted = await self.step(
            PROMOTE, lambda: self.promote(request, death), told=lambda p: f"{p.member} leads on timeline {p.timeline}"
        )
        self.calm()
        await self.all_done()
        await self.step_or_skip(ROUTE, self.route_clients, told="; ".join)
        await self.step_or_skip(VERIFY, self.verify, told=lambda f: f.evidence)
        await self.step_or_skip(FOLLOW, self.follow, told=self.follow_text)
        await self.step_or_skip(PROTECT, self.protect, told=lambda text: text)
        await self.step_or_skip(NOTIFY, self.notify, told=lambda names: f"told: {names}")

    async def plan(self, request: FailoverRequest) -> None:
        """The same steps, of which only those that read are carried out."""
        death, first = await self.step(CONFIRM, lambda: self.confirm(request), told=lambda r: r[0].reason)
        self.assessment, seen = await self.step(
            ASSESS,
            lambda: self.assess(request, death, first),
            told=lambda r: f"{r[0].choice.reason}; {r[0].verdict.reason}",
        )
        self.record = seen.record or self._record_of_stamps(seen, 0, "none")
        candidate = self.assessment.choice.candidate or "nobody"
        names = ", ".join(route.record for route in self.estate.service.dns_routes()) or "no name"
        poolers = ", ".join(route.name for route in self.estate.service.gates())
        await self.plan_rest(
            {
                DECIDE: self.would_decide(self.judge_go(request)),
                CLAIM: self.would_claim(),
                HOLD: f"clients of {self.suspect} are cut off and held at {poolers or 'no pooler'}",
                FENCE: self.would_fence(),
                COMPARE: f"the furthest, by now {candidate}, goes into the record, and {names} leads to it",
                PROMOTE: self.would_promote(self.assessment),
                ROUTE: f"{f'{poolers} and ' if poolers else ''}{names} lead to {candidate}{self.would_tell()}",
                VERIFY: f"a write and its reading back through every route from {', '.join(self.estate.vantages)}",
                FOLLOW: f"the other standbys stream from {candidate}; CHECKPOINT; the record names the new leader",
                PROTECT: self.would_protect(),
                NOTIFY: f"told: {', '.join(target.name for target in self.estate.service.notify) or 'nobody'}",
            }
        )
        self.blockers = await self.find_blockers(seen, self.assessment)

    # What the steps do, in their order

    async def assess(self, request: FailoverRequest, death: Death, seen: Observation) -> tuple[Assessment, Observation]:
        """On what is seen already if that is enough; else from every region, since one alone may be cut off."""
        weigh = functools.partial(self.weigh, request.candidate, death, disconnected=None, ended=death.gone_at)
        found = weigh(seen.record, seen.members)
        if request.suspicion is not None and found.verdict.kind != "none":
            seen = merge_observations([seen, await self.observe_everywhere()])
            found = weigh(seen.record, seen.members)
        if found.verdict.in_time_only and not request.dry_run:
            # The bound ends where the primary did: nobody may see it come back before the choice.
            self.begin_vigil()
        return found, seen

    async def decide(self, request: FailoverRequest, seen: Observation) -> DecisionReport:
        """By policy where it may, else by a person who sees verdict, candidate and what comes next."""
        assessment, go = self.assessment, self.judge_go(request)
        if go.action == "stop":
            raise Ended("not needed", go.reason)
        if seen.epoch_error:
            beyond = (
                "an override goes on without it: older runs are kept out by the nodes alone, names move once it is back"
            )
            go = go.model_copy(update={"reason": f"{go.reason}; the epoch store: {seen.epoch_error}; {beyond}"})
        if go.action == "go":
            decision = DecisionReport(
                question=DECIDE,
                answer="approved",
                by="policy",
                at=workflow.now(),
                reason=go.reason,
                digest=assessment.digest,
            )
            self.decisions.append(decision)
            return decision
        return await self.ask_for(go, assessment)

    def judge_go(self, request: FailoverRequest) -> Go:
        return may_go(
            self.estate.service,
            self.assessment,
            approval=request.approval,
            automatic=request.suspicion is not None,
            suspect_alive=self.assessment.death.state == "alive",
        )

    async def claim(self, request: FailoverRequest, seen: Observation) -> EpochRecord:
        """From here an older run changes nothing. The watch that started this run holds an epoch for it in reserve."""
        suspicion = request.suspicion
        held = (suspicion.epoch, suspicion.holder) if suspicion and suspicion.holder else None
        if seen.record is not None and held is not None and (seen.record.epoch, seen.record.run) == held:
            self.epoch = seen.record.epoch
            self.number("LifeboatEpoch", self.epoch)
            return seen.record
        try:
            return await self.claim_after(seen.record or await self.first_record(seen))
        except (ActivityError, ApplicationError) as error:
            if kind_of(error) != EpochUnavailable.__name__ or not self.decisions[-1].override:
                raise
            return self.claim_unrecorded(seen, suspicion.epoch or 0 if suspicion else 0)

    async def compare(
        self,
        request: FailoverRequest,
        death: Death,
        fenced: FenceResult,
        lost: Sequence[MemberFacts] = (),
        *,
        keep: str | None = None,
    ) -> EpochRecord:
        """The final verdict, with every standby disconnected; a worse one than was decided on asks again.

        `lost` are voters that died after they were disconnected: they vote with the position that they had then,
        since they can have received nothing since, and are no candidates any more. `keep`: the candidate of this
        epoch, which stays the only one.
        """
        service = self.estate.service
        gone = [facts.member for facts in lost]
        able = [name for name in service.may_be_promoted() if name not in gone]
        weigh = functools.partial(
            self.weigh,
            keep or (request.candidate if request.candidate not in gone else None),
            death,
            self.record if self.recorded else None,
            [*fenced.members, *lost],
            disconnected=[*fenced.disconnected, *gone],
            lost=gone,
            service=service.model_copy(
                update={"failover": service.failover.model_copy(update={"candidates": able or gone})}
            ),
        )
        final = weigh()
        if final.verdict.kind == "unknown" and (ended := await self.ended(death)) is not None:
            final = weigh(ended=ended)
        worse = covers(self.assessment, final)
        if worse is not None and fenced.missed and not lost:
            # Perhaps only the worker that did it can't reach them.
            again = merge_fences([fenced, await self.disconnect_everywhere(self.suspect)])
            if again.disconnected != fenced.disconnected:
                self.fenced = again
                return await self.compare(request, death, again, keep=keep)
        if worse is not None:
            go = may_go(
                service,
                final,
                approval="always" if self.decided_by_person else "policy",
                automatic=request.suspicion is not None,
                suspect_alive=death.state == "alive",
            )
            if go.action != "go":
                await self.ask_for(go.model_copy(update={"reason": f"{worse}; {go.reason}"}), final)
        self.assessment = final
        if final.choice.candidate is None:
            raise Ended("refused", final.choice.reason)
        if final.verdict.kind != "none":
            await self.must_be_held(final)
        self.w, self.names = follower_names(service, final.survivors)
        wanted = self.record.model_copy(
            update={
                "run": workflow.info().workflow_id,
                "candidate": final.choice.candidate,
                "candidate_voters": final.survivors if self.w else [],
                "verdict": final.verdict.text(),
            }
        )
        if not self.recorded:
            return wanted
        order = DnsOrder(
            service=service,
            zone=self.estate.zone,
            target=final.choice.candidate,
            seen=self.record,
            wanted=wanted,
            reads=self.names_next(final.choice.candidate, wanted.candidate_voters),
        )
        try:
            return await self.do(dns.choose_and_lead, order, limit=4, heartbeat=None)
        except ActivityError as error:
            if kind_of(error) != EpochSuperseded.__name__:
                raise
            found = (await self.observe()).record
            if (
                found is None
                or found == self.record
                or (found.epoch, found.run) != (self.record.epoch, self.record.run)
            ):
                raise
        # The watch was in the middle of a change of the voters when the run began: what it wrote binds as well.
        self.record = found
        return await self.compare(request, death, fenced, lost, keep=keep)

    async def must_be_held(self, final: Assessment) -> None:
        """A person must see it before a second server acknowledges beside one that nothing holds."""
        loose = await self.other_fence()
        if not loose or self.accepted_loose:
            return
        reason = (
            f"{self.suspect} could not be stopped, stalled or cut off ({loose}): if it is alive it goes on"
            f" acknowledging beside {final.choice.candidate}, and what it acknowledges is lost; stop it by hand first"
        )
        await self.ask_for(Go(action="refuse", reason=reason), final)
        self.accepted_loose = True

    async def promote(self, request: FailoverRequest, death: Death) -> PromoteResult:
        """The recorded candidate and no other; poolers let their clients in the moment it leads.

        If it dies, a new epoch chooses by the same inequality; if a voter that it waits for does, others stand in.
        """
        fenced, lost = self.fenced, list[MemberFacts]()
        for left in reversed(range(PROMOTIONS)):
            candidate = self.record.candidate or ""
            self.open_poolers(candidate, ROUTE)
            self.narrow_reads(candidate, self.record.candidate_voters, ROUTE)
            try:
                return await self.do(
                    promotion.promote_candidate, self.promotion_order(), limit=30, total=60, heartbeat=2.0
                )
            except ActivityError as error:
                self.give_up_openings()
                failure, keeps = error, kind_of(error) == SurvivorMissing.__name__
            if (not keeps and not await self.is_dead(candidate)) or not left:
                raise failure
            if keeps:
                self.note(reason_of(failure))
                again = await self.disconnect(self.suspect)
            else:
                self.note(f"{candidate} died in mid promotion")
                self.record = await self.claim_after(self.record)
                again = await self.disconnect(candidate)
            # Whoever was disconnected and is out of reach now can have received nothing since.
            lost += [facts for facts in fenced.members if facts.member not in again.disconnected]
            fenced = again
            self.record = await self.compare(request, death, fenced, lost, keep=candidate if keeps else None)
        raise AssertionError("the last round returns or raises")

    def promotion_order(self) -> PromoteOrder:
        return PromoteOrder(
            service=self.estate.service,
            zone=self.estate.zone,
            record=self.record,
            names=self.names,
            recorded=self.recorded,
            survivors=self.record.candidate_voters,
            adopt=self.adopted,
        )

    async def route_clients(self) -> list[str]:
        """Every route at once; one that can't be confirmed parks the run, with the others already moved."""
        assert self.record.candidate is not None
        try:
            return await self.move_routes(self.record.candidate)
        except ApplicationError:
            # What keeps the old primary away must not wait until somebody has mended a route.
            self.stop_old_primary()
            raise

    async def follow(self) -> FollowResult:
        """Every other standby streams from the new primary; one that can't is named for its rejoin."""
        result, _, _ = await asyncio.gather(
            self.let_follow(self.promoted.member),
            self.write_final_record(),
            self.do(
                promotion.checkpoint,
                NamesOrder(
                    service=self.estate.service,
                    leader=self.promoted.member,
                    names="",
                    epoch=self.record.epoch,
                ),
                limit=120,
                total=180,
            ),
        )
        self.astray = result.diverged | result.unreachable
        await self.update_reads(self.promoted.member)
        return result

    def fence_text(self, fenced: FenceResult) -> str:
        missed = "".join(f"; {name} not reached" for name in fenced.missed)
        return f"disconnected {', '.join(fenced.disconnected)}{missed}; {self.stall_evidence}"

    def follow_text(self, result: FollowResult) -> str:
        read = f"; {self.read_set.text()}" if self.read_set is not None else ""
        return f"{', '.join(result.following) or 'nobody is left to'} follow {self.promoted.member}{read}"
