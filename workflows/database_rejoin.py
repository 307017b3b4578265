"""Database rejoin: a former primary, or any member, comes back as a standby, and what only it had is counted first.

docs/runbooks/database_rejoin.md has the same headings as the steps here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    import types

    from activities import data_folder, survey
    from schemas.facts import EpochRecord, MemberFacts
    from schemas.failures import EpochSuperseded, EpochUnavailable, NotYet, StartedInVain
    from schemas.orders import NodeOrder, Observation
    from schemas.rejoin import FolderFacts, FolderResult, Return
    from schemas.reports import Outcome, Report
    from schemas.requests import RejoinRequest
    from workflows.database_reads import Reading
    from workflows.database_return import Returning
    from workflows.plan import Planning
    from workflows.policy.rejoin import already_back, held_text, other_cluster, unreadable
    from workflows.reasons import kind_of, reason_of
    from workflows.runbook import WAIT_S, Ended, Overtaken

T = TypeVar("T")

REACH = "Reach the node"
LOOK = "Look at the member and at who leads"
DECIDE = "Decide"
CLAIM = "Claim the epoch"
STOP = "Stop the member and keep it from starting"
KEEP = "Keep and count what only it has"
RETURN = "Rewind or rebuild it"
START = "Start it as a standby"
FOLLOW = "Confirm that it streams"
RESTORE = "Restore the synchronous set"
NOTIFY = "Notify"


@workflow.defn(name="DatabaseRejoin", failure_exception_types=[Exception])
class DatabaseRejoin(Planning, Reading, Returning):
    """Start with `{"service": "counting-db", "reason": "…", "member": "pg-east-1"}`; ends with a Report."""

    procedure = "DatabaseRejoin"
    titles = (REACH, LOOK, DECIDE, CLAIM, STOP, KEEP, RETURN, START, FOLLOW, RESTORE, NOTIFY)
    expected_s = types.MappingProxyType({STOP: 2.0, KEEP: 2.0, RETURN: 5.0, START: 2.0, FOLLOW: 2.0})
    gives_way = True
    back: str | None = None
    """Why nothing more is to be done than to confirm it: it streams, as whoever overtook this run has led it on."""

    @workflow.run
    async def run(self, request: RejoinRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))

    def reached(self) -> Outcome:
        return "done, unprotected" if self.unprotected else "done"

    async def carry_out(self, request: RejoinRequest) -> None:
        self.member, self.predicted = request.member, request.predicted
        self.anew, self.released = request.release or request.rebuild, request.release
        if request.dry_run:
            await self.plan(request)
            return
        # Two rejoins of one member would undo each other's work.
        await self.lock(f"{self.service_name}/{self.member}")
        while True:
            try:
                return await self.bring_back(request)
            except Overtaken as by:
                self.note(f"overtaken ({by}): looked at anew once it has ended")
                self.overtaken, self.past_no_return = "", False
                if self.has_lock:
                    await self.unlock()
                await self.do(survey.until_led, self.estate, limit=WAIT_S, total=None, heartbeat=6.0)

    async def plan(self, request: RejoinRequest) -> None:
        """The node and the leader are looked at for real; how it comes back is known once it is stopped."""
        folder = await self.step(REACH, lambda: self.reach(request), told=lambda found: found.text())
        seen = await self.step(LOOK, lambda: self.look(folder), told=lambda seen: f"{seen[0].leader} leads")
        leader = seen[0].leader
        untouched = dict.fromkeys((STOP, KEEP, RETURN, START), f"nothing: {self.back}") if self.back else {}
        await self.plan_rest(
            {
                DECIDE: f"rejoin.when is {self.estate.service.rejoin.when}",
                CLAIM: "the run takes the next epoch",
                STOP: f"{self.member} is stopped by its node control, autostart off",
                KEEP: f"its WAL that {leader} has not is kept on the node, and counted",
                RETURN: "as it is where it has nothing of its own, else by rewind, else by a copy of the whole",
                START: f"{self.member} starts as a standby of {leader}",
                FOLLOW: "it streams, as both say; autostart on",
                RESTORE: "the synchronous set is what the policy says",
                NOTIFY: f"told: {', '.join(target.name for target in self.estate.service.notify) or 'nobody'}",
                **untouched,
            }
        )

    async def bring_back(self, request: RejoinRequest) -> None:
        """From the node's reach to a protected estate; whoever overtakes this run lets it begin here again."""
        folder = await self.step(REACH, lambda: self.reach(request), told=lambda found: found.text())
        seen = await self.step(LOOK, lambda: self.look(folder), told=lambda seen: f"{seen[0].leader} leads")
        await self.step(DECIDE, lambda: self.decide(request), told=lambda text: text)
        # Not before: a person may take long to decide. What changed meanwhile is found by the claim.
        await self.wait_for_lock()
        self.record = await self.step(CLAIM, lambda: self.claim_after(seen[0]), told=lambda r: f"epoch {r.epoch}")
        if not self.back:
            await self.step(STOP, self.stop_member, told=lambda stopped: stopped.evidence)
            how = await self.step(KEEP, lambda: self.while_led(self.keep_what_only_it_has), told=self.kept_text)
            if how.method == "refuse":
                left = f"{self.member} is stopped, and kept from starting"
                self.unprotected.append(left)
                raise Ended("refused", f"{how.reason}; {left}")

            self.point_of_no_return()
            # A copy takes hours: meanwhile the watch keeps the synchronous set, and a failover may come.
            await self.unlock()
            await self.step(RETURN, lambda: self.while_led(self.return_member), told=lambda result: result.evidence)
            self.anew = self.released = ""
            await self.wait_for_lock()
            await self.step(START, lambda: self.while_led(self.start_it), told=lambda result: result.evidence)
        await self.step(FOLLOW, lambda: self.while_led(self.until_it_streams), told=lambda text: text)
        await self.step_or_skip(RESTORE, lambda: self.while_led(self.restore_protection), told=lambda text: text)
        await self.step_or_skip(NOTIFY, self.notify, told=lambda names: f"told: {names}")

    # What the steps do, in their order

    async def reach(self, request: RejoinRequest) -> FolderFacts:
        """The node answers its control. One that is out of reach is waited for, without holding anything."""
        order = NodeOrder(service=self.estate.service, member=self.member)
        wait = max(request.wait_s, 10.0)
        return await self.do(data_folder.until_in_reach, order, limit=wait, total=wait)

    async def look(self, folder: FolderFacts) -> tuple[EpochRecord, Observation]:
        """Who leads by the record, and whether there is anything to do."""
        seen = await self.observe_everywhere()
        if seen.record is None:
            why = seen.epoch_error or "there is no record: start the watch"
            raise ApplicationError(str(EpochUnavailable(why)), type=EpochUnavailable.__name__)
        self.suspect = self.member
        record, facts = seen.record, {each.member: each for each in seen.members}
        if record.leader == self.member:
            raise Ended("refused", f"{self.member} leads: name a member that is to follow it")
        leader: MemberFacts | None = facts.get(record.leader)
        # It is confirmed all the same: a run that was cut short may have left its autostart off, or its set narrow.
        self.back = None if self.anew else already_back(self.member, facts.get(self.member), leader)
        if leader is None or not leader.reachable or leader.in_recovery:
            raise ApplicationError(
                str(NotYet(f"{record.leader} should lead, and does not: fail over first")), type=NotYet.__name__
            )
        if folder.system and folder.system != leader.system_identifier:
            raise Ended("refused", other_cluster(folder.member, folder.system, leader.member, leader.system_identifier))
        if (unknown := unreadable(folder)) is not None:
            raise Ended("refused", unknown)
        if folder.held and not self.released:
            raise Ended("refused", held_text(folder))
        self.on_record = record.verdict
        return record, seen

    async def decide(self, request: RejoinRequest) -> str:
        """At once by policy, or a person, who is told what will become of the member's data."""
        if self.decided_by_person:
            return "approved before"
        if request.approval == "policy":
            return f"by policy (rejoin.when is {self.estate.service.rejoin.when})"
        text = (
            f"Bring {self.member} back as a standby? Approving stops it, keeps and counts the WAL that only it has,"
            " then rewinds it, or erases it and copies it anew where a rewind can't be done."
        )
        decision = await self.ask(text, self.member, needs_override=False, machine_s=15.0)
        if decision.answer != "approved":
            outcome: Outcome = {"rejected": "rejected", "expired": "expired"}.get(decision.answer, "aborted")  # type: ignore[assignment]
            raise Ended(outcome, f"{decision.answer} by {decision.by}")
        self.decided_by_person = True
        return f"approved by {decision.by}"

    async def start_it(self) -> FolderResult:
        """One that does not come up as it is may be kept from it by its data. A copy takes long: a person says so."""
        try:
            return await self.start_member()
        except ActivityError as error:
            if self.how is None or self.how.method != "follow" or kind_of(error) != StartedInVain.__name__:
                raise
            self.in_vain = True
            raise ApplicationError(f"{reason_of(error)}; `retry` copies it anew", type=kind_of(error)) from error

    async def while_led(self, action: Callable[[], Awaitable[T]]) -> T:
        """What fails since the leader is gone is begun anew for whoever leads then; another failure is a person's."""
        try:
            return await action()
        except (ActivityError, ApplicationError) as error:
            if kind_of(error) == EpochSuperseded.__name__ or (await self.observe()).led_by == self.record.leader:
                raise
            # Whatever it did not do may be for want of a leader.
            self.in_vain = False
            raise Overtaken(f"{self.record.leader} leads no more: {reason_of(error)}") from error

    def kept_text(self, how: Return) -> str:
        told = f"{how.method}: {how.reason}"
        return f"{self.loss.text()}; {told}" if self.loss is not None else told

    async def restore_protection(self) -> str:
        told = await self.restore_set()
        _, self.unprotected = await self.look_at_protection()
        await self.update_reads(self.record.leader)
        return told
