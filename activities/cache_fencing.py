"""Keeping a master from taking writes, and giving every server back what the topology declares.

`min-replicas-to-write` above what there can be refuses every write (NOREPLICAS); `CLIENT PAUSE … WRITE` beside it lets
clients wait instead of failing, and keeps the Sentinels' own messages from moving the stream on (docs/adr/0034).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from redis.exceptions import ResponseError
from temporalio import activity

from activities.beating import beating
from activities.cache_survey import names_by_address, read_member
from activities.redis_sessions import Talk, acting, to_member
from schemas.cache import CacheMember, CacheService
from schemas.cache_orders import FenceMasterOrder, MemberOrder, MoveOrder, Restored, RestoreOrder
from schemas.failures import CacheUnreachable, NotYet
from schemas.orders import ProofResult

FENCE = 99
"""Replicas that a fenced master would need: more than there are."""
PREFERRED = 1
"""replica-priority of the one whom Sentinels shall choose: the lowest that is not 0, which means never."""
PROBE_KEY = "lifeboat:fence"
LOOK_S = 0.01
CATCH_UP_S = 4.0


async def _settings(asked: Talk, wanted: Mapping[str, str]) -> list[str]:
    """Set what is otherwise, and keep it in the server's own file; what was changed."""
    found = await asked.config(*wanted)
    wrong = {name: value for name, value in wanted.items() if found.get(name) != value}
    for name, value in wrong.items():
        await asked("CONFIG", "SET", name, value)
    if wrong:
        try:
            await asked("CONFIG", "REWRITE")
        except ResponseError as error:
            if "without a config file" not in str(error):
                raise
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
        except ResponseError as error:
            if not str(error).startswith(("NOREPLICAS", "READONLY")):
                raise
            refused = str(error)
        else:
            return ProofResult(acknowledged=True, evidence=f"{order.member} took a write behind the fence")
        await asked("CLIENT", "PAUSE", int(order.pause_s * 1000), "WRITE")
    return ProofResult(acknowledged=False, evidence=f"{order.member} refuses writes ({refused}), and clients wait")


@activity.defn
async def unfence_master(order: MemberOrder) -> ProofResult:
    """The member takes writes again as the topology says: seen in its settings, and by a write if it is a master."""
    member = order.service.member(order.member)
    async with acting(order, member) as asked:
        await _settings(asked, {"min-replicas-to-write": str(order.service.master.min_replicas)})
        await asked("CLIENT", "UNPAUSE")
        role = (await asked("ROLE"))[0]
        if role == "master":
            try:
                await asked("SET", PROBE_KEY, order.epoch)
            except ResponseError as error:
                raise NotYet(f"{order.member} takes no write yet: {error}") from error
    return ProofResult(acknowledged=role == "master", evidence=f"{order.member} is as declared, and a {role}")


@activity.defn
async def until_equal(order: MoveOrder) -> int:
    """Wait until the new member has processed all that the old one wrote; the offset. NotYet within CATCH_UP_S.

    Seen twice, since what was written before the fence may still be on its way into the stream.
    """
    names = await names_by_address(order.service)
    loop = asyncio.get_running_loop()
    end = loop.time() + CATCH_UP_S
    before: tuple[int, int] | None = None
    async with (
        beating("waiting for the candidate to have everything"),
        to_member(order.service, order.old) as old,
        to_member(order.service, order.new) as new,
    ):
        while True:
            theirs, ours = await read_member(old, names), await read_member(new, names)
            same = theirs.history == ours.history and ours.link_up and theirs.offset == ours.offset
            if same and before == (theirs.offset, ours.offset):
                return ours.offset
            before = (theirs.offset, ours.offset)
            if loop.time() > end:
                why = f"{order.new} has {ours.offset} of {theirs.offset} bytes of {order.old}"
                raise NotYet(f"{why}; its link is {'up' if ours.link_up else 'down'}")
            await asyncio.sleep(LOOK_S)
