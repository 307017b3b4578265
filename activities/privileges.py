"""What Lifeboat's own role may do on a member: missing rights are found by a plan, not in a failover."""

from __future__ import annotations

import asyncpg
from temporalio import activity

from activities.sessions import BROKEN, session
from schemas.failures import MemberUnreachable
from schemas.orders import PrivilegeOrder

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


@activity.defn
async def missing_privileges(order: PrivilegeOrder) -> list[str]:
    """What lab/etc/lifeboat.sql grants and this member's database has not. MemberUnreachable when it can't be asked."""
    access = order.service.access
    member = order.service.member(order.member)
    try:
        async with session(order.service, member) as conn:
            rows = await conn.fetch(_LACKING, access.probe_user or access.user, order.service.detection.heartbeat)
    except (*BROKEN, asyncpg.PostgresError) as error:
        raise MemberUnreachable(f"{member.name}: {error}") from error
    return [row["what"] for row in rows]
