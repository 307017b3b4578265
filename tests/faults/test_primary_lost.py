"""The primary is lost, and the watch fails over by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable

import pytest

from lab import lab as labs
from lab.lab import fault, start_watch
from lab.model import Lab
from lab.observe import until_protected
from lab.postgres import session
from lab.referee import audit
from lab.watch import end_runs
from schemas.attributes import watch_id
from tests.faults.scene import Scene
from tests.faults.striking import striking_scene

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_primary_killed_under_load(scene: Scene) -> None:
    await scene.traffic()
    await fault(scene.lab, "kill", "pg-east-1")
    run = await scene.run_of_watch()
    report = await scene.report(run)
    assert report.outcome == "recovered, unprotected", report
    assert report.assessment is not None
    assert report.assessment.verdict.kind == "none"
    assert report.fence is not None
    assert report.fence.proved
    assert report.new_primary in ("pg-east-2", "pg-east-3")
    assert report.rto_met
    assert [step.title for step in report.steps] == list((await scene.state(run)).planned)
    assert {write.region for write in report.routes if write.ok} == {"us-east-1", "us-west-2", "eu-west-1"}
    await scene.safe()
    await scene.record(run, "automatic")


@pytest.mark.campaign
async def test_whole_node_frozen_and_thawed_after_the_failover(scene: Scene) -> None:
    await scene.traffic()
    await fault(scene.lab, "freeze", "pg-east-1")
    report = await scene.report(await scene.run_of_watch())
    assert report.outcome == "recovered, unprotected", report
    assert report.fence is not None
    assert report.fence.strength == "disconnected"
    await scene.safe()
    await fault(scene.lab, "thaw", "pg-east-1")
    # A thawed primary would acknowledge at once what waited: it is given time to, and the referee its own write.
    await asyncio.sleep(2)
    await scene.safe()


async def only_voter(scene: Scene, name: str) -> None:
    """Wait until the lost voter has left the record's set."""

    async def narrowed() -> bool:
        record = await scene.epoch()
        return record is not None and record.voters == [name]

    await scene.until(f"{name} is the only voter of the record", narrowed)


async def test_one_voter_down_before_while_the_primary_lives_then_the_primary_dies(scene: Scene) -> None:
    await scene.traffic()
    await fault(scene.lab, "kill", "pg-east-3")
    await only_voter(scene, "pg-east-2")
    await fault(scene.lab, "kill", "pg-east-1")
    report = await scene.report(await scene.run_of_watch())
    # The last voter and pg-east-4, which may be promoted too: one leads, the other confirms its commits.
    assert report.outcome == "recovered, unprotected", report
    assert report.new_primary in ("pg-east-2", "pg-east-4"), report
    assert report.assessment is not None
    assert report.assessment.verdict.kind == "none"
    assert {report.new_primary, *report.assessment.survivors} == {"pg-east-2", "pg-east-4"}
    await scene.safe()


@pytest.mark.estate(failover={"candidates": ["pg-east-2", "pg-east-3", "pg-east-1"]})
async def test_nobody_is_left_to_confirm_so_a_person_is_asked(scene: Scene) -> None:
    await scene.traffic()
    await fault(scene.lab, "kill", "pg-east-3")
    await only_voter(scene, "pg-east-2")
    await fault(scene.lab, "kill", "pg-east-1")
    run = await scene.run_of_watch()
    state = await scene.question(run)
    assert state.assessment is not None
    assert state.assessment.verdict.kind == "none"
    await scene.approve(run)
    report = await scene.report(run)
    assert report.new_primary == "pg-east-2", report
    await scene.safe()


@pytest.mark.campaign
async def test_pooler_down(scene: Scene) -> None:
    """The other routes are moved; the run parks until the pooler is back and a person says `retry`."""
    await scene.traffic()
    await fault(scene.lab, "kill", "pgbouncer-west")
    await fault(scene.lab, "kill", "pg-east-1")
    run = await scene.run_of_watch()
    state = await scene.state_when(run, "the run parks at the route", lambda each: each.parked)
    assert state.parked == "Route clients"
    assert "pgbouncer-west" in state.steps[-1].detail
    await scene.safe()
    await fault(scene.lab, "start", "pgbouncer-west")
    await scene.say(run, "retry")
    report = await scene.report(run)
    assert report.outcome == "recovered, unprotected", report
    await scene.safe()
    await scene.record(run, "parked-and-retried")


