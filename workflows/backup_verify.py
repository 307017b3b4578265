"""Backup verification: the newest backup is restored into a bubble, recovered, checked, measured, and thrown away.

Only a backup that has been restored is one. docs/runbooks/backup_verify.md has the same headings as the steps here.
"""

from __future__ import annotations

import types
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import manifest
    from schemas.failures import NoBackupFits
    from schemas.manifest import Counted, CountOrder, Manifest
    from schemas.reports import Outcome, Report
    from schemas.restore_requests import VerifyRequest
    from schemas.restores import Backup, Moment, Proof
    from workflows.policy import restore as policy
    from workflows.restoring import REMOVE, Restoring
    from workflows.runbook import Ended

FIND = "Find the backup"
ROOM = "Make room on the restore host"
RESTORE = "Restore it into a bubble"
RECOVER = "Recover to the RPO"
PROVE = "Prove the copy"
VALIDATE = "Validate the data"
MEASURE = "Measure it against RTO and RPO"
NOTIFY = "Notify"


@workflow.defn(name="BackupVerify", failure_exception_types=[Exception])
class BackupVerify(Restoring):
    """Start with `{"service": "counting-db", "reason": "…"}`; ends with a Report, whose `restore` is the evidence."""

    procedure = "BackupVerify"
    titles = (FIND, ROOM, RESTORE, RECOVER, PROVE, VALIDATE, MEASURE, NOTIFY, REMOVE)
    expected_s = types.MappingProxyType({ROOM: 1.0, PROVE: 1.0})

    def __init__(self) -> None:
        super().__init__()
        self.manifest: Manifest | None = None

    @workflow.run
    async def run(self, request: VerifyRequest) -> Report:
        return await self.shielded(self.from_start_to_report(request))

    def reached(self) -> Outcome:
        return "done, unprotected" if self.unprotected else "done"

    def summary(self) -> str:
        found = self.evidence
        if found.backup is None or not found.proofs:
            return ""
        return f"{found.backup.label} restores: {len(found.proofs) + len(found.checks)} proofs and checks, none failed"

    async def carry_out(self, request: VerifyRequest) -> None:
        """What is wrong with a backup is a person's task, whichever step finds it; nobody waits for an answer here."""
        try:
            await self.verify(request)
        except Ended as end:
            if end.outcome in ("undone", "refused"):
                self.tasks.append(end.summary)
            raise

    async def verify(self, request: VerifyRequest) -> None:
        self.backup = await self.step(
            FIND, lambda: self.find(request), undo=(REMOVE, self.remove), parks=False, told=lambda backup: backup.label
        )
        self.note_evidence(backup=self.backup, moment=self.moment)
        if request.dry_run:
            await self.remove()
            await self.plan_rest(self.would())
            return
        await self.step(ROOM, self.make_room, parks=False, told=lambda free: f"{free / 1e9:.1f} GB are free")
        await self.step(RESTORE, lambda: self.restore(self.backup), parks=False, told=lambda text: text)
        await self.step(
            RECOVER,
            self.recover_to_moment,
            parks=False,
            told=lambda copy: f"stands at {policy.lsn_text(copy.replayed)}",
        )
        await self.step(PROVE, self.prove, parks=False, told=lambda text: text)
        await self.step(VALIDATE, self.validate_all, parks=False, told=lambda text: text)
        await self.step(MEASURE, self.measure, parks=False, told=lambda text: text)
        self.point_of_no_return()
        await self.step_or_skip(NOTIFY, self.notify, told=lambda names: f"told: {names}")
        await self.step_or_skip(REMOVE, self.remove, told=lambda text: text)

    def would(self) -> dict[str, str]:
        """What each step of a real run would do."""
        service, host = self.estate.service, self.backups.host
        return {
            ROOM: f"{self.backup.bytes / 1e6:.0f} MB on {host.name}",
            RESTORE: f"{self.backup.label}, in about {self.backup.bytes / self.backups.rate_bytes_s:.0f} s",
            RECOVER: f"to {service.rpo_s:g} s before now, as far as that is archived",
            PROVE: "every clause of a good restore",
            VALIDATE: "rows against the manifest, checksums, amcheck, the owner's queries, the newest rows",
            MEASURE: f"RTO {service.rto_s:g} s, RPO {service.rpo_s:g} s",
            NOTIFY: f"told: {', '.join(target.name for target in service.notify) or 'nobody'}",
            REMOVE: f"nothing is left on {host.name}",
        }

    # What the steps do, in their order

    async def write_first(self, leader: str) -> None:
        """With it there is a commit after the newest backup, however young that is and however idle the service."""
        self.manifest = await self.write_manifest(leader)

    async def find(self, request: VerifyRequest) -> Backup:
        """The newest backup, or the one that was asked for, and the newest moment that must be restorable."""
        # Before the archive is asked for its end, which is older by what that takes.
        wanted = workflow.now() - timedelta(seconds=self.estate.service.rpo_s)
        try:
            self.repository = await self.read_repository(None)
        except ActivityError as error:
            self.must_be_reached(error, NoBackupFits)
        backup = self.newest(request.backup)
        age = (workflow.now() - self.repository.backups[-1].stopped).total_seconds()
        if age > self.backups.max_age_s:
            self.find_fault(
                f"the newest backup is {age / 3600:.1f} h old, and `max_age_s` is {self.backups.max_age_s:g}"
            )
        found, missing = await self.newest_after(backup)
        if missing:
            raise Ended("refused", f"WAL file {missing} is missing from the archive: nothing after it can be restored")
        if found.newest_commit is None:
            raise Ended("refused", f"the archive holds no commit after {backup.label}")
        # A backup that is younger than the RPO can only be recovered to after its own end.
        reachable = found.newest_commit if wanted <= backup.stopped else wanted
        if found.newest_commit < wanted:
            late = (wanted - found.newest_commit).total_seconds()
            self.find_fault(
                f"the archive ends {late:.0f} s before the RPO, at {found.newest_commit.isoformat(sep=' ')}"
            )
        timeline = self.repository.timeline
        if reachable >= found.newest_commit:
            self.moment = policy.newest_moment(found, timeline, "the newest that is archived")
        else:
            reason = f"{self.estate.service.rpo_s:g} s before now"
            self.moment = Moment(kind="time", timeline=timeline, time=reachable, reason=reason)
        return backup

    def newest(self, label: str | None) -> Backup:
        if label is None:
            backup, reason = policy.choose_backup(self.repository)
            if backup is None:
                raise Ended("refused", reason)
            if bad := policy.broken_text(self.repository, backup):
                self.find_fault(f"{bad}; {backup.label} is verified in its place")
            return backup
        found = [each for each in self.repository.backups if each.label == label]
        if not found:
            there = ", ".join(each.label for each in self.repository.backups)
            raise Ended("refused", f"there is no backup {label}; there is: {there}")
        if not policy.on_the_way(self.repository, found[0]):
            raise Ended(
                "refused", f"{label} is of a branch that timeline {self.repository.timeline} does not come from"
            )
        return found[0]

    def find_fault(self, text: str) -> None:
        """What is no good, and doesn't keep the rest from being looked at."""
        self.note(text)
        self.unprotected.append(text)

    async def validate_all(self) -> str:
        """Tables that are short stop nothing: rows that came and went between two manifests look the same. Where a page
        is bad, its table can't be counted either, and the page is what is told.
        """
        proof, short = await self.count()
        told = await self.validate(proof)
        for each in short:
            self.find_fault(f"{each}; its owner should look")
        return told

    async def count(self) -> tuple[Proof, list[str]]:
        clause = "tables have the rows that the manifests have"
        if self.manifest is None:
            return Proof(clause=clause, ok=None, evidence="nobody leads, or the leader could write none"), []
        order = CountOrder(**self.order(), now=self.manifest)
        found: Counted = await self.on_host(manifest.count_rows, order, limit=2 * manifest.COUNT_S)
        since = found.since.isoformat(sep=" ", timespec="seconds") if found.since else ""
        told = (
            found.why or f"{len(found.counted)} of many rows counted, against the manifest of {since} and that of now"
        )
        left = [
            ("not counted in time", found.uncounted),
            ("short", found.short),
            ("UNLOGGED, so in no backup", self.manifest.unlogged),
        ]
        told += "".join(f"; {what}: {', '.join(names)}" for what, names in left if names)
        unsure = found.why or found.short or found.uncounted or not found.counted
        return Proof(clause=clause, ok=None if unsure else True, evidence=told), found.short

    async def measure(self) -> str:
        """Whether a real restore would keep the service's RTO, and how much it would lose."""
        found, service = self.evidence, self.estate.service
        took = (found.restore_s or 0.0) + (found.recovery_s or 0.0)
        if took > service.rto_s:
            self.find_fault(f"the restore took {took:.0f} s, and the RTO is {service.rto_s:g} s")
        if found.rpo_s is not None and found.rpo_s > service.rpo_s:
            self.find_fault(
                f"the newest row is {found.rpo_s:.0f} s older than the target; the RPO is {service.rpo_s:g} s"
            )
        for each in self.newest_rows:
            if each.at is None:
                self.find_fault(f"{each.table}: {each.error}" if each.error else f"{each.table} has no row")
        newest = "no row tells what is lost" if found.newest_row is None else f"newest row {found.rpo_s:.1f} s before"
        return f"restored in {took:.1f} s of {service.rto_s:g} s; {newest}"
