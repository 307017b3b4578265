"""Death, candidate, loss and survivors as one assessment, and whether a later one is covered by what was decided on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from datetime import datetime

from schemas.decisions import Assessment, Death, Verdict
from schemas.facts import EpochRecord, MemberFacts
from schemas.topology import DatabaseService
from workflows.policy.candidate import choose_candidate, is_behind, system_identifier
from workflows.policy.loss import judge_loss
from workflows.policy.quorum import SyncSet, binding_sets

CLOSE_BYTES = 16 * 2**20
"""How far behind the candidate a survivor should be: the first commit waits until it has caught up. One WAL segment."""

_WORSE = ("none", "bounded", "unknown")


def assess(
    service: DatabaseService,
    *,
    suspect: str,
    death: Death,
    record: EpochRecord | None,
    facts: Sequence[MemberFacts],
    requested: str | None = None,
    disconnected: Collection[str] | None = None,
    lost: Collection[str] = (),
    ended: datetime | None = None,
) -> Assessment:
    """What a decision is made on; final once `disconnected` is given, provisional before.

    `ended`: the suspect is known to have acknowledged nothing from then on.

    `lost` died since they were disconnected: they vote with the position that they had, and confirm nothing any more.

    Without a record the declared voters stand in for the choice of a candidate, and the verdict is `unknown`.
    """
    sets = binding_sets(record) if record is not None else []
    declared = [name for name in service.synchronous.voters if name != suspect]
    voters = [name for each in sets for name in each.voters] if record is not None else declared
    choice = choose_candidate(
        service,
        suspect,
        facts,
        voters=voters,
        requested=requested,
        disconnected=disconnected,
        recorded=record.candidate if record is not None else None,
    )
    candidate = next((each for each in facts if each.member == choice.candidate), None)
    verdict = judge_loss(
        record, suspect=suspect, candidate=candidate, facts=facts, disconnected=disconnected, ended=ended
    )
    return Assessment(
        suspect=suspect,
        death=death,
        choice=choice,
        verdict=verdict,
        w=record.w if record is not None else 0,
        voters=list(record.voters) if record is not None else [],
        survivors=_survivors(
            service, suspect, candidate, [each for each in facts if each.member not in lost], disconnected
        ),
        digest=digest_of(suspect, sets, choice.candidate, verdict),
    )


def digest_of(suspect: str, sets: Sequence[SyncSet], candidate: str | None, verdict: Verdict) -> str:
    """12 hexadecimal digits over what decides (invariant 10). No position and no age is in it: those move."""
    decides = {
        "suspect": suspect,
        "sets": [[each.leader, each.w, sorted(each.voters)] for each in sets],
        "candidate": candidate,
        # From when and until when are both past where time is all that bounds it: that does not move.
        "loss": [verdict.kind, verdict.at_most_s if verdict.in_time_only else verdict.at_most_bytes],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def covers(approved: Assessment, final: Assessment) -> str | None:
    """Why `final` is worse than what was decided on, as text for who must decide again; None when it isn't."""
    worse: list[str] = []
    if final.suspect != approved.suspect:
        worse.append(f"the suspect is {final.suspect}, decided on was {approved.suspect}")
    if final.choice.candidate not in (approved.choice.candidate, *approved.choice.open_to):
        worse.append(
            f"the candidate is {final.choice.candidate or 'none'}, decided on was"
            f" {approved.choice.candidate or 'none'}: {final.choice.reason}"
        )
    if (final.w, set(final.voters)) != (approved.w, set(approved.voters)):
        worse.append(f"the synchronous set is {_set_text(final)}, decided on was {_set_text(approved)}")
    if _is_worse(final.verdict, approved.verdict):
        worse.append(
            f"the loss is {final.verdict.text()}, decided on was {approved.verdict.text()}: {final.verdict.reason}"
        )
    if approved.survivors and not final.survivors:
        worse.append(
            f"no voter is left to confirm the candidate's commits, decided on was {', '.join(approved.survivors)}"
        )
    return "; ".join(worse) or None


def _is_worse(final: Verdict, approved: Verdict) -> bool:
    if final.kind != approved.kind:
        return _WORSE.index(final.kind) > _WORSE.index(approved.kind)
    if final.kind != "bounded":
        return False
    if final.in_time_only != approved.in_time_only:
        return True  # Seconds and bytes can't be compared, and another thing is known of the primary than was.
    if approved.in_time_only:
        return approved.at_most_s is not None and (final.at_most_s is None or final.at_most_s > approved.at_most_s)
    assert approved.at_most_bytes is not None
    return final.at_most_bytes is None or final.at_most_bytes > approved.at_most_bytes


def _set_text(assessment: Assessment) -> str:
    return f"{assessment.w} of {', '.join(sorted(assessment.voters)) or 'none'}"


def _survivors(
    service: DatabaseService,
    suspect: str,
    candidate: MemberFacts | None,
    facts: Sequence[MemberFacts],
    disconnected: Collection[str] | None,
) -> list[str]:
    """Declared voters that can follow the candidate, or one that stands in for them.

    One that is ahead of the candidate is past the fork, and can't.
    """
    if candidate is None or service.synchronous.policy != "required":
        return []
    system = system_identifier(suspect, facts)
    able = {
        each.member: each
        for each in facts
        if each.reachable
        and each.in_recovery
        and each.member not in (suspect, candidate.member)
        and each.system_identifier == system
        and (disconnected is None or each.member in disconnected)
        and not is_behind(candidate, each)
    }
    voters = [name for name in service.synchronous.voters if name in able]
    close = [name for name in voters if candidate.position - able[name].position <= CLOSE_BYTES]
    if voters:
        # The first commit waits for all of them: one that is far behind is left to catch up later, if others are not.
        return close if len(close) >= service.synchronous.acknowledgements else voters
    # Without a voter, one that may be promoted itself stands in: what it confirms, it may be trusted to lead with.
    others = [
        able[name]
        for name in service.may_be_promoted()
        if name in able
        and service.member(name).follows is None
        # A commit that waits for another region is its owner's decision, who names voters there.
        and service.member(name).region == service.member(candidate.member).region
        and candidate.position - able[name].position <= CLOSE_BYTES
    ]
    return [max(others, key=lambda each: each.position).member] if others else []
