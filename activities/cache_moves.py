"""Moving a cache: by Sentinel where it can, by hand where it can't; who replicates whom; who is watched.

A second `SENTINEL FAILOVER` that begins on another Sentinel while the first is under way leaves two replicas following
each other and no master (seen). So all Sentinels must be calm first, and one of them is asked, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from redis.exceptions import ResponseError
from temporalio import activity

from activities.beating import beating
from activities.cache_survey import (
    look_at_member,
    look_at_sentinel,
    names_by_address,
    read_member,
    read_sentinel,
)
from activities.redis_sessions import Talk, acting
from activities.secrets import resolve
from schemas.cache import CacheService, Sentinel
from schemas.cache_facts import CacheFacts, SentinelFacts
from schemas.cache_orders import (
    CalmOrder,
    Elected,
    ElectionOrder,
    ElectOrder,
    FollowedBy,
    FollowMasterOrder,
    MonitorOrder,
    MoveOrder,
)
from schemas.failures import CacheUnreachable, NotElected, NotYet

LOOK_S = 0.02
ELECT_S = 8.0
"""An election that was asked for takes 0.2 s, and up to 2 s where a Sentinel has not asked the replicas for a while."""
BEGIN_S = 1.5
"""By then a Sentinel that took the order shows it."""


async def _sentinels(service: CacheService, region: str) -> list[SentinelFacts]:
    looked = await asyncio.gather(*(look_at_sentinel(service, each) for each in service.sentinels_of(region)))
    return list(looked)


def restless(found: Sequence[SentinelFacts], leader: str, preferred: str | None) -> list[str]:
    """Why these Sentinels should not be asked yet."""
    reached = [each for each in found if each.reachable]
    why = [f"{each.sentinel} is at a failover" for each in reached if each.failing_over]
    why += [f"{each.sentinel} watches {each.master or 'nobody'}" for each in reached if each.master != leader]
    epochs = {each.config_epoch for each in reached}
    if len(epochs) > 1:
        why.append(f"their configuration epochs differ: {sorted(epochs)}")
    if preferred is not None:
        why += [
            f"{each.sentinel} does not know yet that {preferred} is preferred"
            for each in reached
            if any(number <= each.priorities.get(preferred, 0) for number in _others(each, preferred))
        ]
    return why


def _others(facts: SentinelFacts, preferred: str) -> list[int]:
    return [number for name, number in facts.priorities.items() if name != preferred and number]


@activity.defn
async def until_calm(order: CalmOrder) -> str:
    """Wait until the region's Sentinels agree on the leader, none is at a failover, and all know who is preferred."""
    async with beating("until the Sentinels are calm"):
        end = asyncio.get_running_loop().time() + order.limit_s
        while True:
            found = await _sentinels(order.service, order.region)
            reached = [each for each in found if each.reachable]
            why = restless(found, order.leader, order.preferred)
            if reached and not why:
                return f"{len(reached)} of {len(found)} Sentinels agree on {order.leader}"
            if asyncio.get_running_loop().time() > end:
                raise NotYet("; ".join(why) or "no Sentinel answers")
            await asyncio.sleep(0.1)


@activity.defn
async def let_sentinel_elect(order: ElectOrder) -> Elected:
    """One Sentinel moves the master to whom it prefers; done where another than the old one is the master already.

    NotElected where nothing has moved, and nobody works on it.
    """
    service = order.service
    asked_of = ""
    loop = asyncio.get_running_loop()
    end = loop.time() + ELECT_S
    async with beating("Sentinel moves the master"):
        while True:
            done = await _elected(service, order, asked_of)
            if done is not None:
                return done
            found = await _sentinels(service, order.region)
            busy = [each.sentinel for each in found if each.failing_over]
            if not busy and not asked_of:
                asked_of = await _ask_one(order, found)
                began = loop.time()
                while not busy and loop.time() < began + BEGIN_S and done is None:
                    done = await _elected(service, order, asked_of)
                    busy = [each.sentinel for each in await _sentinels(service, order.region) if each.failing_over]
                if done is not None:
                    return done
                if not busy:
                    raise NotElected(f"{asked_of} was asked, and did not begin")
            if loop.time() > end:
                if busy:
                    raise NotYet(f"{', '.join(busy)} is at it")
                raise NotElected(f"{asked_of} began, and gave up")
            await asyncio.sleep(LOOK_S)


