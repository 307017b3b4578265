"""Point-in-time restore: a copy beside the service, as it was at a moment, proved, and then put to use.

docs/runbooks/pitr_restore.md has the same headings as the steps here.
"""

from __future__ import annotations

import asyncio
import contextlib
import types
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities import copying_back, restoring
    from schemas.cut_over import CutOverRequest
    from schemas.failures import NoBackupFits
    from schemas.receipts import Receipt
    from schemas.reports import Outcome, Report
    from schemas.restore_requests import PitrRequest, Target
    from schemas.restores import Backup, CopyBackOrder, CutOverEvidence, HostOrder, Moment, TableOrder, TableState
    from schemas.wal import position
    from workflows.policy import restore as policy
    from workflows.restoring import REMOVE, Restoring
    from workflows.runbook import Ended

FIND = "Find the target and its backup"
ROOM = "Make room on the restore host"
RESTORE = "Restore the backup beside the service"
LOCATE = "Find the moment in the WAL"
RECOVER = "Recover to the target"
PROVE = "Prove the copy"
VALIDATE = "Validate the data"
DECIDE = "Decide what it is for"
COPY_BACK = "Copy tables back"
HAND_OVER = "Hand the copy over for reading"
CUT_OVER = "Cut the service over"
NOTIFY = "Notify"

AGAIN = timedelta(seconds=1)
"""After which an abort that did not arrive is sent once more."""
READ = timedelta(days=1)
"""How long a copy may be read."""


