"""The lab's own Temporal: its client, its workers' pollers, and the watch."""

from __future__ import annotations

import asyncio
import contextlib

from temporalio.api.enums.v1 import PendingActivityState, TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError, RPCStatusCode

from lab.errors import LabError
from lab.model import Lab
from lab.paths import log_tail
from lab.supervise import Supervisor
from lab.waiting import until
from lab.world import assert_inside
from schemas.attributes import TASK_QUEUE, region_queue, watch_id
from schemas.requests import WatchRequest

_RPC_S = 3.0
_TEMPORAL_S = 30.0
_WORKERS_S = 30.0
_WATCH_S = 20.0


async def connect(lab: Lab) -> Client:
    """A client of the lab's own Temporal and of no other: no profile is read. LabError when it does not answer."""
    host, _, port = lab.temporal.address.partition(":")
    assert_inside(lab, host, int(port))
    try:
        async with asyncio.timeout(_RPC_S):
            return await Client.connect(
                lab.temporal.address, namespace=lab.temporal.namespace, data_converter=pydantic_data_converter
            )
    except (RuntimeError, TimeoutError) as error:  # the SDK raises a bare RuntimeError when it can't connect
        raise LabError(f"the lab's Temporal at {lab.temporal.address} does not answer: {error}") from error


async def until_temporal(lab: Lab) -> Client:
    """Wait until Temporal serves the lab's namespace."""

    async def serves() -> Client | None:
        with contextlib.suppress(LabError, RPCError):
            client = await connect(lab)
            # Namespaces are registered after the port opens.
            async for _ in client.list_workflows(limit=1):
                break
            return client
        return None

    return await until("Temporal serves its namespace", serves, _TEMPORAL_S)


async def until_workers(lab: Lab, client: Client) -> None:
    """Wait until the present process of every region's worker polls both of its queues."""
    supervisor = Supervisor(lab.paths)

    async def poll(region: str) -> bool:
        pid = supervisor.process(f"worker-{region}").pid
        queues = (
            (TASK_QUEUE, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW),
            (TASK_QUEUE, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY),
            (region_queue(region), TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY),
        )
        # A killed worker's pollers stay listed for minutes, so the process id counts (workers/main.py, identity).
        return all(
            [any(each.startswith(f"{region}@{pid}@") for each in await _pollers(client, *queue)) for queue in queues]
        )

    for region in lab.regions:
        try:
            await until(f"the worker of {region} polls", lambda region=region: poll(region), _WORKERS_S, every=0.1)  # type: ignore[misc]
        except LabError as error:
            raise LabError(f"{error.detail}: {log_tail(lab.paths.log(f'worker-{region}'))}") from error


async def _pollers(client: Client, queue: str, kind: TaskQueueType.ValueType) -> set[str]:
    request = DescribeTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind
    )
    try:
        found = await client.workflow_service.describe_task_queue(request)
    except RPCError:
        return set()
    return {poller.identity for poller in found.pollers}


_WATCHES = {"database": "Watch", "cache": "CacheWatch", "queue": "QueueWatch"}
"""Part → the workflow that watches its service."""


_PROBING = ("watch_member", "watch_master", "watch_brokers")
"""The activities in which a region probes."""


async def start_watch(lab: Lab, client: Client | None = None) -> None:
    """Start each service's watch, and wait until every region probes: from then on a fault is seen."""
    client = client or await connect(lab)
    await asyncio.gather(*(_start_one(lab, client, _WATCHES[part], name) for part, name in lab.services.items()))


async def _start_one(lab: Lab, client: Client, workflow: str, service: str) -> None:
    handle = await client.start_workflow(
        workflow,
        WatchRequest(service=service),
        id=watch_id(service),
        task_queue=TASK_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )

    async def probes() -> bool:
        raw = (await handle.describe()).raw_description
        started = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
        running = [each for each in raw.pending_activities if each.activity_type.name in _PROBING]
        return sum(each.state == started for each in running) >= len(lab.regions)

    await until("the watch probes from every region", probes, _WATCH_S)


async def end_runs(lab: Lab, client: Client) -> None:
    """Terminate the watch, and every other run that is open in the lab's namespace."""
    open_ids = {watch_id(service) for service in lab.services.values()}
    async for found in client.list_workflows("ExecutionStatus = 'Running'"):
        open_ids.add(found.id)
    for each in open_ids:
        try:
            await client.get_workflow_handle(each).terminate("the lab is reset")
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise LabError(f"{each} could not be terminated: {error.message}") from error
