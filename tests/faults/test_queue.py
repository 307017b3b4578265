"""The queue's procedures under load, and its bad luck: every confirmed message is delivered, or lies in a queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from lab import faults, rabbit
from lab import lab as labs
from lab.layout import QUEUE_HOME
from lab.model import Lab
from tests.faults.queue_scene import WEST, QueueScene
from tests.lab import queues
from workflows.queue_switchover import DRAIN

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def queue_lab() -> AsyncIterator[Lab]:
    lab = await labs.up("queue", make_current=False)
    yield lab
    await labs.down(lab)


@pytest_asyncio.fixture(loop_scope="session")
async def scene(queue_lab: Lab, request: pytest.FixtureRequest) -> QueueScene:
    """The estate as new. `@pytest.mark.estate(watch=False, drain={…})` says what is different in this scenario."""
    marker = request.node.get_closest_marker("estate")
    options = dict(marker.kwargs) if marker else {}
    watch = options.pop("watch", False)
    lab = await labs.reset(queue_lab, queue_overrides=options, watch=watch)
    return QueueScene(lab, await labs.connect(lab))


async def test_out_and_home_under_load(scene: QueueScene) -> None:
    await scene.traffic()
    await scene.fill(2000)
    run = await scene.switch()
    out = await scene.report(run)
    await scene.record(run, "queue-moved")
    assert (out.outcome, out.new_primary) == ("done, unprotected", WEST)
    assert out.rto_met
    assert out.fence is not None
    assert out.fence.proved
    assert "nothing confirmed was lost" in out.receipt
    await scene.served()
    run = await scene.home()
    back = await scene.report(run)
    await scene.record(run, "queue-moved-home")
    assert (back.outcome, back.new_primary) == ("done", QUEUE_HOME)
    await scene.served()
    await scene.safe()


async def test_a_queue_without_a_consumer_is_moved_in_its_order(scene: QueueScene) -> None:
    await scene.fill(3000)
    report = await scene.report(await scene.switch())
    assert "3000 messages moved" in report.receipt
    await queues.empty(scene.lab)
    found = await scene.safe()
    assert (found.delivered, found.duplicated, found.reordered) == (3000, 0, 0)


async def test_a_destination_that_is_killed_in_mid_drain_and_returns(scene: QueueScene) -> None:
    await scene.fill(20_000)
    run = await scene.switch()
    await scene.at_step(run, DRAIN)

    async def under_way() -> bool:
        return await queues.ready(scene.lab, QUEUE_HOME) < 17_000

    await scene.until("messages move", under_way)
    await scene.fault("kill", WEST)
    await asyncio.sleep(1)
    await scene.fault("start", WEST)
    report = await scene.report(run)
    assert report.outcome == "done, unprotected", report
    await queues.empty(scene.lab)
    found = await scene.safe()
    assert found.delivered == 20_000
    print(f"destination killed in mid drain: 0 lost, {found.duplicated} duplicates; {report.receipt}")


@pytest.mark.estate(drain={"stalled_s": 3.0})
async def test_a_destination_that_stays_dead_gives_the_source_back(scene: QueueScene) -> None:
    """What had moved by then is held there, and a person is told; it is drained back when the broker returns."""
    await scene.fill(20_000)
    run = await scene.switch()
    await scene.at_step(run, DRAIN)

    async def under_way() -> bool:
        return await queues.ready(scene.lab, QUEUE_HOME) < 18_000

    await scene.until("messages move", under_way)
    await scene.fault("kill", WEST)
    report = await scene.report(run, 260)
    assert report.outcome == "needs a person", report
    assert any("Bring the messages back" in task for task in report.tasks), report.tasks
    await scene.fill(1)  # the source lets clients in again
    drained = await scene.report(await scene.drain())
    assert drained.outcome == "done", drained
    await queues.empty(scene.lab)
    found = await scene.safe()
    assert found.delivered == 20_001


@pytest.mark.estate(drain={"stalled_s": 3.0})
async def test_a_destination_that_refuses_messages_calls_the_move_off(scene: QueueScene) -> None:
    """A length limit that only the target has: the shovel's messages are refused, and none is acknowledged."""
    async with rabbit.Management(scene.lab, scene.lab.node(WEST)) as api:
        limit = {"max-length": 10, "overflow": "reject-publish"}
        body = {"pattern": "counts", "apply-to": "queues", "definition": limit}
        await api.call("PUT", "policies", "counting", "small", body=body)
    await scene.fill(5000)
    run = await scene.switch()
    report = await scene.report(run, 200)
    await scene.record(run, "queue-move-undone")
    assert report.outcome in ("undone", "needs a person"), report
    await scene.fill(1)
    await queues.empty(scene.lab)
    found = await queues.judged(scene.lab)
    assert found.missing == 0, found


