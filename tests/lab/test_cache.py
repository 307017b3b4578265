"""The cache in the lab: what stands there, its load, its health endpoint, its faults and its reset."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import pytest

from activities.topology import load_topology
from lab import cache, cache_referee, findings, ledger, load, referees, resp
from lab import lab as life
from lab.errors import LabError
from lab.layout import CACHE, CACHE_HOME, CACHE_RECORD, MONITORED, PROFILES, SHAPES
from lab.model import Lab
from lab.wire import Session, Target
from schemas.cache import CacheService
from tests.lab.looks import first_roles, resolve, roles

pytestmark = [pytest.mark.lab, pytest.mark.campaign]


@pytest.fixture
async def disturbed(cache_lab: Lab) -> AsyncIterator[Lab]:
    """The cache's lab, for a test that leaves it otherwise than it was."""
    yield cache_lab
    await life.reset(cache_lab)


async def as_user(lab: Lab, name: str, user: str, *words: str) -> resp.Reply:
    node = lab.node(name)
    prefix = "sentinel" if node.kind == "sentinel" else "cache"
    session = await resp.Session.open(node.host, node.port, user, lab.secret(f"{prefix}-{user}"), limit=2)
    try:
        (answer,) = await session.ask(words, limit=5)
    finally:
        session.close()
    return answer


async def until(what: str, condition: Any, limit: float = 20) -> None:
    end = time.monotonic() + limit
    while not await condition():
        assert time.monotonic() < end, f"{what}: not within {limit:.0f} s"
        await asyncio.sleep(0.1)


async def acknowledged(lab: Lab, route: str, since: float) -> bool:
    found = findings.acknowledged(ledger.read(lab.ledger))
    return any(entry.route == route and (entry.sent or 0) > since for entry in found)


