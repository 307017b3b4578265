"""Putting a lab together: processes, first data, Temporal and the workers, the watch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from temporalio.client import Client

from lab import backup, cache, network, node, plain, processes, rabbit, storage
from lab.balancer import write_balancer
from lab.binaries import Binaries
from lab.errors import LabError
from lab.estate import write_node_control
from lab.model import Lab, Node
from lab.observe import until_protected
from lab.owner import give
from lab.paths import log_tail
from lab.pooler import restore_pooler, write_pooler
from lab.postgres import build_pristine, restore_member
from lab.programs import start_supervisor, write_supervisor
from lab.supervise import SupervisorGone
from lab.waiting import until
from lab.watch import start_watch, until_temporal, until_workers
from lab.zone import restore_dns, write_dns

EXIT_S = 3.0
"""How long a supervisor may take to see that a node has ended."""

Say = Callable[[str], None]
"""Told what is being done, for a display of progress."""


async def build(lab: Lab, binaries: Binaries, say: Say) -> None:
    """Everything of a new lab, from its folder to the watch; LabError says what did not come."""
    for each in lab.nodes:
        folder = lab.paths.node(each.name)
        folder.mkdir(mode=0o700)
        if each.kind in ("postgresql", "pgbouncer", "pgpool", "knot", "redis", "sentinel", "rabbitmq", "epmd", "host"):
            give(folder)
    write_node_control(lab)
    if lab.netns:
        say("Network: a namespace for each node")
        # Not in a thread, which would go on making namespaces while a cancelled start removes them.
        network.make(lab)
    write_supervisor(lab, binaries)
    await asyncio.to_thread(start_supervisor, lab.paths)
    try:
        async with asyncio.TaskGroup() as group:
            platform = group.create_task(_start_platform(lab, say))
            group.create_task(_start_first_estate(lab, say))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    await settle(lab, platform.result(), say)


async def _start_platform(lab: Lab, say: Say) -> Client:
    """Temporal, then the workers, which need it."""
    say(" and ".join(["Temporal", *(each.name.capitalize() for each in lab.of_kind("jaeger"))]))
    await start(lab, ["temporal", *(each.name for each in lab.of_kind("jaeger"))])
    client = await until_temporal(lab)
    if lab.workers:
        say("A worker in each region")
        await start(lab, [each.name for each in lab.of_kind("worker")])
    return client


async def _start_first_estate(lab: Lab, say: Say) -> None:
    if "backup" in lab.parts:
        say("Object storage: a bucket for backups")
        await _start_first_storage(lab)
        if plain.is_plain(lab):
            say("lifeboat-archive: installed for the servers' user")
            await asyncio.to_thread(plain.install, plain.program(lab).parent)
    if "database" in lab.parts:
        say("PostgreSQL: a primary is built" + (" and backed up" if "backup" in lab.parts else ""))
        verifiers = await build_pristine(lab)
        for each in lab.of_kind("pgbouncer"):
            write_pooler(lab, each, verifiers)
        for each in lab.of_kind("pgpool"):
            write_balancer(lab, each)
    if "backup" in lab.parts:
        await _keep_storage(lab)
    for each in lab.of_kind("knot"):
        write_dns(lab, each)
    for each in lab.of_kind("rabbitmq"):
        rabbit.write_broker(lab, each)
    await start_estate(lab, say)


async def start_estate(lab: Lab, say: Say) -> None:
    """Lay every data store anew from the kept copies, and start it. Those before must be stopped, but for RabbitMQ."""
    servers = {
        "database": "PostgreSQL, PgBouncer",
        "backup": "versitygw",
        "cache": "Redis, Sentinel",
        "queue": "RabbitMQ",
    }
    say(f"{', '.join(servers[part] for part in lab.parts)} and Knot: laid anew and started")

    async def rest() -> None:
        for each in lab.of_kind("pgbouncer"):
            restore_pooler(lab, each)
        for each in lab.of_kind("knot"):
            restore_dns(lab, each)
        await start(lab, [each.name for each in lab.of_kind("pgbouncer", "pgpool", "knot")])

    parts = {"database": _start_databases, "cache": _start_caches, "queue": _start_queues}
    await asyncio.gather(rest(), *(parts[part](lab) for part in lab.services))


async def _start_first_storage(lab: Lab) -> None:
    for each in lab.of_kind("s3"):
        await asyncio.to_thread(storage.write_storage, lab, each)
    await start(lab, [each.name for each in lab.of_kind("s3")])
    await storage.make_bucket(lab)


async def _keep_storage(lab: Lab) -> None:
    for each in lab.of_kind("s3"):
        await asyncio.to_thread(node.stop, node.Target.read(lab.paths, each.name))
    await asyncio.to_thread(storage.keep, lab)


async def _start_storage(lab: Lab) -> None:
    await asyncio.to_thread(storage.restore_storage, lab)
    await asyncio.to_thread(backup.write_restores, lab)
    await start(lab, [each.name for each in lab.of_kind("s3")])


async def _start_databases(lab: Lab) -> None:
    # A standby that finds its sender at once streams at once; after a miss it waits 5 s.
    laid = [restore_member(lab, each) for each in lab.members()]
    # Its own history of WAL, before the primary adds to it.
    await asyncio.gather(*laid, *([_start_storage(lab)] if "backup" in lab.parts else []))
    await _start_tiers(lab, lab.members())
    await until_protected(lab)


async def _start_caches(lab: Lab) -> None:
    sentinels = lab.of_kind("sentinel")
    for each in lab.of_kind("redis"):
        cache.restore_server(lab, each)
    for each in sentinels:
        cache.restore_sentinel(lab, each)
    # A replica that finds its master at once follows at once; after a miss it waits a second.
    await _start_tiers(lab, lab.of_kind("redis"))
    # Before the Sentinels, which would take one that is not there yet for lost.
    await cache.until_replicated(lab)
    await start(lab, [each.name for each in sentinels])
    await cache.until_watched(lab)


async def _start_queues(lab: Lab) -> None:
    """Nodes that run, or may go on with what they have, are emptied; a cluster of which nothing runs begins anew."""
    kept = await rabbit.kept(lab)
    for each in lab.of_kind("rabbitmq"):
        if each.name not in kept:
            await asyncio.to_thread(processes.kill, lab.paths, each.name)
            rabbit.restore_broker(lab, each)
    await start(lab, [each.name for each in lab.of_kind("epmd")])
    await start(lab, [each.name for each in lab.of_kind("rabbitmq")], limit=node.BROKER_START_S)
    await rabbit.until_whole(lab)
    await rabbit.until_defined(lab)


async def _start_tiers(lab: Lab, servers: Sequence[Node]) -> None:
    """Start the servers, each after the one that it follows."""
    tiers: dict[int, list[str]] = {}
    for each in servers:
        tiers.setdefault(_depth(lab, each.name), []).append(each.name)
    for _, names in sorted(tiers.items()):
        await start(lab, names)


def _depth(lab: Lab, name: str) -> int:
    upstream = lab.node(name).upstream
    return 0 if upstream is None else 1 + _depth(lab, upstream)


def _exits(lab: Lab, name: str) -> list[str]:
    """How the supervisor saw the node end: a signal leaves no word in the node's own log."""
    return [line for line in log_tail(lab.paths.log("supervisord"), 200).splitlines() if f" exited: {name} " in line]


