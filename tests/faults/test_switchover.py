"""A planned move that meets bad luck: it is done without loss, or the old primary serves on."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from temporalio.client import WorkflowFailureError

from activities import pooler
from activities.topology import load_topology
from lab.lab import fault
from lab.model import Lab
from schemas.reports import Report
from schemas.state import RunState
from tests.faults.cells import cells
from tests.faults.scene import Run, Scene
from tests.faults.striking import striking_scene
from tests.faults.worker import processes_of
from workflows.database_switchover import PREPARE

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def moved(scene: Scene, report: Report, *, to: str | None = None) -> None:
    """The candidate leads, the old primary follows it, nothing is lost."""
    record = await scene.epoch()
    assert record is not None
    assert report.outcome == "done", report
    assert report.new_primary == record.leader != "pg-east-1", report
    assert to in (None, record.leader), report
    assert record.candidate is None, record
    await scene.is_back("pg-east-1")
    await scene.safe()


async def stayed(scene: Scene, report: Report) -> None:
    """Nobody was promoted: the old primary serves, and the others follow it again."""
    assert report.outcome == "undone", report
    assert report.new_primary is None, report
    await scene.safe()
    record = await scene.epoch()
    assert record is not None
    assert (record.leader, record.candidate) == ("pg-east-1", None), record
    for name in ("pg-east-2", "pg-east-3", "pg-east-4", "pg-west-1"):
        await scene.is_back(name)


async def test_the_candidate_is_cut_off_before_the_primary_is_shut_down(shared_lab: Lab) -> None:
    """It lacks the last of the WAL: the comparison refuses it, and the old primary is started again."""
    plan = {"activity": "stop_cleanly", "when": "before", "strike": "cut-off", "member": "pg-east-2"}
    async with striking_scene(shared_lab, workflow="DatabaseSwitchover", **plan) as (scene, done):
        await scene.traffic()
        run = await scene.switch("pg-east-2")
        report = await scene.report(run)
        assert done.exists()
        assert "nobody was promoted: pg-east-2 has received up to" in report.summary, report
        await stayed(scene, report)
        await scene.record(run, "switchover-undone")


@pytest.mark.campaign
async def test_the_candidate_hangs_while_the_primary_is_shut_down(shared_lab: Lab) -> None:
    """A fast stop waits for a receiver that hangs, and the node's control gives up: not shut down, so nobody knows."""
    plan = {"activity": "stop_cleanly", "when": "before", "strike": "freeze-receiver", "member": "pg-east-2"}
    async with striking_scene(shared_lab, workflow="DatabaseSwitchover", **plan) as (scene, done):
        await scene.traffic()
        run = await scene.switch("pg-east-2")
        await scene.state_when(run, "it is called off", lambda state: "Resume the poolers" in titles(state))
        for pid in processes_of(str(scene.lab.folder), "pg-east-2", "walreceiver"):
            os.kill(pid, signal.SIGCONT)
        report = await scene.report(run)
        assert done.exists()
        assert "nobody was promoted" in report.summary, report
        await stayed(scene, report)


async def led_by_another(scene: Scene) -> bool:
    record = await scene.epoch()
    return record is not None and record.leader != "pg-east-1" and record.candidate is None


def titles(state: RunState) -> list[str]:
    return [step.title for step in state.steps]


@pytest.mark.campaign
async def test_the_primary_dies_before_it_is_shut_down(shared_lab: Lab) -> None:
    """Nobody knows then where its WAL ends; it is started again, and serves."""
    plan = {"activity": "stop_cleanly", "when": "before", "strike": "kill-node", "member": "pg-east-1"}
    async with striking_scene(shared_lab, workflow="DatabaseSwitchover", **plan) as (scene, done):
        await scene.traffic()
        report = await scene.report(await scene.switch("pg-east-2"))
        assert done.exists()
        assert "was not shut down" in report.summary, report
        await stayed(scene, report)


@pytest.mark.campaign
async def test_a_survivor_dies_before_the_promotion(shared_lab: Lab) -> None:
    """Nobody would confirm the candidate's commits: the old primary, which has everything, serves on."""
    plan = {"activity": "promote_candidate", "when": "before", "strike": "survivor"}
    async with striking_scene(shared_lab, workflow="DatabaseSwitchover", **plan) as (scene, done):
        await scene.traffic()
        report = await scene.report(await scene.switch("pg-east-2"), 120)
        assert done.exists()
        assert report.outcome == "undone", report
        assert "nobody was promoted" in report.summary, report
        record = await scene.epoch()
        assert record is not None
        assert (record.leader, record.candidate) == ("pg-east-1", None), record
        await scene.is_back("pg-east-2")
        await scene.safe()


