"""Messages of RabbitMQ: sessions with a limit, live counts of queues, and what a refusal looks like."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable
from urllib.parse import quote, urlencode

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from aiormq.exceptions import (
    AMQPConnectionError,
    AMQPError,
    ChannelInvalidStateError,
    InvalidFrameError,
    ProbableAuthenticationError,
)

from activities.secrets import resolve
from schemas.failures import QueueRefused, QueueUnreachable
from schemas.queue import Broker, QueueService
from schemas.queue_facts import PROBE_QUEUE

CONNECT_S = 2.0
CALL_S = 2.0
HEADER = b"AMQP\x00\x00\x09\x01"
"""Of AMQP 0-9-1 (§4.2.2): a broker answers with Connection.Start; a frozen one takes the connection, and is silent."""

REFUSALS = (InvalidFrameError, ProbableAuthenticationError)
"""What aiormq makes of a broker that closes a connection while it is opened: a virtual host that the user may not see,
or whose limit of connections is reached (`Connection.Close` in place of `Connection.OpenOk`), or a login refused."""
BROKEN = (AMQPError, AMQPConnectionError, ChannelInvalidStateError, ConnectionError, OSError, TimeoutError)


def tls_of(service: QueueService) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=service.access.tls_ca) if service.access.tls else None


async def speaks(member: Broker, limit: float, *, tls: bool | ssl.SSLContext = False) -> bool:
    """Whether the node speaks AMQP within `limit` seconds; with `tls` True only that it takes connections."""
    writer: asyncio.StreamWriter | None = None
    context = tls if isinstance(tls, ssl.SSLContext) else None
    try:
        async with asyncio.timeout(limit):
            reader, writer = await asyncio.open_connection(member.host, member.port, ssl=context)
            if tls is True:
                return True
            writer.write(HEADER)
            # A method frame on channel 0.
            return (await reader.readexactly(3)) == b"\x01\x00\x00"
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    finally:
        if writer is not None:
            writer.close()


async def connect(
    service: QueueService,
    host: str,
    port: int,
    vhost: str,
    *,
    user: str | None = None,
    password: str | None = None,
    limit: float = CONNECT_S,
) -> AbstractConnection:
    """A session as `user`, Lifeboat's own otherwise. QueueRefused when it is not let in, else QueueUnreachable."""
    secret = password if user is not None else resolve(service.access.password)
    where = f"{host}:{port}, virtual host {vhost}"
    try:
        async with asyncio.timeout(limit):
            return await aio_pika.connect(
                host=host,
                port=port,
                login=user or service.access.user,
                password=secret or "",
                virtualhost=vhost,
                ssl=service.access.tls,
                ssl_context=tls_of(service),
                timeout=limit,
                client_properties={"connection_name": "lifeboat"},
            )
    except REFUSALS as error:
        raise QueueRefused(f"{where} lets {user or service.access.user} not in: {error}") from error
    except BROKEN as error:
        raise QueueUnreachable(f"{where}: {str(error) or type(error).__name__}") from error


@contextlib.asynccontextmanager
async def session(service: QueueService, region: str, vhost: str) -> AsyncIterator[AbstractConnection]:
    """A session of Lifeboat's own with the first node of the region's cluster that gives one."""
    why: list[str] = []
    for member in service.cluster(region):
        try:
            connection = await connect(service, member.host, member.port, vhost)
        except QueueUnreachable as error:
            why.append(error.detail)
            continue
        try:
            yield connection
        finally:
            await end(connection)
        return
    raise QueueUnreachable("; ".join(why) or f"{service.name} has no member in {region}")


async def end(connection: AbstractConnection) -> None:
    """Close it; one that is gone already, or hangs, is left."""
    with contextlib.suppress(*BROKEN, asyncio.CancelledError):
        async with asyncio.timeout(1.0):
            await connection.close()


