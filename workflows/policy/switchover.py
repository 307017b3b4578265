"""Whether a planned move may begin, to whom, and the comparison without which nobody is promoted (safety.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from schemas.decisions import Go
from schemas.facts import MemberFacts, lsn_text
from schemas.rejoin import FolderFacts
from schemas.topology import DatabaseService

CLOSE_BYTES = 64 * 1024 * 1024
"""A candidate that is further behind would keep clients waiting while it receives the rest."""


def candidates_of(service: DatabaseService, leader: str) -> list[str]:
    """Who may take over, in order: of the leader's own region first."""
    region = service.member(leader).region
    able = [name for name in service.may_be_promoted() if name != leader]
    return sorted(able, key=lambda name: service.member(name).region != region)


def choose(
    service: DatabaseService, leader: MemberFacts, facts: Sequence[MemberFacts], requested: str | None
) -> tuple[str | None, str]:
    """The candidate and why, or None and why nobody."""
    found = {each.member: each for each in facts}
    name, why = first_fit(service, leader, requested, lambda name: unfit(found.get(name), leader))
    if name is None:
        return None, why
    return name, f"{name} streams from {leader.member}, {_behind(found[name], leader)} bytes behind"


def first_fit(
    service: DatabaseService, leader: MemberFacts, requested: str | None, unfit: Callable[[str], str | None]
) -> tuple[str | None, str]:
    """The first candidate, or the requested one, that `unfit` has nothing against; or None and why nobody."""
    known = candidates_of(service, leader.member)
    if requested is not None and requested not in known:
        return None, f"{requested} is not declared as a candidate; one of: {', '.join(known) or 'nobody'}"
    passed: list[str] = []
    for name in [requested] if requested is not None else known:
        why = unfit(name)
        if why is None:
            return name, ""
        passed.append(f"{name} {why}")
    return None, "; ".join(passed) or "no member is declared as a candidate"


def unfit(facts: MemberFacts | None, leader: MemberFacts) -> str | None:
    """Why a member can't take over now, as text; None when it can."""
    if (why := no_standby(facts, leader)) is not None:
        return why
    assert facts is not None
    if facts.member not in {each.name for each in leader.standbys if each.state == "streaming"}:
        return f"does not stream from {leader.member}"
    if facts.timeline != leader.timeline:
        return f"is on timeline {facts.timeline}, {leader.member} on {leader.timeline}"
    if _behind(facts, leader) > CLOSE_BYTES:
        return f"is {_behind(facts, leader)} bytes behind"
    return None


def no_standby(facts: MemberFacts | None, leader: MemberFacts) -> str | None:
    """Why a member is no standby of this cluster that is in reach, as text; None where it is."""
    if facts is None or not facts.reachable:
        return "is not reached"
    if not facts.in_recovery:
        return "is not a standby"
    if facts.system_identifier != leader.system_identifier:
        return "is of another cluster"
    return None


def _behind(facts: MemberFacts, leader: MemberFacts) -> int:
    """By what it has replayed: a promotion replays the rest while clients wait."""
    return max((leader.written or 0) - (facts.replayed or 0), 0)


def leads_alone(service: DatabaseService, leader: MemberFacts, candidate: str) -> bool:
    """Whether no other voter streams, so that the candidate would acknowledge alone, which the policy forbids."""
    streaming = {each.name for each in leader.standbys if each.state == "streaming"}
    others = streaming & set(service.synchronous.voters) - {leader.member, candidate}
    return service.synchronous.policy == "required" and not others


def may_switch(service: DatabaseService, leader: str, candidate: str, *, approval: str, alone: bool = False) -> Go:
    """By policy alone inside the leader's region; across regions, or where it is asked for, a person decides, as where
    the candidate would acknowledge `alone` (leads_alone) until the old primary is back.
    """
    if alone:
        reason = (
            f"no other voter streams: {candidate} would acknowledge alone until {leader} is back, although the"
            " synchronous policy is `required`; bring one back first"
        )
        return Go(action="ask", reason=reason)
    if approval == "always":
        return Go(action="ask", reason="the request asks for an approval")
    here, there = service.member(leader).region, service.member(candidate).region
    if here != there:
        voters = [name for name in service.synchronous.voters if name not in (leader, candidate)]
        far = [name for name in voters if service.member(name).region != there]
        wait = f"; each commit there would wait for {' or '.join(far)} in another region" if far == voters != [] else ""
        return Go(action="ask", reason=f"{candidate} is in {there}, {leader} in {here}{wait}")
    return Go(action="go", reason=f"planned, to {candidate} in the same region")


def has_all(folder: FolderFacts, candidate: MemberFacts) -> str | None:
    """Why the candidate may not be promoted, as text; None when it has received past the last checkpoint of a primary
    that was shut down, after which there is nothing.
    """
    if folder.running:
        return f"{folder.member} runs"
    if folder.state != "shut down":
        return f"{folder.member} was not shut down (its state is “{folder.state}”), so nobody knows where its WAL ends"
    if not candidate.reachable:
        return f"{candidate.member} is not reached"
    if candidate.position <= folder.checkpoint:
        return (
            f"{candidate.member} has received up to {lsn_text(candidate.position)}, and {folder.member} was shut down"
            f" at {lsn_text(folder.checkpoint)}"
        )
    return None
