"""A relay before a server that can lose the reply to a request that the server has carried out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any


class Relay:
    """TCP, and UDP as well where `udp`. `lose` is how many connections still end at the first byte of their reply."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.address = ("127.0.0.1", 0)
        self.lose = 0
        self.lost = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.close()
            return

        async def there() -> None:
            while data := await reader.read(65536):
                server_writer.write(data)
                await server_writer.drain()
            server_writer.close()

        async def back() -> None:
            while data := await server_reader.read(65536):
                if self.lose > 0 and not data.startswith(b"HTTP/1.1 100"):
                    self.lose -= 1
                    self.lost += 1
                    break
                writer.write(data)
                await writer.drain()
            writer.close()
            server_writer.close()

        with contextlib.suppress(OSError):
            await asyncio.gather(there(), back())


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        asyncio.get_running_loop().create_task(self._ask(data, addr))

    async def _ask(self, data: bytes, client: tuple[str, int]) -> None:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        class Once(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                if not answer.done():
                    answer.set_result(data)

        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Once, remote_addr=self.target)
        transport.sendto(data)
        with contextlib.suppress(TimeoutError):
            self.transport.sendto(await asyncio.wait_for(answer, 2), client)
        transport.close()


@contextlib.asynccontextmanager
async def relay(host: str, port: int, *, udp: bool = False) -> AsyncIterator[Relay]:
    """A relay to the server, on a free loopback port (`address`)."""
    made = Relay(host, port)
    server = await asyncio.start_server(made._serve, "127.0.0.1", 0)
    made.address = server.sockets[0].getsockname()[:2]
    transport: asyncio.BaseTransport | None = None
    if udp:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Udp((host, port)), local_addr=made.address
        )
    try:
        yield made
    finally:
        if transport is not None:
            transport.close()
        server.close()
