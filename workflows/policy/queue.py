"""Which cluster of a queue service serves, what of it is lost, and whether another may take over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Literal

from schemas.decisions import Assessment, Choice, Death, Go, Verdict
from schemas.facts import EpochRecord
from schemas.queue import QueueService
from schemas.queue_facts import ClusterFacts, Mirror, QueueFacts, QueueObservation, QueueState
from workflows.policy.queue_moves import stray_shovels


def merge(views: Sequence[QueueObservation]) -> QueueObservation:
    """What several regions saw: a node answers when one of them heard it; a cluster is as its best view has it."""
    records = [each.record for each in views if each.record is not None]
    merged: list[ClusterFacts] = []
    for facts in views[0].clusters:
        seen = [view.cluster(facts.region) for view in views]
        best = max(seen, key=lambda each: (each.read, len(each.answering), len(each.queues)))
        brokers = []
        for index, broker in enumerate(best.brokers):
            heard = [each.brokers[index] for each in seen if each.brokers[index].answers]
            listens = any(each.brokers[index].listens for each in seen)
            brokers.append((heard[0] if heard else broker).model_copy(update={"listens": listens}))
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
        candidate = seen.record.candidate
        # A run that ended between letting clients in and saying so in the record.
        if candidate in service.member_names() and candidate != leader:
            regions = [service.member(name).region for name in (candidate, leader)]
            let_in = {each.region for each in seen.clusters if each.clients_let_in}
            if regions[0] in let_in and regions[1] not in let_in:
                return (
                    candidate,
                    f"{candidate} by the record, whose choice is not settled, and clients are let in there",
                )
        return leader, f"{leader} by the record"
    open_in = [each.region for each in seen.clusters if each.clients_let_in]
    if len(open_in) > 1:
        return None, f"there is no epoch record, and clients are let in in {' and '.join(open_in)}"
    home = service.member(service.home)
    if open_in and open_in[0] != home.region:
        return service.cluster(open_in[0])[0].name, f"clients are let in in {open_in[0]} alone"
    return home.name, f"{home.name} is the home, and there is no record yet"


def state_of(service: QueueService, seen: QueueObservation, leader: str) -> QueueState:
    """What is lost of the cluster that should serve: a node is down if it neither answers nor speaks AMQP."""
    region = service.member(leader).region
    facts = seen.cluster(region)
    down = [each.member for each in facts.brokers if not each.answers and not each.listens]
    alive = len(facts.brokers) - len(down)
    apart = split(service, facts)
    if apart:
        return QueueState(loss="partitioned", reason=apart, down=down, led_to=leader)
    mute = silent_only(facts)
    if mute and 2 * alive > len(facts.brokers) >= 2 * len(facts.answering):
        return QueueState(loss="unclear", reason="; ".join(mute), down=down, led_to=leader)
    if not down:
        why = "; ".join(mute) or f"every node in {region} answers"
        return QueueState(loss="nothing", reason=why, led_to=leader)
    told = "; ".join(each.error for each in facts.brokers if each.member in down)
    if alive == 0:
        return QueueState(loss="cluster", reason=f"no node in {region} answers: {told}", down=down, led_to=leader)
    if 2 * alive <= len(facts.brokers):
        reason = f"{alive} of {len(facts.brokers)} nodes in {region} answer, no majority: {told}"
        return QueueState(loss="majority", reason=reason, down=down, led_to=leader)
    reason = f"{', '.join(down)} does not answer, {alive} of {len(facts.brokers)} do: {told}"
    return QueueState(loss="node", reason=reason, down=down, led_to=leader)


def with_held_back(state: QueueState, held_back: Sequence[str]) -> QueueState:
    """A cluster of which some nodes run and only wait for the others has lost its majority, and not everything."""
    if not held_back:
        return state
    down = [name for name in state.down if name not in held_back]
    reason = f"{', '.join(held_back)} runs and holds back without a majority"
    reason += f"; {', '.join(down)} does not answer" if down else ""
    return state.model_copy(update={"loss": "majority", "down": down, "reason": reason})


def silent_only(facts: ClusterFacts) -> list[str]:
    """Nodes that speak AMQP and whose management API says nothing to us, each with who must act."""
    return [
        f"{each.member} speaks AMQP, and its management API does not answer ({each.error}): its owner must see to the"
        " API, or to Lifeboat's user and password there"
        for each in facts.brokers
        if each.listens and not each.answers
    ]


def split(service: QueueService, facts: ClusterFacts) -> str:
    """Why the cluster is not one; "" where nodes that answer see each other."""
    names = {each.member: service.member(each.member).node for each in facts.answering}
    told = [
        f"{each.member} does not see {', '.join(unseen)}"
        for each in facts.answering
        if each.running and (unseen := sorted(set(names.values()) - set(each.running)))
    ]
    told += [f"{each.member} reports {', '.join(each.partitions)}" for each in facts.answering if each.partitions]
    return f"{facts.region} is partitioned ({'; '.join(told)}): its owner must heal it first" if told else ""


def choose_node(service: QueueService, facts: ClusterFacts, state: QueueState, wanted: str | None) -> Choice:
    """The node of the same cluster that clients are led to; one that is asked for must be of it, and serve."""
    leader = state.led_to
    able = [each.member for each in facts.brokers if each.answers and each.listens and each.member not in state.down]
    if wanted is not None and wanted not in able:
        where = service.member(wanted).region
        why = (
            f"{wanted} is in {where}, and {facts.region} has a majority: use queue-switchover"
            if where != facts.region
            else f"{wanted} does not answer and listen; leave the choice, or name one of {', '.join(able) or 'none'}"
        )
        return Choice(candidate=None, reason=why)
    member = wanted or (leader if leader in able else other_node(service, facts, state.down))
    if member is None:
        return Choice(candidate=None, reason=f"no node in {facts.region} answers and takes clients")
    return Choice(candidate=member, reason=f"{facts.region} goes on, at {member}")


def other_node(service: QueueService, facts: ClusterFacts, but: Sequence[str]) -> str | None:
    """A member of the cluster to lead clients to: one that answers and listens; the home first."""
    able = [each.member for each in facts.brokers if each.answers and each.listens and each.member not in but]
    return service.home if service.home in able else next(iter(able), None)


def choose_region(
    service: QueueService, seen: QueueObservation, source: str, wanted: str | None, *, lost: bool = False
) -> Choice:
    """The region that takes over, as the member that clients would be led to; from a `lost` one nothing can be asked
    any more, so that it must have been told before."""
    regions = [service.member(wanted).region] if wanted is not None else [r for r in service.clusters() if r != source]
    passed: dict[str, str] = {}
    for region in regions:
        facts = seen.cluster(region)
        mirror = seen.mirrors.get(region)
        why = unfit(facts, source) or (never_told(mirror, source, facts) if lost else None)
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
    if not facts.read:
        return "could not be read, so that what is in it is not known"
    alarms = sorted({alarm for each in facts.brokers for alarm in each.alarms})
    if alarms:
        return f"holds its publishers ({', '.join(alarms)}): free memory or disk there first"
    parts = sorted({name for each in facts.brokers for name in each.partitions})
    if parts:
        return f"is partitioned ({', '.join(parts)}): its owner must heal it first"
    if facts.clients_let_in:
        return "lets clients in already: a person must look who publishes there"
    return None


def never_told(mirror: Mirror | None, source: str, facts: ClusterFacts) -> str | None:
    """Why a cluster can't take over from one that it knows nothing of: clients would not find their queues."""
    if mirror is not None and mirror.region == source:
        told = f"does not have what {source} defines: {'; '.join(facts.differ)}; its owner must put it right"
        return told if facts.differ else None
    return f"was never told what {source} defines (the service's watch tells it): its owner must import the definitions"


