"""A lab's life: up, status, reset, down."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import asyncpg
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError

from activities import rfc2136
from lab import binaries, estate, faults, servers, supervise
from lab.model import Lab, TemporalPlace, pointer
from lab.world import give_to_database_user
from schemas.attributes import INT_ATTRIBUTES, KEYWORD_ATTRIBUTES, TASK_QUEUE, region_queue, watch_id
from schemas.failures import RouteUnavailable
from schemas.requests import WatchRequest

Say = Callable[[str], None]


class LabFailed(RuntimeError):
    """The lab did not come up; its folder's logs say why."""


def _quiet(_: str) -> None:
    return


async def until(what: str, condition: Callable[[], Awaitable[bool]], limit: float, every: float = 0.05) -> None:
    """Await a condition; LabFailed names it after `limit` seconds."""
    end = time.monotonic() + limit
    while not await condition():
        if time.monotonic() > end:
            raise LabFailed(f"{what}: not within {limit:.0f} s")
        await asyncio.sleep(every)


def _platform(lab: Lab, base: int) -> list[supervise.Program]:
    """Temporal and the workers, which the supervisor restarts."""
    attributes = [f"--search-attribute={name}=Keyword" for name in KEYWORD_ATTRIBUTES]
    attributes += [f"--search-attribute={name}=Int" for name in INT_ATTRIBUTES]
    tuned = [
        "--dynamic-config-value=history.transferProcessorMaxPollRPS=1000",
        "--dynamic-config-value=history.timerProcessorMaxPollRPS=1000",
        '--dynamic-config-value=history.timerProcessorMaxTimeShift="10ms"',
    ]
    server = [
        lab.temporal.cli, "server", "start-dev", "--ip", "127.0.0.1", "--port", str(lab.node("temporal").port),
        "--ui-port", str(estate.ui_port(base)), "--db-filename", str(lab.folder / "temporal.db"),
        "--log-level", "warn", *tuned, *attributes,
    ]  # fmt: skip
    found = [supervise.Program("temporal", server, lab.folder, restarts=True)]
    for region in estate.REGIONS:
        argv = [sys.executable, "-m", "workers.main", "--region", region, "--topology", str(lab.topology)]
        argv += ["--address", lab.temporal.address]
        found.append(supervise.Program(f"worker-{region}", argv, lab.folder, restarts=True))
    return found


async def up(
    profile: str = "database",
    *,
    watch: bool = True,
    service: Mapping[str, Any] | None = None,
    say: Say = _quiet,
    current: bool = True,
) -> Lab:
    """Start a lab and wait until it is ready. `service` overrides fields of the lab's service in its topology."""
    if profile != "database":
        raise LabFailed(f"there is no profile {profile}; there is: database")
    base = estate.choose_base_port()
    folder = Path(tempfile.mkdtemp(prefix="lifeboat-", dir="/var/tmp"))
    folder.chmod(0o711)
    for inner in ("data", "logs", "secrets", "marks"):
        (folder / inner).mkdir(mode=0o711)
    give_to_database_user(folder / "data")
    servers.make_secrets(folder)
    nodes = estate.nodes(base)
    ports = {node.name: node.port for node in nodes}
    dns = next(node for node in nodes if node.kind == "knot")
    app = (folder / "secrets" / "app").read_text(encoding="utf-8")
    pooler = f"postgresql://app:{app}@{estate.POOLERS['pgbouncer-east'][1]}:{ports['pgbouncer-east']}"
    lab = Lab(
        folder=folder,
        profile=profile,
        temporal=TemporalPlace(
            address=f"127.0.0.1:{ports['temporal']}",
            ui=f"http://127.0.0.1:{estate.ui_port(base)}",
            cli=binaries.temporal(),
        ),
        nodes=nodes,
        routes={
            "dns": f"postgresql://app:{app}@{estate.RECORD}:{ports['pg-east-1']}/{estate.DATABASE}",
            "pgbouncer-transaction": f"{pooler}/counting",
            "pgbouncer-session": f"{pooler}/counting_session",
        },
        dns_server=dns.address,
        service=estate.SERVICE,
        topology=estate.write_topology(folder, base, service),
    )
    (folder / "lab.json").write_text(lab.model_dump_json(indent=2), encoding="utf-8")
    try:
        say(f"Lab in {folder}")
        say("Temporal and its workers")
        supervise.write_config(folder, [*_platform(lab, base), *servers.programs(lab)])
        supervise.start_supervisor(folder)
        supervise.start(folder, "temporal")
        say("PostgreSQL: one primary, five standbys")
        await servers.make_pristine(lab)
        servers.lay_members(lab)
        servers.lay_poolers(lab)
        servers.lay_zone(lab)
        await _start_estate(lab, say)
        await _start_platform(lab, say)
        if watch:
            say("The watch")
            await start_watch(lab)
    except BaseException:
        supervise.shut_down(folder)
        raise
    if current:
        lab.save()
    return lab


