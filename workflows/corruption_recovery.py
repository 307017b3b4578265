"""Corruption recovery: the strategy's seven steps, each held by what was seen; a person decides what is done.

docs/runbooks/corruption_recovery.md has the same headings as the steps here.
"""

from __future__ import annotations

import asyncio
import types
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import copy_checks, copying_back, damage, restoring
    from schemas.damage import MemberDamage
    from schemas.damage_orders import PulseOrder
    from schemas.reports import EXIT_CODES, DecisionReport, Outcome, Report
    from schemas.requests import RejoinRequest, SwitchoverRequest
    from schemas.restore_requests import CorruptionRequest, VerifyRequest
    from schemas.restores import CopyBackOrder, HostOrder, Moment, TableOrder
    from workflows.gradual import Gradual
    from workflows.policy import damage as policy
    from workflows.policy.restore import choose_backup
    from workflows.reasons import reason_of
    from workflows.restoring import REMOVE
    from workflows.runbook import Ended

ISOLATE = "Isolate the service"
SCOPE = "Find the scope"
BACKUP = "Verify the backup"
MOMENT = "Find the last good moment"
DECIDE = "Decide on the repair"
REPAIR = "Restore what is damaged"
VALIDATE = "Validate the data"
SHARE = "Let a share of writes in"
SERVE = "Let all writes in"
DRAFT = "Draft the post-mortem"
NOTIFY = "Notify"

CHECK_S = 6 * 3600.0
RESOLUTION = timedelta(seconds=1)
"""How near to the damage the last good moment is sought."""


