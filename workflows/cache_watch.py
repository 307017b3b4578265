"""The watch of one cache, beside Sentinel: each region probes the master, and a quorum starts the failover.

Sentinel may also move the master by itself, or at somebody's order: the clients are led after it then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities import (
        cache_fencing,
        cache_keeper,
        cache_moves,
        cache_probes,
        cache_survey,
        cache_warming,
        epoch,
        estate,
    )
    from schemas.cache_facts import CacheFacts, CacheSeen
    from schemas.cache_orders import (
        CacheKeepOrder,
        CacheSighting,
        CacheWatchOrder,
        FollowMasterOrder,
        LostKeys,
        LostOrder,
        MonitorOrder,
        RestoreOrder,
    )
    from schemas.cache_requests import CacheFailoverRequest, CacheSuspicion
    from schemas.facts import EpochRecord
    from schemas.orders import CacheEstate, EstablishOrder, LockQuestion
    from schemas.reports import Report
    from schemas.requests import WatchRequest
    from workflows.policy.cache import leader_of, upstreams
    from workflows.policy.cache_seen import astray, led_once
    from workflows.policy.sightings import agreeing, began, goes_on, outage_of
    from workflows.reasons import reason_of
    from workflows.watching import AGAIN, FOR_EVER, HEARTBEAT, SHORT, Watching


MOVED = timedelta(seconds=5)
"""How long a region's word counts that the master is a replica: it says so again as long as it is one."""


