"""Reading the members: role, positions, timeline, receiver, stamp, synchronous set."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime

import asyncpg
from temporalio import activity

from activities import epoch as epochs
from activities.sessions import BROKEN, Session, session
from activities.stamp import STAMP
from schemas.facts import EpochRecord, MemberFacts, Receiver, Standby
from schemas.failures import EpochUnavailable, MemberUnreachable
from schemas.orders import Estate, Observation
from schemas.topology import DatabaseService, Member
from schemas.zones import Zone

# pg_control_checkpoint() is stale, and a standby may have no receiver: its timeline is the highest that it holds WAL of
# (the names in pg_wal), a primary's that of the WAL file that it writes.
# The heartbeat is opt-in: its table may be missing, or locked by a DDL that the primary did not live to finish, and a
# statement that names it would fail or wait. So it is asked for by name, within the same round trip.
_HEARTBEAT = """
(SELECT CASE WHEN has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
                  AND NOT EXISTS (SELECT FROM pg_locks
                                   WHERE relation = c.oid AND mode = 'AccessExclusiveLock' AND granted)
             THEN to_timestamp(substring(
                    query_to_xml('SELECT extract(epoch FROM at) AS at FROM lifeboat.heartbeat WHERE id = 1',
                                 true, true, '')::text FROM '<at>([0-9.]+)</at>')::float8)
        END
   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE pg_is_in_recovery() AND n.nspname = 'lifeboat' AND c.relname = 'heartbeat' AND c.relkind = 'r')"""

_FACTS = rf"""
SELECT pg_is_in_recovery() AS in_recovery,
       (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
       CASE WHEN pg_is_in_recovery()
            THEN greatest(
                   (SELECT max(coalesce(received_tli, receive_start_tli)) FROM pg_stat_wal_receiver),
                   (SELECT ('x' || max(substr(name, 1, 8)))::bit(32)::int FROM pg_ls_waldir()
                     WHERE name ~ '^[0-9A-F]{{24}}$'),
                   (SELECT min_recovery_end_timeline FROM pg_control_recovery()))
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
       END AS timeline,
       CASE WHEN pg_is_in_recovery() THEN (pg_last_wal_receive_lsn() - '0/0')::bigint END AS received,
       CASE WHEN pg_is_in_recovery() THEN (pg_last_wal_replay_lsn() - '0/0')::bigint END AS replayed,
       CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_lsn() - '0/0')::bigint END AS written,
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS replay_age,
       {_HEARTBEAT} AS heartbeat,
       current_setting('primary_conninfo', true) AS conninfo,
       current_setting('synchronous_standby_names') AS names,
       {STAMP} AS stamp,
       r.status, r.sender_host, r.sender_port,
       extract(epoch FROM clock_timestamp() - r.last_msg_receipt_time)::float8 AS silent,
       extract(epoch FROM current_setting('wal_receiver_timeout')::interval)::float8 AS receiver_timeout
  FROM (SELECT 1) one LEFT JOIN pg_stat_wal_receiver r ON true
"""

_STANDBYS = """
SELECT application_name AS name, coalesce(state, '') AS state, coalesce(sync_state, '') AS sync_state,
       (flush_lsn - '0/0')::bigint AS flushed, (replay_lsn - '0/0')::bigint AS replayed
  FROM pg_stat_replication WHERE application_name <> '' AND state IS NOT NULL
"""


def upstream(conninfo: str | None) -> str:
    """`host:port` of a primary_conninfo, "" when it names none."""
    values: dict[str, str] = {}
    for part in (conninfo or "").split():
        key, _, value = part.partition("=")
        values[key] = value.strip("'")
    return f"{values['host']}:{values.get('port', '5432')}" if values.get("host") else ""


async def read_member(conn: Session, member: Member) -> MemberFacts:
    """One member as it is now, over an open session."""
    row = await conn.fetchrow(_FACTS)
    assert row is not None
    fed = [] if row["in_recovery"] else await conn.fetch(_STANDBYS)
    standbys = [Standby(**dict(found)) for found in fed]
    receiver = None
    if row["status"] is not None:
        receiver = Receiver(
            sender_host=row["sender_host"] or "",
            sender_port=row["sender_port"] or 0,
            status=row["status"],
            silent_s=row["silent"] if row["silent"] is not None else 0.0,
            timeout_s=row["receiver_timeout"],
        )
    return MemberFacts(
        member=member.name,
        at=datetime.now(UTC),
        reachable=True,
        in_recovery=row["in_recovery"],
        system_identifier=row["system_identifier"],
        timeline=row["timeline"] or 0,
        received=row["received"],
        replayed=row["replayed"],
        written=row["written"],
        follows=upstream(row["conninfo"]),
        receiver=receiver,
        replay_age_s=row["replay_age"],
        heartbeat=row["heartbeat"],
        stamp=row["stamp"],
        synchronous_names=row["names"],
        standbys=standbys,
    )


def unreachable(member: Member, error: BaseException) -> MemberFacts:
    return MemberFacts(
        member=member.name, at=datetime.now(UTC), reachable=False, error=str(error) or type(error).__name__
    )


STORE_S = 2.0
"""Limit of reading the epoch's record: a look goes on without it, and says so."""


async def look(service: DatabaseService, member: Member, *, limit: float = 1.0) -> MemberFacts:
    """One member as it is now; a member that can't be read is a fact too, never an exception."""
    try:
        async with asyncio.timeout(limit), session(service, member, limit=limit) as conn:
            return await read_member(conn, member)
    except (MemberUnreachable, *BROKEN, asyncpg.PostgresError) as error:
        return unreachable(member, error)


async def look_at_all(service: DatabaseService, members: Iterable[Member], *, limit: float = 1.0) -> list[MemberFacts]:
    return list(await asyncio.gather(*(look(service, member, limit=limit) for member in members)))


@activity.defn
async def observe(estate: Estate) -> Observation:
    """Every member and the epoch's record, at once. Nothing is changed, and nothing out of reach is an error."""
    return await look_around(estate.service, estate.zone)


@activity.defn
async def until_led(estate: Estate) -> str:
    """Wait until whoever should lead by the record does, and no promotion is under way; their name."""
    while True:
        seen = await look_around(estate.service, estate.zone)
        if seen.led_by is not None:
            return seen.led_by
        activity.heartbeat({"doing": "waiting until somebody leads", "record": str(seen.record)})
        await asyncio.sleep(1)


async def look_around(service: DatabaseService, zone: Zone, *, limit: float = 1.0) -> Observation:
    """As `observe`; a member that has not answered within `limit` seconds is out of reach."""
    members = asyncio.create_task(look_at_all(service, service.members, limit=limit))
    record, error = await read_record(service, zone)
    return Observation(record=record, epoch_error=error, members=await members)


async def read_record(service: DatabaseService, zone: Zone) -> tuple[EpochRecord | None, str]:
    """The epoch's record (None: there is none), and why it can't be read; never an exception."""
    try:
        async with asyncio.timeout(STORE_S):
            return await epochs.read(zone, service.name), ""
    except EpochUnavailable as unavailable:
        return None, str(unavailable)
    except TimeoutError:
        return None, str(EpochUnavailable(f"no answer within {STORE_S:g} s"))
