"""Is a queue ready? Facts in, findings out: what would break or weaken a failover or a planned move.

docs/ready.md has each check, why it matters, and its remedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from schemas.queue import QueueService
from schemas.queue_facts import ClusterFacts, QueueEstate, QueueObservation
from schemas.ready import EngineView, Finding, QueueRegionView
from workflows.policy import queue as policy
from workflows.policy import queue_moves as moves
from workflows.policy.ready import epoch_record, no_worker
from workflows.policy.ready_sight import error, merged, warning

OWNER = "the brokers' owner must"


def judge_queue(estate: QueueEstate, views: Sequence[QueueRegionView], engine: EngineView | None) -> list[Finding]:
    """All that is wrong, errors first."""
    service = estate.service
    answering = [view.region for view in views]
    found = [no_worker(region) for region in estate.vantages if region not in answering]
    found += _declared(service)
    if engine is not None:
        found += _engine(service.name, engine)
    if views:
        seen = policy.merge([view.seen for view in views])
        found += epoch_record(service.name, seen.record, seen.epoch_error)
        leader, why = policy.led_to(service, seen)
        if leader is None:
            remedy = "an operator must find out where clients publish, and open that cluster alone"
            found.append(error("leader", service.name, why, remedy))
        for cluster in seen.clusters:
            found += _brokers(service, cluster)
        if leader is not None:
            found += _serving(service, seen, service.member(leader).region)
    return merged(found)


def _declared(service: QueueService) -> Iterator[Finding]:
    topology = "the topology's owner should"
    for member in service.members:
        if member.control is None:
            what = "it has no `control`: once its cluster is lost, nothing keeps it from returning with its old clients"
            yield warning("fence", member.name, what, f"{topology} declare how it is stopped and started")
        if member.tools is None and len(service.cluster(member.region)) > 1:
            what = "it has no `tools`: after a node was replaced, no member is added to a quorum queue"
            yield warning("tools", member.name, what, f"{topology} declare how `rabbitmq-queues` runs")
    for client in service.clients:
        if client.password is None:
            what = f"the password of {client.name} is not declared: that a closed cluster refuses it is not shown"
            yield warning("clients", service.name, what, f"{topology} add it (`clients.password`)")
    if len(service.clusters()) == 1:
        what = "it has one cluster alone: no other region can take over"
        yield warning("standby", service.name, what, f"{topology} declare a cluster in another region")


def _engine(name: str, engine: EngineView) -> Iterator[Finding]:
    if not engine.watched:
        what = "it is not watched: no client would be led away from a node that is lost, and no standby is kept told"
        yield error("watch", name, what, f"an operator must start it (`lifeboat watch start {name}`)")
    if engine.holder:
        yield warning("busy", name, f"{engine.holder} works on it now", "wait for its end, or abort it")


def _brokers(service: QueueService, cluster: ClusterFacts) -> Iterator[Finding]:
    """What is wrong with a cluster's nodes, whether it serves or stands by."""
    for each in cluster.brokers:
        if each.answers:
            continue
        what = (
            f"it speaks AMQP, and its management API does not answer: {each.error}"
            if each.listens
            else f"it is not reached: {each.error}"
        )
        yield error("reached", each.member, what, f"{OWNER} bring it back")
    alarms = sorted({alarm for each in cluster.brokers for alarm in each.alarms})
    if alarms:
        what = f"its publishers are held ({', '.join(alarms)}): no message gets in, nor through a shovel"
        yield error("alarms", cluster.region, what, f"{OWNER} free memory or disk there")
    if apart := policy.split(service, cluster):
        yield error("partition", cluster.region, apart.partition(": its owner")[0], f"{OWNER} heal it")
    without = sorted({name for each in cluster.brokers for name in each.without_shovels})
    if without:
        what = f"{', '.join(without)} runs no shovels: nothing can be drained"
        remedy = f"{OWNER} enable the plugin (`rabbitmq-plugins enable rabbitmq_shovel rabbitmq_shovel_management`)"
        yield error("shovels", cluster.region, what, remedy)
    if cluster.shovels:
        what = f"a run has left shovels there: {', '.join(cluster.shovels)}"
        remedy = "an operator must have them taken away (`lifeboat run queue-drain`)"
        yield warning("shovels", cluster.region, what, remedy)


