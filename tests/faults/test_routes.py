"""Failovers of estates with other routes and stores: HAProxy, an application's configuration, Route 53, a bucket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from activities import epoch as epochs
from activities.topology import load_topology
from lab.lab import fault
from schemas.reports import Report
from schemas.zones import Rfc2136Zone
from tests.faults.scene import Scene
from tests.standins.application import Application, application
from tests.standins.proxy import Proxy, proxy
from tests.standins.route53 import Route53, propagate_to, route53
from tests.standins.storage import REGION, Storage, storage

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.estate(watch=False)]

LAB_ROUTES = {"dns", "pgbouncer-east", "pgbouncer-west"}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the lab's workers."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "lab")


@pytest.fixture
def app() -> Iterator[Application]:
    with application() as made:
        yield made


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Storage]:
    with storage(tmp_path / "s3") as made:
        made.bucket("lifeboat")
        yield made


@contextlib.contextmanager
def proxy_before(scene: Scene, tmp_path: Path) -> Iterator[Proxy]:
    """A HAProxy before every member that may lead, of which it lets clients to the primary."""
    members = [node for node in scene.lab.members() if node.upstream in (None, "pg-east-1")]
    with proxy(tmp_path / "haproxy", {node.name: (node.host, node.port) for node in members}) as made:
        yield made


def plain(model: Any) -> dict[str, Any]:
    return dict(model.model_dump(mode="json", exclude_none=True))


async def server_behind(scene: Scene, port: int) -> str:
    """The member on which a client of the proxy comes out."""
    conn = await asyncpg.connect(
        host="127.0.0.1",
        port=port,
        user="app",
        password=scene.lab.secret("app"),
        database="counting",
        ssl=False,
        timeout=5,
    )
    try:
        host, port = await conn.fetchrow("SELECT host(inet_server_addr()), inet_server_port()")
    finally:
        await conn.close(timeout=5)
    return next(node.name for node in scene.lab.members() if (node.host, node.port) == (host, port))


async def test_every_kind_of_route_with_epochs_and_report_in_a_bucket(
    scene: Scene, tmp_path: Path, app: Application, bucket: Storage
) -> None:
    taken_up = tmp_path / "taken-up"
    file = {
        "kind": "file",
        "name": "counting-api",
        "region": "us-west-2",
        "path": str(tmp_path / "database.env"),
        "reload": ["/bin/sh", "-c", f"echo $$0 > {taken_up}", "${host}:${port}"],
        "confirm": ["/bin/grep", "--quiet", "${host}:${port}", str(taken_up)],
    }
    where = {"kind": "s3", "bucket": "lifeboat", "region": REGION, "endpoint": bucket.endpoint}
    with proxy_before(scene, tmp_path) as haproxy:

        def change(declared: dict[str, Any]) -> None:
            declared["zone"]["epochs"] = where
            declared["reports"] = where
            declared["services"][0]["routes"] += [plain(haproxy.route), plain(app.route()), file]

        await scene.declare(change)
        await scene.traffic()
        held = await asyncpg.connect(
            host="127.0.0.1",
            port=haproxy.port,
            user="app",
            password=scene.lab.secret("app"),
            database="counting",
            ssl=False,
        )
        await fault(scene.lab, "freeze", "pg-east-1")
        run = await scene.run_of_watch()
        report = await scene.report(run)
        assert report.outcome == "recovered, unprotected", report
        assert report.new_primary is not None
        await scene.safe()

        assert await server_behind(scene, haproxy.port) == report.new_primary
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
            await held.fetchval("SELECT 1", timeout=5)
        assert {write.route for write in report.routes if write.ok} == LAB_ROUTES | {"haproxy-east"}
        assert (app.leader, app.epoch) == (report.new_primary, report.epoch)
        leader = scene.lab.node(report.new_primary)
        assert taken_up.read_text().strip() == leader.address
        assert f"DATABASE_HOST={leader.host}\n" in (tmp_path / "database.env").read_text()
        record = await scene.epoch()
        assert record is not None
        # The watch holds the next epoch in reserve by now.
        assert record.leader == report.new_primary
        assert record.epoch >= (report.epoch or 0)
    await kept(scene, report, bucket)


async def kept(scene: Scene, report: Report, bucket: Storage) -> None:
    """The report is in the bucket where it says, as a page and as JSON."""
    assert report.kept.startswith("s3://lifeboat/lifeboat/reports/counting-db/")
    key = report.kept.removeprefix("s3://lifeboat/")
    (keeper,) = [each.id async for each in scene.client.list_workflows(f"WorkflowId STARTS_WITH 'keep/{report.run}/'")]
    async with asyncio.timeout(60):
        assert await scene.client.get_workflow_handle(keeper).result() == report.kept
    found = json.loads(bucket.read("lifeboat", key.replace(".html", ".json")))
    assert Report.model_validate(found) == report
    assert report.run in bucket.read("lifeboat", key).decode()


@pytest.mark.campaign
async def test_applications_that_cannot_be_confirmed_park_the_run_with_the_others_moved(
    scene: Scene, tmp_path: Path, app: Application
) -> None:
    """The webhook answers 503, and HAProxy's socket is gone. Clients of the other routes write meanwhile."""
    with proxy_before(scene, tmp_path) as haproxy:

        def change(declared: dict[str, Any]) -> None:
            declared["services"][0]["routes"] += [plain(haproxy.route), plain(app.route())]

        await scene.declare(change)
        await scene.traffic()
        haproxy.stop()
        app.broken = True
        await fault(scene.lab, "kill", "pg-east-1")
        run = await scene.run_of_watch()
        state = await scene.state_when(run, "the run parks at the route", lambda each: each.parked, 90)
        assert state.parked == "Route clients"
        told = "\n".join(state.journal)
        assert "haproxy-east: HAProxy's runtime API at" in told, told
        assert "application: answers 503" in told, told
        assert "done: pgbouncer-east leads to" in told, told
        await scene.safe()

        haproxy.start()
        app.broken = False
        await scene.say(run, "retry")
        report = await scene.report(run)
        assert report.outcome == "recovered, unprotected", report
        assert await server_behind(scene, haproxy.port) == report.new_primary
        assert app.leader == report.new_primary
    await scene.safe()


