"""Whether the data of a copy is good: pages, indexes, the owner's own questions, the newest rows."""

from __future__ import annotations

import asyncio

from temporalio import activity

from activities.beating import beating
from activities.jobs import number, one
from activities.restore_host import ask, facts_of, moment_of, run_job, told
from schemas.failures import RestoreHostFailed
from schemas.restores import HostOrder, Newest, Proof

QUERY_S = 3600.0
BACK_S = 600.0
"""How long a copy that was stopped for its pages may take to stand where it stood."""

_AMCHECK = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname"
_HAS = "SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'"
# A sequence that lags behind the column that it feeds gives the next writer a number that is taken.
_BEHIND = """
SELECT format('%I.%I', n.nspname, s.relname), format('%I.%I', tn.nspname, t.relname), quote_ident(a.attname),
       coalesce(pg_sequence_last_value(s.oid), 0)
  FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace
  JOIN pg_depend d ON d.objid = s.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
  JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = t.relnamespace
  JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
 WHERE s.relkind = 'S'
"""
# Replay takes the locks that a transaction took on the primary, and keeps them until its end, which is not replayed.
_LOCKED = """
SELECT DISTINCT format('%I.%I', n.nspname, c.relname)
  FROM pg_locks l JOIN pg_stat_activity a USING (pid) JOIN pg_class c ON c.oid = l.relation
  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_database d ON d.oid = l.database
 WHERE a.backend_type = 'startup' AND l.mode = 'AccessExclusiveLock' AND l.granted AND d.datname = current_database()
   AND c.relkind IN ('r', 'm', 'p')
"""


@activity.defn
async def check_pages(order: HostOrder) -> list[Proof]:
    """Every page's checksum (pg_checksums). The copy's server is stopped for it, and stands where it stood then."""
    clause = "every page has its checksum"
    answers = await run_job(order, "checksums", "checksums", doing="comparing the checksums of pages")
    if answers.get("code") != ["0"] or "done" not in answers:
        raise RestoreHostFailed(told(answers))
    if "disabled" in answers:
        return [Proof(clause=clause, ok=None, evidence="the cluster has no checksums (initdb --data-checksums)")]
    end = asyncio.get_running_loop().time() + BACK_S
    async with beating("until the copy stands where it stood"):
        while facts_of(await ask(order, "look")).pause != "paused":
            if asyncio.get_running_loop().time() > end:
                raise RestoreHostFailed(f"{order.copy_name}: it does not stand where it stood after its pages' check")
            await asyncio.sleep(0.2)
    bad, blocks = number(answers, "bad"), number(answers, "blocks")
    ok = number(answers, "status") == 0 and bad == 0 and blocks > 0
    findings = "; ".join(answers.get("finding", []))
    return [Proof(clause=clause, ok=ok, evidence=f"{bad} of {blocks} bad" + (f": {findings}" if findings else ""))]


@activity.defn
async def check_structure(order: HostOrder) -> list[Proof]:
    """Heaps and B-trees, each index against its table (pg_amcheck --heapallindexed), where amcheck is installed."""
    clause = "heaps and indexes agree"
    async with beating("asking for amcheck"):
        databases = (await ask(order, "query", "postgres", _AMCHECK)).get("row", [])
        lacking = [each for each in databases if one(await ask(order, "query", each, _HAS), "row") == "0"]
    if order.service.access.database in lacking:
        evidence = (
            f"{order.service.access.database} has no amcheck; its owner must CREATE EXTENSION amcheck on the leader"
        )
        return [Proof(clause=clause, ok=None, evidence=evidence)]
    answers = await run_job(order, "amcheck", "amcheck", doing="comparing heaps and indexes")
    if answers.get("code") != ["0"] or "done" not in answers:
        raise RestoreHostFailed(told(answers))
    findings = answers.get("finding", [])
    ok = number(answers, "status") == 0 and not findings
    left = [each for each in lacking if each != "postgres"]
    looked = f"{len(databases) - len(lacking)} databases" + (f"; without amcheck: {', '.join(left)}" if left else "")
    return [Proof(clause=clause, ok=ok, evidence="; ".join(findings) or looked)]


@activity.defn
async def ask_owner(order: HostOrder) -> list[Proof]:
    """The owner's own queries, and whether a sequence lags behind its column."""
    async with beating("the owner's queries"):
        found = [await _locks(order)]
        if not found[0].ok:
            # They would wait for it.
            return found
        for each in order.policy.checks:
            clause = f"owner's query {each.name}"
            try:
                answers = await ask(
                    order, "query", each.database or order.service.access.database, each.sql, limit=QUERY_S
                )
            except RestoreHostFailed as error:
                found.append(Proof(clause=clause, ok=False, evidence=error.detail))
                continue
            ok, evidence = each.answered_by(answers.get("row", []))
            found.append(Proof(clause=clause, ok=ok, evidence=evidence))
        found.append(await _sequences(order))
    return found


async def _locks(order: HostOrder) -> Proof:
    rows = (await ask(order, "query", order.service.access.database, _LOCKED)).get("row", [])
    evidence = f"{', '.join(rows)} can't be read: name a target before the lock, by LSN if need be" if rows else "none"
    return Proof(clause="no transaction that was under way at the target locks a table", ok=not rows, evidence=evidence)


async def _sequences(order: HostOrder) -> Proof:
    database, behind = order.service.access.database, []
    rows = (await ask(order, "query", database, _BEHIND)).get("row", [])
    for sequence, table, column, last in (row.split("|") for row in rows):
        highest = one(await ask(order, "query", database, f"SELECT max({column}) FROM {table}", limit=QUERY_S), "row")
        if highest and int(highest) > int(last):
            behind.append(f"{sequence} is at {last}, {table}.{column} at {highest}")
    return Proof(
        clause="no sequence lags behind its column",
        ok=not behind,
        evidence="; ".join(behind) or f"{len(rows)} sequences",
    )


@activity.defn
async def look_at_newest(order: HostOrder) -> list[Newest]:
    """The newest row of each table that the topology names, in the copy."""
    found = []
    async with beating("the newest rows"):
        for each in order.policy.newest:
            try:
                answers = await ask(order, "query", order.service.access.database, each.sql(), limit=QUERY_S)
            except RestoreHostFailed as error:
                found.append(Newest(table=each.table, at=None, error=error.detail))
                continue
            found.append(Newest(table=each.table, at=moment_of(one(answers, "row"))))
    return found
