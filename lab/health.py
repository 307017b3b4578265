"""`python -m lab.health LABDIR`: the health endpoint of the strategy's tests, one path a service.

`GET /health/cache`, `/health/database`, `/health/queue`: 200 while a client of the service's name can write, 503 with
the reason otherwise. Each request writes, and nothing is remembered of the last one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path

import aio_pika
import uvloop

from lab import cache_traffic, load, queue_traffic, traffic
from lab.model import Lab
from lab.resp import Failure
from lab.wire import Lost, NotConnected, Refused
from lab.writer import WRITE_S

CHECK_S = 3.0
"""Limit of a check, before whoever asks gives up himself."""
READ_S = 2.0
"""Limit of a request's own arrival."""
_WRITE = "SELECT pg_logical_emit_message(true, 'lifeboat.health', 'x')"
"""A commit that waits for the standbys as every other, and leaves no row."""

Check = Callable[[Lab], Awaitable[None]]


class Unhealthy(Exception):
    """What a client of the service would have seen."""


async def cache(lab: Lab) -> None:
    """A key is written by way of the service's name, and read back."""
    given = load.to_cache(lab)
    value = uuid.uuid4().hex
    try:
        found = await cache_traffic.connect(given.routes["cache-dns"], given)
        try:
            commands = (("SET", "health", value, "EX", "60"), ("GET", "health"))
            written, read = await found.session.ask(*commands, limit=WRITE_S)
        finally:
            found.session.close()
    except (NotConnected, Lost) as error:
        raise Unhealthy(str(error)) from error
    if isinstance(written, Failure):
        raise Unhealthy(f"{found.address}: {written.text}")
    if read != value:
        raise Unhealthy(f"{found.address} does not give what was written")


async def database(lab: Lab) -> None:
    """A transaction is committed by way of the service's name."""
    given = load.to_database(lab)
    try:
        session = await traffic.connect(
            given.routes["dns"], dns_server=given.dns_server, addresses=given.addresses, name="health"
        )
        try:
            answer = await session.ask(_WRITE, limit=WRITE_S)
        finally:
            session.close()
    except (NotConnected, Refused, Lost) as error:
        raise Unhealthy(str(error)) from error
    if answer.warnings:
        raise Unhealthy(f"warning {', '.join(answer.warnings)}: it may be on one server alone")


async def queue(lab: Lab) -> None:
    """A message is confirmed by way of the service's name, and taken back, in a queue that ends with the session."""
    given = load.to_queue(lab)
    token = uuid.uuid4().hex
    connection = None
    try:
        connection, server = await queue_traffic.connect(given.routes["queue-dns"], given)
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        own = await channel.declare_queue(exclusive=True, auto_delete=True)
        await channel.default_exchange.publish(aio_pika.Message(token.encode()), own.name, mandatory=True)
        found = await own.get(no_ack=True, fail=False)
    except (NotConnected, *queue_traffic.BROKEN, aio_pika.exceptions.DeliveryError) as error:
        raise Unhealthy(str(error) or type(error).__name__) from error
    finally:
        await queue_traffic.leave(connection)
    if found is None or found.body.decode() != token:
        raise Unhealthy(f"{server} does not give what was published")


CHECKS: Mapping[str, Check] = {"cache": cache, "database": database, "queue": queue}
"""Part → what is tried."""


async def respond(lab: Lab, line: str) -> tuple[HTTPStatus, dict[str, object]]:
    """The answer to a request, of which `line` is the first line."""
    method, _, rest = line.partition(" ")
    part = rest.partition(" ")[0].removeprefix("/health/")
    if method != "GET":
        return HTTPStatus.METHOD_NOT_ALLOWED, {"error": "GET only"}
    if part not in lab.services:
        return HTTPStatus.NOT_FOUND, {"error": f"one of: {', '.join(f'/health/{each}' for each in lab.services)}"}
    began = time.monotonic()
    told: dict[str, object] = {"service": lab.services[part], "healthy": True}
    try:
        async with asyncio.timeout(CHECK_S):
            await CHECKS[part](lab)
    except TimeoutError:
        told |= {"healthy": False, "error": f"no answer within {CHECK_S:g} s"}
    except Unhealthy as error:
        told |= {"healthy": False, "error": str(error)}
    told["took_s"] = round(time.monotonic() - began, 3)
    return HTTPStatus.OK if told["healthy"] else HTTPStatus.SERVICE_UNAVAILABLE, told


async def serve(lab: Lab) -> None:
    """Answer at the health node's address until SIGTERM."""
    (node,) = lab.of_kind("health")

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_S):
                first = (await reader.readline()).decode("latin-1")
                while (await reader.readline()).strip():
                    pass
            status, told = await respond(lab, first)
            body = json.dumps(told).encode() + b"\n"
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            await writer.drain()
        except (OSError, TimeoutError, ValueError):
            return  # the client is gone, or never said what it wants
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = await asyncio.start_server(one, node.host, node.port)
    await stopped.wait()
    server.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.health", description=__doc__)
    parser.add_argument("folder", type=Path, help="the lab's folder")
    given = parser.parse_args(argv)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Lab.load(given.folder)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