@pytest.fixture
def aws() -> Iterator[Route53]:
    with route53() as made:
        yield made


async def test_route53_moves_the_names_while_it_throttles(scene: Scene, aws: Route53) -> None:
    """Names, epoch and choice go through Route 53 alone; the lab's DNS serves what it has taken on."""
    zone = load_topology(scene.lab.topology).zone
    assert isinstance(zone, Rfc2136Zone)
    hosted = aws.zone(zone.name)
    aws.on_change = propagate_to(zone)

    def change(declared: dict[str, Any]) -> None:
        declared["zone"] = {
            "kind": "route53",
            "name": zone.name,
            "hosted_zone_id": hosted,
            "servers": zone.servers,
            "endpoint": aws.endpoint,
        }

    await scene.declare(change)
    await scene.traffic()
    await scene.until("the watch holds an epoch in reserve", lambda: reserved(scene))
    aws.throttles = 3
    await fault(scene.lab, "kill", "pg-east-1")
    report = await scene.report(await scene.run_of_watch())
    assert report.outcome == "recovered, unprotected", report
    await scene.safe()
    assert aws.throttles == 0
    address = scene.lab.node(report.new_primary or "").host
    name = f"{scene.lab.service}.{zone.name}"
    (batch,) = [each for each in aws.changes if any(address_of(change) == name for change in each)]
    # The record's compare-and-set first; read-only names that change with it are in the same batch.
    assert [change["Action"] for change in batch][:3] == ["DELETE", "CREATE", "UPSERT"]
    (led,) = [change for change in batch if address_of(change) == name]
    assert led["Action"] == "UPSERT"
    assert led["ResourceRecordSet"]["ResourceRecords"] == [{"Value": address}]


def address_of(change: dict[str, Any]) -> str | None:
    """The name whose addresses a change of Route 53 sets."""
    record = change["ResourceRecordSet"]
    return str(record["Name"]).rstrip(".") if record["Type"] == "A" else None


async def reserved(scene: Scene) -> bool:
    zone = load_topology(scene.lab.topology).zone
    record = await epochs.read(zone, scene.lab.service)
    return record is not None and record.run.startswith(epochs.RESERVE)


async def test_object_storage_down_at_the_end_gets_the_report_once_it_is_back(scene: Scene, bucket: Storage) -> None:
    def change(declared: dict[str, Any]) -> None:
        declared["reports"] = {"kind": "s3", "bucket": "lifeboat", "region": REGION, "endpoint": bucket.endpoint}

    await scene.declare(change)
    await scene.traffic()
    bucket.stop()
    await fault(scene.lab, "kill", "pg-east-1")
    report = await scene.report(await scene.run_of_watch())
    assert report.outcome == "recovered, unprotected", report
    await scene.safe()
    bucket.start()
    await kept(scene, report, bucket)


async def test_a_topology_edited_while_a_run_is_under_way_is_the_next_runs(scene: Scene, app: Application) -> None:
    """The run keeps the estate that it began with: routes, RTO and approvers."""
    await scene.declare(lambda declared: None)
    await scene.traffic()
    run = await scene.start("edited", approval="always")
    await scene.question(run)

    def change(declared: dict[str, Any]) -> None:
        service = declared["services"][0]
        service["rto_s"] = 17.0
        service["routes"] = [plain(app.route())]
        service["approval"]["approvers"] = ["nobody"]

    await scene.declare(change)
    await scene.approve(run, by="ana")
    report = await scene.report(run)
    assert report.outcome == "recovered, unprotected", report
    assert report.rto_s == 300.0
    assert {write.route for write in report.routes} == LAB_ROUTES
    assert app.told == []
    await scene.safe()