@workflow.defn(name="CorruptionRecovery", failure_exception_types=[Exception])
class CorruptionRecovery(Gradual):
    """Start with `{"service": "counting-db", "reason": "…"}`, and `tables` where rows are wrong; ends with a Report."""

    procedure = "CorruptionRecovery"
    titles = (ISOLATE, SCOPE, BACKUP, MOMENT, DECIDE, REPAIR, VALIDATE, SHARE, SERVE, DRAFT, NOTIFY, REMOVE)
    expected_s = types.MappingProxyType({ISOLATE: 1.0})

    @workflow.run
    async def run(self, request: CorruptionRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))

    def reached(self) -> Outcome:
        return "done, unprotected" if self.unprotected else "done"

    def summary(self) -> str:
        return f"{self.repair.kind}: {self.repair.reason}" if self.repair.reason else ""

    async def carry_out(self, request: CorruptionRequest) -> None:
        await self.lock(f"{self.service_name}/corruption")
        seen = await self.observe_everywhere()
        self.suspect = self.leader_of(seen)
        if request.dry_run:
            await self.plan_rest(self.would())
            return
        lift = ("Let clients write again", self.let_write)
        await self.step(ISOLATE, self.isolate, undo=lift, told=lambda text: text)
        await self.step(SCOPE, self.find_scope, told=lambda text: text)
        await self.step_or_skip(BACKUP, self.verify_backup, told=lambda text: text)
        remove = (REMOVE, self.remove)
        await self.step(MOMENT, self.find_moment, undo=remove, told=lambda text: text)
        self.repair = await self.step(DECIDE, lambda: self.decide(request), told=lambda repair: repair.reason)
        await self.step(REPAIR, lambda: self.carry_repair_out(request), told=lambda text: text)
        self.point_of_no_return()
        await self.step_or_skip(VALIDATE, self.validate_service, told=lambda text: text)
        await self.step_or_skip(SHARE, self.let_shares_in, told=lambda text: text)
        await self.step(SERVE, self.let_all_in, told=lambda text: text)
        await self.step_or_skip(DRAFT, self.draft, told=lambda text: text)
        await self.step_or_skip(NOTIFY, self.notify, told=lambda names: f"told: {names}")
        await self.step_or_skip(REMOVE, self.remove, told=lambda text: text)

    def would(self) -> dict[str, str]:
        """What each step of a real run would do."""
        names = ", ".join(self.estate.service.member_names())
        return {
            ISOLATE: f"a person is asked whether {self.suspect} becomes read-only",
            SCOPE: f"pg_amcheck on {names}; the owner's queries on {self.suspect}",
            BACKUP: "the newest backup is restored and checked (BackupVerify)",
            MOMENT: "now, where only pages are damaged; else copies are restored until the first bad moment is found",
            DECIDE: "a person is asked",
            REPAIR: "a whole standby takes over and the damaged are copied anew, or tables are copied back",
            VALIDATE: "the same checks again, on what serves then",
            SHARE: self.would_share(),
            SERVE: f"all, watched for {self.estate.service.corruption.hold_s:g} s; taken back where they do no good",
        }

    def would_share(self) -> str:
        corruption = self.estate.service.corruption
        shares = ", ".join(f"{each:.0%}" for each in corruption.shares)
        if not self.poolers() or not shares:
            return "none: no PgBouncer is there to draw, or no share is declared"
        names = ", ".join(each.name for each in self.poolers())
        return f"{shares} of the sessions of {names}, each watched for {corruption.hold_s:g} s"

    # What the steps do, in their order

    async def isolate(self) -> str:
        """Read-only by a person's word: writes on damaged data make more of it."""
        text = (
            f"Make {self.service_name} read-only while the damage is looked for? Its clients are cut once, read on, and"
            f" can't write until the repair is done. Rejecting leaves them writing."
        )
        decision = await self.ask(text, self.suspect, needs_override=False, machine_s=10.0)
        if decision.answer != "approved":
            return await self.left_alone(decision)
        self.isolated = True
        await self.end_draws()
        return await self.set_read_only(self.suspect, on=True)

    async def end_draws(self) -> None:
        """A run that was terminated may have left a share of writes."""
        _, failed = await self.draw(0.0)
        for each in failed:
            self.note(f"whether a run that was terminated left a share of writes behind is not known: {each}")

    async def left_alone(self, decision: DecisionReport) -> str:
        """Nobody wants it read-only, and it may be so all the same: a recovery that was terminated lifts nothing."""
        left = await self.is_read_only(self.suspect)
        if decision.answer == "rejected":
            self.isolated = left
            if left:
                await self.end_draws()
                return f"{self.suspect} is read-only already, which a run that was ended may have left: until the end"
            return f"not isolated, by {decision.by}: clients go on writing"
        if left:
            self.tasks.append(
                f"{self.suspect} is read-only, which a run that was ended may have left: to let clients write, its"
                " owner must ALTER SYSTEM RESET default_transaction_read_only there, and reload"
            )
        if self._abort is not None:
            raise Ended("aborted", self.aborted_by())
        raise Ended("expired", "nobody decided in time")

    async def is_read_only(self, member: str) -> bool:
        order = PulseOrder(service=self.estate.service, leader=member, hold_s=0)
        try:
            pulse = await self.do(damage.watch_writes, order, limit=10)
        except ActivityError as error:
            self.note(f"whether {member} is read-only is not known: {reason_of(error)}")
            return False
        if pulse.broke:
            self.note(f"whether {member} is read-only is not known: {pulse.broke}")
        return pulse.read_only and not pulse.broke

    async def find_scope(self) -> str:
        members = await self.check([each.name for each in self.estate.service.members])
        queries = await self.ask_owner(self.suspect)
        self.damage = self.damage.model_copy(update={"members": members, "queries": queries})
        wrong = "; ".join(f"{each.clause}: {each.evidence}" for each in queries if each.ok is False)
        return policy.scope_text(members) + (f"; {wrong}" if wrong else "")

    async def check(self, names: list[str]) -> list[MemberDamage]:
        """Each member in its own region; one that can't be checked is told, and counts as not whole."""

        async def look(name: str) -> MemberDamage:
            try:
                return await self.do(
                    damage.check_member, self.check_of(name), limit=CHECK_S, total=CHECK_S, attempts=3, heartbeat=10.0
                )
            except ActivityError as error:
                return MemberDamage(member=name, error=reason_of(error))

        return list(await asyncio.gather(*map(look, names)))

    async def verify_backup(self) -> str:
        """A run of its own, with its own report; what it finds is told, and stops nothing here."""
        request = VerifyRequest(service=self.service_name, reason=f"corruption: {self.reason}"[:2000])
        report = await self.child("BackupVerify", request, "backup-verify")
        told = f"{report.outcome}: {report.summary or '; '.join(report.tasks)}"
        self.damage = self.damage.model_copy(update={"backup": told})
        return told

    async def find_moment(self) -> str:
        """Pages that went bad are good in the WAL: now. Rows that are wrong were good once: when, copies tell."""
        wrong = [each for each in self.damage.queries if each.ok is False]
        if not wrong:
            reason = "every owner's query is answered as it should be: what is damaged are pages, not what was written"
            self.damage = self.damage.model_copy(update={"last_good": workflow.now(), "reason": reason})
            return reason
        self.repository = await self.read_repository(None)
        good, bad = await self.newest_good_backup(), workflow.now()
        await self.keep_good(self.moment)
        while bad - good > RESOLUTION:
            middle = policy.halves(good, bad)
            if await self.good_at(middle):
                good = middle
                await self.keep_good(self.moment)
            else:
                bad = middle
                # Recovery only goes forward.
                await self.put_back()
        reason = f"good at {good.isoformat(sep=' ')}, no more at {bad.isoformat(sep=' ')}"
        self.damage = self.damage.model_copy(update={"last_good": good, "reason": reason})
        await self.good_at(good)
        await self.prove()
        return reason

    async def newest_good_backup(self) -> datetime:
        """The end of the newest backup whose copy answers as it should."""
        before: datetime | None = None
        while True:
            backup, reason = choose_backup(self.repository, before=before)
            if backup is None:
                raise Ended("refused", f"no backup is older than the damage: {reason}")
            self.backup = backup
            await self.make_room()
            await self.restore(backup)
            self.moment = Moment(
                kind="immediate", timeline=self.repository.timeline, reason="the backup as it was taken"
            )
            if await self.good():
                return backup.stopped
            before = backup.stopped - timedelta(seconds=1)

    async def good_at(self, at: datetime) -> bool:
        self.moment = Moment(kind="time", timeline=self.repository.timeline, time=at, reason="sought by halves")
        return await self.good()

    async def good(self) -> bool:
        await self.recover(self.moment)
        answers = await self.on_host(copy_checks.ask_owner, HostOrder(**self.order()), limit=3600)
        names = [each.clause for each in self.damage.queries if each.ok is False]
        found = all(each.ok is not False for each in answers if each.clause in names)
        self.note(f"{self.moment.text()}: {'good' if found else 'bad'}")
        return found

    async def decide(self, request: CorruptionRequest) -> policy.Repair:
        found = self.damage
        repair = policy.choose_repair(self.estate.service, self.suspect, found.members, found.queries, request.tables)
        if repair.kind == "none":
            return repair
        deed = {
            "switch": f"Switch {self.service_name} over to {repair.candidate}, and copy"
            f" {', '.join(repair.rebuild)} anew",
            "rebuild": f"Copy {', '.join(repair.rebuild)} anew",
            "copy-back": f"Set {', '.join(request.tables)} aside, and copy them back as they were at {found.last_good}:"
            " what was written to them since, and what refers to them, stays with those that are set aside",
            "person": "Leave the repair to a person, and let clients write again",
        }[repair.kind]
        decision = await self.ask(f"{deed}? {repair.reason}.", repair.kind, needs_override=False, machine_s=60.0)
        self.must_be_approved(decision)
        return repair

    async def carry_repair_out(self, request: CorruptionRequest) -> str:
        self.damage = self.damage.model_copy(update={"repair": self.repair.reason})
        tables = request.tables if self.repair.kind == "copy-back" else []
        self.repaired = policy.written_to(self.damage, tables, self.estate.service.access.database)
        match self.repair.kind:
            case "switch":
                return await self.switch_and_rebuild()
            case "rebuild":
                return await self.rebuild()
            case "copy-back":
                return await self.copy_back(request)
            case "person":
                self.tasks.append(self.repair.reason)
        return "nothing is done"

    async def switch_and_rebuild(self) -> str:
        candidate = self.repair.candidate
        if self.isolated:
            # Before it leads, so that no client writes until it was validated; who reads it there reads on.
            await self.set_read_only(candidate, on=True, cut=False)
        request = SwitchoverRequest(
            service=self.service_name,
            reason=f"corruption of {self.suspect}",
            candidate=candidate,
            read_only=self.isolated,
        )
        report = await self.child("DatabaseSwitchover", request, "switchover")
        if EXIT_CODES[report.outcome]:
            raise Ended("undone", f"the switchover ended {report.outcome}: {report.summary}")
        return f"{candidate} leads; {await self.rebuild()}"

    async def rebuild(self) -> str:
        """One after the other: each of them loads whoever leads."""
        told = []
        for member in self.repair.rebuild:
            request = RejoinRequest(
                service=self.service_name, reason="corruption", member=member, rebuild="pages of it are damaged"
            )
            report = await self.child("DatabaseRejoin", request, f"rejoin/{member}")
            if EXIT_CODES[report.outcome]:
                self.unprotected.append(f"{member} is damaged still: {report.run} ended {report.outcome}")
            told.append(f"{member}: {report.summary or report.outcome}")
        return "; ".join(told)

    async def copy_back(self, request: CorruptionRequest) -> str:
        """In one transaction: the tables that are there move to a schema of their own, and the good ones come in."""
        looked = TableOrder(**self.order(), tables=request.tables)
        tables = await self.on_host(restoring.look_at_tables, looked, limit=3600)
        if absent := sorted({*request.tables} - {each.table for each in tables}):
            raise Ended("refused", f"the copy has no {', '.join(absent)}")
        seen = await self.observe()
        leader, aside = self.leader_of(seen), f"damaged_{self.order()['copy_name']}"
        back = CopyBackOrder(**self.order(), leader=leader, tables=tables, aside=aside)
        written = await self.on_host(copying_back.copy_back, back, limit=6 * 3600)
        self.note_evidence(copied=written)
        told = ", ".join(f"{table}: {rows} rows" for table, rows in written.items())
        return f"{told}; those of before are in the schema {aside}"

    async def validate_service(self) -> str:
        """What is repaired is looked at again, on who serves now."""
        seen = await self.observe()
        leader = self.leader_of(seen)
        members = await self.check([*{leader, *self.repair.rebuild}])
        queries = await self.ask_owner(leader)
        bad = [*(each for each in members if not each.whole)]
        wrong = [each for each in queries if each.ok is False] if self.repair.kind != "person" else []
        if bad or wrong:
            told = "; ".join([policy.scope_text(bad), *(f"{each.clause}: {each.evidence}" for each in wrong)])
            raise ApplicationError(f"it is not good yet: {told}")
        return f"{leader} is whole, and answers every owner's query"

    async def draft(self) -> str:
        text = policy.post_mortem(self.service_name, self.reason, self.damage, self.steps, self.decisions, self.journal)
        self.damage = self.damage.model_copy(update={"post_mortem": text})
        return f"{len(text.splitlines())} lines, in the report"
