"""Several regions' views of a cache as one, and which Sentinels watch somebody of the past."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.cache import CacheService
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


def _beyond_doubt(service: CacheService, seen: CacheSeen) -> str | None:
    """Who leads, by the record and by its role, with no election under way and no other that Sentinels name; or None.

    Sentinels that have moved the master by themselves are followed (cache_failover.py), and never turned back.
    """
    record = seen.record
    if record is None or record.candidate is not None or record.leader not in service.member_names():
        return None
    leader = seen.of(record.leader)
    if not leader.reachable or leader.role != "master":
        return None
    here = {each.name for each in service.sentinels_of(service.member(record.leader).region)}
    ours = [each for each in seen.sentinels if each.sentinel in here and each.reachable]
    if any(each.failing_over for each in ours):
        return None
    named = {each.master for each in ours if each.watches}
    if any(facts.member in named for facts in seen.masters() if facts.member != record.leader):
        return None
    return record.leader


def astray(service: CacheService, seen: CacheSeen) -> dict[str, str | None]:
    """Region → whom its Sentinels must be told to watch (None: nobody), where some that answer watch another."""
    leader = _beyond_doubt(service, seen)
    if leader is None:
        return {}
    watching = {each.sentinel: each for each in seen.sentinels if each.reachable}
    found: dict[str, str | None] = {}
    home = service.member(leader).region
    for sentinel in service.sentinels:
        told = watching.get(sentinel.name)
        if told is None:
            continue
        if sentinel.region == home and told.master != leader:
            found[home] = leader
        elif sentinel.region != home and told.watches:
            found[sentinel.region] = None
    return found


def led_once(service: CacheService, seen: CacheSeen) -> list[str]:
    """Masters beside the leader that no Sentinel names: they came back, and nobody would turn them around.

    None while a Sentinel that answers is astray, or most of the leader's region do not answer: it might be theirs.
    """
    leader = _beyond_doubt(service, seen)
    if leader is None or astray(service, seen):
        return []
    there = {each.name for each in service.sentinels_of(service.member(leader).region)}
    naming = [each for each in seen.sentinels if each.sentinel in there and each.master == leader]
    if len(naming) * 2 <= len(there) or not seen.of(leader).keys:
        return []
    return [facts.member for facts in seen.masters() if facts.member != leader]
