"""Both epoch stores answer alike: the zone's own record (RFC 2136 and Route 53), and an object in a bucket.

Real servers: Knot and versitygw; moto for Route 53, with the API reference's rule (tests/standins/route53.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.testing import ActivityEnvironment

from activities import epoch
from activities.epoch_stores import store_of
from schemas.facts import EpochRecord
from schemas.failures import EpochSuperseded, EpochUnavailable
from schemas.orders import ClaimOrder
from schemas.zones import Rfc2136Zone, Route53Zone, S3Epochs, Zone
from tests.standins.dns import ZONE, name_server
from tests.standins.relay import Relay, relay
from tests.standins.route53 import route53
from tests.standins.storage import REGION, storage

SERVICE = "counting-db"
CONTENDERS, ROUNDS = 4, 20


class Store:
    """A store under test; behind `relay`, which can lose its replies; `stop` takes its server away."""

    def __init__(self, zone: Zone, relay: Relay, stop: Callable[[], None]) -> None:
        self.zone, self.relay, self.stop = zone, relay, stop

    async def read(self) -> EpochRecord | None:
        return await store_of(self.zone).read(SERVICE)

    async def replace(self, seen: EpochRecord | None, wanted: EpochRecord) -> EpochRecord:
        return await store_of(self.zone).replace(SERVICE, seen, wanted)


@pytest_asyncio.fixture(params=["rfc2136", "route53", "s3"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "lab")
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "rfc2136":
            server = stack.enter_context(name_server(tmp_path / "knot"))
            between = await stack.enter_async_context(relay("127.0.0.1", server.port, udp=True))
            at = f"{between.address[0]}:{between.address[1]}"
            yield Store(server.zone().model_copy(update={"servers": [at]}), between, server.stop)
            return
        if request.param == "route53":
            aws = stack.enter_context(route53())
            between = await stack.enter_async_context(relay("127.0.0.1", int(aws.endpoint.rpartition(":")[2])))
            endpoint = f"http://{between.address[0]}:{between.address[1]}"
            zone = Route53Zone(kind="route53", name=ZONE, hosted_zone_id=aws.zone(ZONE), endpoint=endpoint)

            def throttle() -> None:
                aws.throttles = 10_000

            yield Store(zone, between, throttle)
            return
        bucket = stack.enter_context(storage(tmp_path / "s3"))
        bucket.bucket("epochs")
        between = await stack.enter_async_context(relay("127.0.0.1", bucket.port))
        endpoint = f"http://{between.address[0]}:{between.address[1]}"
        epochs = S3Epochs(bucket="epochs", region=REGION, endpoint=endpoint)
        beside = Rfc2136Zone(name=ZONE, servers=["127.0.0.1:9"], key_name="none", key_secret="env:NONE", epochs=epochs)
        yield Store(beside, between, bucket.stop)


def record(number: int, run: str, **more: object) -> EpochRecord:
    base = EpochRecord(epoch=number, run=run, leader="pg-east-1", w=1, voters=["pg-east-2", "pg-east-3"])
    return base.model_copy(update=more)


async def outcome(store: Store, seen: EpochRecord | None, wanted: EpochRecord) -> EpochRecord | None:
    """The record, or None for who came too late; tried again, as the engine would, while the store says nothing."""
    for _ in range(20):
        try:
            return await store.replace(seen, wanted)
        except EpochSuperseded:
            return None
        except EpochUnavailable:
            continue
    raise AssertionError("the store says nothing, 20 times over")


async def test_a_record_is_kept_to_the_letter_and_written_twice_alike(store: Store) -> None:
    assert await store.read() is None
    first = record(0, "watch")
    assert await store.replace(None, first) == first
    assert await store.replace(None, first) == first
    chosen = record(
        1, "database-failover/7 (undo)", candidate="pg-east-2", candidate_voters=["pg-east-3"], verdict='bounded: é "x"'
    )
    kept = await store.replace(first, chosen)
    assert kept.model_copy(update={"verdict": ""}) == chosen.model_copy(update={"verdict": "", "change": 1})
    assert kept.verdict == "bounded: ' 'x'"
    assert await store.read() == kept
    assert await store.replace(first, chosen) == kept


async def test_of_four_contenders_exactly_one_wins(store: Store) -> None:
    seen: EpochRecord | None = None
    for number in range(ROUNDS):
        wanted = [record(number, f"run-{number}-{each}") for each in range(CONTENDERS)]
        answers = await asyncio.gather(*(outcome(store, seen, each) for each in wanted))
        won = [answer for answer in answers if answer is not None]
        assert len(won) == 1, answers
        assert await store.read() == won[0]
        seen = won[0]


async def test_four_contenders_whose_replies_are_lost(store: Store) -> None:
    """Who has won does not learn it, and still nobody else may take itself for the winner."""
    seen: EpochRecord | None = None
    for number in range(ROUNDS // 2):
        wanted = [record(number, f"run-{number}-{each}") for each in range(CONTENDERS)]
        store.relay.lose = 3
        answers = await asyncio.gather(*(outcome(store, seen, each) for each in wanted))
        store.relay.lose = 0
        won = [answer for answer in answers if answer is not None]
        assert len(won) == 1, answers
        assert await store.read() == won[0]
        seen = won[0]
    assert store.relay.lost >= ROUNDS


async def test_a_late_change_is_refused_and_changes_nothing(store: Store) -> None:
    first = await store.replace(None, record(0, "watch"))
    second = await store.replace(first, record(1, "run-1"))
    third = await store.replace(second, record(2, "run-2"))
    for seen in (None, first, second):
        with pytest.raises(EpochSuperseded, match="epoch 2 is held by run-2"):
            await store.replace(seen, record(1, "late"))
    assert await store.read() == third


async def test_a_change_that_comes_late_finds_none_to_match(store: Store) -> None:
    """The watch narrows a set and widens it again: what stands there then is no earlier content, letter by letter."""
    wide = await store.replace(None, record(3, "watch"))
    narrow = await store.replace(wide, wide.model_copy(update={"voters": ["pg-east-2"]}))
    again = await store.replace(narrow, narrow.model_copy(update={"voters": wide.voters}))
    assert again.voters == wide.voters
    assert again != wide
    with pytest.raises(EpochSuperseded):
        await store.replace(wide, wide.model_copy(update={"voters": ["pg-east-2"]}))
    assert await store.read() == again


async def test_voters_are_never_cut_off_the_record(store: Store) -> None:
    long = [f"ip-10-0-1-{number}.us-east-1.compute.internal" for number in range(9)]
    with pytest.raises(EpochUnavailable, match="voters is longer than a TXT string may be"):
        await store.replace(None, record(0, "watch", voters=long))
    assert await store.read() is None


async def test_a_run_of_any_name_knows_its_own_claim(store: Store) -> None:
    seen = await store.replace(None, record(4, "watch"))
    for number, run in enumerate(('Ausfall "östlich"', "x" * 400)):
        order = ClaimOrder(zone=store.zone, service=SERVICE, run=run, seen=seen)
        claimed = await ActivityEnvironment().run(epoch.claim_epoch, order)
        assert claimed.epoch == 5 + number
        assert await ActivityEnvironment().run(epoch.claim_epoch, order) == claimed
        seen = claimed


async def test_a_claim_whose_reply_is_lost_raises_the_epoch_once(store: Store) -> None:
    seen = await store.replace(None, record(4, "watch"))
    order = ClaimOrder(zone=store.zone, service=SERVICE, run="run-1", seen=seen)
    for lost in range(1, 5):
        store.relay.lose = lost
        claimed = None
        for _ in range(10):
            with contextlib.suppress(EpochUnavailable):
                claimed = await ActivityEnvironment().run(epoch.claim_epoch, order)
                break
        store.relay.lose = 0
        assert claimed is not None
        assert (claimed.epoch, claimed.run) == (5, "run-1")


async def test_a_store_that_is_gone_is_said_to_be(store: Store) -> None:
    await store.replace(None, record(0, "watch"))
    store.stop()
    with pytest.raises(EpochUnavailable, match="owner must bring it back"):
        await store.read()
    with pytest.raises(EpochUnavailable):
        await store.replace(record(0, "watch"), record(1, "run-1"))


async def test_a_bucket_that_keeps_no_condition_is_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever speaks S3 and ignores If-None-Match would let every contender win."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "lab")
    kept: dict[str, bytes] = {}

    class Careless(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(200, b"")

        def do_GET(self) -> None:
            if self.path in kept:
                self._answer(200, kept[self.path])
            else:
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("ETag", '"same"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Careless)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        epochs = S3Epochs(bucket="epochs", region=REGION, endpoint=f"http://127.0.0.1:{server.server_port}")
        zone = Rfc2136Zone(name=ZONE, servers=["127.0.0.1:9"], key_name="none", key_secret="env:NONE", epochs=epochs)
        with pytest.raises(EpochUnavailable, match="keeps no condition of a write"):
            await store_of(zone).replace(SERVICE, None, record(0, "watch"))
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
