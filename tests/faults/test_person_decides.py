"""Runs in which a person has a word: approvals, rejections, verbs, the lock, bad starts."""

from __future__ import annotations

import pytest
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.service import RPCError

from lab.lab import fault, status
from lab.model import Lab
from schemas.attributes import TASK_QUEUE
from schemas.reports import Report
from schemas.requests import Answer
from tests.faults.scene import Scene
from tests.faults.striking import striking_scene

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.estate(watch=False)]


def cause_of(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


@pytest.mark.estate(watch=True)
async def test_reject_with_the_primary_alive_leaves_the_estate_as_it_was(scene: Scene) -> None:
    await scene.traffic()
    before = {node.name: (node.role, node.pid) for node in (await status(scene.lab)).nodes}
    run = await scene.start("reject-1")
    await scene.reject(run)
    report = await scene.report(run)
    assert report.outcome == "rejected", report
    assert {node.name: (node.role, node.pid) for node in (await status(scene.lab)).nodes} == before
    audit = await scene.safe()
    assert all(route.longest_gap_s < 1 for route in audit.routes.values()), audit
    await scene.record(run, "rejected")


@pytest.mark.estate(watch=True)
async def test_approved_with_the_primary_alive(scene: Scene) -> None:
    await scene.traffic()
    run = await scene.start("approve-1")
    await scene.approve(run)
    report = await scene.report(run)
    assert report.outcome == "recovered, unprotected", report
    assert report.fence is not None
    assert report.fence.strength == "stopped"
    assert report.decisions[0].by == "ana"
    await scene.safe()
    await scene.record(run, "approved")


@pytest.mark.estate(watch=True, approval={"expires_s": 2})
async def test_nobody_answers_and_the_question_expires(scene: Scene) -> None:
    run = await scene.start("expire-1")
    state = await scene.question(run)
    assert state.question is not None
    report = await scene.report(run)
    assert report.outcome == "expired", report
    # Late: nothing listens any more, and nothing changes.
    for door in (run.signal, run.execute_update):
        with pytest.raises(RPCError):
            await door("approve", Answer(by="ana", digest=state.question.digest))
    await scene.record(run, "expired")


@pytest.mark.campaign
@pytest.mark.estate(watch=True, approval={"expires_s": 8}, failover={"automatic": False})
async def test_an_outage_over_which_a_question_expires_is_one_outage(scene: Scene) -> None:
    """The RTO runs, and the error budget is spent, from the first failed probe of all, whichever run ends it."""
    await scene.traffic()
    await fault(scene.lab, "kill", "pg-east-1")
    first = await scene.report(await scene.run_of_watch())
    assert first.outcome == "expired", first
    second = await scene.run_of_watch(2)
    await scene.approve(second)
    report = await scene.report(second)
    assert report.outcome == "recovered, unprotected", report
    assert report.outage_started == first.outage_started, (first, report)
    await scene.safe()


@pytest.mark.estate(watch=True)
async def test_answers_that_do_not_count(scene: Scene) -> None:
    """By the wrong person, on old evidence, twice, and too late."""
    run = await scene.start("answers-1")
    state = await scene.question(run)
    assert state.question is not None
    digest = state.question.digest
    for answer, why in (
        (Answer(by="mallory", digest=digest), "mallory"),
        (Answer(by="ana", digest="0123456789ab"), "digest"),
    ):
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await run.execute_update("approve", answer)
        assert why in cause_of(refused.value)
    await run.signal("approve", Answer(by="mallory", digest=digest))
    await scene.state_when(run, "the refusal is on record", lambda each: "does not count" in "\n".join(each.journal))
    await scene.reject(run)
    report = await scene.report(run)
    assert report.outcome == "rejected"


@pytest.mark.estate(watch=True, approval={"quorum": 2})
async def test_a_quorum_of_two_counts_each_person_once(scene: Scene) -> None:
    run = await scene.start("quorum-1")
    await scene.approve(run, by="ana")
    with pytest.raises(WorkflowUpdateFailedError):
        await scene.approve(run, by="ana")
    state = await scene.state(run)
    assert state.question is not None
    await scene.reject(run, by="ben")
    assert (await scene.report(run)).outcome == "rejected"


@pytest.mark.estate(watch=True)
async def test_second_run_is_told_who_holds_the_lock(scene: Scene) -> None:
    first = await scene.start("lock-1")
    await scene.question(first)
    second = await scene.start("lock-2")
    with pytest.raises(WorkflowFailureError) as refused:
        await scene.report(second)
    assert "lock-1" in cause_of(refused.value)
    await scene.reject(first)
    await scene.report(first)


@pytest.mark.estate(watch=True)
async def test_the_primary_dies_while_a_run_waits_for_a_person(scene: Scene) -> None:
    """The watch waits for that run's end, and then watches whoever leads by then: what it saw before is old."""
    await scene.traffic()
    first = await scene.start("waits-1")
    await scene.question(first)
    await fault(scene.lab, "kill", "pg-east-1")
    refused = await scene.run_of_watch()
    with pytest.raises(WorkflowFailureError) as locked:
        await scene.report(refused)
    assert "waits-1" in cause_of(locked.value)
    await scene.approve(first)
    report = await scene.report(first)
    assert report.outcome == "recovered, unprotected", report
    await scene.safe()
    assert report.new_primary is not None
    await fault(scene.lab, "kill", report.new_primary)
    second = await scene.report(await scene.run_of_watch(2, limit=60))
    assert second.old_primary == report.new_primary, second
    assert second.outcome == "recovered, unprotected", second
    await scene.safe()


async def test_unknown_service(scene: Scene) -> None:
    run = await scene.start("unknown-1", service="no-such-db")
    with pytest.raises(WorkflowFailureError) as failed:
        await scene.report(run, 30)
    assert "there is: counting-db" in cause_of(failed.value)


async def test_unknown_candidate(scene: Scene) -> None:
    run = await scene.start("unknown-2", candidate="pg-nowhere")
    with pytest.raises(WorkflowFailureError) as failed:
        await scene.report(run, 30)
    assert "pg-nowhere; counting-db has pg-east-1, " in cause_of(failed.value)


async def test_malformed_start_fails_at_once_and_readably(scene: Scene) -> None:
    run = await scene.client.start_workflow(
        "DatabaseFailover", {"servce": "counting-db"}, id="bad-1", task_queue=TASK_QUEUE, result_type=Report
    )
    with pytest.raises(WorkflowFailureError) as failed:
        await scene.report(run, 30)
    assert "servce" in cause_of(failed.value)


@pytest.mark.estate(watch=True)
async def test_abort_before_the_point_of_no_return(scene: Scene) -> None:
    await scene.traffic()
    run = await scene.start("abort-1")
    await scene.question(run)
    await scene.say(run, "abort")
    report = await scene.report(run)
    assert report.outcome == "aborted", report
    await scene.safe()
    await scene.record(run, "aborted")


@pytest.mark.estate(watch=True)
async def test_cancel_from_the_ui_is_an_abort(scene: Scene) -> None:
    run = await scene.start("cancel-1")
    await scene.question(run)
    await run.cancel()
    report = await scene.report(run)
    assert report.outcome == "aborted", report


@pytest.mark.campaign
async def test_aborted_after_the_fence_everything_is_undone(shared_lab: Lab) -> None:
    """The DNS server dies between fence and choice, the run parks, and is aborted: the old primary serves again."""
    plan = {"activity": "disconnect_standbys", "when": "after", "strike": "pid", "node": "knot-eu"}
    async with striking_scene(shared_lab, **plan) as (scene, done):
        await scene.traffic()
        run = await scene.start("undo-1")
        await scene.approve(run)
        state = await scene.state_when(run, "the run parks at the choice", lambda each: each.parked, 90)
        assert done.exists()
        assert state.parked == "Compare positions and record the choice", state
        await fault(scene.lab, "start", "knot-eu")
        await scene.say(run, "abort")
        report = await scene.report(run, 120)
        assert report.outcome == "aborted", report
        undone = [step.title for step in report.steps if step.outcome == "undone"]
        assert undone == ["Unfence the old primary", "Resume the poolers"], report.steps
        assert report.outage_s is not None, "clients were cut off, so the report must say for how long"
        roles = {node.name: node.role for node in (await status(scene.lab)).nodes if node.kind == "postgresql"}
        assert [name for name, role in roles.items() if role == "primary"] == ["pg-east-1"], roles
        await scene.safe()
        await scene.record(run, "undone")


@pytest.mark.estate(watch=True)
@pytest.mark.campaign
async def test_standby_hears_what_no_region_reaches(scene: Scene) -> None:
    """The postmaster alone is frozen: no new session, yet its walsenders go on. That is a question, not a death."""
    await scene.traffic()
    await fault(scene.lab, "freeze", "pg-east-1", postmaster_only=True)
    run = await scene.run_of_watch()
    state = await scene.question(run)
    assert state.assessment is not None
    assert state.assessment.death.state == "ask"
    assert "not dead" in state.assessment.death.reason
    await scene.approve(run)
    report = await scene.report(run)
    assert report.outcome == "recovered, unprotected", report
    await scene.safe()
    await fault(scene.lab, "thaw", "pg-east-1")
    await scene.safe()


@pytest.mark.estate(watch=True)
async def test_no_voter_reachable_is_refused_and_only_an_override_goes_on(scene: Scene) -> None:
    for node in ("pg-east-1", "pg-east-2", "pg-east-3"):
        await fault(scene.lab, "kill", node)
    run = await scene.run_of_watch()
    state = await scene.question(run)
    assert state.question is not None
    assert state.question.needs_override
    with pytest.raises(WorkflowUpdateFailedError):
        await scene.approve(run)
    await scene.approve(run, override=True, reason="the region burnt down")
    report = await scene.report(run)
    assert report.new_primary == "pg-east-4", report
    assert report.decisions[-1].override
    assert report.receipt != "nothing acknowledged was lost"
