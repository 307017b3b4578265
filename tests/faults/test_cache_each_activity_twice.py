"""Every activity of the cache, run twice, ends in the same state; an older epoch's changes nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import (
    cache_elections,
    cache_fencing,
    cache_moves,
    cache_probes,
    cache_survey,
    cache_warming,
    dns,
    epoch,
    node,
)
from activities.cache_moves import BY_HAND
from activities.redis_sessions import acting
from lab.layout import CACHE, CACHE_HOME
from schemas.cache_orders import (
    CacheOrder,
    CacheProbeOrder,
    CacheVerifyOrder,
    CalmOrder,
    ElectionOrder,
    ElectOrder,
    EqualOrder,
    FenceMasterOrder,
    FollowMasterOrder,
    LostOrder,
    MonitorOrder,
    MoveOrder,
    RestoreOrder,
    UnfenceOrder,
)
from schemas.facts import EpochRecord
from schemas.failures import CacheUnreachable, EpochSuperseded
from schemas.orders import AnyNodeOrder, ClaimOrder, DnsOrder, EstablishOrder, RecordOrder
from tests.faults.cache_scene import BOUND_S, EAST, EASTERN, WEST, CacheScene
from tests.faults.test_each_activity_twice import twice
from workflows.policy.cache import upstreams

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.lab,
    pytest.mark.campaign,
    pytest.mark.estate(watch=False),
]


async def once(activity: Any, order: Any) -> Any:
    return await ActivityEnvironment().run(activity, order)


async def claimed(scene: CacheScene, run: str) -> tuple[EpochRecord, dict[str, Any]]:
    """The record of a run that has claimed the next epoch, and what each of its orders carries."""
    estate = scene.estate()
    first = EpochRecord(epoch=0, run="test", leader=CACHE_HOME, w=0, voters=[])
    seen = await twice(epoch.establish_epoch, EstablishOrder(service=estate.service, zone=estate.zone, first=first))
    record = await twice(epoch.claim_epoch, ClaimOrder(zone=estate.zone, service=CACHE, run=run, seen=seen))
    return record, {"service": estate.service, "zone": estate.zone, "epoch": record.epoch}


async def test_a_whole_move_with_each_activity_twice(cache_scene: CacheScene) -> None:
    scene, new = cache_scene, "cache-east-2"
    await scene.traffic()
    record, given = await claimed(scene, "hand-1")
    service, zone = given["service"], given["zone"]
    seen = await twice(cache_survey.observe_cache, scene.estate())
    assert seen.record == record
    probe = CacheProbeOrder(service=service, member=CACHE_HOME, region=EAST)
    assert (await twice(cache_probes.probe_master, probe)).outcome == "alive"

    restored = await twice(cache_fencing.restore_fences, RestoreOrder(**given, serving=EAST, preferred=new))
    assert (restored.changed, restored.unreachable) == ({}, {}), "the second time there is nothing left to do"
    await twice(cache_elections.until_calm, CalmOrder(service=service, region=EAST, leader=CACHE_HOME, preferred=new))
    fence = FenceMasterOrder(**given, member=CACHE_HOME, pause_s=10)
    assert not (await twice(cache_fencing.fence_master, fence)).acknowledged
    move = EqualOrder(**given, old=CACHE_HOME, new=new, others=["cache-east-3", "cache-east-4"])
    first = await once(cache_fencing.until_equal, move)
    assert await once(cache_fencing.until_equal, move) == first, "the stream moved on behind the fence"
    wanted = record.model_copy(update={"candidate": new, "verdict": "none"})
    choice = DnsOrder(service=service, zone=zone, target=new, seen=record, wanted=wanted)
    chosen = await twice(dns.choose_and_lead, choice)
    assert chosen.candidate == new
    elected = await twice(cache_elections.let_sentinel_elect, ElectOrder(**given, region=EAST, old=CACHE_HOME))
    assert elected.member == new
    order = FollowMasterOrder(**given, leader=new, upstreams=upstreams(service, new), cut=[CACHE_HOME], enough=None)
    followed = await twice(cache_moves.follow_master, order)
    assert (sorted(followed.following), followed.missing) == (sorted(upstreams(service, new)), {})
    await twice(dns.confirm_names, choice.model_copy(update={"seen": chosen, "wanted": chosen}))
    await twice(cache_elections.until_calm, CalmOrder(service=service, region=EAST, leader=new))
    verify = CacheVerifyOrder(service=service, zone=zone, region=WEST, run="hand-1", expected=new)
    assert all(write.ok for write in await twice(cache_probes.verify_cache_routes, verify))
    assert not (await twice(cache_fencing.unfence_master, UnfenceOrder(**given, member=CACHE_HOME))).acknowledged
    await twice(cache_fencing.restore_fences, RestoreOrder(**given, serving=EAST))
    told = await twice(cache_moves.set_monitor, MonitorOrder(**given, region=EAST, leader=new))
    assert told.missing == {}
    settled = chosen.model_copy(update={"leader": new, "candidate": None, "verdict": ""})
    await twice(epoch.write_record, RecordOrder(zone=zone, service=CACHE, seen=chosen, wanted=settled))
    await scene.as_declared(new)
    await scene.safe()


async def test_a_failover_by_hand_with_each_activity_twice(cache_scene: CacheScene) -> None:
    scene = cache_scene
    await scene.traffic()
    record, given = await claimed(scene, "hand-2")
    service, zone = given["service"], given["zone"]
    began = time.time()
    await scene.fault("kill", CACHE_HOME)
    killed = time.time()
    probe = CacheProbeOrder(service=service, member=CACHE_HOME, region=EAST)
    assert (await twice(cache_probes.probe_master, probe)).outcome == "refused"
    control = AnyNodeOrder(service=service, zone=zone, member=CACHE_HOME, run=record.run, epoch=record.epoch)
    assert (await twice(node.stop_node, control)).done
    helped = ElectionOrder(**given, region=EAST, old=CACHE_HOME, candidate="cache-east-2", help_at=datetime.now(UTC))
    first = await once(cache_elections.until_elected, helped)
    again = await once(cache_elections.until_elected, helped)
    assert again.member == first.member
    wanted = record.model_copy(update={"candidate": first.member, "verdict": "bounded"})
    choice = DnsOrder(service=service, zone=zone, target=first.member, seen=record, wanted=wanted)
    chosen = await twice(dns.choose_and_lead, choice)
    order = FollowMasterOrder(
        **given, leader=first.member, upstreams=upstreams(service, first.member, [CACHE_HOME]), enough=None
    )
    assert (await twice(cache_moves.follow_master, order)).missing == {}
    settled = chosen.model_copy(update={"leader": first.member, "candidate": None, "verdict": ""})
    await twice(epoch.write_record, RecordOrder(zone=zone, service=CACHE, seen=chosen, wanted=settled))
    assert (await twice(node.start_node, control)).done
    lost = LostOrder(**given, old=CACHE_HOME, leader=first.member)
    assert isinstance((await twice(cache_warming.count_lost_keys, lost)).looked, int)
    order = order.model_copy(update={"upstreams": upstreams(service, first.member), "cut": [CACHE_HOME]})
    await twice(cache_moves.follow_master, order)
    await scene.as_declared(first.member)
    await scene.safe(bound=scene.acknowledged_between(began - BOUND_S, killed))


async def test_promoted_by_hand_twice(cache_scene: CacheScene) -> None:
    """No Sentinel is left: the second attempt finds the heir of the old master's history, and promotes nobody else."""
    scene = cache_scene
    _, given = await claimed(scene, "hand-3")
    history = (await scene.facts(CACHE_HOME)).history
    await scene.fault("kill", CACHE_HOME, *EASTERN)
    order = ElectionOrder(
        **given, region=EAST, old=CACHE_HOME, history=history, candidate="cache-east-3", help_at=datetime.now(UTC)
    )
    elected = await once(cache_elections.until_elected, order)
    assert (elected.member, elected.by) == ("cache-east-3", BY_HAND)
    other = order.model_copy(update={"candidate": "cache-east-2"})
    assert (await once(cache_elections.until_elected, other)).member == "cache-east-3"
    assert [facts.member for facts in (await scene.seen()).masters()] == ["cache-east-3"]


