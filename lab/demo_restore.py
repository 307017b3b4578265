"""`lifeboat lab demo pitr`: a table is dropped under load, and one run brings it back as it was just before.
`lifeboat lab demo corruption`: pages of the primary go bad, and a run finds and mends them, a person deciding.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import asyncpg
from temporalio.client import Client, WorkflowHandle

from lab.damage import flip, make_cold
from lab.demo import APPROVER, DemoFailed, Demonstration, Print, follow, until_writing
from lab.layout import HOME
from lab.model import Lab
from lab.postgres import session
from schemas.attributes import TASK_QUEUE
from schemas.reports import Report
from schemas.restore_requests import CorruptionRequest, PitrRequest, Target

DROPPED = "public.counting_results"
OTHER = "public.cameras"
"""A table that nobody touches, and that must come out of it as it was."""
_MAKE = f"""
CREATE TABLE IF NOT EXISTS {OTHER} (id int PRIMARY KEY, place text);
INSERT INTO {OTHER} SELECT n, 'gate ' || n FROM generate_series(1, 500) n ON CONFLICT DO NOTHING
"""
_SUM = f"SELECT count(*) || ':' || md5(string_agg(id || place, ',' ORDER BY id)) FROM {OTHER}"


async def restore_dropped(lab: Lab, client: Client, tell: Print) -> Demonstration:
    """The run, the audit, and whether the other table is untouched. The load runs, and has rows acknowledged."""
    await _execute(lab, _MAKE)
    before = await _value(lab, _SUM)
    began = time.monotonic()
    await _execute(lab, f"DROP TABLE {DROPPED}")
    tell(f"somebody drops {DROPPED} on {HOME}, and every client fails from then on")
    target = Target(before_drop=DROPPED)
    request = PitrRequest(
        service=lab.service, reason="the demonstration: a table was dropped", target=target, then="copy-back"
    )
    run = f"pitr-restore/{lab.service}/{datetime.now(UTC):%Y%m%dT%H%M%S}"
    tell(f"lifeboat run pitr-restore {lab.service} --to before-drop={DROPPED} --then copy-back --wait")
    await client.start_workflow("PitrRestore", request, id=run, task_queue=TASK_QUEUE)
    handle: WorkflowHandle[object, Report] = client.get_workflow_handle(run, result_type=Report)
    report = await follow(handle, lambda text: tell(f"{time.monotonic() - began:6.2f} s  {text}"))
    found = await until_writing(lab)
    after = await _value(lab, _SUM)
    astray = [] if after == before else [f"{OTHER} was {before}, and is {after}"]
    return Demonstration(audit=found, runs=[report], astray=astray, fault=f"dropped    {DROPPED} on {HOME}")


DAMAGED = "public.archived_counts"
_ROWS = f"""
CREATE TABLE IF NOT EXISTS {DAMAGED} (id int PRIMARY KEY, camera text, count int);
INSERT INTO {DAMAGED} SELECT n, 'camera-' || n % 20, n % 100 FROM generate_series(1, 5000) n ON CONFLICT DO NOTHING
"""
_WHOLE = f"SELECT count(*) || ':' || sum(count) || ':' || md5(string_agg(id || camera, ',' ORDER BY id)) FROM {DAMAGED}"
RECOVERY_S = 300.0


async def recover_damaged(lab: Lab, client: Client, tell: Print) -> Demonstration:
    """Bytes are flipped in a heap and in its index on the primary's disk; the run's questions are answered as by a
    person, by signal. Every row of the damaged table is there in the end.
    """
    await _execute(lab, _ROWS)
    before = await _value(lab, _WHOLE)
    await make_cold(lab, HOME, DAMAGED)
    for relation in (DAMAGED, f"{DAMAGED}_pkey"):
        file = await flip(lab, HOME, relation, block=3)
        tell(f"eight bytes of {relation} are flipped on {HOME}'s disk ({file.name}); the server does not know")
    began = time.monotonic()
    request = CorruptionRequest(service=lab.service, reason="the demonstration: a disk that rots")
    run = f"corruption-recovery/{lab.service}/{datetime.now(UTC):%Y%m%dT%H%M%S}"
    tell(f"lifeboat run corruption-recovery {lab.service} --wait")
    await client.start_workflow("CorruptionRecovery", request, id=run, task_queue=TASK_QUEUE)
    handle: WorkflowHandle[object, Report] = client.get_workflow_handle(run, result_type=Report)
    report = await follow(handle, lambda text: tell(f"{time.monotonic() - began:6.2f} s  {text}"), APPROVER, RECOVERY_S)
    found = await until_writing(lab)
    leader = report.new_primary or found.leader
    after = await _value(lab, _WHOLE, leader)
    astray = [] if after == before else [f"{DAMAGED} was {before}, and is {after} on {leader}"]
    return Demonstration(
        audit=found, runs=[report], astray=astray, fault=f"damaged    {DAMAGED} and its index on {HOME}"
    )


async def _execute(lab: Lab, sql: str) -> None:
    conn = await _session(lab)
    try:
        await conn.execute(sql)
    finally:
        conn.terminate()


async def _value(lab: Lab, sql: str, member: str = HOME) -> object:
    conn = await _session(lab, member)
    try:
        return await conn.fetchval(sql)
    finally:
        conn.terminate()


async def _session(lab: Lab, member: str = HOME) -> asyncpg.Connection:
    conn = await session(lab, member, limit=5.0)
    if conn is None:
        raise DemoFailed(f"{member} takes no session")
    return conn
