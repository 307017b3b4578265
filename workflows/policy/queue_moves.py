"""What a move of a queue service takes along, leaves behind, and can't show; what a run has left in a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.queue import QueueService
from schemas.queue_facts import SERVER_NAMED, ClusterFacts, Counted, QueueFacts


def not_moved(facts: ClusterFacts) -> list[str]:
    """What a planned move leaves behind, whose owner never asked for more."""
    if not facts.read:
        return [f"what {facts.region} holds could not be read"]
    return [
        f"{each.place} is not durable, and stays" + (f" with {each.ready} messages" if each.ready else "")
        for each in facts.queues
        if not each.durable
    ]


def ends_with_its_clients(facts: ClusterFacts) -> list[str]:
    """What keeps a cluster from being closed at all: queues whose messages would be gone, or can't be moved."""
    found = []
    for each in facts.queues:
        if each.kind == "stream":
            found.append(
                f"{each.place} is a stream, which no shovel moves with its offsets: its owner must move it, or take it"
                " out of these virtual hosts"
            )
        elif (each.auto_delete or each.expires) and each.ready:
            found.append(
                f"{each.place} is deleted {'with its last consumer' if each.auto_delete else 'when it is not used'},"
                f" and holds {each.ready} messages: its owner must consume them, or declare it otherwise"
            )
        elif each.name.startswith(SERVER_NAMED) and each.ready:
            found.append(
                f"{each.place} was named by its broker, which another doesn't take, and holds {each.ready} messages:"
                " its owner must consume them, or declare it under a name of its own"
            )
    return found


def dropped_when_given_back(facts: ClusterFacts) -> list[str]:
    """Queues that a drain itself could empty into nothing: a shovel that ends, or is refused at the target, gives back
    what it holds, and each time counts."""
    return [
        f"{each.place} drops what came back more than {each.delivery_limit} times, which a drain that is refused or"
        " broken off may do: its owner must give it a dead-letter exchange (a policy does)"
        for each in facts.queues
        if each.delivery_limit is not None and not each.dead_letters
    ]


def used_by_strangers(facts: ClusterFacts) -> list[str]:
    """Users whom no run would keep out, so that it could not close the cluster."""
    return [
        f"{name} may use the virtual hosts in {facts.region}, and is no client in the topology: its owner must declare"
        " it, or take its permissions away"
        for name in facts.strangers
    ]


def why_not_move(facts: ClusterFacts) -> list[str]:
    """What keeps a cluster from being closed and drained, each with who must act."""
    return [
        *ends_with_its_clients(facts),
        *dropped_when_given_back(facts),
        *published_by_others(facts),
        *used_by_strangers(facts),
    ]


def published_by_others(facts: ClusterFacts) -> list[str]:
    """What goes on in a cluster whose clients are kept out."""
    return [
        f"{each} works in {facts.region} whoever is kept out: its owner must take it away first, or move it"
        for each in facts.foreign
    ]


def unproved_clients(service: QueueService) -> list[str]:
    """Clients of whom it can't be shown that they are kept out."""
    return [
        f"that {each.name} is kept out is not shown by an attempt: its password is not in the topology"
        for each in service.clients
        if each.password is None
    ]


def short_of(there: Counted, before: Counted, after: Counted) -> list[str]:
    """Queues of which less has arrived than was there, each with how much."""
    return [
        f"{place}: {arrived} of {count}"
        for place, count in there.counts.items()
        if (arrived := after.counts.get(place, 0) - before.counts.get(place, 0)) < count
    ]


def without_control(service: QueueService, region: str) -> list[str]:
    """Nodes that nobody can keep from coming back with their old clients."""
    return [
        f"{each.name} has no node control in the topology: if it comes back by itself, it lets its clients in"
        for each in service.cluster(region)
        if each.control is None
    ]


def stray_shovels(clusters: Sequence[ClusterFacts]) -> list[str]:
    """Shovels of runs that ended otherwise than they should."""
    return [
        f"{each.region} has shovels that a run has left ({', '.join(each.shovels)}): `queue-drain` takes them away"
        for each in clusters
        if each.shovels
    ]


def why_not_close(serves: ClusterFacts, others: Sequence[ClusterFacts]) -> str | None:
    """Why others than the one that should serve can't be closed: they may be the only ones that do."""
    letting_in = [each.region for each in others if each.clients_let_in]
    if letting_in and not serves.clients_let_in:
        return (
            f"{serves.region} should serve by the record and lets no client in, and {', '.join(letting_in)} does: a"
            " person must look, and open the right one"
        )
    return None


def weaker(queues: Sequence[QueueFacts]) -> list[str]:
    """Mirrored queues promise less than quorum queues (RabbitMQ 3.10, and none at all from 4.0 on)."""
    return [
        f"{each.place} is mirrored (ha-all): what a mirror had not synchronised is gone with its master; declare it as"
        " a quorum queue"
        for each in queues
        if each.kind == "mirrored"
    ]


def careless(facts: ClusterFacts) -> list[str]:
    """What publishers do without that no procedure can make up for."""
    found = [
        f"{place} holds {count} messages that are not persistent: a stop of its node ends them; publish persistent ones"
        for place, count in facts.transient.items()
    ]
    if facts.dropped:
        found.append(
            f"{facts.dropped} messages in {facts.region} had nowhere to go and were dropped, though confirmed: publish"
            " with `mandatory`"
        )
    return found
