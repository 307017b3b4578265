"""The plain layout on real servers: WAL by archive_command and base backups in a bucket, restored from as any other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from lab import lab as labs
from lab.backup import run_on
from lab.layout import HOME
from lab.model import Lab
from schemas.restore_requests import TakeRequest
from tests.faults.restore_scene import TABLE, RestoreScene, as_new

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def plain_lab() -> AsyncIterator[Lab]:
    lab = await labs.up("backup", extras=("plain",), make_current=False)
    yield lab
    await labs.down(lab)


@pytest_asyncio.fixture(loop_scope="session")
async def scene(plain_lab: Lab, request: pytest.FixtureRequest) -> RestoreScene:
    return await as_new(plain_lab, request)


async def test_a_dropped_table_comes_back_with_every_row_of_before(scene: RestoreScene) -> None:
    await scene.dropped_comes_back(f"DROP TABLE {TABLE}")


@pytest.mark.estate(rpo_s=15.0)
async def test_a_backup_is_taken_verified_and_the_oldest_goes(scene: RestoreScene) -> None:
    await scene.traffic()
    (first,) = await info(scene.lab)
    labels = [first]
    for _ in range(2):
        run = await scene.begin("BackupTake", TakeRequest(service=scene.lab.service, reason="a test"), "take")
        report = await scene.report(run, 120.0)
        assert report.outcome == "done", report
        assert report.backup is not None
        assert report.backup.backup is not None
        assert all(each.ok for each in report.backup.proofs)
        assert report.backup.backup.kind == "full"
        labels.append(report.backup.backup.label)
    # Two are kept, and the WAL from the older of them on.
    assert report.backup.removed == [first]
    assert await info(scene.lab) == labels[1:] == report.backup.left
    assert report.backup.oldest_wal > "000000010000000000000002"
    assert report.backup.classes["STANDARD"] > 0

    async def older_than_the_rpo() -> bool:
        acked = scene.acknowledged()[0].acked or 0.0
        return datetime.now(UTC).timestamp() - acked > 20.0

    await scene.until("rows are older than the RPO", older_than_the_rpo, 60.0)
    verified = await scene.ends(await scene.verify(), "done")
    assert verified.restore is not None
    assert verified.restore.backup is not None
    assert verified.restore.backup.label == labels[-1]
    assert verified.restore.failed() == []


async def info(lab: Lab) -> list[str]:
    """Labels, as the home member's node sees them."""
    import json

    (stanza,) = json.loads(await run_on(lab, HOME, "info", "--output=json"))
    return [each["label"] for each in stanza["backup"]]
