"""The cache's master is lost, under load: the strategy's own scenario, and each kind of bad luck beside it."""

from __future__ import annotations

import time

import pytest

from lab.errors import NodeRefused
from lab.layout import CACHE, CACHE_HOME, MONITORED
from schemas.attributes import watch_id
from schemas.reports import Report
from tests.faults.cache_scene import EASTERN, NEAR, CacheScene

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.lab, pytest.mark.campaign]


async def recovered(scene: CacheScene, report: Report, died: float, *, helped: str | None = None) -> None:
    """Another leads, the old one follows it, and no more is missing than was said."""
    leader = report.new_primary
    assert leader in NEAR, report
    await scene.moved(report, to=leader, outcome="recovered")
    if helped is None:
        assert "could not do by itself" not in report.summary, report
    else:
        assert helped in report.summary, report
    await scene.lost_within_the_verdict(report, died)


async def test_debug_segfault_and_home_again(cache_scene: CacheScene) -> None:
    """The strategy's own: it is crashed, Sentinel names the new one, the health endpoint says 200; restored, back."""
    scene = cache_scene
    await scene.traffic()
    await scene.segfault(CACHE_HOME)
    died = time.time()
    run = await scene.run_of_watch()
    report = await scene.report(run)
    await recovered(scene, report, died)
    assert {await scene.master_by(each) for each in EASTERN} == {report.new_primary}
    assert await scene.health() == 200
    await scene.record(run, "cache-failed-over")
    await scene.moved(await scene.report(await scene.failback()), to=CACHE_HOME)
    assert {await scene.master_by(each) for each in EASTERN} == {CACHE_HOME}
    found = await scene.safe()
    assert found.missing == 0, found
    assert await scene.health() == 200


async def test_two_of_four_sentinels_gone(cache_scene: CacheScene) -> None:
    """The majority is gone, so that no election comes about; one of those left is made to elect."""
    scene = cache_scene
    await scene.traffic()
    await scene.fault("kill", "sentinel-east-1", "sentinel-east-2", CACHE_HOME)
    died = time.time()
    run = await scene.run_of_watch()
    report = await scene.report(run)
    assert report.outcome == "recovered, unprotected", report
    assert "2 of 4 Sentinels" in report.summary, report
    assert any("sentinel-east-1 is not reached" in each for each in report.unprotected), report
    await scene.lost_within_the_verdict(report, died)
    await scene.record(run, "cache-helped")
    assert any(f"{CACHE_HOME} stays stopped" in each for each in report.unprotected), report
    await scene.fault("start", "sentinel-east-1", "sentinel-east-2")
    await scene.sentinels_watch(report.new_primary)
    # They turn it into a replica.
    await scene.fault("start", CACHE_HOME, force=True)
    assert report.new_primary is not None
    await scene.as_declared(report.new_primary)
    await scene.safe()


async def test_all_four_sentinels_gone(cache_scene: CacheScene) -> None:
    """Lifeboat promotes by hand; Sentinels that come back with what they knew watch the new master."""
    scene = cache_scene
    await scene.traffic()
    await scene.fault("kill", *EASTERN, CACHE_HOME)
    died = time.time()
    report = await scene.report(await scene.run_of_watch())
    assert report.outcome == "recovered, unprotected", report
    assert "promoted by Lifeboat" in report.summary, report
    assert report.new_primary is not None
    assert (await scene.facts(CACHE_HOME)).reachable is False, "they would make it the master again"
    await scene.fault("start", *EASTERN)
    await scene.sentinels_watch(report.new_primary)
    # They do not know it: the watch turns it into a replica.
    await scene.fault("start", CACHE_HOME, force=True)
    await scene.as_declared(report.new_primary)
    await scene.lost_within_the_verdict(report, died)


async def test_no_eligible_replica(cache_scene: CacheScene) -> None:
    """Somebody set every replica's priority to 0: Sentinel elects none of them."""
    scene = cache_scene
    for name in NEAR:
        await scene.ask(name, "CONFIG", "SET", "replica-priority", "0")

    async def known() -> bool:
        told = [each for each in (await scene.seen()).sentinels if each.watches]
        return len(told) == 4 and all(not any(each.priorities[name] for name in NEAR) for each in told)

    await scene.until("the Sentinels know", known)
    await scene.traffic()
    await scene.fault("kill", CACHE_HOME)
    died = time.time()
    report = await scene.report(await scene.run_of_watch())
    await recovered(scene, report, died, helped="no replica of cache-east-1 may be elected")


async def test_sentinels_that_disagree(cache_scene: CacheScene) -> None:
    """Two of them take a replica for the master."""
    scene = cache_scene
    node = scene.lab.node("cache-east-3")
    for name in ("sentinel-east-3", "sentinel-east-4"):
        await scene.ask(name, "SENTINEL", "REMOVE", MONITORED)
        await scene.ask(name, "SENTINEL", "MONITOR", MONITORED, node.host, str(node.port), "2")
        await scene.ask(name, "SENTINEL", "SET", MONITORED, "auth-user", "sentinel")
        await scene.ask(name, "SENTINEL", "SET", MONITORED, "auth-pass", scene.lab.secret("cache-sentinel"))
        await scene.ask(name, "SENTINEL", "SET", MONITORED, "down-after-milliseconds", "5000")
    await scene.traffic()
    refused = await scene.report(await scene.switch())
    assert refused.outcome == "refused", refused
    assert "cache-east-1 and cache-east-3" in refused.summary, refused
    await scene.fault("kill", CACHE_HOME)
    died = time.time()
    report = await scene.report(await scene.run_of_watch())
    await recovered(scene, report, died, helped="the Sentinels disagree")


