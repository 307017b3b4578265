"""A cache's runs, killed at every step, before and after its effect: a worker, and Temporal. They finish."""

from __future__ import annotations

import time

import pytest

from lab.layout import CACHE_HOME
from lab.model import Lab
from tests.faults.cache_scene import NEAR, CacheScene
from tests.faults.cells import cells
from tests.faults.striking import striking_cache

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.lab]

MOVE = (
    "describe_estate",
    "observe_cache",
    "claim_epoch",
    "restore_fences",
    "until_calm",
    "fence_master",
    "until_equal",
    "choose_and_lead",
    "let_sentinel_elect",
    "follow_master",
    "verify_cache_routes",
    "write_record",
    "read_journey",
)
ACROSS = ("set_monitor", "promote_alone")
FAILOVER = (
    "describe_estate",
    "claim_epoch",
    "stop_node",
    "restore_fences",
    "until_elected",
    "choose_and_lead",
    "follow_master",
    "confirm_names",
    "verify_cache_routes",
    "write_record",
    "until_calm",
    "observe_cache",
    "start_node",
    "count_lost_keys",
    "read_journey",
)
MOVE_CAMPAIGN = {("fence_master", "after", "kill")}
FAILOVER_CAMPAIGN = {("until_elected", "after", "kill")}


async def led_by_one(scene: CacheScene) -> None:
    """Of all who were killed none has made a second master, or left a setting behind."""
    record = await scene.epoch()
    assert record is not None
    assert [facts.member for facts in (await scene.seen()).masters()] == [record.leader]
    await scene.as_declared(record.leader)


@pytest.mark.parametrize(("activity", "when", "who"), cells(MOVE, (), MOVE_CAMPAIGN))
async def test_a_move_killed_at(shared_cache_lab: Lab, activity: str, when: str, who: str) -> None:
    plan = {"activity": activity, "when": when, "strike": who}
    async with striking_cache(shared_cache_lab, workflow="CacheSwitchover", **plan) as (scene, done):
        await scene.traffic()
        report = await scene.report(await scene.switch("cache-east-2"), 120)
        assert done.exists(), "nothing was killed, so nothing was tried"
        if report.outcome == "undone":
            await scene.stayed(report)
        else:
            await scene.moved(report, to="cache-east-2")
        await led_by_one(scene)
        await scene.safe()


@pytest.mark.parametrize(("activity", "when", "who"), cells(ACROSS, ()))
async def test_a_move_to_the_other_region_killed_at(shared_cache_lab: Lab, activity: str, when: str, who: str) -> None:
    plan = {"activity": activity, "when": when, "strike": who}
    async with striking_cache(shared_cache_lab, workflow="CacheSwitchover", **plan) as (scene, done):
        await scene.traffic()
        run = await scene.switch("cache-west-1")
        await scene.approve(run)
        report = await scene.report(run, 120)
        assert done.exists(), "nothing was killed, so nothing was tried"
        await scene.moved(report, to="cache-west-1")
        await led_by_one(scene)
        await scene.safe()


@pytest.mark.parametrize(("activity", "when", "who"), cells(FAILOVER, (), FAILOVER_CAMPAIGN))
async def test_a_failover_killed_at(shared_cache_lab: Lab, activity: str, when: str, who: str) -> None:
    plan = {"activity": activity, "when": when, "strike": who}
    async with striking_cache(shared_cache_lab, workflow="CacheFailover", **plan) as (scene, done):
        await scene.traffic()
        await scene.fault("kill", CACHE_HOME)
        died = time.time()
        report = await scene.report(await scene.run_of_watch(limit=60), 120)
        assert done.exists(), "nothing was killed, so nothing was tried"
        assert report.epoch == 1, report
        assert report.new_primary in NEAR, report
        await scene.moved(report, to=report.new_primary, outcome="recovered")
        await led_by_one(scene)
        await scene.lost_within_the_verdict(report, died)
