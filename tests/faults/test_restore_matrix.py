"""Restores killed at every step, before and after its effect: a worker, and Temporal. They end the same."""

from __future__ import annotations

import pytest

from lab.model import Lab
from tests.faults.cells import cells
from tests.faults.cut_scene import CutScene
from tests.faults.restore_scene import MARKS
from tests.faults.striking import striking_restore

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.lab]

LOOK = ("sweep_copies", "observe", "archive_what_is_written", "open_archive", "read_repository", "read_wal")
COPY = ("look_for_room", "restore_backup", "recover_copy", "look_at_copy")
CHECKS = ("look_at_newest", "ask_owner", "check_structure", "check_pages")
PITR = ("describe_estate", *LOOK, *COPY, *CHECKS, "look_at_tables", "copy_back", "remove_copy", "read_journey")
VERIFY = ("describe_estate", *LOOK, *COPY, *CHECKS, "remove_copy", "read_journey")
PITR_CAMPAIGN = {
    ("open_archive", "after", "kill"),
    ("restore_backup", "after", "kill"),
    ("recover_copy", "after", "kill"),
    ("copy_back", "before", "kill"),
    ("copy_back", "after", "kill"),
    ("copy_back", "after", "pid"),
    ("remove_copy", "before", "kill"),
}
VERIFY_CAMPAIGN = {("restore_backup", "after", "kill"), ("check_pages", "after", "kill")}
FENCE = ("claim_epoch", "hold_folder", "disconnect_standbys", "stall_primary", "stop_node", "write_record")
BACK = ("look_before_restore", "restore_in_place", "start_standby", "until_it_stands")
ROWS = ("look_at_newest_rows", "ask_leader")
LEAD = ("choose_and_lead", "promote_candidate", "confirm_names", "verify_routes", "prove_fence", "checkpoint")
CUT = (*FENCE, *BACK, *ROWS, *LEAD, "settle_in_place", "let_it_start", "examine_folder", "keep_divergence")
LIMIT_S = 180.0


@pytest.mark.parametrize(("activity", "when", "who"), cells(PITR, (), PITR_CAMPAIGN))
async def test_a_table_comes_back_once_killed_at(shared_backup_lab: Lab, activity: str, when: str, who: str) -> None:
    plan = {"activity": activity, "when": when, "strike": who}
    async with striking_restore(shared_backup_lab, workflow="PitrRestore", **plan) as (scene, done):
        # With a commit before the DROP's, whose lock would be there at the target.
        *_, mark, _ = [await scene.mark(n) for n in (1, 2, 3, 4)]
        await scene.sql("DROP TABLE marks", "SELECT 1")
        run = await scene.pitr({"time": mark.after.isoformat()}, then="copy-back", tables=[MARKS])
        report = await scene.ends(run, "done", "public.marks (3 rows)", limit=LIMIT_S)
        assert done.exists(), "nothing was killed, so nothing was tried"
        assert report.restore is not None
        assert report.restore.failed() == []
        assert tuple(await scene.sql("SELECT count(*), count(DISTINCT n) FROM marks")) == (3, 3)
        assert (await scene.sql("SELECT count(*) AS n FROM lifeboat.restored"))["n"] == 1


@pytest.mark.parametrize(("activity", "when", "who"), cells(VERIFY, (), VERIFY_CAMPAIGN))
async def test_a_backup_is_verified_killed_at(shared_backup_lab: Lab, activity: str, when: str, who: str) -> None:
    plan = {"activity": activity, "when": when, "strike": who}
    async with striking_restore(shared_backup_lab, workflow="BackupVerify", **plan) as (scene, done):
        # Nobody writes here, so that no row would be as new as it is wanted.
        await scene.backup_with(lambda backup: backup.update(newest=[]))
        report = await scene.ends(await scene.verify(), "done", limit=LIMIT_S)
        assert done.exists(), "nothing was killed, so nothing was tried"
        assert report.restore is not None
        assert report.restore.failed() == []


@pytest.mark.parametrize(("activity", "when", "who"), cells(CUT, ()))
async def test_a_service_is_cut_over_killed_at(shared_backup_lab: Lab, activity: str, when: str, who: str) -> None:
    plan = {"activity": activity, "when": when, "strike": who}
    async with striking_restore(shared_backup_lab, workflow="CutOver", **plan) as (scene, done):
        cut_scene = CutScene(scene)
        await cut_scene.damaged()
        report = await cut_scene.ends(await cut_scene.cut(), "done, unprotected")
        assert done.exists(), "nothing was killed, so nothing was tried"
        await cut_scene.led_by_the_candidate(report)
