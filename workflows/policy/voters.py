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
            "repair",
            _ALONE,
            f"{primary.member} has synchronous_standby_names = {primary.synchronous_names}, which names no voters that"
            " can be counted: until that is corrected, nobody knows who acknowledges",
            record_first=True,
            apply=False,
        )
    if force is not None and not held.binds(force):
        return _step(
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
        return _step("widen" if in_step else "repair", aim, reason, record_first=True)
    if in_step and held.same(wanted):
        return None
    reason = f"{_why(service, held, wanted)}: {_text(force or _ALONE)} becomes {_text(wanted)}, the record last"
    return _step(
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
    declared = [name for name in policy.voters if name != primary.member]
    need = min(policy.acknowledgements, len(declared))
    found = {each.name for each in primary.standbys if each.state == "streaming"}
    streaming = [name for name in declared if name in found]
    present = list(dict.fromkeys(held.voters + force.voters))

    def lost(name: str) -> bool:
        return (now - missing_since.get(name, now)).total_seconds() >= policy.lost_after_s

    kept = [name for name in declared if name in streaming or (name in present and not lost(name))]
    if policy.policy == "required":
        # Never below what is required: who was lost last has the most, and comes back first as likely as not.
        spare = sorted(
            (name for name in present if name not in kept),
            key=lambda name: (name not in declared, now - missing_since.get(name, now)),
        )
        kept += spare[: max(0, max(need, min(force.w, 1)) - len(kept))]
    # W rises only to what streams, so that no commit waits for a voter that isn't there.
    return SyncSet.of(min(need or force.w, max(force.w, len(streaming))), kept)


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
    kind: Literal["narrow", "widen", "repair"],
    aim: SyncSet,
    reason: str,
    *,
    record_first: bool,
    confirm: bool = False,
    apply: bool = True,
) -> Change:
    return Change(kind, aim.w, list(aim.voters), record_first, reason, confirm, apply)
