"""The synchronous set while the primary lives: who must acknowledge, and in which order record and setting change.

Invariant: any voters that satisfy the record's R + W > N hold among them every acknowledged commit. So the record is
weakened before the setting, and strengthened only after it, once a commit was acknowledged under the new setting:
an older one may be on none of the voters that remain. A crash in between leaves a record that asks for more than it
must, and the next look goes on from there. (Patroni's quorum.py keeps the same order.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from schemas.facts import EpochRecord, MemberFacts
from schemas.topology import DatabaseService
from workflows.policy.names import FENCED, parse_names, render_names
from workflows.policy.quorum import SyncSet

__all__ = ["FENCED", "Change", "follower_names", "next_set", "parse_names", "render_names"]

_ALONE = SyncSet(0, ())


@dataclass(frozen=True)
class Change:
    """One step: record and setting both become `w` of `voters`, in the order that `record_first` says.

    `widen` weakens what the record promises, `narrow` strengthens it, `repair` brings record and setting together.
    `confirm`: between setting and record a commit must be acknowledged under the new setting
    (`pg_logical_emit_message(true, …)`); without it the record stays as it is. `apply` False: the record only.
    """

    kind: Literal["narrow", "widen", "repair"]
    w: int
    voters: list[str]
    record_first: bool
    reason: str
    confirm: bool = False
    apply: bool = True


def follower_names(service: DatabaseService, survivors: Sequence[str]) -> tuple[int, str]:
    """W and synchronous_standby_names that a new primary starts with.

    `required`: the survivors, or none if there is none (a person has decided on that). `available`: none; they are
    added once they stream.
    """
    if service.synchronous.policy == "available":
        return 0, ""
    w = min(service.synchronous.acknowledgements, len(survivors))
    return w, render_names(w, survivors)


def next_set(
    service: DatabaseService,
    record: EpochRecord,
    primary: MemberFacts,
    *,
    missing_since: Mapping[str, datetime],
    now: datetime,
) -> Change | None:
    """The next step towards the set that the policy wants; None when there is nothing to do or nothing may be done.

    After each step look at the primary again and ask again, until the answer is None: most aims take two.
    `missing_since`: when each voter that doesn't stream was first seen not to.
    """
    if not primary.reachable or primary.in_recovery or primary.member != record.leader:
        return None
    if record.candidate is not None:
        return None  # A run has chosen: the candidate may lead already, and this primary must gain nothing.
    parsed = parse_names(primary.synchronous_names)
    if parsed is not None and FENCED in parsed[1]:
        return None  # A run fenced it; only its undo or a person may let it acknowledge again.
    held = SyncSet.of(record.w, record.voters)
    force = SyncSet.of(*parsed) if parsed is not None else None
    if force is None and held.w:
        return _step(
            service,
            "repair",
            _ALONE,
            f"{primary.member} has synchronous_standby_names = {primary.synchronous_names}, which names no voters that"
            " can be counted: until that is corrected, nobody knows who acknowledges",
            record_first=True,
            apply=False,
        )
    if force is None and not _declared(service, primary):
        return None
    if force is not None and not held.binds(force):
        return _step(
            service,
            "repair",
            held.union(force),
            f"{primary.member} acknowledges with {_text(force)}, the record says {_text(held)}: the record must bind"
            " both before anything else",
            record_first=True,
        )
    wanted = _wanted(service, primary, held, force or _ALONE, missing_since, now)
    in_step = force is not None and held.same(force)
    if not held.binds(wanted):
        aim = held.union(wanted)
        reason = f"{_why(service, held, wanted)}: {_text(held)} becomes {_text(aim)}, the record first"
        return _step(service, "widen" if in_step else "repair", aim, reason, record_first=True)
    if in_step and held.same(wanted):
        return None
    able = len(wanted.reached(_streaming(primary))) >= wanted.w
    if force is not None and force.same(wanted) and not able:
        return None  # The record waits for a commit that is acknowledged, and that for a voter to come back.
    reason = f"{_why(service, held, wanted)}: {_text(force or _ALONE)} becomes {_text(wanted)}, the record last"
    return _step(
        service,
        "narrow" if in_step else "repair",
        wanted,
        reason,
        record_first=False,
        confirm=not held.same(wanted),
    )


def _wanted(
    service: DatabaseService,
    primary: MemberFacts,
    held: SyncSet,
    force: SyncSet,
    missing_since: Mapping[str, datetime],
    now: datetime,
) -> SyncSet:
    """The set that the policy wants now, wherever record and setting stand."""
    policy = service.synchronous
    declared = _declared(service, primary)
    if not declared:
        return force  # Its owner's own affair: the record only follows it.
    found = _streaming(primary)
    streaming = [name for name in declared if name in found]
    present = [*held.voters, *force.voters]

    def lost(name: str) -> bool:
        return (now - missing_since.get(name, now)).total_seconds() >= policy.lost_after_s

    voters = [name for name in declared if name in streaming or (name in present and not lost(name))]
    # W rises only to what streams, so that no commit waits for a voter that isn't there.
    w = min(policy.acknowledgements, len(declared), max(force.w, len(streaming)))
    if policy.policy == "available":
        w = min(w, len(voters))
    if len(streaming) < w:
        # Writes wait, whoever leaves; with all of them still in the set, the first to come back ends that.
        voters += present
    return SyncSet.of(w, voters)


def _declared(service: DatabaseService, primary: MemberFacts) -> list[str]:
    return [name for name in service.synchronous.voters if name != primary.member]


def _streaming(primary: MemberFacts) -> set[str]:
    return {each.name for each in primary.standbys if each.state == "streaming"}


def _why(service: DatabaseService, held: SyncSet, wanted: SyncSet) -> str:
    joined = [name for name in wanted.voters if name not in held.voters]
    left = [name for name in held.voters if name not in wanted.voters]
    said = []
    if joined:
        said.append(f"{', '.join(joined)} streams")
    if left:
        said.append(f"{', '.join(left)} has not streamed for {service.synchronous.lost_after_s:g} s")
    if wanted.w != held.w:
        said.append(f"{wanted.w} instead of {held.w} can acknowledge")
    return "; ".join(said) or "record and setting differ"


def _text(sync: SyncSet) -> str:
    return f"{sync.w} of {', '.join(sync.voters)}" if sync.w else "nobody"


def _step(
    service: DatabaseService,
    kind: Literal["narrow", "widen", "repair"],
    aim: SyncSet,
    reason: str,
    *,
    record_first: bool,
    confirm: bool = False,
    apply: bool = True,
) -> Change:
    declared = service.synchronous.voters
    voters = sorted(aim.voters, key=lambda name: (declared.index(name) if name in declared else len(declared), name))
    return Change(kind, aim.w, voters, record_first, reason, confirm, apply)
