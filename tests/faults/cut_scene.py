"""A service that is cut over to a moment before it was damaged, under its clients' load."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from activities import data_folder
from lab import ledger
from lab.lab import fault
from lab.layout import HOME, STORAGE
from lab.owner import write_private
from lab.postgres import session
from lab.referee import audit
from schemas.orders import NodeOrder
from schemas.rejoin import FolderFacts
from schemas.reports import Report
from tests.faults.restore_scene import RestoreScene
from tests.faults.scene import Run
from tests.standins.bad_store import BadStore, bad_store

LIMIT_S = 200.0
CANDIDATE, THIRD = "pg-east-2", "pg-east-3"


class CutScene:
    """A service that is damaged by an UPDATE, while its clients write on."""

    def __init__(self, scene: RestoreScene) -> None:
        self.scene = scene
        self.at: datetime

    async def damaged(self) -> None:
        await self.scene.traffic()
        await self.until_written(200)
        await self.damage(HOME)

    async def damage(self, leader: str) -> None:
        scene = self.scene
        await self.until_written(50)
        self.at = (await scene.sql("SELECT clock_timestamp() AS at", member=leader))["at"]
        await self.until_written(50)
        await scene.sql("UPDATE counting_results SET count = -count - 1", "SELECT 1", member=leader)
        await self.until_written(50)

    async def until_written(self, more: int) -> None:
        before = len(self.scene.acknowledged()) if self.scene.lab.ledger.exists() else 0

        async def enough() -> bool:
            return len(self.scene.acknowledged()) >= before + more

        await self.scene.until(f"{more} more rows are acknowledged", enough, 60.0)

    async def cut(self, *, decided: bool = True, **more: Any) -> Run:
        """Begun and, unless a scenario does so itself, approved."""
        form = {"then": "cut-over", "candidate": CANDIDATE} | more
        run = await self.scene.pitr({"time": self.at.isoformat()}, **form)
        if decided:
            await self.scene.question(run, limit=LIMIT_S)
            await self.scene.approve(run)
        return run

    async def ends(self, run: Run, outcome: str, *said: str) -> Report:
        """With the journal of the cut-over, where it is not as it should be."""
        try:
            return await self.scene.ends(run, outcome, *said, limit=LIMIT_S)
        except (AssertionError, TimeoutError) as error:
            told = []
            with contextlib.suppress(RPCError):  # it may not have begun
                inner = self.scene.client.get_workflow_handle(f"{run.id}/cut-over", result_type=Report)
                told += (await self.scene.state(inner)).journal
                told += [str((await inner.describe()).raw_description.pending_activities)]
            raise AssertionError(f"{error}\n" + "\n".join(told)) from error

    async def ids(self, member: str) -> set[str]:
        row = await self.scene.sql("SELECT array_agg(id::text) AS ids FROM counting_results", member=member)
        return set(row["ids"])

    async def started(self, member: str) -> None:
        """By hand, whatever keeps it from starting; it takes sessions."""
        await fault(self.scene.lab, "start", member, force=True)

        async def up() -> bool:
            conn = await session(self.scene.lab, member, limit=2.0)
            if conn is not None:
                conn.terminate()
            return conn is not None

        await self.scene.until(f"{member} takes sessions", up)

    async def folder(self, member: str = HOME) -> FolderFacts:
        order = NodeOrder(service=self.scene.service(), member=member)
        found: FolderFacts = await ActivityEnvironment().run(data_folder.look_at_folder, order)
        return found

    async def gone(self) -> set[str]:
        """What was acknowledged, and is in the service no more: all of it was sent after the moment."""
        record = await self.scene.epoch()
        assert record is not None
        assert record.leader == CANDIDATE
        # In this order: its clients write on.
        written = self.scene.acknowledged()
        rows = await self.ids(CANDIDATE)
        before = {each.id for each in written if (each.acked or 0.0) < self.at.timestamp()}
        assert before - rows == set(), f"{len(before - rows)} of {len(before)} of before the moment are missing"
        lost = [each for each in written if each.id not in rows]
        assert lost, "nothing was written after the moment, so nothing was tried"
        assert all((each.acked or 0.0) >= self.at.timestamp() for each in lost)
        row = await self.scene.sql("SELECT count(*) AS n FROM counting_results WHERE count < 0", member=CANDIDATE)
        assert row["n"] == 0, "the damage is there"
        return {each.id for each in lost}

    async def led_by_the_candidate(self, report: Report) -> None:
        """One writes, all follow it on its own timeline, and who led is stopped, held, and told of."""
        assert report.new_primary == CANDIDATE
        assert report.old_primary == HOME
        lost = await self.gone()
        found = await audit(self.scene.lab)
        assert found.concurrent_writers == 0, found
        assert found.missing == len(lost), found
        record = await self.scene.epoch()
        assert record is not None
        assert record.w == 1, "the rebuilt standbys acknowledge again"
        others = [each.name for each in self.scene.service().members if each.name not in (CANDIDATE, HOME)]
        for name in others:
            await self.scene.is_back(name)
        folder = await self.folder()
        assert not folder.running
        assert "what was written after" in folder.held
        # The report counts what is gone; what no client learned the outcome of may be in it.
        assert report.loss is not None
        counted = next(each for each in report.loss.tables if each.table == "public.counting_results")
        unknown = sum(each.outcome != "acknowledged" for each in ledger.read(self.scene.lab.ledger))
        assert len(lost) <= counted.inserted <= len(lost) + unknown, (counted, len(lost), unknown)
        assert counted.updated > 0, counted
        assert any("--release WHY" in each for each in report.unprotected), report.unprotected


@contextlib.asynccontextmanager
async def through_bad_store(scene: RestoreScene, member: str) -> AsyncIterator[BadStore]:
    """What is restored on this member's node comes from a store that may have bad luck; what it archives does not."""
    node, folder = scene.lab.node(STORAGE), scene.lab.paths.node(member)
    async with bad_store(folder, node.host, node.port, scene.lab.paths.authority) as store:
        settings = {
            "repo1-storage-host": store.host,
            "repo1-storage-port": str(store.port),
            "repo1-storage-ca-file": str(store.authority),
        }
        lines = scene.lab.paths.pgbackrest(member).read_text(encoding="utf-8").splitlines()
        parts = [line.partition("=") for line in lines]
        changed = [f"{name}{sign}{settings.get(name, value)}" for name, sign, value in parts]
        path = folder / "test.conf"
        write_private(path, "\n".join(changed) + "\n", server=True)

        def declare(service: dict[str, Any]) -> None:
            found = next(each for each in service["members"] if each["name"] == member)
            found["data"]["backup_config"] = str(path)

        await scene.service_with(declare)
        yield store
