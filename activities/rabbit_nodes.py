"""RabbitMQ nodes where they run: started, stopped unless that would cost a majority, and members of their queues."""

from __future__ import annotations

import asyncio
import contextlib
import json

from temporalio import activity

from activities.beating import beating
from activities.commands import TOLD
from activities.node import must_be_ours, run_on, transport
from activities.rabbit_api import acting, api_of, cluster_api, must_be_newest, path
from activities.rabbit_look import listens, look_at_cluster
from schemas.control import CommandControl, NodeControl
from schemas.failures import NodeControlFailed, NoElection, QueueUnreachable
from schemas.orders import NodeResult
from schemas.queue import Broker, QueueService
from schemas.queue_facts import BrokerOrder, ClusterFacts, Grown, QueueFacts, QueueOrder

HELD_S = 8.0
"""How long one machine may take to say whether its node runs."""
GROW_S = 45.0
"""How long a member that was added, or has come back, may take to hold what the others do."""


async def _tell(control: NodeControl, argv: list[str], order: BrokerOrder | None = None) -> str:
    """Have one command carried out, if the order's run still holds the epoch; "", or why it failed."""
    if order is not None:
        # Before each: the one before may have taken its whole limit.
        await must_be_ours(order)
    async with beating(argv[0]):
        code, output = await run_on(control, argv)
    return "" if code == 0 else f"{argv[0]} … exited {code}: {output[-TOLD:]}"


async def critical(service: QueueService, member: Broker) -> str:
    """Why a stop of this node would leave queues without a majority or a synchronised mirror; "" when it would not."""
    reasons = []
    async with api_of(service, member) as api:
        for check in ("node-is-quorum-critical", "node-is-mirror-sync-critical"):
            answer = await api.ask("GET", path("health", "checks", check))
            if not answer.is_success:
                reasons.append(f"{check}: {why_critical(answer.status_code, answer.text)}")
    return "; ".join(reasons)


def why_critical(code: int, body: str) -> str:
    """Anything but a 200 is: a check that could not be made clears no node."""
    with contextlib.suppress(ValueError, AttributeError):
        if code == 503:
            return str(json.loads(body).get("reason", "")) or body[:200]
    return f"answered {code}"


@activity.defn
async def start_broker(order: BrokerOrder) -> NodeResult:
    """Start the node unless it serves, and let it start by itself again. It counts once its AMQP port is open."""
    member = order.service.member(order.member)
    control = member.control
    if control is None:
        return NodeResult(done=False, evidence=f"{member.name} has no node control in the topology")
    there = await listens(member.host, member.port)
    for argv in [control.autostart_on] if there else [control.autostart_on, control.start]:
        failure = "" if argv is None else await _tell(control, argv, order)
        if failure:
            raise NodeControlFailed(f"{member.name}: {failure}")
    until = asyncio.get_running_loop().time() + order.service.failover.return_s
    while not await listens(member.host, member.port):
        if asyncio.get_running_loop().time() > until:
            raise NodeControlFailed(f"{member.name} was started, yet {member.host}:{member.port} is closed")
        activity.heartbeat("until it listens")
        await asyncio.sleep(0.2)
    return NodeResult(
        done=True, evidence=f"{member.name} {'serves' if there else f'was started by {transport(control)}'}"
    )


@activity.defn
async def stop_broker(order: BrokerOrder) -> NodeResult:
    """Ensure that the node is stopped and stays so. One that its queues need is only stopped with `whatever`."""
    member = order.service.member(order.member)
    control = member.control
    if control is None:
        return NodeResult(done=False, evidence=f"{member.name} has no node control in the topology")
    if not order.whatever:
        try:
            why = await critical(order.service, member)
        except QueueUnreachable:
            why = ""
        if why:
            return NodeResult(done=False, evidence=f"{member.name} is not stopped: {why}")
    failures = []
    if control.autostart_off is not None and (failure := await _quietly(control, control.autostart_off, order)):
        failures.append(f"may start by itself: {failure}")
    failure = await _quietly(control, control.stop, order)
    if failure and control.kill is not None:
        failure = await _quietly(control, control.kill, order)
    if failure:
        failures.append(failure)
    if await listens(member.host, member.port):
        failures.append(f"{member.host}:{member.port} is open")
    return NodeResult(
        done=not failures,
        evidence=f"{member.name}: {'; '.join(failures)}" if failures else f"{member.name} is stopped and stays so",
    )