def _serving(service: QueueService, seen: QueueObservation, region: str) -> Iterator[Finding]:
    serves = seen.cluster(region)
    for each in seen.clusters:
        if each.reached and not each.read:
            what = "what is in it can't be read: no run would move anything from there, or to there"
            remedy = f"{OWNER} see to its management API, and to Lifeboat's user (an administrator)"
            yield error("reached", each.region, what, remedy)
    if serves.read:
        yield from _queues(service, serves)
    for other in seen.clusters:
        if other.region == region:
            continue
        yield from _standing_by(serves, other)
        mirror = seen.mirrors.get(other.region)
        if serves.read and other.read and (mirror is None or mirror.region != region or mirror.digest != serves.digest):
            what = f"it does not have what {region} defines now: a queue, a policy, a user or a binding"
            remedy = "the service's watch brings it over within 20 s; if not, an operator must look at its log"
            yield error("definitions", other.region, what, remedy)
        if other.differ:
            what = f"it does not have what it was told of {region}: {'; '.join(other.differ)}"
            remedy = f"{OWNER} put that right, or delete it there: the watch imports only what is missing"
            yield error("definitions", other.region, what, remedy)


def _standing_by(serves: ClusterFacts, other: ClusterFacts) -> Iterator[Finding]:
    if other.clients_let_in:
        what = f"it stands by and lets clients in: what they publish there nobody consumes in {serves.region}"
        remedy = "the service's watch keeps them out within 20 s; if not, an operator must (`lifeboat run queue-drain`)"
        yield error("clients", other.region, what, remedy)
    if other.known:
        what = f"it stands by and holds {other.known} messages"
        remedy = f"an operator must have them brought to {serves.region} (`lifeboat run queue-drain`)"
        yield warning("standby", other.region, what, remedy)


def _queues(service: QueueService, serves: ClusterFacts) -> Iterator[Finding]:
    """What the clients' queues promise, and what no procedure can make up for."""
    if not serves.clients_let_in:
        what = "it should serve, and lets no client in"
        yield error("clients", serves.region, what, "an operator must find out which run closed it")
    names = {member.node for member in service.cluster(serves.region)}
    if len(names) < 3:
        what = f"it has {len(names)} nodes: without one of them no majority is left"
        yield warning("members", serves.region, what, f"{OWNER} add nodes, up to three")
    for each in serves.queues:
        if absent := each.absent(names):
            what = f"it is not on {', '.join(absent)}: that node's loss, or another's, may stop or lose it"
            yield warning("members", each.place, what, f"{OWNER} add members (`rabbitmq-queues grow`)")
        if each.kind == "classic" and each.durable and len(names) > 1:
            what = f"it is on {each.leader or 'one node'} alone: it is gone as long as that node is"
            yield warning("members", each.place, what, "its owner should declare it as a quorum queue")
        if each.kind == "mirrored":
            what = "it is mirrored (ha-all): what a mirror had not synchronised is gone with its master"
            yield warning("mirrored", each.place, what, "its owner should declare it as a quorum queue")
    for place, count in serves.transient.items():
        what = f"{count} messages in it are not persistent: a stop of its node ends them"
        yield warning("persistence", place, what, "the publishers' owner must publish persistent ones")
    if serves.dropped:
        what = f"{serves.dropped} messages had nowhere to go and were dropped, though confirmed"
        remedy = "the publishers' owner must publish with `mandatory`, or bind a queue"
        yield warning("mandatory", serves.region, what, remedy)
    for told in moves.why_not_move(serves):
        what, _, remedy = told.partition(": ")
        yield error("immovable", serves.region, what, remedy)
    headless = policy.why_not_drain(serves)
    if headless is not None:
        yield error("members", serves.region, headless, f"{OWNER} find out which node should lead it")
