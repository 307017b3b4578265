"""Recovery from corruption, on real servers: pages that go bad, rows that are wrong, and a person who decides."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab import lab as labs
from lab.damage import flip, make_cold
from lab.layout import HOME, RESTORES
from lab.owner import give
from schemas.reports import Report
from schemas.requests import Answer
from schemas.restore_requests import CorruptionRequest
from tests.faults.restore_scene import TABLE, RestoreScene
from tests.faults.scene import Run

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]

ARCHIVE = "public.archived"
ROWS = "INSERT INTO archived SELECT n, 'camera-' || n % 20 FROM generate_series(1, 5000) n"
WHOLE = "SELECT count(*) || md5(string_agg(id || camera, ',' ORDER BY id)) AS sum FROM archived"


async def recover(scene: RestoreScene, **more: Any) -> Run:
    form = {"service": scene.lab.service, "reason": "a test", **more}
    return await scene.begin("CorruptionRecovery", CorruptionRequest.model_validate(form), "corruption")


async def answer(scene: RestoreScene, run: Run, said: str, verb: str = "approve") -> None:
    """Answer by signal the question that says this."""
    state = await scene.state_when(run, f"it asks: {said}", lambda s: s.question and said in s.question.text, 120.0)
    assert state.question is not None
    await run.signal(verb, Answer(by="ana", digest=state.question.digest, reason="seen"))


async def archive(scene: RestoreScene) -> str:
    """A table that nobody writes to, and what it holds."""
    await scene.sql("CREATE TABLE archived (id int PRIMARY KEY, camera text)", ROWS, "SELECT 1 AS n")
    return str((await scene.sql(WHOLE))["sum"])


async def ended(scene: RestoreScene, run: Run, outcome: str) -> Report:
    return await scene.ends(run, outcome, limit=240.0)


async def test_a_heap_and_an_index_of_the_primary(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    before = await archive(scene)
    await scene.traffic()
    await make_cold(scene.lab, HOME, ARCHIVE)
    for relation in (ARCHIVE, f"{ARCHIVE}_pkey"):
        await flip(scene.lab, HOME, relation, block=3)
    run = await recover(scene)
    await answer(scene, run, "read-only")
    await answer(scene, run, "Switch counting-db over to")
    report = await ended(scene, run, "done")
    assert report.damage is not None
    (east,) = [each for each in report.damage.members if each.damaged]
    assert east.member == HOME
    assert sorted(each.kind for each in east.damaged) == ["heap", "index"]
    assert "Post-mortem" in report.damage.post_mortem
    leader = (await scene.safe()).leader
    assert leader != HOME
    assert (await scene.sql(WHOLE, member=leader))["sum"] == before
    assert (await scene.sql(WHOLE))["sum"] == before, "copied anew, it is whole as well"
    await scene.record(run, "corruption-switched")


async def test_a_standby_alone_is_copied_anew(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    before = await archive(scene)
    await scene.traffic()
    await make_cold(scene.lab, HOME, ARCHIVE)
    lsn = (await scene.sql("SELECT pg_current_wal_lsn()::text AS lsn"))["lsn"]

    async def replayed() -> bool:
        row = await scene.sql(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn AS there", member="pg-east-3")
        return bool(row["there"])

    await scene.until("pg-east-3 has replayed it", replayed)
    # While it is down, so that nothing of it is in memory.
    await labs.fault(scene.lab, "stop", "pg-east-3")
    await flip(scene.lab, "pg-east-3", ARCHIVE, block=3, asked=HOME)
    await labs.fault(scene.lab, "start", "pg-east-3")
    run = await recover(scene)
    await answer(scene, run, "read-only", "reject")
    await answer(scene, run, "Copy pg-east-3 anew")
    report = await ended(scene, run, "done")
    assert report.damage is not None
    assert [each.member for each in report.damage.members if each.damaged] == ["pg-east-3"]
    assert (await scene.sql(WHOLE, member="pg-east-3"))["sum"] == before
    assert (await scene.safe()).leader == HOME


async def test_rows_that_are_wrong_come_back_as_they_were(restore_scene: RestoreScene) -> None:
    """On a file system that shares no blocks (ext4 here), each bad half is restored anew."""
    scene = restore_scene
    run = await rows_come_back(scene)
    assert "roll_back" not in await done(run)
    assert (await done(run)).count("restore_backup") > 1
    await scene.record(run, "corruption-copied-back")


async def test_a_bad_half_goes_back_by_its_files_where_their_blocks_can_be_shared(
    restore_scene: RestoreScene, tmp_path: Path
) -> None:
    scene = restore_scene
    async with xfs(scene, tmp_path):
        run = await rows_come_back(scene)
    activities = await done(run)
    assert activities.count("restore_backup") == 1
    assert activities.count("roll_back") >= 1
    assert activities.count("keep_good") >= 2


@contextlib.asynccontextmanager
async def xfs(scene: RestoreScene, folder: Path) -> AsyncIterator[None]:
    """The restore host's copies on a file system of that kind, made for the test."""
    if os.geteuid() != 0 or shutil.which("mkfs.xfs") is None:
        pytest.skip("only root mounts, and xfsprogs makes what is mounted")
    image, at = folder / "xfs", scene.lab.paths.node(RESTORES) / "copies"
    with image.open("wb") as file:
        file.truncate(2 << 30)
    assert await exit_code("mkfs.xfs", "-q", str(image)) == 0
    at.mkdir(exist_ok=True)
    if await exit_code("mount", "-o", "loop", str(image), str(at)) != 0:
        pytest.skip("nothing can be mounted here")
    try:
        give(at)
        yield
    finally:
        assert await exit_code("umount", str(at)) == 0