def why_not_drain(facts: ClusterFacts) -> str | None:
    """Why the source can't be emptied now; None when it can."""
    headless = [each.place for each in facts.queues if each.ready is None]
    if not facts.reached:
        return f"{facts.region} is not reached"
    if not facts.read:
        return f"what {facts.region} holds could not be read"
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
        return Go(action="go", reason="a majority of its cluster goes on: another node of it loses nothing more")
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


def verdict_of(
    state: QueueState,
    queues: Sequence[QueueFacts],
    held: str,
    *,
    read: bool = True,
    gone: Collection[str] = (),
    before: Sequence[QueueFacts] = (),
) -> Verdict:
    """What going on can lose. `gone`: Erlang names of the nodes that are down; `before`: queues as they were while all
    was well, since a mirrored one has another master afterwards, whether that held everything or not."""
    if state.loss in ("nothing", "node"):
        if not read:
            return Verdict(kind="unknown", reason="its queues could not be read")
        was = {each.place: each for each in before}
        unsure = [why for each in queues if (why := _unsure(each, set(gone), was.get(each.place)))]
        if unsure:
            return Verdict(kind="unknown", reason="; ".join(unsure))
        mirrored = [each.place for each in queues if each.kind == "mirrored"]
        more = f"; {', '.join(mirrored)}: a synchronised mirror is left" if mirrored else ""
        return Verdict(kind="none", reason=f"a majority of every quorum queue's members is there{more}")
    return Verdict(kind="unknown", reason=f"{held}; it comes back when the cluster does, and is drained then")


def _unsure(queue: QueueFacts, gone: set[str], before: QueueFacts | None) -> str:
    """Why something confirmed may be gone from the queue, or out of reach; "" where it is not."""
    if queue.kind == "quorum":
        left = set(queue.members) - gone
        return "" if 2 * len(left) > len(queue.members) else f"{queue.place} has no majority of its members left"
    if not gone:
        return ""
    if queue.kind == "mirrored":
        if before is None:
            return f"{queue.place} is mirrored, and whether a synchronised mirror was left is not known"
        kept = before.leader not in gone or set(before.online) - gone
        return "" if kept else f"{queue.place} had no synchronised mirror on a node that is left"
    return f"{queue.place} was on {queue.leader} alone, and is there again with it" if queue.leader in gone else ""


def receipt_of(verdict: Verdict) -> str:
    """The receipt of a run that stayed in its cluster says no more than the verdict."""
    return "nothing confirmed was lost" if verdict.kind == "none" else f"loss {verdict.text()}: {verdict.reason}"


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
    found = [
        f"{each.member} is down ({each.error}): start it"
        for each in facts.brokers
        if not each.answers and not each.listens
    ]
    found += silent_only(facts) + stray_shovels([facts])
    if not facts.read:
        found.append(f"what is in {facts.region} could not be read, nor where its queues are")
    if len(facts.brokers) < 3:
        found.append(
            f"{facts.region} has {len(facts.brokers)} node{'s' if len(facts.brokers) > 1 else ''}, and no majority"
            f" without one of them: fail back to {service.member(service.home).region} when it is well"
        )
    names = {member.node for member in service.cluster(facts.region)}
    for each in facts.queues:
        missing = each.absent(names)
        if missing:
            found.append(f"{each.place} is not on {', '.join(missing)}")
    return found
