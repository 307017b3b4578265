"""What the lab's nodes are seen to be, asked of the nodes themselves."""

from __future__ import annotations

import asyncio

import asyncpg

from lab import cache, processes
from lab.errors import LabError
from lab.layout import HOME
from lab.model import Lab, Node, Status
from lab.node import port_open
from lab.postgres import session
from lab.supervise import Process, Supervisor, SupervisorGone
from lab.waiting import until

_ASK_S = 1.0
_STATUS_S = 3.0
"""A busy machine is not a silent server; a frozen one is told by its processes."""
_STREAMING = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"
_GONE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


async def status(lab: Lab) -> Status:
    """Every node with its observed role and process id; all nodes are down when the supervisor is gone."""
    try:
        running = Supervisor(lab.paths).all()
    except SupervisorGone:
        running = {}
    nodes = await asyncio.gather(*(_observed(lab, node, running.get(node.name)) for node in lab.nodes))
    return Status(
        temporal=lab.temporal,
        nodes=list(nodes),
        routes=lab.routes,
        reads=lab.reads,
        traces=lab.traces,
        health=lab.health(),
    )


async def _observed(lab: Lab, node: Node, process: Process | None) -> Node:
    return node.model_copy(update={"role": await _role(lab, node), "pid": process.pid if process else None})


async def _role(lab: Lab, node: Node) -> str:
    alive = processes.trees(lab.paths, [node.name])
    if not alive and node.kind != "host":
        return "down"
    if lab.paths.frozen_mark(node.name).exists() or any(processes.is_stopped(each) for each in alive):
        return "frozen"
    if node.kind == "postgresql":
        return await _database_role(lab, node.name)
    if node.kind in ("redis", "sentinel"):
        return await _cache_role(lab, node.name)
    if node.kind != "host" and node.port and not await asyncio.to_thread(port_open, node.host, node.port):
        return "silent"
    return node.role


async def _database_role(lab: Lab, name: str) -> str:
    conn = await session(lab, name, limit=_STATUS_S)
    if conn is None:
        return "silent"
    try:
        return "standby" if await conn.fetchval("SELECT pg_is_in_recovery()", timeout=_STATUS_S) else "primary"
    except _GONE:
        return "silent"
    finally:
        conn.terminate()


async def _cache_role(lab: Lab, name: str) -> str:
    """By the server's own account. While it loads its data it tells a role as well, and serves nobody."""
    try:
        await cache.ask(lab, name, "PING", limit=_STATUS_S)
        found = await cache.ask(lab, name, "ROLE", limit=_STATUS_S)
    except LabError as error:
        return "loading" if "LOADING" in str(error) else "silent"
    role = str(found[0]) if isinstance(found, list) and found else "silent"
    return "replica" if role == "slave" else role


async def streams(lab: Lab) -> bool:
    """Whether every standby streams from where the plan has it. One that doesn't is nudged by a reload.

    A receiver that found no sender waits wal_retrieve_retry_interval, 5 s, before it looks again.
    """
    missing: list[str] = []
    for upstream in {node.upstream for node in lab.members() if node.upstream}:
        wanted = {node.name for node in lab.members() if node.upstream == upstream}
        missing += sorted(wanted - await _followers(lab, upstream))
    await asyncio.gather(*(_reload(lab, name) for name in missing))
    return not missing


async def _followers(lab: Lab, upstream: str) -> set[str]:
    conn = await session(lab, upstream)
    if conn is None:
        return set()
    try:
        return {str(row["application_name"]) for row in await conn.fetch(_STREAMING, timeout=_ASK_S)}
    except _GONE:
        return set()
    finally:
        conn.terminate()


async def _reload(lab: Lab, name: str) -> None:
    conn = await session(lab, name)
    if conn is not None:
        try:
            await conn.execute("SELECT pg_reload_conf()", timeout=_ASK_S)
        except _GONE:
            return  # it is looked at again
        finally:
            conn.terminate()


async def until_protected(lab: Lab, limit: float = 20.0) -> None:
    """Wait until all standbys stream, so that the home primary can acknowledge."""
    await until(f"every standby of {HOME} streams", lambda: streams(lab), limit, every=0.1)
