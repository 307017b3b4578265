"""Keeping a master from taking writes, and giving every server back what the topology declares.

`min-replicas-to-write` above what there can be refuses every write (NOREPLICAS); `CLIENT PAUSE … WRITE` beside it lets
clients wait instead of failing, and keeps the Sentinels' own messages from moving the stream on (docs/adr/0034).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from temporalio import activity

from activities.beating import beating
from activities.cache_survey import look_at_member, names_by_address, read_sentinel
from activities.redis_sessions import ErrorReply, Talk, acting, keep_settings
from schemas.cache import CacheMember, CacheService
from schemas.cache_facts import CacheFacts
from schemas.cache_orders import EqualOrder, FenceMasterOrder, Restored, RestoreOrder, UnfenceOrder
from schemas.failures import CacheUnreachable, NotYet
from schemas.orders import ProofResult

FENCE = 99
"""Replicas that a fenced master would need: more than there are."""
PREFERRED = 1
"""replica-priority of the one whom Sentinels shall choose: the lowest that is not 0, which means never."""
PROBE_KEY = "lifeboat:fence"
LOOK_S = 0.01


async def _settings(asked: Talk, wanted: Mapping[str, str]) -> list[str]:
    """Set what is otherwise, and keep it in the server's own file; what was changed."""
    found = await asked.config(*wanted)
    wrong = {name: value for name, value in wanted.items() if found.get(name) != value}
    for name, value in wrong.items():
        await asked("CONFIG", "SET", name, value)
    # Also where nothing is wrong: a run may have died between the two.
    await keep_settings(asked)
    return [f"{name} {found.get(name)} → {value}" for name, value in wrong.items()]


def declared(service: CacheService, member: CacheMember, serving: str, preferred: str | None) -> dict[str, str]:
    """What a member is to be set to while `serving` is the region that serves."""
    there = member.region == serving
    priority = member.priority if there else 0
    if preferred is not None and priority:
        priority = PREFERRED if member.name == preferred else max(priority, PREFERRED + 1)
    return {
        "min-replicas-to-write": str(service.master.min_replicas),
        "min-replicas-max-lag": str(service.master.max_lag_s),
        "replica-priority": str(priority),
        "replica-announced": "yes" if there else "no",
    }


@activity.defn
async def restore_fences(order: RestoreOrder) -> Restored:
    """Every member as the topology declares it, whatever an earlier run left; nobody's clients are paused any more."""

    async def restore(member: CacheMember) -> list[str]:
        wanted = declared(order.service, member, order.serving, order.preferred)
        async with acting(order, member) as asked:
            changed = await _settings(asked, wanted)
            await asked("CLIENT", "UNPAUSE")
            return changed

    members = [member for member in order.service.members if member.name not in order.but]
    async with beating("restoring what the topology declares"):
        results = await asyncio.gather(*map(restore, members), return_exceptions=True)
    found = Restored()
    for member, result in zip(members, results, strict=True):
        if isinstance(result, CacheUnreachable):
            found.unreachable[member.name] = result.detail
        elif isinstance(result, BaseException):
            raise result
        elif result:
            found.changed[member.name] = ", ".join(result)
    return found


@activity.defn
async def fence_master(order: FenceMasterOrder) -> ProofResult:
    """The master takes no write from here on: proved by one of ours that it refuses."""
    member = order.service.member(order.member)
    async with acting(order, member) as asked:
        # Ours would wait as well: a retry finds clients paused already.
        await asked("CONFIG", "SET", "min-replicas-max-lag", order.service.master.max_lag_s)
        await asked("CONFIG", "SET", "min-replicas-to-write", FENCE)
        await asked("CLIENT", "UNPAUSE")
        try:
            await asked("SET", PROBE_KEY, order.epoch)
        except ErrorReply as error:
            if not str(error).startswith(("NOREPLICAS", "READONLY")):
                raise
            refused = str(error)
        else:
            return ProofResult(acknowledged=True, evidence=f"{order.member} took a write behind the fence")
        await asked("CLIENT", "PAUSE", int(order.pause_s * 1000), "WRITE")
    return ProofResult(acknowledged=False, evidence=f"{order.member} refuses writes ({refused}), and clients wait")


@activity.defn
async def unfence_master(order: UnfenceOrder) -> ProofResult:
    """The member takes writes again as the topology says: seen in its settings, and by a write if it is a master.

    Where a Sentinel may hold an order to elect (`asked`), its connection is ended first on every one of the region, and
    none is at a failover: it would come later, unfenced.
    """
    member = order.service.member(order.member)
    if order.asked:
        await _withdraw(order, member.region)
    async with acting(order, member) as asked:
        await _settings(asked, {"min-replicas-to-write": str(order.service.master.min_replicas)})
        await asked("CLIENT", "UNPAUSE")
        role = (await asked("ROLE"))[0]
        if role == "master":
            try:
                await asked("SET", PROBE_KEY, order.epoch)
            except ErrorReply as error:
                raise NotYet(f"{order.member} takes no write yet: {error}") from error
    return ProofResult(acknowledged=role == "master", evidence=f"{order.member} is as declared, and a {role}")


async def _withdraw(order: UnfenceOrder, region: str) -> None:
    names = await names_by_address(order.service)
    for sentinel in order.service.sentinels_of(region):
        async with acting(order, sentinel) as asked:
            if (await read_sentinel(asked, order.service.monitor.name, names)).failing_over:
                raise NotYet(f"{sentinel.name} is at a failover")


@activity.defn
async def until_equal(order: EqualOrder) -> int:
    """Wait until the new member has processed all that the old one wrote, and so has whoever else could be elected; the
    offset. NotYet within the limit. Seen twice, since what was written before the fence may still be on its way.
    """
    service, loop = order.service, asyncio.get_running_loop()
    end = loop.time() + order.limit_s
    before: list[int] = []
    async with beating("waiting for the candidate to have everything"):
        while True:
            looked = await asyncio.gather(*(look_at_member(service, service.member(n)) for n in order.everybody()))
            theirs, ours, others = looked[0], looked[1], [each for each in looked[2:] if each.reachable]
            late = [each for each in (ours, *others) if not _has_all(each, theirs)]
            offsets = [each.offset for each in looked]
            if theirs.reachable and not late and before == offsets:
                return theirs.offset
            before = offsets
            if loop.time() > end:
                told = "; ".join(f"{each.member} has {each.offset} of {theirs.offset} bytes" for each in late)
                raise NotYet(told or f"{order.old} does not stand still: {theirs.error or theirs.offset}")
            await asyncio.sleep(LOOK_S)


def _has_all(facts: CacheFacts, master: CacheFacts) -> bool:
    same = facts.reachable and facts.role == "replica" and facts.link_up and facts.history == master.history
    return same and facts.offset == master.offset