async def test_dns_server_down(scene: Scene) -> None:
    """The epoch is out of reach: nothing is changed until it is back."""
    await scene.traffic()
    await fault(scene.lab, "freeze", "knot-eu")
    await fault(scene.lab, "kill", "pg-east-1")
    run = await scene.run_of_watch()
    state = await scene.state_when(run, "the run waits for a person", lambda each: each.parked or each.question)
    assert not state.past_no_return
    await fault(scene.lab, "thaw", "knot-eu")
    await scene.say(run, "abort")
    report = await scene.report(run)
    assert report.new_primary is None


async def test_dns_server_down_and_a_person_goes_on_without_the_epoch_store(scene: Scene) -> None:
    """Nobody knows then who had to acknowledge: it takes an override. Poolers serve; the names follow when they can."""
    await scene.traffic()
    await fault(scene.lab, "freeze", "knot-eu")
    await fault(scene.lab, "kill", "pg-east-1")
    run = await scene.run_of_watch()
    state = await scene.question(run)
    assert state.question is not None
    assert state.question.needs_override
    assert "epoch store" in state.question.text
    await scene.approve(run, override=True, reason="the DNS region is gone, and clients wait")
    state = await scene.state_when(run, "the run parks at the route", lambda each: each.parked, 60)
    assert state.parked == "Route clients"

    async def poolers_serve() -> bool:
        routes = (await audit(scene.lab)).routes
        return routes["pgbouncer-transaction"].writing and routes["pgbouncer-session"].writing

    await scene.until("clients of the poolers write", poolers_serve)
    await fault(scene.lab, "thaw", "knot-eu")
    await scene.say(run, "retry")
    report = await scene.report(run)
    assert report.outcome == "recovered, unprotected", report
    assert report.decisions[-1].override
    assert report.receipt != "nothing acknowledged was lost"
    record = await scene.epoch()
    assert record is not None
    assert (record.leader, record.epoch, record.candidate) == (report.new_primary, report.epoch, None)
    await scene.safe()


@pytest.mark.campaign
async def test_candidate_dies_in_mid_promotion(shared_lab: Lab) -> None:
    """Its survivor, which has all that it had, is promoted by the same inequality, in a new epoch."""
    plan = {"inside": "activities.promotion:_caught_up", "strike": "server"}
    async with striking_scene(shared_lab, **plan) as (scene, done):
        await scene.traffic()
        await fault(scene.lab, "kill", "pg-east-1")
        report = await scene.report(await scene.run_of_watch(), 120)
        assert done.exists()
        assert report.outcome == "recovered, unprotected", report
        assert report.epoch == 2
        assert report.assessment is not None
        assert report.assessment.verdict.kind == "none", report.assessment
        assert report.assessment.survivors
        await scene.safe()


async def test_survivor_dies_in_the_election(shared_lab: Lab) -> None:
    """The candidate stays; another standby confirms its commits in the dead one's place."""
    plan = {"activity": "promote_candidate", "when": "before", "strike": "survivor"}
    async with striking_scene(shared_lab, **plan) as (scene, done):
        await scene.traffic()
        await fault(scene.lab, "kill", "pg-east-1")
        report = await scene.report(await scene.run_of_watch(), 120)
        assert done.exists()
        assert report.outcome == "recovered, unprotected", report
        assert report.epoch == 1
        assert report.assessment is not None
        assert report.assessment.survivors == ["pg-east-4"], report.assessment
        assert report.assessment.verdict.kind == "none", report.assessment
        await scene.safe()


