"""One member's part of a preflight: its settings, slots, archiver, clock and rights. Everything is only read."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime

import asyncpg

from activities.privileges import lacking, replication_lacking, rewind_lacking
from activities.sessions import BROKEN, Session, session
from activities.survey import read_member, unreachable
from schemas.failures import MemberUnreachable, SecretUnavailable
from schemas.ready import Override, Server, Slot
from schemas.topology import DatabaseService, Member

LIMIT_S = 2.5
"""Limit of one member, which may be frozen."""

SETTINGS = (
    "archive_command",
    "archive_library",
    "archive_mode",
    "cluster_name",
    "data_checksums",
    "default_transaction_read_only",
    "fsync",
    "full_page_writes",
    "hot_standby",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "primary_slot_name",
    "recovery_min_apply_delay",
    "recovery_target_timeline",
    "restore_command",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_keep_size",
    "wal_level",
    "wal_log_hints",
    "wal_receiver_timeout",
    "wal_segment_size",
)
_WITHOUT_VALUE = {"archive_command", "archive_library", "restore_command"}
"""May hold credentials: whether there is one is enough."""

_READ = """
SELECT current_setting('server_version_num')::int AS version, current_setting('primary_conninfo', true) AS conninfo,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
       (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user) AS makes_slots,
       CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() <> 'not paused' ELSE false END AS paused,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int AS sessions
"""
_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)"
_PENDING = "SELECT name FROM pg_settings WHERE pending_restart ORDER BY name"
_OVERRIDES = """
SELECT coalesce(r.rolname, '') AS role, coalesce(d.datname, '') AS database,
       split_part(c.given, '=', 1) AS setting, substr(c.given, strpos(c.given, '=') + 1) AS value
  FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) AS c (given)
  LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
 WHERE split_part(c.given, '=', 1) IN ('synchronous_commit', 'default_transaction_read_only')
"""
_SLOTS = """
SELECT slot_name AS name, slot_type = 'physical' AS physical, active, coalesce(wal_status, '') AS wal_status
  FROM pg_replication_slots WHERE NOT temporary
"""
_ARCHIVER = """
SELECT last_failed_wal || ' at ' || to_char(last_failed_time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
  FROM pg_stat_archiver
 WHERE last_failed_time > coalesce(last_archived_time, '-infinity') AND current_setting('archive_mode') <> 'off'
"""
_ARCHIVED = """
SELECT coalesce(last_archived_wal, '') AS archived,
       extract(epoch FROM clock_timestamp() - last_archived_time)::float AS archived_age_s FROM pg_stat_archiver
"""


async def look_at_server(service: DatabaseService, member: Member) -> Server:
    """A member that can't be read is a fact too, never an exception."""
    try:
        async with asyncio.timeout(LIMIT_S), session(service, member) as conn:
            return await _read(conn, service, member)
    except (MemberUnreachable, SecretUnavailable, *BROKEN, asyncpg.PostgresError) as error:
        return Server(seen=unreachable(member, error))


async def _read(conn: Session, service: DatabaseService, member: Member) -> Server:
    access = service.access
    rewind_role = access.rewind_user or access.replication_user
    clock_s, round_trip_s = await _clock(conn)
    row = await conn.fetchrow(_READ)
    assert row is not None
    settings = {each["name"]: each["setting"] or "" for each in await conn.fetch(_SETTINGS, list(SETTINGS))}
    settings |= {name: "(set)" for name in _WITHOUT_VALUE if settings.get(name)}
    conninfo = row["conninfo"] or ""
    return Server(
        seen=await read_member(conn, member),
        version=row["version"],
        settings=settings,
        pending=[each["name"] for each in await conn.fetch(_PENDING)],
        overrides=[Override(**dict(each)) for each in await conn.fetch(_OVERRIDES)],
        slots=[Slot(**dict(each)) for each in await conn.fetch(_SLOTS)],
        archiver_failing=await conn.fetchval(_ARCHIVER) or "",
        **dict(await conn.fetchrow(_ARCHIVED) or {}),
        application_name=application_name(conninfo, settings.get("cluster_name", "")),
        slot=settings.get("primary_slot_name", ""),
        password_in_conninfo=re.search(r"(^|\s)password\s*=", conninfo) is not None,
        replay_paused=row["paused"],
        sessions=row["sessions"],
        bytes=await _bytes(conn),
        superuser=row["superuser"],
        makes_slots=row["makes_slots"],
        lacking=await lacking(conn, service),
        rewind_role=rewind_role,
        rewind_lacking=await rewind_lacking(conn, rewind_role),
        replication_lacking=await replication_lacking(conn, access.replication_user),
        clock_s=clock_s,
        round_trip_s=round_trip_s,
    )


async def _bytes(conn: Session) -> int:
    """Counted file by file, so that many tables take long: then it is not known."""
    try:
        return int(await conn.fetchval("SELECT sum(pg_database_size(oid))::bigint FROM pg_database", timeout=1.0) or 0)
    except TimeoutError:
        return 0


async def _clock(conn: Session) -> tuple[float, float]:
    """The server's clock less this worker's at the middle of the round trip, and that trip's length."""
    before = datetime.now(UTC)
    there: datetime = await conn.fetchval("SELECT clock_timestamp()")
    after = datetime.now(UTC)
    return (there - (before + (after - before) / 2)).total_seconds(), (after - before).total_seconds()


def application_name(conninfo: str, cluster_name: str) -> str:
    """What a receiver calls itself: PostgreSQL 15, section 20.6.3 (primary_conninfo)."""
    match = re.search(r"(?:^|\s)application_name\s*=\s*'?([^'\s]+)", conninfo)
    return match[1] if match else cluster_name or "walreceiver"