@pytest.mark.campaign
async def test_the_old_primary_is_started_before_it_has_returned(shared_lab: Lab) -> None:
    """By a person, or a service manager: it acknowledges nothing, and comes back all the same."""
    plan = {"activity": "examine_folder", "when": "before", "strike": "start", "member": "pg-east-1"}
    async with striking_scene(shared_lab, workflow="DatabaseSwitchover", **plan) as (scene, done):
        await scene.traffic()
        report = await scene.report(await scene.switch("pg-east-2"))
        assert done.exists()
        assert report.outcome in ("done", "done, unprotected"), report
        if report.outcome != "done":
            assert any("pg-east-1" in line for line in report.unprotected), report.unprotected
            back = await scene.report(await scene.rejoin("pg-east-1"))
            assert back.outcome == "done", back
        await scene.is_back("pg-east-1")
        await scene.safe()


@pytest.mark.campaign
async def test_the_candidate_is_no_voter(scene: Scene) -> None:
    """The voters stay with the primary until it stops, or no commit would come through from the preparation on."""
    await scene.traffic()
    report = await scene.report(await scene.switch("pg-east-4"))
    await moved(scene, report, to="pg-east-4")
    found = await scene.safe()
    assert found.routes["pgbouncer-transaction"].longest_gap_s < 5, found


@pytest.mark.campaign
async def test_with_no_other_voter_a_person_is_asked(scene: Scene) -> None:
    await scene.traffic()
    await fault(scene.lab, "kill", "pg-east-3")
    run = await scene.switch("pg-east-2")
    state = await scene.question(run)
    assert state.question is not None
    assert "acknowledge alone" in state.question.text, state.question
    await scene.approve(run)
    report = await scene.report(run)
    assert report.outcome == "done, unprotected", report
    assert report.new_primary == "pg-east-2"
    await scene.is_back("pg-east-1")
    await scene.safe()


ACTIVITIES = (
    "describe_estate",
    "observe",
    "claim_epoch",
    "follow_leader",
    "prepare_primary",
    "keep_from_starting",
    "prepare_candidate",
    "until_caught_up",
    "lead_pgpool",
    "pause_poolers",
    "stop_cleanly",
    "point_pooler",
    "choose_and_lead",
    "promote_candidate",
    "confirm_names",
    "verify_routes",
    "write_record",
    "examine_folder",
    "keep_divergence",
    "return_member",
    "start_standby",
    "let_it_start",
    "apply_names",
    "look_at_reads",
    "lead_read_names",
    "read_journey",
)
CAMPAIGN = {
    ("stop_cleanly", "before", "kill"),
    ("stop_cleanly", "after", "kill"),
    ("stop_cleanly", "after", "pid"),
    ("pause_poolers", "before", "kill"),
    ("pause_poolers", "after", "kill"),
    ("choose_and_lead", "before", "kill"),
    ("choose_and_lead", "after", "kill"),
    ("promote_candidate", "before", "kill"),
    ("promote_candidate", "after", "kill"),
    ("start_standby", "before", "pid"),
}


@pytest.mark.parametrize(("activity", "when", "who"), cells(ACTIVITIES, (), CAMPAIGN))
async def test_killed_at(shared_lab: Lab, activity: str, when: str, who: str) -> None:
    plan = {"activity": activity, "when": when, "strike": who}
    async with striking_scene(shared_lab, workflow="DatabaseSwitchover", **plan) as (scene, done):
        await scene.traffic()
        report = await scene.report(await scene.switch("pg-east-2"), 120)
        assert done.exists()
        if report.outcome == "undone":
            await stayed(scene, report)
        else:
            await moved(scene, report, to="pg-east-2")


@asynccontextmanager
async def open_transaction(scene: Scene) -> AsyncIterator[asyncpg.Connection]:
    """One of a client of the transaction pool, that holds its server until it ends."""
    conn = await asyncpg.connect(scene.lab.routes["pgbouncer-transaction"], statement_cache_size=0, timeout=5)
    try:
        await conn.execute("BEGIN")
        await conn.fetchval("SELECT count(*) FROM counting_results")
        yield conn
    finally:
        conn.terminate()


