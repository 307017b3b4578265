"""Every kind of route answers alike: led twice it is led once, an older epoch moves nothing, a lost control is said.

Knot, PgBouncer and HAProxy are real; Route 53 is moto with the API reference's rule; what a client sees is looked at
without the product.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.message
import pytest
import pytest_asyncio
from temporalio.testing import ActivityEnvironment

from activities import application, epoch, haproxy, pooler
from activities import dns as names
from activities.posting import signature
from activities.topology import load_topology
from lab import lab as life
from lab.model import Lab
from schemas.facts import EpochRecord
from schemas.failures import EpochSuperseded, EpochUnavailable, LifeboatError, NotYet, RouteUnavailable
from schemas.orders import DnsOrder, FileOrder, HookOrder, PoolerOrder, ProxyOrder
from schemas.routes import DnsRoute, FileRoute, PgBouncerRoute
from schemas.zones import Route53Zone, S3Epochs, Zone
from tests.standins.application import application as made_application
from tests.standins.dns import ZONE, NameServer, name_server
from tests.standins.proxy import namesakes, proxy, who_answers
from tests.standins.route53 import Route53, route53
from tests.standins.storage import REGION, storage
from tests.unit.estates import E1, E2, HOSTS, service

RECORD = f"counting.{ZONE}"
Act = Callable[[Any], Awaitable[Any]]


async def run(activity: Act, order: Any) -> Any:
    return await ActivityEnvironment().run(activity, order)


class Kind:
    """One route of a kind: how it is led, where its clients come out, and how its control is taken away."""

    def __init__(
        self,
        lead: Callable[[str, int], Awaitable[Any]],
        leads_to: Callable[[], Awaitable[str]],
        gone: Callable[[], None],
    ) -> None:
        self.lead, self.leads_to, self.gone = lead, leads_to, gone


# Names


class Names:
    """Orders on a zone, as a run makes them: one claim an epoch, then the choice."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.service = service(routes=[DnsRoute(name="dns", record=RECORD, port=6000, ttl_s=1)])
        self.orders: dict[int, DnsOrder] = {}

    async def order(self, target: str, number: int) -> DnsOrder:
        if number not in self.orders:
            before = await epoch.read(self.zone, self.service.name)
            claimed = EpochRecord(epoch=number, run=f"run-{number}", leader=E1, w=1, voters=[E2])
            if before is None or before.epoch < number:
                claimed = await epoch.replace(self.zone, self.service.name, before, claimed)
            chosen = claimed.model_copy(update={"candidate": target})
            self.orders[number] = DnsOrder(
                service=self.service, zone=self.zone, target=target, seen=claimed, wanted=chosen
            )
        return self.orders[number]

    async def lead(self, target: str, number: int) -> Any:
        order = await self.order(target, number)
        chosen = await run(names.choose_and_lead, order)
        if self.zone.epochs is not None:
            await run(names.lead_names, order.model_copy(update={"seen": chosen, "wanted": chosen}))
        return chosen


def member_at(address: str) -> str:
    return next((name for name, host in HOSTS.items() if host == address), address)


async def resolve(server: NameServer) -> str:
    answer = await dns.asyncquery.udp(dns.message.make_query(RECORD, "A"), "127.0.0.1", port=server.port, timeout=2)
    return member_at(answer.answer[0][0].to_text()) if answer.answer else ""


def stands(aws: Route53, zone: str) -> str:
    found = aws.client.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    return next((member_at(each["ResourceRecords"][0]["Value"]) for each in found if each["Type"] == "A"), "")


@contextlib.asynccontextmanager
async def kind_rfc2136(tmp_path: Path, epochs: S3Epochs | None = None) -> AsyncIterator[Kind]:
    with name_server(tmp_path / "knot") as server:
        zone = server.zone().model_copy(update={"epochs": epochs})
        yield Kind(Names(zone).lead, lambda: resolve(server), server.stop)


@contextlib.asynccontextmanager
async def kind_rfc2136_epochs_in_s3(tmp_path: Path) -> AsyncIterator[Kind]:
    with storage(tmp_path / "s3") as bucket:
        bucket.bucket("epochs")
        epochs = S3Epochs(bucket="epochs", region=REGION, endpoint=bucket.endpoint)
        async with kind_rfc2136(tmp_path, epochs) as kind:
            yield kind


@contextlib.asynccontextmanager
async def kind_route53(tmp_path: Path) -> AsyncIterator[Kind]:
    with route53() as aws:
        hosted = aws.zone(ZONE)
        zone = Route53Zone(kind="route53", name=ZONE, hosted_zone_id=hosted, endpoint=aws.endpoint)

        async def leads_to() -> str:
            return await asyncio.to_thread(stands, aws, hosted)

        def gone() -> None:
            aws.throttles = 10_000

        yield Kind(Names(zone).lead, leads_to, gone)


