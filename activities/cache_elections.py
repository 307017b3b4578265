"""Elections: waiting until Sentinels are calm, letting them elect, and helping where they can't.

A second `SENTINEL FAILOVER` that begins on another Sentinel while the first is under way leaves two replicas following
each other and no master (seen). So all Sentinels must be calm first, and one of them is asked, once. Whether it took an
order whose answer was lost only it can say: as long as it can't be asked, nobody else is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from temporalio import activity

from activities.beating import beating
from activities.cache_moves import promote_alone, set_monitor
from activities.cache_survey import look_at_member, look_at_sentinel
from activities.redis_sessions import ErrorReply, acting
from schemas.cache import CacheService
from schemas.cache_facts import CacheFacts, SentinelFacts
from schemas.cache_orders import CalmOrder, Elected, ElectionOrder, ElectOrder, MonitorOrder, MoveOrder
from schemas.failures import CacheUnreachable, NotElected, NotYet

LOOK_S = 0.02
ELECT_S = 8.0
"""An election that was asked for takes 0.2 s, and up to 2 s where a Sentinel has not asked the replicas for a while."""
SILENT_S = 2.0
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
            if not _knows_preferred(each, preferred)
        ]
    return why


def _knows_preferred(facts: SentinelFacts, preferred: str) -> bool:
    ours = facts.priorities.get(preferred)
    if ours is None or preferred in facts.bad_replicas:
        return False
    return all(number > ours for name, number in facts.priorities.items() if name != preferred and number)


@activity.defn
async def until_calm(order: CalmOrder) -> str:
    """Wait until the region's Sentinels agree on the leader, none is at a failover, and all know who is preferred.

    NotYet within the limit, and sooner where none of them answers: nobody is to be waited for.
    """
    async with beating("until the Sentinels are calm"):
        loop = asyncio.get_running_loop()
        end, silent = loop.time() + order.limit_s, loop.time() + min(order.limit_s, SILENT_S)
        while True:
            found = await _sentinels(order.service, order.region)
            reached = [each for each in found if each.reachable]
            why = restless(found, order.leader, order.preferred)
            if reached and not why:
                return f"{len(reached)} of {len(found)} Sentinels agree on {order.leader}"
            if loop.time() > (end if reached else silent):
                raise NotYet("; ".join(why) or "no Sentinel answers")
            await asyncio.sleep(0.1)


class Asking:
    """Who was asked to elect, by this attempt. `until`: a former attempt's order may still be at work until then."""

    def __init__(self, order: ElectOrder) -> None:
        self.order = order
        self.asked_of = ""
        loop = asyncio.get_running_loop()
        again = activity.info().attempt > 1
        self.until = loop.time() + (order.service.monitor.failover_timeout_s + BEGIN_S if again else 0.0)

    def may_ask(self, found: Sequence[SentinelFacts]) -> bool:
        """Whether nobody has been asked. One that an earlier attempt may have asked, and that is silent, is awaited."""
        silent = any(not each.reachable for each in found)
        return not self.asked_of and not (silent and asyncio.get_running_loop().time() < self.until)

    async def ask(self, found: Sequence[SentinelFacts]) -> str:
        """SENTINEL FAILOVER at the first that may: it needs no other's agreement. NotElected where none takes it."""
        refusals: list[str] = []
        for facts in found:
            if not facts.reachable or facts.master != self.order.old:
                continue
            sentinel = next(each for each in self.order.service.sentinels if each.name == facts.sentinel)
            try:
                async with acting(self.order, sentinel) as asked:
                    self.asked_of = facts.sentinel
                    await _order_failover(asked, self.order.service.monitor.name)
                    return self.asked_of
            except _Refused as error:
                self.asked_of = ""
                refusals.append(f"{facts.sentinel}: {error}")
            except CacheUnreachable as error:
                if self.asked_of:
                    return self.asked_of  # It may have been told: another must not be asked as well.
                refusals.append(error.detail)
        raise NotElected("; ".join(refusals) or f"no Sentinel watches {self.order.old}")


class _Refused(Exception):
    """A Sentinel that will not elect."""


async def _order_failover(asked: object, name: str) -> None:
    try:
        await asked("SENTINEL", "FAILOVER", name)  # type: ignore[operator]
    except ErrorReply as error:
        if "INPROG" in str(error):
            return  # It is at it already, by itself or at an earlier order.
        raise _Refused(str(error)) from error


