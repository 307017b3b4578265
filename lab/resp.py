"""A session with Redis or Sentinel that never repeats a command: client libraries do so, and a witness may not.

Of the protocol (RESP2) what the lab needs. Every wait has a limit, after which the socket is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lab.wire import Lost, NotConnected


@dataclass(frozen=True)
class Failure:
    """An error that the server answered: the command did not happen."""

    text: str


Reply: TypeAlias = "str | int | Failure | list[Reply] | None"
_BROKEN = (OSError, EOFError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ValueError)
_BUFFER = 2**20


def pack(*commands: Sequence[str]) -> bytes:
    """The commands as they go over the wire, one after the other."""
    parts = []
    for words in commands:
        parts.append(b"*%d\r\n" % len(words))
        for word in words:
            text = word.encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(text), text))
    return b"".join(parts)


class Session:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int, user: str, password: str, *, limit: float) -> Session:
        """Connect and authenticate within `limit` seconds, else NotConnected. A server that loads is connected to."""
        try:
            async with asyncio.timeout(limit):
                reader, writer = await asyncio.open_connection(host, port, limit=_BUFFER)
        except _BROKEN as error:
            raise NotConnected(f"{host}:{port}: {str(error) or f'no connection within {limit:g} s'}") from error
        session = cls(reader, writer)
        try:
            (reply,) = await session.ask(("AUTH", user, password), limit=limit)
        except Lost as error:
            raise NotConnected(f"{host}:{port}: {error}") from error
        if isinstance(reply, Failure):
            session.close()
            raise NotConnected(f"{host}:{port}: {reply.text}")
        return session

    async def ask(self, *commands: Sequence[str], limit: float) -> list[Reply]:
        """The commands in one round trip, and an answer to each; Lost when not all of them came within `limit` s."""
        try:
            async with asyncio.timeout(limit):
                self._writer.write(pack(*commands))
                await self._writer.drain()
                return [await self._reply() for _ in commands]
        except _BROKEN as error:
            self.close()
            raise Lost(str(error) or f"no answer within {limit:g} s; the socket was closed") from error
        except BaseException:
            self.close()
            raise

    async def pushed(self) -> Reply:
        """The next message of a subscription, however long it takes; Lost when the connection ends."""
        try:
            return await self._reply()
        except _BROKEN as error:
            self.close()
            raise Lost(str(error)) from error

    async def _reply(self) -> Reply:
        line = await self._reader.readuntil(b"\r\n")
        kind, text = line[:1], line[1:-2].decode()
        match kind:
            case b"+":
                return text
            case b"-":
                return Failure(text)
            case b":":
                return int(text)
            case b"$":
                if text == "-1":
                    return None
                return (await self._reader.readexactly(int(text) + 2))[:-2].decode()
            case b"*":
                return None if text == "-1" else [await self._reply() for _ in range(int(text))]
        raise ValueError(f"no reply begins with {kind!r}")

    @property
    def closed(self) -> bool:
        return self._writer.is_closing() or self._reader.at_eof()

    def close(self) -> None:
        """Close the socket, whatever is under way on it."""
        self._writer.transport.abort()


def info(reply: Reply) -> dict[str, str]:
    """What INFO says, by its own names; empty for anything else."""
    if not isinstance(reply, str):
        return {}
    pairs = (line.partition(":") for line in reply.splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}