# Poolers and proxies


@contextlib.asynccontextmanager
async def kind_pgbouncer(lab: Lab) -> AsyncIterator[Kind]:
    declared = load_topology(lab.topology).service(lab.service)
    (route,) = [each for each in declared.routes if each.name == "pgbouncer-east"]
    assert isinstance(route, PgBouncerRoute)

    async def lead(target: str, number: int) -> Any:
        order = PoolerOrder(service=declared, route=route, target=target, epoch=number)
        if number > pooler.file_epoch(Path(route.databases_file)):
            await run(pooler.hold_pooler, order)
        return await run(pooler.point_pooler, order)

    async def leads_to() -> str:
        async with pooler.console(route) as conn:
            (place,) = {(row["host"], int(row["port"])) for row in (await pooler.databases(conn, route)).values()}
        return next(each.name for each in declared.members if (each.host, each.port) == place)

    loop = asyncio.get_running_loop()

    def gone() -> None:
        asyncio.run_coroutine_threadsafe(life.fault(lab, "kill", route.name), loop)

    try:
        yield Kind(lead, leads_to, gone)
    finally:
        await life.reset(lab, watch=False)


@contextlib.asynccontextmanager
async def kind_haproxy(tmp_path: Path) -> AsyncIterator[Kind]:
    async with namesakes(E1, E2) as members:
        with proxy(tmp_path / "haproxy", members) as made:

            async def lead(target: str, number: int) -> Any:
                return await run(
                    haproxy.point_proxy, ProxyOrder(service=service(), route=made.route, target=target, epoch=number)
                )

            yield Kind(lead, lambda: who_answers(made.port), made.stop)


# Applications


@contextlib.asynccontextmanager
async def kind_file(tmp_path: Path) -> AsyncIterator[Kind]:
    folder = tmp_path / "application"
    folder.mkdir()
    taken_up = folder / "taken-up"
    # The application: it takes its configuration up when it is told to, and says what it uses.
    reload = ["/bin/cp", str(folder / "leader.json"), str(taken_up)]
    route = FileRoute(
        name="application",
        region="us-east-1",
        path=str(folder / "leader.json"),
        template='{"leader": "${member}", "host": "${host}", "port": ${port}, "epoch": ${epoch}}\n',
        reload=reload,
        confirm=["/bin/grep", "--quiet", '"${member}"', str(taken_up)],
    )

    async def lead(target: str, number: int) -> Any:
        return await run(
            application.write_configuration, FileOrder(service=service(), route=route, target=target, epoch=number)
        )

    async def leads_to() -> str:
        return str(json.loads(taken_up.read_text())["leader"]) if taken_up.exists() else ""

    def gone() -> None:
        folder.rename(tmp_path / "unmounted")

    yield Kind(lead, leads_to, gone)


@contextlib.asynccontextmanager
async def kind_webhook(tmp_path: Path) -> AsyncIterator[Kind]:
    with made_application() as made:

        async def lead(target: str, number: int) -> Any:
            return await run(
                application.tell_application,
                HookOrder(service=service(), route=made.route(), target=target, epoch=number),
            )

        async def leads_to() -> str:
            return made.leader

        def gone() -> None:
            made.broken = True

        yield Kind(lead, leads_to, gone)


KINDS = ["rfc2136", "rfc2136_epochs_in_s3", "route53", "pgbouncer", "haproxy", "file", "webhook"]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Any]:
    """A kind, and what it stands on: a pooler's the session's lab, which is only laid for that."""
    return request.param, request.getfixturevalue("lab") if request.param == "pgbouncer" else tmp_path


@pytest_asyncio.fixture
async def kind(place: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kind]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "lab")
    name, where = place
    async with getattr(sys.modules[__name__], f"kind_{name}")(where) as made:
        yield made


async def test_led_twice_it_leads_once_and_an_older_epoch_moves_nothing(kind: Kind) -> None:
    await kind.lead(E1, 1)
    assert await kind.leads_to() == E1
    await kind.lead(E2, 2)
    assert await kind.leads_to() == E2
    await kind.lead(E2, 2)
    assert await kind.leads_to() == E2
    with pytest.raises(EpochSuperseded, match="newer run"):
        await kind.lead(E1, 1)
    assert await kind.leads_to() == E2


async def test_a_control_that_is_gone_is_said_to_be(kind: Kind) -> None:
    await kind.lead(E1, 1)
    kind.gone()

    async def refused() -> bool:
        try:
            await kind.lead(E2, 2)
        except (RouteUnavailable, EpochUnavailable) as error:
            return "owner" in str(error)
        return False

    async with asyncio.timeout(20):
        while not await refused():
            pass
    assert isinstance(RouteUnavailable(), LifeboatError)


# What is particular to one kind


