"""Counts through the queue: publishers with confirms and `mandatory`, consumers that acknowledge by hand.

Publishes go into the ledger as every other write; what was delivered stands in a file of its own beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aiormq.exceptions import AMQPError, ChannelInvalidStateError
from pydantic import BaseModel, ConfigDict, ValidationError

from lab import writer
from lab.errors import LabError
from lab.ledger import Entry, Ledger
from lab.wire import NotConnected
from lab.writer import CONNECT_S, RETRIES, WRITE_S, inside, is_address, resolve

PREFETCH = 50
WORK_S = 0.002
"""What a consumer does with each message, one after another: a backlog is not gone in a moment."""
AGAIN_S = 0.05
"""A consumer that lost its broker tries again after this."""
_BATCH = 500
BROKEN = (AMQPError, ChannelInvalidStateError, ConnectionError, OSError, TimeoutError)
# Whatever they log is raised as well.
for _name in ("aiormq", "aio_pika"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class Route(NamedTuple):
    """One way to the broker that serves, and the queue that is written through it."""

    user: str
    password: str
    host: str
    port: int
    vhost: str
    queue: str

    @classmethod
    def from_dsn(cls, dsn: str) -> Self:
        """Of the DSNs of lab/routing.py."""
        parts = urlsplit(dsn)
        queue = parse_qs(parts.query)["queue"][0]
        password = unquote(parts.password or "")
        return cls(parts.username or "", password, parts.hostname or "", parts.port or 0, parts.path.strip("/"), queue)


@dataclass(frozen=True)
class Traffic:
    """What runs: `routes` by name, each about `rate` messages a second; the rest as of the database's traffic."""

    routes: dict[str, Route]
    addresses: frozenset[str]
    dns_server: str
    deliveries: Path
    rate: float = 25.0


class Delivery(BaseModel):
    """A message that a consumer was given. `seq` counts the messages of its publisher."""

    model_config = ConfigDict(frozen=True)

    id: str
    route: str
    writer: str
    seq: int
    at: float
    server: str
    redelivered: bool = False


def deliveries_of(ledger: Path) -> Path:
    return ledger.with_name("deliveries.jsonl")


def read_deliveries(path: Path) -> list[Delivery]:
    """Every delivery; empty where nobody consumed. LabError for a line that is none."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    try:
        return [Delivery.model_validate_json(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]
    except ValidationError as error:
        raise LabError(f"{path} holds what is no delivery: {error}") from error


class Deliveries:
    """Appends deliveries, each a whole line in one write()."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def record(self, found: Delivery) -> None:
        os.write(self._fd, found.model_dump_json(exclude_defaults=True).encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)


async def connect(route: Route, traffic: Traffic) -> tuple[AbstractConnection, str]:
    """A session along the route, and with whom; NotConnected."""
    host = route.host if is_address(route.host) else await resolve(traffic.dns_server, route.host)
    server = f"{host}:{route.port}"
    inside(server, traffic.addresses)
    try:
        async with asyncio.timeout(CONNECT_S):
            connection = await aio_pika.connect(
                host=host,
                port=route.port,
                login=route.user,
                password=route.password,
                virtualhost=route.vhost,
                timeout=CONNECT_S,
            )
    except BROKEN as error:
        raise NotConnected(f"{server}: {str(error) or type(error).__name__}") from error
    return connection, server


async def leave(connection: AbstractConnection | None) -> None:
    if connection is not None:
        with contextlib.suppress(*BROKEN, asyncio.CancelledError):
            async with asyncio.timeout(0.5):
                await connection.close()


def message(entry_id: str, publisher: str, seq: int) -> aio_pika.Message:
    return aio_pika.Message(
        b"%d" % seq,
        message_id=entry_id,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        headers={"writer": publisher, "seq": seq},
    )


@dataclass
class Publisher(writer.Writer):
    """A client that publishes one message after another, and connects anew after every error."""

    way: Route
    traffic: Traffic
    seq: Iterable[int] = field(default_factory=lambda: itertools.count(1))
    connection: AbstractConnection | None = field(default=None, init=False)
    channel: AbstractChannel | None = field(default=None, init=False)
    server: str = field(default="", init=False)

    async def write(self, entry: Entry) -> bool:
        try:
            if self.channel is None or self.channel.is_closed:
                await self._connect()
        except NotConnected as error:
            self.note_failure(entry, str(error))
            await self._leave()
            return False
        assert self.channel is not None
        entry = entry.model_copy(update={"sent": time.time(), "server": self.server})
        try:
            async with asyncio.timeout(WRITE_S):
                await self.channel.default_exchange.publish(
                    message(entry.id, self.name, next(iter(self.seq))), self.way.queue, mandatory=True
                )
        except aio_pika.exceptions.DeliveryError as error:
            # Returned as unroutable, or refused: the broker has answered, and holds nothing of it.
            self.note_failure(entry, f"returned: {error}")
            return False
        except BROKEN as error:
            await self._leave()
            told = str(error) or f"no confirmation within {WRITE_S:g} s"
            self.ledger.record(entry.model_copy(update={"outcome": "unknown", "error": told}))
            return False
        self.ledger.record(entry.model_copy(update={"acked": time.time(), "outcome": "acknowledged"}))
        return True

    async def _connect(self) -> None:
        await self._leave()
        self.connection, self.server = await connect(self.way, self.traffic)
        try:
            async with asyncio.timeout(CONNECT_S):
                self.channel = await self.connection.channel(publisher_confirms=True, on_return_raises=True)
        except BROKEN as error:
            raise NotConnected(f"{self.server}: {str(error) or type(error).__name__}") from error

    async def _leave(self) -> None:
        connection, self.connection, self.channel = self.connection, None, None
        await leave(connection)

    def close(self) -> None:
        if self.connection is not None:
            asyncio.ensure_future(self._leave())  # noqa: RUF006 - the process ends after it

    async def run(self) -> None:
        await super().run()
        await self._leave()


