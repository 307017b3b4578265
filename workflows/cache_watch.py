"""The watch of one cache, beside Sentinel: each region probes the master, and a quorum starts the failover.

Sentinel may also move the master by itself, or at somebody's order: the clients are led after it then.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities import cache_probes, cache_survey, epoch, estate
    from schemas.attributes import TASK_QUEUE, TASK_TIMEOUT, region_queue
    from schemas.cache_facts import CacheFacts, CacheSeen
    from schemas.cache_orders import CacheSighting, CacheWatchOrder
    from schemas.cache_requests import CacheFailoverRequest, CacheSuspicion
    from schemas.facts import EpochRecord
    from schemas.failures import ServiceLocked
    from schemas.orders import CacheEstate, EstablishOrder, LockQuestion
    from schemas.reports import Report
    from schemas.requests import WatchRequest
    from workflows.policy.cache import leader_of
    from workflows.policy.sightings import agreeing, began, goes_on, outage_of
    from workflows.reasons import kind_of, reason_of
    from workflows.runbook import RETRY
    from workflows.watching import AGAIN, FOR_EVER, HEARTBEAT


MOVED = timedelta(seconds=5)
"""How long a region's word counts that the master is a replica: it says so again as long as it is one."""


@workflow.defn(name="CacheWatch", failure_exception_types=[Exception])
class CacheWatch:
    """Runs until it is cancelled; continues as new after each run that it started."""

    def __init__(self) -> None:
        self.estate: CacheEstate
        self.record: EpochRecord
        self.down: dict[str, CacheSighting] = {}
        self.moved: dict[str, CacheSighting] = {}
        self.standing_back = ""
        """The planned run that asked for it."""
        self.probing_since: datetime
        self.recovered = False

    @workflow.signal(description="A planned run moves the master: the watch waits for its end.")
    def stand_back(self, run: str) -> None:
        self.standing_back = run

    @workflow.query(description="Who leads, and which regions see it down.")
    def state(self) -> dict[str, Any]:
        return {"leader": self.record.leader, "epoch": self.record.epoch, "down": sorted(self.down)}

    @workflow.run
    async def run(self, request: WatchRequest) -> None:
        workflow.upsert_search_attributes(
            [SearchAttributeKey.for_keyword("LifeboatService").value_set(request.service)]
        )
        found = await workflow.execute_local_activity(
            estate.describe_estate,
            request.service,
            start_to_close_timeout=timedelta(seconds=5),
            schedule_to_close_timeout=timedelta(seconds=30),
            retry_policy=RETRY,
        )
        if not isinstance(found, CacheEstate):
            workflow.continue_as_new(workflow="Watch", args=[request])
        self.estate = found
        self.record = await self.establish()
        blocked = request.blocked_until
        self.probing_since = workflow.now()
        regions = [asyncio.ensure_future(self.region(name)) for name in self.estate.vantages]
        try:
            if blocked is not None and blocked > workflow.now():
                await workflow.sleep(blocked - workflow.now(), summary="block period after a run")
            await workflow.wait_condition(
                lambda: self.quorum() or bool(self.standing_back) or workflow.info().is_continue_as_new_suggested()
            )
            if self.standing_back:
                await self.until_free()
            elif self.quorum() and await self.fail_over(self.outage_before(request)):
                blocked = workflow.now() + timedelta(seconds=self.estate.service.detection.block_s)
        finally:
            for task in regions:
                task.cancel()
        workflow.continue_as_new(
            WatchRequest(
                service=request.service,
                blocked_until=blocked,
                down_since=self.down_since(request),
                down_leader=self.record.leader,
            )
        )

    def quorum(self) -> bool:
        quorum = self.estate.service.detection.quorum
        recent = [each for each in self.moved.values() if workflow.now() - each.at < MOVED]
        return len(self.down) >= quorum or len(recent) >= quorum

    def outage_before(self, request: WatchRequest) -> datetime | None:
        before = request.down_since if request.down_leader == self.record.leader else None
        return goes_on(before, list(self.down.values()), self.probing_since, self.estate.service.detection)

    def down_since(self, request: WatchRequest) -> datetime | None:
        """Since when whoever leads is down, as long as it is."""
        if len(self.down) < self.estate.service.detection.quorum or self.recovered:
            return None
        return self.outage_before(request) or outage_of(list(self.down.values()), self.estate.service.detection)

    async def fail_over(self, outage_began: datetime | None) -> bool:
        """Start the runbook, which confirms before it acts, and wait for its end; whether it had the service."""
        sightings = list((self.down or self.moved).values())
        recent = agreeing(sightings, self.estate.service.detection) if self.down else sightings
        seen_last = [each.last_seen for each in sightings if each.last_seen is not None and self.down]
        last: CacheFacts | None = max(seen_last, key=lambda facts: facts.at, default=None)
        where = ", ".join(sorted(self.down or self.moved))
        what = "fails the probes of" if self.down else "is a replica now, as seen from"
        request = CacheFailoverRequest(
            service=self.estate.service.name,
            reason=f"{self.record.leader} {what} {where}",
            suspicion=CacheSuspicion(
                member=self.record.leader,
                first_failure=min(began(sighting) for sighting in recent),
                outage_began=outage_began,
                regions=sorted(self.down or self.moved),
                votes=[sighting.last for sighting in recent],
                seen=next((sighting.seen for sighting in recent if sighting.seen), None),
                last_seen=last,
            ),
        )
        try:
            report: Report = await workflow.execute_child_workflow(
                "CacheFailover",
                request,
                result_type=Report,
                id=f"cache-failover/{request.service}/{workflow.now():%Y%m%dT%H%M%S}",
                task_queue=TASK_QUEUE,
                task_timeout=TASK_TIMEOUT,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            )
            self.recovered = report.recovered is not None
            # What was not needed may be a moment later.
            return report.outcome != "not needed"
        except FailureError as error:
            workflow.logger.warning("the failover did not run: %s", reason_of(error))
            if kind_of(error) == ServiceLocked.__name__:
                await self.until_free()
                return False
            return True

    async def until_free(self) -> None:
        await workflow.execute_activity(
            estate.until_free,
            LockQuestion(service=self.estate.service.name),
            start_to_close_timeout=FOR_EVER,
            heartbeat_timeout=HEARTBEAT * 2,
            retry_policy=AGAIN,
            summary="until the other run ends",
        )

    async def region(self, region: str) -> None:
        """One region's view: down, up again, down …"""
        while True:
            until = "up" if region in self.down else "down"
            order = CacheWatchOrder(
                service=self.estate.service,
                zone=self.estate.zone,
                member=self.record.leader,
                region=region,
                until=until,
            )
            sighting = await workflow.execute_activity(
                cache_probes.watch_master,
                order,
                task_queue=region_queue(region),
                start_to_close_timeout=FOR_EVER,
                heartbeat_timeout=HEARTBEAT,
                retry_policy=AGAIN,
                summary=f"{region} until {until}",
            )
            if sighting.state == "up":
                self.down.pop(region, None)
                continue
            (self.moved if sighting.state == "moved" else self.down)[region] = sighting
            # The next second belongs to the failover, if there is one.
            await workflow.sleep(1, summary=f"before {region} looks again")

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
