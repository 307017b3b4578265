"""A planned move of the cache that meets bad luck: it is done without loss, or the old master serves on."""

from __future__ import annotations

import pytest

from lab.layout import CACHE_HOME
from tests.faults.cache_scene import CacheScene

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.lab, pytest.mark.campaign]


async def test_out_and_home_in_the_region(cache_scene: CacheScene) -> None:
    scene = cache_scene
    await scene.traffic()
    out = await scene.switch("cache-east-2")
    await scene.moved(await scene.report(out), to="cache-east-2")
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