@workflow.defn(name="CacheWatch", failure_exception_types=[Exception])
class CacheWatch(Watching):
    """Runs until it is cancelled; continues as new after each run that it started."""

    procedure, run_prefix = "CacheFailover", "cache-failover"
    estate: CacheEstate

    def __init__(self) -> None:
        super().__init__()
        self.moved: dict[str, CacheSighting] = {}
        """Regions that saw the master to be a replica."""
        self.probing_since: datetime

    @workflow.run
    async def run(self, request: WatchRequest) -> None:
        found = await self.describe(request.service)
        if not isinstance(found, CacheEstate):
            workflow.continue_as_new(workflow="Watch", args=[request])
        self.estate = found
        self.record = await self.establish()
        self.probing_since = workflow.now()
        blocked = await self.watch_until_something(request.blocked_until, lambda: self.suspicion(request))
        workflow.continue_as_new(
            WatchRequest(
                service=request.service,
                blocked_until=blocked,
                down_since=self.down_since(request),
                down_leader=self.record.leader,
            )
        )

    def quorum(self) -> bool:
        recent = [each for each in self.moved.values() if workflow.now() - each.at < MOVED]
        return super().quorum() or len(recent) >= self.estate.service.detection.quorum

    def blocks_after(self, report: Report) -> bool:
        """What was not needed may be a moment later."""
        return report.outcome != "not needed"

    def outage_before(self, request: WatchRequest) -> datetime | None:
        before = request.down_since if request.down_leader == self.record.leader else None
        return goes_on(before, list(self.down.values()), self.probing_since, self.estate.service.detection)

    def down_since(self, request: WatchRequest) -> datetime | None:
        """Since when whoever leads is down, as long as it is."""
        if not super().quorum() or self.recovered:
            return None
        return self.outage_before(request) or outage_of(list(self.down.values()), self.estate.service.detection)

    def suspicion(self, request: WatchRequest) -> CacheFailoverRequest:
        """What the runbook is started with."""
        sightings: list[CacheSighting] = list((self.down or self.moved).values())
        recent = agreeing(sightings, self.estate.service.detection) if self.down else sightings
        seen_last = [each.last_seen for each in sightings if each.last_seen is not None and self.down]
        last: CacheFacts | None = max(seen_last, key=lambda facts: facts.at, default=None)
        what = "fails the probes of" if self.down else "is a replica now, as seen from"
        return CacheFailoverRequest(
            service=self.estate.service.name,
            reason=f"{self.record.leader} {what} {', '.join(sorted(self.down or self.moved))}",
            suspicion=CacheSuspicion(
                member=self.record.leader,
                first_failure=min(began(sighting) for sighting in recent),
                outage_began=self.outage_before(request),
                regions=sorted(self.down or self.moved),
                votes=[sighting.last for sighting in recent],
                seen=next((sighting.seen for sighting in recent if sighting.seen), None),
                last_seen=last,
            ),
        )

    async def look_from(self, region: str, until: str) -> tuple[str, CacheSighting]:
        order = CacheWatchOrder(
            service=self.estate.service, zone=self.estate.zone, member=self.record.leader, region=region, until=until
        )
        sighting: CacheSighting = await self.probing(cache_probes.watch_master, order, region, until)
        return sighting.state, sighting

    def seen_down(self, region: str, state: str, sighting: CacheSighting) -> None:
        (self.moved if state == "moved" else self.down)[region] = sighting

    def keepers(self) -> Sequence[Awaitable[None]]:
        return [self.keep_returns()]

    async def keep_returns(self) -> None:
        """What comes back with what it knew is told who leads, where that is beyond doubt."""
        wait = 1.0
        while True:
            seen: CacheSeen = await workflow.execute_activity(
                cache_keeper.keep_watch_of_returns,
                CacheKeepOrder(service=self.estate.service, zone=self.estate.zone, leader=self.record.leader),
                start_to_close_timeout=FOR_EVER,
                heartbeat_timeout=HEARTBEAT * 2,
                retry_policy=AGAIN,
                summary="who comes back from the past",
            )
            told = False
            try:
                told = await self.tell_returned(seen)
            except FailureError as error:
                workflow.logger.warning("what came back was not told who leads: %s", reason_of(error))
            wait = 1.0 if told else min(wait * 2, 60.0)
            await workflow.sleep(wait, summary="before it is looked at again")

    async def tell_returned(self, seen: CacheSeen) -> bool:
        """Whether any had to be told. Never while a run is under way, which has them do other things.

        All within the epoch that was seen: a run that begins meanwhile has a later one.
        """
        service = self.estate.service
        busy = await self.shortly(estate.lock_holder, LockQuestion(service=service.name), "whether a run is under way")
        if busy or seen.record is None:
            return False
        epoch_of = {"service": service, "zone": self.estate.zone, "epoch": seen.record.epoch}
        wrong, leader = astray(service, seen), seen.record.leader
        for region, named in wrong.items():
            order = MonitorOrder.model_validate({**epoch_of, "region": region, "leader": named})
            await self.shortly(cache_moves.set_monitor, order, f"the Sentinels of {region} watch {named or 'nobody'}")
        returned = led_once(service, seen)
        for name in returned:
            lost = LostOrder.model_validate({**epoch_of, "old": name, "leader": leader})
            counted: LostKeys = await self.shortly(
                cache_warming.count_lost_keys, lost, f"what only {name} has", timedelta(seconds=60)
            )
            workflow.logger.warning("%s came back as a master: %d keys that only it has", name, counted.only_there)
            wanted = {name: upstreams(service, leader)[name]}
            follow = FollowMasterOrder.model_validate(
                {**epoch_of, "leader": leader, "upstreams": wanted, "cut": [name], "enough": None}
            )
            await self.shortly(cache_moves.follow_master, follow, f"{name} follows", timedelta(seconds=20))
        if returned:
            settings = RestoreOrder.model_validate({**epoch_of, "serving": service.member(leader).region})
            await self.shortly(cache_fencing.restore_fences, settings, "settings as declared", timedelta(seconds=20))
        return bool(wrong or returned)

    async def shortly(self, act: Any, order: Any, what: str, limit: timedelta = SHORT) -> Any:
        """One activity, tried for `limit` at most."""
        return await workflow.execute_activity(
            act, order, start_to_close_timeout=limit, schedule_to_close_timeout=limit, summary=what
        )

    async def establish(self) -> EpochRecord:
        """The service's record; where there is none, a first one of whom roles and Sentinels agree on."""
        service = self.estate.service
        wait = 1.0
        while True:
            seen: CacheSeen = await workflow.execute_activity(
                cache_survey.observe_cache, self.estate, start_to_close_timeout=timedelta(seconds=5), retry_policy=AGAIN
            )
            if seen.record is not None:
                return seen.record
            leader, _ = leader_of(service, seen)
            if leader is not None and not seen.epoch_error:
                first = EpochRecord(epoch=0, run="watch", leader=leader, w=0, voters=[])
                return await workflow.execute_activity(
                    epoch.establish_epoch,
                    EstablishOrder(service=service, zone=self.estate.zone, first=first),
                    start_to_close_timeout=timedelta(seconds=5),
                    retry_policy=AGAIN,
                )
            await workflow.sleep(wait, summary="no single master, or no epoch store")
            wait = min(wait * 2, 60.0)
