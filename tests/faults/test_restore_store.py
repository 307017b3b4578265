"""Restores from a store that has bad luck: they go on once it is well, or say what is wrong with it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.faults.restore_scene import MARKS, RestoreScene, archived_marks, dropped_marks
from tests.faults.test_restore_defects import wrong_key
from tests.standins.bad_store import Kind

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]


@pytest.mark.parametrize("kind", ["500", "503", "slow", "cut", "changed", "403"])
async def test_the_store_answers_badly_for_a_while(restore_scene: RestoreScene, kind: Kind) -> None:
    """Its listings, the backup's objects and the WAL, a few times each; then it is well, and so is the restore."""
    scene = restore_scene
    target, file = await dropped_marks(scene)
    async with scene.through_bad_store() as store:
        lucks = [store.has(kind, part, 2) for part in ("backup.info", "/bundle/", file)]
        run = await scene.pitr(target, then="copy-back", tables=[MARKS])
        report = await scene.ends(run, "done", "public.marks (5 rows)")
        assert all(each.hits for each in lucks), lucks
    assert report.restore is not None
    assert report.restore.failed() == []


@pytest.mark.parametrize(
    ("kind", "said"), [("changed", "not what was backed up"), ("503", "bad luck"), ("403", "InvalidAccessKeyId")]
)
async def test_a_store_that_stays_bad_is_named(restore_scene: RestoreScene, kind: Kind, said: str) -> None:
    """A damaged object ends the run; what a person may mend is tried again, and told meanwhile."""
    scene = restore_scene
    # Nobody writes here, so that no row would be as new as it is wanted.
    await scene.backup_with(lambda backup: backup.update(newest=[]))
    await archived_marks(scene, 1, 2)
    async with scene.through_bad_store() as store:
        luck = store.has(kind, "/bundle/", since=scene.restore_has_begun)
        run = await scene.verify()
        if kind == "changed":
            await scene.ends(run, "needs a person", said)
            return
        told = await scene.until("it is told why", lambda: scene.failure_of(run, said), 60)
        assert said in told
        luck.over.set()
        await scene.ends(run, "done")


async def test_a_wrong_encryption_key_is_told_as_such(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    await wrong_key(scene)
    run = await scene.pitr({"time": datetime.now(UTC).isoformat()})
    await scene.state_when(run, "it is parked", lambda state: state.parked, 60)
    await scene.say(run, "abort")
    await scene.ends(run, "aborted", "can't be decrypted with this key")
