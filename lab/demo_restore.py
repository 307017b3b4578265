"""`lifeboat lab demo pitr`: a table is dropped under load, and one run brings it back as it was just before."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import asyncpg
from temporalio.client import Client, WorkflowHandle

from lab.demo import DemoFailed, Demonstration, Print, follow, until_writing
from lab.layout import HOME
from lab.model import Lab
from lab.postgres import session
from schemas.attributes import TASK_QUEUE
from schemas.reports import Report
from schemas.restore_requests import PitrRequest, Target

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


async def _execute(lab: Lab, sql: str) -> None:
    conn = await _session(lab)
    try:
        await conn.execute(sql)
    finally:
        conn.terminate()


async def _value(lab: Lab, sql: str) -> object:
    conn = await _session(lab)
    try:
        return await conn.fetchval(sql)
    finally:
        conn.terminate()


async def _session(lab: Lab) -> asyncpg.Connection:
    conn = await session(lab, HOME, limit=5.0)
    if conn is None:
        raise DemoFailed(f"{HOME} takes no session")
    return conn
