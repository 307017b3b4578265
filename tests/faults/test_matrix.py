"""Killed at every step, before and after its effect: a worker, and Temporal. It finishes, each effect once."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from lab.lab import fault
from lab.model import Lab
from tests.faults.cells import cells
from tests.faults.scene import Scene
from tests.faults.striking import striking_scene

pytestmark = pytest.mark.asyncio(loop_scope="session")

ACTIVITIES = (
    "describe_estate",
    "hold_pooler",
    "disconnect_standbys",
    "choose_and_lead",
    "promote_candidate",
    "point_pooler",
    "confirm_names",
    "verify_routes",
    "stop_node",
    "prove_fence",
    "follow_leader",
    "write_record",
    "lead_pgpool",
    "look_at_reads",
    "lead_read_names",
    "checkpoint",
    "read_journey",
)
SAMPLE = {
    ("disconnect_standbys", "after", "kill"),
    ("choose_and_lead", "after", "pid"),
    ("promote_candidate", "before", "kill"),
    ("promote_candidate", "after", "kill"),
    ("promote_candidate", "after", "pid"),
    ("point_pooler", "before", "pid"),
}
CAMPAIGN = {("describe_estate", "after", "kill"), ("choose_and_lead", "before", "kill")}


async def leaders(scene: Scene) -> list[str]:
    from lab.lab import status

    return [node.name for node in (await status(scene.lab)).nodes if node.role == "primary"]


@pytest.mark.parametrize(("activity", "when", "who"), cells(ACTIVITIES, SAMPLE, CAMPAIGN))
async def test_killed_at(shared_lab: Lab, activity: str, when: str, who: str) -> None:
    async with striking_scene(shared_lab, activity=activity, when=when, strike=who) as (scene, done):
        await scene.traffic()
        await fault(scene.lab, "kill", "pg-east-1")
        run = await scene.run_of_watch(limit=60)
        report = await scene.report(run, 120)
        assert done.exists(), "nothing was killed, so nothing was tried"
        assert report.outcome == "recovered, unprotected", report
        record = await scene.epoch()
        assert record is not None
        assert report.epoch == 1  # of all who were killed, none has made a second run, or a second epoch
        assert (record.leader, record.candidate) == (report.new_primary, None), record
        assert await leaders(scene) == [report.new_primary]
        await scene.safe()


@pytest.mark.campaign
async def test_worker_frozen_inside_promote_and_thawed_after_another_failover(shared_lab: Lab) -> None:
    plan = {"inside": "activities.promotion:_caught_up", "strike": "freeze"}
    async with striking_scene(shared_lab, **plan) as (scene, done):
        await scene.traffic()
        await fault(scene.lab, "kill", "pg-east-1")
        first = await scene.report(await scene.run_of_watch(limit=60), 120)
        assert first.new_primary is not None
        frozen = int(done.read_text(encoding="utf-8"))
        await fault(scene.lab, "kill", first.new_primary)
        run = await scene.run_of_watch(2, limit=90)
        second = await scene.report(run, 120)
        assert second.new_primary not in (None, first.new_primary)
        # Its candidate comes back as it was left; what the frozen worker had in mind must not happen to it.
        os.kill(frozen, signal.SIGCONT)
        await asyncio.sleep(2)
        assert await leaders(scene) == [second.new_primary]
        record = await scene.epoch()
        assert record is not None
        assert record.leader == second.new_primary
        await scene.safe()
