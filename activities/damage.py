"""Looking for damage on the members themselves, and keeping clients from making it worse meanwhile."""

from __future__ import annotations

import functools
import re

import asyncpg
from temporalio import activity

from activities.beating import beating
from activities.commands import TOLD
from activities.data_folder import folder_of, sending
from activities.jobs import Answers, one, parse, until_ended
from activities.node import run_on
from activities.restore_host import moment_of
from activities.sessions import BROKEN, nudge, session
from schemas.damage import Damaged, MemberDamage
from schemas.damage_orders import CheckOrder, ReadOnlyOrder
from schemas.data import DataFolder
from schemas.failures import DataFolderFailed, MemberUnreachable, NodeControlFailed
from schemas.restores import Newest, Proof
from schemas.topology import Member

_RELATION = re.compile(r'^(heap table|btree index) "([^"]+)"')
_FAILURES = "SELECT sum(checksum_failures)::int AS n, max(checksum_last_failure) AS at FROM pg_stat_database"
_DECLARED = """
SELECT setting FROM pg_file_settings WHERE name = 'default_transaction_read_only' ORDER BY seqno DESC LIMIT 1
"""
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
            if order.on:
                await conn.execute(_END)
    except (*BROKEN, asyncpg.PostgresError) as error:
        raise MemberUnreachable(f"{leader.name}: {error}") from error
    return f"{leader.name} is read-only for its clients" if order.on else f"{leader.name} takes writes"


@activity.defn
async def ask_leader(order: CheckOrder) -> list[Proof]:
    """The owner's own queries, as the member answers them; they may read all, and write nothing."""
    service, member = order.service, order.service.member(order.member)
    assert service.backup is not None
    _checkable(member)
    found = []
    async with beating(f"the owner's queries on {member.name}"):
        for each in service.backup.checks:
            answers = await _query(order, each.name, each.database or service.access.database, each.sql)
            refused = answers.get("refused")
            ok, evidence = (False, refused[0]) if refused else each.answered_by(answers.get("row", []))
            found.append(Proof(clause=f"owner's query {each.name}", ok=ok, evidence=evidence))
    return found


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