@workflow.defn(name="PitrRestore", failure_exception_types=[Exception])
class PitrRestore(Restoring):
    """Start with `{"service": "counting-db", "reason": "…", "target": {"time": "2026-11-25T10:00:00Z"}}`."""

    procedure = "PitrRestore"
    titles = (
        *(FIND, ROOM, RESTORE, LOCATE, RECOVER, PROVE, VALIDATE),
        *(DECIDE, COPY_BACK, CUT_OVER, HAND_OVER, NOTIFY, REMOVE),
    )
    expected_s = types.MappingProxyType({ROOM: 1.0, PROVE: 1.0, COPY_BACK: 10.0})

    def __init__(self) -> None:
        super().__init__()
        self.target: Target
        self.tables: list[TableState] = []
        self.use = ""
        self.cut: CutOverEvidence | None = None
        self.led = self.after_cut = ""
        """Who leads since the cut-over, and what that run says of itself and of what is lost."""
        self.lost = ""
        self.loss: Receipt | None = None

    @workflow.run
    async def run(self, request: PitrRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))

    def reached(self) -> Outcome:
        return "done, unprotected" if self.unprotected else "done"

    def leads_now(self) -> str | None:
        return self.led or None

    def lost_text(self) -> str:
        return self.lost

    def summary(self) -> str:
        if self.after_cut:
            return self.after_cut
        copied = ", ".join(f"{table} ({rows} rows)" for table, rows in self.evidence.copied.items())
        moment = self.evidence.moment.text() if self.evidence.moment else self.target.text()
        restored = "restores to" if self.evidence.restore_s is None else "restored to"
        return f"{restored} {moment}" + (f"; copied back: {copied}" if copied else "")

    async def carry_out(self, request: PitrRequest) -> None:
        self.target = request.target
        self.backup = await self.step(FIND, self.find, undo=(REMOVE, self.remove), told=self.found_text)
        # The moment before a table was dropped is looked for in the copy.
        self.note_evidence(backup=self.backup, moment=getattr(self, "moment", None))
        if request.dry_run:
            await self.remove()
            await self.plan_rest(self.would(request))
            return
        await self.step(ROOM, self.make_room, told=lambda free: f"{free / 1e9:.1f} GB are free")
        await self.step(RESTORE, lambda: self.restore(self.backup), told=lambda text: text)
        if self.target.before_drop is not None:
            self.moment = await self.step(LOCATE, self.locate_drop, told=lambda moment: moment.reason)
        await self.step(
            RECOVER, self.recover_to_moment, told=lambda copy: f"stands at {policy.lsn_text(copy.replayed)}"
        )
        await self.step(PROVE, self.prove, told=lambda text: text)
        await self.step(VALIDATE, self.validate, told=lambda text: text)
        self.use = await self.step(DECIDE, lambda: self.decide(request), told=lambda use: use)
        if self.use == "copy back":
            await self.step(
                COPY_BACK,
                lambda: self.copy_back(request),
                undo=("Take the tables back", self.take_back),
                told=lambda rows: ", ".join(f"{table}: {count} rows" for table, count in rows.items()),
            )
        if self.use == "cut over":
            await self.step(CUT_OVER, lambda: self.cut_over(request), told=lambda report: report.summary)
        else:
            self.point_of_no_return()
        if self.use == "hand over":
            await self.step_or_skip(HAND_OVER, self.hand_over, told=lambda text: text)
        await self.step_or_skip(NOTIFY, self.notify, told=lambda names: f"told: {names}")
        await self.step_or_skip(REMOVE, self.remove, told=lambda text: text)

    def would(self, request: PitrRequest) -> dict[str, str]:
        """What each step of a real run would do."""
        expected = self.backup.bytes / self.backups.rate_bytes_s
        use = {
            "ask": "a person is asked",
            "copy-back": f"{', '.join(request.wanted_tables())} is copied back",
            "hand-over": "the copy is handed over for reading",
            "cut-over": "the service is cut over to the moment",
            "remove": "the copy is removed once it is proved",
        }[request.then]
        cut = {CUT_OVER: self.would_cut(request)} if request.then == "cut-over" else {}
        return {
            ROOM: f"{self.backup.bytes / 1e6:.0f} MB on {self.backups.host.name}",
            RESTORE: f"{self.backup.label}, in about {expected:.0f} s",
            RECOVER: f"to {request.target.text()}",
            PROVE: "every clause of a good restore",
            VALIDATE: "checksums, amcheck, the owner's queries, the newest rows",
            DECIDE: use,
            **cut,
            NOTIFY: f"told: {', '.join(target.name for target in self.estate.service.notify) or 'nobody'}",
            REMOVE: f"nothing is left on {self.backups.host.name}",
        }

    # What the steps do, in their order

    async def find(self) -> Backup:
        """The backup to begin with, and the moment as recovery takes it, where that can be known before a restore."""
        target = self.target
        if target.time is not None and target.time > workflow.now():
            raise Ended("refused", f"{target.time.isoformat(sep=' ')} is in the future")
        try:
            self.repository = await self.read_repository(target.timeline)
        except ActivityError as error:
            self.must_be_reached(error, NoBackupFits)
        if target.xid is not None or target.name is not None:
            self.moment = await self.find_in_wal()
            return self.choose(lsn=self.moment.lsn)
        if target.before_drop is not None:
            return self.choose(before=target.until)
        lsn = position(target.lsn) if target.lsn is not None else None
        backup = self.choose(before=target.time, lsn=lsn)
        found, missing = await self.newest_after(backup)
        moment = policy.resolve(target, self.repository, found, missing)
        if isinstance(moment, str):
            raise Ended("refused", moment)
        self.moment = moment
        return backup

    def choose(self, **to: object) -> Backup:
        backup, reason = policy.choose_backup(self.repository, **to)  # type: ignore[arg-type]
        if backup is None:
            raise Ended("refused", f"{self.target.text()}: {reason}")
        self.note(reason)
        return backup

    async def find_in_wal(self) -> Moment:
        """A transaction or a restore point, in the WAL since each backup, the newest first."""
        what = f"xid {self.target.xid}" if self.target.xid is not None else f"name {self.target.name}"
        size, upper = self.repository.segment_bytes, None
        lacking = ""
        for backup in reversed(self.repository.backups):
            if not policy.on_the_way(self.repository, backup):
                continue
            stretches, missing = policy.legs(self.repository, backup, since=backup.lsn_stop)
            lacking = lacking or missing
            if upper is not None:
                stretches = policy.before_lsn(stretches, upper, size)
            upper = backup.lsn_stop
            later = self.target.until is not None and backup.stopped > self.target.until
            if later or not stretches:
                continue
            found = await self.scan(what, stretches)
            moment = policy.place_of(self.target, found.places, self.repository.timeline)
            if isinstance(moment, Moment):
                self.note_evidence(considered=policy.not_taken(self.target, found.places, moment))
                return moment
            if moment is not None:
                raise Ended("refused", moment)
        gone = f"; WAL file {lacking} is missing from the archive" if lacking else ""
        told = f"{self.target.text()}: not in the archived WAL of timeline {self.repository.timeline}{gone}"
        if left := policy.left_text(self.repository):
            told += f"; {left}"
        raise Ended("refused", told)

    def found_text(self, backup: Backup) -> str:
        moment = getattr(self, "moment", None)
        return f"{moment.text()} ({moment.reason}), from {backup.label}" if moment else f"from {backup.label}"

    async def locate_drop(self) -> Moment:
        """The copy, as the backup left it, knows the table's number; the WAL since says when that was dropped."""
        table = self.target.before_drop
        assert table is not None
        while True:
            await self.recover(self.backup_end())
            order = TableOrder(**self.order(), tables=[table])
            looked = await self.on_host(restoring.look_at_tables, order, limit=3600)
            if looked:
                break
            older = [
                each
                for each in self.repository.backups
                if each.stopped < self.backup.stopped and not each.broken and policy.on_the_way(self.repository, each)
            ]
            if not older:
                raise Ended(
                    "refused", f"{table} is in no backup, so that it was made and dropped after {self.backup.label}"
                )
            self.note(f"{table} is not in {self.backup.label}")
            await self.restore(older[-1])
        stretches, missing = policy.legs(self.repository, self.backup, since=self.backup.lsn_stop)
        found = await self.scan(f"drop {looked[0].database} {looked[0].oid}", stretches)
        moment = policy.place_of(self.target, found.places, self.repository.timeline)
        if isinstance(moment, Moment):
            self.note_evidence(considered=policy.not_taken(self.target, found.places, moment))
            return moment
        gone = f"; WAL file {missing} is missing from the archive" if missing else ""
        raise Ended(
            "refused", moment or f"{table} was not dropped after {self.backup.label}, as far as WAL is archived{gone}"
        )

    def backup_end(self) -> Moment:
        return Moment(kind="immediate", timeline=self.repository.timeline, reason="the backup as it was taken")

    async def decide(self, request: PitrRequest) -> str:
        """What was said at the start, or a person; who gives up what was written since is asked in any case."""
        if request.then not in ("ask", "cut-over") and request.approval == "policy":
            return request.then.replace("-", " ")
        offered = [request.then] if request.then != "ask" else ["hand-over", "cut-over"]
        if request.then == "ask" and request.wanted_tables():
            offered.insert(0, "copy-back")
        deeds = {
            "copy-back": f"Copy {', '.join(request.wanted_tables())} back to {self.service_name}",
            "hand-over": "Hand the copy over for reading",
            "cut-over": await self.cut_text(request) if "cut-over" in offered else "",
            "remove": "Remove the copy",
        }
        more = "".join(f" Or ({each}): {deeds[each]}." for each in offered[1:])
        text = (
            f"{deeds[offered[0]]}? It stands at {self.moment.text()} ({self.moment.reason}), proved.{more}"
            " Rejecting removes it."
        )
        decision = await self.ask(
            text, self.digest(), needs_override=False, machine_s=10.0, choices=offered if offered[1:] else []
        )
        self.must_be_approved(decision)
        return (decision.choice or offered[0]).replace("-", " ")

    async def cut_text(self, request: PitrRequest) -> str:
        """What a cut-over would do and undo, for whoever decides on it."""
        seen = await self.observe()
        leader = self.suspect = self.leader_of(seen)
        written = next((each.written for each in seen.members if each.member == leader), None)
        at = self.moment.time or self.moment.near or self.proved.last_commit
        since = f" in {(workflow.now() - at).total_seconds():.0f} s" if at is not None else ""
        lost = f"{max(written - self.proved.replayed, 0)} bytes of WAL" if written is not None else "what"
        return (
            f"Cut {self.service_name} over to it: clients wait while {request.candidate or 'a standby'} is put back to"
            f" the moment and takes over from {leader}; {lost} written since{since} is in the service no more, and only"
            f" {leader} keeps it, stopped"
        )

    def would_cut(self, request: PitrRequest) -> str:
        seconds = self.backup.bytes / self.backups.rate_bytes_s
        return (
            f"whoever leads is fenced, and keeps what was written since; {request.candidate or 'a standby'} is put"
            f" back to the moment ({self.backup.label} in place, {seconds:.0f} s at most, while clients wait), proved"
            " once more and promoted; routes follow; the other standbys are rebuilt, and a full backup is taken"
        )

    async def cut_over(self, request: PitrRequest) -> Report:
        """A run of its own, which holds the service's lock and epoch; the copy stays until it has ended."""
        order = CutOverRequest(
            service=self.service_name,
            reason=self.reason,
            candidate=request.candidate,
            backup=self.backup,
            moment=self.moment,
            repository=self.repository,
            copy_facts=self.proved,
            newest=self.newest_rows,
            rate_bytes_s=self.backups.rate_bytes_s,
            leader=self.suspect,
        )
        cutting = asyncio.ensure_future(self.child("CutOver", order, "cut-over"))
        await workflow.wait_condition(lambda: cutting.done() or self._abort is not None)
        while self._abort is not None and not cutting.done():
            # It undoes what it did, or says that it is too late for that. Before it has begun there is nobody to tell.
            with contextlib.suppress(FailureError):
                await workflow.get_external_workflow_handle(self.followed_by[-1]).signal("abort", self._abort)
                break
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(cutting.done, timeout=AGAIN)
        report = await cutting
        if report.new_primary is None:
            self.unprotected += report.unprotected
            self.followed_by += report.followed_by
            if report.tasks:
                self.tasks += report.tasks
            raise Ended(report.outcome, f"the service was not cut over: {report.summary}")
        self.take_over_from(report)
        return report

    def take_over_from(self, report: Report) -> None:
        """From here it only goes forward, and its report tells what the cut-over's does."""
        if self._abort is not None:
            self.note("it is too late for an abort: the service is cut over")
            self._abort = None
        self.past_no_return = True
        self.note("point of no return: the service is cut over")
        self.led, self.after_cut, self.lost = report.new_primary or "", report.summary, report.receipt
        self.cut, self.suspect, self.epoch = report.cut_over, report.old_primary or "", report.epoch
        self.outage_started, self.recovered = report.outage_started, report.recovered
        self.fence, self.route_writes, self.loss = report.fence, report.routes, report.loss
        self.unprotected, self.tasks = [*report.unprotected], [*self.tasks, *report.tasks]
        self.followed_by += report.followed_by

    def digest(self) -> str:
        """The copy, and whose writes a cut-over gives up."""
        return f"{self.order()['copy_name']}" + (f"/{self.suspect}" if self.suspect else "")

    async def copy_back(self, request: PitrRequest) -> dict[str, int]:
        order = TableOrder(**self.order(), tables=request.wanted_tables())
        self.tables = await self.on_host(restoring.look_at_tables, order, limit=3600)
        absent = sorted({*request.wanted_tables()} - {each.table for each in self.tables})
        if absent:
            raise Ended("refused", f"the copy has no {', '.join(absent)}: name tables that were there at the target")
        written = await self.on_host(copying_back.copy_back, await self.back_order(), limit=6 * 3600)
        self.note_evidence(copied=written)
        return written

    async def back_order(self) -> CopyBackOrder:
        """To whoever leads now, which may be another than when the run began."""
        seen = await self.observe()
        return CopyBackOrder(**self.order(), leader=self.leader_of(seen), tables=self.tables)

    async def take_back(self) -> None:
        if self.tables:
            await self.on_host(copying_back.take_back, await self.back_order())

    async def hand_over(self) -> str:
        """It stays until a person lets it go, or its time is over."""
        place = await self.on_host(copying_back.hand_over, HostOrder(**self.order()))
        self.note_evidence(where=place)
        text = (
            f"The copy can be read at {place}, as it was at {self.moment.text()}. Remove it? It goes by itself later."
        )
        decision = await self.ask(text, self.digest(), needs_override=False, machine_s=10.0, expires=READ)
        return f"readable at {place}, on its host's network, until it was let go: {decision.answer} by {decision.by}"