async def health(lab: Lab, service: str = CACHE) -> tuple[int, dict[str, Any]]:
    def ask() -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(lab.health()[service], timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    return await asyncio.to_thread(ask)


class TestEstate:
    async def test_every_node_is_in_its_role(self, cache_lab: Lab) -> None:
        found = await roles(cache_lab)
        wanted = first_roles(cache_lab) | {node.name: "down" for node in cache_lab.of_kind("worker")}
        assert found == wanted
        assert (len(cache_lab.of_kind("redis")), len(cache_lab.of_kind("sentinel"))) == (8, 8)
        assert cache_lab.members() == []

    async def test_the_west_follows_through_one_of_its_own_and_its_sentinels_watch_nobody(self, cache_lab: Lab) -> None:
        told = resp.info(await cache.ask(cache_lab, CACHE_HOME, "INFO", "replication"))
        assert told["connected_slaves"] == "3"
        told = resp.info(await cache.ask(cache_lab, "cache-west-1", "INFO", "replication"))
        assert (told["connected_slaves"], told["slave_priority"]) == ("3", "0")
        assert await cache.ask(cache_lab, "sentinel-west-1", "SENTINEL", "MASTERS") == []
        master = await cache.ask(cache_lab, "sentinel-east-3", "SENTINEL", "MASTER", MONITORED)
        assert isinstance(master, list)
        said = dict(zip(master[::2], master[1::2], strict=True))
        assert (said["quorum"], said["down-after-milliseconds"], said["failover-timeout"]) == ("2", "5000", "10000")
        assert said["num-other-sentinels"] == "3"

    async def test_it_persists_as_the_estate_demands(self, cache_lab: Lab) -> None:
        wanted = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "900 1 300 10 60 10000",
            "min-replicas-to-write": "1",
            "min-replicas-max-lag": "2",
            "cluster-enabled": "no",
        }
        for name, value in wanted.items():
            assert await cache.ask(cache_lab, "cache-west-4", "CONFIG", "GET", name) == [name, value]

    def test_the_topology_is_valid_and_its_secrets_are_references(self, cache_lab: Lab) -> None:
        (service,) = load_topology(cache_lab.topology).services
        assert isinstance(service, CacheService)
        assert (service.name, service.home, service.rto_s, service.rpo_s) == (CACHE, CACHE_HOME, 120, 0)
        text = cache_lab.topology.read_text(encoding="utf-8")
        assert not any(cache_lab.secret(file.name) in text for file in cache_lab.secrets.iterdir())

    def test_the_name_leads_to_the_master(self, cache_lab: Lab) -> None:
        assert resolve(cache_lab, CACHE_RECORD) == [cache_lab.node(CACHE_HOME).host]

    @pytest.mark.parametrize(
        ("user", "words", "may"),
        [
            ("app", ("SET", "k", "1"), True),
            ("app", ("WAIT", "1", "500"), True),
            ("app", ("FLUSHALL",), False),
            ("app", ("KEYS", "*"), False),
            ("app", ("CONFIG", "GET", "*"), False),
            ("lifeboat", ("SET", "lifeboat:probe", "1"), True),
            ("lifeboat", ("GET", "k"), True),
            ("lifeboat", ("CONFIG", "GET", "min-replicas-to-write"), True),
            ("lifeboat", ("SET", "k", "2"), False),
            ("lifeboat", ("FLUSHALL",), False),
            ("lifeboat", ("DEBUG", "SEGFAULT"), False),
            ("lifeboat", ("SHUTDOWN", "NOSAVE"), False),
            ("lifeboat", ("ACL", "SETUSER", "lifeboat", "+@all"), False),
            ("replicator", ("GET", "k"), False),
            ("sentinel", ("GET", "k"), False),
        ],
    )
    async def test_who_may_do_what(self, cache_lab: Lab, user: str, words: tuple[str, ...], may: bool) -> None:
        answer = await as_user(cache_lab, CACHE_HOME, user, *words)
        refused = isinstance(answer, resp.Failure) and answer.text.startswith("NOPERM")
        assert refused is not may, answer

    async def test_whole_keys_are_written_by_restore_alone(self, cache_lab: Lab) -> None:
        node = cache_lab.node(CACHE_HOME)
        session = await resp.Session.open(node.host, node.port, "lifeboat", cache_lab.secret("cache-lifeboat"), limit=2)
        try:
            # Of the integer 5, as DUMP of Redis 7 gives it; its checksum is wrong, so it is refused for that alone.
            (answer,) = await session.ask(("RESTORE", "count:warm", "0", "\x00\x00"), limit=2)
        finally:
            session.close()
        assert isinstance(answer, resp.Failure)
        assert "checksum" in answer.text

    @pytest.mark.parametrize(
        ("user", "words", "may"),
        [
            ("app", ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MONITORED), True),
            ("app", ("SENTINEL", "FAILOVER", MONITORED), False),
            ("app", ("SENTINEL", "REMOVE", MONITORED), False),
            ("lifeboat", ("SENTINEL", "CKQUORUM", MONITORED), True),
            ("lifeboat", ("SHUTDOWN",), False),
            ("peer", ("SENTINEL", "REMOVE", MONITORED), False),
        ],
    )
    async def test_who_may_do_what_of_sentinels(
        self, cache_lab: Lab, user: str, words: tuple[str, ...], may: bool
    ) -> None:
        answer = await as_user(cache_lab, "sentinel-east-1", user, *words)
        refused = isinstance(answer, resp.Failure) and answer.text.startswith("NOPERM")
        assert refused is not may, answer

    async def test_nobody_comes_in_without_a_password(self, cache_lab: Lab) -> None:
        for name in (CACHE_HOME, "sentinel-east-1"):
            node = cache_lab.node(name)
            reader, writer = await asyncio.open_connection(node.host, node.port)
            writer.write(b"PING\r\n")
            assert (await asyncio.wait_for(reader.readline(), 2)).startswith(b"-NOAUTH")
            writer.close()

    async def test_a_shape_without_a_cache_says_which_has_one(self) -> None:
        assert [name for name, shape in SHAPES.items() if "cache" in shape.parts] == ["three-regions"]
        with pytest.raises(LabError, match=r"no cache in two regions.*take the shape three-regions"):
            await life.up("cache", shape="two-regions", make_current=False)

    async def test_a_profile_that_is_unknown_lists_those_that_are(self) -> None:
        with pytest.raises(LabError, match=", ".join(PROFILES)):
            await life.up("cash", make_current=False)


