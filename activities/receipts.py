"""The receipt: the WAL that only one member has, kept on its node and counted before anything starts or rewinds it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from temporalio import activity

from activities.beating import beating
from activities.data_folder import run_job
from activities.sessions import session
from schemas.facts import lsn_text
from schemas.receipts import TableLoss
from schemas.rejoin import Divergence, DivergenceOrder
from schemas.wal import position

_NAMES = """
SELECT rel, db <> (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS elsewhere,
       (SELECT datname FROM pg_database d WHERE d.oid::bigint = db) AS database,
       (SELECT n.nspname || '.' || coalesce(t.relname, c.relname) FROM pg_class c
          LEFT JOIN pg_class t ON t.reltoastrelid = c.oid
          JOIN pg_namespace n ON n.oid = coalesce(t.relnamespace, c.relnamespace)
         WHERE c.oid = pg_filenode_relation(CASE spc WHEN 1663 THEN 0 ELSE spc END::oid, node::oid)) AS name
  FROM (SELECT r AS rel, split_part(r, '/', 1)::bigint AS spc, split_part(r, '/', 2)::bigint AS db,
               split_part(r, '/', 3)::bigint AS node FROM unnest($1::text[]) r) AS parts
"""
"""Names of the relations' files as the leader has them: a table that was rewritten since has another file. 1663 is
pg_default, a database's usual tablespace (src/include/catalog/pg_tablespace.dat)."""

OWN = "lifeboat."
CATALOG = "pg_catalog."


def _when(text: str) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None


def first_segment(timeline: int, fork: int, segment_bytes: int) -> str:
    """The name of the WAL file that holds the fork."""
    per = 0x1_0000_0000 // segment_bytes
    number = fork // segment_bytes
    return f"{timeline:08X}{number // per:08X}{number % per:08X}"


@activity.defn
async def keep_divergence(order: DivergenceOrder) -> Divergence:
    """Copy the WAL past the fork to the node's `keep` folder, once, and count what was committed there.

    The copy is what is counted from then on, so that it can be done again after a rewind.
    """
    ident = f"{order.member}-{order.timeline:08X}-{order.fork:X}"
    words = (ident, str(order.timeline), lsn_text(order.fork))
    first = first_segment(order.timeline, order.fork, order.segment_bytes)
    async with beating(f"keeping what only {order.member} has"):
        # A server that was started since has written more: its folder is another one's, and counted anew.
        mark = lsn_text(order.checkpoint)
        found = await run_job(order, "keep", *words, first, str(order.segment_bytes), mark=mark)
        if "missing" in found:
            return Divergence(missing=found["missing"][0])
        names = await _names(order, [line.split(";")[0] for line in found.get("rows", [])])
    end = found.get("end", [""])[0]
    return _count(found, names).model_copy(
        update={
            "records": int(found["records"][0]),
            "end": position(end) if end else order.fork,
            "kept": found["kept"][0],
        }
    )


async def _names(order: DivergenceOrder, relations: list[str]) -> dict[str, str]:
    if not relations:
        return {}
    async with session(order.service, order.service.member(order.leader)) as conn:
        rows = await conn.fetch(_NAMES, relations)
    named: dict[str, str] = {}
    for row in rows:
        if row["elsewhere"]:
            named[row["rel"]] = f"{row['database']}: {row['rel']}" if row["database"] else CATALOG + row["rel"]
        else:
            named[row["rel"]] = row["name"] or row["rel"]
    return named


def _count(found: Mapping[str, list[str]], names: Mapping[str, str]) -> Divergence:
    counts = {"clients": 0, "own": 0, "catalog": 0}
    firsts: list[datetime] = []
    lasts: list[datetime] = []
    reached = 0
    for line in found.get("commits", []):
        number, first, last, at, touched = line.split(";")
        kind = _kind([names.get(rel, rel) for rel in touched.split(",") if rel])
        counts[kind] += int(number)
        if kind != "own":
            reached = max(reached, position(at))
        if kind == "clients":
            firsts += [at for at in [_when(first)] if at]
            lasts += [at for at in [_when(last)] if at]
    tables = []
    for line in found.get("rows", []):
        rel, inserted, updated, deleted = line.split(";")
        name = names.get(rel, rel)
        if not name.startswith((CATALOG, "pg_toast.")):
            tables.append(TableLoss(table=name, inserted=int(inserted), updated=int(updated), deleted=int(deleted)))
    return Divergence(
        commits=counts["clients"],
        own_commits=counts["own"],
        catalog_commits=counts["catalog"],
        first_commit=min(firsts, default=None),
        last_commit=max(lasts, default=None),
        last_commit_at=reached or None,
        tables=sorted(tables, key=lambda each: each.table),
    )


def _kind(touched: list[str]) -> str:
    """Whose commit it was: one that touched nothing that is known is a client's, rather than nobody's."""
    if touched and all(name.startswith(OWN) or name == "lifeboat" for name in touched):
        return "own"
    if touched and all(name.startswith(CATALOG) for name in touched):
        return "catalog"
    return "clients"
