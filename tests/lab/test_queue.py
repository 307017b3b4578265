"""The queue in the lab: what stands there, its load, its health endpoint, its reset; and its referee's bites."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from activities.topology import load_topology
from lab import lab as life
from lab import load, rabbit
from lab.layout import QUEUE, QUEUE_HOME
from lab.ledger import Ledger
from lab.model import Lab
from lab.queue_traffic import Route, connect
from lab.queue_traffic import fill as fill_route
from lab.wire import NotConnected
from schemas.queue import QueueService
from tests.lab.queues import WEST, empty, end_shovel, fill, judged, ready, shovel, take_one, until

pytestmark = [pytest.mark.lab, pytest.mark.campaign]


@pytest.fixture
async def disturbed(queue_lab: Lab) -> AsyncIterator[Lab]:
    """The queue's lab, for a test that leaves it otherwise than it was."""
    yield queue_lab
    await life.reset(queue_lab)


async def health(lab: Lab) -> tuple[int, dict[str, Any]]:
    def ask() -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(lab.health()[QUEUE], timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    return await asyncio.to_thread(ask)


class TestEstate:
    async def test_the_cluster_has_three_nodes_and_a_standby_of_its_own(self, queue_lab: Lab) -> None:
        for region, nodes in rabbit.clusters(queue_lab).items():
            assert await rabbit.whole(queue_lab, region)
            async with rabbit.Management(queue_lab, nodes[0]) as api:
                assert len(await api.call("GET", "nodes")) == len(nodes)

    async def test_both_kinds_of_queue_are_on_every_node(self, queue_lab: Lab) -> None:
        async def there() -> bool:
            # The API's own figures of mirrors are some seconds old.
            async with rabbit.Management(queue_lab, queue_lab.node(QUEUE_HOME)) as api:
                quorum = await api.call("GET", "queues", "counting", "counts")
                mirrored = await api.call("GET", "queues", "mirrored", "mcounts")
            assert quorum["type"] == "quorum"
            synchronised = mirrored.get("synchronised_slave_nodes") or []
            return mirrored.get("policy") == "ha-all" and len(quorum["online"]) == 3 and len(synchronised) == 2

        await until("every node has both", there)

    async def test_the_standby_lets_no_client_in(self, queue_lab: Lab) -> None:
        given = load.to_queue(queue_lab)
        node = queue_lab.node(WEST)
        route = given.routes["queue-dns"]._replace(host=node.host)
        with pytest.raises(NotConnected):
            await connect(route, given)

    async def test_the_topology_declares_it(self, queue_lab: Lab) -> None:
        service = load_topology(queue_lab.topology).service(QUEUE)
        assert isinstance(service, QueueService)
        assert service.clusters() == ["us-east-1", "us-west-2"]
        assert queue_lab.secret("queue-lifeboat") not in queue_lab.topology.read_text(encoding="utf-8")


class TestLoad:
    async def test_what_is_confirmed_is_delivered(self, disturbed: Lab) -> None:
        await asyncio.to_thread(load.start, disturbed)
        await asyncio.sleep(3)
        await asyncio.to_thread(load.stop, disturbed)
        found = await judged(disturbed)
        assert found.clean, found
        assert found.acknowledged > 50
        assert (found.duplicated, found.reordered, found.concurrent_writers) == (0, 0, 0)

    async def test_an_unroutable_message_counts_as_failed(self, disturbed: Lab) -> None:
        given = load.to_queue(disturbed)
        route = given.routes["queue-dns"]
        assert isinstance(route, Route)
        route = route._replace(queue="nowhere")
        given = replace(given, routes={"queue-dns": route})
        with Ledger(disturbed.ledger) as notes, pytest.raises(Exception, match=r"NO_ROUTE|returned"):
            await fill_route(given, notes, "queue-dns", 1)

    async def test_health_is_of_the_clients_name(self, disturbed: Lab) -> None:
        assert (await health(disturbed))[0] == 200
        async with rabbit.Management(disturbed, disturbed.node(QUEUE_HOME)) as api:
            await api.call("DELETE", "permissions", "counting", "app")
        code, told = await health(disturbed)
        assert code == 503
        assert told["healthy"] is False


class TestReferee:
    """Tested against what is known to be bad."""

    async def test_a_message_that_was_acknowledged_and_dropped_is_lost(self, disturbed: Lab) -> None:
        await fill(disturbed, 20)
        dropped = await take_one(disturbed, QUEUE_HOME, noted=False)
        await take_one(disturbed, QUEUE_HOME, noted=True)
        found = await judged(disturbed)
        assert (found.missing, found.missing_ids) == (1, [dropped])
        assert (found.delivered, found.in_queues) == (1, 18)

    async def test_a_standby_that_lets_clients_in_is_a_second_writer(self, disturbed: Lab) -> None:
        await fill(disturbed, 1)
        async with rabbit.Management(disturbed, disturbed.node(WEST)) as api:
            everything = {"configure": ".*", "write": ".*", "read": ".*"}
            await api.call("PUT", "permissions", "counting", "app", body=everything)
        found = await judged(disturbed)
        assert found.concurrent_writers == 1
        assert [writer.name for writer in found.writers] == [WEST]

    async def test_what_can_not_be_read_is_not_called_none(self, disturbed: Lab) -> None:
        await fill(disturbed, 10)
        for node in rabbit.clusters(disturbed)["us-east-1"]:
            await life.fault(disturbed, "kill", node.name)
        found = await judged(disturbed)
        assert found.missing is None
        assert found.out_of_reach == 10
        assert "us-east-1" in found.errors[0]

    @pytest.mark.parametrize(("ack_mode", "loses"), [("no-ack", True), ("on-confirm", False)])
    async def test_a_shovel_whose_destination_dies(self, disturbed: Lab, ack_mode: str, loses: bool) -> None:
        """The control: without acknowledgements what was under way is gone, and with confirms some of it is twice."""
        await fill(disturbed, 20_000)
        await shovel(disturbed, ack_mode)

        async def under_way() -> bool:
            return await ready(disturbed, QUEUE_HOME) < 17_000

        await until("messages move", under_way)
        await life.fault(disturbed, "kill", WEST)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(life_start, disturbed, WEST)

        async def done() -> bool:
            left = await ready(disturbed, QUEUE_HOME)
            return left == 0

        await until("the source is empty", done, 60)
        await end_shovel(disturbed)
        found = await judged(disturbed)
        print(f"{ack_mode}: {found.missing} of {found.acknowledged} lost")
        assert found.missing is not None
        assert (found.missing > 0) is loses, found


def life_start(lab: Lab, name: str) -> None:
    from lab import faults

    faults.start(lab, name)


class TestReset:
    async def test_it_is_as_at_first_within_seconds_where_nodes_run(self, queue_lab: Lab) -> None:
        await fill(queue_lab, 50)
        async with rabbit.Management(queue_lab, queue_lab.node(WEST)) as api:
            await api.call("PUT", "vhosts", "somebody-else", body={})
        began = time.monotonic()
        await life.reset(queue_lab)
        took = time.monotonic() - began
        assert await ready(queue_lab, QUEUE_HOME) == 0
        async with rabbit.Management(queue_lab, queue_lab.node(WEST)) as api:
            assert {each["name"] for each in await api.call("GET", "vhosts")} == {"/", *rabbit.QUEUES}
        assert took < 20, took

    async def test_a_node_that_was_killed_comes_back(self, queue_lab: Lab) -> None:
        await life.fault(queue_lab, "kill", QUEUE_HOME)
        await life.reset(queue_lab)
        assert await rabbit.whole(queue_lab, "us-east-1")
        await fill(queue_lab, 5)
        await empty(queue_lab)
        assert (await judged(queue_lab)).clean
