"""A former primary, or any member, comes back: whatever it does meanwhile, and whoever else does something."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.testing import ActivityEnvironment

from activities import data_folder
from activities.node import port_open
from activities.topology import load_topology
from lab.lab import fault
from lab.model import Lab
from lab.postgres import session
from schemas.failures import DataFolderFailed, SecondPrimary
from schemas.rejoin import FolderOrder
from schemas.reports import Report
from tests.faults.cells import cells
from tests.faults.scene import Scene
from tests.faults.striking import striking_scene

pytestmark = pytest.mark.asyncio(loop_scope="session")

RETURN = "Rewind or rebuild it"


async def came_back(scene: Scene, report: Report, member: str = "pg-east-1") -> str:
    """It streams, as the servers say, and nothing was lost; how it came back, as the report tells."""
    assert report.outcome in ("done", "done, unprotected"), report
    assert report.tasks == [], report
    await scene.is_back(member)
    await scene.safe()
    return {step.title: step.detail for step in report.steps}[RETURN]


STARTS_BEFORE = ("stop_node", "examine_folder", "keep_divergence", "start_standby", "follow_leader")


@pytest.mark.parametrize(
    "activity", ["return_member", *(pytest.param(each, marks=pytest.mark.campaign) for each in STARTS_BEFORE)]
)
async def test_the_old_primary_starts_by_itself_before(activity: str, shared_lab: Lab) -> None:
    """Whatever starts it (a person, a service manager): it acknowledges nothing, and is brought back all the same."""
    plan = {"activity": activity, "when": "before", "strike": "start", "member": "pg-east-1"}
    async with striking_scene(shared_lab, workflow="DatabaseRejoin", **plan) as (scene, done):
        await scene.failed_over()
        run = await scene.rejoin("pg-east-1")
        report = await scene.report(run, 40)
        assert done.exists()
        await came_back(scene, report)


ACTIVITIES = (
    "describe_estate",
    "until_in_reach",
    "observe",
    "claim_epoch",
    "stop_node",
    "examine_folder",
    "keep_divergence",
    "return_member",
    "start_standby",
    "follow_leader",
    "until_caught_up",
    "let_it_start",
    "look_at_reads",
    "lead_read_names",
    "lead_pgpool",
    "read_journey",
)
CAMPAIGN = {
    *((each, when, "kill") for each in ("keep_divergence", "return_member") for when in ("before", "after")),
    *((each, when, "kill") for each in ("start_standby", "let_it_start") for when in ("before", "after")),
    ("return_member", "after", "pid"),
    ("until_in_reach", "before", "kill"),
}


@pytest.mark.parametrize(("activity", "when", "who"), cells(ACTIVITIES, (), CAMPAIGN))
async def test_killed_at(shared_lab: Lab, activity: str, when: str, who: str) -> None:
    """The next worker finds the job on the node, under way or ended."""
    plan = {"activity": activity, "when": when, "strike": who}
    async with striking_scene(shared_lab, workflow="DatabaseRejoin", **plan) as (scene, done):
        await scene.failed_over()
        run = await scene.rejoin("pg-east-1")
        report = await scene.report(run)
        assert done.exists()
        assert "copied anew" not in await came_back(scene, report)


@pytest.mark.campaign
async def test_frozen_and_thawed_in_the_middle_of_its_own_rejoin(scene: Scene) -> None:
    """A node that does as it is told no more is waited for; its copy goes on where it stood."""
    await slow_copies(scene)
    await scene.failed_over()
    await spoil(scene, "pg-east-1")
    run = await scene.rejoin("pg-east-1")
    await copying(scene)
    await fault(scene.lab, "freeze", "pg-east-1")
    await scene.safe()
    await fault(scene.lab, "thaw", "pg-east-1")
    assert "copied anew" in await came_back(scene, await scene.report(run))


@pytest.mark.campaign
async def test_frozen_before_the_failover_and_thawed_after_it(scene: Scene) -> None:
    """The rejoin waits for the node, holding nothing."""
    await scene.failed_over("freeze")
    run = await scene.rejoin("pg-east-1", wait_s=120.0)
    await scene.state_when(run, "it waits for the node", lambda state: state.step == "Reach the node")
    await fault(scene.lab, "thaw", "pg-east-1")
    await came_back(scene, await scene.report(run))


async def slow_copies(scene: Scene) -> None:
    """The leader's data is some 80 MB, and a copy takes ten seconds."""

    def slow(declared: dict[str, Any]) -> None:
        for member in declared["services"][0]["members"]:
            member["data"]["max_rate_kb_s"] = 8192

    conn = await session(scene.lab, "pg-east-1")
    assert conn is not None
    await conn.execute("CREATE TABLE much AS SELECT repeat(md5(n::text), 200) AS text FROM generate_series(1, 10000) n")
    await conn.execute("ALTER TABLE much ALTER text SET STORAGE PLAIN")
    await conn.execute("INSERT INTO much SELECT repeat(md5(n::text), 200) FROM generate_series(1, 8000) n")
    await conn.close()
    await scene.edit(slow)