@pytest.mark.estate(switchover={"pause_s": 1.0})
async def test_a_long_transaction_keeps_the_pooler_from_pausing(scene: Scene) -> None:
    """Called off in time: every client goes on, and the long transaction as well."""
    await scene.traffic()
    async with open_transaction(scene) as conn:
        report = await scene.report(await scene.switch("pg-east-2"))
        assert "not paused within 1 s" in report.summary, report
        assert await conn.fetchval("SELECT count(*) FROM counting_results") > 0
        await conn.execute("COMMIT")
    await stayed(scene, report)
    for route in load_topology(scene.lab.topology).service(scene.lab.service).gates():
        async with pooler.console(route) as console:
            rows = (await pooler.databases(console, route)).values()
        assert not any(int(row["paused"]) or int(row["disabled"]) for row in rows), rows
    found = await scene.safe()
    assert found.routes["pgbouncer-transaction"].longest_gap_s < 10, found
    # Nothing is left of it that would keep the next one from its end.
    run = await scene.switch("pg-east-2")
    await moved(scene, await scene.report(run), to="pg-east-2")
    await scene.record(run, "switched-over")


@pytest.mark.campaign
async def test_a_pooler_that_is_down_is_told_before_anybody_waits(scene: Scene) -> None:
    await scene.traffic()
    await fault(scene.lab, "kill", "pgbouncer-west")
    report = await scene.report(await scene.switch("pg-east-2"))
    assert report.outcome == "refused", report
    assert "pgbouncer-west" in report.summary, report
    await fault(scene.lab, "start", "pgbouncer-west")
    await moved(scene, await scene.report(await scene.switch("pg-east-2")), to="pg-east-2")


@pytest.mark.campaign
async def test_a_move_that_waits_for_a_person_is_called_off_for_a_failover(scene: Scene) -> None:
    """Clients wait for the one, nobody for the other: what it asks rests on a primary that is dead by then."""
    await scene.traffic()
    move = await scene.switch("pg-east-2", approval="always")
    await scene.question(move)
    await fault(scene.lab, "kill", "pg-east-1")
    failover = await scene.report(await scene.run_of_watch())
    assert failover.outcome == "recovered, unprotected", failover
    report = await scene.report(move)
    assert report.outcome == "aborted", report
    assert failover.run in report.summary, report
    await scene.safe()


async def keeps_the_service(scene: Scene, move: Run, other: Run) -> None:
    """The other run is refused, and told who has it; the move still asks, and takes its answer."""
    with pytest.raises(WorkflowFailureError) as locked:
        await scene.report(other)
    assert move.id in str(locked.value.cause)
    await scene.reject(move)
    assert (await scene.report(move)).outcome == "rejected"
    await scene.safe()


@pytest.mark.campaign
async def test_a_second_move_does_not_push_the_first_one_out(scene: Scene) -> None:
    await scene.traffic()
    first = await scene.switch("pg-east-2", approval="always")
    await scene.question(first)
    await keeps_the_service(scene, first, await scene.switch("pg-east-3", "other"))


@pytest.mark.campaign
async def test_the_primary_dies_while_the_move_is_prepared(shared_lab: Lab) -> None:
    """Given up within seconds, since a failover waits for its end; the primary is started again."""
    plan = {"activity": "prepare_primary", "when": "before", "strike": "kill-node", "member": "pg-east-1"}
    async with striking_scene(shared_lab, workflow="DatabaseSwitchover", **plan) as (scene, done):
        await scene.traffic()
        report = await scene.report(await scene.switch("pg-east-2"))
        assert done.exists()
        assert report.outcome == "undone", report
        (prepare,) = [step for step in report.steps if step.title == PREPARE]
        assert prepare.attempts <= 4, prepare
        await scene.safe()


@pytest.mark.campaign
async def test_a_failover_of_a_living_primary_calls_no_move_off(scene: Scene) -> None:
    """Nothing says yet that it is needed."""
    await scene.traffic()
    move = await scene.switch("pg-east-2", approval="always")
    await scene.question(move)
    await keeps_the_service(scene, move, await scene.start("beside-a-move"))


@pytest.mark.campaign
async def test_the_primarys_node_hangs_while_the_move_is_prepared(shared_lab: Lab) -> None:
    """Neither its server nor its control answers: the move gives up, and the watch's failover has the service."""
    plan = {"activity": "prepare_primary", "when": "before", "strike": "freeze-node", "member": "pg-east-1"}
    async with striking_scene(shared_lab, workflow="DatabaseSwitchover", **plan) as (scene, done):
        await scene.traffic()
        move = await scene.switch("pg-east-2")
        report = await scene.report(move, 60)
        assert done.exists()
        assert report.new_primary is None, report
        # One that came while the move was at it was refused.
        with contextlib.suppress(WorkflowFailureError):
            await scene.report(await scene.run_of_watch())
        await scene.until("a failover has recovered it", lambda: led_by_another(scene), 60)
        found = await scene.safe()
        assert max(route.longest_gap_s for route in found.routes.values()) < 60, found
