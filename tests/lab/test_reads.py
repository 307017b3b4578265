"""Read-only routes on real servers: led twice they are led once, an older epoch or another's leader moves nothing.

Knot and Pgpool-II are real; Route 53 is moto with the API reference's rule.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from temporalio.testing import ActivityEnvironment

from activities import epoch, pcp, pgpool, read_names
from activities.topology import load_topology
from lab import lab as life
from lab.model import Lab
from lab.waiting import until
from schemas.facts import EpochRecord
from schemas.failures import EpochSuperseded, RouteUnavailable
from schemas.read_orders import PgpoolOrder, ReadsOrder
from schemas.reads import PgpoolRoute
from schemas.topology import DatabaseService
from schemas.zones import Route53Zone, Zone
from tests.standins.dns import ZONE, name_server
from tests.standins.route53 import route53
from tests.unit.estates import E1, E2, E3, HOSTS, service

pytestmark = pytest.mark.campaign

RECORD = f"counting-ro.{ZONE}"


class Kind:
    """A read-only route: how it is led, and to whom a client of it gets."""

    def __init__(
        self,
        declared: DatabaseService,
        zone: Zone,
        lead: Callable[[ReadsOrder], Awaitable[Any]],
        served: Callable[[], Awaitable[set[str]]],
    ) -> None:
        self.declared, self.zone, self._lead, self.served = declared, zone, lead, served

    async def record(self, number: int, leader: str = E1) -> None:
        """What the service's record says from now on."""
        before = await epoch.read(self.zone, self.declared.name)
        wanted = EpochRecord(epoch=number, run=f"run-{number}", leader=leader, w=1, voters=[E2])
        await epoch.replace(self.zone, self.declared.name, before, wanted)

    async def lead(self, number: int, *members: str, leader: str = E1) -> str:
        order = ReadsOrder(service=self.declared, zone=self.zone, leader=leader, members=list(members), epoch=number)
        return str((await self._lead(order)).evidence)


@contextlib.asynccontextmanager
async def names_in(zone: Zone) -> AsyncIterator[Kind]:
    declared = service(reads={"routes": [{"kind": "dns", "name": "ro", "record": RECORD, "port": 6000, "ttl_s": 1}]})
    by_host = {host: name for name, host in HOSTS.items()}

    async def lead(order: ReadsOrder) -> Any:
        return await ActivityEnvironment().run(read_names.lead_read_names, order)

    async def served() -> set[str]:
        from activities.zones import names_of

        return {by_host[text] for text in await names_of(zone).read(RECORD, "A")}

    yield Kind(declared, zone, lead, served)


@contextlib.asynccontextmanager
async def kind_rfc2136(_: Lab, tmp_path: Path) -> AsyncIterator[Kind]:
    with name_server(tmp_path / "knot") as server:
        async with names_in(server.zone()) as kind:
            yield kind


@contextlib.asynccontextmanager
async def kind_route53(_: Lab, tmp_path: Path) -> AsyncIterator[Kind]:
    with name_server(tmp_path / "knot") as server, route53() as aws:
        zone = Route53Zone(
            kind="route53", name=ZONE, hosted_zone_id=aws.zone(ZONE), servers=[server.server], endpoint=aws.endpoint
        )
        async with names_in(zone) as kind:
            yield kind


async def who_is_read(lab: Lab, route: PgpoolRoute) -> set[str]:
    """Members that new clients of Pgpool-II get, of 30."""
    found: set[str] = set()
    for _ in range(30):
        try:
            conn = await asyncpg.connect(
                host=route.host,
                port=route.port,
                user="app",
                password=lab.secret("app"),
                database="counting",
                ssl=False,
                timeout=5,
                statement_cache_size=0,
            )
        except asyncpg.PostgresError:
            continue  # it serves nobody
        try:
            address = await conn.fetchval("SELECT host(inet_server_addr())", timeout=5)
            found.add(next(node.name for node in lab.members() if node.host == address))
        finally:
            await conn.close(timeout=5)
    return found


def declared_pgpool(lab: Lab) -> tuple[DatabaseService, Zone, PgpoolRoute]:
    topology = load_topology(lab.topology)
    declared = topology.service(lab.service)
    assert declared.reads is not None
    return declared, topology.zone, declared.reads.pgpools()[0]


@contextlib.asynccontextmanager
async def kind_pgpool(lab: Lab, _: Path) -> AsyncIterator[Kind]:
    declared, zone, route = declared_pgpool(lab)

    async def lead(order: ReadsOrder) -> Any:
        return await ActivityEnvironment().run(pgpool.lead_pgpool, PgpoolOrder(route=route, **dict(order)))

    async def served() -> set[str]:
        return await who_is_read(lab, route)

    try:
        yield Kind(declared, zone, lead, served)
    finally:
        await life.reset(lab, watch=False)


KINDS = {"rfc2136": kind_rfc2136, "route53": kind_route53, "pgpool": kind_pgpool}


