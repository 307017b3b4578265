"""Partitions, in a lab whose nodes have network namespaces: what a region can't see is not dead."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from lab import lab as labs
from tests.faults.scene import Scene

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene() -> AsyncIterator[Scene]:
    lab = await labs.up(netns=True, make_current=False)
    yield Scene(lab, await labs.connect(lab))
    await labs.down(lab)


async def test_alive_though_one_region_cannot_see_it(scene: Scene) -> None:
    await scene.traffic()
    await labs.partition(scene.lab, "worker-us-west-2", "pg-east-1")
    await asyncio.sleep(6)  # three failed probes of one region, several times over
    assert await scene.runs() == []
    await scene.safe()
    await labs.heal(scene.lab)


async def test_all_vantages_miss_it_while_its_standbys_hear_it(scene: Scene) -> None:
    """Cut off from us, not dead: a person is asked, and nothing has changed when they say no."""
    for region in scene.lab.regions:
        await labs.partition(scene.lab, f"worker-{region}", "pg-east-1")
    run = await scene.run_of_watch()
    state = await scene.question(run)
    assert state.assessment is not None
    assert "not dead" in state.assessment.death.reason, state.assessment.death
    await scene.reject(run)
    report = await scene.report(run)
    assert report.outcome == "rejected", report
    audit = await scene.safe()
    assert all(route.longest_gap_s < 2 for route in audit.routes.values()), audit


@pytest.mark.campaign
async def test_a_region_that_was_cut_off_long_before_does_not_date_the_outage(scene: Scene) -> None:
    lab = await labs.reset(scene.lab, overrides={"rejoin": {"when": "by-hand"}})
    scene.since = datetime.now(UTC)
    await scene.traffic()
    await labs.partition(lab, "worker-eu-west-1", "us-east-1")
    await asyncio.sleep(8)  # it counts to its limit, and stays down
    assert await scene.runs() == []
    await labs.fault(lab, "kill", "pg-east-1")
    report = await scene.report(await scene.run_of_watch(), 120)
    assert report.outage_s is not None
    assert report.outage_s < 8, report
    assert not any("does not follow" in line for line in report.unprotected), report
    await labs.heal(lab)
    await scene.safe()


@pytest.mark.campaign
async def test_one_way_partition_of_the_primary_from_everyone(scene: Scene) -> None:
    """Its packets reach nobody: regions and standbys agree that it is gone, and it can acknowledge nothing."""
    await labs.heal(scene.lab)
    lab = await labs.reset(scene.lab, overrides={"rejoin": {"when": "by-hand"}})
    scene.since = datetime.now(UTC)
    await scene.traffic()
    for node in lab.nodes:
        if node.name not in ("pg-east-1", "temporal"):
            await labs.partition(lab, "pg-east-1", node.name, one_way=True)
    report = await scene.report(await scene.run_of_watch(), 120)
    assert report.outcome == "recovered, unprotected", report
    await scene.safe()
    await labs.heal(lab)
    await asyncio.sleep(2)
    await scene.safe()