async def test_a_standby_with_a_memory_alarm_is_refused_before_anybody_waits(scene: QueueScene) -> None:
    node = scene.lab.node(WEST)
    tools = [str(scene.lab.paths.control), "exec", WEST, str(rabbit.with_environment(scene.lab, node)), "rabbitmqctl"]

    async def watermark(value: str) -> None:
        process = await asyncio.create_subprocess_exec(*tools, "set_vm_memory_high_watermark", value)
        assert await asyncio.wait_for(process.wait(), 30) == 0

    await watermark("0.00001")
    try:
        await asyncio.sleep(2)
        report = await scene.report(await scene.switch())
        assert report.outcome == "refused", report
        assert "memory" in report.summary
        assert report.outage_started is None
    finally:
        await watermark("0.4")


async def test_a_poison_message_and_its_dead_letters_are_moved_with_the_rest(scene: QueueScene) -> None:
    """A message that every consumer gives back ends in the dead-letter queue, which is a queue like any other."""
    quorum = {"x-queue-type": "quorum"}
    letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead", "x-delivery-limit": 2}
    async with rabbit.Management(scene.lab, scene.lab.node(QUEUE_HOME)) as api:
        await api.call("PUT", "queues", "counting", "dead", body={"durable": True, "arguments": quorum})
        await api.call("PUT", "queues", "counting", "work", body={"durable": True, "arguments": quorum | letters})
    connection = await queues.session(scene.lab, QUEUE_HOME, user="app")
    channel = await connection.channel(publisher_confirms=True)
    import aio_pika

    for body in (b"poison", b"good"):
        await channel.default_exchange.publish(aio_pika.Message(body, delivery_mode=2), "work", mandatory=True)
    work = await channel.get_queue("work")
    for _ in range(4):
        found = await work.get(fail=False)
        if found is not None and found.body == b"poison":
            await found.reject(requeue=True)
        elif found is not None:
            await found.reject(requeue=True)
            break
    await connection.close()
    report = await scene.report(await scene.switch())
    assert report.outcome == "done, unprotected", report
    connection = await queues.session(scene.lab, WEST, user="app")
    channel = await connection.channel()
    bodies = []
    for name in ("work", "dead"):
        queue = await channel.get_queue(name)
        while (found := await queue.get(fail=False, no_ack=True)) is not None:
            bodies.append(found.body)
    await connection.close()
    assert sorted(bodies) == [b"good", b"poison"]


async def test_messages_that_were_dropped_as_unroutable_are_told(scene: QueueScene) -> None:
    import aio_pika

    connection = await queues.session(scene.lab, QUEUE_HOME, user="app")
    channel = await connection.channel(publisher_confirms=True)
    for _ in range(3):
        await channel.default_exchange.publish(aio_pika.Message(b""), "nowhere", mandatory=False)
    await asyncio.sleep(6)  # statistics are sent every five seconds
    await connection.close()
    report = await scene.report(await scene.switch(dry_run=True))
    assert report.outcome == "planned"
    assert any("`mandatory`" in each for each in report.blockers), report.blockers


@pytest.mark.estate(watch=True)
async def test_a_node_that_is_killed_is_noticed_and_left_in_a_second_or_so(scene: QueueScene) -> None:
    await scene.traffic()
    await asyncio.sleep(2)
    await scene.fault("kill", QUEUE_HOME)
    run = await scene.run_of_watch()
    report = await scene.report(run)
    await scene.record(run, "queue-node-lost")
    assert report.outcome == "recovered", report
    assert report.new_primary in scene.east
    await scene.served()
    found = await scene.safe()
    print({name: route.longest_gap_s for name, route in found.routes.items()})
    told = f"{found.routes}\n{report}\n{scene.refused()}"
    assert all(route.longest_gap_s < 3 for route in found.routes.values()), told


