"""How many rows the service's tables should have: for a heap whose files were cut off, checksums and amcheck hold too.

A table's number rises and falls in its own time. So a copy is judged by two manifests, one from before its moment,
which came along in it, and one from after: a table that had many rows in both and not half of them here is short.
Where VACUUM has passed since, the leader itself takes the table for empty. So a table is short as well where it is
still in the same file, and the leader has not deleted as many rows as it has lost.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
from temporalio import activity

from activities.beating import beating
from activities.commands import TIMED_OUT
from activities.restore_host import COMMAND_S, ask
from activities.sessions import BROKEN, session
from schemas.failures import ManifestMissing, MemberUnreachable, RestoreHostFailed
from schemas.manifest import Counted, CountOrder, Kept, Manifest, ManifestOrder

TABLES = 200
"""The largest are written down, and those that had many rows lately: one whose files were cut off is small."""
KNOWN = "7 days"
LEAST_ROWS = 1000
"""Fewer may come and go."""
SHARE = 0.5
"""Estimates lag behind: by a tenth before autovacuum's next ANALYZE, and by more after a failover."""
COUNT_S = 900.0
"""All tables together; those that take longer are told as not counted."""
KEPT = "90 days"

# A server that was promoted begins its counters anew, and an ANALYZE in the session that loaded a table has its rows
# counted twice; reltuples is what the last ANALYZE had found. Where there are both, the lower one.
_ROWS = f"""
WITH known AS (
  SELECT DISTINCT t->>'name' AS name
    FROM lifeboat.manifest m, jsonb_array_elements(m.rows) t
   WHERE m.at > now() - interval '{KNOWN}' AND (t->>'rows')::bigint >= {LEAST_ROWS}
), found AS (
  SELECT format('%I.%I', n.nspname, c.relname) AS name, c.relpersistence = 'u' AS unlogged,
         coalesce(least(nullif(s.n_live_tup, 0), nullif(greatest(c.reltuples, 0), 0)), 0)::bigint AS rows,
         coalesce(s.n_live_tup, 0) AS live, coalesce(s.n_tup_del, 0) AS deleted,
         pg_relation_filenode(c.oid)::bigint AS filenode,
         row_number() OVER (ORDER BY c.relpages DESC, c.oid) AS place
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
   WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND n.nspname <> 'lifeboat'
     AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
), life AS (
  SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || ' ' || greatest(d.stats_reset, b.stats_reset) AS since
    FROM pg_stat_bgwriter b, pg_stat_database d
   WHERE d.datname = current_database() AND current_setting('track_counts')::bool
)
SELECT name, unlogged, rows, live, deleted, filenode, (SELECT since FROM life) AS since
  FROM found WHERE place <= {TABLES} OR name IN (SELECT name FROM known)
 ORDER BY place LIMIT {2 * TABLES}
"""
_WRITE = f"""
WITH gone AS (DELETE FROM lifeboat.manifest WHERE at < now() - interval '{KEPT}')
INSERT INTO lifeboat.manifest (run, rows) VALUES ($1, $2) ON CONFLICT (run) DO NOTHING
"""
_WRITTEN = "SELECT at, rows FROM lifeboat.manifest WHERE run = $1"
_THERE = "SELECT to_regclass('lifeboat.manifest') IS NOT NULL"
_NEWEST = "SELECT extract(epoch FROM at) FROM lifeboat.manifest ORDER BY at >= '{}', at DESC LIMIT 1"
# That of this run may have come along, where the copy is newer than it: it is now's, and says nothing of before.
_LISTED = f"""
SELECT t->>'name', t->>'rows'
  FROM (SELECT rows FROM lifeboat.manifest ORDER BY at >= '{{}}', at DESC LIMIT 1) m, jsonb_array_elements(m.rows) t
 WHERE NOT (t->>'unlogged')::bool AND (t->>'rows')::bigint >= {LEAST_ROWS}
"""
# Of each table, in the file and the life of the counters in which the leader has it now: what it had when most rows had
# ever come into it. Rows that were not counted alive do not count: reltuples lags behind a DELETE.
_MOST = f"""
SELECT DISTINCT ON (t.name) t.name, t.filenode, t.since, least(t.rows, t.live), t.deleted
  FROM lifeboat.manifest m,
       jsonb_to_recordset(m.rows)
         AS t(name text, unlogged bool, rows bigint, live bigint, filenode bigint, deleted bigint, since text)
 WHERE m.at < '{{at}}' AND t.since = '{{since}}' AND t.filenode IN ({{filenodes}})
   AND NOT t.unlogged AND least(t.rows, t.live) >= {LEAST_ROWS} AND t.live IS NOT NULL
 ORDER BY t.name, least(t.rows, t.live) + t.deleted DESC, m.at DESC
"""
_STILL = "SELECT relpersistence FROM pg_class WHERE oid = to_regclass('{}')"


