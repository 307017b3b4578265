"""Which cluster of a queue service serves, what of it is lost, and whether another may take over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from schemas.decisions import Assessment, Choice, Death, Go, Verdict
from schemas.facts import EpochRecord
from schemas.queue import QueueService
from schemas.queue_facts import ClusterFacts, Mirror, QueueFacts, QueueObservation, QueueState


def merge(views: Sequence[QueueObservation]) -> QueueObservation:
    """What several regions saw: a node answers when one of them heard it; a cluster is as its best view has it."""
    records = [each.record for each in views if each.record is not None]
    merged: list[ClusterFacts] = []
    for facts in views[0].clusters:
        seen = [view.cluster(facts.region) for view in views]
        best = max(seen, key=lambda each: (len(each.answering), len(each.queues)))
        brokers = []
        for index, broker in enumerate(best.brokers):
            heard = [each.brokers[index] for each in seen if each.brokers[index].answers]
            brokers.append(heard[0] if heard else broker)
        merged.append(best.model_copy(update={"brokers": brokers}))
    return QueueObservation(
        record=max(records, key=lambda each: (each.epoch, each.change)) if records else None,
        epoch_error="" if records else views[0].epoch_error,
        clusters=merged,
        mirrors={region: mirror for view in views for region, mirror in view.mirrors.items()},
    )


def of_watch(service: QueueService, seen: Sequence[ClusterFacts], record: EpochRecord) -> QueueObservation | None:
    """What the regions' watches saw of the cluster that serves; None where none of them looked in time."""
    if not seen:
        return None
    # Of the others nothing was asked: a run that needs them looks itself.
    others = [
        ClusterFacts(region=region, at=seen[0].at, brokers=[])
        for region in service.clusters()
        if region != seen[0].region
    ]
    views = [QueueObservation(record=record, clusters=[each, *others]) for each in seen]
    return merge(views)


def led_to(service: QueueService, seen: QueueObservation) -> tuple[str | None, str]:
    """The member that clients are led to, or None and why that can't be said."""
    if seen.record is not None:
        leader = seen.record.leader
        if leader not in service.member_names():
            return None, f"the record says {leader}, which is no member"
        return leader, f"{leader} by the record"
    open_in = [each.region for each in seen.clusters if each.clients_let_in]
    if len(open_in) > 1:
        return None, f"there is no epoch record, and clients are let in in {' and '.join(open_in)}"
    home = service.member(service.home)
    if open_in and open_in[0] != home.region:
        return service.cluster(open_in[0])[0].name, f"clients are let in in {open_in[0]} alone"
    return home.name, f"{home.name} is the home, and there is no record yet"


def state_of(service: QueueService, seen: QueueObservation, leader: str) -> QueueState:
    """What is lost of the cluster that should serve."""
    region = service.member(leader).region
    facts = seen.cluster(region)
    down = [each.member for each in facts.brokers if not each.answers]
    alive = len(facts.brokers) - len(down)
    if not down:
        return QueueState(loss="nothing", reason=f"every node in {region} answers", led_to=leader)
    told = "; ".join(each.error for each in facts.brokers if not each.answers)
    if alive == 0:
        return QueueState(loss="cluster", reason=f"no node in {region} answers: {told}", down=down, led_to=leader)
    if 2 * alive <= len(facts.brokers):
        reason = f"{alive} of {len(facts.brokers)} nodes in {region} answer, no majority: {told}"
        return QueueState(loss="majority", reason=reason, down=down, led_to=leader)
    reason = f"{', '.join(down)} does not answer, {alive} of {len(facts.brokers)} do: {told}"
    return QueueState(loss="node", reason=reason, down=down, led_to=leader)


def other_node(service: QueueService, facts: ClusterFacts, but: Sequence[str]) -> str | None:
    """A member of the cluster to lead clients to: one that answers and listens; the home first."""
    able = [each.member for each in facts.brokers if each.answers and each.listens and each.member not in but]
    return service.home if service.home in able else next(iter(able), None)


def choose_region(service: QueueService, seen: QueueObservation, source: str, wanted: str | None) -> Choice:
    """The region that takes over, as the member that clients would be led to."""
    regions = [service.member(wanted).region] if wanted is not None else [r for r in service.clusters() if r != source]
    passed: dict[str, str] = {}
    for region in regions:
        facts = seen.cluster(region)
        why = unfit(facts, source)
        member = wanted if wanted is not None else other_node(service, facts, [])
        if why is None and member is not None:
            return Choice(candidate=member, reason=f"{region} takes over, at {member}", passed_over=passed)
        passed[region] = why or "no node takes clients"
    told = "; ".join(f"{region} {why}" for region, why in passed.items())
    return Choice(candidate=None, reason=told or "there is no other region", passed_over=passed)


