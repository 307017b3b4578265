"""PCP, Pgpool-II's control protocol, as far as reads need it (its src/libs/pcp/pcp.c; the same from 4.3 to 4.7).

Spoken here rather than by `pcp_attach_node` and its like: Debian has those only with the server, they take a password
from a file or a terminal, and answer in text that differs from version to version.

A message is a letter, four bytes of length that count themselves, and the body. The password is never sent:
md5(md5(md5(password) + user) + salt) is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import struct
from collections.abc import AsyncIterator, Sequence

from activities.secrets import resolve
from schemas.failures import RouteUnavailable
from schemas.reads import PgpoolRoute

LIMIT_S = 2.0
"""Limit of one connection with its orders: a change of backends ends Pgpool-II's PCP processes."""
_AGAIN_S = 0.05
SERVES = (1, 2)
"""Status of a backend that clients get: not connected to yet, or in use. 3 is down, 0 unused."""
AT_ONCE = 8
"""Orders in one connection: Pgpool-II's queue has ten places (MAX_REQUEST_QUEUE_SIZE), and what finds none is lost."""
_LONGEST = 1 << 16


class Backend:
    """One of `pcp_node_info`: its address, its status, and since when (seconds since 1970, by Pgpool-II's clock)."""

    def __init__(self, host: str, port: int, status: int, since: int) -> None:
        self.host, self.port, self.status, self.since = host, port, status, since

    @property
    def serves(self) -> bool:
        return self.status in SERVES


def _md5(text: bytes) -> str:
    return hashlib.md5(text, usedforsecurity=False).hexdigest()


def answer_to(salt: bytes, user: str, password: str) -> str:
    stored = _md5(password.encode())
    return _md5(_md5(stored.encode() + user.encode()).encode() + salt)


class Session:
    """An open, authenticated connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, letter: bytes, *fields: str) -> None:
        body = b"".join(field.encode() + b"\0" for field in fields)
        self.writer.write(letter + struct.pack("!i", len(body) + 4) + body)

    async def receive(self, letter: bytes) -> bytes:
        """The body of the next message; RouteUnavailable for an error that Pgpool-II tells, or another message."""
        while True:
            found = await self.reader.readexactly(1)
            (length,) = struct.unpack("!i", await self.reader.readexactly(4))
            if not 4 <= length <= _LONGEST:
                raise RouteUnavailable(f"it speaks no PCP: a message of {length} bytes")
            body = await self.reader.readexactly(length - 4)
            if found == letter:
                return body
            if found == b"E":
                # Fields as PostgreSQL's: a letter and a text each.
                told = [part[1:].decode(errors="replace") for part in body.split(b"\0") if part[:1] in (b"M", b"D")]
                raise RouteUnavailable(": ".join(told) or "PCP failed")
            if found != b"N":
                raise RouteUnavailable(f"it answers {found!r} for {letter!r}")


async def _authenticated(route: PgpoolRoute, host: str) -> Session:
    """Tried again where the connection ends before: nothing is ordered yet, and PCP's processes end after a change."""
    while True:
        reader, writer = await asyncio.open_connection(host, route.pcp_port)
        made = Session(reader, writer)
        try:
            made.send(b"M")
            salt = (await made.receive(b"m"))[:4]
            made.send(b"R", route.pcp_user, answer_to(salt, route.pcp_user, resolve(route.pcp_password) or ""))
            await made.receive(b"r")
            return made
        except (EOFError, ConnectionResetError, BrokenPipeError):
            writer.close()
            await asyncio.sleep(_AGAIN_S)
        except BaseException:
            writer.close()
            raise


@contextlib.asynccontextmanager
async def session(route: PgpoolRoute) -> AsyncIterator[Session]:
    """RouteUnavailable within LIMIT_S, which the order within it has a part of."""
    host = route.pcp_host or route.host
    made: Session | None = None
    try:
        async with asyncio.timeout(LIMIT_S):
            made = await _authenticated(route, host)
            yield made
    except RouteUnavailable as error:
        raise RouteUnavailable(f"Pgpool-II {route.name}, PCP at {host}:{route.pcp_port}: {error.detail}") from error
    except (OSError, EOFError, TimeoutError) as error:
        why = str(error) or f"no answer within {LIMIT_S:g} s"
        raise RouteUnavailable(f"Pgpool-II {route.name}, PCP at {host}:{route.pcp_port}: {why}") from error
    finally:
        if made is not None:
            # Told, or its log has a line of a client that was lost, each second.
            with contextlib.suppress(OSError):
                made.writer.write(b"X" + struct.pack("!i", 4))
            made.writer.close()


async def backends(route: PgpoolRoute) -> dict[int, Backend]:
    """Every backend by its number. Asked twice where the connection ended: PCP's processes end after a change."""
    try:
        return await _backends(route)
    except RouteUnavailable as error:
        if not isinstance(error.__cause__, (EOFError, ConnectionError)):
            raise
        return await _backends(route)


async def _backends(route: PgpoolRoute) -> dict[int, Backend]:
    found: dict[int, Backend] = {}
    async with session(route) as made:
        made.send(b"I", "-1")
        while True:
            kind, *fields = (await made.receive(b"i")).rstrip(b"\0").decode(errors="replace").split("\0")
            if kind == "CommandComplete":
                return found
            if kind == "NodeInfo":
                host, port, status = fields[0], int(fields[1]), int(fields[2])
                found[len(found)] = Backend(host, port, status, int(fields[-1]))


async def change(route: PgpoolRoute, out: Sequence[int], into: Sequence[int]) -> None:
    """Detach some backends at once, which cuts the sessions on them, and attach others.

    All are sent together, AT_ONCE at most: Pgpool-II ends its children with each, and its PCP processes after the last.
    So what became of them is for a look to say, whether or not each was answered.
    """
    async with session(route) as made:
        for letter, numbers in ((b"D", out), (b"C", into)):
            for number in numbers:
                made.send(letter, str(number))
        with contextlib.suppress(EOFError, ConnectionResetError):
            for answer in (*[b"d"] * len(out), *[b"c"] * len(into)):
                await made.receive(answer)
