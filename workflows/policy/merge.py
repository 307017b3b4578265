"""Several regions' views of a service as one: what any of them reached is reached, since a region may be cut off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from schemas.facts import MemberFacts
from schemas.orders import FenceResult, FollowResult, Observation


def merge_facts(seen: Iterable[MemberFacts]) -> list[MemberFacts]:
    """One of each member: the newest that reached it, else the newest."""
    best: dict[str, MemberFacts] = {}
    for facts in seen:
        held = best.get(facts.member)
        if held is None or (facts.reachable, facts.at) > (held.reachable, held.at):
            best[facts.member] = facts
    return list(best.values())


def merge_observations(views: Sequence[Observation]) -> Observation:
    """The newest record that any of them read; an error only if none could. ValueError for no view at all."""
    if not views:
        raise ValueError("nobody looked")
    records = [view.record for view in views if view.record is not None]
    readable = any(not view.epoch_error for view in views)
    return Observation(
        record=max(records, key=lambda record: record.epoch, default=None),
        epoch_error="" if readable else views[0].epoch_error,
        members=merge_facts(facts for view in views for facts in view.members),
    )


def clearest(views: Mapping[str, Observation]) -> str | None:
    """The first region that reached all that any region reached; None where none did, or all did alike."""
    reached = {region: {each.member for each in view.members if each.reachable} for region, view in views.items()}
    reached = {region: found | {"record"} if views[region].record else found for region, found in reached.items()}
    everything = set().union(*reached.values())
    whole = [region for region, found in reached.items() if found == everything]
    return whole[0] if whole and len(whole) < len(reached) else None


def merge_fences(parts: Sequence[FenceResult]) -> FenceResult:
    """Whoever was disconnected from anywhere is; missed is only who was reached from nowhere."""
    done = sorted({name for part in parts for name in part.disconnected})
    missed = {name: why for part in parts for name, why in part.missed.items() if name not in done}
    # Only what was read after the disconnection is final, whatever another region's clock says.
    told = [f for part in parts for f in part.members if f.member in part.disconnected or f.member not in done]
    return FenceResult(disconnected=done, missed=missed, members=merge_facts(told))


def merge_follows(parts: Sequence[FollowResult]) -> FollowResult:
    """Whoever was seen to follow does; unreachable is only who was reached from nowhere."""
    following = sorted({name for part in parts for name in part.following})
    diverged = {name: why for part in parts for name, why in part.diverged.items() if name not in following}
    unreachable = {
        name: why
        for part in parts
        for name, why in part.unreachable.items()
        if name not in following and name not in diverged
    }
    return FollowResult(following=following, diverged=diverged, unreachable=unreachable)