async def test_killed_under_a_fence_that_a_dead_run_left(cache_scene: CacheScene) -> None:
    """Sentinel wrote 99 into every replica's own file; whoever leads next takes writes all the same."""
    scene = cache_scene
    await scene.traffic()
    for name in NEAR:
        await scene.ask(name, "CONFIG", "SET", "min-replicas-to-write", "99")
        await scene.ask(name, "CONFIG", "REWRITE")
    await scene.fault("kill", CACHE_HOME)
    died = time.time()
    report = await scene.report(await scene.run_of_watch())
    await recovered(scene, report, died)


async def test_the_old_master_is_frozen_and_thawed_later(cache_scene: CacheScene) -> None:
    """What it says when it wakes is acknowledged to nobody, and it follows."""
    scene = cache_scene
    await scene.traffic()
    before = time.time()
    await scene.fault("freeze", CACHE_HOME)
    report = await scene.report(await scene.run_of_watch())
    assert report.outcome == "recovered, unprotected", report
    assert report.fence is not None
    assert report.fence.strength == "disconnected", report
    assert report.new_primary is not None
    await scene.fault("thaw", CACHE_HOME)
    await scene.as_declared(report.new_primary, limit=45)
    await scene.lost_within_the_verdict(report, before)


async def test_sentinel_had_moved_it_already(cache_scene: CacheScene) -> None:
    """The watch was off, and Sentinel was first: clients of the name are led after it."""
    scene = cache_scene
    await scene.traffic()
    await scene.client.get_workflow_handle(watch_id(CACHE)).terminate("a test")
    await scene.fault("kill", CACHE_HOME)
    died = time.time()

    async def elected() -> bool:
        return {await scene.master_by(each) for each in EASTERN} <= {*NEAR}

    await scene.until("Sentinel has promoted another", elected)
    run = await scene.start()
    report = await scene.report(run)
    await recovered(scene, report, died)
    assert "has promoted" in report.steps[0].detail, report
    await scene.record(run, "cache-moved-by-sentinel")


@pytest.mark.estate(failover={"automatic": False})
async def test_a_person_is_asked_where_the_topology_says_so(cache_scene: CacheScene) -> None:
    scene = cache_scene
    await scene.traffic()
    await scene.fault("kill", CACHE_HOME)
    died = time.time()
    run = await scene.run_of_watch()
    await scene.approve(run)
    report = await scene.report(run)
    await recovered(scene, report, died)
    assert [decision.by for decision in report.decisions] == ["ana"]
    await scene.record(run, "cache-approved")


async def test_the_region_is_lost(cache_scene: CacheScene) -> None:
    """Every server and Sentinel of the east: nobody knows what the west has not, so a person overrides."""
    scene = cache_scene
    await scene.traffic()
    east = [node.name for node in scene.lab.of_kind("redis", "sentinel") if node.region == "us-east-1"]
    await scene.fault("kill", *east)
    run = await scene.run_of_watch()
    await scene.approve(run, override=True, reason="the region burnt down")
    report = await scene.report(run)
    assert report.new_primary in ("cache-west-1", "cache-west-2", "cache-west-3", "cache-west-4"), report
    await scene.record(run, "cache-across-regions")
    found = await scene.safe(bound=10_000)
    assert found.survivor == report.new_primary
    # The east comes back with what it knew: as replicas of the west, and its Sentinels watch nobody.
    await scene.fault("start", *east, force=True)
    await scene.as_declared(report.new_primary, limit=40)
    home = await scene.failback()
    await scene.approve(home)
    await scene.moved(await scene.report(home), to=CACHE_HOME)
    await scene.safe(bound=10_000)


async def test_the_master_restarts_empty_behind_the_fence(cache_scene: CacheScene) -> None:
    """Its disk is lost, and its machine boots within down-after: it is kept down, or it would wipe its replicas."""
    scene = cache_scene
    await scene.traffic()
    await scene.fault("kill", CACHE_HOME)
    died = time.time()
    scene.empty(CACHE_HOME)
    run = await scene.run_of_watch()
    await scene.state_when(run, "it is fenced", lambda state: state.past_no_return)
    with pytest.raises(NodeRefused):
        await scene.fault("start", CACHE_HOME)
    report = await scene.report(run)
    await recovered(scene, report, died)
    assert "keys at least" in report.receipt, "what only it had can't be counted any more"


async def test_somebody_has_sentinel_move_it_unfenced(cache_scene: CacheScene) -> None:
    """Clients of the name are led after it. What the old master took beside the new one is lost, and nobody knows how
    much: that is said.
    """
    scene = cache_scene
    await scene.traffic()
    assert await scene.ask("sentinel-east-1", "SENTINEL", "FAILOVER", MONITORED) == "OK"
    report = await scene.report(await scene.run_of_watch())
    assert report.new_primary in NEAR, report
    await scene.moved(report, to=report.new_primary, outcome="recovered")
    assert report.assessment is not None
    assert report.assessment.verdict.kind == "unknown", report
    await scene.serving()
