"""Several regions' views of a cache as one: whoever was reached from anywhere is there."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.cache_facts import CacheSeen


def merge_seen(views: Sequence[CacheSeen]) -> CacheSeen:
    """The newest view of each server and Sentinel by a region that reached it; the record of the highest epoch."""
    records = [view.record for view in views if view.record is not None]
    record = max(records, key=lambda each: (each.epoch, each.change), default=None)
    members = [
        max((view.members[index] for view in views), key=lambda facts: (facts.reachable, facts.at))
        for index in range(len(views[0].members))
    ]
    sentinels = [
        max((view.sentinels[index] for view in views), key=lambda facts: (facts.reachable, facts.at))
        for index in range(len(views[0].sentinels))
    ]
    errors = [view.epoch_error for view in views if view.epoch_error]
    return CacheSeen(
        record=record,
        epoch_error=errors[0] if record is None and errors else "",
        members=members,
        sentinels=sentinels,
    )
