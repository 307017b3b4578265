"""Who may be read: only who follows the leader's timeline, and lags less than declared.

Invariant: no member is read that does not stream, itself or through those that it cascades from, from the leader on
the leader's timeline. A standby without a sender has an unknown lag, however near it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.facts import MemberFacts
from schemas.read_orders import Lag, ReadSet
from schemas.topology import DatabaseService


def who_may_read(
    service: DatabaseService,
    leader: str,
    facts: Sequence[MemberFacts],
    *,
    lags: Mapping[str, Lag],
    lagging: Sequence[str] = (),
) -> ReadSet:
    """The standbys that may be read, each other member with the reason why not.

    `lagging`: these were over the limit, and are not far enough below it yet. Nobody is fit while the leader is not
    known to lead: what the others miss can't be known then.
    """
    assert service.reads is not None
    read = {each.member: each for each in facts if each.reachable}
    head = read.get(leader)
    fit: list[str] = []
    out: dict[str, str] = {}
    for member in service.members:
        if member.name == leader:
            continue
        if service.reads.members and member.name not in service.reads.members:
            out[member.name] = "is not declared to be read"
            continue
        why = _unfit(service, member.name, head, read, leader) or _lag(service, lags.get(member.name))
        if why is None and member.name in lagging:
            why = f"lagged beyond {service.reads.max_lag_s:g} s, and has not caught up for good"
        if why is None:
            fit.append(member.name)
        else:
            out[member.name] = why
    return _or_fallback(service, leader, fit, out, leads=head is not None and not head.in_recovery)


def who_may_read_next(service: DatabaseService, candidate: str, survivors: Sequence[str]) -> ReadSet:
    """Those who follow the candidate before it is promoted, and so are on its timeline from its first commit on."""
    assert service.reads is not None
    fit = [name for name in survivors if not service.reads.members or name in service.reads.members]
    out = {
        member.name: f"does not follow {candidate} yet"
        for member in service.members
        if member.name not in (candidate, *fit)
    }
    return _or_fallback(service, candidate, fit, out, leads=True)


def _or_fallback(service: DatabaseService, leader: str, fit: list[str], out: dict[str, str], *, leads: bool) -> ReadSet:
    assert service.reads is not None
    if fit:
        return ReadSet(leader=leader, members=fit, left_out={leader: "leads", **out})
    if service.reads.fallback == "leader" and leads:
        return ReadSet(leader=leader, members=[leader], left_out=out)
    why = "leads, and is not to be read" if leads else "is not known to lead"
    return ReadSet(leader=leader, members=[], left_out={leader: why, **out})


def _unfit(
    service: DatabaseService, name: str, head: MemberFacts | None, read: Mapping[str, MemberFacts], leader: str
) -> str | None:
    """Why the member is not known to follow the leader's timeline; None when it does."""
    facts = read.get(name)
    if facts is None:
        return "is not reached"
    if head is None or head.in_recovery:
        return f"can't be compared: {leader} is not known to lead"
    if not facts.in_recovery:
        return "leads beside it, and must not be read"
    if facts.system_identifier != head.system_identifier:
        return "is of another cluster"
    if facts.timeline != head.timeline:
        return f"is on timeline {facts.timeline}, and {leader} on {head.timeline}"
    return _cut_off(service, name, read, leader)


def _cut_off(service: DatabaseService, name: str, read: Mapping[str, MemberFacts], leader: str) -> str | None:
    """Along its senders up to the leader, each must stream on the leader's timeline."""
    at, seen = name, {name}
    while at != leader:
        facts = read.get(at)
        via = "" if at == name else f"cascades from {at}, which "
        if facts is None:
            return f"{via}is not reached"
        if facts.timeline != read[leader].timeline:
            return f"{via}is on timeline {facts.timeline}, and {leader} on {read[leader].timeline}"
        if facts.receiver is None or facts.receiver.status != "streaming":
            return f"{via}streams from nobody, so that its lag is unknown"
        where = (facts.receiver.sender_host, facts.receiver.sender_port)
        sender = next((each.name for each in service.members if (each.host, each.port) == where), None)
        if sender is None or sender in seen:
            return f"{via}streams from {where[0]}:{where[1]}, which does not lead to {leader}"
        seen.add(sender)
        at = sender
    return None


def _lag(service: DatabaseService, lag: Lag | None) -> str | None:
    assert service.reads is not None
    if lag is None or (lag.seconds is None and lag.bytes > 0):
        return "lags, and nobody knows how much"
    if lag.seconds is not None and lag.seconds > service.reads.max_lag_s:
        return f"lags {lag.seconds:.1f} s ({lag.bytes} bytes), the limit is {service.reads.max_lag_s:g} s"
    if service.reads.max_lag_bytes is not None and lag.bytes > service.reads.max_lag_bytes:
        return f"lags {lag.bytes} bytes, the limit is {service.reads.max_lag_bytes}"
    return None