@pytest.mark.estate(watch=True)
async def test_a_cluster_that_is_lost_is_taken_over_from_and_drained_when_it_returns(scene: QueueScene) -> None:
    await scene.traffic()
    await asyncio.sleep(2)
    await scene.fault("kill", *scene.east)
    run = await scene.run_of_watch()
    await scene.approve(run)
    report = await scene.report(run)
    await scene.record(run, "queue-cluster-lost")
    assert report.outcome == "recovered, unprotected", report
    assert report.new_primary == WEST
    assert "us-east-1 holds" in report.receipt
    assert report.assessment is not None
    assert report.assessment.verdict.kind == "unknown"
    run = await scene.drain()
    drained = await scene.report(run)
    await scene.record(run, "queue-drained")
    assert drained.outcome == "done, unprotected", drained
    await scene.served()
    await scene.safe()


async def test_a_majority_that_is_lost_is_started_again(scene: QueueScene) -> None:
    await scene.fill(200)
    await scene.fault("kill", "rabbit-east-2", "rabbit-east-3")
    run = await scene.fail_over()
    await scene.approve(run)
    report = await scene.report(run, 260)
    await scene.record(run, "queue-majority-started")
    assert report.outcome == "recovered", report
    assert report.new_primary in scene.east
    await queues.empty(scene.lab)
    found = await scene.safe()
    assert found.delivered == 200


async def test_where_nothing_is_lost_nothing_is_done(scene: QueueScene) -> None:
    report = await scene.report(await scene.fail_over())
    assert report.outcome == "not needed"
    refused = await scene.report(await scene.home())
    assert refused.outcome == "not needed"


@pytest.mark.estate(watch=True)
async def test_the_preflight_says_what_would_break_a_move(scene: QueueScene) -> None:
    """As new it only warns of the mirrored queue, once the watch has told the standby; then it finds what is broken."""

    async def found() -> dict[str, set[str]]:
        report = await scene.ready()
        return {
            severity: {each.check for each in report.services[0].findings if each.severity == severity}
            for severity in ("error", "warning")
        }

    async def told() -> bool:
        return not (await found())["error"]

    await scene.until("nothing breaks a move", told)
    assert (await found())["warning"] == {"mirrored"}
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    async with rabbit.Management(scene.lab, scene.lab.node(QUEUE_HOME)) as api:
        await api.call("DELETE", "permissions", "counting", "app")
        await api.call("DELETE", "permissions", "mirrored", "app")
        stream = {"durable": True, "arguments": {"x-queue-type": "stream"}}
        await api.call("PUT", "queues", "counting", "log", body=stream)
    async with rabbit.Management(scene.lab, scene.lab.node(WEST)) as api:
        await api.call("PUT", "permissions", "counting", "app", body=everything)
    await scene.fault("kill", "rabbit-east-3")
    assert {"clients", "immovable", "reached"} <= (await found())["error"]


@pytest.mark.estate(watch=True)
async def test_a_lost_cluster_that_comes_back_by_itself_is_closed_though_it_can_not_be_told(scene: QueueScene) -> None:
    """Its clients would be served beside the others'; that a queue is another there by now must keep nobody in."""
    await scene.fill(50)
    async with rabbit.Management(scene.lab, scene.lab.node(QUEUE_HOME)) as api:
        await api.call("PUT", "queues", "counting", "odd", body={"durable": True})

    async def odd_is_known() -> bool:
        async with rabbit.Management(scene.lab, scene.lab.node(WEST)) as api:
            return await api.call("GET", "queues", "counting", "odd") is not None and await scene.standby_is_told()

    await scene.until("the standby has it", odd_is_known)
    await scene.fault("kill", *scene.east)
    run = await scene.run_of_watch()
    await scene.approve(run)
    report = await scene.report(run)
    assert report.new_primary == WEST, report
    async with rabbit.Management(scene.lab, scene.lab.node(WEST)) as api:
        await api.call("DELETE", "queues", "counting", "odd")
        quorum = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
        await api.call("PUT", "queues", "counting", "odd", body=quorum)
    # Together: the first one waits for the one that stopped last.
    await asyncio.gather(*(faults.fault(scene.lab, "start", name, force=True) for name in scene.east))

    async def closed() -> bool:
        async with rabbit.Management(scene.lab, scene.lab.node(QUEUE_HOME)) as api:
            left = [await api.call("GET", "permissions", vhost, "app") for vhost in rabbit.QUEUES]
        return not any(left)

    await scene.until("the watch keeps its clients out", closed, 90)
    found = await scene.safe()
    assert found.stranded == 50, "until `queue-drain` brings them over"