@activity.defn
async def let_sentinel_elect(order: ElectOrder) -> Elected:
    """One Sentinel moves the master to whom it prefers; done where another than the old one is the master already.

    NotElected where nothing has moved, every Sentinel answers, and none works on it.
    """
    service, loop = order.service, asyncio.get_running_loop()
    asking, end, idle_since = Asking(order), loop.time() + ELECT_S, None
    async with beating("Sentinel moves the master"):
        while True:
            found = await _sentinels(service, order.region)
            done = await _elected(order, found, asking.asked_of)
            if done is not None:
                return done
            busy = [each.sentinel for each in found if each.failing_over]
            silent = [each.sentinel for each in found if not each.reachable]
            if not busy and asking.may_ask(found):
                await asking.ask(found)
                idle_since = loop.time()
            elif busy or silent:
                idle_since = None
            else:
                idle_since = idle_since or loop.time()
                if loop.time() > idle_since + BEGIN_S:
                    raise NotElected(f"{asking.asked_of} was asked, and nothing has moved")
            if loop.time() > end:
                raise NotYet(f"{', '.join(busy or silent) or asking.asked_of} is at it, or can't be asked")
            await asyncio.sleep(LOOK_S)


async def _elected(order: ElectOrder, found: Sequence[SentinelFacts], by: str) -> Elected | None:
    """Who of the region leads instead of the old one, and goes on from what was before."""
    there = [each for each in order.service.members_of(order.region) if each.name != order.old]
    looked = await asyncio.gather(*(look_at_member(order.service, each, limit=1.0) for each in there))
    masters = [each for each in looked if each.reachable and each.role == "master" and _is_heir(order, each, found)]
    if len(masters) != 1:
        return None
    had = masters[0].before_until - 1 if masters[0].history_before else -1
    return Elected(member=masters[0].member, at=datetime.now(UTC), by=by or "Sentinel", had=had)


def _is_heir(order: ElectOrder, facts: CacheFacts, found: Sequence[SentinelFacts]) -> bool:
    """Whether this master goes on from the old one's history: one that led long ago, and came back as one, does not."""
    if order.history:
        return order.history in (facts.history_before, facts.history)
    named = [each.master for each in found if each.watches]
    return named.count(facts.member) * 2 > len(named)


@activity.defn
async def until_elected(order: ElectionOrder) -> Elected:
    """The region has a new master: elected by its Sentinels within their time, else one of them is made to elect, else
    Lifeboat promotes the candidate. Seen in its role, and never a second one beside it.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + (order.help_at - datetime.now(UTC)).total_seconds()
    asking = Asking(order)
    async with beating("until a master is elected"):
        while True:
            found = await _sentinels(order.service, order.region)
            done = await _elected(order, found, asking.asked_of)
            if done is not None:
                await _must_be_watched(order, done.member)
                return done
            busy = [each.sentinel for each in found if each.failing_over]
            if busy:
                until = max(until, loop.time() + BEGIN_S)
            elif loop.time() > until:
                if asking.asked_of:
                    return await _promote_by_hand(order)
                if asking.may_ask(found):
                    try:
                        await asking.ask(found)
                    except NotElected as error:
                        activity.logger.warning("no Sentinel elects: %s", error.detail)
                        return await _promote_by_hand(order)
                    until = loop.time() + ELECT_S
            await asyncio.sleep(LOOK_S)


async def _promote_by_hand(order: ElectionOrder) -> Elected:
    """Sentinels that answer, and did not elect, forget the name first: they would elect another beside it later."""
    await set_monitor(_monitor(order, None))
    move = MoveOrder(
        service=order.service,
        zone=order.zone,
        epoch=order.epoch,
        recorded=order.recorded,
        old=order.old,
        new=order.candidate,
    )
    elected = await promote_alone(move)
    await set_monitor(_monitor(order, elected.member))
    return elected


def _monitor(order: ElectionOrder, leader: str | None) -> MonitorOrder:
    return MonitorOrder(
        service=order.service,
        zone=order.zone,
        epoch=order.epoch,
        recorded=order.recorded,
        region=order.region,
        leader=leader,
    )


async def _must_be_watched(order: ElectionOrder, leader: str) -> None:
    """A master that no Sentinel names or moves to was promoted by hand, by an attempt that could not tell them."""
    found = [each for each in await _sentinels(order.service, order.region) if each.reachable]
    if found and not any(each.failing_over or each.master == leader for each in found):
        await set_monitor(_monitor(order, leader))
