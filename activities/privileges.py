"""What Lifeboat's own role may do on a member: missing rights are found by a plan, not in a failover."""

from __future__ import annotations

import asyncpg
from temporalio import activity

from activities.sessions import BROKEN, Session, session
from schemas.failures import MemberUnreachable
from schemas.orders import PrivilegeOrder
from schemas.topology import DatabaseService

_LACKING = """
SELECT what FROM (VALUES
    ('pg_monitor', pg_has_role('pg_monitor', 'USAGE')),
    ('pg_signal_backend', pg_has_role('pg_signal_backend', 'USAGE')),
    ('pg_checkpoint', pg_has_role('pg_checkpoint', 'USAGE')),
    ('ALTER SYSTEM on primary_conninfo', has_parameter_privilege('primary_conninfo', 'ALTER SYSTEM')),
    ('ALTER SYSTEM on synchronous_standby_names',
     has_parameter_privilege('synchronous_standby_names', 'ALTER SYSTEM')),
    ('ALTER SYSTEM on lifeboat.epoch', has_parameter_privilege('lifeboat.epoch', 'ALTER SYSTEM')),
    ('EXECUTE on pg_reload_conf()', has_function_privilege('pg_reload_conf()', 'EXECUTE')),
    ('EXECUTE on pg_promote(boolean, integer)', has_function_privilege('pg_promote(boolean, integer)', 'EXECUTE')),
    ('SELECT on pg_file_settings', has_table_privilege('pg_file_settings', 'SELECT')
        AND has_function_privilege('pg_show_all_file_settings()', 'EXECUTE')),
    ('INSERT, UPDATE and SELECT on lifeboat.probe for ' || $1, CASE
        WHEN to_regclass('lifeboat.probe') IS NULL OR to_regrole(quote_ident($1)) IS NULL THEN false
        ELSE has_table_privilege($1, 'lifeboat.probe', 'INSERT') AND has_table_privilege($1, 'lifeboat.probe', 'UPDATE')
         AND has_table_privilege($1, 'lifeboat.probe', 'SELECT') END),
    ('INSERT and UPDATE on lifeboat.heartbeat', CASE
        WHEN NOT $2 THEN true WHEN to_regclass('lifeboat.heartbeat') IS NULL THEN false
        ELSE has_table_privilege('lifeboat.heartbeat', 'INSERT')
         AND has_table_privilege('lifeboat.heartbeat', 'UPDATE') END)
) AS needed (what, held) WHERE NOT held
"""


# pg_rewind's manual, "Notes": what its role needs on the source, which is read over SQL.
_REWIND_LACKING = """
SELECT f FROM unnest(ARRAY['pg_ls_dir(text, boolean, boolean)', 'pg_stat_file(text, boolean)',
                           'pg_read_binary_file(text)', 'pg_read_binary_file(text, bigint, bigint, boolean)']) AS f
 WHERE CASE WHEN to_regrole(quote_ident($1)) IS NULL THEN true ELSE NOT has_function_privilege($1, f, 'EXECUTE') END
"""

_REPLICATION_LACKING = """
SELECT CASE WHEN r.rolname IS NULL THEN 'is missing' WHEN NOT r.rolcanlogin THEN 'lacks LOGIN'
            WHEN NOT (r.rolreplication OR r.rolsuper) THEN 'lacks REPLICATION' ELSE '' END
  FROM (SELECT 1) one LEFT JOIN pg_roles r ON r.rolname = $1
"""


async def lacking(conn: Session, service: DatabaseService) -> list[str]:
    """What lab/etc/lifeboat.sql grants Lifeboat's roles and this database has not."""
    access = service.access
    rows = await conn.fetch(_LACKING, access.probe_user or access.user, service.detection.heartbeat)
    return [row["what"] for row in rows]


async def rewind_lacking(conn: Session, role: str) -> list[str]:
    """The functions that pg_rewind calls on its source, and that `role` may not."""
    return [row["f"] for row in await conn.fetch(_REWIND_LACKING, role)]


async def replication_lacking(conn: Session, role: str) -> str:
    """What keeps `role` from replicating: `is missing`, `lacks LOGIN` …, or ""."""
    return str(await conn.fetchval(_REPLICATION_LACKING, role))


@activity.defn
async def missing_privileges(order: PrivilegeOrder) -> list[str]:
    """What lab/etc/lifeboat.sql grants and this member's database has not. MemberUnreachable when it can't be asked."""
    member = order.service.member(order.member)
    try:
        async with session(order.service, member) as conn:
            return await lacking(conn, order.service)
    except (*BROKEN, asyncpg.PostgresError) as error:
        raise MemberUnreachable(f"{member.name}: {error}") from error
