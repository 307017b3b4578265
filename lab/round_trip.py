"""The round trip: kill → failover → rejoin → failback under load, again and again, and nobody says a word."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from temporalio.client import Client, WorkflowHandle

from lab.demo import DemoFailed, Demonstration, Print, follow, kill_and_follow, until_writing, witnessed
from lab.layout import HOME
from lab.model import Lab
from lab.observe import streams
from lab.postgres import session
from lab.waiting import until
from schemas.attributes import TASK_QUEUE
from schemas.reports import Report
from schemas.requests import RunRequest

STREAMS_S = 15.0
_TIMELINE = """
SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT received_tli FROM pg_stat_wal_receiver)
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END
"""


async def round_trips(lab: Lab, client: Client, tell: Print, loops: int) -> Demonstration:
    """`loops` of them; the reports of every run, and the audit of all of it together."""
    reports: list[Report] = []
    for number in range(1, loops + 1):
        tell(f"round trip {number} of {loops}")
        began = time.monotonic()
        failover = await kill_and_follow(lab, client, tell)
        reports.append(witnessed(failover, lab))
        for run in failover.followed_by:
            reports.append(await _followed(client, run, tell, began))
        if not failover.followed_by:
            raise DemoFailed(f"{failover.run} started no rejoin: {'; '.join(failover.unprotected)}")
        back = await _start_failback(client, lab)
        reports.append(witnessed(await _followed(client, back, tell, began), lab))
        wrong = [each for each in reports if each.outcome not in ("recovered, unprotected", "done")]
        if wrong:
            break
    found = await until_writing(lab)
    return Demonstration(audit=found, runs=reports, astray=await astray(lab))


async def _start_failback(client: Client, lab: Lab) -> str:
    run = f"database-failback/{lab.service}/{datetime.now(UTC):%Y%m%dT%H%M%S}"
    request = RunRequest(service=lab.service, reason="the demonstration: home again")
    await client.start_workflow("DatabaseFailback", request, id=run, task_queue=TASK_QUEUE)
    return run


async def _followed(client: Client, run: str, tell: Print, began: float) -> Report:
    handle: WorkflowHandle[object, Report] = client.get_workflow_handle(run, result_type=Report)
    tell(f"the run {run}")
    return await follow(handle, lambda text: tell(f"{time.monotonic() - began:6.2f} s  {text}"))


async def astray(lab: Lab) -> list[str]:
    """Who is not on the home primary's timeline, or does not stream; asked of the servers themselves."""
    try:
        await until("every member streams", lambda: streams(lab), STREAMS_S, every=0.2)
    except Exception as error:  # noqa: BLE001 - whatever it is, the estate is not as it was
        return [str(error)]
    timelines = {node.name: await _timeline(lab, node.name) for node in lab.members()}
    last = max((each for each in timelines.values() if each is not None), default=None)
    if timelines[HOME] != last:
        return [f"{HOME} is on timeline {timelines[HOME]}, not {last}"]
    return [f"{name} is on timeline {each}, not {last}" for name, each in timelines.items() if each != last]


async def _timeline(lab: Lab, name: str) -> int | None:
    conn = await session(lab, name)
    if conn is None:
        return None
    try:
        found = await conn.fetchval(_TIMELINE)
        return None if found is None else int(found)
    finally:
        conn.terminate()
