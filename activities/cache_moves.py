"""Moving a cache without Sentinel: who is promoted by hand, who replicates whom, whom the Sentinels watch."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from temporalio import activity

from activities.beating import beating
from activities.cache_survey import (
    look_at_member,
    look_at_sentinel,
    names_by_address,
    read_member,
    read_sentinel,
)
from activities.redis_sessions import ErrorReply, Talk, acting, keep_settings
from activities.secrets import resolve
from schemas.cache import Sentinel
from schemas.cache_facts import CacheFacts
from schemas.cache_orders import (
    Elected,
    FollowedBy,
    FollowMasterOrder,
    Forgotten,
    MonitorOrder,
    MoveOrder,
)
from schemas.failures import CacheUnreachable, NotYet

LOOK_S = 0.02
KNOWN_S = 5.0
"""Sentinels tell each other of themselves every two seconds."""
BY_HAND = "Lifeboat"
"""Who promoted, where no Sentinel did."""


@activity.defn
async def promote_alone(order: MoveOrder) -> Elected:
    """Make a replica the master without Sentinel: `REPLICAOF NO ONE`, seen in its role."""
    member = order.service.member(order.new)
    names = await names_by_address(order.service)
    async with acting(order, member) as asked:
        before = await read_member(asked, names)
        if before.role != "master":
            await asked("REPLICAOF", "NO", "ONE")
        await keep_settings(asked)
        after = await read_member(asked, names)
    if after.role != "master":
        raise NotYet(f"{order.new} is no master yet")
    return Elected(member=order.new, at=datetime.now(UTC), by=BY_HAND, had=after.before_until - 1)


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
            # Else its file would still name another, or nobody, when it restarts.
            await keep_settings(asked)
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
    if found.master != order.leader:
        if found.watches:
            await asked("SENTINEL", "REMOVE", monitor.name)
        leader = service.member(order.leader)
        await asked("SENTINEL", "MONITOR", monitor.name, leader.host, leader.port, monitor.quorum)
    # Each time: a run may have died before it had set them.
    settings: dict[str, str | int] = {
        "quorum": monitor.quorum,
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
        except ErrorReply as error:
            # Never the password in an error's text.
            raise CacheUnreachable(f"{asked.name} does not take `{name}`") from error


@activity.defn
async def forget_strangers(order: MonitorOrder) -> Forgotten:
    """The region's Sentinels know replicas of the region alone (`SENTINEL RESET`).

    One of another region that the new master fed before is seen by them for a moment, and after `failover-timeout`
    each of them would lead it back to the master itself (sentinel.c, +fix-slave-config), whose `min-replicas-to-write`
    it would satisfy. One after the other, so that the others could elect meanwhile.
    """
    service, reset, missing = order.service, list[str](), dict[str, str]()
    there = service.sentinels_of(order.region)
    ours = [each.name for each in service.members_of(order.region)]
    async with beating(f"the Sentinels of {order.region} forget replicas of other regions"):
        for sentinel in there:
            before = await look_at_sentinel(service, sentinel)
            if not before.reachable or not before.knows_others_than(ours):
                continue
            try:
                async with acting(order, sentinel) as asked:
                    await asked("SENTINEL", "RESET", service.monitor.name)
            except CacheUnreachable as error:
                missing[sentinel.name] = error.detail
                continue
            reset.append(sentinel.name)
            after, end = before, asyncio.get_running_loop().time() + KNOWN_S
            while asyncio.get_running_loop().time() < end:
                after = await look_at_sentinel(service, sentinel)
                if after.others >= before.others and after.priorities:
                    break
                await asyncio.sleep(0.1)
            if after.knows_others_than(ours):
                missing[sentinel.name] = "it knows replicas of other regions again"
    return Forgotten(reset=reset, missing=missing)
