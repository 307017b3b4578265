"""Words of the tests on RabbitMQ: what lies where, publishing and taking by hand, shovels as nobody should use them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import aio_pika

from lab import load, queue_traffic, rabbit
from lab.ledger import Ledger
from lab.model import Lab
from lab.queue_referee import QueueAudit, audit
from lab.queue_traffic import Deliveries, deliveries_of, leave, note

WEST = "rabbit-west-1"


async def until(what: str, condition: Callable[[], Awaitable[Any]], limit: float = 30) -> Any:
    end = time.monotonic() + limit
    while not (found := await condition()):
        assert time.monotonic() < end, f"{what}: not within {limit:.0f} s"
        await asyncio.sleep(0.1)
    return found


async def fill(lab: Lab, count: int, route: str = "queue-dns") -> float:
    with Ledger(lab.ledger) as notes:
        return await queue_traffic.fill(load.to_queue(lab), notes, route, count)


async def empty(lab: Lab) -> None:
    """Consume everything that is in the queues of the cluster that serves."""
    await queue_traffic.empty(load.to_queue(lab))


async def judged(lab: Lab) -> QueueAudit:
    return await audit(lab)


async def ready(lab: Lab, name: str, vhost: str = "counting") -> int:
    """Messages ready in the virtual host's queue, as the node's queue itself says."""
    return await rabbit.ready(lab, lab.node(name), vhost)


async def session(lab: Lab, name: str, vhost: str = "counting", user: str = "referee") -> Any:
    node = lab.node(name)
    return await aio_pika.connect(
        host=node.host,
        port=node.port,
        login=user,
        password=lab.secret(f"queue-{user}"),
        virtualhost=vhost,
        timeout=5,
    )


async def take_one(lab: Lab, name: str, *, noted: bool) -> str:
    """Acknowledge one message; without `noted` no ledger says that it was ever delivered."""
    connection = await session(lab, name)
    notes = Deliveries(deliveries_of(lab.ledger))
    try:
        channel = await connection.channel(publisher_confirms=False)
        queue = await channel.declare_queue(rabbit.QUEUES["counting"], passive=True)
        found = await queue.get(timeout=5)
        assert found is not None
        if noted:
            note(notes, found, "queue-dns", name)
        await found.ack()
        return found.message_id or ""
    finally:
        notes.close()
        await leave(connection)


async def leave_behind(lab: Lab, name: str, count: int) -> None:
    """Confirmed by a cluster that lets no client in: by the referee's user, and noted as any client's."""
    node = lab.node(name)
    given = load.to_queue(lab)
    way = given.routes["queue-dns"]._replace(host=node.host, user="referee", password=lab.secret("queue-referee"))
    with Ledger(lab.ledger) as notes:
        await queue_traffic.fill(replace(given, routes={"queue-dns": way}), notes, "queue-dns", count, "left-behind")


async def shovel(lab: Lab, ack_mode: str, *, source: str = "rabbit-east-1", target: str = WEST) -> None:
    """Move the quorum queue by hand, from the node that has it: nothing is closed, and nothing is looked at after."""
    password = lab.secret("queue-referee")
    places = {name: f"amqp://referee:{password}@{lab.node(name).address}/counting" for name in (source, target)}
    value = {
        "src-protocol": "amqp091",
        "src-uri": places[source],
        "src-queue": "counts",
        "src-prefetch-count": 1000,
        "dest-protocol": "amqp091",
        "dest-uri": places[target],
        "dest-queue": "counts",
        "dest-queue-args": {"x-queue-type": "quorum"},
        "ack-mode": ack_mode,
        "reconnect-delay": 1,
    }
    async with rabbit.Management(lab, lab.node(source)) as api:
        await api.call("PUT", "parameters", "shovel", "counting", "by-hand", body={"value": value})


async def end_shovel(lab: Lab, source: str = "rabbit-east-1") -> None:
    async with rabbit.Management(lab, lab.node(source)) as api:
        await api.call("DELETE", "parameters", "shovel", "counting", "by-hand")