async def _elected(service: CacheService, order: ElectOrder, by: str) -> Elected | None:
    """Who of the region leads instead of the old one."""
    there = [each for each in service.members_of(order.region) if each.name != order.old]
    looked = await asyncio.gather(*(look_at_member(service, each, limit=1.0) for each in there))
    masters = [each for each in looked if each.reachable and each.role == "master"]
    if len(masters) != 1:
        return None
    return Elected(member=masters[0].member, at=datetime.now(UTC), by=by or "Sentinel", offset=masters[0].offset)


async def _ask_one(order: ElectOrder, found: Sequence[SentinelFacts]) -> str:
    """SENTINEL FAILOVER at the first that may: it needs no other's agreement."""
    refusals: list[str] = []
    for facts in found:
        if not facts.reachable or facts.master != order.old:
            continue
        sentinel = next(each for each in order.service.sentinels if each.name == facts.sentinel)
        try:
            async with acting(order, sentinel) as asked:
                await asked("SENTINEL", "FAILOVER", order.service.monitor.name)
                return facts.sentinel
        except CacheUnreachable as error:
            refusals.append(error.detail)
            if "refuses" not in error.detail:
                # It may have been told: another must not be asked as well.
                return facts.sentinel
    raise NotElected("; ".join(refusals) or f"no Sentinel watches {order.old}")


@activity.defn
async def until_elected(order: ElectionOrder) -> Elected:
    """The region has a new master: elected by its Sentinels within their time, else one of them is made to elect, else
    Lifeboat promotes the candidate. Seen in its role, and never a second one beside it.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + (0.0 if order.helps else order.patience_s)
    asked_of = ""
    async with beating("until a master is elected"):
        while True:
            done = await _elected(order.service, order, asked_of)
            if done is not None:
                return done
            found = await _sentinels(order.service, order.region)
            busy = [each.sentinel for each in found if each.failing_over]
            if busy:
                until = max(until, loop.time() + BEGIN_S)
            elif loop.time() > until:
                if asked_of:
                    return await _promote_by_hand(order)
                asked_of = await _help(order, found)
                if not asked_of:
                    return await _promote_by_hand(order)
                until = loop.time() + ELECT_S
            await asyncio.sleep(LOOK_S)


async def _help(order: ElectionOrder, found: Sequence[SentinelFacts]) -> str:
    """Make one Sentinel elect, without the others' agreement; "" where none takes it."""
    try:
        return await _ask_one(order, found)
    except NotElected as error:
        activity.logger.warning("no Sentinel elects: %s", error.detail)
        return ""


async def _promote_by_hand(order: ElectionOrder) -> Elected:
    move = MoveOrder(
        service=order.service,
        zone=order.zone,
        epoch=order.epoch,
        recorded=order.recorded,
        old=order.old,
        new=order.candidate,
    )
    return await promote_alone(move)


@activity.defn
async def promote_alone(order: MoveOrder) -> Elected:
    """Make a replica the master without Sentinel: `REPLICAOF NO ONE`, seen in its role."""
    member = order.service.member(order.new)
    names = await names_by_address(order.service)
    async with acting(order, member) as asked:
        before = await read_member(asked, names)
        if before.role != "master":
            await asked("REPLICAOF", "NO", "ONE")
        after = await read_member(asked, names)
    if after.role != "master":
        raise NotYet(f"{order.new} is no master yet")
    return Elected(member=order.new, at=datetime.now(UTC), by="Lifeboat", offset=after.offset)


@activity.defn
async def follow_master(order: FollowMasterOrder) -> FollowedBy:
    """The members replicate the leader; whoever is still on one that led before is cut off, and looks for the leader.

    Returns once `enough` follow, or all that can within the limit; the others are told, with why.
    """
    async with beating(f"following {order.leader}"):
        told = await asyncio.gather(*(_follow(order, name) for name in order.upstreams))
        missing = {name: why for name, why in zip(order.upstreams, told, strict=True) if why}
        waiting = [name for name in order.upstreams if name not in missing]
        enough = len(waiting) if order.enough is None else min(order.enough, len(waiting))
        looked: dict[str, CacheFacts] = {}
        following: list[str] = []
        end = asyncio.get_running_loop().time() + order.limit_s
        while True:
            for name in waiting:
                looked[name] = await look_at_member(order.service, order.service.member(name))
            following = [name for name, facts in looked.items() if _follows(facts, order.upstreams[name])]
            if len(following) >= enough or asyncio.get_running_loop().time() > end:
                break
            await asyncio.sleep(LOOK_S)
    missing |= {name: _why_not(looked[name], order.upstreams[name]) for name in waiting if name not in following}
    return FollowedBy(following=following, missing=missing)