async def _last_exit(lab: Lab, name: str, before: Sequence[str]) -> str:
    """The newest, awaited for a moment: only by then is the node's last word in its log."""

    async def seen() -> str | None:
        found = _exits(lab, name)
        return found[-1] if found and found != before else None

    try:
        return await until(f"the end of {name}", seen, EXIT_S)
    except LabError:
        return "its supervisor saw no end of it"


async def start(lab: Lab, names: Sequence[str], *, limit: float = 20.0) -> None:
    """Start these nodes at once, and return when all of them serve; LabError holds the end of a log."""

    async def one(name: str) -> None:
        before = _exits(lab, name)
        try:
            await asyncio.to_thread(node.start, node.Target.read(lab.paths, name), limit=limit)
        except (node.NodeFailed, SupervisorGone) as error:
            ended = await _last_exit(lab, name, before)
            raise LabError(f"{error}; {ended}; {log_tail(lab.paths.log(name))}") from error

    await asyncio.gather(*(one(name) for name in names))


async def settle(lab: Lab, client: Client, say: Say) -> None:
    """Wait for the workers, and start the watch where the lab has one, and the node that tells of health."""
    await start(lab, [each.name for each in lab.of_kind("health")])
    if lab.workers:
        say("Workers: every region polls its queues")
        await until_workers(lab, client)
    if lab.watch:
        say("The watch: every region probes")
        await start_watch(lab, client)
