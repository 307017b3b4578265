"""A service cut over to a moment in its past, on real servers: what is there then, what is not, and who keeps that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import damage, data_folder, fencing, in_place, node
from activities.topology import load_topology
from lab import ledger
from lab.lab import fault
from lab.layout import HOME, STORAGE
from lab.model import Lab
from lab.owner import write_private
from lab.referee import audit
from schemas.cut_over import InPlaceOrder
from schemas.damage_orders import CheckOrder
from schemas.orders import NodeOrder, ProofOrder
from schemas.rejoin import FolderFacts, FolderOrder, HoldOrder
from schemas.reports import Report
from schemas.restores import Moment
from tests.faults.restore_scene import ByHand, RestoreScene
from tests.faults.scene import Run
from tests.faults.striking import striking_restore
from tests.standins.bad_store import BadStore, Kind, bad_store
from workflows.policy import cut_over as policy

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]

LIMIT_S = 200.0
CANDIDATE = "pg-east-2"


class CutScene:
    """A service that is damaged by an UPDATE, while its clients write on."""

    def __init__(self, scene: RestoreScene) -> None:
        self.scene = scene
        self.at: datetime

    async def damaged(self) -> None:
        scene = self.scene
        await scene.traffic()
        await self.until_written(200)
        self.at = (await scene.sql("SELECT clock_timestamp() AS at"))["at"]
        await self.until_written(50)
        await scene.sql("UPDATE counting_results SET count = -count - 1", "SELECT 1")
        await self.until_written(50)

    async def until_written(self, more: int) -> None:
        before = len(self.scene.acknowledged()) if self.scene.lab.ledger.exists() else 0

        async def enough() -> bool:
            return len(self.scene.acknowledged()) >= before + more

        await self.scene.until(f"{more} more rows are acknowledged", enough, 60.0)

    async def cut(self, **more: Any) -> Run:
        form = {"then": "cut-over", "candidate": CANDIDATE} | more
        return await self.scene.pitr({"time": self.at.isoformat()}, **form)

    async def ends(self, run: Run, outcome: str, *said: str) -> Report:
        """With the journal of the cut-over, where it is not as it should be."""
        try:
            return await self.scene.ends(run, outcome, *said, limit=LIMIT_S)
        except (AssertionError, TimeoutError) as error:
            told = []
            with contextlib.suppress(Exception):  # there may be none
                inner = self.scene.client.get_workflow_handle(f"{run.id}/cut-over", result_type=Report)
                told += (await self.scene.state(inner)).journal
                told += [str((await inner.describe()).raw_description.pending_activities)]
            raise AssertionError(f"{error}\n" + "\n".join(told)) from error

    async def ids(self, member: str) -> set[str]:
        row = await self.scene.sql("SELECT array_agg(id::text) AS ids FROM counting_results", member=member)
        return set(row["ids"])

    async def folder(self, member: str = HOME) -> FolderFacts:
        order = NodeOrder(service=self.scene.service(), member=member)
        found: FolderFacts = await ActivityEnvironment().run(data_folder.look_at_folder, order)
        return found

    async def gone(self) -> set[str]:
        """What was acknowledged, and is in the service no more: all of it was sent after the moment."""
        record = await self.scene.epoch()
        assert record is not None
        assert record.leader == CANDIDATE
        rows, written = await self.ids(CANDIDATE), self.scene.acknowledged()
        before = {each.id for each in written if (each.acked or 0.0) < self.at.timestamp()}
        assert before - rows == set(), f"{len(before - rows)} of {len(before)} of before the moment are missing"
        lost = [each for each in written if each.id not in rows]
        assert lost, "nothing was written after the moment, so nothing was tried"
        assert all((each.acked or 0.0) >= self.at.timestamp() for each in lost)
        row = await self.scene.sql("SELECT count(*) AS n FROM counting_results WHERE count < 0", member=CANDIDATE)
        assert row["n"] == 0, "the damage is there"
        return {each.id for each in lost}

    async def led_by_the_candidate(self, report: Report) -> None:
        """One writes, all follow it on its own timeline, and who led is stopped, held, and told of."""
        assert report.new_primary == CANDIDATE
        assert report.old_primary == HOME
        lost = await self.gone()
        found = await audit(self.scene.lab)
        assert found.concurrent_writers == 0, found
        assert found.missing == len(lost), found
        record = await self.scene.epoch()
        assert record is not None
        assert record.w == 1, "the rebuilt standbys acknowledge again"
        others = [each.name for each in self.scene.service().members if each.name not in (CANDIDATE, HOME)]
        for name in others:
            await self.scene.is_back(name)
        folder = await self.folder()
        assert not folder.running
        assert "what was written after" in folder.held
        # The report counts what is gone; what no client learned the outcome of may be in it.
        assert report.loss is not None
        counted = next(each for each in report.loss.tables if each.table == "public.counting_results")
        unknown = sum(each.outcome != "acknowledged" for each in ledger.read(self.scene.lab.ledger))
        assert len(lost) <= counted.inserted <= len(lost) + unknown, (counted, len(lost), unknown)
        assert counted.updated > 0, counted
        assert any("--rebuild WHY" in each for each in report.unprotected), report.unprotected


@pytest.fixture
def cut_scene(restore_scene: RestoreScene) -> CutScene:
    return CutScene(restore_scene)


async def test_the_service_is_cut_over_to_the_moment_before_an_update(cut_scene: CutScene) -> None:
    scene = cut_scene.scene
    await cut_scene.damaged()
    run = await cut_scene.cut()
    report = await cut_scene.ends(run, "done, unprotected")
    await cut_scene.led_by_the_candidate(report)
    inner = scene.client.get_workflow_handle(f"{run.id}/cut-over", result_type=Report)
    await scene.record(run, "pitr-cut-over")
    await scene.record(inner, "cut-over")

    # Nothing but a person's word changes what is kept.
    rejoin = await scene.rejoin(HOME)
    assert "held" in (await scene.report(rejoin)).summary
    lost = await cut_scene.gone()
    await fault(scene.lab, "start", HOME, force=True)
    assert lost <= await cut_scene.ids(HOME)
    proof = await ActivityEnvironment().run(fencing.prove_fence, ProofOrder(service=scene.service(), member=HOME))
    assert not proof.acknowledged, proof
    await fault(scene.lab, "stop", HOME)
    home = await scene.report(await scene.rejoin(HOME, rebuild="nobody needs it any more"))
    assert home.outcome == "done", home
    await scene.is_back(HOME)
    assert (await cut_scene.folder()).held == ""


async def test_nothing_is_touched_where_a_person_rejects_it(cut_scene: CutScene) -> None:
    scene = cut_scene.scene
    await cut_scene.damaged()
    before = await scene.epoch()
    run = await cut_scene.cut(approval="always")
    state = await scene.question(run, limit=LIMIT_S)
    assert state.question is not None
    assert "written since" in state.question.text
    await scene.reject(run)
    await cut_scene.ends(run, "rejected")
    after = await scene.epoch()
    assert before is not None
    assert after is not None
    assert (after.epoch, after.leader) == (before.epoch, HOME)
    assert (await cut_scene.folder()).held == ""
    await scene.is_back(CANDIDATE)
    await scene.safe()


async def test_a_worker_that_dies_after_the_fence_changes_nothing_of_the_end(shared_backup_lab: Lab) -> None:
    """A person has chosen it, of what the question offered."""
    plan = {"activity": "restore_in_place", "when": "after", "strike": "kill"}
    async with striking_restore(shared_backup_lab, workflow="CutOver", **plan) as (scene, done):
        cut_scene = CutScene(scene)
        await cut_scene.damaged()
        run = await cut_scene.cut(then="ask")
        state = await scene.question(run, limit=LIMIT_S)
        assert state.question is not None
        assert state.question.choices == ["hand-over", "cut-over"]
        await scene.approve(run, choice="cut-over")
        report = await cut_scene.ends(run, "done, unprotected")
        assert done.exists(), "nobody was killed, so nothing was tried"
        await cut_scene.led_by_the_candidate(report)


@pytest.mark.parametrize(("kind", "outcome"), [("500", "undone"), ("held", "aborted")])
async def test_a_restore_in_place_that_fails_is_undone_and_the_leader_serves_with_everything(
    cut_scene: CutScene, kind: Kind, outcome: str
) -> None:
    """Its store refuses the files of the backup, though it lists them; or it hangs, and a person aborts."""
    scene = cut_scene.scene
    await cut_scene.damaged()
    async with through_bad_store(scene, CANDIDATE) as store:
        luck = store.has(kind, "/bundle/")
        run = await cut_scene.cut()
        await asyncio.wait_for(luck.reached.wait(), LIMIT_S)
        if kind == "held":
            await scene.say(run, "abort")
        report = await cut_scene.ends(run, outcome, "was not cut over")
        luck.over.set()
    assert report.new_primary is None
    record = await scene.epoch()
    assert record is not None
    assert (record.leader, record.candidate) == (HOME, None)
    assert (await cut_scene.folder()).held == ""
    await scene.safe()
    rejoin = scene.client.get_workflow_handle(report.followed_by[-1], result_type=Report)
    back = await scene.report(rejoin)
    assert back.outcome.startswith("done"), back
    await scene.is_back(CANDIDATE)
    await scene.safe()


async def test_each_activity_of_it_run_twice_ends_the_same(cut_scene: CutScene) -> None:
    scene = cut_scene.scene
    hand, record = ByHand(scene), await scene.epoch()
    assert record is not None
    mark = await scene.mark(1)
    await scene.mark(2)
    await hand.look()
    await hand.restore()
    moment = Moment(kind="lsn", timeline=1, lsn=(await hand.scan(f"xid {mark.xid}")).places[0].lsn, reason="a test")
    copy = await hand.recover(moment)
    await hand.remove()
    given: dict[str, Any] = {"service": scene.service(), "zone": load_topology(scene.lab.topology).zone}
    given |= {"run": hand.order.run, "epoch": record.epoch, "member": CANDIDATE}
    order = InPlaceOrder(**given, leader=HOME, backup=hand.backup, moment=moment)

    await hand.twice(in_place.look_before_restore, order)
    await hand.twice(node.stop_node, NodeOrder(**given))
    await hand.twice(in_place.restore_in_place, order)
    await hand.twice(data_folder.start_standby, FolderOrder(**given, leader=HOME))
    found = await hand.twice(in_place.until_it_stands, order)
    assert [each for each in policy.compare(found, copy) if each.ok is False] == []
    rows = await scene.sql("SELECT array_agg(n) AS n FROM marks", member=CANDIDATE)
    assert rows["n"] == [1]
    # One that has ended well is not done again to a server that runs by now.
    await hand.twice(in_place.restore_in_place, order)
    assert await hand.twice(in_place.until_it_stands, order) == found
    (newest,) = await hand.twice(damage.look_at_newest_rows, CheckOrder(**given))
    assert newest.error == ""
    await hand.twice(in_place.settle_in_place, NodeOrder(**given))
    text = (scene.lab.paths.data(CANDIDATE) / "postgresql.auto.conf").read_text(encoding="utf-8")
    assert "recovery_target" not in text
    assert "restore_command" not in text
    for why in ("a test", ""):
        await hand.twice(in_place.hold_folder, HoldOrder(**given, why=why))
        assert (await cut_scene.folder(CANDIDATE)).held == why


@contextlib.asynccontextmanager
async def through_bad_store(scene: RestoreScene, member: str) -> AsyncIterator[BadStore]:
    """What is restored on this member's node comes from a store that may have bad luck; what it archives does not."""
    node, folder = scene.lab.node(STORAGE), scene.lab.paths.node(member)
    async with bad_store(folder, node.host, node.port, scene.lab.paths.authority) as store:
        settings = {
            "repo1-storage-host": store.host,
            "repo1-storage-port": str(store.port),
            "repo1-storage-ca-file": str(store.authority),
        }
        lines = scene.lab.paths.pgbackrest(member).read_text(encoding="utf-8").splitlines()
        parts = [line.partition("=") for line in lines]
        changed = [f"{name}{sign}{settings.get(name, value)}" for name, sign, value in parts]
        path = folder / "test.conf"
        write_private(path, "\n".join(changed) + "\n", server=True)

        def declare(service: dict[str, Any]) -> None:
            found = next(each for each in service["members"] if each["name"] == member)
            found["data"]["backup_config"] = str(path)

        await scene.service_with(declare)
        yield store
