"""The watch of a queue: each region probes the nodes that serve, a quorum starts the failover, standbys are kept told.

No history grows while all is well: the regions' activities return only when something changed.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities import epoch, estate, rabbit_look, rabbit_watch
    from schemas.attributes import TASK_QUEUE, TASK_TIMEOUT, region_queue
    from schemas.facts import EpochRecord
    from schemas.failures import ServiceLocked, UnknownService
    from schemas.orders import ClaimOrder, EstablishOrder, LockQuestion
    from schemas.queue_facts import QueueEstate, QueueObservation
    from schemas.queue_requests import (
        QueueFailoverRequest,
        QueueSighting,
        QueueSuspicion,
        QueueWatchOrder,
        QueueWatchRequest,
        StandbyOrder,
    )
    from schemas.reports import Report
    from workflows.policy import queue as policy
    from workflows.reasons import kind_of, reason_of
    from workflows.runbook import RETRY
    from workflows.watching import AGAIN, FOR_EVER, HEARTBEAT

SHORT = timedelta(seconds=5)


@workflow.defn(name="QueueWatch", failure_exception_types=[Exception])
class QueueWatch:
    """Runs until it is cancelled; continues as new after each run that it started."""

    def __init__(self) -> None:
        self.estate: QueueEstate
        self.record: EpochRecord
        self.down: dict[str, QueueSighting] = {}
        self.known_down: list[str] = []
        self.standing_back = ""
        self.report: Report | None = None

    @workflow.signal(description="A planned run closes the cluster that serves: the watch waits for its end.")
    def stand_back(self, run: str) -> None:
        self.standing_back = run

    @workflow.query(description="Whom clients are led to, and which regions see it down.")
    def state(self) -> dict[str, Any]:
        return {"leader": self.record.leader, "epoch": self.record.epoch, "down": sorted(self.down)}

    @workflow.run
    async def run(self, request: QueueWatchRequest) -> None:
        workflow.upsert_search_attributes(
            [SearchAttributeKey.for_keyword("LifeboatService").value_set(request.service)]
        )
        found = await workflow.execute_local_activity(
            estate.describe_estate,
            request.service,
            start_to_close_timeout=SHORT,
            schedule_to_close_timeout=timedelta(seconds=30),
            retry_policy=RETRY,
        )
        if not isinstance(found, QueueEstate):
            told = str(UnknownService(f"{request.service} is no queue service"))
            raise ApplicationError(told, type=UnknownService.__name__, non_retryable=True)
        self.estate = found
        self.known_down = request.known_down
        self.record = await self.reserve(await self.establish())
        blocked = request.blocked_until
        working = [asyncio.ensure_future(self.region(name)) for name in self.estate.vantages]
        working.append(asyncio.ensure_future(self.keep_standbys()))
        try:
            if blocked is not None and blocked > workflow.now():
                await workflow.sleep(blocked - workflow.now(), summary="block period after a run")
            await workflow.wait_condition(
                lambda: self.quorum() or bool(self.standing_back) or workflow.info().is_continue_as_new_suggested()
            )
            if self.standing_back:
                await self.until_free()
            elif self.quorum() and await self.fail_over(request):
                blocked = workflow.now() + timedelta(seconds=self.estate.service.detection.block_s)
        finally:
            for task in working:
                task.cancel()
        workflow.continue_as_new(
            QueueWatchRequest(
                service=request.service,
                blocked_until=blocked,
                down_since=self.down_since(request),
                down_leader=self.record.leader,
                known_down=self.known_down,
            )
        )

    def quorum(self) -> bool:
        return len(self.down) >= self.estate.service.detection.quorum

    def first_failure(self) -> datetime:
        return min(each.first_failure or each.at for each in self.down.values())

    def down_since(self, request: QueueWatchRequest) -> datetime | None:
        """Since when whoever clients are led to is down, as long as a run has not ended that."""
        served = self.report is not None and self.report.recovered is not None
        if not self.quorum() or served or not any(self.record.leader in each.down for each in self.down.values()):
            return None
        return self.outage_before(request) or self.first_failure()

    def outage_before(self, request: QueueWatchRequest) -> datetime | None:
        return request.down_since if request.down_leader == self.record.leader else None

    async def fail_over(self, request: QueueWatchRequest) -> bool:
        """Start the runbook, which confirms before it acts, and wait for its end; whether it had the service."""
        down = sorted({name for each in self.down.values() for name in each.down})
        reserved = self.record.run == self.holder()
        member = self.record.leader if self.record.leader in down else down[0]
        order = QueueFailoverRequest(
            service=self.estate.service.name,
            reason=f"{', '.join(down)} failed the probes of {', '.join(sorted(self.down))}",
            suspicion=QueueSuspicion(
                member=member,
                first_failure=self.first_failure(),
                outage_began=self.outage_before(request),
                regions=sorted(self.down),
                seen=[each.seen for each in self.down.values() if each.seen is not None],
                record=self.record if reserved else None,
            ),
        )
        self.known_down = down
        try:
            self.report = await workflow.execute_child_workflow(
                "QueueFailover",
                order,
                result_type=Report,
                id=f"queue-failover/{order.service}/{workflow.now():%Y%m%dT%H%M%S}",
                task_queue=TASK_QUEUE,
                task_timeout=TASK_TIMEOUT,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            )
            if not self.report.unprotected:
                self.known_down = []
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
            sighting = await workflow.execute_activity(
                rabbit_watch.watch_brokers,
                QueueWatchOrder(
                    service=self.estate.service,
                    zone=self.estate.zone,
                    member=self.record.leader,
                    region=region,
                    known=self.known_down,
                    until=until,
                ),
                task_queue=region_queue(region),
                start_to_close_timeout=FOR_EVER,
                heartbeat_timeout=HEARTBEAT * 2,
                retry_policy=AGAIN,
                summary=f"{region} until {until}",
            )
            if until == "down":
                self.down[region] = sighting
                # The next second belongs to the failover, if there is one.
                await workflow.sleep(1, summary=f"before {region} looks again")
            else:
                self.down.pop(region, None)

    async def keep_standbys(self) -> None:
        """They are told of what is defined and held, for the day on which nobody else can tell."""
        order = StandbyOrder(
            service=self.estate.service,
            region=self.estate.service.member(self.record.leader).region,
            # What stands in reserve is the next run's: what the watch does is older than that.
            epoch=self.record.epoch - 1 if self.record.run == self.holder() else self.record.epoch,
        )
        await workflow.execute_activity(
            rabbit_watch.keep_standbys,
            order,
            start_to_close_timeout=FOR_EVER,
            heartbeat_timeout=HEARTBEAT * 2,
            retry_policy=AGAIN,
            summary="standbys",
        )

    async def establish(self) -> EpochRecord:
        """The service's record; where there is none, a first one that names whom clients are led to."""
        wait = 1.0
        while True:
            seen: QueueObservation = await workflow.execute_activity(
                rabbit_look.observe_queue,
                self.estate,
                start_to_close_timeout=timedelta(seconds=15),
                retry_policy=AGAIN,
            )
            if seen.record is not None:
                return seen.record
            leader, why = policy.led_to(self.estate.service, seen)
            if leader is not None and not seen.epoch_error:
                first = EpochRecord(epoch=0, run="watch", leader=leader, w=0, voters=[])
                return await workflow.execute_activity(
                    epoch.establish_epoch,
                    EstablishOrder(service=self.estate.service, zone=self.estate.zone, first=first),
                    start_to_close_timeout=SHORT,
                    retry_policy=AGAIN,
                )
            workflow.logger.warning("nobody to watch yet: %s", seen.epoch_error or why)
            await workflow.sleep(wait, summary="nobody serves, or no epoch store")
            wait = min(wait * 2, 60.0)

    async def reserve(self, record: EpochRecord) -> EpochRecord:
        """Claim an epoch ahead of time, for the one run that this watch will start (docs/adr/0015)."""
        service = self.estate.service.name
        order = ClaimOrder(zone=self.estate.zone, service=service, run=self.holder(), seen=record)
        try:
            busy = await workflow.execute_activity(
                estate.lock_holder,
                LockQuestion(service=service),
                start_to_close_timeout=SHORT,
                schedule_to_close_timeout=SHORT,
            )
            if busy:
                return record
            return await workflow.execute_activity(
                epoch.claim_epoch,
                order,
                start_to_close_timeout=SHORT,
                schedule_to_close_timeout=SHORT,
                retry_policy=RETRY,
            )
        except FailureError as error:
            workflow.logger.warning("no epoch is held in reserve: %s", reason_of(error))
            return record

    def holder(self) -> str:
        """The name under which this run of the watch holds an epoch."""
        return f"watch/{workflow.info().run_id}"