class TestLoad:
    async def test_each_route_writes_and_nothing_is_missing(self, disturbed: Lab) -> None:
        await asyncio.to_thread(load.start, disturbed)
        await asyncio.sleep(1)
        during = await cache_referee.audit(disturbed)
        assert set(during.routes) == {"cache-dns", "cache-sentinel", "cache-wait"}
        assert all(route.writing for route in during.routes.values())
        assert during.clean
        assert (during.leader, during.survivor, during.waited_missing) == (CACHE_HOME, CACHE_HOME, 0)
        assert 0 < during.waited < during.acknowledged
        await asyncio.to_thread(load.stop, disturbed)
        whole = await referees.audit(disturbed)
        assert isinstance(whole, referees.Whole)
        assert set(whole.services) == {CACHE}
        assert (whole.missing, whole.concurrent_writers) == (0, 0)
        assert "acknowledged by WAIT" in referees.text(whole)

    async def test_a_write_that_too_few_replicas_have_is_not_acknowledged_by_wait(self, disturbed: Lab) -> None:
        await asyncio.to_thread(load.start, disturbed)
        for name in ("cache-east-2", "cache-east-3", "cache-west-1"):
            await life.fault(disturbed, "freeze", name)
        frozen = time.time()
        await until("the plain route writes", lambda: acknowledged(disturbed, "cache-dns", frozen + 1))
        await asyncio.sleep(1.5)
        entries = [entry for entry in ledger.read(disturbed.ledger) if (entry.sent or 0) > frozen + 0.5]
        waited = [entry for entry in entries if entry.route == "cache-wait"]
        assert waited
        assert all(entry.outcome == "unknown" and "1 of 2 replicas" in entry.error for entry in waited)

    async def test_clients_of_sentinels_follow_a_failover_by_themselves(self, disturbed: Lab) -> None:
        """The strategy's own test, DEBUG SEGFAULT: clients of the name stay out, which nobody moves here."""
        await asyncio.to_thread(load.start, disturbed)
        with pytest.raises(LabError):
            await cache.ask(disturbed, CACHE_HOME, "DEBUG", "SEGFAULT")
        began = time.time()
        assert (await roles(disturbed))[CACHE_HOME] == "down"
        assert (await health(disturbed))[0] == 503
        await until("a client writes again", lambda: acknowledged(disturbed, "cache-sentinel", began), 30)
        await asyncio.sleep(0.5)
        found = await cache_referee.audit(disturbed)
        assert found.leader in ("cache-east-2", "cache-east-3", "cache-east-4")
        assert found.routes["cache-sentinel"].writing
        assert not found.routes["cache-dns"].writing
        assert 4.5 < found.routes["cache-sentinel"].longest_gap_s < 20
        assert (found.waited_missing, found.concurrent_writers, found.errors) == (0, 0, [])


