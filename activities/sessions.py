"""PostgreSQL sessions: short connection limits, and a few kept warm, since a SCRAM handshake costs a failover 10 ms.

A kept session is only a faster way to ask: whatever it says is read from the server at that moment, and one that
broke is replaced once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from activities.secrets import resolve
from schemas.failures import MemberUnreachable
from schemas.topology import DatabaseAccess, DatabaseService, Member

if TYPE_CHECKING:
    Session = asyncpg.Connection[Any]
else:  # generic for the type checker only
    Session = asyncpg.Connection

CONNECT_S = 1.0
"""Limit of one connection attempt to a server that may be frozen."""
COMMAND_S = 3.0
"""Limit of one statement, unless it says otherwise. asyncpg sends a cancel then, and a commit whose wait for standbys
is cancelled counts: so the proof of a fence closes its socket instead (fencing.prove_fence)."""

BROKEN = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)
"""What a server that went away, or is on its way up or down, raises."""

OURS = {"default_transaction_read_only": "off"}
"""A service that was made read-only for its clients still has its heartbeat, and is still worked on."""

_kept: dict[tuple[int, str, int, str], list[Session]] = {}
_KEEP = 2


def host_port(host: str, port: int) -> str:
    return f"{host}:{port}"


def _tls(access: DatabaseAccess) -> Any:
    """What asyncpg takes as `ssl`: a declared root certificate counts, else the one in libpq's usual place."""
    if access.sslmode == "disable":
        return False
    if access.sslrootcert is None or access.sslmode not in ("verify-ca", "verify-full"):
        return access.sslmode
    context = ssl.create_default_context(cafile=access.sslrootcert)
    context.check_hostname = access.sslmode == "verify-full"
    return context


async def open_session(
    service: DatabaseService,
    host: str,
    port: int,
    *,
    user: str | None = None,
    password: str | None = None,
    database: str | None = None,
    limit: float = CONNECT_S,
    statements: int = 0,
    settings: Mapping[str, str] | None = None,
) -> Session:
    """A new session as Lifeboat's own role, or `user`; MemberUnreachable within `limit` seconds otherwise.

    It keeps up to `statements` prepared ones; none through a pooler, which may give each another server.
    """
    access = service.access
    try:
        # pgpassfile and the environment are never consulted: everything that counts is given here.
        return await asyncio.wait_for(
            asyncpg.connect(
                host=host,
                port=port,
                user=user or access.user,
                password=password if user else (resolve(access.password) or ""),
                database=database or access.database,
                ssl=_tls(access),
                timeout=limit,
                command_timeout=COMMAND_S,
                statement_cache_size=statements,
                target_session_attrs=SessionAttribute.any,
                server_settings={"application_name": "lifeboat", **(settings or {})},
            ),
            limit + 0.5,
        )
    except BROKEN as error:
        raise MemberUnreachable(f"{host}:{port}: {type(error).__name__}: {error}") from error
    except asyncpg.PostgresError as error:
        raise MemberUnreachable(f"{host}:{port}: {error}") from error


@contextlib.asynccontextmanager
async def session(service: DatabaseService, member: Member, *, limit: float = CONNECT_S) -> AsyncIterator[Session]:
    """A warm session where one is kept and still answers, else a new one; kept afterwards if nothing went wrong."""
    key = (id(asyncio.get_running_loop()), member.host, member.port, service.access.database)
    kept = _kept.setdefault(key, [])
    conn: Session | None = None
    while kept and conn is None:
        candidate = kept.pop()
        try:
            await candidate.execute("SELECT pg_advisory_unlock_all()", timeout=limit)
            conn = candidate
        except (*BROKEN, asyncpg.PostgresError):
            candidate.terminate()
    if conn is None:
        conn = await open_session(service, member.host, member.port, limit=limit, statements=20, settings=OURS)
    try:
        yield conn
    except BaseException:
        conn.terminate()
        raise
    if conn.is_closed() or conn.is_in_transaction() or len(kept) >= _KEEP:
        conn.terminate()
    else:
        kept.append(conn)


def literal(value: str) -> str:
    """A string constant, for statements that take no parameters (standard_conforming_strings is on)."""
    return "'" + value.replace("'", "''") + "'"


async def nudge(conn: Session) -> None:
    """Reload the configuration: it also wakes a startup process that waits out wal_retrieve_retry_interval."""
    await conn.execute("SELECT pg_reload_conf()")
