"""Recovery from corruption, on real servers: pages that go bad, rows that are wrong, and a person who decides."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from temporalio.testing import ActivityEnvironment

from activities import damage, pooler_shares
from lab import lab as labs
from lab.damage import flip, make_cold
from lab.layout import HOME, RESTORES
from lab.model import Lab
from lab.owner import give
from schemas.damage import Damaged
from schemas.damage_orders import CheckOrder, ReadOnlyOrder, ShareOrder
from schemas.reports import Report
from schemas.requests import Answer, Verb
from schemas.restore_requests import CorruptionRequest
from tests.faults import draws
from tests.faults.draws import AT_ONCE, READ_ONLY, leftovers, poolers
from tests.faults.restore_scene import TABLE, RestoreScene
from tests.faults.scene import Run
from tests.faults.striking import striking_restore
from workflows.corruption_recovery import ISOLATE

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]

ARCHIVE = "public.archived"
WRITES = "SET default_transaction_read_only = off"
ROWS = "INSERT INTO archived SELECT n, 'camera-' || n % 20 FROM generate_series(1, 5000) n"
WHOLE = "SELECT count(*) || md5(string_agg(id || camera, ',' ORDER BY id)) AS sum FROM archived"


async def recover(scene: RestoreScene, **more: Any) -> Run:
    form = {"service": scene.lab.service, "reason": "a test", **more}
    return await scene.begin("CorruptionRecovery", CorruptionRequest.model_validate(form), "corruption")


async def answer(scene: RestoreScene, run: Run, said: str, verb: str = "approve") -> None:
    """Answer by signal the question that says this."""
    state = await scene.state_when(run, f"it asks: {said}", lambda s: s.question and said in s.question.text, 120.0)
    assert state.question is not None
    await run.signal(verb, Answer(by="ana", digest=state.question.digest, reason="seen"))


async def archive(scene: RestoreScene) -> str:
    """A table that nobody writes to, and what it holds. Nor does autovacuum: the images of pages that it writes would
    mend those of a standby that were flipped.
    """
    made = "CREATE TABLE archived (id int PRIMARY KEY, camera text) WITH (autovacuum_enabled = off)"
    await scene.sql(made, ROWS, "SELECT 1 AS n")
    return str((await scene.sql(WHOLE))["sum"])


async def ended(scene: RestoreScene, run: Run, outcome: str) -> Report:
    return await scene.ends(run, outcome, limit=240.0)


async def test_a_heap_and_an_index_of_the_primary(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    before = await archive(scene)
    await scene.traffic()
    await make_cold(scene.lab, HOME, ARCHIVE)
    for relation in (ARCHIVE, f"{ARCHIVE}_pkey"):
        await flip(scene.lab, HOME, relation, block=3)
    assert await looked_at(scene, HOME) == [True, False, False, True]
    assert await looked_at(scene, "pg-east-2") == [True, True, True, True]
    run = await recover(scene)
    await answer(scene, run, "read-only")
    await answer(scene, run, "Switch counting-db over to")
    report = await ended(scene, run, "done")
    assert report.damage is not None
    (east,) = [each for each in report.damage.members if each.damaged]
    assert east.member == HOME
    assert sorted(each.kind for each in east.damaged) == ["heap", "index"]
    assert "Post-mortem" in report.damage.post_mortem
    leader = (await scene.safe()).leader
    assert leader != HOME
    assert await leftovers(scene, str(leader)) == []
    assert (await scene.sql(WHOLE, member=leader))["sum"] == before
    assert (await scene.sql(WHOLE))["sum"] == before, "copied anew, it is whole as well"
    await scene.record(run, "corruption-switched")


async def looked_at(scene: RestoreScene, member: str) -> list[bool | None]:
    """How the owner's query, the table, its index and one that is gone do, as they are looked at in each stage."""
    relations = [
        Damaged(kind=kind, relation=f"counting.{name}", told="")
        for kind, name in (("heap", ARCHIVE), ("index", f"{ARCHIVE}_pkey"), ("heap", "public.gone"))
    ]
    order = CheckOrder(service=scene.service(), member=member, run=f"by-hand-{member}", relations=relations)
    first, second = [await ActivityEnvironment().run(damage.ask_leader, order) for _ in range(2)]
    assert first == second
    return [each.ok for each in second]


