"""A former primary, or any member, comes back: whatever it does meanwhile, and whoever else does something."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lab.lab import fault
from lab.model import Lab
from lab.postgres import session
from schemas.reports import Report
from tests.faults.scene import Scene
from tests.faults.striking import striking_scene

pytestmark = pytest.mark.asyncio(loop_scope="session")

RETURN = "Rewind or rebuild it"


async def came_back(scene: Scene, report: Report, member: str = "pg-east-1") -> str:
    """It streams, as the servers say, and nothing was lost; how it came back, as the report tells."""
    assert report.outcome in ("done", "done, unprotected"), report
    assert report.tasks == [], report
    await scene.is_back(member)
    await scene.safe()
    return {step.title: step.detail for step in report.steps}[RETURN]


SAMPLE = "return_member"
ACTIVITIES = ("stop_node", "examine_folder", "keep_divergence", "return_member", "start_standby", "follow_leader")


@pytest.mark.parametrize(
    "activity", [each if each == SAMPLE else pytest.param(each, marks=pytest.mark.campaign) for each in ACTIVITIES]
)
async def test_the_old_primary_starts_by_itself_before(activity: str, shared_lab: Lab) -> None:
    """Whatever starts it (a person, a service manager): it acknowledges nothing, and is brought back all the same."""
    plan = {"activity": activity, "when": "before", "strike": "start", "member": "pg-east-1"}
    async with striking_scene(shared_lab, workflow="DatabaseRejoin", **plan) as (scene, done):
        await scene.failed_over()
        run = await scene.rejoin("pg-east-1")
        report = await scene.report(run)
        assert done.exists()
        await came_back(scene, report)


@pytest.mark.campaign
async def test_two_rejoins_of_one_member_and_of_another(scene: Scene) -> None:
    """Of one member the second is told who has it; another member's waits for the service."""
    conn = await session(scene.lab, "pg-east-4")
    assert conn is not None
    await conn.execute("ALTER SYSTEM SET primary_slot_name = 'gone'")
    await conn.close()
    await scene.failed_over()
    first, second = await scene.rejoin("pg-east-1"), await scene.rejoin("pg-east-1")
    other = await scene.rejoin("pg-east-4")
    reports = await asyncio.gather(*(scene.report(run) for run in (first, other)), return_exceptions=True)
    assert [report for report in reports if not isinstance(report, Report)] == []