async def test_a_voter_is_frozen_and_the_run_goes_on_without_it(scene: Scene) -> None:
    """One voter of two in reach is not enough to know: a person must override, or bring it back."""
    await scene.traffic()
    await fault(scene.lab, "freeze", "pg-east-3")
    await fault(scene.lab, "kill", "pg-east-1")
    run = await scene.run_of_watch()
    state = await scene.question(run)
    assert state.question is not None
    assert state.question.needs_override
    await fault(scene.lab, "thaw", "pg-east-3")
    await scene.reject(run)
    report = await scene.report(run)
    assert report.outcome == "rejected"
    # The watch asks again by itself, with the voter back: nothing is lost, and the policy decides.
    second = await scene.report(await scene.run_of_watch(2, limit=60), 120)
    assert second.outcome == "recovered, unprotected", second
    await scene.safe()


@pytest.mark.campaign
async def test_the_watchs_history_stands_still_after_a_failover(scene: Scene) -> None:
    """The old primary stays away, as a voter that is missing for long: that is no news each time."""
    await scene.traffic()
    await fault(scene.lab, "kill", "pg-east-1")
    await scene.report(await scene.run_of_watch())
    watch = scene.client.get_workflow_handle(watch_id(scene.lab.service))

    async def settled() -> bool:
        before = await watch.describe()
        await asyncio.sleep(12)  # twice the time after which a voter counts as lost
        after = await watch.describe()
        return (before.run_id, before.history_length) == (after.run_id, after.history_length)

    await scene.until("the watch's history stands still", settled, 60)