async def _start_estate(lab: Lab, say: Say) -> None:
    for node in lab.nodes:
        if node.kind in ("postgres", "pgbouncer", "knot"):
            supervise.start(lab.folder, node.name)
    say("Standbys stream, poolers and DNS answer")
    await until("PostgreSQL streams to five standbys", lambda: all_stream(lab), 20)
    await until("DNS answers", lambda: _dns_answers(lab), 10)
    for route in estate.POOLERS:
        await until(f"{route} answers", lambda route=route: _accepts(lab, route), 10)  # type: ignore[misc]


async def _start_platform(lab: Lab, say: Say) -> None:
    await until("Temporal answers", lambda: _temporal_answers(lab), 30)
    for region in estate.REGIONS:
        supervise.start(lab.folder, f"worker-{region}")
    say("Workers poll")
    client = await connect(lab)
    queues = [TASK_QUEUE, *(region_queue(region) for region in estate.REGIONS)]
    for queue in queues:
        await until(f"a worker polls {queue}", lambda queue=queue: _polled(client, queue), 30)  # type: ignore[misc]


async def connect(lab: Lab) -> Client:
    """A client of the lab's own Temporal, and of no other."""
    return await Client.connect(
        lab.temporal.address, namespace=lab.temporal.namespace, data_converter=pydantic_data_converter
    )


async def _temporal_answers(lab: Lab) -> bool:
    try:
        await asyncio.wait_for(connect(lab), 2)
    except (RuntimeError, TimeoutError):
        return False
    return True


async def _polled(client: Client, queue: str) -> bool:
    kinds = [TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY]
    if queue == TASK_QUEUE:
        kinds.append(TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW)
    for kind in kinds:
        request = DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind
        )
        try:
            if not (await client.workflow_service.describe_task_queue(request)).pollers:
                return False
        except RPCError:
            return False
    return True


async def admin(lab: Lab, name: str, database: str = estate.DATABASE) -> asyncpg.Connection[Any]:
    """A superuser's session on one member, for the lab's own looking."""
    node = lab.node(name)
    return await asyncpg.connect(
        host=node.host,
        port=node.port,
        user="lifeboat",
        password=lab.secret("lifeboat"),
        database=database,
        ssl=False,
        timeout=2,
        command_timeout=2,
        statement_cache_size=0,
    )