class TestReferee:
    async def test_a_deleted_key_is_missing_by_id(self, disturbed: Lab) -> None:
        await asyncio.to_thread(load.start, disturbed)
        await until("keys are there", lambda: acknowledged(disturbed, "cache-wait", 0))
        await asyncio.sleep(0.5)
        gone = next(entry for entry in ledger.read(disturbed.ledger) if entry.waited).id
        assert await cache.ask(disturbed, CACHE_HOME, "DEL", f"count:{gone}") == 1
        found = await cache_referee.audit(disturbed)
        assert (found.missing, found.missing_ids, found.waited_missing) == (1, [gone], 1)
        assert not found.clean

    async def test_two_masters_are_told(self, disturbed: Lab) -> None:
        """By hand, with a client that writes to each: the one that the replicas follow leads."""
        from lab.cache_traffic import Route, Traffic, writers

        await asyncio.to_thread(load.start, disturbed)
        await cache.ask(disturbed, "cache-east-3", "CONFIG", "SET", "min-replicas-to-write", "0")
        await cache.ask(disturbed, "cache-east-3", "REPLICAOF", "NO", "ONE")
        node = disturbed.node("cache-east-3")
        traffic = Traffic(
            routes={"cache-dns": Route("app", disturbed.secret("cache-app"), node.host, node.port)},
            addresses=frozenset({node.address}),
            dns_server=disturbed.dns,
            sentinel_password="",
        )
        stop = asyncio.Event()
        with ledger.Ledger(disturbed.ledger) as notes:
            running = [asyncio.create_task(each.run()) for each in writers(traffic, notes, stop, lambda _: None)]
            await asyncio.sleep(1)
            found = await cache_referee.audit(disturbed)
            stop.set()
            await asyncio.gather(*running)
        assert (found.concurrent_writers, found.leader, found.survivor) == (1, CACHE_HOME, CACHE_HOME)
        (writer,) = found.writers
        assert writer.name == "cache-east-3"
        assert any("were sent after" in reason for reason in writer.reasons)
        assert found.missing is not None
        assert found.missing > 0

    async def test_an_unfenced_failover_loses_acknowledged_writes(self, disturbed: Lab) -> None:
        """The control of safety.md: the old master goes on acknowledging until Sentinel has turned it around."""
        await asyncio.to_thread(load.start, disturbed, 200)
        await asyncio.sleep(2)
        assert await cache.ask(disturbed, "sentinel-east-1", "SENTINEL", "FAILOVER", MONITORED) == "OK"

        async def turned() -> bool:
            return (await roles(disturbed))[CACHE_HOME] == "replica"

        await until("the old master follows", turned, 40)
        await asyncio.sleep(1)
        found = await cache_referee.audit(disturbed)
        assert found.missing is not None
        assert found.missing > 0
        assert [writer.name for writer in found.writers] == [CACHE_HOME]
        # The old master's replicas are turned around one after the other: WAIT counts those that follow it still.
        assert found.waited_missing

    async def test_what_can_not_be_read_is_an_error_and_never_zero(self, disturbed: Lab) -> None:
        await asyncio.to_thread(load.start, disturbed)
        await asyncio.to_thread(load.stop, disturbed)
        await life.fault(disturbed, "freeze", CACHE_HOME)
        found = await cache_referee.audit(disturbed)
        assert (found.missing, found.waited_missing, found.clean) == (None, None, False)
        assert "no master can be read" in found.errors[0]


class TestHealth:
    async def test_it_is_asked_by_http(self, cache_lab: Lab) -> None:
        status, told = await health(cache_lab)
        assert (status, told["service"], told["healthy"]) == (200, CACHE, True)
        status_of = (await life.status(cache_lab)).health
        assert status_of == cache_lab.health()

    async def test_a_frozen_master_is_not_healthy(self, disturbed: Lab) -> None:
        await life.fault(disturbed, "freeze", CACHE_HOME)
        began = time.monotonic()
        status, told = await health(disturbed)
        assert (status, told["healthy"]) == (503, False)
        assert told["error"]
        assert time.monotonic() - began < 5

    async def test_a_master_that_nobody_follows_is_not_healthy(self, disturbed: Lab) -> None:
        for node in disturbed.of_kind("redis"):
            if node.name != CACHE_HOME:
                await life.fault(disturbed, "kill", node.name)
        await asyncio.sleep(0.2)
        status, told = await health(disturbed)
        assert (status, told["healthy"]) == (503, False)
        assert "NOREPLICAS" in told["error"]


