"""Looking for damage on the members themselves, and keeping clients from making it worse meanwhile."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Mapping
from typing import Any

import asyncpg
from temporalio import activity

from activities.beating import beating
from activities.commands import TOLD
from activities.data_folder import folder_of, sending
from activities.jobs import Answers, one, parse, until_ended
from activities.node import run_on
from activities.restore_host import moment_of
from activities.sessions import BROKEN, Session, literal, nudge, session
from schemas.backup import OwnerQuery
from schemas.damage import Damaged, MemberDamage, Pulse
from schemas.damage_orders import CheckOrder, PulseOrder, ReadOnlyOrder
from schemas.data import DataFolder
from schemas.failures import DataFolderFailed, MemberUnreachable, NodeControlFailed
from schemas.restores import Newest, Proof
from schemas.topology import Member

_RELATION = re.compile(r'^(heap table|btree index) "([^"]+)"')
_FAILURES = "SELECT sum(checksum_failures)::int AS n, max(checksum_last_failure) AS at FROM pg_stat_database"
_DECLARED = """
SELECT setting FROM pg_file_settings WHERE name = 'default_transaction_read_only' ORDER BY seqno DESC LIMIT 1
"""
_COUNTS = """
SELECT coalesce(sum(xact_commit), 0)::bigint AS commits, coalesce(sum(xact_rollback), 0)::bigint AS rollbacks,
       coalesce(sum(checksum_failures), 0)::bigint AS failures, pg_postmaster_start_time() AS began,
       pg_is_in_recovery() AS standby,
       (SELECT setting FROM pg_file_settings WHERE name = 'default_transaction_read_only'
         ORDER BY seqno DESC LIMIT 1) AS declared
  FROM pg_stat_database
"""
COUNTED_S = 1.0
"""A server's sessions tell of their transactions once a second (PGSTAT_MIN_INTERVAL)."""
LOOK_S = 0.5
CHEAP_BYTES = 1 << 30
_END = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND usename <> current_user
   AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = usename)