async def spoil_standby(scene: RestoreScene) -> str:
    """A page of pg-east-3 goes bad; what the table holds on the others."""
    before = await archive(scene)
    await scene.traffic()
    await make_cold(scene.lab, HOME, ARCHIVE)
    lsn = (await scene.sql("SELECT pg_current_wal_lsn()::text AS lsn"))["lsn"]

    async def replayed() -> bool:
        row = await scene.sql(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn AS there", member="pg-east-3")
        return bool(row["there"])

    await scene.until("pg-east-3 has replayed it", replayed)
    # While it is down, so that nothing of it is in memory.
    await labs.fault(scene.lab, "stop", "pg-east-3")
    await flip(scene.lab, "pg-east-3", ARCHIVE, block=3, asked=HOME)
    await labs.fault(scene.lab, "start", "pg-east-3")
    return before


async def test_a_standby_alone_is_copied_anew(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    before = await spoil_standby(scene)
    run = await recover(scene)
    await answer(scene, run, "read-only", "reject")
    await answer(scene, run, "Copy pg-east-3 anew")
    report = await ended(scene, run, "done")
    assert report.damage is not None
    assert [each.member for each in report.damage.members if each.damaged] == ["pg-east-3"]
    assert (await scene.sql(WHOLE, member="pg-east-3"))["sum"] == before
    assert (await scene.safe()).leader == HOME


async def test_rows_that_are_wrong_come_back_as_they_were(restore_scene: RestoreScene) -> None:
    """On a file system that shares no blocks (ext4 here), each bad half is restored anew."""
    scene = restore_scene
    run = await rows_come_back(scene)
    assert "roll_back" not in await done(run)
    assert (await done(run)).count("restore_backup") > 1
    await scene.record(run, "corruption-copied-back")


async def test_a_bad_half_goes_back_by_its_files_where_their_blocks_can_be_shared(
    restore_scene: RestoreScene, tmp_path: Path
) -> None:
    scene = restore_scene
    async with xfs(scene, tmp_path):
        run = await rows_come_back(scene)
    activities = await done(run)
    assert activities.count("restore_backup") == 1
    assert activities.count("roll_back") >= 1
    assert activities.count("keep_good") >= 2


@contextlib.asynccontextmanager
async def xfs(scene: RestoreScene, folder: Path) -> AsyncIterator[None]:
    """The restore host's copies on a file system of that kind, made for the test."""
    if os.geteuid() != 0 or shutil.which("mkfs.xfs") is None:
        pytest.skip("only root mounts, and xfsprogs makes what is mounted")
    image, at = folder / "xfs", scene.lab.paths.node(RESTORES) / "copies"
    with image.open("wb") as file:
        file.truncate(2 << 30)
    assert await exit_code("mkfs.xfs", "-q", str(image)) == 0
    at.mkdir(exist_ok=True)
    if await exit_code("mount", "-o", "loop", str(image), str(at)) != 0:
        pytest.skip("nothing can be mounted here")
    try:
        give(at)
        yield
    finally:
        assert await exit_code("umount", str(at)) == 0


async def exit_code(*argv: str) -> int:
    return await (await asyncio.create_subprocess_exec(*argv)).wait()


async def done(run: Run) -> list[str]:
    """The activities that the run has asked for, in their order."""
    return [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in (await run.fetch_history()).events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]


async def rows_come_back(scene: RestoreScene) -> Run:
    await scene.traffic()
    await asyncio.wait_for(enough(scene, 150), 60)
    await scene.sql("UPDATE counting_results SET count = -1 WHERE random() < 0.2", "SELECT 1")
    spoilt = datetime.now(UTC)
    run = await recover(scene, tables=[TABLE])
    await answer(scene, run, "read-only")
    await answer(scene, run, "copy them back")
    report = await ended(scene, run, "done")
    assert report.damage is not None
    assert report.damage.last_good is not None
    assert abs((spoilt - report.damage.last_good).total_seconds()) < 5.0, report.damage
    kept = {each.id for each in scene.acknowledged() if (each.acked or 0.0) < report.damage.last_good.timestamp()}
    (aside,) = [
        row["nspname"] for row in [await scene.sql("SELECT nspname FROM pg_namespace WHERE nspname ~ '^damaged_'")]
    ]
    row = await scene.sql("SELECT min(count) AS lowest, array_agg(id::text) AS ids FROM counting_results")
    assert row["lowest"] >= 0
    assert kept - set(row["ids"]) == set(), "rows of before the damage are missing"
    left = await scene.sql(f"SELECT count(*) AS n FROM {aside}.counting_results WHERE count < 0")
    assert left["n"] > 0, "what was wrong is kept aside"
    assert await leftovers(scene) == []
    return run


async def enough(scene: RestoreScene, count: int) -> None:
    while len(scene.acknowledged()) < count:
        await asyncio.sleep(0.1)


async def test_a_repair_that_is_rejected_lets_clients_write_again(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    await archive(scene)
    await scene.traffic()
    await make_cold(scene.lab, HOME, ARCHIVE)
    await flip(scene.lab, HOME, ARCHIVE, block=3)
    run = await recover(scene)
    await answer(scene, run, "read-only")
    await answer(scene, run, "Switch", "reject")
    await ended(scene, run, "rejected")
    await scene.safe()
    assert await leftovers(scene) == []
    await scene.record(run, "corruption-rejected")


# Writes come back by shares


async def let_share(scene: RestoreScene, share: float) -> None:
    """At the first pooler, twice."""
    order = ShareOrder(service=scene.service(), route=poolers(scene)[0], share=share)
    said = [await ActivityEnvironment().run(pooler_shares.let_share_write, order) for _ in range(2)]
    assert said[0] == said[1]


async def read_only(scene: RestoreScene, on: bool) -> None:
    order = ReadOnlyOrder(service=scene.service(), leader=HOME, on=on)
    for _ in range(2):
        await ActivityEnvironment().run(damage.make_read_only, order)


async def test_what_a_terminated_recovery_left_read_only_is_told(restore_scene: RestoreScene) -> None:
    """Whoever wants nothing isolated does not hear that clients write; and they do in the end."""
    scene = restore_scene
    await archive(scene)
    await read_only(scene, on=True)
    run = await recover(scene)
    await scene.state_when(run, "it asks", lambda s: s.question, 60.0)
    await run.signal("abort", Verb(by="ana", reason="later"))
    report = await ended(scene, run, "needs a person")
    assert f"{HOME} is read-only" in report.tasks[0], report
    assert "RESET default_transaction_read_only" in report.tasks[0]
    assert await leftovers(scene) != []
    run = await recover(scene)
    await answer(scene, run, "read-only", "reject")
    report = await ended(scene, run, "done")
    assert "read-only already" in next(step.detail for step in report.steps if step.title == ISOLATE)
    assert await leftovers(scene) == []


@pytest.mark.estate(watch=False)
async def test_a_share_of_new_sessions_writes_and_the_others_do_not(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    await draws.table(scene)
    text = draws.open_text(poolers(scene)[0])
    await read_only(scene, on=True)
    assert set(await draws.drawn(scene, 30)) == {READ_ONLY}
    for share in (0.1, 0.5):
        await let_share(scene, share)
        found = await draws.drawn(scene, 300)
        assert set(found) == {"written", READ_ONLY}
        # Four standard deviations.
        assert abs(found["written"] / found.total() - share) < 4 * (share * (1 - share) / found.total()) ** 0.5, found
    session = await draws.drawn(scene, 60, "counting_session")
    assert set(session) == {"written", READ_ONLY}, session
    # The next clients of a transaction pool get what was drawn; of a session pool, what DISCARD ALL has left of it.
    first, second = [await draws.drawn(scene, AT_ONCE, anew=False) for _ in range(2)]
    assert first == second
    await draws.drawn(scene, AT_ONCE, "counting_session", anew=False)
    assert set(await draws.drawn(scene, AT_ONCE, "counting_session", anew=False)) == {READ_ONLY}
    # A session that drew keeps what it drew, one that drew nothing follows the server.
    async with draws.client(scene, "counting_session") as conn:
        await let_share(scene, 0.0)
        assert set(await draws.drawn(scene, 60)) == {READ_ONLY}
        assert draws.open_text(poolers(scene)[0]) == text
        await read_only(scene, on=False)
        await scene.until("what the session drew counts no more", lambda: wrote(conn), 5)
    assert set(await draws.drawn(scene, 30)) == {"written"}
    assert await leftovers(scene) == []


async def wrote(conn: asyncpg.Connection) -> bool:
    return await draws.tried(conn) == "written"


async def decided(scene: RestoreScene) -> Run:
    """A recovery of a standby, whose clients may not write meanwhile."""
    await draws.table(scene)
    await spoil_standby(scene)
    run = await recover(scene)
    await answer(scene, run, "read-only")
    await answer(scene, run, "Copy pg-east-3 anew")
    return run


def draws_share(scene: RestoreScene, share: float) -> bool:
    return all(f"random() < {share:.4f}" in draws.open_text(route) for route in poolers(scene))


@pytest.mark.estate(corruption={"shares": [0.5, 0.7], "hold_s": 8.0})
async def test_a_query_that_turns_bad_takes_a_share_back(restore_scene: RestoreScene) -> None:
    """With the second share; tried again, the run goes on from there."""
    scene = restore_scene
    run = await decided(scene)

    async def at_second() -> bool:
        return draws_share(scene, 0.7)

    await scene.until("the second share draws", at_second, 120)
    found = await draws.drawn(scene, 30)
    assert set(found) == {"written", READ_ONLY}, found
    async with draws.writer(scene) as kept:
        await scene.sql(WRITES, "UPDATE counting_results SET count = -1", "SELECT 1")
        state = await scene.state_when(run, "it parks", lambda state: state.parked, 60)
        assert await draws.tried(kept) != "written", "who had drawn it writes on"
    told = "\n".join(state.journal)
    assert "with 70% of writes: owner's query counted: f; expected t; pg-east-1 is read-only" in told, told
    assert not any("connect_query" in draws.open_text(route) for route in poolers(scene))
    assert set(await draws.drawn(scene, 60)) == {READ_ONLY}
    await scene.sql(WRITES, "UPDATE counting_results SET count = 1", "SELECT 1")
    await scene.say(run, "retry")

    async def again() -> bool:
        assert not draws_share(scene, 0.5), "it began with the first share again"
        return draws_share(scene, 0.7)

    await scene.until("the second share draws again", again, 30)
    await ended(scene, run, "done")
    await scene.safe()
    assert set(await draws.drawn(scene, 30)) == {"written"}
    assert await leftovers(scene) == []
    await scene.record(run, "corruption-share-taken-back")


@pytest.mark.parametrize(
    ("activity", "when", "of"),
    [
        ("let_share_write", "after", {"share": 0.1}),
        ("watch_writes", "before", {}),
        ("make_read_only", "after", {"on": False}),
    ],
)
async def test_a_worker_dies_in_mid_stage(shared_backup_lab: Lab, activity: str, when: str, of: dict[str, Any]) -> None:
    plan = {"activity": activity, "when": when, "of": of, "strike": "kill"}
    async with striking_restore(shared_backup_lab, workflow="CorruptionRecovery", **plan) as (scene, done):
        run = await decided(scene)
        await ended(scene, run, "done")
        assert done.exists(), "nothing was killed, so nothing was tried"
        await scene.safe()
        assert set(await draws.drawn(scene, 30)) == {"written"}
        assert await leftovers(scene) == []
