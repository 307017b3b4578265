"""What clients of a route get: a message published with confirm and `mandatory`, and read back."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from datetime import UTC, datetime, timedelta

import aio_pika
from temporalio import activity

from activities.addresses import address_of
from activities.beating import beating
from activities.names import ask
from activities.rabbit_amqp import BROKEN, connect, end
from activities.zones import names_of
from schemas.facts import RouteWrite
from schemas.failures import LifeboatError, QueueUnreachable, RouteUnavailable
from schemas.queue import QueueService
from schemas.queue_facts import PROBE_QUEUE, RouteCheck
from schemas.routes import DnsRoute
from schemas.zones import Zone

VERIFY_S = 3.0
"""How long a route is tried again."""
MESSAGE_S = 2.0
DIRECT = "the node itself"


async def resolve_route(zone: Zone, route: DnsRoute) -> tuple[str, int]:
    servers = await names_of(zone).servers()
    found = await ask(servers[-1], route.record, "A")
    if not found:
        raise RouteUnavailable(f"{route.record} has no address")
    return found[0], route.port


async def round_trip(service: QueueService, host: str, port: int, vhost: str) -> datetime:
    """When the broker confirmed; QueueUnreachable says what did not work."""
    connection = await connect(service, host, port, vhost)
    token = uuid.uuid4().hex
    try:
        async with asyncio.timeout(MESSAGE_S):
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            queue = await channel.declare_queue(PROBE_QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
            message = aio_pika.Message(b"", message_id=token, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, PROBE_QUEUE, mandatory=True)
            at = datetime.now(UTC)
            # Others' probes, of other regions or of attempts that were cut off, are taken out as well.
            while (found := await queue.get(no_ack=True, fail=False, timeout=MESSAGE_S)) is not None:
                if found.message_id == token:
                    return at
            # Somebody else's look took ours out: it was there.
            return at
    except (*BROKEN, aio_pika.exceptions.DeliveryError) as error:
        raise QueueUnreachable(f"{host}:{port}, {vhost}: {str(error) or type(error).__name__}") from error
    finally:
        with contextlib.suppress(Exception):
            await end(connection)


async def write_through(check: RouteCheck, route: DnsRoute | None) -> RouteWrite:
    """Every virtual host through one route; never an exception."""
    service, expected = check.service, check.service.member(check.expected)
    name = route.name if route is not None else DIRECT
    at, server, error = datetime.now(UTC), "", ""
    try:
        host, port = (expected.host, expected.port) if route is None else await resolve_route(check.zone, route)
        server = f"{host}:{port}"
        for vhost in service.vhosts:
            at = await round_trip(service, host, port, vhost)
        if server != f"{await address_of(expected.host)}:{expected.port}" and route is not None:
            error = f"it leads to {server}, not to {check.expected}"
    except LifeboatError as failure:
        error = failure.detail or str(failure)
    return RouteWrite(route=name, region=check.region, at=at, ok=not error, server=server, error=error)


@activity.defn
async def verify_queue_routes(check: RouteCheck) -> list[RouteWrite]:
    """Through every route from this region, again for up to 3 s where it failed."""
    routes: list[DnsRoute | None] = [*check.service.routes] or [None]
    until = datetime.now(UTC) + timedelta(seconds=VERIFY_S)
    results: dict[int, RouteWrite] = {}
    async with beating("publishing through every route"):
        while True:
            waiting = [index for index in range(len(routes)) if index not in results or not results[index].ok]
            found = await asyncio.gather(*(write_through(check, routes[index]) for index in waiting))
            results.update(zip(waiting, found, strict=True))
            if all(each.ok for each in results.values()) or datetime.now(UTC) > until:
                return [results[index] for index in range(len(routes))]
            await asyncio.sleep(0.05)
