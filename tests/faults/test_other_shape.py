"""Estates of another shape: two regions, a primary and one standby, a name and no pooler; and their weaker promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from lab import lab as labs
from lab.demo import Demonstration, demonstrate, text
from lab.lab import fault
from lab.model import Lab
from tests.faults.scene import Run, Scene
from tests.faults.test_plan import plan

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.campaign]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def two_regions() -> AsyncIterator[Lab]:
    lab = await labs.up(shape="two-regions", make_current=False)
    yield lab
    await labs.down(lab)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def asynchronous() -> AsyncIterator[Lab]:
    lab = await labs.up(shape="two-regions-async", make_current=False)
    yield lab
    await labs.down(lab)


async def shown(lab: Lab) -> tuple[Demonstration, list[str]]:
    told: list[str] = []
    return await demonstrate("database-failover", await labs.reset(lab), told.append), told


async def order_of(run: Run, *activities: str) -> list[str]:
    """These activities' ends, in the order of the run's history."""
    scheduled: dict[int, str] = {}
    ended = []
    async for event in run.fetch_history_events():
        if event.HasField("activity_task_scheduled_event_attributes"):
            scheduled[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
        elif event.HasField("activity_task_completed_event_attributes"):
            ended.append(scheduled[event.activity_task_completed_event_attributes.scheduled_event_id])
    return [name for name in ended if name in activities]


async def test_the_shape(two_regions: Lab) -> None:
    assert {node.name: node.upstream for node in two_regions.members()} == {"pg-east-1": None, "pg-west-1": "pg-east-1"}
    assert two_regions.of_kind("pgbouncer") == []
    assert two_regions.regions == ["us-east-1", "us-west-2"]
    assert list(two_regions.routes) == ["dns"]


async def test_the_demos_failover_with_one_voter(two_regions: Lab) -> None:
    """1 + 1 > 1, so nothing is lost and nobody is asked; from then on the new primary acknowledges alone."""
    found, told = await shown(two_regions)
    assert found.passed, text(found)
    assert found.audit.clean
    (report,) = found.runs
    assert report.assessment is not None
    assert report.assessment.verdict.kind == "none"
    assert "(1 + 1 > 1)" in report.assessment.verdict.reason
    assert report.assessment.survivors == []
    assert [decision.by for decision in report.decisions] == ["policy"]
    assert any("pg-west-1 acknowledges alone" in line for line in report.unprotected), report.unprotected
    assert report.assessment.death.votes.keys() == {"us-east-1", "us-west-2"}
    assert {(write.route, write.region) for write in report.routes} == {("dns", "us-east-1"), ("dns", "us-west-2")}
    scene = Scene(two_regions, await labs.connect(two_regions))
    record = await scene.epoch()
    assert record is not None
    assert (record.leader, record.w, record.voters) == ("pg-west-1", 0, [])
    assert not any("asks" in line for line in told)


async def test_required_with_nobody_left_to_confirm_is_said_before_and_asks_a_person(two_regions: Lab) -> None:
    """The new primary could acknowledge nothing by that policy: a person lets it acknowledge alone."""
    lab = await labs.reset(two_regions, overrides={"synchronous": {"policy": "required"}})
    scene = Scene(lab, await labs.connect(lab))
    await scene.traffic()
    planned = await plan(scene, "plan-required")
    assert any("no voter would be left" in line and "`required`" in line for line in planned.blockers), planned
    assert "it acknowledges alone" in next(step.detail for step in planned.steps if step.title.startswith("Promote"))
    await fault(lab, "kill", "pg-east-1")
    run = await scene.run_of_watch()
    state = await scene.question(run)
    assert state.question is not None
    assert "it would acknowledge alone" in state.question.text
    assert not state.question.needs_override
    await scene.approve(run)
    report = await scene.report(run)
    assert report.outcome == "recovered, unprotected", report
    assert any("pg-west-1 acknowledges alone" in line for line in report.unprotected), report.unprotected
    await scene.safe()


async def test_without_a_voter_the_loss_is_bounded_in_time_and_a_person_decides(asynchronous: Lab) -> None:
    """Only its stop keeps such a primary from acknowledging, so the run awaits that before it promotes. While it lives
    the loss is unknown; once nothing listens there, it is no older than the heartbeat that the standby holds."""
    scene = Scene(asynchronous, await labs.connect(asynchronous))
    planned = await plan(scene, "plan-async")
    assert any("unknown" in line and "a person's override" in line for line in planned.blockers), planned
    found, told = await shown(asynchronous)
    assert found.passed, text(found)
    assert found.audit.concurrent_writers == 0
    (report,) = found.runs
    assert report.assessment is not None
    verdict = report.assessment.verdict
    assert verdict.in_time_only, verdict
    assert report.receipt == f"unknown, at most {verdict.at_most_s:.1f} s"
    (decision,) = report.decisions
    assert (decision.by, decision.override) == ("ana", True)
    assert "only its stop keeps it from going on" in decision.question
    assert report.fence is not None
    assert report.fence.strength == "stopped"
    assert any("replication is asynchronous" in line for line in report.unprotected), report.unprotected
    assert any("answers as ana" in line for line in told)
    run = scene.client.get_workflow_handle(report.run)
    assert await order_of(run, "stop_node", "promote_candidate") == ["stop_node", "promote_candidate"]


@pytest.mark.campaign
async def test_a_primary_that_nothing_holds_is_named_before_another_acknowledges_beside_it(asynchronous: Lab) -> None:
    """It is frozen, its standby's disconnection does not stop it, and neither does its node control."""
    scene = Scene(await labs.reset(asynchronous, watch=False), await labs.connect(asynchronous))

    def change(declared: dict[str, Any]) -> None:
        for member in declared["services"][0]["members"]:
            member["control"] |= {"stop": ["false"], "autostart_off": ["false"]}

    await scene.declare(change)
    await scene.traffic()
    await fault(scene.lab, "freeze", "pg-east-1")
    run = await scene.run_of_watch()
    await scene.approve(run, override=True, reason="the region burnt down")
    state = await scene.state_when(
        run, "it asks once more", lambda each: each.question and "could not be stopped" in each.question.text, 120
    )
    assert state.question is not None
    assert state.question.needs_override
    assert not state.past_no_return
    await scene.approve(run, override=True, reason="we have cut its power")
    state = await scene.state_when(run, "it parks as nothing holds the old primary", lambda each: each.parked, 120)
    assert state.parked == "Verify through every route"
    await scene.say(run, "skip")
    report = await scene.report(run)
    assert report.outcome == "needs a person", report
    assert [decision.override for decision in report.decisions] == [True, True]
    assert any("not known to be stopped" in line for line in report.unprotected), report.unprotected
