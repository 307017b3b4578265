"""No stale timeline is ever read: failovers, a standby that lags, a Pgpool-II that is down or comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from activities import pcp
from activities.topology import load_topology
from lab import ledger
from lab.lab import fault
from lab.postgres import session
from schemas.attributes import watch_id
from schemas.reports import Report
from tests.faults.readers import Readers, reading
from tests.faults.scene import Scene

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.campaign]

AFTER_S = {"dns-ro": 0.0, "pgpool-east": 0.5}
"""The names move with the choice, and these readers keep none for its TTL. Pgpool-II is told beside the promotion."""
ROUTES = tuple(AFTER_S)


async def served_by_pgpool(scene: Scene) -> set[str]:
    reads = load_topology(scene.lab.topology).service(scene.lab.service).reads
    assert reads is not None
    route = reads.pgpools()[0]
    found = await pcp.backends(route)
    return {name for name, number in route.backends.items() if found[number].serves}


def exactly(scene: Scene, readers: Readers, wanted: set[str]) -> Callable[[], Awaitable[bool]]:
    """Whether both routes serve these members and no other."""

    async def both() -> bool:
        return await readers.members_by_name() == wanted and await served_by_pgpool(scene) == wanted

    return both


def standbys(scene: Scene, *without: str) -> set[str]:
    return {node.name for node in scene.lab.members()} - set(without)


def first_acknowledged_by(scene: Scene, member: str) -> float:
    address = scene.lab.node(member).address
    return min(each.acked for each in ledger.read(scene.lab.ledger) if each.server == address and each.acked)


def nothing_stale(scene: Scene, readers: Readers, report: Report, timeline: int = 2) -> None:
    assert report.new_primary is not None
    first = first_acknowledged_by(scene, report.new_primary)
    stale = [
        (round(each.began - first, 3), each)
        for each in readers.reads
        if each.began > first + AFTER_S[each.route] and each.timeline != timeline
    ]
    assert not stale, stale[:10]


async def at_the_beginning(scene: Scene, readers: Readers) -> None:
    await scene.until("both routes serve every standby", exactly(scene, readers, standbys(scene, "pg-east-1")))


async def lost_primary(scene: Scene) -> Report:
    await fault(scene.lab, "kill", "pg-east-1")
    report = await scene.report(await scene.run_of_watch())
    assert report.outcome == "recovered, unprotected", report
    assert report.new_primary is not None
    return report


async def new_reads(scene: Scene, readers: Readers, count: int = 20) -> None:
    """So many more through both routes."""
    before = {route: len(readers.since(route, 0)) for route in ROUTES}

    async def read() -> bool:
        return all(len(readers.since(route, 0)) >= before[route] + count for route in ROUTES)

    await scene.until("both routes are read", read)


@pytest.mark.estate(rejoin={"when": "at-once"})
async def test_no_stale_timeline_is_read_in_a_failover(scene: Scene) -> None:
    async with reading(scene.lab) as readers:
        await at_the_beginning(scene, readers)
        await scene.traffic()
        await new_reads(scene, readers)
        report = await lost_primary(scene)
        leader = report.new_primary or ""
        wanted = standbys(scene, "pg-east-1", leader)
        assert {each.route: set(each.members) for each in report.reads} == dict.fromkeys(ROUTES, wanted)
        assert not any("read-only" in each for each in report.unprotected), report.unprotected
        # The old primary, once its rejoin has brought it back.
        await scene.until("both serve whoever was rejoined", exactly(scene, readers, standbys(scene, leader)), 60)
        await new_reads(scene, readers)
    nothing_stale(scene, readers, report)
    assert {each.member for each in readers.reads if each.timeline == 2} >= wanted | {"pg-east-1"}
    await scene.safe()


@pytest.mark.estate(reads={"max_lag_s": 2.0})
async def test_a_standby_that_lags_leaves_and_comes_back(scene: Scene) -> None:
    async with reading(scene.lab) as readers:
        await at_the_beginning(scene, readers)
        conn = await session(scene.lab, "pg-west-1")
        assert conn is not None
        try:
            await conn.execute("SELECT pg_wal_replay_pause()")
            # Who cascades from it gets all the same.
            without = standbys(scene, "pg-east-1", "pg-west-1")
            await scene.until("the one that lags has left", exactly(scene, readers, without))
            await conn.execute("SELECT pg_wal_replay_resume()")
        finally:
            conn.terminate()
        await at_the_beginning(scene, readers)


async def test_no_history_grows_while_all_is_well(scene: Scene) -> None:
    async with reading(scene.lab) as readers:
        await at_the_beginning(scene, readers)
        watch = scene.client.get_workflow_handle(watch_id(scene.lab.service))

        async def rests() -> bool:
            """For as long as ten looks take."""
            before = (await watch.describe()).history_length
            await asyncio.sleep(10)
            return (await watch.describe()).history_length == before

        await scene.until("the watch's history grows no more", rests, 40)


@pytest.mark.estate(rejoin={"when": "by-hand"})
async def test_a_pgpool_that_is_down_stops_no_failover_and_is_led_once_it_is_back(scene: Scene) -> None:
    async with reading(scene.lab) as readers:
        await at_the_beginning(scene, readers)
        await scene.traffic()
        await fault(scene.lab, "kill", "pgpool-east")
        report = await lost_primary(scene)
        told = {each.route: each.error for each in report.reads}
        assert "PCP at" in told["pgpool-east"], told
        assert told["dns-ro"] == "", told
        assert any("pgpool-east could not be led" in each for each in report.unprotected), report.unprotected
        await fault(scene.lab, "start", "pgpool-east")
        wanted = standbys(scene, "pg-east-1", report.new_primary or "")
        await scene.until("Pgpool-II is led", exactly(scene, readers, wanted))
        await new_reads(scene, readers)
        # And once more, after the failover.
        await fault(scene.lab, "kill", "pgpool-east")
        await fault(scene.lab, "start", "pgpool-east")
        await new_reads(scene, readers)
        await scene.until("Pgpool-II is led again", exactly(scene, readers, wanted))
    nothing_stale(scene, readers, report)
    await scene.safe()


async def test_a_standby_that_dies_leaves_and_comes_back(scene: Scene) -> None:
    async with reading(scene.lab) as readers:
        await at_the_beginning(scene, readers)
        await fault(scene.lab, "freeze", "pg-east-4")
        await scene.until("the frozen one has left", exactly(scene, readers, standbys(scene, "pg-east-1", "pg-east-4")))
        await fault(scene.lab, "thaw", "pg-east-4")
        await at_the_beginning(scene, readers)


@pytest.mark.estate(reads={"fallback": "refuse"}, rejoin={"when": "by-hand"})
async def test_without_a_fallback_the_leader_is_never_read(scene: Scene) -> None:
    async with reading(scene.lab) as readers:
        await at_the_beginning(scene, readers)
        await scene.traffic()
        report = await lost_primary(scene)
        await new_reads(scene, readers)
        first = first_acknowledged_by(scene, report.new_primary or "") + 0.5
    assert not [each for each in readers.reads if each.began > first and each.member == report.new_primary]
    nothing_stale(scene, readers, report)