def unfit(facts: ClusterFacts, source: str) -> str | None:
    """Why a cluster can't take over now; None when it can."""
    if facts.region == source:
        return "serves already"
    if not facts.reached:
        return "is not reached: " + "; ".join(each.error for each in facts.brokers)
    silent = [each.member for each in facts.brokers if not each.answers]
    if 2 * len(silent) >= len(facts.brokers):
        return f"has no majority of its nodes: {', '.join(silent)}"
    alarms = sorted({alarm for each in facts.brokers for alarm in each.alarms})
    if alarms:
        return f"holds its publishers ({', '.join(alarms)}): free memory or disk there first"
    parts = sorted({name for each in facts.brokers for name in each.partitions})
    if parts:
        return f"is partitioned ({', '.join(parts)}): its owner must heal it first"
    if facts.clients_let_in:
        return "lets clients in already: a person must look who publishes there"
    return None


def not_moved(facts: ClusterFacts) -> list[str]:
    """What a planned move leaves behind, whose owner never asked for more."""
    return [f"{each.place} is not durable, and its messages stay" for each in facts.queues if not each.durable]


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


def why_not_drain(facts: ClusterFacts) -> str | None:
    """Why the source can't be emptied now; None when it can."""
    headless = [each.place for each in facts.queues if each.ready is None]
    if not facts.reached:
        return f"{facts.region} is not reached"
    if headless:
        return f"{', '.join(headless)} in {facts.region} does not answer"
    return None


def may_move(target: str, *, approval: Literal["policy", "always"]) -> Go:
    """Whether a planned move needs a person."""
    if approval == "always":
        return Go(action="ask", reason="whoever started the run wants it approved")
    return Go(action="go", reason=f"{target} takes over once it has everything: nothing can be lost")


def may_fail_over(service: QueueService, state: QueueState, *, approval: Literal["policy", "always"]) -> Go:
    """Whether clients may be led elsewhere without a person."""
    if state.loss == "nothing":
        return Go(action="stop", reason=state.reason)
    if approval == "always":
        return Go(action="ask", reason="whoever started the run wants it approved")
    if state.loss == "node":
        return Go(action="go", reason="its queues have a majority: nothing that was confirmed is lost")
    policy = service.failover.cross_region
    if policy == "never":
        return Go(action="refuse", reason="the topology never lets it leave its region (failover.cross_region)")
    if policy == "ask":
        return Go(action="ask", reason="another region would take over without what the lost cluster still holds")
    return Go(action="go", reason="the topology lets another region take over (failover.cross_region)")


def held_text(region: str, mirror: Mirror | None, now: datetime) -> str:
    """What the lost cluster holds, as far as anybody knows."""
    if mirror is None or mirror.region != region:
        return f"{region} holds what was confirmed there and not yet consumed; how much is not known"
    total = sum(mirror.counts.values())
    age = (now - mirror.at).total_seconds()
    each = ", ".join(f"{place} {count}" for place, count in mirror.counts.items() if count) or "none in any queue"
    return (
        f"{region} holds what was confirmed there and not yet consumed: {total} messages when it was last read"
        f" ({age:.0f} s before; {each}), how much now is not known"
    )


def verdict_of(state: QueueState, queues: Sequence[QueueFacts], held: str) -> Verdict:
    """What going on can lose."""
    if state.loss in ("nothing", "node"):
        mirrored = [each.place for each in queues if each.kind == "mirrored"]
        more = f"; {', '.join(mirrored)}: as far as a synchronised mirror is left" if mirrored else ""
        return Verdict(kind="none", reason=f"a majority of every quorum queue's members is there{more}")
    return Verdict(kind="unknown", reason=f"{held}; it comes back when the cluster does, and is drained then")


def assess(leader: str, state: QueueState, choice: Choice, verdict: Verdict) -> Assessment:
    decides = [leader, state.loss, choice.candidate, verdict.kind]
    dead: Literal["alive", "dead"] = "alive" if state.loss == "nothing" else "dead"
    return Assessment(
        suspect=leader,
        death=Death(state=dead, reason=state.reason),
        choice=choice,
        verdict=verdict,
        w=0,
        voters=[],
        digest=hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12],
    )


def unprotected(service: QueueService, facts: ClusterFacts) -> list[str]:
    """What keeps the cluster that serves from surviving the loss of a node, and what to do."""
    found = [f"{each.member} is down ({each.error}): start it" for each in facts.brokers if not each.answers]
    if len(facts.brokers) < 3:
        found.append(
            f"{facts.region} has {len(facts.brokers)} node{'s' if len(facts.brokers) > 1 else ''}, and no majority"
            f" without one of them: fail back to {service.member(service.home).region} when it is well"
        )
    names = {member.node for member in service.cluster(facts.region)}
    for each in facts.queues:
        missing = sorted(names - set(each.online)) if each.kind in ("quorum", "mirrored") else []
        if missing:
            found.append(f"{each.place} is not on {', '.join(missing)}")
    return found