async def spoil(scene: Scene, member: str) -> None:
    """As a rewind leaves it that began and did not end: its own configuration kept, and good for nothing but a copy."""
    kept, data = scene.lab.paths.kept(member), scene.lab.paths.data(member)
    words = f"umask 077 && mkdir -p {kept}/config && cp -p {data}/*.conf {kept}/config/ && echo rewind > {kept}/begun"
    argv = [str(scene.lab.paths.control), "exec", member, "sh", "-c", words]
    done = await asyncio.to_thread(subprocess.run, argv, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


async def copying(scene: Scene) -> None:
    """A copy of the leader is under way, as its own view tells."""

    async def streamed() -> bool:
        record = await scene.epoch()
        assert record is not None
        conn = await session(scene.lab, record.leader)
        if conn is None:
            return False
        try:
            return bool(await conn.fetchval("SELECT max(backup_streamed) > 0 FROM pg_stat_progress_basebackup"))
        finally:
            await conn.close()

    await scene.until("a copy is under way", streamed)


@pytest.mark.campaign
async def test_a_failover_in_the_middle_of_a_copy_is_not_held_up(scene: Scene) -> None:
    """The leader dies while a member is copied from it: clients are served at once, and the rejoin begins anew."""
    await slow_copies(scene)
    first = await scene.failed_over()
    assert first.new_primary is not None
    await spoil(scene, "pg-east-1")
    run = await scene.rejoin("pg-east-1")
    await copying(scene)
    await fault(scene.lab, "kill", first.new_primary)
    second = await scene.report(await scene.run_of_watch(2, limit=60))
    assert second.outcome == "recovered, unprotected", second
    assert second.new_primary not in (first.new_primary, "pg-east-1"), second
    assert second.rto_met, second
    report = await scene.report(run)
    assert "copied anew" in await came_back(scene, report)
    assert report.new_primary in (None, second.new_primary), report


@pytest.mark.campaign
@pytest.mark.parametrize("activity", ["examine_folder", "start_standby", "follow_leader"])
async def test_the_leader_dies_at_another_step_of_a_rejoin(activity: str, shared_lab: Lab) -> None:
    """The failover has the service at once, and the rejoin looks anew."""
    plan = {"activity": activity, "when": "before", "strike": "kill-node"}
    async with striking_scene(shared_lab, workflow="DatabaseRejoin", **plan) as (scene, done):
        await scene.failed_over()
        run = await scene.rejoin("pg-east-1")
        second = await scene.report(await scene.run_of_watch(2, limit=60))
        assert done.exists()
        assert second.outcome == "recovered, unprotected", second
        assert second.rto_met, second
        await came_back(scene, await scene.report(run))


@pytest.mark.campaign
async def test_a_rewind_that_is_killed_half_way_becomes_a_copy(scene: Scene) -> None:
    """The node's pg_rewind is one that waits before it begins, so that there is a half way."""
    bin_, waits = slow_rewind(scene.lab)
    await scene.edit(lambda declared: declared["services"][0]["members"][0]["data"].update(bin=str(bin_)))
    # pg-east-2 and the others still stream from it when it is cut off: it has WAL that nobody else has.
    await scene.failed_over()
    await diverge(scene)
    run = await scene.rejoin("pg-east-1")

    async def begun() -> str:
        return waits.read_text().strip() if waits.exists() else ""

    os.kill(int(await scene.until("pg_rewind runs", begun)), signal.SIGKILL)
    report = await scene.report(run)
    assert "copied anew" in await came_back(scene, report)
    # What it had was counted before, and is not lost with the rewind.
    assert report.loss is not None
    assert report.loss.commits is not None


def slow_rewind(lab: Lab) -> tuple[Path, Path]:
    """A folder of PostgreSQL's programs in which pg_rewind tells its process id and stands still for a minute."""
    place = lab.paths.node("pg-east-1")
    bin_, told = place / "bin", place / "rewind.pid"
    told.unlink(missing_ok=True)
    bin_.mkdir(exist_ok=True)
    for program in lab.pg_bin.iterdir():
        link = bin_ / program.name
        if not link.exists() and program.name != "pg_rewind":
            link.symlink_to(program)
    wrapper = bin_ / "pg_rewind"
    wrapper.write_text(f"#!/bin/sh\necho $$ > {told}\nexec sleep 60\n", encoding="utf-8")
    wrapper.chmod(0o755)
    return bin_, told


async def diverge(scene: Scene) -> None:
    """The old primary starts by itself and writes, which nobody acknowledges: it has WAL past the fork."""
    await fault(scene.lab, "start", "pg-east-1", force=True)

    async def written() -> bool:
        conn = await session(scene.lab, "pg-east-1")
        if conn is None:
            return False
        try:
            # No commit: nothing waits for an acknowledgement that can't come.
            await conn.execute("CHECKPOINT")
            await conn.fetchval("SELECT pg_switch_wal()")
        finally:
            await conn.close()
        return True

    await scene.until("the old primary has WAL of its own", written)


@pytest.mark.campaign
@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
async def test_a_disk_without_room_for_the_copy_is_told_before_anything_is_erased(scene: Scene) -> None:
    await slow_copies(scene)
    await scene.failed_over()
    await spoil(scene, "pg-east-1")
    async with small_disk(scene.lab, "pg-east-1") as more_room:
        run = await scene.rejoin("pg-east-1")
        state = await scene.state_when(run, "it parks at the copy", lambda each: each.parked, 60)
        assert state.parked == RETURN
        assert any("has room for" in line for line in state.journal), state.journal
        await scene.safe()
        more_room()
        await scene.say(run, "retry")
        assert "copied anew" in await came_back(scene, await scene.report(run))


@asynccontextmanager
async def small_disk(lab: Lab, name: str) -> AsyncIterator[Callable[[], None]]:
    """The member's data folder is a file system with room for a part of the leader; yields what makes it larger."""
    data = lab.paths.data(name)
    await fault(lab, "kill", name)
    found = data.stat()

    def run(*argv: str) -> None:
        subprocess.run(argv, check=True, capture_output=True, timeout=30)

    def mount(options: str) -> None:
        run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(data))

    mount(f"size=40m,mode=700,uid={found.st_uid},gid={found.st_gid}")
    try:
        yield lambda: mount("remount,size=1g")
    finally:
        await fault(lab, "kill", name)
        run("umount", "--lazy", str(data))


