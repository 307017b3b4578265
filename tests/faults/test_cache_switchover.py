"""A planned move of the cache that meets bad luck: it is done without loss, or the old master serves on."""

from __future__ import annotations

import pytest

from activities.cache_fencing import FENCE, PREFERRED
from lab.layout import CACHE_HOME
from lab.model import Lab
from tests.faults.cache_scene import BOUND_S, NEAR, CacheScene
from tests.faults.striking import striking_cache
from workflows.cache_switchover import COMPARE

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.lab, pytest.mark.campaign]


async def test_out_and_home_in_the_region(cache_scene: CacheScene) -> None:
    """To the one that feeds the other region, whose replica the Sentinels must not take for one of theirs."""
    scene = cache_scene
    await scene.traffic()
    assert (await scene.facts("cache-west-1")).follows == "cache-east-4"
    out = await scene.switch("cache-east-4")
    await scene.moved(await scene.report(out), to="cache-east-4")
    await scene.record(out, "cache-switched-over")
    await scene.moved(await scene.report(await scene.failback()), to=CACHE_HOME)
    await scene.safe()
    assert await scene.runs() == [], "the watch took a planned move for an outage"


async def test_to_the_other_region_and_home_with_approval_by_ana(cache_scene: CacheScene) -> None:
    scene = cache_scene
    await scene.traffic()
    out = await scene.switch("cache-west-1")
    await scene.approve(out)
    report = await scene.report(out)
    await scene.moved(report, to="cache-west-1")
    assert [decision.by for decision in report.decisions] == ["ana"]
    home = await scene.failback()
    await scene.approve(home)
    await scene.moved(await scene.report(home), to=CACHE_HOME)
    await scene.safe()
    assert await scene.runs() == []


async def test_aborted_before_the_fence(cache_scene: CacheScene) -> None:
    """The Sentinels have learnt by then whom they shall prefer, which is undone as well."""
    scene = cache_scene
    await scene.traffic()
    run = await scene.switch("cache-east-3")

    async def preferred() -> bool:
        return (await scene.facts("cache-east-3")).priority == PREFERRED

    await scene.until("the candidate is preferred", preferred)
    await scene.say(run, "abort")
    await scene.stayed(await scene.report(run), outcome="aborted")


async def test_a_fence_that_a_dead_run_left(cache_scene: CacheScene) -> None:
    """Sentinel has written it into the master's own file, whose clients are refused until the next run begins."""
    scene = cache_scene
    await scene.traffic()
    for name in (CACHE_HOME, "cache-east-2"):
        await scene.ask(name, "CONFIG", "SET", "min-replicas-to-write", str(FENCE))
        await scene.ask(name, "CONFIG", "REWRITE")
    await scene.moved(await scene.report(await scene.switch("cache-east-2")), to="cache-east-2")
    for name in (CACHE_HOME, "cache-east-2"):
        text = (scene.lab.paths.node(name) / "redis.conf").read_text(encoding="utf-8")
        assert "min-replicas-to-write 1\n" in text, name
    await scene.safe()


async def test_the_candidate_lags_behind_the_fence(shared_cache_lab: Lab) -> None:
    """It hangs from the fence on: the comparison refuses it, and the old master takes writes again."""
    plan = {"activity": "fence_master", "when": "before", "strike": "freeze-node", "member": "cache-east-2"}
    async with striking_cache(shared_cache_lab, workflow="CacheSwitchover", **plan) as (scene, done):
        await scene.traffic()
        run = await scene.switch("cache-east-2")
        report = await scene.report(run)
        assert done.exists()
        assert COMPARE in report.summary, report
        await scene.fault("thaw", "cache-east-2")
        # It could not be told anything, and the next run does so.
        await scene.stayed(report, but=["cache-east-2"])
        await scene.record(run, "cache-switchover-undone")


async def test_the_master_is_killed_before_the_fence(shared_cache_lab: Lab) -> None:
    """The fence fails, and so does its undo: given up within seconds, and the watch's failover has the service."""
    plan = {"activity": "fence_master", "when": "before", "strike": "kill-node", "member": CACHE_HOME}
    async with striking_cache(shared_cache_lab, workflow="CacheSwitchover", **plan) as (scene, done):
        await scene.traffic()
        report = await scene.report(await scene.switch("cache-east-2"))
        died = done.stat().st_mtime
        assert (report.outcome, report.new_primary) == ("needs a person", None), report
        failover = await scene.report(await scene.run_of_watch())
        assert failover.new_primary in NEAR, failover
        await scene.moved(failover, to=failover.new_primary, outcome="recovered")
        await scene.safe(bound=scene.acknowledged_between(died - BOUND_S, died + 1))


async def test_the_candidate_is_killed_between_fence_and_election(shared_cache_lab: Lab) -> None:
    """Sentinel takes another, or nobody is moved: nothing is lost, and clients are served."""
    plan = {"activity": "let_sentinel_elect", "when": "before", "strike": "kill-node", "member": "cache-east-2"}
    async with striking_cache(shared_cache_lab, workflow="CacheSwitchover", **plan) as (scene, done):
        await scene.traffic()
        report = await scene.report(await scene.switch("cache-east-2"))
        assert done.exists()
        assert report.new_primary != "cache-east-2", report
        assert any("cache-east-2 is not reached" in each for each in report.unprotected) or not report.new_primary
        await scene.safe()
        await scene.fault("start", "cache-east-2")
        leader = report.new_primary or CACHE_HOME
        await scene.as_declared(leader, but=["cache-east-2"])
        await scene.safe()