async def all_stream(lab: Lab) -> bool:
    """Whether the home primary feeds its four standbys, and the cascade its own."""
    for name, count in (("pg-east-1", 4), ("pg-west-1", 1)):
        try:
            conn = await admin(lab, name)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        try:
            found = await conn.fetchval("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
        finally:
            conn.terminate()
        if found < count:
            return False
    return True


async def _dns_answers(lab: Lab) -> bool:
    try:
        return await rfc2136.ask(lab.dns_server, estate.RECORD, "A") != []
    except RouteUnavailable:
        return False


async def _accepts(lab: Lab, name: str) -> bool:
    node = lab.node(name)
    try:
        _, writer = await asyncio.open_connection(node.host, node.port)
    except OSError:
        return False
    writer.close()
    return True


async def start_watch(lab: Lab) -> None:
    """Start the service's watch, and wait until it has an epoch to stand on and probes from every region."""
    client = await connect(lab)
    handle = await client.start_workflow(
        "Watch",
        WatchRequest(service=lab.service),
        id=watch_id(lab.service),
        task_queue=TASK_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )

    async def probing() -> bool:
        pending = (await handle.describe()).raw_description.pending_activities
        started = {each.activity_id for each in pending if each.last_started_time.seconds}
        return len(started) > len(estate.REGIONS)

    await until("the watch probes from every region", probing, 20)


async def stop_watch(lab: Lab) -> None:
    """Terminate the watch, and every run of the lab that is still open."""
    client = await connect(lab)
    async for found in client.list_workflows("ExecutionStatus = 'Running'"):
        try:
            await client.get_workflow_handle(found.id).terminate("the lab is reset")
        except RPCError as error:
            if "already completed" not in str(error) and "not found" not in str(error):
                raise


async def reset(lab: Lab, *, watch: bool = True, say: Say = _quiet) -> None:
    """The estate as it was after `up`, from the kept copy; Temporal and the workers go on."""
    say("The watch and open runs are ended")
    await stop_watch(lab)
    for node in lab.nodes:
        faults.mark(lab, node.name, "frozen", False)
        faults.mark(lab, node.name, "autostart-off", False)
        if node.kind in ("postgres", "pgbouncer", "knot"):
            faults.thaw(lab, node.name)
            faults.kill(lab, node.name)
    say("Data and configuration are laid anew")
    running = supervise.pids(lab.folder)
    for node in lab.nodes:
        if node.kind in ("worker", "temporal"):
            faults.thaw(lab, node.name)
            if not running.get(node.name):
                supervise.start(lab.folder, node.name)
    await until("the nodes are down", lambda: _all_down(lab), 10)
    servers.lay_members(lab)
    servers.lay_poolers(lab)
    servers.lay_zone(lab)
    lab.ledger.unlink(missing_ok=True)
    await _start_estate(lab, say)
    if watch:
        await start_watch(lab)


async def _all_down(lab: Lab) -> bool:
    pids = supervise.pids(lab.folder)
    return not any(pids.get(node.name) for node in lab.nodes if node.kind in ("postgres", "pgbouncer", "knot"))


async def down(lab: Lab, *, keep: bool = False) -> None:
    """End everything of the lab; its folder goes too unless `keep`."""
    for node in lab.nodes:
        faults.thaw(lab, node.name)
    for node in lab.nodes:
        if node.kind == "postgres":
            faults.kill(lab, node.name)
    supervise.shut_down(lab.folder)
    if not keep:
        shutil.rmtree(lab.folder, ignore_errors=True)
    if pointer().exists() and pointer().read_text(encoding="utf-8") == str(lab.folder):
        pointer().unlink()


async def _role(lab: Lab, name: str, pid: int) -> str:
    if faults.marked(lab, name, "frozen"):
        return "frozen"
    if not pid:
        return "down"
    node = lab.node(name)
    if node.kind != "postgres":
        return "up"
    try:
        conn = await admin(lab, name)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return "no answer"
    try:
        return "standby" if await conn.fetchval("SELECT pg_is_in_recovery()") else "primary"
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return "no answer"
    finally:
        conn.terminate()


async def status(lab: Lab) -> dict[str, Any]:
    """The form of design.md: temporal, nodes with the role that each was seen in, routes."""
    pids = supervise.pids(lab.folder)
    roles = await asyncio.gather(*(_role(lab, node.name, pids.get(node.name, 0)) for node in lab.nodes))
    return {
        "temporal": lab.temporal.model_dump(),
        "nodes": [
            {
                "name": node.name,
                "role": role,
                "pid": pids.get(node.name, 0),
                "address": node.address if node.port else "",
                "kind": node.kind,
                "region": node.region,
            }
            for node, role in zip(lab.nodes, roles, strict=True)
        ],
        "routes": lab.routes,
        "folder": str(lab.folder),
        "topology": str(lab.topology),
    }
