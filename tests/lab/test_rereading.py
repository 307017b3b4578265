"""Against a real Temporal: a worker is killed, and somebody looks at its run while its activities end."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import EventType, PendingActivityState
from temporalio.client import AsyncActivityHandle, Client, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, Worker

from lab.binaries import find_temporal
from tests.lab.racing import ACTIVITIES, QUEUE, Racing, worker_of

pytestmark = pytest.mark.lab

Run = WorkflowHandle[Racing, None]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(find_temporal()), dev_server_log_level="error"
    ) as server:
        yield server.client


async def under_way(run: Run) -> dict[str, str]:
    """The ids of its two activities, once both have begun."""
    async with asyncio.timeout(20):
        while True:
            pending = (await run.describe()).raw_description.pending_activities
            begun = [p for p in pending if p.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED]
            if len(begun) == 2:
                return {each.activity_type.name: each.activity_id for each in begun}
            await asyncio.sleep(0.05)


async def looked_at_in_between(client: Client) -> Run:
    """The run, ended: its first worker is killed, and a query waits for that worker while the first activity ends; the
    second worker answers, and is given its task, with the end of the other activity, when the dead one's is overdue.
    """
    async with Worker(client, task_queue=QUEUE, activities=ACTIVITIES):
        argv = [sys.executable, "-m", "tests.lab.racing", client.service_client.config.target_host]
        first = await asyncio.create_subprocess_exec(*argv, cwd=Path(__file__).parents[2])
        try:
            run = await client.start_workflow(Racing.run, id=f"racing-{uuid.uuid4().hex[:6]}", task_queue=QUEUE)
            ids = await under_way(run)
        finally:
            first.kill()
            await first.wait()

        def activity_of(name: str) -> AsyncActivityHandle:
            return client.get_async_activity_handle(workflow_id=run.id, run_id=None, activity_id=ids[name])

        query = asyncio.ensure_future(run.query(Racing.asked))
        # Until it waits for the worker that is dead, which nothing tells.
        await asyncio.sleep(1)
        await activity_of("lead").complete()
        async with worker_of(await Client.connect(client.service_client.config.target_host)):
            assert await query == "answered"
            await activity_of("begun_early").fail(ApplicationError("it did not open"))
            async with asyncio.timeout(30):
                await run.result()
    return run


async def test_a_run_that_was_looked_at_in_between_replays(client: Client) -> None:
    run = await looked_at_in_between(client)
    history = await run.fetch_history()
    assert EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED not in [event.event_type for event in history.events]
    # The SDK's replayer does not return where it finds that the history does not fit (docs/adr/0016).
    async with asyncio.timeout(20):
        await Replayer(workflows=[Racing]).replay_workflow(history)