def _follows(facts: CacheFacts, upstream: str) -> bool:
    return facts.reachable and facts.role == "replica" and facts.follows == upstream and facts.link_up


def _why_not(facts: CacheFacts, upstream: str) -> str:
    if not facts.reachable:
        return facts.error
    if facts.role != "replica" or facts.follows != upstream:
        return f"it is a {facts.role}{f' of {facts.follows}' if facts.follows else ''}"
    return "it copies the data" if facts.syncing else f"its link to {upstream} is down"


async def _follow(order: FollowMasterOrder, name: str) -> str:
    """Why a member could not be told; "" once it was. A Sentinel that turns it the same way ends our connection."""
    return await _follow_once(order, name) and await _follow_once(order, name)


async def _follow_once(order: FollowMasterOrder, name: str) -> str:
    service = order.service
    upstream = service.member(order.upstreams[name])
    names = await names_by_address(service)
    try:
        async with acting(order, service.member(name)) as asked:
            facts = await read_member(asked, names)
            if facts.role != "replica" or facts.follows != upstream.name:
                await _must_have_data(order, facts)
                await asked("REPLICAOF", upstream.host, upstream.port)
            if name in order.cut:
                await asked("CLIENT", "UNPAUSE")
                await asked("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    except CacheUnreachable as error:
        return error.detail
    return ""


async def _must_have_data(order: FollowMasterOrder, follower: CacheFacts) -> None:
    """Nobody is led to an empty master: it would wipe what the follower has (safety.md, invariant 13)."""
    leader = await look_at_member(order.service, order.service.member(order.leader))
    if not leader.reachable or leader.role != "master":
        raise NotYet(f"{order.leader} does not lead")
    if follower.keys and not leader.keys:
        raise CacheUnreachable(f"{order.leader} is empty, and {follower.member} has {follower.keys} keys")


@activity.defn
async def set_monitor(order: MonitorOrder) -> FollowedBy:
    """The region's Sentinels watch the leader, or forget the name (`leader` None): seen at each that answers."""

    async def tell(sentinel: Sentinel) -> str:
        try:
            async with acting(order, sentinel) as asked:
                await _monitor(order, asked)
        except CacheUnreachable as error:
            return error.detail
        return ""

    there = order.service.sentinels_of(order.region)
    async with beating(f"the Sentinels of {order.region} are told whom to watch"):
        told = await asyncio.gather(*map(tell, there))
    missing = {each.name: why for each, why in zip(there, told, strict=True) if why}
    return FollowedBy(following=[each.name for each in there if each.name not in missing], missing=missing)


async def _monitor(order: MonitorOrder, asked: Talk) -> None:
    service, monitor = order.service, order.service.monitor
    names = await names_by_address(service)
    found = await read_sentinel(asked, monitor.name, names)
    if order.leader is None:
        if found.watches:
            await asked("SENTINEL", "REMOVE", monitor.name)
        return
    if found.watches and found.master == order.leader and found.quorum == monitor.quorum:
        return
    if found.watches:
        await asked("SENTINEL", "REMOVE", monitor.name)
    leader = service.member(order.leader)
    await asked("SENTINEL", "MONITOR", monitor.name, leader.host, leader.port, monitor.quorum)
    settings: dict[str, str | int] = {
        "down-after-milliseconds": int(monitor.down_after_s * 1000),
        "failover-timeout": int(monitor.failover_timeout_s * 1000),
        "parallel-syncs": monitor.parallel_syncs,
    }
    if service.access.monitor_user is not None:
        settings["auth-user"] = service.access.monitor_user
    password = resolve(service.access.monitor_password)
    if password is not None:
        settings["auth-pass"] = password
    for name, value in settings.items():
        try:
            await asked("SENTINEL", "SET", monitor.name, name, value)
        except ResponseError as error:
            # Never the password in an error's text.
            raise CacheUnreachable(f"{asked.name} does not take `{name}`") from error
