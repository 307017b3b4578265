"""What a promotion can lose, judged before it is done (safety.md, "One inequality")."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import datetime

from schemas.decisions import Verdict
from schemas.facts import EpochRecord, MemberFacts, lsn_text
from workflows.policy.candidate import is_behind, reach_of, system_identifier, where
from workflows.policy.quorum import SyncSet, binding_sets

CLOCK_S = 1.0
"""How far the clocks of two regions' workers are taken to differ at most; a bound in seconds holds so much more."""


def judge_loss(
    record: EpochRecord | None,
    *,
    suspect: str,
    candidate: MemberFacts | None,
    facts: Sequence[MemberFacts],
    disconnected: Collection[str] | None = None,
    ended: datetime | None = None,
) -> Verdict:
    """`none` only if R + W > N holds for every set of the record, and the candidate is behind none of R.

    R are the voters reached or, once `disconnected` is given, reached and disconnected: only then is the verdict
    final. W and the voters come from the record, never from a server. Otherwise `bounded` when the furthest position
    that can have been acknowledged is known (bytes of WAL), or the time in which it was: all that was committed before
    the newest heartbeat that the candidate holds is there too, by the order of WAL, and the suspect acknowledged
    nothing from `ended` on. `ended` None: nobody knows that, and it may go on: `unknown`.
    """
    if candidate is None:
        return Verdict(kind="unknown", reason="there is no candidate whose loss could be judged")
    if record is None:
        return Verdict(kind="unknown", reason="there is no epoch record, so nobody knows who had to acknowledge")
    system = system_identifier(suspect, facts)
    counted = {
        each.member: each
        for each in facts
        if each.reachable and each.member != suspect and each.system_identifier == system
        # A recorded candidate that leads already receives nothing from the old primary.
        if (each.member == candidate.member and not each.in_recovery)
        or (each.in_recovery and (disconnected is None or each.member in disconnected))
    }
    told: list[str] = []
    failed: list[str] = []
    ahead: list[MemberFacts] = []
    for sync in binding_sets(record):
        if _is_its_own(sync, record, candidate):
            told.append(f"{candidate.member} itself holds what it acknowledged")
            continue
        (told if sync.holds(counted) else failed).append(_sum(sync, counted, final=disconnected is not None))
        ahead += [counted[name] for name in sync.reached(counted) if is_behind(candidate, counted[name])]
    if not failed and not ahead:
        told.append(f"{candidate.member} at {where(candidate)} is behind none of them")
        return Verdict(kind="none", reason="; ".join(told))
    failed += [f"the voter {each.member} at {where(each)} is ahead of {candidate.member}" for each in ahead]
    bytewise = _bound(suspect, candidate, facts, ahead, failed, inequality=len(failed) == len(ahead))
    if bytewise.kind == "bounded" or candidate.heartbeat is None:
        return bytewise
    others = [each for each in facts if each.reachable and each.system_identifier == system]
    if any(each.timeline > candidate.timeline for each in others):
        return bytewise  # Its heartbeat may be of a branch that was left.
    if record.candidate not in (None, candidate.member):
        return bytewise  # That one may have led, and acknowledged, since.
    return _bound_in_time(suspect, candidate, candidate.heartbeat, ended, bytewise.reason)


def _is_its_own(sync: SyncSet, record: EpochRecord, candidate: MemberFacts) -> bool:
    """Whether the candidate leads, or would have led, this set: what it acknowledged it has itself."""
    return sync.leader == candidate.member and (sync.leader == record.candidate or not candidate.in_recovery)


def _sum(sync: SyncSet, counted: Collection[str], *, final: bool) -> str:
    reached = sync.reached(counted)
    r, w, n = len(reached), sync.w, len(sync.voters)
    if not w:
        return f"{sync.leader} acknowledged alone, so commits may be there and nowhere else"
    state = "reached and disconnected" if final else "reached"
    head = f"{r} of {sync.leader}'s {n} voters {'is' if r == 1 else 'are'} {state}, {w} acknowledged each commit"
    if r + w > n:
        return f"{head} ({r} + {w} > {n})"
    missing = ", ".join(name for name in sync.voters if name not in reached)
    return f"{head} ({r} + {w} > {n} fails): {missing} may hold commits that no other has"


def _bound(
    suspect: str,
    candidate: MemberFacts,
    facts: Sequence[MemberFacts],
    ahead: Sequence[MemberFacts],
    failed: Sequence[str],
    *,
    inequality: bool,
) -> Verdict:
    """What was acknowledged lies below what the suspect wrote or, if R + W > N holds, below the furthest voter."""
    written = [each for each in facts if each.member == suspect and each.reachable and each.written is not None]
    known = [*written, *ahead]
    told = [*failed, f"{candidate.member} holds up to {lsn_text(reach_of(candidate))}"]
    told += [f"{suspect} had written up to {lsn_text(each.written)} when it was read" for each in written]
    if any(each.timeline != candidate.timeline for each in known):
        # Between timelines a difference of positions says nothing about what is on only one of them.
        told.append("they are on different timelines, so their positions can't be compared")
    elif written or inequality:
        most = max(reach_of(each) for each in known) - reach_of(candidate)
        if most > 0:
            until = max(candidate.at, *(each.at for each in known))
            seconds = _seconds(candidate, until)
            return Verdict(kind="bounded", reason="; ".join(told), at_most_bytes=most, at_most_s=seconds)
        # Never shown as a loss of 0: the suspect was not stopped when it was read.
        told.append(f"nothing was missing then, but {suspect} may have acknowledged more since")
    return Verdict(kind="unknown", reason="; ".join(told))


def _bound_in_time(
    suspect: str, candidate: MemberFacts, heartbeat: datetime, ended: datetime | None, reason: str
) -> Verdict:
    told = f"{reason}; {candidate.member} holds all that was committed before {heartbeat:%H:%M:%S} UTC (its heartbeat)"
    if ended is None:
        return Verdict(kind="unknown", reason=f"{told}, and {suspect} may have acknowledged since, or still do")
    seconds = _seconds(candidate, ended)
    if seconds is None or (heartbeat - ended).total_seconds() > CLOCK_S:
        return Verdict(kind="unknown", reason=f"{told}, which is after its end: the clocks disagree")
    return Verdict(
        kind="bounded",
        reason=f"{told}, and nothing listened at {suspect}'s port from {ended:%H:%M:%S} UTC on",
        at_most_s=seconds,
    )


def _seconds(candidate: MemberFacts, until: datetime) -> float | None:
    """How old what the candidate lacks can be at most, of all that was committed until then; rounded up."""
    if candidate.heartbeat is not None:
        age = (until - candidate.heartbeat).total_seconds() + CLOCK_S
    elif candidate.replay_age_s is not None:
        age = candidate.replay_age_s + (until - candidate.at).total_seconds()
    else:
        return None
    return math.ceil(max(age, 0.1) * 10) / 10
