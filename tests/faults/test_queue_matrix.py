"""The queue's runs, killed at every step, before and after it: a worker, and Temporal. Nothing confirmed is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from lab import lab as labs
from lab.layout import QUEUE_HOME
from lab.model import Lab
from tests.faults.cells import cells
from tests.faults.queue_scene import WEST
from tests.faults.striking import striking_queue
from tests.lab import queues

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults]

MOVE = (
    "observe_queue",
    "claim_epoch",
    "import_definitions",
    "try_shovel",
    "close_cluster",
    "count_messages",
    "drain",
    "open_cluster",
    "choose_and_lead",
    "write_record",
    "verify_queue_routes",
)
NODE = ("until_queues_lead", "choose_and_lead", "write_record", "confirm_names", "start_broker", "regrow")
ACROSS = ("held_back", "claim_epoch", "stop_broker", "compare_with_mirror", "open_cluster", "choose_and_lead")
DRAIN = ("claim_epoch", "start_broker", "close_cluster", "drain", "import_definitions")
NODE_CAMPAIGN = {("choose_and_lead", "after", "kill")}
CAMPAIGN = {
    ("close_cluster", "after", "kill"),
    ("drain", "after", "kill"),
    ("choose_and_lead", "after", "pid"),
}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def queue_lab() -> AsyncIterator[Lab]:
    lab = await labs.up("queue", make_current=False)
    yield lab
    await labs.down(lab)


@pytest.mark.parametrize(("activity", "when", "who"), cells(MOVE, (), CAMPAIGN))
async def test_a_move_killed_at(queue_lab: Lab, activity: str, when: str, who: str) -> None:
    plan = {"activity": activity, "when": when, "strike": who, "workflow": "QueueSwitchover"}
    async with striking_queue(queue_lab, **plan) as (scene, done):
        await scene.fill(2000)
        report = await scene.report(await scene.switch(), 200)
        assert done.exists(), "nothing was killed, so nothing was tried"
        assert report.outcome in ("done, unprotected", "undone"), report
        if report.outcome != "undone":
            assert report.new_primary == WEST
        await queues.empty(scene.lab)
        found = await scene.safe()
        assert found.delivered == 2000


@pytest.mark.parametrize(("activity", "when", "who"), cells(NODE, (), NODE_CAMPAIGN))
async def test_a_failover_in_the_cluster_killed_at(queue_lab: Lab, activity: str, when: str, who: str) -> None:
    plan = {"activity": activity, "when": when, "strike": who, "workflow": "QueueFailover"}
    async with striking_queue(queue_lab, **plan) as (scene, done):
        await scene.fill(500)
        await scene.fault("kill", QUEUE_HOME)
        report = await scene.report(await scene.run_of_watch(), 260)
        assert done.exists(), "nothing was killed, so nothing was tried"
        assert report.outcome in ("recovered", "recovered, unprotected"), report
        assert report.new_primary in scene.east
        await queues.empty(scene.lab)
        found = await scene.safe()
        assert found.delivered == 500


@pytest.mark.parametrize(("activity", "when", "who"), cells(ACROSS, ()))
async def test_a_failover_to_the_other_region_killed_at(queue_lab: Lab, activity: str, when: str, who: str) -> None:
    """And what the lost cluster held is there once it was drained."""
    plan = {"activity": activity, "when": when, "strike": who, "workflow": "QueueFailover"}
    async with striking_queue(queue_lab, **plan) as (scene, done):
        await scene.fill(500)
        await scene.until("the standby was told", scene.standby_is_told)
        await scene.fault("kill", *scene.east)
        run = await scene.run_of_watch()
        await scene.approve(run)
        report = await scene.report(run, 260)
        assert done.exists(), "nothing was killed, so nothing was tried"
        assert report.new_primary == WEST, report
        drained = await scene.report(await scene.drain(), 260)
        assert drained.outcome == "done, unprotected", drained
        await queues.empty(scene.lab)
        found = await scene.safe()
        assert found.delivered == 500


@pytest.mark.parametrize(("activity", "when", "who"), cells(DRAIN, ()))
async def test_a_drain_killed_at(queue_lab: Lab, activity: str, when: str, who: str) -> None:
    """Messages that a cluster confirmed and still holds, while another serves."""
    plan = {"activity": activity, "when": when, "strike": who, "workflow": "QueueDrain"}
    async with striking_queue(queue_lab, **plan) as (scene, done):
        moved = await scene.report(await scene.switch(), 200)
        assert moved.new_primary == WEST, moved
        await queues.leave_behind(scene.lab, QUEUE_HOME, 500)
        report = await scene.report(await scene.drain(), 260)
        assert done.exists(), "nothing was killed, so nothing was tried"
        assert report.outcome == "done, unprotected", report
        assert await queues.ready(scene.lab, QUEUE_HOME) == 0
        await queues.empty(scene.lab)
        found = await scene.safe()
        assert found.delivered == 500
