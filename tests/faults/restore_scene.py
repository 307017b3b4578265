"""A database with backups under test: its repository, its copies, and what a copy holds of the ledger."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from temporalio.testing import ActivityEnvironment

from activities import backups, restoring
from activities.restore_host import ask
from activities.topology import load_topology
from lab import ledger
from lab.layout import HOME, RESTORES, STORAGE
from lab.ledger import Entry
from lab.processes import trees
from schemas.reports import Report
from schemas.restore_requests import PitrRequest, VerifyRequest
from schemas.restores import (
    Archived,
    ArchiveOrder,
    Backup,
    CopyFacts,
    Found,
    HostOrder,
    LookOrder,
    Moment,
    RecoverOrder,
    Repository,
    RestoreOrder,
    ScanOrder,
)
from schemas.topology import DatabaseService
from tests.faults.scene import Run, Scene
from tests.lab import looks
from workflows.policy import restore as policy

TABLE = "public.counting_results"


class RestoreScene(Scene):
    """The words in which restores are told."""

    def service(self) -> DatabaseService:
        return load_topology(self.lab.topology).database(self.lab.service)

    # Runs

    async def pitr(self, target: Mapping[str, Any], *, then: str = "remove", **more: Any) -> Run:
        form = {"service": self.lab.service, "reason": "a test", "target": dict(target), "then": then, **more}
        return await self.begin("PitrRestore", PitrRequest.model_validate(form), "pitr")

    async def verify(self, **more: Any) -> Run:
        form = {"service": self.lab.service, "reason": "a test", **more}
        return await self.begin("BackupVerify", VerifyRequest.model_validate(form), "verify")

    async def ends(self, run: Run, outcome: str, *said: str, limit: float = 120.0) -> Report:
        """The run's report, with this outcome and all of these words; no copy is left of it."""
        report = await self.report(run, limit)
        told = f"{report.summary} {' '.join(report.tasks)}"
        assert report.outcome == outcome, report
        assert all(each in told for each in said), told
        await self.nothing_left()
        return report

    async def nothing_left(self) -> None:
        """The restore host has no copy, and nothing runs there."""
        copies = self.lab.paths.node(RESTORES) / "copies"
        assert [each.name for each in copies.glob("*/owner")] == []

        async def quiet() -> bool:
            return not await asyncio.to_thread(trees, self.lab.paths, [RESTORES])

        await self.until("nothing runs on the restore host", quiet, 15.0)

    # Servers and storage

    async def sql(self, *statements: str, member: str = HOME) -> Any:
        """The first row of the last statement, as superuser."""
        return await looks.ask(self.lab, member, *statements)

    async def archived(self, member: str = HOME) -> Archived:
        """All that the member has written is in the archive."""
        order = ArchiveOrder(service=self.service(), leader=member)
        found: Archived = await ActivityEnvironment().run(backups.archive_what_is_written, order)
        return found

    def stored(self, name: str) -> list[Path]:
        """The files of the store that are called so, of what is in the bucket now."""
        return sorted((self.lab.paths.node(STORAGE) / "stored" / "data").rglob(f"{name}*"))

    def acknowledged(self) -> list[Entry]:
        """Every write that a client was told is kept, in the order of its sending."""
        found = [each for each in ledger.read(self.lab.ledger) if each.outcome == "acknowledged"]
        return sorted(found, key=lambda each: each.sent or 0.0)


class ByHand:
    """A copy that is worked on by the activities themselves, each of them twice."""

    def __init__(self, scene: RestoreScene) -> None:
        self.scene = scene
        self.given: dict[str, Any] = {
            "service": scene.service(),
            "run": f"hand-{uuid.uuid4().hex[:6]}@1",
            "copy_name": uuid.uuid4().hex[:12],
        }
        self.rounds = 0
        self.repository: Repository
        self.backup: Backup

    @property
    def order(self) -> HostOrder:
        return HostOrder(**self.given)

    async def look(self) -> Repository:
        leader = await self.scene.archived()
        order = LookOrder(**self.given, timeline=leader.timeline, segment_bytes=leader.segment_bytes)
        await self.twice(backups.open_archive, self.order)
        self.repository = await self.twice(backups.read_repository, order)
        return self.repository

    async def restore(self, backup: Backup | None = None) -> None:
        self.backup, self.rounds = backup or self.repository.backups[-1], self.rounds + 1
        order = RestoreOrder(**self.given, backup=self.backup, round=self.rounds)
        await self.twice(restoring.restore_backup, order)

    async def scan(self, what: str) -> Found:
        stretches, missing = policy.legs(self.repository, self.backup, since=self.backup.lsn_stop)
        assert missing == ""
        size = self.repository.segment_bytes
        found: Found = await self.twice(
            backups.read_wal, ScanOrder(**self.given, stretches=stretches, what=what, segment_bytes=size)
        )
        return found

    async def recover(self, moment: Moment) -> CopyFacts:
        order = RecoverOrder(**self.given, backup=self.backup, moment=moment, limit_s=120.0)
        found: CopyFacts = await self.twice(restoring.recover_copy, order)
        return found

    async def ids(self) -> set[str]:
        """Every row's id in the copy."""
        return set((await ask(self.order, "query", "counting", "SELECT id FROM counting_results")).get("row", []))

    async def remove(self) -> None:
        await self.twice(restoring.remove_copy, self.order)

    async def twice(self, activity: Any, order: Any) -> Any:
        """Run it twice: the second finds it done, and says the same."""
        await ActivityEnvironment().run(activity, order)
        return await ActivityEnvironment().run(activity, order)
