"""What every restore shares: what there is to restore from, a copy beside the service, its proof, and its removal."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import backups, copy_checks, copying_back, restoring
    from schemas.backup import BackupPolicy
    from schemas.failures import NoBackupFits, TargetNotReached, UnknownService, WalMissing
    from schemas.restores import (
        Archived,
        ArchiveOrder,
        Backup,
        CopyFacts,
        Found,
        HostOrder,
        LookOrder,
        Moment,
        Newest,
        Proof,
        RecoverOrder,
        Repository,
        RestoreEvidence,
        RestoreOrder,
        RoomOrder,
        ScanOrder,
        SnapshotOrder,
        Stretch,
    )
    from workflows.looking import Looking
    from workflows.policy import restore as policy
    from workflows.reasons import kind_of, reason_of
    from workflows.runbook import Ended

T = TypeVar("T")

REMOVE = "Remove the copy"
NEWEST_FILES = (2, 64)
"""WAL files at the archive's end that are read for the newest commit: these, and where nothing committed, more."""


class Restoring(Looking):
    """A runbook that restores a copy. It takes no lock and no epoch: the service goes on, and may fail over."""

    def __init__(self) -> None:
        super().__init__()
        self.evidence = RestoreEvidence()
        self.repository: Repository
        self.backup: Backup
        self.moment: Moment
        self.rounds = 0
        self.not_kept = ""
        """Why the copy's files can't be kept and put back."""
        self.system = ""
        """The leader's own identifier; "" while nobody leads."""
        self.newest_rows: list[Newest] = []
        self.proved: CopyFacts
        """The copy as it stood when it was proved."""

    @property
    def backups(self) -> BackupPolicy:
        found = self.estate.service.backup
        if found is None:
            told = f"{self.service_name} declares no `backup`, so nothing can be restored; its owner must"
            raise ApplicationError(str(UnknownService(told)), type=UnknownService.__name__, non_retryable=True)
        return found

    def lost_text(self) -> str:
        return ""

    # The host

    def order(self) -> dict[str, Any]:
        info = workflow.info()
        return {
            "service": self.estate.service,
            "run": f"{info.workflow_id}@{info.run_id}",
            # Short: a Unix socket lies below it.
            "copy_name": hashlib.sha256(f"{info.workflow_id}@{info.run_id}".encode()).hexdigest()[:12],
        }

    async def on_host(
        self, act: Callable[[Any], Awaitable[T]], order: HostOrder, *, limit: float = 120.0, total: float | None = None
    ) -> T:
        """By a worker of the host's region. A look may take long behind a slow store; a job is found again.

        An abort is obeyed meanwhile: what is under way is on the copy alone, and ends with it.
        """
        region = self.backups.host.region
        doing = self.do(act, order, region=region, limit=limit, total=total or 2 * limit + 60, heartbeat=10.0)
        if self.past_no_return or self.undoing:
            return await doing
        return await self.unless_aborted(doing)

    def note_evidence(self, **more: Any) -> None:
        self.evidence = self.evidence.model_copy(update=more)

    # What there is

    async def read_repository(self, timeline: int | None) -> Repository:
        """The repository as it is once the leader, if there is one, has archived all that it wrote."""
        archived: Archived | None
        archived, *_ = await self.together(self.archive(), self.open_archive(), self.sweep())
        more = {"segment_bytes": archived.segment_bytes} if archived is not None else {}
        looked = LookOrder(**self.order(), timeline=timeline or (archived.timeline if archived else None), **more)
        found = await self.on_host(backups.read_repository, looked, limit=400, total=400)
        return found.model_copy(update={"archived": archived.file}) if archived is not None else found

    async def archive(self) -> Archived | None:
        """None while nobody leads, or its archiver does not do it; the run goes on with what is archived."""
        seen = await self.observe()
        if seen.led_by is None and workflow.patched("every-region-looks-who-leads"):
            # A worker that was out of breath for a second sees nobody; what was written last is in the archive or lost.
            seen = await self.observe_everywhere()
        self.suspect = self.leader_of(seen)
        if seen.led_by is None:
            self.note("nobody leads who could archive what was written last")
            return None
        await self.write_first(seen.led_by)
        ordered = ArchiveOrder(service=self.estate.service, leader=seen.led_by)
        try:
            archived = await self.do(backups.archive_what_is_written, ordered, limit=45, total=60, heartbeat=6.0)
        except ActivityError as error:
            self.note(f"what is not archived yet can't be restored: {reason_of(error)}")
            return None
        self.system = archived.system
        return archived

    async def write_first(self, leader: str) -> None:
        """What is to be in the archive as well."""

    async def open_archive(self) -> None:
        if told := await self.on_host(backups.open_archive, HostOrder(**self.order()), limit=400, total=400):
            self.note(told)

    async def sweep(self) -> None:
        """What runs that were terminated left on the host is removed: they could not do so themselves."""
        for each in await self.on_host(copying_back.sweep_copies, HostOrder(**self.order()), total=150):
            self.note(f"left over from a run that has ended, and removed: {each}")

    async def scan(self, what: str, stretches: list[Stretch], lsn: int = 0) -> Found:
        order = ScanOrder(
            **self.order(),
            stretches=stretches,
            lsn=lsn,
            what=what,
            segment_bytes=self.repository.segment_bytes,
        )
        return await self.on_host(backups.read_wal, order, limit=6 * 3600)

    async def newest_after(self, backup: Backup) -> tuple[Found, str]:
        """The newest commit that can be replayed after this backup, and the first WAL file that is missing."""
        stretches, missing = policy.legs(self.repository, backup)
        if not stretches:
            return Found(places=[]), missing
        size = self.repository.segment_bytes
        found = Found(places=[])
        for files in NEWEST_FILES:
            found = await self.scan("commits", [policy.end_of(stretches[-1], files, size)])
            if found.newest_commit is not None:
                break
        return policy.after_backup(found, backup), missing

    # The copy

    async def make_room(self) -> int:
        return await self.on_host(restoring.look_for_room, RoomOrder(**self.order(), bytes=self.backup.bytes))

    async def restore(self, backup: Backup) -> str:
        self.backup = backup
        self.rounds += 1
        limit = policy.time_limit(backup.bytes, self.backups.rate_bytes_s, backup.storage)
        if backup.storage in policy.THAW_S:
            self.note(f"{backup.label} is in {backup.storage}: it is thawed first, which takes hours")
        began = workflow.now()
        await self.on_host(
            restoring.restore_backup, RestoreOrder(**self.order(), backup=backup, round=self.rounds), limit=limit
        )
        took = (workflow.now() - began).total_seconds()
        self.note_evidence(backup=backup, restore_s=took, bytes=backup.bytes, where=self.place())
        return f"{backup.label}: {backup.bytes / 1e6:.0f} MB in {took:.1f} s"

    async def keep_good(self, moment: Moment) -> None:
        """The copy's files at a moment that is good, where the file system can share their blocks."""
        order = SnapshotOrder(**self.order(), round=self.rounds, moment=moment.text())
        self.not_kept = await self.on_host(restoring.keep_good, order, limit=3600)

    async def put_back(self) -> None:
        """To the files that were kept last; the backup is restored anew where none are."""
        if not self.not_kept:
            order = RestoreOrder(**self.order(), backup=self.backup, round=self.rounds + 1)
            self.not_kept = await self.on_host(restoring.roll_back, order, limit=3600)
        if self.not_kept:
            self.note(f"restored anew: {self.not_kept}")
            await self.restore(self.backup)
        else:
            self.rounds += 1
            self.note("put back to the last good moment, by its files")

    async def recover(self, moment: Moment) -> CopyFacts:
        limit = policy.time_limit(self.backup.bytes, self.backups.rate_bytes_s)
        began = workflow.now()
        last = policy.last_file(self.repository, self.backup, moment)
        order = RecoverOrder(**self.order(), backup=self.backup, moment=moment, last=last)
        facts = await self.on_host(restoring.recover_copy, order, limit=limit)
        self.note_evidence(
            moment=moment,
            recovery_s=(self.evidence.recovery_s or 0.0) + (workflow.now() - began).total_seconds(),
            reached_lsn=facts.replayed,
            last_commit=facts.last_commit,
        )
        return facts

    async def recover_to_moment(self) -> CopyFacts:
        try:
            return await self.recover(self.moment)
        except ActivityError as error:
            self.must_be_reached(error, TargetNotReached, NoBackupFits, WalMissing)
            raise

    async def prove(self) -> str:
        """Clause by clause; a restore that is not what it seems is called so."""
        facts = await self.on_host(restoring.look_at_copy, HostOrder(**self.order()))
        heartbeat = self.estate.service.detection.heartbeat
        self.proved = facts
        proofs = policy.prove(facts, self.backup, self.moment, self.repository, system=self.system, heartbeat=heartbeat)
        self.note_evidence(proofs=proofs)
        return self.judged(proofs, "the copy is not what it seems")

    async def validate(self, *more: Proof) -> str:
        """Pages, structure, the owner's queries, the newest rows. All that fails is told, with `more`."""
        order = HostOrder(**self.order())
        limit = policy.time_limit(self.backup.bytes, self.backups.rate_bytes_s)
        newest = await self.on_host(copy_checks.look_at_newest, order)
        checks = [
            *more,
            *await self.on_host(copy_checks.ask_owner, order, limit=limit),
            *await self.on_host(copy_checks.check_structure, order, limit=limit),
            *await self.on_host(copy_checks.check_pages, order, limit=limit),
        ]
        at = self.moment.time or self.moment.near or self.evidence.last_commit
        self.newest_rows = newest
        rows = [each.at for each in newest if each.at is not None]
        self.note_evidence(
            checks=checks, newest_row=max(rows, default=None), rpo_s=policy.rpo_of(max(rows, default=None), at)
        )
        return self.judged(checks, "the data is not good")

    def judged(self, found: list[Proof], what: str) -> str:
        """The run ends here where anything failed."""
        if told := policy.failed_text(found):
            raise Ended("refused", f"{what}: {told}")
        return policy.hold_text(found)

    def place(self) -> str:
        host, name = self.backups.host, self.order()["copy_name"]
        return f"{host.name}:{host.directory.rstrip('/')}/{name}"

    async def remove(self) -> str:
        told = await self.on_host(restoring.remove_copy, HostOrder(**self.order()))
        self.note_evidence(where="")
        return told

    def must_be_reached(self, error: ActivityError, *kinds: type) -> None:
        """A target that can't be reached ends the run in words; anything else is the step's own failure."""
        if kind_of(error) in {each.__name__ for each in kinds}:
            raise Ended("refused", reason_of(error)) from error
        raise error
