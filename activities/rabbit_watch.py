"""Watching the cluster that serves, from one region; and keeping its standbys told of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from temporalio import activity

from activities import epoch as epochs
from activities.beating import beating
from activities.names import ask
from activities.rabbit_amqp import speaks, tls_of
from activities.rabbit_api import cluster_api
from activities.rabbit_definitions import bring_definitions
from activities.rabbit_doors import granted, shut
from activities.rabbit_look import look_at_cluster
from activities.zones import names_of
from schemas.failures import EpochSuperseded, LifeboatError, RouteUnavailable
from schemas.queue_facts import ClusterFacts, MoveOrder
from schemas.queue_requests import QueueSighting, QueueWatchOrder, StandbyOrder

PATIENCE = 10
"""A node that nobody is led to is looked after this many times more slowly: its cluster serves without it."""
STANDBY_S = 20.0
_SEEN_S = 0.4
BEFORE_S = 20.0
"""How often a watch that finds all well looks at the queues: who led them, and who held all, before one is lost."""


async def sees_anything(order: QueueWatchOrder) -> bool:
    """Whether this region reaches anything else at all; one that doesn't has no vote."""
    others = [each for each in order.service.members if each.name != order.member]
    found = await asyncio.gather(*(speaks(each, 0.5, tls=order.service.access.tls) for each in others))
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
    loop, tls = asyncio.get_running_loop(), tls_of(service) or False
    before: ClusterFacts | None = None
    well: asyncio.Task[tuple[ClusterFacts, object]] | None = None
    looked = loop.time() - BEFORE_S
    try:
        while True:
            started, at = loop.time(), datetime.now(UTC)
            limit = detection.probe_timeout_s
            probed = await asyncio.gather(*(speaks(each, limit, tls=tls) for each in cluster))
            for member, spoke in zip(cluster, probed, strict=True):
                counts[member.name] = counts[member.name] + 1 if spoke == (order.until == "up") else 0
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
                    before=before,
                )
            if well is not None and well.done():
                before, well = well.result()[0], None
            if not any(counts.values()) and order.until == "down" and loop.time() - looked > BEFORE_S:
                looked, well = loop.time(), asyncio.create_task(look_at_cluster(service, cluster[0].region))
            if not count and looking is not None:
                looking.cancel()
                looking = None
            activity.heartbeat({"counts": counts, "at": at.isoformat()})
            await asyncio.sleep(max(detection.interval_s - (loop.time() - started), 0))
    finally:
        for task in (looking, well):
            if task is not None:
                task.cancel()


async def _let_in(order: StandbyOrder, region: str) -> bool:
    """Whether clients are let in where nobody should serve: a cluster that came back by itself. Where the record can't
    be read, or a choice is not settled, nobody is kept out: who serves is for a run to say."""
    if order.zone is None:
        return False
    held = await epochs.read(order.zone, order.service.name)
    settled = held is not None and held.candidate is None and held.leader is not None
    if held is None or not settled or order.service.member(str(held.leader)).region != order.region:
        return False
    clients = {each.name for each in order.service.clients}
    async with cluster_api(order.service, order.region) as api:
        serves = any(user in clients for _, user in await granted(api))
    async with cluster_api(order.service, region) as api:
        return serves and any(user in clients for _, user in await granted(api))


async def _keep_clients_out(order: StandbyOrder, region: str) -> None:
    if await _let_in(order, region):
        await shut(order.model_copy(update={"region": region}))


@activity.defn
async def keep_standbys(order: StandbyOrder) -> None:
    """Every standby has the definitions, knows how much was in the queues 20 s ago at most, and lets nobody in.

    It returns once a run has a newer epoch: what it was told is over.
    """
    told: dict[str, str] = {}
    async with beating(told):
        while True:
            for region in order.service.clusters():
                if region == order.region:
                    continue
                move = MoveOrder(**dict(order), target=region)
                why = []
                # Each by itself: what can't be imported keeps nobody in who should be kept out.
                for act in (_keep_clients_out(order, region), bring_definitions(move)):
                    try:
                        await act
                    except EpochSuperseded:
                        return
                    except LifeboatError as error:
                        why.append(f"{type(error).__name__}: {error.detail}"[:200])
                told[region] = "; ".join(why) or f"told at {datetime.now(UTC):%H:%M:%S} UTC"
            await asyncio.sleep(STANDBY_S)
