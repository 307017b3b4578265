"""A PostgreSQL session that ends by closing its socket, and never sends a cancel.

asyncpg and psycopg cancel a statement whose limit passed, and a cancelled wait for the synchronous standby answers
success with a warning (safety.md, "What fences and what doesn't"): a witness that works so would call a stalled
primary alive. This one drives libpq itself. A statement is one round trip and its own transaction, which is also
what transaction pooling needs; asyncpg prepares in one transaction and executes in the next, maybe on another server.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import pq

Row = tuple[str | None, ...]


class Target(NamedTuple):
    """Where to connect, and as whom. `host` is an address, or a name that the caller resolves first."""

    host: str
    port: int
    user: str
    password: str
    database: str

    @classmethod
    def from_dsn(cls, dsn: str) -> Target:
        """Of `postgresql://user:password@host:port/database`; ValueError for anything less explicit."""
        parts = urlsplit(dsn)
        if not (parts.hostname and parts.port and parts.username and parts.path.strip("/")):
            raise ValueError("a lab's DSN names user, host, port and database")
        return cls(
            parts.hostname, parts.port, unquote(parts.username), unquote(parts.password or ""), parts.path.strip("/")
        )

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


class Answer(NamedTuple):
    """`warnings` are the SQLSTATEs of the warnings that came with it: 01000 may mean "committed only here"."""

    rows: list[Row]
    warnings: list[str]


class NotConnected(Exception):
    """No session could be opened within its limit; nothing was sent."""


class Refused(Exception):
    """The server answered that the statement did not happen; the session is still good."""


class Lost(Exception):
    """The session broke, or its limit passed, after the statement was sent: it may have happened or not."""


class Session:
    """One libpq connection. Every wait has a limit in seconds, after which the socket is closed."""

    def __init__(self, pg: pq.abc.PGconn) -> None:
        self._pg = pg
        self._warnings: list[str] = []
        pg.nonblocking = 1
        pg.notice_handler = self._notice

    def _notice(self, result: pq.abc.PGresult) -> None:
        if result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) == b"WARNING":
            self._warnings.append((result.error_field(pq.DiagnosticField.SQLSTATE) or b"01000").decode())

    @classmethod
    async def open(cls, target: Target, *, limit: float, name: str = "lab") -> Session:
        """Connect and authenticate within `limit` seconds, else NotConnected."""
        _forget_variables()
        options = psycopg.conninfo.make_conninfo(
            "",
            hostaddr=target.host,
            port=target.port,
            user=target.user,
            password=target.password,
            dbname=target.database,
            sslmode="disable",
            gssencmode="disable",
            client_encoding="UTF8",
            application_name=name,
        )
        pg = pq.PGconn.connect_start(options.encode())
        try:
            async with asyncio.timeout(limit):
                state = pq.PollingStatus.WRITING
                while state not in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
                    await _ready(pg.socket, read=state is pq.PollingStatus.READING)
                    state = pq.PollingStatus(pg.connect_poll())
        except (TimeoutError, OSError, psycopg.OperationalError) as error:
            pg.finish()
            raise NotConnected(f"{target.address}: {str(error) or f'no session within {limit:g} s'}") from None
        except BaseException:
            pg.finish()
            raise
        if state is pq.PollingStatus.FAILED:
            text = _one_line(pg.get_error_message())
            pg.finish()
            raise NotConnected(text)
        return cls(pg)

    async def ask(self, sql: str, *values: str | int, limit: float) -> Answer:
        """Run one statement within `limit` seconds; Refused or Lost otherwise. After Lost the session is closed."""
        self._warnings.clear()
        given = [str(value).encode() for value in values]
        try:
            async with asyncio.timeout(limit):
                self._pg.send_query_params(sql.encode(), given)
                while self._pg.flush():
                    await _ready(self._pg.socket, read=False)
                results = await self._results()
        except (TimeoutError, OSError, psycopg.OperationalError) as error:
            self.close()
            raise Lost(_one_line(str(error)) or f"no answer within {limit:g} s; the socket was closed") from None
        except BaseException:
            self.close()
            raise
        for result in results:
            if result.status != pq.ExecStatus.FATAL_ERROR:
                continue
            text = _one_line(result.get_error_message())
            severity = result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
            # A session that ends takes a commit's outcome with it: only a plain ERROR says "rolled back".
            if self._pg.status != pq.ConnStatus.OK or severity != b"ERROR":
                self.close()
                raise Lost(text)
            raise Refused(text)
        return Answer(_rows(results[-1]) if results else [], list(self._warnings))

    async def _results(self) -> list[pq.abc.PGresult]:
        results: list[pq.abc.PGresult] = []
        while True:
            while self._pg.is_busy():
                await _ready(self._pg.socket, read=True)
                self._pg.consume_input()
            result = self._pg.get_result()
            if result is None:
                return results
            results.append(result)

    @property
    def closed(self) -> bool:
        return self._pg.status != pq.ConnStatus.OK

    def close(self) -> None:
        """Close the socket, whatever is under way on it."""
        self._pg.finish()


def _forget_variables() -> None:
    """Drop PG* from this process: libpq reads them (PGSERVICE, PGOPTIONS …) however much the caller gives."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


async def _ready(fd: int, *, read: bool) -> None:
    """Wait until the socket can be read (or written)."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    add: Callable[..., None] = loop.add_reader if read else loop.add_writer
    remove: Callable[[int], bool] = loop.remove_reader if read else loop.remove_writer
    add(fd, wake)
    try:
        await future
    finally:
        remove(fd)


def _rows(result: pq.abc.PGresult) -> list[Row]:
    return [
        tuple(
            None if (value := result.get_value(row, column)) is None else value.decode()
            for column in range(result.nfields)
        )
        for row in range(result.ntuples)
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())
