"""The synchronous set while the primary lives, and the set that a new primary starts with.

The invariant (safety.md, "One inequality"): R + W > N over the recorded set must imply it over the set in force. So the
record is written before the set is widened and after it is narrowed; in between the recorded set is the larger one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from schemas.base import Fact
from schemas.facts import EpochRecord, MemberFacts
from schemas.topology import DatabaseService

_NAMES = re.compile(r"^\s*(?:(ANY|FIRST)\s+)?(\d+)\s*\((.*)\)\s*$", re.IGNORECASE)


class Change(Fact):
    """Make the set `w` of `voters`. `record_first`: before the setting (widen), else after it (narrow)."""

    kind: Literal["narrow", "widen", "repair"]
    w: int
    voters: list[str]
    record_first: bool
    reason: str


def parse_names(names: str) -> tuple[int, list[str]] | None:
    """(W, voters) of synchronous_standby_names (PostgreSQL manual, 20.6.2); (0, []) for ""; None if unreadable."""
    if not names.strip():
        return 0, []
    match = _NAMES.match(names)
    listed = match.group(3) if match else names
    voters = [part.strip().strip('"') for part in listed.split(",")]
    if not all(voters) or any(not re.fullmatch(r"[\w.-]+", name) for name in voters):
        return None
    return (int(match.group(2)) if match else 1), voters


def render_names(w: int, names: Sequence[str]) -> str:
    """`ANY 1 ("pg-east-2","pg-east-3")`; "" when nobody has to acknowledge."""
    if not names or w == 0:
        return ""
    quoted = ",".join(f'"{name}"' for name in names)
    return f"ANY {w} ({quoted})"


def follower_names(service: DatabaseService, survivors: Sequence[str]) -> tuple[int, str]:
    """(W, names) that a candidate is promoted with: its surviving voters, or none (`available`, or nobody left)."""
    if service.synchronous.policy == "available" or not survivors:
        return 0, ""
    w = min(service.synchronous.acknowledgements, len(survivors))
    return w, render_names(w, sorted(survivors))


def next_set(
    service: DatabaseService,
    record: EpochRecord,
    primary: MemberFacts,
    *,
    missing_since: Mapping[str, datetime],
    now: datetime,
) -> Change | None:
    """The next change of the set, one at a time; None when it is as it should be, or can't be helped.

    A voter that is missing for `lost_after_s` leaves, but never so that fewer than W are left: then writes wait, which
    is what the policy asks for. A voter that streams joins. A record that differs from the setting is repaired first,
    toward a set that contains both, since a crash may have come between the two writes.
    """
    parsed = parse_names(primary.synchronous_names)
    if parsed is None or primary.in_recovery or record.candidate is not None:
        return None
    w_set, in_force = parsed
    eligible = [name for name in service.synchronous.voters if name != record.leader]
    if not eligible:
        return None
    streaming = {each.name for each in primary.standbys if each.state == "streaming"}
    if "__fenced__" in in_force:
        return None
    if (w_set, sorted(in_force)) != (record.w, sorted(record.voters)):
        if not in_force and not record.voters:
            pass
        elif set(in_force) < set(record.voters) and in_force:
            # A narrowing that did not reach the record: the larger record is safe, and follows the setting now.
            return Change(
                kind="repair", w=w_set, voters=sorted(in_force), record_first=False, reason="the record follows the set"
            )
        else:
            both = sorted({*in_force, *record.voters} & set(eligible))
            w = max(1, min(service.synchronous.acknowledgements, len(both)))
            return Change(
                kind="repair", w=w, voters=both, record_first=True, reason="record and setting differ: to their union"
            )
    limit = service.synchronous.lost_after_s
    lost = [
        name
        for name in record.voters
        if name not in streaming and name in missing_since and (now - missing_since[name]).total_seconds() >= limit
    ]
    joining = [name for name in eligible if name in streaming and name not in record.voters]
    acknowledgements = service.synchronous.acknowledgements
    if joining:
        voters = sorted([*record.voters, *joining])
        return Change(
            kind="widen",
            w=min(acknowledgements, len(voters)),
            voters=voters,
            record_first=True,
            reason=f"{', '.join(joining)} streams again",
        )
    if lost:
        voters = sorted(name for name in record.voters if name not in lost)
        if len(voters) >= acknowledgements:
            return Change(
                kind="narrow",
                w=min(acknowledgements, len(voters)),
                voters=voters,
                record_first=False,
                reason=f"{', '.join(lost)} has not streamed for {limit:.0f} s",
            )
    return None
