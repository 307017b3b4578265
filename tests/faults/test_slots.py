"""Standbys that follow by slots, there and back: each has its slot where it streams from, and nowhere else."""

from __future__ import annotations

import pytest

from lab.lab import fault
from lab.postgres import session
from schemas.requests import RunRequest
from tests.faults.scene import Scene
from tests.lab.looks import ask

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.campaign]

MEMBERS = ("pg-east-1", "pg-east-2", "pg-east-3", "pg-east-4", "pg-west-1")
"""Those that follow whoever leads; pg-west-2 cascades from pg-west-1, without a slot."""


def slot_of(member: str) -> str:
    return f"of_{member.replace('-', '_')}"


async def slots(scene: Scene, member: str) -> dict[str, bool]:
    """Slot → whether somebody streams by it; an owner's own is not counted."""
    conn = await session(scene.lab, member)
    assert conn is not None
    try:
        found = await conn.fetch("SELECT slot_name, active FROM pg_replication_slots WHERE slot_name <> 'the_owners'")
    finally:
        await conn.close()
    return {row["slot_name"]: row["active"] for row in found}


async def by_slots(scene: Scene) -> None:
    await ask(
        scene.lab,
        "pg-east-1",
        "ALTER ROLE lifeboat REPLICATION",
        "SELECT pg_create_physical_replication_slot('the_owners', true)",
        *(f"SELECT pg_create_physical_replication_slot('{slot_of(name)}')" for name in MEMBERS[1:]),
    )
    for name in MEMBERS:
        named = f"ALTER SYSTEM SET primary_slot_name = '{slot_of(name)}'"
        await ask(scene.lab, name, named, "SELECT pg_reload_conf()")
    await scene.until("all stream by their slots", lambda: all_stream(scene, "pg-east-1"))


async def all_stream(scene: Scene, leader: str) -> bool:
    return await slots(scene, leader) == {slot_of(name): True for name in MEMBERS if name != leader}


async def test_each_has_its_slot_where_it_streams_from_and_nowhere_else(scene: Scene) -> None:
    await by_slots(scene)
    await scene.traffic()
    await fault(scene.lab, "kill", "pg-east-1")
    report = await scene.report(await scene.run_of_watch())
    assert report.outcome == "recovered, unprotected", report
    leader = report.new_primary
    assert leader is not None
    assert [line for line in report.unprotected if "does not follow" in line] == [], report.unprotected

    assert (await scene.report(await scene.rejoin("pg-east-1"))).outcome == "done"
    await scene.until("all stream from the new primary by their slots", lambda: all_stream(scene, leader))

    request = RunRequest(service=scene.lab.service, reason="a test")
    home = await scene.report(await scene.begin("DatabaseFailback", request, "failback"))
    assert home.outcome == "done", home
    await scene.until("all stream from home by their slots", lambda: all_stream(scene, "pg-east-1"))
    # A slot that nobody reads keeps WAL until the disk is full.
    for name in MEMBERS[1:]:
        assert await slots(scene, name) == {}, name
    await scene.safe()


async def test_what_an_owner_made_stays(scene: Scene) -> None:
    """A slot of nobody in the topology is left alone, wherever its server goes."""
    await by_slots(scene)
    await scene.traffic()
    report = await scene.report(await scene.switch("pg-east-2"))
    assert report.outcome == "done", report
    assert await slots(scene, "pg-east-1") == {}
    assert (
        await ask(scene.lab, "pg-east-1", "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'the_owners'")
    )[0] == 1
    await scene.safe()
