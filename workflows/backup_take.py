"""A backup: taken from whoever leads, seen to be good, and only then what is kept no longer is removed.

docs/runbooks/backup_take.md has the same headings as the steps here.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import taking
    from schemas.backup import BackupKind, BackupPolicy
    from schemas.failures import BackupFailed, BackupOvertaken, BackupUnderWay, FullNeeded
    from schemas.reports import Outcome, Report
    from schemas.restore_requests import TakeRequest
    from schemas.restores import Backup
    from schemas.takes import BackupEvidence, ConfirmOrder, Expired, Inventory, NodeBackupOrder, Taken, TakeOrder
    from workflows.looking import Looking
    from workflows.policy import backups as policy
    from workflows.policy.restore import failed_text, time_limit
    from workflows.reasons import kind_of, reason_of
    from workflows.runbook import Ended

T = TypeVar("T")

LOOK = "See what there is"
MANIFEST = "Write down what there is"
TAKE = "Take the backup"
CONFIRM = "Confirm it, and count what it costs"
EXPIRE = "Remove what is kept no longer"
NOTIFY = "Notify"
END = "End the backup"

KEPT_ALL = "nothing is removed: the next backup does it"

ROUNDS = 4
"""Backups that are begun at most: a failover, or a passing failure, comes in between."""
LEADER_S = 600.0
"""How long it is waited for somebody to lead: a failover takes a few minutes at most."""
OTHER_S = 12 * 3600.0
"""How long another backup is waited for."""


@workflow.defn(name="BackupTake", failure_exception_types=[Exception])
class BackupTake(Looking):
    """Start with `{"service": "counting-db", "reason": "…"}`, and `"kind": "full"` for what is not due yet.

    It takes no lock and no epoch: the service goes on, and may fail over.
    """

    procedure = "BackupTake"
    titles = (LOOK, MANIFEST, TAKE, CONFIRM, EXPIRE, NOTIFY)
    expected_s = types.MappingProxyType({LOOK: 1.0, CONFIRM: 1.0, EXPIRE: 2.0})

    def __init__(self) -> None:
        super().__init__()
        self.taken = BackupEvidence()
        self.seen: Inventory
        self.due: BackupKind

    @workflow.run
    async def run(self, request: TakeRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))

    @property
    def backups(self) -> BackupPolicy:
        found = self.estate.service.backup
        if found is None:
            raise Ended("refused", f"{self.service_name} declares no `backup`; its owner must")
        return found

    def reached(self) -> Outcome:
        return "done, unprotected" if self.unprotected else "done"

    def summary(self) -> str:
        found, backup = self.taken, self.taken.backup
        if backup is None:
            return ""
        return (
            f"{backup.label} ({backup.kind}) was taken from {found.member} in {found.seconds or 0:.0f} s:"
            f" {_bytes(backup.kept_bytes)} kept of {_bytes(backup.bytes)}"
        )

    async def carry_out(self, request: TakeRequest) -> None:
        """What went wrong is a person's task; nobody waits for an answer here."""
        try:
            await self.take(request)
        except Ended as end:
            if end.outcome == "undone":
                self.tasks.append(end.summary)
            raise

    async def take(self, request: TakeRequest) -> None:
        self.seen = await self.step(LOOK, lambda: self.look(request), parks=False, told=self.seen_text)
        if request.dry_run:
            await self.plan_rest(self.would(request))
            return
        await self.step(MANIFEST, self.count, parks=False, told=lambda text: text)
        taken = await self.step(
            TAKE, lambda: self.take_from_whoever_leads(request), undo=(END, self.end), parks=False, told=self.taken_text
        )
        await self.step(CONFIRM, lambda: self.see_it_good(taken), parks=False, told=lambda text: text)
        self.point_of_no_return()
        await self.step(EXPIRE, lambda: self.expire(request), parks=False, told=lambda text: text)
        await self.step_or_skip(NOTIFY, self.notify, told=lambda names: f"told: {names}")

    def would(self, request: TakeRequest) -> dict[str, str]:
        """What each step of a real run would do."""
        expected = self.seen.bytes / self.backups.rate_bytes_s
        return {
            MANIFEST: f"about how many rows each table of {self.seen.member} has, into lifeboat.manifest",
            TAKE: f"{self.due}, from {self.seen.member}, since {self.taken.reason}; in about {expected:.0f} s at most",
            CONFIRM: "as the repository lists it, and its WAL in the archive",
            EXPIRE: policy.retention_text(self.backups) if request.expire else KEPT_ALL,
            NOTIFY: f"told: {', '.join(target.name for target in self.estate.service.notify) or 'nobody'}",
        }

    # What the steps do, in their order

    def order(self) -> dict[str, Any]:
        info = workflow.info()
        return {
            "service": self.estate.service,
            "zone": self.estate.zone,
            "member": self.suspect,
            "run": f"{info.workflow_id}@{info.run_id}",
        }

    async def look(self, request: TakeRequest) -> Inventory:
        """Who leads, what the repository holds, and which kind is due."""
        _ = self.backups
        await self.find_leader()
        seen = await self.do(
            taking.look_at_inventory, NodeBackupOrder(**self.order()), limit=60, total=180, heartbeat=10
        )
        keeper = self.backups.repository.called
        if seen.why:
            raise Ended("refused", f"{seen.member}: {keeper} says {seen.why}; the backups' owner must see to it")
        kind, reason = policy.choose_kind(request.kind, seen, self.backups, workflow.now())
        if kind is None:
            raise Ended("refused", reason)
        previous = seen.of_system()[-1:]
        self.due, self.seen = kind, seen
        self.note_evidence(member=seen.member, reason=reason, previous=previous[0].label if previous else "")
        return seen

    async def find_leader(self) -> None:
        """Whoever leads by the record; without one, the only member that is no standby."""
        end = workflow.now() + timedelta(seconds=LEADER_S)
        while True:
            seen = await self.observe()
            leading = [each.member for each in seen.members if each.reachable and not each.in_recovery]
            found = seen.led_by or (leading[0] if seen.record is None and len(leading) == 1 else None)
            if found is not None:
                break
            if workflow.now() > end:
                raise Ended(
                    "refused", f"nobody leads {self.service_name} whom a backup could be taken from; fail over first"
                )
            await workflow.sleep(timedelta(seconds=2), summary="until somebody leads")
        self.suspect = found
        member = self.estate.service.member(found)
        if member.control is None or member.data is None:
            raise Ended("refused", f"{found} leads, and has no `control` and `data`: its owner must declare them")

    def seen_text(self, seen: Inventory) -> str:
        newest = seen.backups[-1].label if seen.backups else "none"
        return f"{len(seen.backups)} backups, the newest {newest}; {self.due} is due: {self.taken.reason}"

    async def count(self) -> str:
        """Before the backup, so that this one has it already. It is taken without as well."""
        found = await self.write_manifest(self.suspect)
        return f"{len(found.rows)} tables" if found is not None else "no manifest of the tables: the journal tells why"

    async def take_from_whoever_leads(self, request: TakeRequest) -> Taken:
        """A failover ends a backup, and the next one is begun from the new leader; another's backup is waited for."""
        began = workflow.now()
        for left in reversed(range(ROUNDS)):
            try:
                order = TakeOrder(**self.order(), kind=self.due)
                limit = time_limit(self.seen.bytes, self.backups.rate_bytes_s)
                taken = await self.at_length(taking.take_backup, order, limit=limit)
            except ActivityError as error:
                kind, leader = kind_of(error), self.suspect
                self.note(f"begun in vain: {reason_of(error)}")
                if kind == FullNeeded.__name__ and request.kind is None and left:
                    self.due = "full"
                    self.note_evidence(reason="what a killed full one left lets pgBackRest take no other")
                    continue
                if kind not in (BackupUnderWay.__name__, BackupOvertaken.__name__, BackupFailed.__name__) or not left:
                    raise
                before = self.seen.backups
                if kind == BackupUnderWay.__name__:
                    await self.wait_for_other()
                await self.look(request)
                if kind == BackupUnderWay.__name__:
                    self.must_be_needed(before)
                if kind == BackupFailed.__name__ and leader == self.suspect:
                    # Once more: what is lasting fails again, within seconds.
                    if left < ROUNDS - 1:
                        raise
                    await workflow.sleep(timedelta(seconds=5), summary="before the next attempt")
                continue
            self.note_evidence(seconds=(workflow.now() - began).total_seconds())
            return taken
        raise AssertionError("unreachable")

    async def wait_for_other(self) -> None:
        try:
            waited = await self.at_length(taking.until_no_other, NodeBackupOrder(**self.order()), limit=OTHER_S)
        except ActivityError as error:
            if kind_of(error) != BackupOvertaken.__name__:
                raise
            waited = reason_of(error)
        self.note(f"another backup was waited for: {waited}")

    def must_be_needed(self, before: list[Backup]) -> None:
        if (other := policy.taken_meanwhile(self.due, before, self.seen.backups)) is not None:
            raise Ended("not needed", f"{other.label} was taken meanwhile, and does as well")

    async def at_length(self, act: Callable[[Any], Awaitable[T]], order: NodeBackupOrder, *, limit: float) -> T:
        """An abort is obeyed meanwhile."""
        return await self.unless_aborted(self.do(act, order, limit=limit, total=limit + 60, heartbeat=10))

    async def end(self) -> str:
        return await self.do(taking.stop_backup, NodeBackupOrder(**self.order()), limit=60, total=300, heartbeat=10)

    def taken_text(self, taken: Taken) -> str:
        return f"{taken.label} from {self.suspect}, in {self.taken.seconds or 0:.1f} s"

    async def see_it_good(self, taken: Taken) -> str:
        previous = next((each for each in self.seen.of_system() if each.label == self.taken.previous), None)
        order = ConfirmOrder(
            **self.order(), label=taken.label, previous=previous, segment_bytes=self.seen.segment_bytes
        )
        found = await self.do(taking.confirm_backup, order, limit=120, total=300, heartbeat=10)
        proofs = policy.prove(taken.label, self.due, found)
        wal = found.wal.files * self.seen.segment_bytes
        self.note_evidence(
            backup=found.backup,
            proofs=proofs,
            wal_files=found.wal.files,
            wal_bytes=wal,
            wal_kept_bytes=found.wal.kept_bytes,
        )
        if told := failed_text(proofs):
            self.tasks.append(f"{taken.label} is not good: {told}")
            raise Ended("refused", f"{taken.label} is not good: {told}")
        assert found.backup is not None
        since = f"since {self.taken.previous}" if self.taken.previous else "of its own"
        return (
            f"cluster {_bytes(found.backup.bytes)}, copied {_bytes(found.backup.delta_bytes)}, kept"
            f" {_bytes(found.backup.kept_bytes)}; WAL {since}: {found.wal.files} files, {_bytes(wal)}, kept"
            f" {_bytes(found.wal.kept_bytes)}"
        )

    async def expire(self, request: TakeRequest) -> str:
        """A removal that doesn't work costs room, and no backup."""
        if not request.expire:
            return KEPT_ALL
        assert self.taken.backup is not None
        try:
            order = NodeBackupOrder(**self.order())
            found: Expired = await self.do(taking.expire_backups, order, limit=3600, total=3600, heartbeat=10)
        except ActivityError as error:
            self.note(f"nothing was removed: {reason_of(error)}")
            self.unprotected.append(f"what is kept no longer was not removed: {reason_of(error)}")
            return "nothing was removed"
        gone = policy.removed(self.seen.backups, self.taken.backup.label, found)
        self.note_evidence(removed=gone, left=found.left, oldest_wal=found.oldest_wal, classes=found.classes)
        for each in found.warnings:
            self.note(f"{self.backups.repository.called} warns: {each}")
        told = f"removed: {', '.join(gone)}" if gone else "nothing is to go"
        if found.oldest_wal != self.seen.oldest_wal and self.seen.oldest_wal:
            told += f"; WAL before {found.oldest_wal}"
        told += "".join(f"; {name}: {_bytes(kept)}" for name, kept in found.classes.items())
        return f"{told}; {len(found.left)} backups are kept" + "".join(f"; {each}" for each in found.warnings)

    def note_evidence(self, **more: Any) -> None:
        self.taken = self.taken.model_copy(update=more)


def _bytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.2f} MB"
