"""The dry run: reads for real, changes nothing, and says what a real run then does."""

from __future__ import annotations

import re

import pytest

from lab.lab import fault
from lab.postgres import session
from schemas.attributes import TASK_QUEUE
from schemas.reports import Report
from schemas.requests import FailoverRequest
from tests.faults.scene import Scene

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.estate(watch=False)]

READS = re.compile(r"^\s*(SELECT|SHOW|SET lock_timeout|BEGIN|COMMIT|ROLLBACK|RESET)\b", re.IGNORECASE)
ACTS = re.compile(r"pg_promote|pg_reload_conf|pg_terminate_backend|pg_cancel_backend|pg_logical_emit|pg_switch", re.I)


async def plan(scene: Scene, run: str, **more: object) -> Report:
    request = FailoverRequest.model_validate(
        {"service": scene.lab.service, "reason": "a test", "dry_run": True, **more}
    )
    handle = await scene.client.start_workflow(
        "DatabaseFailover", request, id=run, task_queue=TASK_QUEUE, result_type=Report
    )
    return await scene.report(handle, 20)


async def log_statements(scene: Scene) -> None:
    for node in scene.lab.members():
        conn = await session(scene.lab, node.name)
        assert conn is not None
        await conn.execute("ALTER SYSTEM SET log_statement = 'all'")
        await conn.execute("SELECT pg_reload_conf()")
        await conn.close()


def statements(scene: Scene, since: dict[str, int]) -> list[str]:
    """Every statement that each server logged after `since` bytes of its log, by Lifeboat's own sessions."""
    found = []
    for node in scene.lab.members():
        text = scene.lab.paths.log(node.name).read_bytes()[since[node.name] :].decode(errors="replace")
        found += [line for line in text.splitlines() if " lifeboat LOG: " in line]
    return [re.sub(r"^.*?(statement|execute [^:]*): ", "", line) for line in found]


@pytest.mark.estate(watch=True)
async def test_a_plan_changes_nothing_and_its_steps_are_those_of_the_run(scene: Scene) -> None:
    await scene.traffic()
    await log_statements(scene)
    before = await scene.epoch()
    sizes = {node.name: scene.lab.paths.log(node.name).stat().st_size for node in scene.lab.members()}
    planned = await plan(scene, "plan-1")
    logged = statements(scene, sizes)
    assert planned.outcome == "planned", planned
    assert planned.blockers == [], planned.blockers
    assert planned.expected_s is not None
    assert len(logged) >= 5, "the servers log what they are asked"
    beats = "INSERT INTO lifeboat.heartbeat"  # the watch's own row, once a second
    wrong = [
        text for text in logged if text and not text.startswith(beats) and (not READS.match(text) or ACTS.search(text))
    ]
    assert wrong == []
    assert await scene.epoch() == before
    audit = await scene.safe()
    assert all(route.longest_gap_s < 1 for route in audit.routes.values()), audit
    await fault(scene.lab, "kill", "pg-east-1")
    real = await scene.report(await scene.run_of_watch())
    assert [step.title for step in planned.steps] == [step.title for step in real.steps]
    assert real.outage_s is not None
    assert real.outage_s <= planned.expected_s + 2


async def test_what_is_in_the_way_is_named(scene: Scene) -> None:
    await fault(scene.lab, "kill", "pgbouncer-west")
    await fault(scene.lab, "kill", "pg-east-3")
    planned = await plan(scene, "plan-2")
    told = "\n".join(planned.blockers)
    for what in ("pgbouncer-west", "pg-east-3: it is not reached", "there is no epoch record"):
        assert what in told, told


async def test_a_right_that_lifeboat_lacks_is_named(scene: Scene) -> None:
    """Its role is no superuser, and the lab grants what lab/etc/lifeboat.sql says and no more."""
    conn = await session(scene.lab, "pg-east-1")
    assert conn is not None
    assert not await conn.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = 'lifeboat'")
    await conn.execute("REVOKE ALTER SYSTEM ON PARAMETER primary_conninfo FROM lifeboat")
    await conn.execute("REVOKE pg_signal_backend FROM lifeboat")
    await conn.execute("REVOKE INSERT ON lifeboat.probe FROM lifeboat_probe")
    written = await conn.fetchval("SELECT pg_current_wal_lsn()")
    await conn.close()

    async def replayed() -> bool:
        standby = await session(scene.lab, "pg-west-2")
        assert standby is not None
        try:
            return bool(await standby.fetchval("SELECT pg_last_wal_replay_lsn() >= $1", written))
        finally:
            await standby.close()

    await scene.until("the last standby has the change", replayed)
    told = "\n".join((await plan(scene, "plan-3")).blockers)
    for what in (
        "pg-east-1, pg-east-2, pg-east-3, pg-east-4, pg-west-1, pg-west-2: role lifeboat lacks ALTER SYSTEM",
        "role lifeboat lacks ALTER SYSTEM on primary_conninfo",
        "role lifeboat lacks pg_signal_backend",
        "lacks INSERT, UPDATE and SELECT on lifeboat.probe for lifeboat_probe",
        "its owner must carry out lab/etc/lifeboat.sql",
    ):
        assert what in told, told
    assert "pg_promote" not in told