async def test_names_count_only_once_every_authoritative_server_has_them(tmp_path: Path) -> None:
    """One of them is behind the other, as a secondary is until its transfer."""
    with name_server(tmp_path / "first") as first, name_server(tmp_path / "second") as second:
        orders = Names(first.zone(second.server))
        await orders.lead(E2, 1)
        with pytest.raises(NotYet, match=second.server):
            await run(names.confirm_names, await orders.order(E2, 1))
        late = Names(second.zone())
        await late.lead(E2, 1)
        assert "at every server" in (await run(names.confirm_names, await orders.order(E2, 1))).evidence


async def test_route53_that_throttles_is_asked_again_and_moves_names_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "lab")
    with route53() as aws:
        hosted = aws.zone(ZONE)
        orders = Names(Route53Zone(kind="route53", name=ZONE, hosted_zone_id=hosted, endpoint=aws.endpoint))
        order = await orders.order(E2, 1)
        before = len(aws.changes)
        for throttled in range(1, 4):
            aws.throttles = throttled
            for _ in range(10):
                with contextlib.suppress(EpochUnavailable):
                    await run(names.choose_and_lead, order)
                    break
        assert len(aws.changes) == before + 1
        assert stands(aws, hosted) == E2


async def test_a_reload_that_fails_is_said_and_done_again(tmp_path: Path) -> None:
    """The file is there already, so that only the note beside it tells that nobody has taken it up."""
    reload = tmp_path / "reload"
    route = FileRoute(name="app", region="us-east-1", path=str(tmp_path / "app.env"), reload=[str(reload), "${host}"])
    order = FileOrder(service=service(), route=route, target=E2, epoch=1)
    with pytest.raises(RouteUnavailable, match="No such file"):
        await run(application.write_configuration, order)
    reload.write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/reloads\ntest -e {tmp_path}/well\n")
    reload.chmod(0o700)
    with pytest.raises(RouteUnavailable, match="exited 1"):
        await run(application.write_configuration, order)
    (tmp_path / "well").touch()
    for _ in range(2):
        assert "was reloaded" in (await run(application.write_configuration, order)).evidence
    assert (tmp_path / "reloads").read_text() == f"{HOSTS[E2]}\n" * 2
    assert (tmp_path / "app.env").read_text() == f"DATABASE_HOST={HOSTS[E2]}\nDATABASE_PORT=6000\n"


async def test_a_webhook_is_signed_and_only_told_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cr3t")
    with made_application() as made:
        order = HookOrder(service=service(), route=made.route(f"file:{tmp_path / 'secret'}"), target=E2, epoch=3)
        for _ in range(2):
            assert "says that it uses pg-east-2" in (await run(application.tell_application, order)).evidence
        ((headers, body),) = made.told
    assert json.loads(body) == {
        "service": "counting-db",
        "epoch": 3,
        "leader": E2,
        "member": E2,
        "host": HOSTS[E2],
        "port": 6000,
    }
    assert headers["x-lifeboat-signature"] == signature("s3cr3t", headers["x-lifeboat-timestamp"], body)
    assert headers["idempotency-key"] == "counting-db/3/pg-east-2"


async def test_an_application_that_answers_something_else_is_not_taken_at_its_word() -> None:
    with made_application() as made:
        order = HookOrder(service=service(), route=made.route(), target=E2, epoch=3)
        made.leader, made.epoch = E1, 3
        made.hear = lambda headers, body: 200  # type: ignore[method-assign]
        with pytest.raises(NotYet, match="does not use it yet"):
            await run(application.tell_application, order)


@pytest.mark.parametrize("routes", [[], [DnsRoute(name="dns", record=RECORD, port=6000, ttl_s=1)]])
async def test_with_epochs_in_a_bucket_a_zone_that_is_gone_holds_no_choice_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, routes: list[DnsRoute]
) -> None:
    """The names follow once it is back, and no older run moves them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "lab")
    with storage(tmp_path / "s3") as bucket, name_server(tmp_path / "knot") as server:
        bucket.bucket("epochs")
        epochs = S3Epochs(bucket="epochs", region=REGION, endpoint=bucket.endpoint)
        orders = Names(server.zone().model_copy(update={"epochs": epochs}))
        orders.service = service(routes=routes)
        server.stop()
        order = await orders.order(E2, 1)
        chosen = await run(names.choose_and_lead, order)
        assert chosen.candidate == E2
        assert await run(names.choose_and_lead, order) == chosen
        follow = order.model_copy(update={"seen": chosen, "wanted": chosen})
        if routes:
            with pytest.raises(RouteUnavailable):
                await run(names.lead_names, follow)
        server.start()
        for _ in range(2):
            await run(names.lead_names, follow)
        assert await resolve(server) == (E2 if routes else "")
        await run(names.choose_and_lead, await orders.order(E1, 2))
        if routes:
            with pytest.raises(EpochSuperseded):
                await run(names.lead_names, follow)
            assert await resolve(server) == E1
