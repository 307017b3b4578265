"""A planned move that meets bad luck: either it is done without loss, or the old primary serves as if nothing had been."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from activities import pooler
from activities.topology import load_topology
from lab import lab as labs
from lab.lab import fault
from lab.model import Lab
from schemas.reports import Report
from tests.faults.scene import Scene
from tests.faults.striking import striking_scene

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def moved(scene: Scene, report: Report, *, to: str | None = None) -> None:
    """The candidate leads, the old primary follows it, nothing is lost."""
    record = await scene.epoch()
    assert record is not None
    assert report.outcome == "done", report
    assert report.new_primary == record.leader != "pg-east-1", report
    assert to in (None, record.leader), report
    assert record.candidate is None, record
    await scene.is_back("pg-east-1")
    await scene.safe()


async def stayed(scene: Scene, report: Report) -> None:
    """Nobody was promoted: the old primary serves, and the others follow it again."""
    assert report.outcome == "undone", report
    assert report.new_primary is None, report
    await scene.safe()
    record = await scene.epoch()
    assert record is not None
    assert (record.leader, record.candidate) == ("pg-east-1", None), record
    for name in ("pg-east-2", "pg-east-3", "pg-east-4", "pg-west-1"):
        await scene.is_back(name)


async def test_the_candidate_is_cut_off_before_the_primary_is_shut_down(shared_lab: Lab) -> None:
    """It lacks the last of the WAL: the comparison refuses it, and the old primary is started again."""
    plan = {"activity": "stop_cleanly", "when": "before", "strike": "cut-off", "member": "pg-east-2"}
    async with striking_scene(shared_lab, workflow="DatabaseSwitchover", **plan) as (scene, done):
        await scene.traffic()
        run = await scene.switch("pg-east-2")
        report = await scene.report(run)
        assert done.exists()
        assert "nobody was promoted: pg-east-2 has received up to" in report.summary, report
        await stayed(scene, report)
        await scene.record(run, "switchover-undone")


@asynccontextmanager
async def open_transaction(scene: Scene) -> AsyncIterator[asyncpg.Connection]:
    """One of a client of the transaction pool, that holds its server until it ends."""
    conn = await asyncpg.connect(scene.lab.routes["pgbouncer-transaction"], statement_cache_size=0, timeout=5)
    try:
        await conn.execute("BEGIN")
        await conn.fetchval("SELECT count(*) FROM counting_results")
        yield conn
    finally:
        conn.terminate()


@pytest.mark.estate(switchover={"pause_s": 1.0})
async def test_a_long_transaction_keeps_the_pooler_from_pausing(scene: Scene) -> None:
    """Called off in time: every client goes on, and the long transaction as well."""
    await scene.traffic()
    async with open_transaction(scene) as conn:
        report = await scene.report(await scene.switch("pg-east-2"))
        assert "not paused within 1 s" in report.summary, report
        assert await conn.fetchval("SELECT count(*) FROM counting_results") > 0
        await conn.execute("COMMIT")
    await stayed(scene, report)
    for route in load_topology(scene.lab.topology).service(scene.lab.service).gates():
        async with pooler.console(route) as console:
            rows = (await pooler.databases(console, route)).values()
        assert not any(int(row["paused"]) or int(row["disabled"]) for row in rows), rows
    found = await scene.safe()
    assert found.routes["pgbouncer-transaction"].longest_gap_s < 10, found
    # Nothing is left of it that would keep the next one from its end.
    await moved(scene, await scene.report(await scene.switch("pg-east-2")), to="pg-east-2")
