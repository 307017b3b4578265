"""Point-in-time restore: a copy beside the service, as it was at a moment, proved, and then put to use.

docs/runbooks/pitr_restore.md has the same headings as the steps here.
"""

from __future__ import annotations

import types
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import copying_back, restoring
    from schemas.failures import NoBackupFits
    from schemas.reports import Outcome, Report
    from schemas.restore_requests import PitrRequest, Target
    from schemas.restores import Backup, CopyBackOrder, HostOrder, Moment, TableOrder, TableState
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
NOTIFY = "Notify"

READ = timedelta(days=1)
"""How long a copy may be read."""


@workflow.defn(name="PitrRestore", failure_exception_types=[Exception])
class PitrRestore(Restoring):
    """Start with `{"service": "counting-db", "reason": "…", "target": {"time": "2026-11-25T10:00:00Z"}}`."""

    procedure = "PitrRestore"
    titles = (
        *(FIND, ROOM, RESTORE, LOCATE, RECOVER, PROVE, VALIDATE),
        *(DECIDE, COPY_BACK, HAND_OVER, NOTIFY, REMOVE),
    )
    expected_s = types.MappingProxyType({ROOM: 1.0, PROVE: 1.0, COPY_BACK: 10.0})

    def __init__(self) -> None:
        super().__init__()
        self.target: Target
        self.tables: list[TableState] = []
        self.use = ""

    @workflow.run
    async def run(self, request: PitrRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))

    def reached(self) -> Outcome:
        return "done"

    def summary(self) -> str:
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
            "remove": "the copy is removed once it is proved",
        }[request.then]
        return {
            ROOM: f"{self.backup.bytes / 1e6:.0f} MB on {self.backups.host.name}",
            RESTORE: f"{self.backup.label}, in about {expected:.0f} s",
            RECOVER: f"to {request.target.text()}",
            PROVE: "every clause of a good restore",
            VALIDATE: "checksums, amcheck, the owner's queries, the newest rows",
            DECIDE: use,
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
        """What was said at the start, or a person."""
        wanted = {"copy-back": "copy back", "hand-over": "hand over", "remove": "remove"}.get(request.then)
        if wanted is not None and request.approval == "policy":
            return wanted
        use = wanted or ("copy back" if request.wanted_tables() else "hand over")
        deed = {
            "copy back": f"Copy {', '.join(request.wanted_tables())} back to {self.service_name}",
            "hand over": "Hand the copy over for reading",
            "remove": "Remove the copy",
        }[use]
        text = f"{deed}? It stands at {self.moment.text()} ({self.moment.reason}), proved. Rejecting removes it."
        decision = await self.ask(text, self.digest(), needs_override=False, machine_s=10.0)
        self.must_be_approved(decision)
        return use

    def digest(self) -> str:
        return f"{self.order()['copy_name']}"

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