async def test_a_member_that_was_promoted_by_hand_comes_back(scene: Scene) -> None:
    """It leads on a timeline of its own, which the leader's history does not know."""
    await scene.traffic()
    conn = await session(scene.lab, "pg-east-4")
    assert conn is not None
    await conn.execute("ALTER SYSTEM SET primary_conninfo = ''")
    await conn.fetchval("SELECT pg_promote()")
    await conn.execute("INSERT INTO counting_results (id, camera) VALUES (gen_random_uuid(), 'astray')")
    await conn.execute("CREATE TABLE astray (one int)")
    await conn.close()
    run = await scene.rejoin("pg-east-4")
    report = await scene.report(run)
    assert "rewound" in await came_back(scene, report, "pg-east-4")
    # What it was told on its own is counted, before the rewind takes it.
    assert report.loss is not None
    assert (report.loss.timeline, report.loss.commits) == (2, 1), report.loss
    assert [(each.table, each.inserted) for each in report.loss.tables] == [("public.counting_results", 1)], report.loss
    conn = await session(scene.lab, "pg-east-4")
    assert conn is not None
    assert await conn.fetchval("SELECT to_regclass('astray')") is None
    await conn.close()


@pytest.mark.campaign
async def test_two_rejoins_at_once_of_one_member(scene: Scene) -> None:
    """The second is told who has it, and changes nothing."""
    await scene.failed_over("freeze")
    first = await scene.rejoin("pg-east-1", wait_s=120.0)
    await scene.state_when(first, "it waits for the node", lambda state: state.step == "Reach the node")
    with pytest.raises(WorkflowFailureError) as refused:
        await scene.report(await scene.rejoin("pg-east-1"))
    assert first.id in str(refused.value.cause), refused.value.cause
    await fault(scene.lab, "thaw", "pg-east-1")
    await came_back(scene, await scene.report(first))


