"""Every activity of a rejoin and of a planned stop, run twice, ends in the same state: both carried out by hand."""

from __future__ import annotations

import asyncio

import pytest

from activities import data_folder, epoch, fencing, node, pooler, promotion, receipts
from lab.lab import fault
from lab.postgres import session
from schemas.facts import EpochRecord
from schemas.failures import DataFolderFailed, NodeRuns
from schemas.orders import EstablishOrder, FollowOrder, NamesOrder, NodeOrder, PauseOrder, PoolerOrder
from schemas.rejoin import DivergenceOrder, FolderOrder, ReturnOrder, ShutOrder
from schemas.routes import PgBouncerRoute
from tests.faults.scene import Scene
from tests.faults.test_each_activity_twice import estate_of, twice
from tests.faults.worker import cut_off
from workflows.policy import switchover

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.estate(watch=False)]


async def two_histories(scene: Scene) -> None:
    """pg-east-1 has one row that nobody else has, and is dead; pg-east-2 leads on timeline 2."""
    conn = await session(scene.lab, "pg-east-1")
    assert conn is not None
    await conn.execute("CREATE TABLE ours (a int)")
    for name in ("pg-east-2", "pg-east-3", "pg-east-4", "pg-west-1"):
        await asyncio.to_thread(cut_off, scene.lab, name)
    await conn.execute("SET synchronous_commit = local")
    await conn.execute("INSERT INTO ours VALUES (1), (2)")
    await conn.close()
    await fault(scene.lab, "kill", "pg-east-1")
    conn = await session(scene.lab, "pg-east-2")
    assert conn is not None
    await conn.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
    await conn.fetchval("SELECT pg_promote()")
    await conn.execute("CHECKPOINT")
    await conn.close()


async def test_a_rejoin_with_each_activity_twice(scene: Scene) -> None:
    estate = estate_of(scene)
    service, zone = estate.service, estate.zone
    await two_histories(scene)
    first = EpochRecord(epoch=1, run="by-hand", leader="pg-east-2", w=0, voters=[])
    await twice(data_folder.until_in_reach, NodeOrder(service=service, member="pg-east-1"))
    await twice(epoch.establish_epoch, EstablishOrder(service=service, zone=zone, first=first))
    common = {"service": service, "member": "pg-east-1", "zone": zone, "run": "by-hand", "epoch": 1}
    order = FolderOrder.model_validate(common | {"leader": "pg-east-2"})
    assert (await twice(node.stop_node, NodeOrder.model_validate(common))).done
    assert scene.lab.paths.autostart_mark("pg-east-1").exists()
    found = await twice(data_folder.examine_folder, order)
    assert (found.folder.timeline, found.leader_timeline, found.folder.standby) == (1, 2, False)
    assert found.fork is not None
    where = {name: getattr(found.folder, name) for name in ("timeline", "segment_bytes", "checkpoint")}
    kept = DivergenceOrder.model_validate(common | {"leader": "pg-east-2", "fork": found.fork} | where)
    counted = await twice(receipts.keep_divergence, kept)
    assert counted.commits == 1, counted
    assert [(each.table, each.inserted) for each in counted.tables] == [("public.ours", 2)], counted

    # It is started behind the run's back, and has written more: the count of before does not stand for that.
    await fault(scene.lab, "start", "pg-east-1", force=True)
    assert (await twice(node.stop_node, NodeOrder.model_validate(common))).done
    later = (await twice(data_folder.examine_folder, order)).folder.checkpoint
    more = await twice(receipts.keep_divergence, kept.model_copy(update={"checkpoint": later}))
    assert (more.commits, more.end > counted.end, more.records > counted.records) == (1, True, True), (counted, more)
    counted = more

    # Not before it is a standby's folder.
    with pytest.raises(DataFolderFailed):
        await twice(data_folder.start_standby, order)
    rewind = ReturnOrder.model_validate(common | {"leader": "pg-east-2", "method": "rewind"})
    assert "was rewound" in (await twice(data_folder.return_member, rewind)).evidence
    # What was counted can be counted again from what was kept, after the rewind has replaced it.
    scene.lab.paths.kept("pg-east-1").joinpath("begun").write_text("rewind\n")
    again = kept.model_copy(update={"run": "by-hand-again"})
    assert await twice(receipts.keep_divergence, again) == counted
    scene.lab.paths.kept("pg-east-1").joinpath("begun").unlink()

    await twice(data_folder.start_standby, order)
    with pytest.raises(NodeRuns):
        await twice(data_folder.return_member, rewind.model_copy(update={"run": "another"}))
    follow = FollowOrder(service=service, leader="pg-east-2", members=["pg-east-1"], epoch=1)
    assert (await twice(fencing.follow_leader, follow)).following == ["pg-east-1"]
    assert "replayed all" in (await twice(fencing.until_caught_up, follow)).evidence
    await twice(data_folder.let_it_start, order)
    assert not scene.lab.paths.autostart_mark("pg-east-1").exists()
    await scene.is_back("pg-east-1")

    rebuild = ReturnOrder.model_validate(common | {"leader": "pg-east-2", "method": "rebuild"})
    assert (await twice(node.stop_node, NodeOrder.model_validate(common))).done
    assert "copied anew" in (await twice(data_folder.return_member, rebuild)).evidence
    await twice(data_folder.start_standby, order)
    await twice(data_folder.let_it_start, order)
    assert (await twice(fencing.follow_leader, follow)).following == ["pg-east-1"]
    await scene.is_back("pg-east-1")


async def test_a_planned_stop_with_each_activity_twice(scene: Scene) -> None:
    estate = estate_of(scene)
    service = estate.service
    await scene.traffic()
    stop = NodeOrder(service=service, member="pg-east-1", run="by-hand", epoch=1)
    await twice(data_folder.keep_from_starting, stop)
    names = NamesOrder(service=service, leader="pg-east-1", names="", epoch=1)
    await twice(promotion.prepare_primary, names)
    first = 'ANY 1 ("pg-east-3")'
    await twice(promotion.prepare_candidate, names.model_copy(update={"leader": "pg-east-2", "names": first}))
    conn = await session(scene.lab, "pg-east-2")
    assert conn is not None
    assert await conn.fetchval("SELECT current_setting('synchronous_standby_names')") == first
    await conn.close()
    poolers = [route for route in service.gates() if isinstance(route, PgBouncerRoute)]
    pauses = [PauseOrder(service=service, target="pg-east-1", epoch=1, route=each, limit_s=5.0) for each in poolers]
    assert all("paused" in each.evidence for each in await twice(pooler.pause_poolers, pauses))
    down = ShutOrder.model_validate(dict(stop) | {"candidate": "pg-east-2"})
    shut = await twice(data_folder.stop_cleanly, down)
    assert (shut.folder.state, shut.folder.running) == ("shut down", False)
    assert switchover.has_all(shut.folder, shut.candidate) is None
    await twice(node.start_node, stop)
    for route in poolers:
        order = PoolerOrder(service=service, route=route, target="pg-east-1", epoch=2)
        await twice(pooler.point_pooler, order)
    await scene.safe()