async def test_a_standby_that_can_not_follow_is_named(scene: Scene) -> None:
    conn = await session(scene.lab, "pg-east-4")
    assert conn is not None
    await conn.execute("ALTER SYSTEM SET primary_slot_name = 'gone'")
    await conn.close()
    await scene.traffic()
    await fault(scene.lab, "kill", "pg-east-1")
    report = await scene.report(await scene.run_of_watch())
    assert report.outcome == "recovered, unprotected", report
    assert any(line.startswith("pg-east-4 does not follow") for line in report.unprotected), report.unprotected
    await scene.safe()


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """A port that takes connections and never answers."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        server.close()


@pytest.mark.estate(watch=False)
async def test_a_webhook_that_is_slow_and_a_mail_server_that_refuses_delay_no_step(shared_lab: Lab) -> None:
    async with silent_server() as port:
        targets = [
            {"kind": "webhook", "name": "slow", "url": f"http://127.0.0.1:{port}/"},
            {
                "kind": "smtp",
                "name": "refuses",
                "host": "127.0.0.1",
                "port": 9,
                "sender": "a@x.test",
                "recipients": ["b@x.test"],
            },
            {"kind": "log", "name": "log"},
        ]
        lab = await labs.reset(shared_lab, overrides={"notify": targets, "rejoin": {"when": "by-hand"}})
        scene = Scene(lab, await labs.connect(lab))
        await scene.traffic()
        await fault(lab, "kill", "pg-east-1")
        report = await scene.report(await scene.run_of_watch(), 20)
        assert report.outcome == "recovered, unprotected", report
        assert report.outage_s is not None
        assert report.outage_s < 5, report

        async def told() -> list[str]:
            query = "ExecutionStatus = 'Running' AND WorkflowType = 'Notify'"
            return [run.id async for run in scene.client.list_workflows(query)]

        await scene.until("the notices are tried on, beside the run", told)
        await scene.safe()


async def test_second_fault_the_new_primary_dies_too(scene: Scene) -> None:
    await scene.traffic()
    await fault(scene.lab, "kill", "pg-east-1")
    first = await scene.report(await scene.run_of_watch())
    assert first.new_primary is not None
    await fault(scene.lab, "kill", first.new_primary)
    second = await scene.report(await scene.run_of_watch(2, limit=60))
    assert second.outcome == "recovered, unprotected", second
    assert second.new_primary not in (None, "pg-east-1", first.new_primary)
    await scene.safe()


async def test_old_primary_returns_by_itself_after_the_failover(scene: Scene) -> None:
    await scene.traffic()
    await fault(scene.lab, "kill", "pg-east-1")
    await scene.report(await scene.run_of_watch())
    await fault(scene.lab, "start", "pg-east-1", force=True)
    await asyncio.sleep(1)
    await scene.safe()


async def test_temporal_killed_in_mid_run(scene: Scene) -> None:
    await scene.traffic()
    await fault(scene.lab, "kill", "pg-east-1")
    run = await scene.run_of_watch()
    await fault(scene.lab, "kill", "temporal")

    async def back() -> bool:
        try:
            await scene.state(run)
        except Exception:  # noqa: BLE001 - whatever a client sees while its server is away
            return False
        return True

    await scene.until("Temporal answers again", back, 60)
    report = await scene.report(run, 120)
    assert report.outcome == "recovered, unprotected", report
    await scene.safe()


async def test_every_worker_killed_in_mid_run(scene: Scene) -> None:
    await scene.traffic()
    await fault(scene.lab, "kill", "pg-east-1")
    run = await scene.run_of_watch()
    for region in ("us-east-1", "us-west-2", "eu-west-1"):
        await fault(scene.lab, "kill", f"worker-{region}")
    report = await scene.report(run, 120)
    assert report.outcome == "recovered, unprotected", report
    await scene.safe()


@pytest.mark.estate(detection={"interval_s": 1.0})
async def test_crashes_and_is_back_within_the_detection_window(scene: Scene) -> None:
    await scene.traffic()
    backend = await scene.backend_of("pg-east-1")
    os.kill(backend, signal.SIGKILL)  # the postmaster ends all sessions and recovers
    await scene.safe()
    assert await scene.runs() == []


async def test_slow_for_a_second(scene: Scene) -> None:
    """Every process of the primary stands still for a second: slow is not dead."""
    await scene.traffic()
    await fault(scene.lab, "freeze", "pg-east-1")
    await asyncio.sleep(1)
    await fault(scene.lab, "thaw", "pg-east-1")
    await scene.safe()
    assert await scene.runs() == []


@contextlib.asynccontextmanager
async def own_disk(lab: Lab, name: str) -> AsyncIterator[Callable[[str], None]]:
    """The member's data on a file system of its own; yields what freezes (`-f`) and thaws (`-u`) it."""
    data = lab.paths.data(name)
    image, kept = data.with_name("disk.img"), data.with_name("data.kept")

    def run(*argv: str) -> None:
        subprocess.run(argv, check=True, capture_output=True, timeout=60)

    await fault(lab, "stop", name)
    data.rename(kept)
    try:
        with image.open("wb") as file:
            file.truncate(2**30)
        run("mkfs.ext4", "-q", str(image))
        data.mkdir(mode=0o700)
        run("mount", "-o", "loop", str(image), str(data))
        try:
            run("cp", "-a", f"{kept}/.", str(data))
            run("chown", "--reference", str(kept), str(data))
            data.chmod(0o700)
            await fault(lab, "start", name, force=True)
            yield lambda flag: run("fsfreeze", flag, str(data))
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # it is thawed already where all went well
                run("fsfreeze", "-u", str(data))
            await fault(lab, "kill", name)
            run("umount", str(data))
    finally:
        if data.exists():
            data.rmdir()
        kept.rename(data)
        image.unlink(missing_ok=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
@pytest.mark.estate(watch=False)
async def test_a_disk_that_stalls_for_a_second(scene: Scene) -> None:
    async with own_disk(scene.lab, "pg-east-1") as freeze:
        await until_protected(scene.lab)
        await start_watch(scene.lab, scene.client)
        await scene.traffic()
        freeze("-f")
        await asyncio.sleep(1)
        freeze("-u")
        found = await scene.safe()
        assert all(route.longest_gap_s > 0.8 for route in found.routes.values()), "the disk did not stall"
        assert await scene.runs() == []
        await end_runs(scene.lab, scene.client)


async def test_both_cores_busy(scene: Scene) -> None:
    await scene.traffic()
    burners = [await asyncio.create_subprocess_exec("sh", "-c", "while :; do :; done") for _ in range(4)]
    try:
        await asyncio.sleep(8)
    finally:
        for each in burners:
            each.kill()
            await each.wait()
    await scene.safe()
    assert await scene.runs() == []