async def exit_code(*argv: str) -> int:
    return await (await asyncio.create_subprocess_exec(*argv)).wait()


async def done(run: Run) -> list[str]:
    """The activities that the run has asked for, in their order."""
    return [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in (await run.fetch_history()).events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]


async def rows_come_back(scene: RestoreScene) -> Run:
    await scene.traffic()
    await asyncio.wait_for(enough(scene, 150), 60)
    await scene.sql("UPDATE counting_results SET count = -1 WHERE random() < 0.2", "SELECT 1")
    spoilt = datetime.now(UTC)
    run = await recover(scene, tables=[TABLE])
    await answer(scene, run, "read-only")
    await answer(scene, run, "copy them back")
    report = await ended(scene, run, "done")
    assert report.damage is not None
    assert report.damage.last_good is not None
    assert abs((spoilt - report.damage.last_good).total_seconds()) < 5.0, report.damage
    kept = {each.id for each in scene.acknowledged() if (each.acked or 0.0) < report.damage.last_good.timestamp()}
    (aside,) = [
        row["nspname"] for row in [await scene.sql("SELECT nspname FROM pg_namespace WHERE nspname ~ '^damaged_'")]
    ]
    row = await scene.sql("SELECT min(count) AS lowest, array_agg(id::text) AS ids FROM counting_results")
    assert row["lowest"] >= 0
    assert kept - set(row["ids"]) == set(), "rows of before the damage are missing"
    left = await scene.sql(f"SELECT count(*) AS n FROM {aside}.counting_results WHERE count < 0")
    assert left["n"] > 0, "what was wrong is kept aside"
    return run


async def enough(scene: RestoreScene, count: int) -> None:
    while len(scene.acknowledged()) < count:
        await asyncio.sleep(0.1)


async def test_a_repair_that_is_rejected_lets_clients_write_again(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    await archive(scene)
    await scene.traffic()
    await make_cold(scene.lab, HOME, ARCHIVE)
    await flip(scene.lab, HOME, ARCHIVE, block=3)
    run = await recover(scene)
    await answer(scene, run, "read-only")
    await answer(scene, run, "Switch", "reject")
    await ended(scene, run, "rejected")
    await scene.safe()
    await scene.record(run, "corruption-rejected")