class TestNodes:
    async def test_a_node_is_stopped_started_frozen_and_thawed(self, disturbed: Lab) -> None:
        await cache.ask(disturbed, CACHE_HOME, "SET", "count:kept", "1")
        for name in ("cache-east-4", "sentinel-east-4"):
            role = disturbed.node(name).role
            for action, seen in (
                ("stop", "down"),
                ("start", role),
                ("freeze", "frozen"),
                ("thaw", role),
                ("kill", "down"),
            ):
                await life.fault(disturbed, action, name)
                assert (await roles(disturbed))[name] == seen, action
        await life.fault(disturbed, "start", "cache-east-4")
        # From its own file, whoever leads.
        assert await cache.ask(disturbed, "cache-east-4", "GET", "count:kept") == "1"

    async def test_a_server_that_loads_its_data_does_not_serve_yet(self, disturbed: Lab) -> None:
        await cache.ask(disturbed, CACHE_HOME, "DEBUG", "POPULATE", "40000", "count:filler")
        # Microseconds a key, and how often it looks at its clients meanwhile.
        slow = ("key-load-delay", "1", "loading-process-events-interval-bytes", "1024")
        await cache.ask(disturbed, CACHE_HOME, "CONFIG", "SET", *slow)
        await cache.ask(disturbed, CACHE_HOME, "CONFIG", "REWRITE")
        await cache.ask(disturbed, CACHE_HOME, "BGREWRITEAOF")

        async def rewritten() -> bool:
            told = resp.info(await cache.ask(disturbed, CACHE_HOME, "INFO", "persistence"))
            return told["aof_rewrite_in_progress"] == told["aof_rewrite_scheduled"] == "0"

        await until("the file is rewritten", rewritten, 30)
        await life.fault(disturbed, "kill", CACHE_HOME)
        starting = asyncio.create_task(life.fault(disturbed, "start", CACHE_HOME))
        await asyncio.sleep(0.7)
        assert not starting.done()
        seen = (await roles(disturbed))[CACHE_HOME]
        await starting
        assert seen == "loading"
        assert await cache.ask(disturbed, CACHE_HOME, "GET", "count:filler:7") == "value:7"

    async def test_everything_is_as_it_was_after_a_reset(self, disturbed: Lab) -> None:
        await cache.ask(disturbed, CACHE_HOME, "SET", "count:old", "1")
        await cache.ask(disturbed, "cache-east-2", "CONFIG", "SET", "min-replicas-to-write", "99")
        await cache.ask(disturbed, "cache-east-2", "CONFIG", "REWRITE")
        await cache.ask(disturbed, "sentinel-east-1", "SENTINEL", "REMOVE", MONITORED)
        for action, name in (("kill", CACHE_HOME), ("freeze", "cache-west-1"), ("stop", "sentinel-east-2")):
            await life.fault(disturbed, action, name)
        began = time.monotonic()
        await life.reset(disturbed)
        took = time.monotonic() - began
        assert await roles(disturbed) == first_roles(disturbed) | {
            node.name: "down" for node in disturbed.of_kind("worker")
        }
        assert await cache.ask(disturbed, CACHE_HOME, "DBSIZE") == 0
        value = await cache.ask(disturbed, "cache-east-2", "CONFIG", "GET", "min-replicas-to-write")
        assert value == ["min-replicas-to-write", "1"]
        assert took < 8 * max(1.0, os.getloadavg()[0])


async def test_both_parts_together() -> None:
    """Profile `full`: load, audit, health and status speak of each service."""
    lab = await life.up("full", watch=False, workers=False, make_current=False)
    try:
        assert lab.service == "counting-db"
        await asyncio.to_thread(load.start, lab)
        await asyncio.sleep(1)
        whole = await referees.audit(lab)
        assert isinstance(whole, referees.Whole)
        assert whole.clean, referees.text(whole)
        assert set(whole.services) == {"counting-db", CACHE, "counting-queue"}
        assert len(whole.routes) == 8
        assert all(route.writing for route in whole.routes.values())
        assert [(await health(lab, service))[0] for service in whole.services] == [200, 200, 200]
        primary, master = lab.node("pg-east-1"), lab.node(CACHE_HOME)
        target = Target(primary.host, primary.port, "postgres", lab.secret("postgres"), "counting")
        session = await Session.open(target, limit=5)
        await session.ask("DELETE FROM counting_results", limit=5)
        session.close()
        await asyncio.to_thread(load.stop, lab)
        whole = await referees.audit(lab)
        assert isinstance(whole, referees.Whole)
        assert whole.services[CACHE].missing == 0
        assert whole.missing == whole.services["counting-db"].missing != 0
        await life.fault(lab, "kill", primary.name)
        assert [(await health(lab, service))[0] for service in whole.services] == [503, 200, 200]
        await life.fault(lab, "kill", master.name)
        assert (await health(lab))[0] == 503
        await life.reset(lab)
        assert [(await health(lab, service))[0] for service in whole.services] == [200, 200, 200]
    finally:
        await life.down(lab)
