"""The epoch on the nodes themselves, since PostgreSQL knows none (safety.md, "The epoch").

Every act on a node happens in one session that holds an advisory lock and has seen there no newer stamp. A worker
that was frozen meanwhile and thaws later finds its session ended by the newer run, or the newer stamp.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import asyncpg

from activities.sessions import Session
from schemas.failures import EpochSuperseded, MemberUnreachable

LOCK = 0x4C69_6665_626F_6174
"""Key of the advisory lock: "Lifeboat" in ASCII."""

STAMP = "(SELECT coalesce(max(setting::bigint), 0) FROM pg_file_settings WHERE name = 'lifeboat.epoch')"
"""The stamp, read from the configuration files: it holds before the reload that shows it elsewhere."""

_HOLDERS = """
SELECT pg_terminate_backend(pid) FROM pg_locks
 WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()
   AND ((classid::bigint << 32) | objid::bigint) = $1
"""


async def stamp_of(conn: Session) -> int:
    return int(await conn.fetchval(f"SELECT {STAMP}"))


async def _lock(conn: Session, epoch: int) -> None:
    for attempt in range(4):
        try:
            await conn.execute(f"SET lock_timeout = '500ms'; SELECT pg_advisory_lock({LOCK}); SET lock_timeout = 0")
        except asyncpg.LockNotAvailableError:
            before = await stamp_of(conn)
            if before > epoch:
                raise EpochSuperseded(f"the node carries epoch {before}, this run {epoch}") from None
            # Whoever holds it for so long is frozen or dead; what it had in mind ends with its session.
            if attempt >= 1:
                try:
                    await conn.execute(_HOLDERS, LOCK)
                except asyncpg.InsufficientPrivilegeError as error:
                    raise MemberUnreachable(f"a superuser's session holds the lock of the epoch: {error}") from error
        else:
            return
    raise MemberUnreachable("the advisory lock of the epoch stays taken")


@contextlib.asynccontextmanager
async def guarded(conn: Session, epoch: int) -> AsyncIterator[None]:
    """Hold the node's lock and stamp it with `epoch`; EpochSuperseded if it carries a newer one."""
    await _lock(conn, epoch)
    try:
        held = await stamp_of(conn)
        if held > epoch:
            raise EpochSuperseded(f"the node carries epoch {held}, this run {epoch}")
        if held < epoch:
            # ALTER SYSTEM takes a custom parameter only after this session has made it known (PostgreSQL 15).
            await conn.execute(f"SET lifeboat.epoch = '{epoch:d}'")
            await conn.execute(f"ALTER SYSTEM SET lifeboat.epoch = '{epoch:d}'")
        yield
    finally:
        if not conn.is_closed():
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                await conn.execute(f"RESET lifeboat.epoch; SELECT pg_advisory_unlock({LOCK})")
