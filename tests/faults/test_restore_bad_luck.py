"""Bad luck of restores on real servers: whatever happens, the run goes on once it can, or says why it ends."""

from __future__ import annotations

import asyncio
import os
import shutil

import pytest

from activities import restore_host, restoring
from lab.command import run as run_command
from lab.lab import fault
from lab.layout import HOME, RESTORES, STORAGE
from schemas.failures import BackupsUnreadable, RestoreFailed
from schemas.restores import Moment
from tests.faults.restore_scene import MARKS, RestoreScene, archived_marks, by_hand, dropped_marks, lose

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]


async def test_a_wal_file_that_is_missing_in_mid_archive_is_named(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    (first, _), _, (_, gap), (late, _), _ = await archived_marks(scene, 1, 2, 3, 4, 5)
    lose(scene, gap)
    for target in ({"time": late.after.isoformat()}, {"xid": late.xid}):
        report = await scene.ends(await scene.pitr(target), "refused", gap)
        assert report.restore is None or report.restore.restore_s is None, "it was restored in vain"
    await scene.ends(await scene.pitr({"time": first.after.isoformat()}), "done")
    await scene.ends(await scene.pitr({"xid": first.xid}), "done")
    report = await scene.ends(await scene.verify(), "needs a person", gap)
    assert any(gap in task for task in report.tasks), report


async def test_a_newest_wal_file_that_is_missing_is_named(restore_scene: RestoreScene) -> None:
    """What the leader says it archived is compared with what there is."""
    scene = restore_scene
    _, (mark, last) = await archived_marks(scene, 1, 2)
    lose(scene, last)
    run = await scene.pitr({"xid": mark.xid})
    await scene.ends(run, "refused", last)
    report = await scene.ends(await scene.verify(), "needs a person", last)
    assert any(last in task for task in report.tasks), report


@pytest.mark.parametrize(
    ("moment", "died"),
    [("recovering", "worker-eu-west-1"), ("recovering", "temporal"), ("copying-back", "worker-eu-west-1")],
)
async def test_whoever_dies_meanwhile_the_run_ends_the_same(
    restore_scene: RestoreScene, moment: str, died: str
) -> None:
    """At that very moment: what is under way is held there until it has died."""
    scene = restore_scene
    target, file = await dropped_marks(scene)
    async with scene.through_bad_store() as store, scene.restored_is_locked(moment == "copying-back") as locked:
        held = store.has("held", file if moment == "recovering" else "nothing")
        run = await scene.pitr(target, then="copy-back", tables=[MARKS])
        await asyncio.wait_for(held.reached.wait() if moment == "recovering" else locked.reached(), 40)
        await fault(scene.lab, "kill", died)
        held.over.set()
        await locked.let_go()
        report = await scene.ends(run, "done", "public.marks (5 rows)")
    assert report.restore is not None
    assert report.restore.failed() == []
    assert tuple(await scene.sql("SELECT count(*), count(DISTINCT n) FROM marks")) == (5, 5)
    assert (await scene.sql("SELECT count(*) AS n FROM lifeboat.restored"))["n"] == 1


async def test_the_source_fails_over_in_mid_restore(restore_scene: RestoreScene) -> None:
    """The failover is not held up by the restore, and the table goes to the new leader."""
    scene = restore_scene
    await scene.traffic()
    target, file = await dropped_marks(scene)
    async with scene.through_bad_store() as store:
        held = store.has("held", file)
        run = await scene.pitr(target, then="copy-back", tables=[MARKS])
        await asyncio.wait_for(held.reached.wait(), 40)
        await fault(scene.lab, "kill", HOME)
        failover = await scene.report(await scene.run_of_watch(limit=60), 60)
        assert failover.outcome == "recovered, unprotected", failover
        assert failover.new_primary is not None
        assert not await scene.ended(run)
        held.over.set()
        report = await scene.ends(run, "done", "public.marks (5 rows)")
    assert report.restore is not None
    assert report.restore.failed() == []
    assert (await scene.sql("SELECT count(*) AS n FROM marks", member=failover.new_primary))["n"] == 5
    await scene.safe()


async def test_a_store_that_dies_and_comes_back_in_mid_archive_is_waited_for(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    target, file = await dropped_marks(scene)
    async with scene.through_bad_store() as store:
        held = store.has("held", file)
        run = await scene.pitr(target, then="copy-back", tables=[MARKS])
        await asyncio.wait_for(held.reached.wait(), 40)
        await fault(scene.lab, "kill", STORAGE)
        held.over.set()
        await scene.until("recovery could not have a file", scene.recovery_was_refused, 40)
        await fault(scene.lab, "start", STORAGE)
        report = await scene.ends(run, "done", "public.marks (5 rows)")
    assert report.restore is not None
    assert report.restore.failed() == []


ENDS = {
    "with-a-target": (BackupsUnreadable, "recovery ended before configured recovery target was reached"),
    "without": (RestoreFailed, "archive recovery complete"),
}
"""What recovery makes of the archive's end: it is FATAL before a target, and where there is none it promotes. The
product's own word for it, and PostgreSQL's.
"""


@pytest.mark.parametrize("target", ENDS)
async def test_control_what_recovery_makes_of_an_error_in_mid_archive(
    restore_scene: RestoreScene, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """The wrapper's exit is all that is different: with another one recovery takes the archive's middle for its end."""
    scene, written, settings = restore_scene, restore_host.script, restoring.settings_of
    if target == "without":
        monkeypatch.setattr(restoring, "settings_of", lambda moment: settings(moment).splitlines()[0])
    (_, file), *_, (last, _), _ = await archived_marks(scene, 1, 2, 3, 4, 5)
    moment = Moment(kind="time", timeline=1, time=last.after, reason="a test")
    async with scene.through_bad_store() as store:
        for passed_on in ("$code", "1"):
            text = written("restore.sh").replace("exit 255 ;; esac", f"exit {passed_on} ;; esac".replace("$", "\\$"))
            assert text != written("restore.sh")
            monkeypatch.setattr(restore_host, "script", lambda _, text=text: text)
            luck, (error, said) = store.has("500", file), ENDS[target]
            async with by_hand(scene) as hand:
                with pytest.raises(error):
                    await hand.recover(moment)
                assert said in hand.log(), "no control: it took the error for one"
            luck.over.set()
        monkeypatch.setattr(restore_host, "script", written)
        luck = store.has("500", file)
        async with by_hand(scene) as hand:
            with pytest.raises(BackupsUnreadable, match=f"{file}.*500"):
                await hand.recover(moment)
            assert not any(said in hand.log() for _, said in ENDS.values()), hand.log()
            luck.over.set()
            if target == "with-a-target":
                await hand.recover_in_time(moment)
                assert set(await hand.rows("SELECT n FROM marks")) == {"1", "2", "3", "4"}


async def test_two_restores_at_once_share_nothing(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    (first, _), (second, _), _ = await archived_marks(scene, 1, 2, 3)
    runs = [await scene.pitr({"time": each.after.isoformat()}, then="ask") for each in (first, second)]
    for run in runs:
        await scene.question(run, 90)
    copies = sorted((scene.lab.paths.node(RESTORES) / "copies").glob("*/owner"))
    assert len(copies) == 2
    for run, n in zip(runs, (1, 2), strict=True):
        (keep,) = [each.parent for each in copies if each.read_text().startswith(run.id)]
        assert await scene.count_in(keep, "marks") == n
    for run in runs:
        await scene.reject(run)
        assert (await scene.report(run)).outcome == "rejected"
    await scene.nothing_left()


async def test_of_two_that_copy_the_same_table_back_one_is_refused(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    target, _ = await dropped_marks(scene)
    async with scene.restored_is_locked() as locked:
        runs = [await scene.pitr(target, then="copy-back", tables=[MARKS]) for _ in range(2)]
        await locked.reached(2)
        await locked.let_go()
        states = [
            await scene.state_when(run, "it ends, or is parked", lambda each: each.outcome or each.parked, 60)
            for run in runs
        ]
    (parked,) = [run for run, state in zip(runs, states, strict=True) if state.parked]
    assert any("already exists" in line or "is there" in line for line in (await scene.state(parked)).journal)
    await scene.say(parked, "abort")
    outcomes = {(await scene.report(run)).outcome for run in runs}
    assert outcomes == {"done", "aborted"}
    assert tuple(await scene.sql("SELECT count(*), count(DISTINCT n) FROM marks")) == (5, 5)
    await scene.nothing_left()


async def test_where_it_does_not_fit_nothing_is_begun(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    (mark, _), _ = await archived_marks(scene, 1, 2)
    await scene.backup_with(lambda backup: backup["host"].update(keep_free_bytes=10**15))
    run = await scene.pitr({"time": mark.after.isoformat()})
    state = await scene.state_when(run, "it is parked", lambda state: state.parked, 60)
    assert "1000000000000000 must be left" in " ".join(state.journal)
    assert not scene.restore_has_begun()
    await scene.say(run, "abort")
    await scene.ends(run, "aborted", "must be left")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
@pytest.mark.parametrize("moment", ["restoring", "recovering"])
async def test_a_disk_that_fills_up_meanwhile(restore_scene: RestoreScene, moment: str) -> None:
    scene = restore_scene
    target, file = await dropped_marks(scene)
    small = scene.lab.paths.node(RESTORES) / "small"
    small.mkdir()
    here = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    options = f"size=90m,mode=0700,uid={small.parent.stat().st_uid}"
    await run_command(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(small)], cwd=small.parent, env=here)
    try:
        await scene.backup_with(lambda backup: backup["host"].update(directory=str(small), keep_free_bytes=0))
        async with scene.through_bad_store() as store:
            begun = store.has("held", "/bundle/", since=lambda: any(small.glob("*/begun")))
            held = begun if moment == "restoring" else store.has("held", file)
            if moment == "recovering":
                begun.over.set()
            run = await scene.pitr(target)
            await asyncio.wait_for(held.reached.wait(), 60)
            free = shutil.disk_usage(small).free
            (small / "ballast").write_bytes(b"\0" * max(free - 4_000_000, 0))
            held.over.set()
            state = await scene.state_when(run, "it is parked", lambda state: state.parked, 60)
            assert "has not the room" in state.journal[-1], state.journal
            await scene.say(run, "abort")
            assert (await scene.report(run)).outcome == "aborted"
        assert [each.name for each in small.iterdir()] == ["ballast"]
        await scene.nothing_left()
    finally:
        await run_command(["umount", "-l", str(small)], cwd=small.parent, env=here)
