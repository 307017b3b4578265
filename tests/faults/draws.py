"""What new sessions of a pooler may do: each tries a write, in a server session of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg

from activities import pooler
from lab.layout import HOME
from schemas.routes import PgBouncerRoute
from tests.faults.restore_scene import RestoreScene

READ_ONLY = "25006"
"""read_only_sql_transaction"""
AT_ONCE = 15
"""Fewer than a pool has; more than the lab's load takes."""
WRITE = "INSERT INTO drawn DEFAULT VALUES"


def poolers(scene: RestoreScene) -> list[PgBouncerRoute]:
    return [route for route in scene.service().routes if isinstance(route, PgBouncerRoute)]


@contextlib.asynccontextmanager
async def client(scene: RestoreScene, database: str) -> AsyncIterator[asyncpg.Connection]:
    """A client of the first pooler."""
    name = {"counting": "pgbouncer-transaction", "counting_session": "pgbouncer-session"}[database]
    dsn = urlsplit(scene.lab.routes[name])
    conn = await asyncpg.connect(
        host=dsn.hostname,
        port=dsn.port,
        user=dsn.username,
        password=dsn.password,
        database=database,
        ssl=False,
        statement_cache_size=0,
        timeout=5,
        command_timeout=10,
    )
    try:
        yield conn
    finally:
        conn.terminate()


async def tried(conn: asyncpg.Connection) -> str:
    """`written`, or the error's SQLSTATE; `cut` where the session has ended."""
    try:
        await conn.execute(WRITE)
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)
    except (asyncpg.InterfaceError, OSError):
        return "cut"
    return "written"


@contextlib.asynccontextmanager
async def writer(scene: RestoreScene) -> AsyncIterator[asyncpg.Connection]:
    """A client of the session pool, whose session has drawn that it may write, and which stays."""
    database = "counting_session"
    while True:
        async with client(scene, database) as conn:
            if await tried(conn) == "written":
                yield conn
                return
        async with pooler.console(poolers(scene)[0]) as console:
            await console.execute(f'RECONNECT "{database}"')


async def drawn(scene: RestoreScene, sessions: int, database: str = "counting", *, anew: bool = True) -> Counter[str]:
    """So many new server sessions: a round of clients holds one each until all have theirs, then they are ended, or
    left to the next clients (`anew` False).
    """
    found: Counter[str] = Counter()
    (route, *_) = poolers(scene)
    while found.total() < sessions:
        all_there = asyncio.Barrier(AT_ONCE)

        async def one(all_there: asyncio.Barrier = all_there) -> str:
            async with client(scene, database) as conn:
                await conn.execute("BEGIN")
                await asyncio.wait_for(all_there.wait(), 20)
                told = await tried(conn)
                await conn.execute("ROLLBACK")
                return told

        found.update(await asyncio.gather(*(one() for _ in range(AT_ONCE))))
        if anew:
            async with pooler.console(route) as console:
                await console.execute(f'RECONNECT "{database}"')
    return found


async def table(scene: RestoreScene) -> None:
    """What they write to."""
    await scene.sql("CREATE TABLE drawn (id serial, at timestamptz DEFAULT now())", "SELECT 1")
    await scene.sql("GRANT INSERT ON drawn TO app", "GRANT USAGE ON SEQUENCE drawn_id_seq TO app", "SELECT 1")


async def leftovers(scene: RestoreScene, member: str = HOME) -> list[str]:
    """Whatever a recovery may have left of its stages."""
    found = [
        f"{route.name}: {line}"
        for route in poolers(scene)
        for line in open_text(route).splitlines()
        if "connect_query" in line
    ]
    for each in scene.service().member_names():
        row = await scene.sql(
            "SELECT count(*) AS n FROM pg_file_settings WHERE name = 'default_transaction_read_only'", member=each
        )
        found += [f"{each}: default_transaction_read_only"] * row["n"]
    row = await scene.sql(
        "SELECT count(*) AS n FROM pg_db_role_setting WHERE setconfig::text ~ 'read_only'", member=member
    )
    return found + ["a role's or database's setting"] * row["n"]


def open_text(route: PgBouncerRoute) -> str:
    with open(route.databases_file, encoding="utf-8") as file:
        return file.read()
