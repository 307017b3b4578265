"""Whether the estate is protected: all stream on the leader's timeline, and the set is what the policy says."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.facts import EpochRecord, MemberFacts
from schemas.topology import DatabaseService
from workflows.policy.names import FENCED, parse_names


def what_is_missing(service: DatabaseService, record: EpochRecord, facts: Sequence[MemberFacts]) -> list[str]:
    """What is not protected, and what to do; empty when all is well."""
    found = {each.member: each for each in facts}
    leader = found.get(record.leader)
    if leader is None or not leader.reachable or leader.in_recovery:
        return [f"{record.leader} should lead, and does not: fail over"]
    told: list[str] = []
    for member in service.members:
        each = found.get(member.name)
        if member.name == leader.member:
            continue
        why = _not_following(each, leader)
        if why:
            told.append(f"{member.name} {why}: `lifeboat run database-rejoin {service.name} --member {member.name}`")
    parsed = parse_names(leader.synchronous_names)
    declared = [name for name in service.synchronous.voters if name != leader.member]
    wanted = min(service.synchronous.acknowledgements, len(declared))
    if parsed is None or FENCED in parsed[1]:
        told.append(f"{leader.member} has synchronous_standby_names = {leader.synchronous_names}: its owner must look")
    elif parsed[0] < wanted:
        told.append(f"{leader.member} acknowledges with {parsed[0]} of {wanted} voters: the watch adds who streams")
    elif missing := [name for name in declared if name not in parsed[1]]:
        told.append(f"{', '.join(missing)} not in the synchronous set yet: the watch adds who streams")
    return told


def _not_following(facts: MemberFacts | None, leader: MemberFacts) -> str:
    if facts is None or not facts.reachable:
        return f"is not reached ({facts.error if facts else 'not asked'})"
    if not facts.in_recovery:
        return "leads beside it"
    if facts.system_identifier != leader.system_identifier:
        return "is of another cluster"
    if facts.receiver is None or facts.receiver.status != "streaming":
        return "does not stream"
    if facts.timeline != leader.timeline:
        return f"is on timeline {facts.timeline}, not {leader.timeline}"
    return ""