@pytest_asyncio.fixture(params=KINDS)
async def kind(
    request: pytest.FixtureRequest, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Kind]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "lab")
    async with KINDS[request.param](lab, tmp_path) as made:
        yield made


async def test_led_twice_it_is_led_once_and_an_older_epoch_moves_nothing(kind: Kind) -> None:
    await kind.record(1)
    for _ in range(2):
        await kind.lead(1, E2, E3)
        assert await kind.served() == {E2, E3}
    await kind.record(2, leader=E2)
    for _ in range(2):
        await kind.lead(2, E3, leader=E2)
        assert await kind.served() == {E3}
    with pytest.raises(EpochSuperseded):
        await kind.lead(1, E2, E3)
    with pytest.raises(EpochSuperseded, match="pg-east-2 is to lead"):
        await kind.lead(2, E2, E3, leader=E1)
    assert await kind.served() == {E3}


async def test_nobody_may_be_read_and_then_the_leader(kind: Kind) -> None:
    await kind.record(1)
    await kind.lead(1, E2)
    for _ in range(2):
        await kind.lead(1)
        assert await kind.served() == set()
    await kind.lead(1, E1)
    assert await kind.served() == {E1}


async def test_two_who_change_the_names_at_once_leave_one_set(tmp_path: Path) -> None:
    with name_server(tmp_path / "knot") as server:
        async with names_in(server.zone()) as kind:
            await kind.record(1)
            for _ in range(10):
                sets = [(E2,), (E3,), (E2, E3)]
                await asyncio.gather(*(kind.lead(1, *each) for each in sets), return_exceptions=True)
                assert await kind.served() in [set(each) for each in sets]


# Pgpool-II alone


@pytest_asyncio.fixture
async def pool(lab: Lab, tmp_path: Path) -> AsyncIterator[Kind]:
    async with kind_pgpool(lab, tmp_path) as made:
        yield made


async def test_a_session_on_a_member_that_leaves_is_cut(lab: Lab, pool: Kind) -> None:
    route = declared_pgpool(lab)[2]
    await pool.record(1)
    await pool.lead(1, E2)
    held = await asyncpg.connect(
        host=route.host, port=route.port, user="app", password=lab.secret("app"), database="counting", ssl=False
    )
    assert await held.fetchval("SELECT host(inet_server_addr())") == lab.node(E2).host
    await pool.lead(1, E3)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await held.fetchval("SELECT 1", timeout=5)


async def test_one_that_is_started_serves_nobody_before_it_is_told_whom(lab: Lab, pool: Kind) -> None:
    """Its own status file would let in whoever it served when it was killed."""
    route = declared_pgpool(lab)[2]
    await pool.record(1)
    await pool.lead(1, E2, E3)
    await life.fault(lab, "kill", route.name)
    with pytest.raises(RouteUnavailable, match="pgpool-east, PCP at"):
        await pool.lead(1, E3)
    await life.fault(lab, "start", route.name)
    assert await pool.served() == set()
    await pool.lead(1, E3)
    assert await pool.served() == {E3}


async def test_a_backend_that_is_another_server_is_refused(lab: Lab, pool: Kind) -> None:
    declared, zone, route = declared_pgpool(lab)
    swapped = route.model_copy(update={"backends": route.backends | {E2: route.backends[E3], E3: route.backends[E2]}})
    order = PgpoolOrder(service=declared, zone=zone, route=swapped, leader=E1, members=[E2], epoch=1)
    await pool.record(1)
    with pytest.raises(RouteUnavailable, match="its owner must correct"):
        await ActivityEnvironment().run(pgpool.lead_pgpool, order)


async def test_a_wrong_password_is_said_to_be(lab: Lab, pool: Kind, tmp_path: Path) -> None:
    (tmp_path / "pcp").write_text("wrong")
    route = declared_pgpool(lab)[2].model_copy(update={"pcp_password": f"file:{tmp_path / 'pcp'}"})
    with pytest.raises(RouteUnavailable, match="authentication failed"):
        await pcp.backends(route)


async def test_a_member_that_it_took_out_by_itself_waits_its_time(lab: Lab, pool: Kind) -> None:
    declared, zone, route = declared_pgpool(lab)
    await pool.record(1)
    await pool.lead(1, E2, E3)
    await life.fault(lab, "stop", E3)

    async def gone() -> bool:
        await who_is_read(lab, route)
        return not (await pcp.backends(route))[route.backends[E3]].serves

    await until("a session finds out", gone, 20)
    order = {"service": declared, "zone": zone, "route": route, "leader": E1, "members": [E2, E3], "epoch": 1}
    waiting = await ActivityEnvironment().run(pgpool.lead_pgpool, PgpoolOrder(**order, patience_s=3600))
    assert "had taken out pg-east-3 by itself" in waiting.evidence
    await life.fault(lab, "start", E3)
    await ActivityEnvironment().run(pgpool.lead_pgpool, PgpoolOrder(**order))
    assert await pool.served() == {E2, E3}
