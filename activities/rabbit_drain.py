"""Moving what a closed cluster holds to another, by shovels that acknowledge only what the destination has confirmed.

A message may arrive twice when a shovel or a destination dies in the middle, and is never lost [T]: on-confirm lost 0
of 20,000 with the destination killed, no-ack 9,793.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from datetime import UTC, datetime
from typing import Any

import aio_pika
from aio_pika.abc import AbstractConnection
from temporalio import activity

from activities.beating import beating
from activities.rabbit_amqp import BROKEN, counts, declare_probe, probe, session, uri
from activities.rabbit_api import Api, acting, cluster_api, must_be_newest, path
from activities.rabbit_definitions import OURS
from activities.rabbit_shovels import keep_shovels_out, let_shovels_take, our_shovels, remove_shovels
from schemas.failures import DrainStalled, QueueRefused, QueueUnreachable
from schemas.queue_facts import PROBE_QUEUE, Counted, Drained, MoveOrder, QueueOrder

Place = tuple[str, str]
"""Virtual host and queue."""
_EVERY_S = 0.1
_SELDOM_S = 0.4
"""Between two looks while much is left: each look takes processor time from the shovels."""
MUCH = 4
"""As many times the messages that a shovel has under way."""
_STILL_READS = 10
TRY_S = 10.0


def shovel_name(vhost: str, queue: str) -> str:
    """The same for every attempt, so that each finds what the one before began."""
    return f"{OURS}{hashlib.sha256(f'{vhost}/{queue}'.encode()).hexdigest()[:12]}"


def shovel_of(order: MoveOrder, vhost: str, queue: str) -> dict[str, Any]:
    """A dynamic shovel on the target, which pulls: a source that is isolated need reach nobody.

    It goes to any node of the source, and starts again by itself on another node of the target.
    """
    service = order.service
    sources = [uri(service, member, vhost) for member in service.cluster(order.region)]
    targets = [uri(service, member, vhost) for member in service.cluster(order.target)]
    return {
        "src-protocol": "amqp091",
        "src-uri": sources,
        "src-queue": queue,
        "src-prefetch-count": service.drain.prefetch,
        "src-delete-after": "never",
        "dest-protocol": "amqp091",
        "dest-uri": targets,
        "dest-queue": queue,
        "dest-add-forward-headers": False,
        "ack-mode": "on-confirm",
        "reconnect-delay": 1,
    }


async def queues_of(api: Api) -> list[Place]:
    """Every durable queue of the service's virtual hosts; another's messages don't outlive its broker anyway, and an
    exclusive one answers its own connection alone."""
    found: list[Place] = []
    for vhost in api.service.vhosts:
        listed = await api.get(path("queues", vhost) + "?disable_stats=true&enable_queue_totals=true") or []
        found += [
            (vhost, each["name"])
            for each in listed
            if each.get("durable") and not each.get("exclusive") and each["name"] != PROBE_QUEUE
        ]
    return found


async def _states(api: Api) -> str:
    """What the target says of the shovels, without their addresses: these hold passwords."""
    listed = await api.get("/api/shovels") or []
    ours = [each for each in listed if str(each.get("name", "")).startswith(OURS)]
    return ", ".join(sorted({str(each.get("state", "?")) for each in ours})) or "not running"


async def _leave_none(order: MoveOrder) -> None:
    """As far as they can be reached: no shovel is left at the target, and those that are take nothing any more."""
    with contextlib.suppress(QueueUnreachable, QueueRefused):
        async with acting(order, order.target) as target:
            await remove_shovels(target)
    with contextlib.suppress(QueueUnreachable, QueueRefused):
        async with acting(order) as source:
            await keep_shovels_out(source)


@activity.defn
async def drain(order: MoveOrder) -> Drained:
    """Everything that the source holds is at the target: no message and no consumer in two reads with no shovel left.

    DrainStalled when messages are left and none has moved for the declared time, or the order's time is over; no shovel
    of ours is left then, and one that can't be reached takes nothing out of the source. An attempt that was cut off
    leaves its shovels, which go on, and the next one finds them.
    """
    service = order.service
    began = asyncio.get_running_loop().time()
    moving: dict[str, int] = {}
    silent_since: float | None = None
    # Each look has limits of its own, which add up to more than a heartbeat's where nodes are gone.
    async with beating("draining"):
        while True:
            try:
                return await _drain(order, moving, began)
            except DrainStalled:
                await _leave_none(order)
                raise
            except QueueUnreachable as error:
                # The destination may be killed in mid drain, and come back: its shovels come back with it.
                now = asyncio.get_running_loop().time()
                silent_since = silent_since or now
                if now - silent_since > service.drain.stalled_s or is_over(order):
                    await _leave_none(order)
                    raise DrainStalled(f"{order.region} to {order.target}: {error.detail}") from error
                activity.heartbeat({"waits for": error.detail})
                await asyncio.sleep(0.5)


def is_over(order: MoveOrder) -> bool:
    return order.until is not None and datetime.now(UTC) > order.until


async def _drain(order: MoveOrder, moving: dict[str, int], began: float) -> Drained:
    service, clock = order.service, asyncio.get_running_loop().time
    async with acting(order, order.target) as target:
        async with acting(order) as source:
            # Those of a move the other way would bring everything back.
            await remove_shovels(source)
            await let_shovels_take(source)
            places = await queues_of(source)
        await keep_shovels_out(target)
        last, since = -1, clock()
        while True:
            found = await counts(service, order.region, places)
            silent = [f"{vhost}/{name}" for (vhost, name), each in found.items() if each is None]
            ready = {place: each[0] for place, each in found.items() if each is not None}
            for (vhost, name), count in ready.items():
                if count or f"{vhost}/{name}" in moving:
                    moving[f"{vhost}/{name}"] = max(count, moving.get(f"{vhost}/{name}", 0))
            left = sum(ready.values())
            activity.heartbeat({"left": left, "of": sum(moving.values()), "silent": silent})
            if left != last or (not left and not silent):
                last, since = left, clock()
            if not silent and not left and await _empty(order, target, places):
                async with acting(order) as source:
                    await keep_shovels_out(source)
                return Drained(moved=moving, seconds=clock() - began)
            if clock() - since > service.drain.stalled_s or is_over(order):
                states = await _states(target)
                await remove_shovels(target)
                # Once more without them, since what they held is back by then.
                await asyncio.sleep(service.drain.settle_s)
                found = await counts(service, order.region, places)
                left = sum(each[0] for each in found.values() if each is not None)
                told = f"{left} messages" + (f", and {', '.join(silent)} do not answer" if silent else "")
                raise DrainStalled(f"{order.region} still holds {told}; the shovels are {states}")
            await _shovel(order, target, [place for place, count in ready.items() if count])
            await asyncio.sleep(_SELDOM_S if left > MUCH * service.drain.prefetch else _EVERY_S)


async def _shovel(order: MoveOrder, target: Api, places: list[Place]) -> None:
    there = await our_shovels(target)
    for vhost, queue in places:
        name = shovel_name(vhost, queue)
        if (vhost, name) not in there:
            # A worker that was frozen here may wake up in another run's time.
            async with cluster_api(order.service, order.region) as source:
                await must_be_newest(source, order)
            await target.put(path("parameters", "shovel", vhost, name), {"value": shovel_of(order, vhost, queue)})


async def _empty(order: MoveOrder, target: Api, places: list[Place]) -> bool:
    """Nothing is left, unacknowledged ones included: those come back to the queue once their consumer, the shovel, is
    gone, and show in the reads that follow."""
    found = await counts(order.service, order.region, places, proved=True)
    if any(each is None or each[0] for each in found.values()):
        return False
    await _until_still(order, target)
    await remove_shovels(target)
    reads = 0
    for _ in range(100):
        found = await counts(order.service, order.region, places)
        if any(each is None or each[0] for each in found.values()):
            return False
        if any(each[1] for each in found.values() if each is not None):
            reads = 0  # The shovel has not ended yet.
            await asyncio.sleep(0.05)
            continue
        reads += 1
        if reads == 2:
            found = await counts(order.service, order.region, places, proved=True)
            return all(each == (0, 0) for each in found.values())
        await asyncio.sleep(order.service.drain.settle_s)
    return False


async def _until_still(order: MoveOrder, target: Api) -> None:
    """What shovels hold unacknowledged when they are taken away arrives twice: a moment for the last confirms.

    Where the target is in use its counts are never still, and the moment is over."""
    places, before = await queues_of(target), None
    for _ in range(_STILL_READS):
        found = await counts(order.service, order.target, places)
        if found == before:
            return
        before = found
        await asyncio.sleep(_EVERY_S)


@activity.defn
async def count_messages(order: QueueOrder) -> Counted:
    """Messages ready in every durable queue; QueueUnreachable while one of them does not answer, or they change.

    What clients had not acknowledged comes back a moment after they were cut off: it counts once two reads are equal,
    and none only once the queue's leader says so.
    """
    found: dict[Place, tuple[int, int] | None] = {}
    async with beating("counting"):
        async with cluster_api(order.service, order.region) as api:
            places = await queues_of(api)
        for _ in range(50):
            before, found = found, await counts(order.service, order.region, places, proved=True)
            if found == before and not any(each[1] for each in found.values() if each is not None):
                break
            await asyncio.sleep(0.1)
        else:
            raise QueueUnreachable(f"what the queues of {order.region} hold does not settle: somebody is in them")
    silent = [f"{vhost}/{name}" for (vhost, name), each in found.items() if each is None]
    if silent:
        raise QueueUnreachable(f"{', '.join(silent)} in {order.region} does not say how much is in it")
    return Counted(counts={f"{vhost}/{name}": each[0] for (vhost, name), each in found.items() if each is not None})


@activity.defn
async def try_shovel(order: MoveOrder) -> float:
    """Seconds that a message of Lifeboat's own took from each virtual host of the source to the target.

    QueueUnreachable when one did not come: its way is not open, or the shovels' user is not let in.
    """
    began = asyncio.get_running_loop().time()
    async with beating("trying a shovel"), acting(order, order.target) as target:
        async with acting(order) as source:
            await keep_shovels_out(source)  # Lifeboat's own queue they may read.
        for vhost in order.service.vhosts:
            async with session(order.service, order.target, vhost) as there:
                await _one_through(order, target, vhost, there)
    return asyncio.get_running_loop().time() - began


async def _one_through(order: MoveOrder, target: Api, vhost: str, there: AbstractConnection) -> None:
    token, name = uuid.uuid4().hex, shovel_name(vhost, PROBE_QUEUE)
    where = path("parameters", "shovel", vhost, name)
    try:
        async with asyncio.timeout(TRY_S), session(order.service, order.region, vhost) as here:
            arrives = await declare_probe(await there.channel(publisher_confirms=False))
            channel = await here.channel(publisher_confirms=True, on_return_raises=True)
            await declare_probe(channel)
            await target.put(where, {"value": shovel_of(order, vhost, PROBE_QUEUE)})
            while True:
                # Again and again: somebody who verifies a route may have taken it.
                await channel.default_exchange.publish(probe(token), PROBE_QUEUE, mandatory=True)
                for _ in range(10):
                    found = await arrives.get(no_ack=True, fail=False)
                    if found is not None and found.message_id == token:
                        return
                    await asyncio.sleep(0.1)
    except (*BROKEN, aio_pika.exceptions.DeliveryError) as error:
        told = str(error) or f"not within {TRY_S:g} s; the shovels are {await _states(target)}"
        raise QueueUnreachable(f"no message comes from {order.region} to {order.target} in {vhost}: {told}") from error
    finally:
        await target.delete(where)


@activity.defn
async def stop_drain(order: MoveOrder) -> list[str]:
    """No shovel of ours is left at the target."""
    async with acting(order, order.target) as target:
        await remove_shovels(target)
        left = await our_shovels(target)
    if left:
        raise QueueUnreachable(f"{order.target} keeps the shovels {left}")
    return [f"no shovel is left in {order.target}"]