@dataclass
class Consumer:
    """A client that is given messages, notes each, and only then acknowledges it."""

    route: str
    way: Route
    traffic: Traffic
    stop: asyncio.Event
    work_s: float = WORK_S

    async def run(self) -> None:
        notes = Deliveries(self.traffic.deliveries)
        try:
            while not self.stop.is_set():
                connection: AbstractConnection | None = None
                try:
                    connection, server = await connect(self.way, self.traffic)
                    await self._consume(connection, server, notes)
                except (NotConnected, *BROKEN):
                    pass
                finally:
                    await leave(connection)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stop.wait(), AGAIN_S)
        finally:
            notes.close()

    async def _consume(self, connection: AbstractConnection, server: str, notes: Deliveries) -> None:
        async with asyncio.timeout(CONNECT_S):
            channel = await connection.channel(publisher_confirms=False)
            await channel.set_qos(prefetch_count=PREFETCH)
            queue = await channel.declare_queue(self.way.queue, passive=True)

            busy = asyncio.Lock()

            async def take(found: AbstractIncomingMessage) -> None:
                async with busy:
                    if channel.is_closed:
                        return
                    note(notes, found, self.route, server)
                    await asyncio.sleep(self.work_s)
                    with contextlib.suppress(*BROKEN):
                        await found.ack()

            await queue.consume(take)
        ended = asyncio.ensure_future(self.stop.wait())
        try:
            while not (ended.done() or channel.is_closed or connection.is_closed):
                await asyncio.wait([ended], timeout=0.02)
        finally:
            ended.cancel()


def note(notes: Deliveries, found: AbstractIncomingMessage, route: str, server: str) -> None:
    headers = found.headers or {}
    notes.record(
        Delivery(
            id=found.message_id or "",
            route=route,
            writer=str(headers.get("writer", "")),
            seq=int(str(headers.get("seq", 0))),
            at=time.time(),
            server=server,
            redelivered=bool(found.redelivered),
        )
    )


def writers(
    traffic: Traffic, ledger: Ledger, stop: asyncio.Event, on_first: Callable[[str], None]
) -> list[writer.Writer]:
    """The publishers of every route."""
    return [
        Publisher(f"{name}-{number}", name, ledger, stop, on_first, traffic.rate, retry, route, traffic)
        for name, route in traffic.routes.items()
        for number, retry in enumerate(RETRIES, start=1)
    ]


def consumers(traffic: Traffic, stop: asyncio.Event, work_s: float = WORK_S) -> list[Consumer]:
    return [Consumer(name, route, traffic, stop, work_s) for name, route in traffic.routes.items()]


async def fill(traffic: Traffic, ledger: Ledger, name: str, count: int, publisher: str = "filler") -> float:
    """Publish `count` messages along a route, many at a time, and note each; seconds. LabError for one that failed."""
    route = traffic.routes[name]
    connection, server = await connect(route, traffic)
    began = time.monotonic()
    try:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)

        async def one(seq: int) -> Entry:
            entry = Entry(id=str(uuid.uuid4()), route=name, writer=publisher, sent=time.time(), outcome="acknowledged")
            await channel.default_exchange.publish(message(entry.id, publisher, seq), route.queue, mandatory=True)
            return entry.model_copy(update={"acked": time.time(), "server": server})

        for first in range(1, count + 1, _BATCH):
            found = await asyncio.gather(*(one(seq) for seq in range(first, min(first + _BATCH, count + 1))))
            for entry in found:
                ledger.record(entry)
    except BROKEN as error:
        raise LabError(f"{server}: {str(error) or type(error).__name__}") from error
    finally:
        await leave(connection)
    return time.monotonic() - began


async def empty(traffic: Traffic, quiet_s: float = 1.0, limit: float = 60.0) -> None:
    """Consume what is in the queues of every route, until nothing has come for a while."""
    stop = asyncio.Event()
    running = [asyncio.ensure_future(each.run()) for each in consumers(traffic, stop, 0.0)]
    until, size, since = time.monotonic() + limit, -1, time.monotonic()
    try:
        while time.monotonic() < until and time.monotonic() - since < quiet_s:
            await asyncio.sleep(0.1)
            found = traffic.deliveries.stat().st_size if traffic.deliveries.exists() else 0
            if found != size:
                size, since = found, time.monotonic()
    finally:
        stop.set()
        await asyncio.gather(*running, return_exceptions=True)
