"""`watch start|stop|status`: the long-running watch of each service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from cli.choices import Json, OneOrAll
from cli.connect import Address, Namespace, Place, at, where
from cli.engine import SHORT
from cli.output import err, out, print_json
from cli.problems import Exit, Problem, exit_of, innermost
from schemas.attributes import TASK_QUEUE, region_queue, watch_id
from schemas.requests import WatchRequest

app = typer.Typer(help="The watch that starts a failover when a primary dies.", no_args_is_help=True)

TopologyFile = Annotated[
    Path | None, typer.Option("--topology", metavar="FILE", help="Whose services; the current lab's otherwise.")
]

BEGIN_S = 1.0
"""How long `start` looks whether the watch was refused."""
STOP_S = 10.0
"""After this long a watch that no worker ends is terminated: it holds nothing that would need undoing."""


@app.command()
def start(
    service: OneOrAll = None,
    topology: TopologyFile = None,
    json: Json = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Watch a service, or all of the topology's. One that is watched already stays so."""
    place = where(address, namespace)
    names = [service] if service is not None else _services(place, topology)

    async def work(client: Client) -> list[dict[str, object]]:
        return [await _start(client, name) for name in names]

    _answer(at(place, work), json)


@app.command()
def stop(service: OneOrAll = None, json: Json = False, address: Address = None, namespace: Namespace = None) -> None:
    """End the watch of a service, or every watch. Runs that it started go on."""

    async def work(client: Client) -> list[dict[str, object]]:
        names = [service] if service is not None else await _watched(client)
        return list(await asyncio.gather(*(_stop(client, name) for name in names)))

    _answer(at(where(address, namespace), work), json)


@app.command()
def status(service: OneOrAll = None, json: Json = False, address: Address = None, namespace: Namespace = None) -> None:
    """Which services are watched, from which regions, and how long each watch's history is."""

    async def work(client: Client) -> list[dict[str, object]]:
        names = [service] if service is not None else await _watched(client)
        found = await asyncio.gather(*(_status(client, name) for name in names))
        return [each for each in found if each is not None]

    watches = at(where(address, namespace), work)
    if json:
        print_json({"watches": watches})
    elif not watches:
        err().print("nothing is watched; `lifeboat watch start` begins it")
    else:
        table = Table("service", "workflow", "history events", "regions", box=None, pad_edge=False, header_style="dim")
        for each in watches:
            regions = ", ".join(each["regions"]) if isinstance(each["regions"], list) else ""
            table.add_row(str(each["service"]), str(each["workflow_id"]), str(each["history_events"]), regions)
        out().print(table)


def _services(place: Place, topology: Path | None) -> list[str]:
    from activities.topology import load_topology

    path = topology or place.topology
    if path is None:
        raise Problem("name a SERVICE, or the topology that declares them with --topology FILE", Exit.USAGE)
    return [each.name for each in load_topology(path).services]


async def _start(client: Client, service: str) -> dict[str, object]:
    workflow_id, answer = watch_id(service), "is watched"
    try:
        await client.start_workflow(
            "Watch", WatchRequest(service=service), id=workflow_id, task_queue=TASK_QUEUE, rpc_timeout=SHORT
        )
    except WorkflowAlreadyStartedError:
        answer = "was watched already"
    else:
        await _must_begin(client, service)
    return {"service": service, "workflow_id": workflow_id, "answer": answer}


async def _must_begin(client: Client, service: str) -> None:
    """Problem when it ends at once, as for a service that no worker knows. Without a worker it just waits."""
    try:
        async with asyncio.timeout(BEGIN_S):
            await client.get_workflow_handle(watch_id(service)).result()
    except TimeoutError:
        return
    except WorkflowFailureError as error:
        raise Problem(f"{service} is not watched: {innermost(error.cause)}", exit_of(error)) from error


async def _stop(client: Client, service: str) -> dict[str, object]:
    handle = client.get_workflow_handle(watch_id(service))
    answer = "is no longer watched"
    try:
        await handle.cancel(rpc_timeout=SHORT)
        try:
            async with asyncio.timeout(STOP_S):
                await handle.result()
        except WorkflowFailureError:
            # It ends as cancelled; whatever else it ended with, it has ended.
            answer = "is no longer watched"
        except TimeoutError:
            await handle.terminate(reason="lifeboat watch stop: no worker ended it", rpc_timeout=SHORT)
            answer = "is no longer watched (terminated, since no worker answered)"
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        answer = "was not watched"
    return {"service": service, "workflow_id": handle.id, "answer": answer}


async def _watched(client: Client) -> list[str]:
    query = "WorkflowType IN ('Watch', 'CacheWatch', 'QueueWatch') AND ExecutionStatus = 'Running'"
    found = [each.id async for each in client.list_workflows(query, rpc_timeout=SHORT)]
    return sorted(each.removeprefix(watch_id("")) for each in found)


async def _status(client: Client, service: str) -> dict[str, object] | None:
    try:
        described = await client.get_workflow_handle(watch_id(service)).describe(rpc_timeout=SHORT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    if described.status is not WorkflowExecutionStatus.RUNNING:
        return None
    return {
        "service": service,
        "workflow_id": described.id,
        "history_events": described.history_length,
        "regions": regions_of(described),
    }


def regions_of(described: WorkflowExecutionDescription) -> list[str]:
    """The regions whose workers probe now: those on whose queues an activity of the watch is under way."""
    prefix = region_queue("")
    queues = {pending.activity_options.task_queue.name for pending in described.raw_description.pending_activities}
    return sorted(queue.removeprefix(prefix) for queue in queues if queue.startswith(prefix))


def _answer(answers: list[dict[str, object]], json: bool) -> None:
    if json:
        print_json({"watches": answers})
    elif not answers:
        err().print("nothing is watched")
    else:
        for each in answers:
            out().print(f"{each['service']} {each['answer']}", markup=False)
