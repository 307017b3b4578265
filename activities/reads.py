"""Looking at who follows the leader, how far behind each is, and whom the read-only routes serve."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from temporalio import activity

from activities.names import RecordSet
from activities.pgpool import served_by
from activities.read_names import sets_of
from activities.survey import look, look_at_all
from activities.zones import names_of
from schemas.facts import MemberFacts
from schemas.failures import LifeboatError
from schemas.read_orders import KeepReadsOrder, Lag, LookAtReads, ReadPicture
from schemas.topology import DatabaseService
from schemas.zones import Route53Zone

_EVERY_S = 1.0
_FIRST_S = 0.3
"""Between the first look at the leader and that at its standbys: who has replayed that much lags no more than this."""
_AGAIN_S = 10.0
"""How often a route that stays wrong is told of."""
_NAMES_EVERY_S, _ROUTE53_EVERY_S = 5.0, 60.0
"""How often the names are looked at; Route 53 answers five questions a second for a whole account."""


class Lags:
    """Lag by positions: how long ago the leader had written what a standby has not replayed yet.

    The age of the newest replayed commit grows while nothing is written, so that it counts only for a standby that is
    behind by more than was ever seen here, and only where a heartbeat row is written each second.
    """

    def __init__(self, service: DatabaseService) -> None:
        assert service.reads is not None
        self.service, self.reads = service, service.reads
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, leader: MemberFacts, at: float) -> None:
        """What the leader had written; `at` in seconds of any clock that only grows."""
        if leader.reachable and not leader.in_recovery and leader.written is not None:
            self._seen.append((at, leader.written))
            while self._seen[0][0] < at - 2 * self.reads.max_lag_s - 10:
                self._seen.popleft()

    def of(self, standby: MemberFacts, at: float) -> Lag:
        if not self._seen or standby.replayed is None:
            return Lag(bytes=0, seconds=None)
        behind = max(0, self._seen[-1][1] - standby.replayed)
        if standby.replayed < self._seen[0][1]:
            return Lag(bytes=behind, seconds=standby.replay_age_s if self.service.detection.heartbeat else None)
        since = next((then for then, written in self._seen if written > standby.replayed), None)
        return Lag(bytes=behind, seconds=0.0 if since is None else at - since)

    def all(self, facts: Sequence[MemberFacts], at: float) -> dict[str, Lag]:
        return {each.member: self.of(each, at) for each in facts if each.reachable and each.in_recovery}

    def lagging(self, lags: Mapping[str, Lag], before: Collection[str]) -> list[str]:
        """Those over the limit, and those of `before` that are not below half of it: a set must not flutter."""
        limit_s, limit = self.reads.max_lag_s, self.reads.max_lag_bytes

        def over(lag: Lag, share: float) -> bool:
            unknown = lag.seconds is None and lag.bytes > 0
            return (
                unknown or (lag.seconds or 0.0) > share * limit_s or (limit is not None and lag.bytes > share * limit)
            )

        return sorted(name for name, lag in lags.items() if over(lag, 0.5 if name in before else 1.0))


def signature(leader: str, facts: Sequence[MemberFacts], lagging: Sequence[str]) -> str:
    """What decides about who may be read, as text: who is reached, on which timeline, streaming from where."""
    parts = []
    for each in facts:
        if not each.reachable:
            state = "-"
        elif not each.in_recovery:
            state = f"leads/{each.timeline}"
        else:
            sender = each.receiver
            fed = f"{sender.status}/{sender.sender_host}:{sender.sender_port}" if sender is not None else "-"
            state = f"{each.timeline}/{fed}"
        parts.append(f"{each.member}={state}")
    return f"{leader}|{' '.join(parts)}|{','.join(lagging)}"


@activity.defn
async def look_at_reads(order: LookAtReads) -> ReadPicture:
    """The members and their lags, as far as a moment tells."""
    service, loop = order.service, asyncio.get_running_loop()
    lags = Lags(service)
    lags.note(await look(service, service.member(order.leader)), loop.time())
    await asyncio.sleep(_FIRST_S)
    facts = await look_at_all(service, service.members)
    found = lags.all(facts, loop.time())
    lagging = lags.lagging(found, ())
    return ReadPicture(
        leader=order.leader,
        members=facts,
        lags=found,
        lagging=lagging,
        signature=signature(order.leader, facts, lagging),
    )


@activity.defn
async def keep_watch_of_reads(order: KeepReadsOrder) -> ReadPicture:
    """Look once a second, and return when who may be read has changed, or a route serves others than it should.

    Nothing is judged while the leader is not seen to lead: who follows it can't be told then, and whoever followed it
    last is not stale before another acknowledges, which is a run's to see to.
    """
    service, loop = order.service, asyncio.get_running_loop()
    lags, lagging = Lags(service), list(order.lagging)
    started = named = loop.time()
    serving = dict(order.serving)
    lags.note(await look(service, service.member(order.leader)), loop.time())
    await asyncio.sleep(_FIRST_S)
    while True:
        facts = await look_at_all(service, service.members)
        now = loop.time()
        head = next(each for each in facts if each.member == order.leader)
        if head.reachable and not head.in_recovery:
            lags.note(head, now)
            found = lags.all(facts, now)
            lagging = lags.lagging(found, lagging)
            pools = await _pools(service)
            serving = {name: served for name, served in serving.items() if name not in _pool_names(service)} | pools
            if now - named >= (_ROUTE53_EVERY_S if isinstance(order.zone, Route53Zone) else _NAMES_EVERY_S):
                named = now
                serving |= await _names(order)
            text = signature(order.leader, facts, lagging)
            wrong = any(sorted(served) != sorted(order.served) for served in serving.values())
            news = serving != order.serving or now - started >= _AGAIN_S
            if text != order.seen or (wrong and news):
                return ReadPicture(
                    leader=order.leader,
                    members=facts,
                    lags=found,
                    lagging=lagging,
                    serving=serving,
                    signature=text,
                )
        activity.heartbeat({"leads": head.reachable and not head.in_recovery, "lagging": lagging})
        await asyncio.sleep(_EVERY_S)


def _pool_names(service: DatabaseService) -> list[str]:
    return [route.name for route in service.reads.pgpools()] if service.reads is not None else []


async def _pools(service: DatabaseService) -> dict[str, list[str]]:
    """Whom each Pgpool-II serves; one that does not answer is looked at again."""
    routes = service.reads.pgpools() if service.reads is not None else []
    found = await asyncio.gather(*(served_by(service, route) for route in routes), return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException) and not isinstance(each, LifeboatError):
            raise each
    return {route.name: each for route, each in zip(routes, found, strict=True) if isinstance(each, list)}


async def _names(order: KeepReadsOrder) -> dict[str, list[str]]:
    """Members behind each name, where changes are made; nothing of a name that can't be asked for."""
    assert order.service.reads is not None
    try:
        sets: list[RecordSet] = await sets_of(order.service, order.served)
        names = names_of(order.zone)
        found = await asyncio.gather(*(names.read(each.name, each.kind) for each in sets))
    except LifeboatError:
        return {}
    routes = order.service.reads.names()
    return {
        route.name: order.served if sorted(there) == list(each.texts) else sorted(there)
        for route, there, each in zip(routes, found, sets, strict=True)
    }