"""


async def _ask(order: CheckOrder, *words: str) -> Answers:
    """One verb of data_folder.sh on the node, with jobs apart from those of a rejoin."""
    member = order.service.member(order.member)
    folder = folder_of(member)
    assert member.control is not None
    code, output = await run_on(member.control, sending(folder, f"{folder.keep}/check", *words))
    answers = parse(output)
    if code != 0 and not answers:
        raise NodeControlFailed(f"{member.name}: {words[0]} exited {code}: {output[-TOLD:]}")
    return answers


@activity.defn
async def check_member(order: CheckOrder) -> MemberDamage:
    """Every heap and index of one member, as its server reads them (pg_amcheck); each page's checksum with it,
    where it is not in memory already.
    """
    member = order.service.member(order.member)
    folder = _checkable(member)
    words = ["damage", folder.socket or "", str(member.port), folder.superuser]
    answers = await until_ended(functools.partial(_ask, order), f"damage/{order.run}", words, f"checking {member.name}")
    if answers.get("code") != ["0"] or "done" not in answers:
        raise DataFolderFailed(f"{member.name}: {' | '.join(answers.get('line', []))[-TOLD:]}")
    damaged = damaged_of(answers.get("finding", []))
    status = (answers.get("status") or ["1"])[0]
    if status not in ("0", "2") and not damaged:
        raise DataFolderFailed(
            f"{member.name}: pg_amcheck exited {status}: {' | '.join(answers.get('finding', []))[-TOLD:]}"
        )
    failures, since = 0, None
    try:
        async with session(order.service, member) as conn:
            row = await conn.fetchrow(_FAILURES)
            if row is not None:
                failures, since = row["n"] or 0, row["at"]
    except (MemberUnreachable, *BROKEN, asyncpg.PostgresError):
        pass  # what pg_amcheck found stands without it
    return MemberDamage(member=member.name, damaged=damaged, failures=failures, since=since)


def damaged_of(lines: list[str]) -> list[Damaged]:
    """Each relation once, with the first thing that pg_amcheck said of it."""
    found: dict[str, Damaged] = {}
    at: tuple[str, str] | None = None
    for line in lines:
        head = _RELATION.match(line)
        if head is not None:
            at = (head[1], head[2])
        elif at is not None and at[1] not in found:
            kind = "heap" if at[0] == "heap table" else "index"
            found[at[1]] = Damaged(kind=kind, relation=at[1], told=line.strip())
    return list(found.values())


@activity.defn
async def make_read_only(order: ReadOnlyOrder) -> str:
    """No client writes unless it insists: a protection of the data, and no fence (safety.md)."""
    service, leader = order.service, order.service.member(order.leader)
    wanted = "on" if order.on else "off"
    try:
        async with beating(f"{leader.name} read-only {wanted}"), session(service, leader) as conn:
            if (await conn.fetchval(_DECLARED) or "off") != wanted:
                action = "SET default_transaction_read_only = on" if order.on else "RESET default_transaction_read_only"
                await conn.execute(f"ALTER SYSTEM {action}")
                await nudge(conn)
            if order.on and order.cut:
                await conn.execute(_END)
    except (*BROKEN, asyncpg.PostgresError) as error:
        raise MemberUnreachable(f"{leader.name}: {error}") from error
    return f"{leader.name} is read-only for its clients" if order.on else f"{leader.name} takes writes"


@activity.defn
async def ask_leader(order: CheckOrder) -> list[Proof]:
    """The owner's own queries, as the member answers them; they may read all, and write nothing. Then each relation,
    where its pages are few enough to be looked at while clients wait.
    """
    service, member = order.service, order.service.member(order.member)
    assert service.backup is not None
    _checkable(member)
    found = []
    async with beating(f"the owner's queries on {member.name}"):
        for each in service.backup.checks:
            ok, evidence = await _answered(order, each)
            found.append(Proof(clause=f"owner's query {each.name}", ok=ok, evidence=evidence))
        for number, damaged in enumerate(order.relations):
            ok, evidence = await _answered(order, looking_at(damaged, number))
            # Without amcheck where the name leads it can't be told.
            unknown = not ok and "does not exist" in evidence
            found.append(Proof(clause=f"amcheck of {damaged.relation}", ok=None if unknown else ok, evidence=evidence))
    return found


async def _answered(order: CheckOrder, query: OwnerQuery) -> tuple[bool, str]:
    answers = await _query(order, query.name, query.database or order.service.access.database, query.sql)
    refused = answers.get("refused")
    return (False, refused[0]) if refused else query.answered_by(answers.get("row", []))


def looking_at(damaged: Damaged, number: int) -> OwnerQuery:
    """amcheck of one relation: `t` where it is whole, gone, or larger than CHEAP_BYTES; an index that is no good is an
    error.
    """
    database, schema, name = damaged.relation.split(".", 2)
    quoted = ".".join('"' + each.replace('"', '""') + '"' for each in (schema, name))
    whole = {
        "heap": "NOT EXISTS (SELECT FROM verify_heapam(r, on_error_stop => true))",
        "index": "bt_index_check(r, true)::text IS NOT NULL",
    }[damaged.kind]
    sql = (
        f"SELECT CASE WHEN r IS NULL OR pg_relation_size(r) > {CHEAP_BYTES} THEN true ELSE {whole} END"
        f" FROM to_regclass({literal(quoted)}) r"
    )
    return OwnerQuery(name=f"relation-{number}", sql=sql, database=database)


@activity.defn
async def watch_writes(order: PulseOrder) -> Pulse:
    """How the leader fares for `hold_s` seconds; sooner where a page's checksum fails, or it can't be watched on."""
    leader = order.service.member(order.leader)
    loop = asyncio.get_running_loop()
    until = loop.time() + order.hold_s
    try:
        async with beating(f"watching {leader.name}"), session(order.service, leader) as conn:
            # What ended before counts a moment later.
            await asyncio.sleep(min(COUNTED_S, order.hold_s / 2))
            before = await _counts(conn)
            while True:
                pulse = pulse_of(before, await _counts(conn))
                if pulse.broke or pulse.failures or loop.time() >= until:
                    return pulse
                await asyncio.sleep(min(LOOK_S, max(until - loop.time(), 0.01)))
    except MemberUnreachable:
        raise
    except (*BROKEN, asyncpg.PostgresError) as error:
        return Pulse(broke=f"{leader.name} could not be watched to the end: {str(error) or type(error).__name__}")


async def _counts(conn: Session) -> Mapping[str, Any]:
    row = await conn.fetchrow(_COUNTS)
    assert row is not None  # an aggregate
    return dict(row)


def pulse_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> Pulse:
    """From two looks at the server's counters."""
    if after["standby"] or after["began"] != before["began"]:
        return Pulse(broke="it was restarted, or follows another by now")
    if after["commits"] < before["commits"]:
        return Pulse(broke="its counters began anew: it has crashed, or somebody has reset them")
    return Pulse(
        commits=after["commits"] - before["commits"],
        rollbacks=after["rollbacks"] - before["rollbacks"],
        failures=after["failures"] - before["failures"],
        read_only=after["declared"] == "on",
    )


@activity.defn
async def look_at_newest_rows(order: CheckOrder) -> list[Newest]:
    """The newest row of each table that the topology names, as the member has it."""
    service, member = order.service, order.service.member(order.member)
    assert service.backup is not None
    _checkable(member)
    found = []
    async with beating(f"the newest rows on {member.name}"):
        for each in service.backup.newest:
            answers = await _query(order, f"newest-{each.table}", service.access.database, each.sql())
            refused = one(answers, "refused")
            found.append(
                Newest(table=each.table, at=None if refused else moment_of(one(answers, "row")), error=refused)
            )
    return found


async def _query(order: CheckOrder, name: str, database: str, sql: str) -> Answers:
    """A question to the member's own server, as a job on its node; DataFolderFailed where it could not be asked."""
    member = order.service.member(order.member)
    folder = folder_of(member)
    words = ["query", folder.socket or "", str(member.port), folder.superuser, database, sql]
    ident = f"query/{name}/{order.run}"
    answers = await until_ended(functools.partial(_ask, order), ident, words, f"the query {name}")
    if answers.get("code") != ["0"] or "done" not in answers:
        raise DataFolderFailed(f"{member.name}: {' | '.join(answers.get('line', []))[-TOLD:]}")
    return answers


def _checkable(member: Member) -> DataFolder:
    """DataFolderFailed where its owner has not said how its server lets its own user in."""
    folder = folder_of(member)
    if folder.socket is None:
        raise DataFolderFailed(f"{member.name} has no `data.socket` in the topology, so it can't be checked")
    return folder
