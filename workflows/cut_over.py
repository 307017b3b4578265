"""Cutting a service over to a moment in its past, once a restored copy has proved it: for PitrRestore, which starts it.

docs/runbooks/cut_over.md has the same headings as the steps here; docs/adr/0037 says why a member is put back.
"""

from __future__ import annotations

import contextlib
import types

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import data_folder, dns, in_place, node, promotion
    from schemas.cut_over import CutOverRequest
    from schemas.decisions import Fence
    from schemas.facts import EpochRecord
    from schemas.failures import NotYet
    from schemas.orders import (
        DnsOrder,
        FenceResult,
        NamesOrder,
        NodeOrder,
        PromoteOrder,
        PromoteResult,
    )
    from schemas.rejoin import FolderOrder, HoldOrder
    from schemas.reports import EXIT_CODES, Outcome, Report
    from schemas.requests import RejoinRequest
    from schemas.restore_requests import TakeRequest
    from schemas.restores import Written
    from workflows.database_protect import StartingRejoins
    from workflows.database_reads import Reading
    from workflows.database_verify import Verifying
    from workflows.policy import cut_over as policy
    from workflows.policy import restore
    from workflows.policy.voters import render_names
    from workflows.putting_back import TRIES, PuttingBack
    from workflows.reasons import kind_of, reason_of
    from workflows.runbook import Ended

CHOOSE = "Choose who is put back to the moment"
CLAIM = "Claim the epoch"
HOLD = "Hold the poolers"
FENCE = "Fence the present leader"
RESTORE = "Put the candidate back to the moment"
PROVE = "Prove it once more"
RECORD = "Record the choice"
PROMOTE = "Promote the candidate"
ROUTE = "Route clients"
VERIFY = "Verify through every route"
SETTLE = "Let it lead on record"
COUNT = "Count what was written after the moment"
REBUILD = "Rebuild the standbys"
BACKUP = "Take a new backup"