async def test_an_older_epoch_changes_nothing(cache_scene: CacheScene) -> None:
    """Its orders are refused, and a connection that it holds is ended by the newer epoch's first act."""
    scene = cache_scene
    await scene.traffic()
    record, given = await claimed(scene, "hand-4")
    older = CacheOrder.model_validate(given)
    member, sentinel = older.service.member(CACHE_HOME), older.service.sentinels[0]
    claim = ClaimOrder(zone=older.zone, service=CACHE, run="hand-5", seen=record)
    now = given | {"epoch": record.epoch + 1}

    async def frozen_in_the_middle(order: CacheOrder) -> None:
        """It has its connections when the newer epoch acts, and wakes with its commands in hand: they reach nobody."""
        async with acting(order, member) as on_server, acting(order, sentinel) as on_sentinel:
            assert await on_server("PING") == "PONG"
            assert (await once(epoch.claim_epoch, claim)).epoch == now["epoch"]
            await once(cache_fencing.restore_fences, RestoreOrder(**now, serving=EAST))
            await once(cache_moves.set_monitor, MonitorOrder(**now, region=EAST, leader=CACHE_HOME))
            with pytest.raises(CacheUnreachable):
                await on_server("CONFIG", "SET", "min-replicas-to-write", cache_fencing.FENCE)
            with pytest.raises(CacheUnreachable):
                await on_sentinel("SENTINEL", "REMOVE", order.service.monitor.name)

    await once(frozen_in_the_middle, older)
    late: list[tuple[Any, CacheOrder]] = [
        (cache_fencing.restore_fences, RestoreOrder(**given, serving=WEST)),
        (cache_fencing.fence_master, FenceMasterOrder(**given, member=CACHE_HOME, pause_s=5)),
        (cache_fencing.unfence_master, UnfenceOrder(**given, member=CACHE_HOME)),
        (cache_elections.let_sentinel_elect, ElectOrder(**given, region=EAST, old=CACHE_HOME)),
        (cache_moves.promote_alone, MoveOrder(**given, old=CACHE_HOME, new="cache-east-4")),
        (cache_moves.set_monitor, MonitorOrder(**given, region=EAST, leader=None)),
        (
            cache_moves.follow_master,
            FollowMasterOrder(**given, leader="cache-east-4", upstreams={"cache-east-2": "cache-east-4"}, enough=None),
        ),
    ]
    for activity, order in late:
        with pytest.raises(EpochSuperseded):
            await once(activity, order)

    # One that went on without the store, on record, finds the newer epoch's connection on the server.
    async def beside(order: CacheOrder) -> None:
        async with acting(order, member):
            with pytest.raises(EpochSuperseded, match=f"epoch {order.epoch}"):
                await once(cache_fencing.unfence_master, UnfenceOrder(**given, member=CACHE_HOME, recorded=False))

    await once(beside, CacheOrder.model_validate(now))
    await scene.as_declared(CACHE_HOME)
    await scene.safe()


