"""Who leads a cache, whether its Sentinels can be asked for something, and whether a planned move may begin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal

from schemas.cache import CacheService
from schemas.cache_facts import CacheFacts, CacheSeen, SentinelFacts
from schemas.decisions import Choice, Go, Verdict

CLOSE_BYTES = 16 * 1024 * 1024
"""A candidate that is further behind would keep clients waiting while it receives the rest."""


def leader_of(service: CacheService, seen: CacheSeen) -> tuple[str | None, str]:
    """Who leads, or None and why that can't be said: the record, the roles and the Sentinels must agree."""
    masters = [each.member for each in seen.masters() if each.replicas or each.keys]
    record = seen.record.leader if seen.record is not None else None
    if record is None and len(masters) != 1:
        return None, f"there is no epoch record, and {' and '.join(masters) or 'nobody'} is a master"
    leader = record if record is not None else masters[0]
    if leader not in service.member_names():
        return None, f"the record says {leader}, which is no member"
    region = service.member(leader).region
    named = sorted({each.master for each in seen.sentinels if each.watches and _there(service, each, region)})
    if [leader] != named:
        return None, f"the record says {leader}, the Sentinels of {region} say {' and '.join(named) or 'nothing'}"
    facts = seen.of(leader)
    if not facts.reachable or facts.role != "master":
        return None, f"{leader} should lead, and {facts.error or f'is a {facts.role} of {facts.follows}'}"
    others = [name for name in masters if name != leader]
    if others:
        return None, f"{leader} leads, and {' and '.join(others)} is a master as well: a person must look"
    return leader, f"{leader} leads by record, by its role, and by {len(_reached(service, seen, region))} Sentinels"


def _there(service: CacheService, facts: SentinelFacts, region: str) -> bool:
    return facts.sentinel in {each.name for each in service.sentinels_of(region)}


def _reached(service: CacheService, seen: CacheSeen, region: str) -> list[SentinelFacts]:
    return [each for each in seen.sentinels if each.reachable and _there(service, each, region)]