@workflow.defn(name="CutOver", failure_exception_types=[Exception])
class CutOver(Reading, Verifying, StartingRejoins, PuttingBack):
    """Started by PitrRestore, with the moment and the copy that proved it; ends with a Report."""

    procedure = "CutOver"
    titles = (
        *(CHOOSE, CLAIM, HOLD, FENCE, RESTORE, PROVE, RECORD),
        *(PROMOTE, ROUTE, VERIFY, SETTLE, COUNT, REBUILD, BACKUP),
    )
    expected_s = types.MappingProxyType({FENCE: 2.0, PROVE: 2.0, RECORD: 0.2, PROMOTE: 1.5, ROUTE: 0.6, VERIFY: 1.5})

    def __init__(self) -> None:
        super().__init__()
        self.why = ""
        self.left: list[str] = []
        """What was not done after the promotion, and is a person's."""
        self.keepers: list[str] = []
        """Members that are not rebuilt, since an earlier cut-over left what it keeps there."""

    @workflow.run
    async def run(self, request: CutOverRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))

    # What a report tells

    def reached(self) -> Outcome:
        return "done, unprotected" if self.unprotected else "done"

    def summary(self) -> str:
        if self.leads_now() is None:
            return ""
        return f"{self.candidate} leads, as of {self.request.moment.text()}; {self.suspect} keeps {self.after()}"

    def after(self) -> str:
        """What was written after the moment, by whoever led."""
        written = self.cut.written
        return f"what it wrote {written.text()}" if written is not None else "what it wrote after the moment"

    def lost_text(self) -> str:
        return f"lost to the service, of {self.suspect}: {self.after()}" if self.leads_now() is not None else ""

    async def carry_out(self, request: CutOverRequest) -> None:
        self.request = request
        await self.lock()
        seen = await self.step(CHOOSE, self.choose, told=lambda _: self.why, parks=False)
        self.claiming = True
        self.record = await self.step(CLAIM, lambda: self.claim_after(seen), told=lambda r: f"epoch {r.epoch}")

        # From here clients wait: what fails is undone at once, and asks nobody.
        self.urgent = self.clients_wait = True
        resume = ("Resume the poolers", self.resume_poolers)
        await self.step(HOLD, self.hold_poolers, undo=resume, told="; ".join, parks=False)
        unfence = ("Unfence the leader of before", self.unfence)
        await self.step(FENCE, self.fence_leader, undo=unfence, told=self.fence_text, parks=False)
        facts = await self.step(RESTORE, self.put_back, told=self.stands_text, parks=False)
        await self.step(PROVE, lambda: self.prove(facts), told=lambda text: text, parks=False)
        self.record = await self.step(RECORD, self.record_choice, told=lambda r: f"{r.candidate}", parks=False)

        self.point_of_no_return()
        self.promoted = await self.step(
            PROMOTE, self.promote, told=lambda p: f"{p.member} leads on timeline {p.timeline}"
        )
        await self.step_or_skip(ROUTE, self.route, told="; ".join)
        self.calm()
        await self.step_or_skip(VERIFY, self.verify, told=lambda f: f.evidence)
        await self.step(SETTLE, self.settle, told=lambda text: text)
        await self.step_or_skip(COUNT, self.count, told=lambda text: text)
        # Rejoins take the service's lock themselves, and a failover may come in between.
        await self.unlock()
        await self.step_or_skip(REBUILD, self.rebuild, told=lambda text: text)
        await self.step_or_skip(BACKUP, self.take_backup, told=lambda text: text)
        await self.tell_what_is_missing()

    # What the steps do, in their order

    async def choose(self) -> EpochRecord:
        """Who leads, who is put back, and whether its node has the backup in reach: before anybody is cut off."""
        seen = await self.observe_everywhere()
        if seen.record is None:
            raise Ended("refused", seen.epoch_error or "there is no epoch record: start the watch first")
        self.suspect = seen.record.leader
        if self.request.leader not in ("", self.suspect):
            told = f"{self.suspect} leads, and {self.request.leader} did when it was decided whose writes are given up"
            raise Ended("refused", f"{told}: decide again, by another run")
        leader = next((each for each in seen.members if each.member == self.suspect), None)
        if leader is None or not leader.reachable or leader.in_recovery:
            raise Ended("refused", f"{self.suspect} should lead, and does not answer as a primary: fail over first")
        member = self.estate.service.member(self.suspect)
        if member.control is None or member.data is None:
            raise Ended("refused", f"{self.suspect} leads, and has no `control` and `data`: it could not be stopped")
        if silent := await self.gates_out_of_reach():
            raise Ended("refused", f"clients could not be held: {silent}")
        chosen, self.why = policy.choose(self.estate.service, leader, seen.members, self.request.candidate)
        if chosen is None:
            raise Ended("refused", f"nobody can be put back to the moment: {self.why}")
        self.candidate, self.record, self.led_on = chosen, seen.record, leader.timeline
        try:
            room = await self.do(in_place.look_before_restore, self.in_place(), limit=60, total=180, heartbeat=10.0)
        except ActivityError as error:
            raise Ended("refused", reason_of(error)) from error
        if (why := policy.too_small(chosen, room)) is not None:
            raise Ended("refused", why)
        self.assessment = policy.assess(self.record, leader, chosen, self.why, self.request.copy_facts.replayed)
        self.attribute("LifeboatVerdict", self.assessment.verdict.kind)
        return seen.record

    async def fence_leader(self) -> FenceResult:
        """Nobody acknowledges any more, and what was written after the moment stays where it is, for good."""
        await self.tell_watch()
        held = f"it has what was written after {self.request.moment.text()} (run {workflow.info().workflow_id})"
        order = HoldOrder(**self.node_of(self.suspect), why=held[:300])
        await self.do(in_place.hold_folder, order, limit=30, total=60, attempts=TRIES)
        fenced = await self.fence_old_primary()
        stopped, isolated = await self.until_stopped()
        if not stopped.done:
            raise ApplicationError(str(NotYet(f"{stopped.evidence}; {isolated.evidence}")), type=NotYet.__name__)
        written = [facts.written for facts in fenced.members if facts.member == self.suspect]
        moment = self.request.moment
        after = Written(
            member=self.suspect,
            first=self.request.copy_facts.replayed,
            last=written[-1] if written else None,
            since=moment.time or moment.near or self.request.copy_facts.last_commit,
            until=workflow.now(),
        )
        self.cut = self.cut.model_copy(update={"written": after})
        return fenced

    def fence_text(self, fenced: FenceResult) -> str:
        return f"disconnected {', '.join(fenced.disconnected)}; {self.stall_evidence}; stopped, with {self.after()}"

    async def record_choice(self) -> EpochRecord:
        """The candidate stands in the record, and the names lead to it, before it is promoted."""
        wanted = self.record.model_copy(
            update={
                "candidate": self.candidate,
                "candidate_voters": [],
                "verdict": f"put back to {restore.lsn_text(self.request.copy_facts.replayed)}",
            }
        )
        order = DnsOrder(
            service=self.estate.service,
            zone=self.estate.zone,
            target=self.candidate,
            seen=self.record,
            wanted=wanted,
            reads=self.names_next(self.candidate, []),
        )
        return await self.do(dns.choose_and_lead, order, limit=4, heartbeat=None)

    async def promote(self) -> PromoteResult:
        """Recovery ends where it stands, on a timeline of its own. It leads alone until the standbys are rebuilt."""
        order = PromoteOrder(
            service=self.estate.service, zone=self.estate.zone, record=self.record, names="", survivors=[]
        )
        self.open_poolers(self.candidate, ROUTE)
        self.narrow_reads(self.candidate, [], ROUTE)
        try:
            promoted = await self.do(promotion.promote_candidate, order, limit=30, total=60, heartbeat=2.0)
        except ActivityError as error:
            self.give_up_openings()
            # It asks the archive for timelines first, and ends where that can't be had: it stands again for a retry.
            raise await self.started_for_a_retry(error) from error
        if (why := policy.not_its_own(promoted, self.suspect, self.led_on)) is not None:
            self.tasks.append(why)
        return promoted

    async def started_for_a_retry(self, error: ActivityError | ApplicationError) -> ApplicationError:
        """A candidate that has ended is started again. What failed, with what a person does before a `retry`."""
        told = ""
        try:
            told = await self.start_if_ended()
        except ActivityError as failed:
            told = f"{self.candidate} may have ended ({reason_of(failed)}): see that it runs, then `retry`"
        return ApplicationError("; ".join(filter(None, (reason_of(error), told))), type=kind_of(error))

    async def start_if_ended(self) -> str:
        """As what it was when it ended; "" where it runs. Nothing but this run starts it while its autostart is off."""
        order = NodeOrder.model_validate(self.node_of(self.candidate))
        found = await self.do(data_folder.look_at_folder, order)
        how, why = policy.how_to_start(found, self.record.epoch)
        match how:
            case "runs":
                return ""
            case "standby":
                folder = FolderOrder.model_validate(self.on_folder())
                await self.do(data_folder.start_standby, folder, limit=300, total=300, heartbeat=10.0, attempts=1)
            case "leader":
                await self.do(node.start_node, order, limit=60, total=120)
            case "person":
                return f"{why}: start it by hand, then `retry`"
        return f"{why}: it was started again, `retry` goes on"

    async def route(self) -> list[str]:
        """Beside it, the candidate may start by itself again: should it end from here on, nobody else would do it."""
        order = FolderOrder.model_validate(self.on_folder())
        told: list[str]
        told, _ = await self.together(self.move_routes(self.candidate), self.may_start(order))
        return told

    async def may_start(self, order: FolderOrder) -> None:
        """What fails is ordered once more, and told, when it leads on record."""
        try:
            await self.do(data_folder.let_it_start, order, limit=10, total=20)
        except ActivityError as error:
            self.note(f"{self.candidate} does not start by itself yet: {reason_of(error)}")

    async def verify(self) -> Fence:
        """One that has ended since it was promoted serves nobody, and is started again for a retry."""
        try:
            return await super().verify()
        except (ActivityError, ApplicationError) as error:
            raise await self.started_for_a_retry(error) from error

    async def settle(self) -> str:
        """The record names it; its settings are those of a leader; it may start by itself; reads know of it."""
        at = {"service": self.estate.service, "leader": self.candidate, "names": "", "epoch": self.record.epoch}
        order = FolderOrder.model_validate(self.on_folder())
        try:
            _, _, told, _ = await self.together(
                self.write_final_record(),
                self.do(promotion.checkpoint, NamesOrder.model_validate(at), limit=120, total=180),
                self.do(in_place.settle_in_place, order, limit=30, total=120),
                self.do(data_folder.let_it_start, order, limit=30, total=120),
            )
        except (ActivityError, ApplicationError) as error:
            raise await self.started_for_a_retry(error) from error
        await self.update_reads(self.candidate)
        return f"{told.evidence}; epoch {self.record.epoch} names it"

    async def count(self) -> str:
        """In the folder of who led before, which is stopped; what is counted is kept apart as well."""
        if (why := policy.not_its_own(self.promoted, self.suspect, self.led_on)) is not None:
            return f"what {self.suspect} wrote after the moment can't be told: {why}"
        self.on_folder(self.suspect)
        await self.keep_what_only_it_has()
        if self.loss is None:
            return f"nothing was written to {self.suspect} after the moment"
        return f"{self.loss.text()}; kept on {self.suspect}" + (f" in {self.loss.kept}" if self.loss.kept else "")

    async def rebuild(self) -> str:
        """One after the other, since each loads the leader. They have WAL of after the moment, and must not follow.
        What an earlier cut-over keeps stays: only a person lets that go.
        """
        told = []
        members = [each for each in self.estate.service.members if each.name not in (self.candidate, self.suspect)]
        for member in sorted(members, key=lambda each: each.follows not in (None, self.suspect)):
            if member.control is None or member.data is None:
                self.left.append(f"{member.name} has no `control` and `data`: rebuild it by hand, it must not follow")
                continue
            if held := await self.why_held(member.name):
                self.keepers.append(member.name)
                self.left.append(policy.kept_text(self.service_name, member.name, held))
                told.append(f"{member.name}: held")
                continue
            why = f"it has WAL of after {self.request.moment.text()}"
            request = RejoinRequest(
                service=self.service_name, reason=self.reason, member=member.name, rebuild=why[:200]
            )
            report = await self.child("DatabaseRejoin", request, f"rejoin/{member.name}")
            told.append(f"{member.name}: {report.summary or report.outcome}")
        return "; ".join(told) or "there is no other standby"

    async def why_held(self, member: str) -> str:
        """Why its folder is held; "" as well where its node does not answer: the rejoin looks too."""
        order = NodeOrder.model_validate(self.node_of(member))
        with contextlib.suppress(ActivityError):
            return (await self.do(data_folder.look_at_folder, order, limit=10, attempts=2)).held
        return ""

    async def take_backup(self) -> str:
        """What was backed up before leads to the new timeline as well, yet by WAL that nobody has replayed but here."""
        # Nothing is removed: the moment may have to be chosen anew, from a backup that retention lets go by now.
        request = TakeRequest(service=self.service_name, reason=self.reason, kind="full", expire=False)
        report = await self.child("BackupTake", request, "backup-take")
        if EXIT_CODES[report.outcome]:
            self.left.append(f"no backup is of the new timeline yet: {report.run} ended {report.outcome}")
        return f"{report.outcome}: {report.summary}"

    async def tell_what_is_missing(self) -> None:
        missing: list[str] = []
        try:
            _, missing = await self.look_at_protection()
        except ActivityError as error:
            missing = [f"nobody could be asked what follows {self.candidate}: {reason_of(error)}"]
        own = policy.kept_text(self.service_name, self.suspect, self.after())
        known = tuple(f"{name} " for name in (self.suspect, *self.keepers))
        self.unprotected = [own, *self.left, *(each for each in missing if not each.startswith(known))]

    # The undos, in the order in which they run

    async def let_back(self) -> None:
        """Its start does not wait for its folder to be let go, and neither one's failure keeps the other back."""
        free = HoldOrder(**self.node_of(self.suspect), why="")
        await self.together(super().let_back(), self.do(in_place.hold_folder, free, limit=30, total=300))

    async def unstall(self) -> None:
        """Those who are left acknowledge; who was put back does not."""
        bound = self.before if self.touched else self.record
        left = [name for name in bound.voters if not (self.touched and name == self.candidate)]
        await self.unstall_with(render_names(min(bound.w, len(left)), left))

    def to_reconnect(self) -> list[str]:
        return [name for name in super().to_reconnect() if not (self.touched and name == self.candidate)]

    async def after_undo(self) -> None:
        await super().after_undo()
        if not self.touched:
            return
        try:
            await self.restore_set()
        except (ActivityError, ApplicationError) as error:
            self.unprotected.append(f"the synchronous set is left to the watch: {reason_of(error)}")
        # Not among the undos: clients would wait for its node, which may be dead. It follows nobody, and harms nobody.
        try:
            await self.stop_candidate()
        except (ActivityError, ApplicationError) as error:
            self.note(f"{self.candidate} is not known to be stopped, its rejoin sees to that: {reason_of(error)}")
        run = await self.start_rejoin(self.candidate, rebuild="it was put back to a moment, and that was undone")
        self.followed_by.append(run)
        self.unprotected.append(f"{self.candidate} is no standby any more: {run} rebuilds it")