async def test_an_empty_master_is_never_adopted(cache_scene: CacheScene) -> None:
    """The home master restarted without its data; a replica that another leads meanwhile has everything."""
    scene = cache_scene
    _, given = await claimed(scene, "hand-6")
    await scene.ask(CACHE_HOME, "SET", "count:kept", "1")
    assert await scene.ask(CACHE_HOME, "WAIT", "3", "1000") == 3
    await scene.fault("kill", CACHE_HOME)
    await once(cache_moves.promote_alone, MoveOrder(**given, old=CACHE_HOME, new="cache-east-2"))
    others = ["cache-east-3", "cache-east-4"]
    order = FollowMasterOrder(**given, leader="cache-east-2", upstreams=dict.fromkeys(others, "cache-east-2"), enough=2)
    assert sorted((await once(cache_moves.follow_master, order)).following) == others
    scene.empty(CACHE_HOME)
    await scene.fault("start", CACHE_HOME)
    back = FollowMasterOrder(**given, leader=CACHE_HOME, upstreams=dict.fromkeys(others, CACHE_HOME), enough=2)
    told = await once(cache_moves.follow_master, back)
    assert told.following == []
    assert all("is empty" in why for why in told.missing.values()), told
    for name in others:
        assert await scene.ask(name, "GET", "count:kept") == "1"
        assert (await scene.facts(name)).follows == "cache-east-2"


async def test_a_replica_of_another_region_is_forgotten_and_that_is_told(cache_scene: CacheScene) -> None:
    """Told, since a Sentinel may have led it back before it forgot: the run leads once more, and looks again."""
    scene, stray = cache_scene, "cache-west-1"
    _, given = await claimed(scene, "hand-3")
    service = given["service"]
    ours = [each.name for each in service.members_of(EAST)]
    wanted = upstreams(service, CACHE_HOME)
    order = FollowMasterOrder(**given, leader=CACHE_HOME, upstreams=wanted | {stray: CACHE_HOME}, enough=None)
    assert (await once(cache_moves.follow_master, order)).missing == {}

    async def each_sentinel_knows_it() -> bool:
        seen = {each.sentinel: each for each in (await scene.seen()).sentinels}
        return all(seen[name].knows_others_than(ours) for name in EASTERN)

    await scene.until("every Sentinel of the east knows it", each_sentinel_knows_it)
    assert (await once(cache_moves.follow_master, order.model_copy(update={"upstreams": wanted}))).missing == {}
    forget = MonitorOrder(**given, region=EAST, leader=CACHE_HOME)
    first = await once(cache_moves.forget_strangers, forget)
    assert (sorted(first.reset), first.missing) == (sorted(EASTERN), {})
    again = await once(cache_moves.forget_strangers, forget)
    assert (again.reset, again.missing) == ([], {})
    await scene.as_declared(CACHE_HOME)
