"""A service cut over to a moment in its past, on real servers: what is there then, what is not, and who keeps that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import damage, data_folder, fencing, in_place, node
from activities.topology import load_topology
from lab.lab import fault
from lab.layout import HOME
from lab.model import Lab
from schemas.cut_over import InPlaceOrder
from schemas.damage_orders import CheckOrder
from schemas.orders import NodeOrder, ProofOrder
from schemas.rejoin import FolderOrder, HoldOrder
from schemas.reports import Report
from schemas.restores import Moment
from tests.faults.cut_scene import CANDIDATE, LIMIT_S, THIRD, CutScene, through_bad_store
from tests.faults.restore_scene import ByHand, RestoreScene
from tests.faults.striking import striking_restore
from tests.standins.bad_store import Kind
from workflows.policy import cut_over as policy

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]


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
    await cut_scene.started(HOME)
    assert lost <= await cut_scene.ids(HOME)
    proof = await ActivityEnvironment().run(fencing.prove_fence, ProofOrder(service=scene.service(), member=HOME))
    assert not proof.acknowledged, proof
    await fault(scene.lab, "stop", HOME)
    home = await scene.report(await scene.rejoin(HOME, release="nobody needs it any more"))
    assert home.outcome.startswith("done"), home
    await scene.is_back(HOME)
    assert (await cut_scene.folder()).held == ""


async def test_a_second_cut_over_leaves_what_the_first_one_keeps(cut_scene: CutScene) -> None:
    scene = cut_scene.scene
    await cut_scene.damaged()
    await cut_scene.led_by_the_candidate(await cut_scene.ends(await cut_scene.cut(), "done, unprotected"))
    lost, held = await cut_scene.gone(), (await cut_scene.folder()).held

    await cut_scene.damage(CANDIDATE)
    run = await cut_scene.cut(candidate=THIRD)
    report = await cut_scene.ends(run, "done, unprotected")
    assert (report.new_primary, report.old_primary) == (THIRD, CANDIDATE)
    for name in (HOME, CANDIDATE):
        assert any(each.startswith(name) and "--release WHY" in each for each in report.unprotected), report.unprotected
        assert not (await cut_scene.folder(name)).running
    assert (await cut_scene.folder(CANDIDATE)).held
    assert (await cut_scene.folder()).held == held
    # A reason to copy it anew, whoever has it, is none to erase what it keeps.
    rejoin = await scene.rejoin(HOME, rebuild="pages of it are damaged")
    assert "held" in (await scene.report(rejoin)).summary
    await cut_scene.started(HOME)
    assert lost <= await cut_scene.ids(HOME)


@pytest.mark.parametrize(("kind", "outcome"), [("500", "undone"), ("held", "aborted")])
async def test_what_fails_on_the_way_to_the_moment_before_is_undone(
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


async def test_a_worker_that_dies_on_the_way_to_the_moment_before_is_not_missed(shared_backup_lab: Lab) -> None:
    """A person has chosen it, of what the question offered."""
    plan = {"activity": "restore_in_place", "when": "after", "strike": "kill"}
    async with striking_restore(shared_backup_lab, workflow="CutOver", **plan) as (scene, done):
        cut_scene = CutScene(scene)
        await cut_scene.damaged()
        run = await cut_scene.cut(then="ask", decided=False)
        state = await scene.question(run, limit=LIMIT_S)
        assert state.question is not None
        assert state.question.choices == ["hand-over", "cut-over"]
        await scene.approve(run, choice="cut-over")
        report = await cut_scene.ends(run, "done, unprotected")
        assert done.exists(), "nobody was killed, so nothing was tried"
        await cut_scene.led_by_the_candidate(report)


async def test_nothing_is_touched_where_a_person_rejects_it(cut_scene: CutScene) -> None:
    scene = cut_scene.scene
    await cut_scene.damaged()
    before = await scene.epoch()
    run = await cut_scene.cut(decided=False)
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
