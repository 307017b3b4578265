"""Targets and what was replayed before them: locks, the backup's own end, and timelines that were left."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator

import pytest

from activities import restore_host, restoring
from lab.backup import command, run_on
from lab.lab import fault
from lab.layout import HOME, RESTORES
from schemas.restores import Moment
from tests.faults.restore_scene import MARKS, ByHand, RestoreScene, archived_marks, by_hand
from tests.faults.worker import processes_of
from workflows.policy import restore as policy

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]


@pytest.mark.estate(watch=False, detection={"heartbeat": False})
async def test_a_moment_at_which_a_table_was_locked_is_refused(restore_scene: RestoreScene) -> None:
    """The next commit after it is that of a DROP, so that recovery stops with the table locked."""
    scene = restore_scene
    (mark, _), *_ = await archived_marks(scene, 1)
    await scene.sql("DROP TABLE marks", "SELECT 1")
    await scene.archived()
    run = await scene.pitr({"time": mark.after.isoformat()}, then="copy-back", tables=[MARKS])
    await scene.ends(run, "refused", "public.marks can't be read: name a target before the lock")


@pytest.mark.estate(watch=False, detection={"heartbeat": False})
async def test_control_plain_recovery_to_before_the_backups_end_is_too_late_in_silence(
    restore_scene: RestoreScene,
) -> None:
    scene, hand = restore_scene, ByHand(restore_scene)
    wanted = await scene.mark(1)
    await scene.mark(2)
    await run_on(scene.lab, HOME, "backup", "--type=incr")
    await archived_marks(scene, 3, 4)
    await hand.look()
    first, second = hand.repository.backups
    moment = Moment(kind="time", timeline=1, time=wanted.after, reason="a test")
    await hand.restore(second)
    try:
        copy = await hand.recover(moment)
        assert "2" in await hand.rows("SELECT n FROM marks"), "no control: it is not too late"
    finally:
        await hand.remove()
    proofs = policy.prove(copy, second, moment, hand.repository, system="", heartbeat=False)
    assert "the backup had ended before the target" in {each.clause for each in proofs if each.ok is False}
    report = await scene.ends(await scene.pitr({"time": wanted.after.isoformat()}), "done")
    assert report.restore is not None
    assert report.restore.backup is not None
    assert report.restore.backup.label == first.label


async def test_control_the_newest_timeline_is_a_wrong_branch(
    restore_scene: RestoreScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody promoted a copy, and it archives: `latest` follows it, and the product names the leader's timeline."""
    scene, settings = restore_scene, restoring.settings_of
    await scene.mark(1)
    early = await scene.mark(2)
    await archived_marks(scene, 3)
    async with promoted(scene, Moment(kind="time", timeline=1, time=early.after, reason="a test")) as branch:
        await branch.rows("INSERT INTO marks VALUES (99)")
        (wanted, _), *_ = await archived_marks(scene, 4, 5)
        await branch.rows("INSERT INTO marks VALUES (98)")
    moment = Moment(kind="time", timeline=1, time=wanted.after, reason="a test")
    async with by_hand(scene) as hand:
        assert hand.repository.timeline == 1
        await hand.recover(moment)
        assert set(await hand.rows("SELECT n FROM marks")) == {"1", "2", "3", "4"}
    with monkeypatch.context() as changed:
        changed.setattr(restoring, "settings_of", lambda each: settings(each).replace("= '1'", "= 'latest'"))
        async with by_hand(scene) as hand:
            copy = await hand.recover(moment)
            assert set(await hand.rows("SELECT n FROM marks")) == {"1", "2", "99"}, "no control: it is the right branch"
    proofs = policy.prove(copy, hand.backup, moment, hand.repository, system="", heartbeat=False)
    assert {each.clause for each in proofs if each.ok is False} == {"it is on the intended timeline"}
    report = await scene.ends(await scene.pitr({"time": wanted.after.isoformat()}), "done")
    assert report.restore is not None
    assert report.restore.moment is not None
    assert report.restore.moment.timeline == 1


@contextlib.asynccontextmanager
async def promoted(scene: RestoreScene, moment: Moment) -> AsyncIterator[ByHand]:
    """A copy that stood at the moment is promoted by hand, and takes writes; they are in the archive afterwards."""
    hand = ByHand(scene)
    await hand.look()
    await hand.restore()
    await hand.recover(moment)
    keep = restore_host.folder_of(hand.order)
    push = " ".join(command(scene.lab, RESTORES, f"--pg1-path={keep}/data", "--no-archive-async", "archive-push", "%p"))
    options = f"-c config_file={keep}/postgresql.conf -c archive_mode=on -c recovery_target_action=promote"
    options += f" -c archive_command='{push}'"
    words = ["-D", f"{keep}/data", "-w", "-l", f"{keep}/by-hand.log", "-o", options, "restart"]
    try:
        code, said = await restore_host.run_there(hand.order, [f"{hand.order.host.bin}/pg_ctl", *words], 60.0)
        assert code == 0, said

        async def out_of_recovery() -> bool:
            return await hand.rows("SELECT pg_is_in_recovery()") == ["f"]

        await scene.until("the copy is promoted", out_of_recovery)
        yield hand
        (file,) = await hand.rows("SELECT pg_walfile_name(pg_switch_wal() - 1)")

        async def stored() -> bool:
            return bool(scene.stored(file))

        await scene.until("the wrong branch is archived", stored)
    finally:
        await hand.remove()


async def test_a_transaction_of_an_abandoned_timeline(restore_scene: RestoreScene) -> None:
    """It was acknowledged by nobody else, and archived; the failover went on without it."""
    scene = restore_scene
    await archived_marks(scene, 1, 2)
    for pid in processes_of(str(scene.lab.folder), HOME, "walsender"):
        os.kill(pid, signal.SIGSTOP)
    # Numbers that the next timeline does not come to within the test.
    await scene.sql(
        "SET synchronous_commit = local",
        "DO $$ BEGIN FOR n IN 1..500 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$",
        "SELECT 1",
    )
    row = await scene.sql(
        "SET synchronous_commit = local", "INSERT INTO marks VALUES (3) RETURNING txid_current() AS xid"
    )
    await scene.archived()
    await fault(scene.lab, "kill", HOME)
    report = await scene.report(await scene.run_of_watch(limit=60), 60)
    leader = report.new_primary
    assert leader is not None

    async def beats() -> bool:
        sql = f"SELECT max(at) > '{report.ended}' AS so FROM lifeboat.heartbeat"
        return bool((await scene.sql(sql, member=leader))["so"])

    await scene.until("the heartbeat goes on", beats)
    late = await scene.mark(4, leader)
    await scene.mark(5, leader)
    await scene.archived(leader)
    await scene.ends(await scene.pitr({"xid": row["xid"]}), "refused", "timeline 2", "timeline 1")
    run = await scene.pitr({"xid": row["xid"], "timeline": 1}, then="ask")
    await scene.question(run, 60)
    (keep,) = (scene.lab.paths.node(RESTORES) / "copies").glob("*/owner")
    assert await scene.count_in(keep.parent, "marks WHERE n = 3") == 1
    await scene.reject(run)
    report = await scene.report(run)
    assert report.restore is not None
    assert report.restore.failed() == []
    report = await scene.ends(await scene.pitr({"time": late.after.isoformat()}), "done")
    assert report.restore is not None
    assert report.restore.moment is not None
    assert report.restore.moment.timeline == 2
