"""Every activity, run twice, ends in the same state: a whole failover carried out by hand, each act done two times."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import dns, epoch, fencing, node, pooler, probes, promotion, survey
from activities.topology import load_topology
from lab.lab import fault
from lab.postgres import session
from schemas.facts import EpochRecord
from schemas.failures import CandidateChanged, EpochSuperseded, LifeboatError
from schemas.orders import (
    ClaimOrder,
    DnsOrder,
    EstablishOrder,
    Estate,
    FenceOrder,
    FollowOrder,
    NamesOrder,
    NodeOrder,
    PoolerOrder,
    ProbeOrder,
    PromoteOrder,
    ProofOrder,
    RecordOrder,
    StallOrder,
    VerifyOrder,
)
from tests.faults.scene import Scene

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.estate(watch=False)]


async def twice(activity: Callable[[Any], Awaitable[Any]], order: Any) -> Any:
    """Both results, which must be equal where they carry no time of day."""
    first = await ActivityEnvironment().run(activity, order)
    second = await ActivityEnvironment().run(activity, order)
    assert type(first) is type(second)
    return second


def estate_of(scene: Scene) -> Estate:
    topology = load_topology(scene.lab.topology)
    service = topology.service(scene.lab.service)
    return Estate(service=service, zone=topology.zone, vantages=topology.vantages(service))


async def baseline(scene: Scene, estate: Estate) -> EpochRecord:
    first = EpochRecord(epoch=0, run="test", leader="pg-east-1", w=1, voters=["pg-east-2", "pg-east-3"])
    order = EstablishOrder(service=estate.service, zone=estate.zone, first=first)
    record: EpochRecord = await twice(epoch.establish_epoch, order)
    assert record == first
    return record


async def test_a_whole_failover_with_each_activity_twice(scene: Scene) -> None:
    estate = estate_of(scene)
    service, zone = estate.service, estate.zone
    await scene.traffic()
    seen = await baseline(scene, estate)

    alive = await twice(probes.probe, ProbeOrder(service=service, member="pg-east-1", region="us-east-1"))
    assert alive.outcome == "alive"
    await fault(scene.lab, "kill", "pg-east-1")
    dead = await twice(probes.probe, ProbeOrder(service=service, member="pg-east-1", region="us-east-1"))
    assert dead.outcome == "refused"
    observation = await twice(survey.observe, estate)
    assert observation.record == seen
    assert [facts.member for facts in observation.members if not facts.reachable] == ["pg-east-1"]

    record = await twice(epoch.claim_epoch, ClaimOrder(zone=zone, service=service.name, run="hand-1", seen=seen))
    assert (record.epoch, record.run) == (1, "hand-1")
    for route in service.gates():
        order = PoolerOrder(service=service, route=route, target="pg-east-1", epoch=1)
        assert "holds 2 databases" in (await twice(pooler.hold_pooler, order)).evidence
    fence = FenceOrder(
        service=service,
        zone=zone,
        record=record,
        suspect="pg-east-1",
        epoch=1,
        voters=seen.voters,
        likely="pg-east-2",
        followers=["pg-east-3"],
    )
    fenced = await twice(fencing.disconnect_standbys, fence)
    assert fenced.disconnected == ["pg-east-2", "pg-east-3", "pg-east-4", "pg-west-1"]
    candidate = service.member("pg-east-2")
    for facts in fenced.members:
        assert facts.stamp == 1
        if facts.member == "pg-east-3":
            assert facts.follows == f"{candidate.host}:{candidate.port}"
        else:
            assert (facts.receiver, facts.follows) == (None, "")
    stall = StallOrder(service=service, member="pg-east-1", epoch=1)
    assert "not stalled" in (await twice(fencing.stall_primary, stall)).evidence

    chosen = record.model_copy(update={"candidate": "pg-east-2", "candidate_voters": ["pg-east-3"], "verdict": "none"})
    choice = DnsOrder(service=service, zone=zone, target="pg-east-2", seen=record, wanted=chosen)
    assert await twice(dns.choose_and_lead, choice) == chosen.model_copy(update={"change": record.change + 1})
    chosen = chosen.model_copy(update={"change": record.change + 1})
    promote = PromoteOrder(
        service=service, zone=zone, record=chosen, names='ANY 1 ("pg-east-3")', survivors=["pg-east-3"]
    )
    promoted = await twice(promotion.promote_candidate, promote)
    assert (promoted.member, promoted.timeline, promoted.already) == ("pg-east-2", 2, True)

    routed = chosen.model_copy(
        update={"leader": "pg-east-2", "voters": ["pg-east-3"], "candidate": None, "candidate_voters": []}
    )
    for route in service.gates():
        order = PoolerOrder(service=service, route=route, target="pg-east-2", epoch=1)
        assert "leads to pg-east-2" in (await twice(pooler.point_pooler, order)).evidence
        held = PoolerOrder(service=service, route=route, target="pg-east-1", epoch=1)
        assert "already leads elsewhere" in (await twice(pooler.hold_pooler, held)).evidence
    await twice(dns.confirm_names, choice)
    final = RecordOrder(zone=zone, service=service.name, seen=chosen, wanted=routed)
    routed = routed.model_copy(update={"change": chosen.change + 1})
    assert await twice(epoch.write_record, final) == routed
    assert await scene.epoch() == routed
    verify = VerifyOrder(service=service, zone=zone, region="us-east-1", run="hand-1", expected="pg-east-2")
    writes = await twice(probes.verify_routes, verify)
    assert [write.ok for write in writes] == [True] * 3, writes
    told = verify.model_copy(update={"service": service.model_copy(update={"routes": []})})
    (direct,) = await twice(probes.verify_routes, told)
    assert (direct.route, direct.ok) == (probes.DIRECT, True)
    assert not (await twice(fencing.prove_fence, ProofOrder(service=service, member="pg-east-1"))).acknowledged
    assert (await twice(node.stop_node, NodeOrder(service=service, member="pg-east-1"))).done
    rest = FollowOrder(service=service, leader="pg-east-2", members=["pg-east-3", "pg-east-4", "pg-west-1"], epoch=1)
    followed = await twice(fencing.follow_leader, rest)
    assert followed.following == ["pg-east-3", "pg-east-4", "pg-west-1"], followed
    names = NamesOrder(service=service, leader="pg-east-2", names='ANY 1 ("pg-east-3")', epoch=1)
    await twice(promotion.apply_names, names)
    await twice(promotion.confirm_commit, names)
    await twice(promotion.checkpoint, names)
    await scene.safe()

    # An older epoch changes nothing any more, wherever it tries.
    older = FenceOrder(service=service, zone=zone, record=None, suspect="pg-east-1", epoch=0, voters=seen.voters)
    for activity, order in (
        (fencing.disconnect_standbys, older),
        # Nor does the fence of this very epoch, once the run has gone on: it would cut off who follows by now.
        (fencing.disconnect_standbys, fence),
        (epoch.claim_epoch, ClaimOrder(zone=zone, service=service.name, run="late", seen=seen)),
        (pooler.hold_pooler, PoolerOrder(service=service, route=service.gates()[0], target="pg-east-1", epoch=0)),
        (promotion.promote_candidate, promote.model_copy(update={"record": chosen.model_copy(update={"epoch": 0})})),
    ):
        with pytest.raises(EpochSuperseded):
            await ActivityEnvironment().run(activity, order)
    await scene.safe()


async def test_undo_of_the_fence_twice(scene: Scene) -> None:
    estate = estate_of(scene)
    service, zone = estate.service, estate.zone
    seen = await baseline(scene, estate)
    record = await twice(epoch.claim_epoch, ClaimOrder(zone=zone, service=service.name, run="hand-2", seen=seen))
    await twice(
        fencing.disconnect_standbys,
        FenceOrder(service=service, zone=zone, record=record, suspect="pg-east-1", epoch=1, voters=seen.voters),
    )
    superuser = await session(scene.lab, "pg-east-1")
    assert superuser is not None
    stalled = await twice(fencing.stall_primary, StallOrder(service=service, member="pg-east-1", epoch=1))
    assert not stalled.acknowledged
    # Lifeboat's role is none, so it can't end this one: that is told, and the stall holds all the same.
    assert "1 of superusers left" in stalled.evidence, stalled
    await superuser.close()
    proof = await twice(fencing.prove_fence, ProofOrder(service=service, member="pg-east-1"))
    assert not proof.acknowledged, proof
    assert record.epoch == 1
    names = 'ANY 1 ("pg-east-2","pg-east-3")'
    stall = StallOrder(service=service, member="pg-east-1", epoch=2, names=names)
    await twice(fencing.unstall_primary, stall)
    direct = ["pg-east-2", "pg-east-3", "pg-east-4", "pg-west-1"]
    back = FollowOrder(service=service, leader="pg-east-1", members=direct, epoch=2)
    assert (await twice(fencing.reconnect_standbys, back)).following == direct
    await twice(node.start_node, NodeOrder(service=service, member="pg-east-1"))
    await scene.traffic()
    await scene.safe()
    # The fence's own late attempt is refused: the undo has stamped the nodes with a newer epoch.
    late = FenceOrder(service=service, zone=zone, record=record, suspect="pg-east-1", epoch=1, voters=seen.voters)
    with pytest.raises(EpochSuperseded):
        await ActivityEnvironment().run(fencing.disconnect_standbys, late)


async def test_a_candidate_that_the_record_does_not_name_is_not_promoted(scene: Scene) -> None:
    estate = estate_of(scene)
    seen = await baseline(scene, estate)
    claim = ClaimOrder(zone=estate.zone, service=estate.service.name, run="hand-3", seen=seen)
    record = await ActivityEnvironment().run(epoch.claim_epoch, claim)
    other = record.model_copy(update={"candidate": "pg-east-3"})
    order = PromoteOrder(service=estate.service, zone=estate.zone, record=other, names="", survivors=[])
    with pytest.raises(CandidateChanged):
        await ActivityEnvironment().run(promotion.promote_candidate, order)
    assert issubclass(CandidateChanged, LifeboatError)


async def test_a_hold_that_was_overtaken_lets_the_clients_in_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still between its look and its act, as in a frozen worker, and the route was led on meanwhile."""
    service = estate_of(scene).service
    route = service.gates()[0]
    order = PoolerOrder(service=service, route=route, target="pg-east-1", epoch=1)
    cut = pooler._cut

    async def late(*args: Any) -> None:
        await ActivityEnvironment().run(pooler.point_pooler, order)
        await cut(*args)

    monkeypatch.setattr(pooler, "_cut", late)
    held = await ActivityEnvironment().run(pooler.hold_pooler, order)
    assert "already leads elsewhere" in held.evidence
    async with pooler.console(route) as conn:
        rows = (await pooler.databases(conn, route)).values()
    assert rows
    assert not any(int(row["paused"]) or int(row["disabled"]) for row in rows), rows
    await scene.traffic()
