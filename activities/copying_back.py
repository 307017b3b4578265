"""What a proved copy is for: its tables written back to the service, or the copy itself handed over for reading."""

from __future__ import annotations

import asyncpg
from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from activities.beating import beating
from activities.fencing import quoted
from activities.jobs import Answers
from activities.restore_host import ask, run_job, told
from activities.sessions import BROKEN, Session, session
from schemas.failures import CopyBackRefused, LifeboatError, MemberUnreachable, RestoreHostFailed
from schemas.restores import CopyBackOrder, HostOrder

_DONE = "SELECT EXISTS (SELECT FROM lifeboat.restored WHERE run = $1)"
_THERE = "SELECT name FROM unnest($1::text[]) name WHERE to_regclass(name) IS NOT NULL"
_COPIED = """
SELECT coalesce(sum(p.tuples_processed), 0)::bigint
  FROM pg_stat_progress_copy p JOIN pg_stat_activity a USING (pid) WHERE a.application_name = $1
"""


def _target(order: CopyBackOrder) -> str:
    """The connection to the leader that the copy's host makes."""
    service, leader, back = order.service, order.service.member(order.leader), order.policy.copy_back
    if back is None:
        raise CopyBackRefused(
            f"{service.name} declares no `backup.copy_back`: its owner must name a role that may write the tables"
        )
    parts = {
        "host": leader.host,
        "port": str(leader.port),
        "user": back.user,
        "dbname": service.access.database,
        "application_name": f"lifeboat-{order.copy_name}",
        "connect_timeout": "5",
        "sslmode": service.access.sslmode,
    }
    return " ".join(f"{key}={quoted(value)}" for key, value in parts.items())


@activity.defn
async def copy_back(order: CopyBackOrder) -> dict[str, int]:
    """The tables' rows in the service, by table: all of them, or none. A table that is there is never written over."""
    service, leader = order.service, order.service.member(order.leader)
    names, rows = [each.table for each in order.tables], sum(each.rows or 0 for each in order.tables)
    target, back = _target(order), order.policy.copy_back
    assert back is not None
    try:
        async with session(service, leader) as conn:
            done = await conn.fetchval(_DONE, order.run)
            look = not done and not order.aside
            there = [row["name"] for row in await conn.fetch(_THERE, names)] if look else []
            if there:
                raise CopyBackRefused(
                    f"{', '.join(there)} is there in {service.name}; move it out of the way, then retry"
                )
            if not done:
                await _write(order, conn, target, back.passfile or "", rows)
            if not await conn.fetchval(_DONE, order.run):
                raise RestoreHostFailed(f"{', '.join(names)}: written, yet {leader.name} does not say so")
    except (*BROKEN, asyncpg.PostgresError) as error:
        raise MemberUnreachable(f"{leader.name}: {error}") from error
    return {each.table: each.rows or 0 for each in order.tables}


async def _write(order: CopyBackOrder, conn: Session, target: str, passfile: str, rows: int) -> None:
    names = [each.table for each in order.tables]

    async def progress(_: Answers) -> dict[str, object]:
        try:
            return {"rows": await conn.fetchval(_COPIED, f"lifeboat-{order.copy_name}"), "of": rows}
        except (*BROKEN, asyncpg.PostgresError) as error:
            return {"why": str(error)}

    words = ["copy_back", target, order.service.access.database, order.run, passfile, order.aside, *names]
    answers = await run_job(order, f"copy-back/{order.leader}", *words, doing="writing tables back", progress=progress)
    if answers.get("code") != ["0"] or "done" not in answers:
        raise _failure(told(answers))


def _failure(text: str) -> LifeboatError:
    """Rights and clashes are a person's; whatever else is tried again."""
    lasting = ("permission denied", "must be owner", "must be able to SET ROLE", "must be member", "already exists")
    return (CopyBackRefused if any(each in text for each in lasting) else RestoreHostFailed)(text)


@activity.defn
async def take_back(order: CopyBackOrder) -> str:
    """Undo of `copy_back`: nothing where it wrote nothing, which is all that a failure leaves."""
    service, leader = order.service, order.service.member(order.leader)
    names = ", ".join(each.table for each in order.tables)
    try:
        async with beating(f"looking at {leader.name}"), session(service, leader) as conn:
            if not await conn.fetchval(_DONE, order.run):
                return "nothing was written"
    except (*BROKEN, asyncpg.PostgresError) as error:
        raise MemberUnreachable(f"{leader.name}: {error}") from error
    raise CopyBackRefused(f"{names} was written back and clients may use it by now: its owner must decide, and drop it")


@activity.defn
async def hand_over(order: HostOrder) -> str:
    """The copy listens for its readers, still in recovery, so that nothing can be written to it; host:port."""
    host = order.host
    if host.host is None:
        raise CopyBackRefused(f"{host.name} declares no `host` and `ports` on which a copy could be read")
    async with beating("handing the copy over"):
        copies = (await ask(_all(order), "copies")).get("copy", [])
        handed = {name: place for name, place, _ in (each.split(";", 2) for each in copies) if place}
        taken = [place for name, place in handed.items() if name != order.copy_name]
        places = [f"{host.host}:{port}" for port in range(host.ports[0], host.ports[1] + 1)]
        place = handed.get(order.copy_name) or next((each for each in places if each not in taken), None)
        if place is None:
            raise CopyBackRefused(f"{host.name}: all of {', '.join(places)} are taken; remove a copy, then retry")
        await ask(order, "hand_over", host.host, place.rpartition(":")[2], *host.readers)
    return place


def _all(order: HostOrder) -> HostOrder:
    """The folder that all copies are in."""
    return order.model_copy(update={"copy_name": "."})


@activity.defn
async def sweep_copies(order: HostOrder) -> list[str]:
    """Remove what runs that have ended, terminated ones too, left on the host; the copies that were removed."""
    removed = []
    async with beating("looking for copies that nobody wants any more"):
        for each in (await ask(_all(order), "copies")).get("copy", []):
            name, handed, owner = each.split(";", 2)
            if handed or not owner or await _is_open(owner):
                continue
            await ask(order.model_copy(update={"copy_name": name}), "remove")
            removed.append(f"{name} of {owner}")
    return removed


async def _is_open(run: str) -> bool:
    """Whether the run may still come back to its copy: one that can't be asked about may."""
    workflow_id, _, run_id = run.rpartition("@")
    try:
        found = await activity.client().get_workflow_handle(workflow_id, run_id=run_id).describe()
    except RPCError as error:
        return error.status != RPCStatusCode.NOT_FOUND
    return found.close_time is None
