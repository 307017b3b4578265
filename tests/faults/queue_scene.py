"""The words in which scenarios on the queue are told."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from temporalio.client import Client, WorkflowHandle, WorkflowQueryFailedError
from temporalio.service import RPCError

from activities.rabbit_api import cluster_api
from activities.rabbit_definitions import read_mirror
from activities.topology import load_topology
from lab import faults, ledger, load, rabbit
from lab.layout import QUEUE, QUEUE_HOME
from lab.model import Lab
from lab.queue_referee import QueueAudit, audit
from schemas.attributes import TASK_QUEUE
from schemas.queue import QueueService
from schemas.queue_requests import QueueFailoverRequest
from schemas.ready import ReadyReport, ReadyRequest
from schemas.reports import Report
from schemas.requests import Answer, CandidateRequest, RunRequest, Verb
from schemas.state import RunState
from tests.faults.scene import record, result_of
from tests.lab import queues

Run = WorkflowHandle[Any, Any]
WEST = queues.WEST


class QueueScene:
    """A lab of the queue, and its Temporal client."""

    def __init__(self, lab: Lab, client: Client) -> None:
        self.lab, self.client = lab, client
        self.since = datetime.now(UTC)

    async def traffic(self) -> None:
        await asyncio.to_thread(load.start, self.lab)

    async def fill(self, count: int, route: str = "queue-dns") -> None:
        await queues.fill(self.lab, count, route)

    async def fault(self, action: str, *names: str) -> None:
        await asyncio.gather(*(faults.fault(self.lab, action, name) for name in names))

    @property
    def east(self) -> list[str]:
        return [node.name for node in rabbit.clusters(self.lab)[self.lab.node(QUEUE_HOME).region]]

    async def until(self, what: str, condition: Callable[[], Awaitable[Any]], limit: float = 40.0) -> Any:
        return await queues.until(what, condition, limit)

    # Runs

    async def begin(self, procedure: str, request: RunRequest) -> Run:
        run = f"{procedure}-{uuid.uuid4().hex[:6]}"
        return await self.client.start_workflow(procedure, request, id=run, task_queue=TASK_QUEUE, result_type=Report)

    async def switch(self, **more: Any) -> Run:
        given = {"service": QUEUE, "reason": "a test", **more}
        return await self.begin("QueueSwitchover", CandidateRequest.model_validate(given))

    async def home(self) -> Run:
        return await self.begin("QueueFailback", RunRequest(service=QUEUE, reason="a test"))

    async def drain(self) -> Run:
        return await self.begin("QueueDrain", RunRequest(service=QUEUE, reason="a test"))

    async def fail_over(self, **more: Any) -> Run:
        given = {"service": QUEUE, "reason": "a test", **more}
        return await self.begin("QueueFailover", QueueFailoverRequest.model_validate(given))

    async def ready(self) -> ReadyReport:
        run = f"ready-{uuid.uuid4().hex[:6]}"
        request = ReadyRequest(service=QUEUE)
        found: ReadyReport = await self.client.execute_workflow(
            "DatabaseReady", request, id=run, task_queue=TASK_QUEUE, result_type=ReadyReport
        )
        return found

    async def standby_is_told(self) -> bool:
        service = load_topology(self.lab.topology).service(QUEUE)
        assert isinstance(service, QueueService)
        async with cluster_api(service, self.lab.node(WEST).region) as api:
            told = await read_mirror(api)
        return told is not None and told[0].region == self.lab.node(QUEUE_HOME).region

    async def run_of_watch(self) -> Run:
        async def found() -> str | None:
            query = f"WorkflowType = 'QueueFailover' AND StartTime > '{self.since.isoformat()}'"
            return next(iter([each.id async for each in self.client.list_workflows(query)]), None)

        return self.client.get_workflow_handle(
            await self.until("the watch starts a failover", found), result_type=Report
        )

    async def report(self, run: Run, limit: float = 150.0) -> Report:
        try:
            async with asyncio.timeout(limit):
                result = await result_of(run)
        except TimeoutError:
            state = await self.state(run)
            told = "\n".join(state.journal) if state is not None else "no worker answers"
            raise AssertionError(f"{run.id} has not ended within {limit:.0f} s\n{told}") from None
        return result

    async def state(self, run: Run) -> RunState | None:
        try:
            found: RunState = await run.query("state", result_type=RunState)
        except (RPCError, WorkflowQueryFailedError):
            return None
        return found

    async def at_step(self, run: Run, title: str) -> None:
        async def there() -> bool:
            state = await self.state(run)
            return state is not None and state.step == title

        await self.until(f"the run is at “{title}”", there)

    async def approve(self, run: Run) -> None:
        async def asks() -> RunState | None:
            state = await self.state(run)
            return state if state is not None and state.question is not None else None

        state: RunState = await self.until("the run asks a person", asks)
        assert state.question is not None
        await run.execute_update("approve", Answer(by="ana", digest=state.question.digest), result_type=str)

    async def say(self, run: Run, verb: str) -> None:
        await run.execute_update(verb, Verb(by="ana", reason="a test"), result_type=str)

    async def record(self, run: Run, branch: str) -> None:
        await record(self.lab, run, branch)

    # What must hold

    async def served(self) -> None:
        async def writing() -> bool:
            found = await audit(self.lab)
            return all(route.writing for route in found.routes.values())

        await self.until("every route is confirmed again", writing)

    def refused(self) -> str:
        """What clients were told but a confirmation, a line each."""
        told = [each for each in ledger.read(self.lab.ledger) if each.outcome != "acknowledged"]
        return "\n".join(f"{each.sent} {each.route} {each.server} {each.outcome}: {each.error}" for each in told)

    async def safe(self) -> QueueAudit:
        """Nothing confirmed is missing, and one cluster lets clients in."""
        found = await audit(self.lab)
        assert found.missing == 0, found
        assert found.concurrent_writers == 0, found
        assert not found.errors, found
        return found