async def _quietly(control: NodeControl, argv: list[str], order: BrokerOrder) -> str:
    try:
        return await _tell(control, argv, order)
    except NodeControlFailed as error:
        return error.detail


@activity.defn
async def held_back(order: QueueOrder) -> list[str]:
    """Members of the cluster that run and serve nobody: without a majority a node pauses itself (pause_minority), and
    looks from outside as if it were dead. Told by the node's own tools; one without them counts as dead."""

    async def runs(member: Broker) -> bool:
        if member.tools is None or await listens(member.host, member.port):
            return False
        argv = [*member.tools, "rabbitmq-diagnostics", "ping"]
        try:
            # Of each by itself: a machine that is gone must not take the word from one that is there.
            async with asyncio.timeout(HELD_S):
                return await _tell(member.control or _here(argv), argv) == ""
        except (NodeControlFailed, TimeoutError):
            return False

    members = order.service.cluster(order.region)
    found = await asyncio.gather(*map(runs, members))
    return [member.name for member, running in zip(members, found, strict=True) if running]


@activity.defn
async def until_queues_lead(order: QueueOrder) -> ClusterFacts:
    """Every queue of the cluster has a leader among the nodes that run, and a majority of its members is online.

    NoElection when that does not come within the declared time.
    """
    until = asyncio.get_running_loop().time() + order.service.failover.elect_s
    while True:
        facts, _ = await look_at_cluster(order.service, order.region)
        headless = leaderless(facts)
        if facts.read and not headless:
            return facts
        if asyncio.get_running_loop().time() > until:
            raise NoElection(f"{order.region}: {', '.join(headless) or 'its queues could not be read'}")
        activity.heartbeat(headless)
        await asyncio.sleep(0.1)


def leaderless(facts: ClusterFacts) -> list[str]:
    """Queues that nobody could use now, each with why, without those that are gone with their only node."""
    running = set(facts.running())
    found = []
    for each in facts.queues:
        if with_its_node(each, running):
            continue
        online = len(running & set(each.online))
        minority = each.kind == "quorum" and 2 * online <= len(each.members)
        if each.ready is None or each.leader not in running or minority:
            found.append(f"{each.place} (leader {each.leader or 'unknown'}, {online} of {len(each.members)} online)")
    return found


def with_its_node(queue: QueueFacts, running: set[str]) -> bool:
    """Whether it is a classic queue without mirrors on a node that doesn't run: it is there again when that is."""
    return queue.kind == "classic" and queue.leader not in running


@activity.defn
async def regrow(order: QueueOrder) -> Grown:
    """Every quorum queue has a member on each of the cluster's nodes that run, and all of them are online."""
    service = order.service
    added: dict[str, list[str]] = {}
    async with beating("members of quorum queues"):
        async with acting(order):
            pass
        declared = {member.node for member in service.cluster(order.region)}
        until = asyncio.get_running_loop().time() + GROW_S
        while True:
            facts, _ = await look_at_cluster(service, order.region)
            running = set(facts.running())
            missing = {each.place: nodes for each in facts.queues if (nodes := each.absent(declared))}
            for each in facts.queues:
                for node in sorted((running & declared) - set(each.members))[: each.lacks(declared)]:
                    async with cluster_api(service, order.region) as api:
                        await must_be_newest(api, order)
                    await _add(service, order.region, each.vhost, each.name, node)
                    added.setdefault(each.place, []).append(node)
            waits = [node for nodes in missing.values() for node in nodes if node in running]
            if facts.read and not waits:
                return Grown(added=added, whole=not missing, missing=missing)
            if asyncio.get_running_loop().time() > until:
                return Grown(added=added, whole=False, missing=missing, waits=waits)
            await asyncio.sleep(0.2)


async def _add(service: QueueService, region: str, vhost: str, queue: str, node: str) -> None:
    """By the node's own tools: there is no HTTP API for this before 3.12."""
    for member in service.cluster(region):
        if member.tools is not None and await listens(member.host, member.port):
            argv = [*member.tools, "rabbitmq-queues", "add_member", "--vhost", vhost, queue, node]
            failure = await _tell(member.control or _here(argv), argv)
            if failure:
                raise NodeControlFailed(f"{queue} gets no member on {node}: {failure}")
            return
    raise NodeControlFailed(f"{queue} has no member on {node}, and no node of {region} has `tools` in the topology")


def _here(argv: list[str]) -> CommandControl:
    return CommandControl(start=argv, stop=argv, timeout_s=30.0)
