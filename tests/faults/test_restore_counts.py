"""A heap whose files were cut off has no bad page and no index that disagrees: the number of its rows tells."""

from __future__ import annotations

import uuid

import pytest
from temporalio.testing import ActivityEnvironment

from activities import manifest
from lab.backup import run_on
from lab.layout import HOME
from schemas.attributes import TASK_QUEUE
from schemas.failures import ManifestMissing
from schemas.manifest import ManifestOrder
from schemas.reports import Report
from tests.faults.restore_scene import RestoreScene

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]

CLAUSE = "tables have the rows that the manifests have"


async def backup_taken(scene: RestoreScene) -> Report:
    request = {"service": scene.lab.service, "reason": "a test"}
    run = f"take-{uuid.uuid4().hex[:6]}"
    report: Report = await scene.client.execute_workflow(
        "BackupTake", request, id=run, task_queue=TASK_QUEUE, result_type=Report
    )
    return report


@pytest.mark.parametrize("vacuumed", [False, True], ids=["as it was", "vacuumed since"])
async def test_a_heap_that_was_cut_off_is_short(restore_scene: RestoreScene, vacuumed: bool) -> None:
    """After VACUUM the leader itself takes it for empty."""
    scene = restore_scene
    await scene.sql(
        "CREATE TABLE pages WITH (autovacuum_enabled = off) AS SELECT n, md5(n::text) FROM generate_series(1, 5000) n",
        "CREATE UNLOGGED TABLE visits AS SELECT n FROM generate_series(1, 5000) n",
        "CREATE INDEX pages_n ON pages (n)",
        "INSERT INTO counting_results (id, counted_at) VALUES (gen_random_uuid(), now())",
        "ANALYZE pages",
        "CHECKPOINT",
        "SELECT 1",
    )
    taken = await backup_taken(scene)
    assert taken.outcome == "done", taken
    report = await scene.ends(await scene.verify(), "done")
    assert report.restore is not None
    (proof,) = [each for each in report.restore.checks if each.clause == CLAUSE]
    assert proof.ok, proof
    assert "1 of many rows counted" in proof.evidence
    assert "UNLOGGED, so in no backup: public.visits" in proof.evidence

    row = await scene.sql("SELECT pg_relation_filepath('pages') AS path")
    (scene.lab.paths.data(HOME) / row["path"]).open("r+b").truncate()
    if vacuumed:
        await scene.sql("VACUUM (INDEX_CLEANUP off) pages", "SELECT 1")
    await run_on(scene.lab, HOME, "backup", "--type=full")
    report = await scene.ends(await scene.verify(), "done, unprotected")
    (told,) = report.unprotected
    why = "should have about 5000" if vacuumed else "had about 5000 before and after"
    assert told.startswith(f"public.pages has 0 rows, and {why}"), told
    # Nothing else that is checked tells.
    assert report.restore is not None
    assert report.restore.failed() == []


async def test_a_manifest_is_written_once_a_run(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    await scene.sql("CREATE TABLE odd AS SELECT n FROM generate_series(1, 2000) n", "ANALYZE odd", "SELECT 1")
    order = ManifestOrder(service=scene.service(), leader=HOME, run="a@1")
    first = await ActivityEnvironment().run(manifest.write_manifest, order)
    assert first.rows["public.odd"] == 2000
    await scene.sql("INSERT INTO odd SELECT n FROM generate_series(1, 2000) n", "ANALYZE odd", "SELECT 1")
    assert await ActivityEnvironment().run(manifest.write_manifest, order) == first
    assert (await scene.sql("SELECT count(*) AS n FROM lifeboat.manifest"))["n"] == 1
    await scene.sql("DROP TABLE lifeboat.manifest", "SELECT 1")
    with pytest.raises(ManifestMissing, match=r"lifeboat\.sql"):
        await ActivityEnvironment().run(manifest.write_manifest, order)
