"""Watching the cluster that serves, from one region; and keeping its standbys told of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from temporalio import activity

from activities.beating import beating
from activities.names import ask
from activities.rabbit_definitions import bring_definitions
from activities.rabbit_look import look_at_cluster
from activities.zones import names_of
from schemas.failures import LifeboatError, RouteUnavailable
from schemas.queue import Broker
from schemas.queue_facts import ClusterFacts, MoveOrder
from schemas.queue_requests import QueueSighting, QueueWatchOrder, StandbyOrder

HEADER = b"AMQP\x00\x00\x09\x01"
"""Of AMQP 0-9-1 (§4.2.2): a broker answers with Connection.Start; a frozen one takes the connection, and is silent."""
PATIENCE = 10
"""A node that nobody is led to is looked after this many times more slowly: its cluster serves without it."""
STANDBY_S = 20.0
_SEEN_S = 0.4


async def answers(member: Broker, limit: float, *, tls: bool = False) -> bool:
    """Whether the node speaks AMQP within `limit` seconds; of TLS only that it takes connections."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(limit):
            reader, writer = await asyncio.open_connection(member.host, member.port)
            if tls:
                return True
            writer.write(HEADER)
            # A method frame on channel 0.
            return (await reader.readexactly(3)) == b"\x01\x00\x00"
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    finally:
        if writer is not None:
            writer.close()


async def sees_anything(order: QueueWatchOrder) -> bool:
    """Whether this region reaches anything else at all; one that doesn't has no vote."""
    others = [each for each in order.service.members if each.name != order.member]
    found = await asyncio.gather(*(answers(each, 0.5, tls=order.service.access.tls) for each in others))
    if any(found):
        return True
    try:
        for server in await names_of(order.zone).servers():
            await ask(server, order.zone.name, "SOA")
            return True
    except (RouteUnavailable, OSError):
        return False
    return False


@activity.defn
async def watch_brokers(order: QueueWatchOrder) -> QueueSighting:
    """Probe at the declared interval, until the order's condition holds."""
    service, detection = order.service, order.service.detection
    cluster = service.cluster(service.member(order.member).region)
    counts = dict.fromkeys((each.name for each in cluster), 0)
    first: datetime | None = None
    looking: asyncio.Task[tuple[ClusterFacts, object]] | None = None
    loop = asyncio.get_running_loop()
    try:
        while True:
            started, at = loop.time(), datetime.now(UTC)
            tls, limit = service.access.tls, detection.probe_timeout_s
            probed = await asyncio.gather(*(answers(each, limit, tls=tls) for each in cluster))
            for member, well in zip(cluster, probed, strict=True):
                counts[member.name] = counts[member.name] + 1 if well == (order.until == "up") else 0
            count = counts[order.member]
            if count == 1:
                first = at
            if count and order.until == "down" and not await sees_anything(order):
                counts, count, first = dict.fromkeys(counts, 0), 0, None
            if count == 1 and order.until == "down" and looking is None:
                looking = asyncio.create_task(look_at_cluster(service, cluster[0].region))
            elsewhere = [name for name, failed in counts.items() if failed >= detection.failures * PATIENCE]
            news = order.until == "down" and any(name not in order.known for name in elsewhere)
            if count >= detection.failures or news:
                seen: ClusterFacts | None = None
                if looking is not None:
                    done, _ = await asyncio.wait([looking], timeout=_SEEN_S)
                    seen = looking.result()[0] if done else None
                down = [name for name, failed in counts.items() if failed >= detection.failures]
                return QueueSighting(
                    region=order.region,
                    member=order.member,
                    down=down if order.until == "down" else [],
                    first_failure=first or at,
                    at=datetime.now(UTC),
                    seen=seen,
                )
            if not count and looking is not None:
                looking.cancel()
                looking = None
            activity.heartbeat({"counts": counts, "at": at.isoformat()})
            await asyncio.sleep(max(detection.interval_s - (loop.time() - started), 0))
    finally:
        if looking is not None:
            looking.cancel()


@activity.defn
async def keep_standbys(order: StandbyOrder) -> None:
    """Every standby has the definitions, and knows how much was in the queues, not longer than 20 s ago.

    Where a run has a newer epoch it is refused, and waits for the watch to begin anew.
    """
    told: dict[str, str] = {}
    async with beating(told):
        while True:
            for region in order.service.clusters():
                if region == order.region:
                    continue
                move = MoveOrder(service=order.service, region=order.region, target=region, epoch=order.epoch)
                try:
                    await bring_definitions(move)
                    told[region] = f"told at {datetime.now(UTC):%H:%M:%S} UTC"
                except LifeboatError as error:
                    told[region] = f"{type(error).__name__}: {error.detail}"[:200]
            await asyncio.sleep(STANDBY_S)