async def count(connection: AbstractConnection, name: str) -> tuple[int, int] | None:
    """Messages ready, and consumers, as the queue itself says; None when it doesn't.

    The management API's own figures are up to 5 s old (quorum_tick_interval, collect_statistics_interval), and would
    call a queue empty that is not.
    """
    channel: AbstractChannel | None = None
    try:
        async with asyncio.timeout(CALL_S):
            channel = await connection.channel(publisher_confirms=False)
            queue = await channel.declare_queue(name, passive=True)
            result = queue.declaration_result
            return int(result.message_count or 0), int(result.consumer_count or 0)
    except (*BROKEN, aio_pika.exceptions.ChannelClosed):
        return None
    finally:
        if channel is not None and not channel.is_closed:
            with contextlib.suppress(*BROKEN):
                async with asyncio.timeout(1.0):
                    await channel.close()


async def holds_nothing(connection: AbstractConnection, name: str) -> bool:
    """Whether the queue's leader, asked for a message, has none.

    A passive declaration is no proof of that: a quorum queue whose leader does not answer within 250 ms is said to hold
    0 messages (`rabbit_quorum_queue:stat`), as if it were empty, and so is one right after a restart, until its member
    has applied its log [T]. False where it has one, or nobody could say. A quorum queue with a single active consumer
    gives none to anybody who asks, and its count must do.
    """
    channel: AbstractChannel | None = None
    try:
        async with asyncio.timeout(CALL_S):
            channel = await connection.channel(publisher_confirms=False)
            queue = await channel.get_queue(name, ensure=False)
            found = await queue.get(no_ack=False, fail=False, timeout=CALL_S)
            if found is not None:
                await found.nack(requeue=True)
            return found is None
    except (*BROKEN, aio_pika.exceptions.ChannelClosed) as error:
        return "single active consumer" in str(error)
    finally:
        if channel is not None and not channel.is_closed:
            with contextlib.suppress(*BROKEN):
                async with asyncio.timeout(1.0):
                    await channel.close()


async def counts(
    service: QueueService, region: str, names: Iterable[tuple[str, str]], *, proved: bool = False
) -> dict[tuple[str, str], tuple[int, int] | None]:
    """(virtual host, queue) → messages ready and consumers, all of them at once; None where nobody could say.

    `proved`: a queue counts as empty only if its leader says so when it is asked for a message.
    """
    by_vhost: dict[str, list[str]] = {}
    for vhost, name in names:
        by_vhost.setdefault(vhost, []).append(name)

    async def of(vhost: str, wanted: list[str]) -> dict[tuple[str, str], tuple[int, int] | None]:
        try:
            async with session(service, region, vhost) as connection:
                found = await asyncio.gather(*(count(connection, name) for name in wanted))
                empty = (
                    [name for name, each in zip(wanted, found, strict=True) if each is not None and each[0] == 0]
                    if proved
                    else []
                )
                sure = await asyncio.gather(*(holds_nothing(connection, name) for name in empty))
                doubtful = {name for name, each in zip(empty, sure, strict=True) if not each}
                found = [None if name in doubtful else each for name, each in zip(wanted, found, strict=True)]
        except (QueueUnreachable, QueueRefused):
            found = [None] * len(wanted)
        return {(vhost, name): each for name, each in zip(wanted, found, strict=True)}

    answers = await asyncio.gather(*(of(vhost, wanted) for vhost, wanted in by_vhost.items()))
    return {place: each for answer in answers for place, each in answer.items()}


async def declare_probe(channel: AbstractChannel) -> AbstractQueue:
    """Lifeboat's own queue of the virtual host."""
    return await channel.declare_queue(PROBE_QUEUE, durable=True, arguments={"x-queue-type": "quorum"})


def probe(token: str) -> aio_pika.Message:
    return aio_pika.Message(b"", message_id=token, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)


def uri(service: QueueService, member: Broker, vhost: str) -> str:
    """Where a shovel goes, as its own user. It holds the password, and leaves this process for the broker only."""
    access = service.access
    login = f"{quote(access.shovel_user, safe='')}:{quote(resolve(access.shovel_password) or '', safe='')}"
    scheme = "amqps" if access.tls else "amqp"
    more = {"heartbeat": "5", "connection_timeout": "3000"}
    return f"{scheme}://{login}@{member.host}:{member.port}/{quote(vhost, safe='')}?{urlencode(more)}"
