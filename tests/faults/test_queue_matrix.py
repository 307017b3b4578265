"""A region move killed at every step, before and after its effect: a worker, and Temporal. None confirmed is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from lab import lab as labs
from lab.model import Lab
from tests.faults.cells import cells
from tests.faults.queue_scene import WEST, QueueScene
from tests.faults.striking import striking_scene
from tests.lab import queues

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults]

ACTIVITIES = (
    "import_definitions",
    "close_cluster",
    "count_messages",
    "drain",
    "open_cluster",
    "choose_and_lead",
    "verify_queue_routes",
)
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


@pytest.mark.parametrize(("activity", "when", "who"), cells(ACTIVITIES, (), CAMPAIGN))
async def test_killed_at(queue_lab: Lab, activity: str, when: str, who: str) -> None:
    plan = {"activity": activity, "when": when, "strike": who, "workflow": "QueueSwitchover"}
    async with striking_scene(queue_lab, **plan) as (struck, done):
        scene = QueueScene(struck.lab, struck.client)
        await scene.fill(2000)
        report = await scene.report(await scene.switch(), 200)
        assert done.exists(), "nothing was killed, so nothing was tried"
        assert report.outcome in ("done, unprotected", "undone"), report
        if report.outcome != "undone":
            assert report.new_primary == WEST
        await queues.empty(scene.lab)
        found = await scene.safe()
        assert found.delivered == 2000