@pytest.mark.campaign
async def test_rejoins_at_once_of_two_members(scene: Scene) -> None:
    """One has the service at a time; both come back."""
    await scene.failed_over()
    conn = await session(scene.lab, "pg-east-4")
    assert conn is not None
    await conn.execute("ALTER SYSTEM SET primary_conninfo = ''")
    await conn.execute("SELECT pg_reload_conf()")
    await conn.close()
    runs = [await scene.rejoin("pg-east-1"), await scene.rejoin("pg-east-4")]
    reports = await asyncio.gather(*(scene.report(run) for run in runs))
    for report, member in zip(reports, ("pg-east-1", "pg-east-4"), strict=True):
        await came_back(scene, report, member)


@pytest.mark.estate(watch=False)
async def test_a_member_that_comes_up_as_a_primary_is_stopped(scene: Scene) -> None:
    """Its folder was a standby's when it was looked at, and its signal file was gone when it started."""
    topology = load_topology(scene.lab.topology)
    service = topology.service(scene.lab.service)
    order = FolderOrder(service=service, member="pg-east-4", leader="pg-east-1", run="by-hand", epoch=0)
    await fault(scene.lab, "stop", "pg-east-4")
    signal_file = scene.lab.paths.data("pg-east-4") / "standby.signal"
    signal_file.unlink()
    with pytest.raises(DataFolderFailed, match=r"standby\.signal is missing"):
        await ActivityEnvironment().run(data_folder.start_standby, order)
    assert not await port_open(service.member("pg-east-4"))
    # Somebody starts it all the same, and puts the file back too late for the server to have seen it.
    await fault(scene.lab, "start", "pg-east-4", force=True)
    signal_file.touch()
    with pytest.raises(SecondPrimary):
        await ActivityEnvironment().run(data_folder.start_standby, order)
    assert not await port_open(service.member("pg-east-4"))


@pytest.mark.campaign
async def test_a_folder_that_tells_nothing_is_left_to_its_owner(scene: Scene) -> None:
    """Without pg_control nobody knows whose it is; the server is not even stopped."""
    await scene.traffic()
    await fault(scene.lab, "stop", "pg-east-4")
    there, aside = scene.lab.paths.data("pg-east-4") / "global", scene.lab.paths.node("pg-east-4") / "global"
    there.rename(aside)
    report = await scene.report(await scene.rejoin("pg-east-4"))
    assert report.outcome == "refused", report
    assert "pg_control of pg-east-4 can't be read" in report.summary, report
    aside.rename(there)
    again = await scene.report(await scene.rejoin("pg-east-4"))
    assert "turned into a standby as it is" in await came_back(scene, again, "pg-east-4")


@pytest.mark.campaign
async def test_a_server_that_runs_and_takes_no_session_is_told_and_copied_anew_on_retry(scene: Scene) -> None:
    await scene.traffic()
    await fault(scene.lab, "stop", "pg-east-4")
    for database in (scene.lab.paths.data("pg-east-4") / "base").iterdir():
        shutil.rmtree(database)
    run = await scene.rejoin("pg-east-4")
    state = await scene.state_when(run, "it is parked", lambda state: state.parked, 120.0)
    assert any("takes no session" in line and "`retry` copies it anew" in line for line in state.journal), state.journal
    await scene.say(run, "retry")
    assert "copied anew" in await came_back(scene, await scene.report(run), "pg-east-4")