def why_not_elect(service: CacheService, seen: CacheSeen, leader: str) -> str | None:
    """Why the Sentinels of the leader's region could not elect another by themselves; None when they could."""
    region = service.member(leader).region
    declared = service.sentinels_of(region)
    reached = [each for each in _reached(service, seen, region) if each.watches]
    needed = max(len(declared) // 2 + 1, service.monitor.quorum)
    if len(reached) < needed:
        return f"{len(reached)} of {len(declared)} Sentinels in {region} answer, and an election takes {needed}"
    named = sorted({each.master for each in reached})
    if len(named) > 1:
        return f"the Sentinels disagree: {' and '.join(named)}"
    bad = [f"{each.sentinel}: {each.quorum_error}" for each in reached if each.quorum_error]
    if len(reached) - len(bad) < needed:
        return "; ".join(bad)
    able = {
        name
        for each in reached
        for name, priority in each.priorities.items()
        if priority > 0 and name not in each.bad_replicas
    }
    if not able:
        return f"no replica of {leader} may be elected: {_why_nobody(reached)}"
    return None


def _why_nobody(reached: Sequence[SentinelFacts]) -> str:
    told = {name: why for each in reached for name, why in each.bad_replicas.items()}
    return "; ".join(f"{name} {why}" for name, why in sorted(told.items())) or "the Sentinels know none"


def choose(service: CacheService, seen: CacheSeen, leader: str, requested: str | None) -> Choice:
    """The candidate of a planned move: whoever was asked for, else the replica of the region that is furthest."""
    if requested is not None and requested not in service.member_names():
        return Choice(candidate=None, reason=f"{requested} is no member; one of: {', '.join(service.member_names())}")
    region = service.member(leader).region
    master = seen.of(leader)
    usual = [each.name for each in service.members_of(region) if each.name != leader]
    passed: dict[str, str] = {}
    able: list[CacheFacts] = []
    for name in [requested] if requested is not None else usual:
        why = unfit(service, seen.of(name), master, region)
        if why is None:
            able.append(seen.of(name))
        else:
            passed[name] = why
    if not able:
        told = "; ".join(f"{name} {why}" for name, why in passed.items())
        return Choice(candidate=None, reason=told or f"{leader} has no replica", passed_over=passed)
    best = max(able, key=lambda facts: (facts.offset, service.member(facts.member).priority > 0))
    behind = max(master.offset - best.offset, 0)
    return Choice(candidate=best.member, reason=f"{best.member} is {behind} bytes behind {leader}", passed_over=passed)


def unfit(service: CacheService, facts: CacheFacts, master: CacheFacts, region: str) -> str | None:
    """Why a member can't take over now, as text; None when it can."""
    member = service.member(facts.member)
    if not facts.reachable:
        return f"is not reached: {facts.error}"
    if facts.role != "replica":
        return "is no replica"
    if member.priority == 0:
        return "is never promoted (priority 0)"
    if facts.follows != master.member and member.region == region:
        return f"follows {facts.follows}"
    if not facts.link_up:
        return "has no link to its master"
    if facts.history != master.history:
        return f"has another history than {master.member}"
    if master.offset - facts.offset > CLOSE_BYTES:
        return f"is {master.offset - facts.offset} bytes behind"
    return None


def why_not_move(service: CacheService, seen: CacheSeen, leader: str, candidate: str) -> str | None:
    """Why a planned move should not begin now; None when it may."""
    home, there = service.member(leader).region, service.member(candidate).region
    if home == there:
        why = why_not_elect(service, seen, leader)
        if why is not None:
            return why
    else:
        silent = [each.name for each in service.sentinels_of(home) if each not in _names(service, seen)]
        if silent:
            return f"{', '.join(silent)} must forget the name first, and can't be told"
        if not service.sentinels_of(there):
            return f"no Sentinel is declared in {there}, to watch {candidate} afterwards"
    busy = [each.sentinel for each in _reached(service, seen, home) if each.failing_over]
    if busy:
        return f"{', '.join(busy)} is at a failover: wait for its end"
    followers = [
        each.name for each in service.members_of(there) if each.name != candidate and seen.of(each.name).reachable
    ]
    if len(followers) < service.master.min_replicas:
        needs = service.master.min_replicas
        return f"{candidate} would have {len(followers)} replicas, and takes no writes with fewer than {needs}"
    return None


def _names(service: CacheService, seen: CacheSeen) -> list[object]:
    reached = {each.sentinel for each in seen.sentinels if each.reachable}
    return [each for each in service.sentinels if each.name in reached]


def upstreams(service: CacheService, leader: str, away: Sequence[str] = ()) -> dict[str, str]:
    """Whom each member replicates while `leader` leads, those that are `away` left out.

    Another region's first member follows a replica, and never the leader itself: `min-replicas-to-write` counts every
    direct replica, and one that no Sentinel here may elect would let a master that is cut off go on (docs/adr/0034).
    """
    here = service.member(leader).region
    near = [each.name for each in service.members_of(here) if each.name != leader and each.name not in away]
    found = {name: leader for name in near}
    for region in dict.fromkeys(each.region for each in service.members if each.region != here):
        there = [each.name for each in service.members_of(region) if each.name not in away]
        found |= {name: there[0] if index else (near[-1] if near else leader) for index, name in enumerate(there)}
    return found


def may_move(service: CacheService, leader: str, candidate: str, *, approval: Literal["policy", "always"]) -> Go:
    """Whether a planned move needs a person."""
    if approval == "always":
        return Go(action="ask", reason="whoever started the run wants it approved")
    across = service.member(leader).region != service.member(candidate).region
    if across and service.failover.cross_region == "ask":
        return Go(action="ask", reason=f"{candidate} is in another region (failover.cross_region is `ask`)")
    if across and service.failover.cross_region == "never":
        return Go(action="refuse", reason="the topology never lets it leave its region (failover.cross_region)")
    return Go(action="go", reason=f"{candidate} takes over once it has everything: nothing can be lost")


def digest_of(suspect: str, candidate: str | None, verdict: Verdict) -> str:
    """Of what a person decides on: offsets move all the time, and are not in it."""
    decides = [suspect, candidate, verdict.kind, verdict.at_most_s]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]
