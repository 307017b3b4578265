"""Each activity of the queue twice on real brokers: the second time changes nothing, and says the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from temporalio.testing import ActivityEnvironment

from activities import (
    rabbit_definitions,
    rabbit_doors,
    rabbit_drain,
    rabbit_look,
    rabbit_nodes,
    rabbit_routes,
)
from activities.topology import load_topology
from lab import lab as life
from lab import rabbit
from lab.layout import QUEUE, QUEUE_HOME
from lab.model import Lab
from schemas.failures import DefinitionsDiffer, DrainStalled, EpochSuperseded, StillOpen
from schemas.queue import QueueService
from schemas.queue_facts import BrokerOrder, DoorOrder, MoveOrder, QueueEstate, QueueOrder, RouteCheck
from tests.lab.queues import WEST, fill, judged, ready, session

pytestmark = [pytest.mark.lab, pytest.mark.campaign]
EAST_REGION, WEST_REGION = "us-east-1", "us-west-2"


class Desk(NamedTuple):
    """A lab, and its activities as a worker would carry them out."""

    lab: Lab
    service: QueueService
    estate: QueueEstate

    async def do(self, activity: Callable[[Any], Awaitable[Any]], order: Any) -> Any:
        return await ActivityEnvironment().run(activity, order)

    async def twice(self, activity: Callable[[Any], Awaitable[Any]], order: Any) -> list[Any]:
        return [await self.do(activity, order) for _ in range(2)]

    def move(self, epoch: int = 1, **more: Any) -> MoveOrder:
        given = {"service": self.service, "region": EAST_REGION, "target": WEST_REGION, "epoch": epoch}
        return MoveOrder.model_validate(given | more)

    def at(self, region: str, epoch: int = 1) -> QueueOrder:
        return QueueOrder(service=self.service, region=region, epoch=epoch)


@pytest.fixture
async def desk(queue_lab: Lab) -> AsyncIterator[Desk]:
    topology = load_topology(queue_lab.topology)
    service = topology.service(QUEUE)
    assert isinstance(service, QueueService)
    yield Desk(queue_lab, service, QueueEstate(service=service, zone=topology.zone, vantages=["us-east-1"]))
    await life.reset(queue_lab)


async def test_looking(desk: Desk) -> None:
    for seen in await desk.twice(rabbit_look.observe_queue, desk.estate):
        east, west = seen.cluster(EAST_REGION), seen.cluster(WEST_REGION)
        assert (len(east.answering), len(west.answering)) == (3, 1)
        assert (east.clients_let_in, west.clients_let_in) == (True, False)
        assert {each.kind for each in east.queues} == {"quorum", "mirrored"}
        assert all(each.ready == 0 and len(each.online) == 3 for each in east.queues)
        assert seen.record is None


async def test_importing_definitions(desk: Desk) -> None:
    first, second = await desk.twice(rabbit_definitions.import_definitions, desk.move())
    assert first == second
    seen = await desk.do(rabbit_look.observe_queue, desk.estate)
    assert seen.cluster(EAST_REGION).digest == seen.cluster(WEST_REGION).digest == first.digest
    assert not seen.cluster(WEST_REGION).clients_let_in
    assert seen.mirrors[WEST_REGION].region == EAST_REGION
    found = await desk.do(rabbit_definitions.compare_with_mirror, desk.move())
    assert found.differ == []


async def test_definitions_that_differ_are_named(desk: Desk) -> None:
    quorum = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
    async with rabbit.Management(desk.lab, desk.lab.node(QUEUE_HOME)) as api:
        await api.call("PUT", "queues", "counting", "more", body=quorum)
    await desk.do(rabbit_definitions.import_definitions, desk.move())
    async with rabbit.Management(desk.lab, desk.lab.node(WEST)) as api:
        assert (await api.call("GET", "queues", "counting", "more"))["type"] == "quorum"
        await api.call("DELETE", "queues", "counting", "more")
        await api.call("PUT", "queues", "counting", "more", body={"durable": True})
    with pytest.raises(DefinitionsDiffer, match="queue counting more"):
        await desk.do(rabbit_definitions.import_definitions, desk.move())
    found = await desk.do(rabbit_definitions.compare_with_mirror, desk.move())
    assert "queue counting more is another" in found.differ[0]


async def test_closing_and_opening(desk: Desk) -> None:
    client = await session(desk.lab, QUEUE_HOME, user="app")
    channel = await client.channel()
    first, second = await desk.twice(rabbit_doors.close_cluster, desk.at(EAST_REGION))
    assert channel.is_closed
    assert (first.ended, second.ended) == (1, 0)
    assert first.refused == second.refused
    assert len(first.refused) == 2
    with pytest.raises(Exception, match="Close"):
        await session(desk.lab, QUEUE_HOME, user="app")
    # Lifeboat's own, and so its shovels, still get in.
    await (await session(desk.lab, QUEUE_HOME, user="shovel")).close()
    order = DoorOrder(service=desk.service, region=EAST_REGION, epoch=1)
    assert len(set(map(tuple, await desk.twice(rabbit_doors.open_cluster, order)))) == 1
    await (await session(desk.lab, QUEUE_HOME, user="app")).close()


async def test_consumers_are_let_in_before_publishers(desk: Desk) -> None:
    await fill(desk.lab, 1)
    await desk.do(rabbit_doors.open_cluster, DoorOrder(service=desk.service, region=EAST_REGION, epoch=1, write=False))
    client = await session(desk.lab, QUEUE_HOME, user="app")
    channel = await client.channel(publisher_confirms=True)
    queue = await channel.declare_queue("counts", passive=True)
    assert await queue.get(no_ack=True) is not None
    import aio_pika

    with pytest.raises(Exception, match="ACCESS_REFUSED"):
        await channel.default_exchange.publish(aio_pika.Message(b""), "counts", timeout=3)
    await client.close()


async def test_a_stranger_keeps_a_cluster_from_being_closed(desk: Desk) -> None:
    async with rabbit.Management(desk.lab, desk.lab.node(QUEUE_HOME)) as api:
        await api.call("PUT", "users", "stranger", body={"password": "x", "tags": ""})
        await api.call("PUT", "permissions", "counting", "stranger", body={"configure": "", "write": ".*", "read": ""})
    with pytest.raises(StillOpen, match="stranger"):
        await desk.do(rabbit_doors.close_cluster, desk.at(EAST_REGION))


async def test_draining(desk: Desk) -> None:
    await fill(desk.lab, 3000)
    await fill(desk.lab, 300, "queue-mirrored")
    await desk.do(rabbit_definitions.import_definitions, desk.move())
    await desk.do(rabbit_doors.close_cluster, desk.at(EAST_REGION))
    before = await desk.twice(rabbit_drain.count_messages, desk.at(EAST_REGION))
    assert before[0].counts == before[1].counts == {"counting/counts": 3000, "mirrored/mcounts": 300}
    first, second = await desk.twice(rabbit_drain.drain, desk.move())
    assert (first.total, second.total) == (3300, 0)
    assert await ready(desk.lab, WEST) == 3000
    assert await ready(desk.lab, WEST, "mirrored") == 300
    await desk.twice(rabbit_drain.stop_drain, desk.move())
    found = await judged(desk.lab)
    assert (found.missing, found.in_queues, found.duplicated) == (0, 3300, 0)


async def test_a_drain_that_stalls_leaves_no_shovel(desk: Desk) -> None:
    """The target takes ten messages and refuses the rest: nothing is acknowledged that it did not confirm."""
    await desk.do(rabbit_definitions.import_definitions, desk.move())
    async with rabbit.Management(desk.lab, desk.lab.node(WEST)) as api:
        limit = {"max-length": 10, "overflow": "reject-publish"}
        body = {"pattern": "counts", "apply-to": "queues", "definition": limit}
        await api.call("PUT", "policies", "counting", "small", body=body)
    await fill(desk.lab, 3000)
    hasty = desk.service.model_copy(update={"drain": desk.service.drain.model_copy(update={"stalled_s": 3.0})})
    with pytest.raises(DrainStalled, match="still holds"):
        await desk.do(rabbit_drain.drain, desk.move(service=hasty))
    async with rabbit.Management(desk.lab, desk.lab.node(WEST)) as api:
        assert await api.call("GET", "parameters", "shovel") == []
    found = await judged(desk.lab)
    assert found.missing == 0, found


async def test_an_older_epoch_changes_nothing(desk: Desk) -> None:
    await desk.do(rabbit_doors.close_cluster, desk.at(EAST_REGION, 5))
    late = DoorOrder(service=desk.service, region=EAST_REGION, epoch=4)
    with pytest.raises(EpochSuperseded):
        await desk.do(rabbit_doors.open_cluster, late)
    seen = await desk.do(rabbit_look.observe_queue, desk.estate)
    assert not seen.cluster(EAST_REGION).clients_let_in


async def test_verifying_routes(desk: Desk) -> None:
    check = RouteCheck(service=desk.service, zone=desk.estate.zone, region="us-east-1", expected=QUEUE_HOME)
    for writes in await desk.twice(rabbit_routes.verify_queue_routes, check):
        assert [(write.route, write.ok) for write in writes] == [("queue-dns", True)]
    astray = check.model_copy(update={"expected": WEST})
    (write,) = await desk.do(rabbit_routes.verify_queue_routes, astray)
    assert "leads to" in write.error


async def test_a_node_that_is_lost_is_started_and_regrown(desk: Desk) -> None:
    await life.fault(desk.lab, "kill", QUEUE_HOME)
    facts = await desk.do(rabbit_nodes.until_queues_lead, desk.at(EAST_REGION))
    assert all(QUEUE_HOME not in each.leader for each in facts.queues)
    order = BrokerOrder(service=desk.service, member=QUEUE_HOME)
    assert all(found.done for found in await desk.twice(rabbit_nodes.start_broker, order))
    for found in await desk.twice(rabbit_nodes.regrow, desk.at(EAST_REGION)):
        assert found.whole, found


async def test_a_member_that_was_taken_away_is_added(desk: Desk) -> None:
    """As after a node was replaced by a new one: RabbitMQ adds no member by itself."""
    gone = rabbit.erlang_name(desk.lab.node("rabbit-east-3"))
    tools = desk.service.member(QUEUE_HOME).tools
    assert tools is not None
    from activities.commands import run_command

    command = [*tools, "rabbitmq-queues", "delete_member", "--vhost", "counting", "counts", gone]
    code, said = await run_command(command, 30)
    assert code == 0, said
    first, second = await desk.twice(rabbit_nodes.regrow, desk.at(EAST_REGION))
    assert first.added == {"counting/counts": [gone]}
    assert first.whole
    assert second.added == {}


async def test_a_node_without_which_there_is_no_majority_is_not_stopped(desk: Desk) -> None:
    await life.fault(desk.lab, "kill", "rabbit-east-3")
    order = BrokerOrder(service=desk.service, member="rabbit-east-2")
    found = await desk.do(rabbit_nodes.stop_broker, order)
    assert not found.done
    assert "quorum-critical" in found.evidence
    whatever = order.model_copy(update={"whatever": True})
    assert all(each.done for each in await desk.twice(rabbit_nodes.stop_broker, whatever))