@activity.defn
async def write_manifest(order: ManifestOrder) -> Manifest:
    """The leader's tables with their rows, kept in it, so that every later backup brings it along. MemberUnreachable.

    ManifestMissing where the leader lacks the table: `lifeboat.sql` is to be carried out there.
    """
    service, leader = order.service, order.service.member(order.leader)
    try:
        async with beating(f"counting the tables of {leader.name}"), session(service, leader) as conn:
            row = await conn.fetchrow(_WRITTEN, order.run)
            if row is None:
                found = [dict(each) for each in await conn.fetch(_ROWS)]
                await conn.execute(_WRITE, order.run, json.dumps(found))
                row = await conn.fetchrow(_WRITTEN, order.run)
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError) as error:
        told = f"{leader.name}: {error}; a superuser must carry out lifeboat.sql there once more"
        raise ManifestMissing(told) from error
    except (*BROKEN, asyncpg.PostgresError) as error:
        raise MemberUnreachable(f"{leader.name}: {error}") from error
    assert row is not None
    tables: list[dict[str, Any]] = json.loads(row["rows"])
    return Manifest(
        at=row["at"],
        rows={each["name"]: each["rows"] for each in tables if not each["unlogged"]},
        unlogged=[each["name"] for each in tables if each["unlogged"]],
        kept=[Kept.model_validate(each) for each in tables if not each["unlogged"] and Kept.known(each)],
    )


@activity.defn
async def count_rows(order: CountOrder) -> Counted:
    """The copy's tables that should have many rows, each counted. What can't be read is short as well."""
    database = order.service.access.database
    doing: dict[str, object] = {"doing": "counting rows"}

    async def rows(sql: str, limit: float = COMMAND_S) -> list[str]:
        return (await ask(order, "query", database, sql, limit=limit)).get("row", [])

    async with beating(doing):
        if await rows(_THERE) != ["t"]:
            return Counted(why="the backup has no manifest: a superuser must carry out lifeboat.sql on the leader")
        at = order.now.at.isoformat()
        written = await rows(_NEWEST.format(at))
        if not written:
            return Counted(why="no manifest is as old as the copy: BackupTake writes one, and so does BackupVerify")
        listed = dict(each.rsplit("|", 1) for each in await rows(_LISTED.format(at)))
        both = in_both({name: int(count) for name, count in listed.items()}, order.now.rows)
        kept = order.now.kept
        most = await rows(_most(order.now)) if kept else []
        lasting = not_deleted([_kept(each) for each in most], kept)
        end = asyncio.get_running_loop().time() + COUNT_S
        short: list[str] = []
        counted: dict[str, int] = {}
        uncounted: list[str] = []
        for name, least in expected(both, lasting).items():
            doing["table"] = name
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                uncounted.append(name)
                continue
            try:
                quoted = name.replace("'", "''")
                if await rows(_STILL.format(quoted)) != ["p"]:
                    short.append(f"{name} is not in it, and was there before and after")
                    continue
                (count,) = await rows(f"SELECT count(*) FROM {name}", left)
            except RestoreHostFailed as error:
                if f"exited {TIMED_OUT}" in error.detail:
                    uncounted.append(name)
                    continue
                short.append(f"{name} can't be counted: {error.detail}")
                continue
            counted[name] = int(count)
            if counted[name] < least * SHARE:
                short.append(f"{name} has {count} rows, and {_why(name, least, both)}")
    return Counted(
        short=short, counted=counted, uncounted=uncounted, since=datetime.fromtimestamp(float(written[0]), UTC)
    )


def _most(now: Manifest) -> str:
    filenodes = ", ".join(str(each.filenode) for each in now.kept)
    return _MOST.format(at=now.at.isoformat(), since=now.kept[0].since, filenodes=filenodes)


def _kept(line: str) -> Kept:
    name, filenode, since, rows, deleted = line.rsplit("|", 4)
    return Kept(name=name, filenode=int(filenode), since=since, rows=int(rows), deleted=int(deleted))


def _why(name: str, least: int, both: Mapping[str, int]) -> str:
    if both.get(name) == least:
        return f"had about {least} before and after"
    return f"should have about {least}: it had them, and the leader has neither deleted nor truncated them since"


def in_both(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """How many rows each table has at least had, before and after."""
    return {name: min(rows, now[name]) for name, rows in before.items() if name in now}


def not_deleted(before: Sequence[Kept], now: Sequence[Kept]) -> dict[str, int]:
    """How many rows each table must still have, by what the leader has deleted since.

    Rows are estimates, and deletions are counted: where more than half were deleted, the difference says nothing.
    """
    lives = {(each.name, each.filenode, each.since): each for each in now}
    found: dict[str, int] = {}
    for each in before:
        if later := lives.get((each.name, each.filenode, each.since)):
            left = each.rows - (later.deleted - each.deleted)
            if left >= each.rows * SHARE:
                found[each.name] = left
    return found


def expected(both: Mapping[str, int], lasting: Mapping[str, int]) -> dict[str, int]:
    """How many rows each table must have, where that are many; the fewest first."""
    most = {name: max(both.get(name, 0), lasting.get(name, 0)) for name in {**both, **lasting}}
    return {name: rows for name, rows in sorted(most.items(), key=lambda each: each[1]) if rows >= LEAST_ROWS}
