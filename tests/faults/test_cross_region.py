"""The other region: taken only when nobody in the leader's is left, by a person who sees what may be lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lab import findings, ledger, processes
from lab.lab import fault
from lab.referee import audit
from tests.faults.scene import Scene
from tests.lab.looks import ask

pytestmark = pytest.mark.asyncio(loop_scope="session")

EAST = ("pg-east-1", "pg-east-2", "pg-east-3", "pg-east-4")
RECEIVER = """
SELECT sender_host AS host, greatest(received_tli, receive_start_tli) AS timeline
  FROM pg_stat_wal_receiver WHERE status = 'streaming'
"""


async def streams_from(scene: Scene, member: str) -> tuple[str, int]:
    """Whose WAL a standby receives, and of which timeline."""
    found = await ask(scene.lab, member, RECEIVER)
    names = {node.host: node.name for node in scene.lab.members()}
    return (names[found["host"]], found["timeline"]) if found is not None else ("nobody", 0)


async def beats(scene: Scene) -> Any:
    return await ask(scene.lab, "pg-west-1", "SELECT at FROM lifeboat.heartbeat")


async def acknowledged(scene: Scene) -> int:
    return len(findings.acknowledged(ledger.read(scene.lab.ledger)))


async def the_east_is_lost_with_what_the_west_had_not_received(scene: Scene) -> None:
    """pg-west-1 is cut off from its primary by a wrong login; then every server of the region dies at once."""
    await scene.traffic()
    await scene.until("pg-west-1 holds a heartbeat", lambda: beats(scene))
    node = scene.lab.node("pg-east-1")
    wrong = f"host={node.host} port={node.port} user=nobody application_name=pg-west-1 sslmode=disable"
    await ask(scene.lab, "pg-west-1", f"ALTER SYSTEM SET primary_conninfo = '{wrong}'", "SELECT pg_reload_conf()")

    async def cut() -> bool:
        return await streams_from(scene, "pg-west-1") == ("nobody", 0)

    await scene.until("pg-west-1 receives nothing", cut)
    before = await acknowledged(scene)

    async def lost() -> bool:
        return await acknowledged(scene) >= before + 60

    await scene.until("writes are acknowledged in the east alone", lost)
    await asyncio.to_thread(processes.kill, scene.lab.paths, *EAST)


async def test_the_region_is_lost_and_a_person_decides_on_a_bounded_loss(scene: Scene) -> None:
    await the_east_is_lost_with_what_the_west_had_not_received(scene)
    run = await scene.run_of_watch()
    state = await scene.question(run)
    assert state.question is not None
    assert state.question.needs_override
    assert "to pg-west-1?" in state.question.text
    assert "bounded: at most" in state.question.text
    assert "pg-west-1 is in us-west-2" in state.question.text
    await scene.approve(run, override=True, reason="the region burnt down")
    report = await scene.report(run)
    assert report.outcome == "recovered, unprotected", report
    assert report.new_primary == "pg-west-1"
    assert len(report.decisions) == 1, report.decisions
    assert await streams_from(scene, "pg-west-2") == ("pg-west-1", 2)

    found = await audit(scene.lab)
    assert (found.survivor, found.concurrent_writers, found.errors) == ("pg-west-1", 0, [])
    assert found.missing is not None
    assert found.missing > 0
    entries = {entry.id: entry for entry in ledger.read(scene.lab.ledger)}
    first = entries[found.missing_ids[0]].acked
    last = max(entry.acked or 0 for entry in entries.values() if entry.timeline == 1)
    assert report.assessment is not None
    verdict = report.assessment.verdict
    assert verdict.in_time_only, verdict
    assert verdict.at_most_s is not None
    assert first is not None
    assert verdict.at_most_s >= last - first
    assert report.receipt == f"unknown, at most {verdict.at_most_s:.1f} s"


async def test_a_primary_that_came_and_went_while_a_person_decided_has_no_bound_any_more(scene: Scene) -> None:
    """It acknowledged since, and when the run goes on it is as dead as it was: only who watched it meanwhile knows."""
    await the_east_is_lost_with_what_the_west_had_not_received(scene)
    run = await scene.run_of_watch()
    state = await scene.question(run)
    assert state.question is not None
    assert "bounded: at most" in state.question.text
    await fault(scene.lab, "start", "pg-east-1")
    await fault(scene.lab, "start", "pg-east-2")
    before = await acknowledged(scene)

    async def serves() -> bool:
        return await acknowledged(scene) > before

    await scene.until("the old primary serves again", serves)
    await asyncio.to_thread(processes.kill, scene.lab.paths, "pg-east-1", "pg-east-2")
    await scene.approve(run, override=True, reason="the region burnt down")
    again = await scene.state_when(
        run, "it asks again", lambda each: each.question and "decided on was bounded" in each.question.text
    )
    assert again.question is not None
    assert "the loss is unknown" in again.question.text
    assert not again.past_no_return
    await fault(scene.lab, "start", "pg-east-2")
    await scene.reject(run)
    report = await scene.report(run)
    assert report.new_primary is None, report
    assert (await scene.safe()).leader == "pg-east-1"


@pytest.mark.estate(failover={"cross_region": "never"})
async def test_never_leaves_the_region_to_a_person_alone(scene: Scene) -> None:
    await the_east_is_lost_with_what_the_west_had_not_received(scene)
    report = await scene.report(await scene.run_of_watch())
    assert report.outcome == "refused", report
    assert "failover.cross_region is `never`" in report.summary


async def test_a_cascading_standby_whose_upstream_is_lost_follows_the_new_primary(scene: Scene) -> None:
    await scene.traffic()
    assert (await streams_from(scene, "pg-west-2"))[0] == "pg-west-1"
    await fault(scene.lab, "kill", "pg-west-1")
    await fault(scene.lab, "kill", "pg-east-1")
    report = await scene.report(await scene.run_of_watch())
    assert report.new_primary in ("pg-east-2", "pg-east-3")
    assert [decision.by for decision in report.decisions] == ["policy"]
    assert await streams_from(scene, "pg-west-2") == (report.new_primary, 2)
    await scene.safe()


async def test_a_cascading_standby_whose_upstream_follows_stays_with_it(scene: Scene) -> None:
    await scene.traffic()
    await fault(scene.lab, "kill", "pg-east-1")
    report = await scene.report(await scene.run_of_watch())
    assert report.new_primary in ("pg-east-2", "pg-east-3")
    assert await streams_from(scene, "pg-west-1") == (report.new_primary, 2)
    assert await streams_from(scene, "pg-west-2") == ("pg-west-1", 2)
