"""A workflow with two activities under way, the order of whose ends decides the order of its next commands.

`python -m tests.lab.racing ADDRESS` is a worker of it, to be killed.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxRestrictions

from workers.rereading import RereadingWorker

QUEUE = "racing"
STICKY_S = 3.0
"""How long a query and a workflow task wait for the worker that is dead."""


@activity.defn
async def lead() -> None:
    activity.raise_complete_async()


@activity.defn
async def begun_early() -> None:
    activity.raise_complete_async()


@activity.defn
async def anew() -> None:
    pass


@activity.defn
async def beside() -> None:
    pass


ACTIVITIES = [lead, begun_early, anew, beside]


@workflow.defn(failure_exception_types=[Exception])
class Racing:
    """As a promotion with its poolers: what was begun early and failed is done anew, beside something else."""

    @workflow.run
    async def run(self) -> None:
        early = asyncio.ensure_future(self._do("begun_early"))
        await self._do("lead")
        await asyncio.gather(self._unless_done(early), self._do("beside"))

    @workflow.query
    def asked(self) -> str:
        return "answered"

    async def _unless_done(self, early: asyncio.Future[None]) -> None:
        try:
            await early
        except ActivityError:
            await self._do("anew")

    async def _do(self, name: str) -> None:
        once = RetryPolicy(maximum_attempts=1)
        await workflow.execute_activity(name, start_to_close_timeout=timedelta(seconds=60), retry_policy=once)


def worker_of(client: Client) -> Worker:
    """The product's, with a sticky time-out of its own."""
    return RereadingWorker(
        client,
        task_queue=QUEUE,
        workflows=[Racing],
        restrictions=SandboxRestrictions.default,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=STICKY_S),
    )


async def main(address: str) -> None:
    await worker_of(await Client.connect(address)).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
