"""The watch of a queue: each region probes the nodes that serve, a quorum starts the failover, standbys are kept told.

No history grows while all is well: the regions' activities return only when something changed.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import epoch, rabbit_look, rabbit_watch
    from schemas.facts import EpochRecord
    from schemas.orders import EstablishOrder
    from schemas.queue_facts import QueueEstate, QueueObservation
    from schemas.queue_requests import (
        QueueFailoverRequest,
        QueueSighting,
        QueueSuspicion,
        QueueWatchOrder,
        QueueWatchRequest,
        StandbyOrder,
    )
    from workflows.policy import queue as policy
    from workflows.watching import AGAIN, FOR_EVER, HEARTBEAT, SHORT, Watching


@workflow.defn(name="QueueWatch", failure_exception_types=[Exception])
class QueueWatch(Watching):
    """Runs until it is cancelled; continues as new after each run that it started."""

    procedure, run_prefix = "QueueFailover", "queue-failover"
    estate: QueueEstate

    def __init__(self) -> None:
        super().__init__()
        self.known_down: list[str] = []
        self.superseded = False
        """Another run has taken the epoch, and its end was waited for."""

    @workflow.run
    async def run(self, request: QueueWatchRequest) -> None:
        found = await self.describe(request.service)
        if not isinstance(found, QueueEstate):
            workflow.continue_as_new(workflow="Watch", args=[request])
        self.estate = found
        self.known_down = request.known_down
        self.record = await self.reserve(await self.establish())
        blocked = await self.watch_until_something(request.blocked_until, lambda: self.suspicion(request))
        if self.report is not None and not self.report.unprotected:
            self.known_down = []
        workflow.continue_as_new(
            QueueWatchRequest(
                service=request.service,
                blocked_until=blocked,
                down_since=self.down_since(request),
                down_leader=self.record.leader,
                known_down=self.known_down,
            )
        )

    def keepers(self) -> list[Awaitable[None]]:
        return [self.keep_standbys()]

    def begins_anew(self) -> bool:
        return self.superseded or super().begins_anew()

    def first_failure(self) -> datetime:
        seen: list[QueueSighting] = list(self.down.values())
        return min(each.first_failure or each.at for each in seen)

    def down_since(self, request: QueueWatchRequest) -> datetime | None:
        """Since when whoever clients are led to is down, as long as a run has not ended that."""
        if not self.quorum() or self.recovered:
            return None
        if not any(self.record.leader in each.down for each in self.down.values()):
            return None
        return self.outage_before(request) or self.first_failure()

    def outage_before(self, request: QueueWatchRequest) -> datetime | None:
        return request.down_since if request.down_leader == self.record.leader else None

    def suspicion(self, request: QueueWatchRequest) -> QueueFailoverRequest:
        """What the runbook is started with."""
        down = sorted({name for each in self.down.values() for name in each.down})
        reserved = self.record.run == self.holder()
        self.known_down = down
        return QueueFailoverRequest(
            service=self.estate.service.name,
            reason=f"{', '.join(down)} failed the probes of {', '.join(sorted(self.down))}",
            suspicion=QueueSuspicion(
                member=self.record.leader if self.record.leader in down else down[0],
                first_failure=self.first_failure(),
                outage_began=self.outage_before(request),
                regions=sorted(self.down),
                seen=[each.seen for each in self.down.values() if each.seen is not None],
                before=[each.before for each in self.down.values() if each.before is not None],
                record=self.record if reserved else None,
            ),
        )

    async def look_from(self, region: str, until: str) -> tuple[str, QueueSighting]:
        order = QueueWatchOrder(
            service=self.estate.service,
            zone=self.estate.zone,
            member=self.record.leader,
            region=region,
            known=self.known_down,
            until=until,
        )
        return until, await self.probing(rabbit_watch.watch_brokers, order, region, until, HEARTBEAT * 2)

    async def keep_standbys(self) -> None:
        """They are told of what is defined and held, for the day on which nobody else can tell, and let nobody in."""
        order = StandbyOrder(
            service=self.estate.service,
            region=self.estate.service.member(self.record.leader).region,
            # What stands in reserve is the next run's: what the watch does is older than that.
            epoch=self.record.epoch - 1 if self.record.run == self.holder() else self.record.epoch,
            zone=self.estate.zone,
            run=self.record.run,
        )
        await workflow.execute_activity(
            rabbit_watch.keep_standbys,
            order,
            start_to_close_timeout=FOR_EVER,
            heartbeat_timeout=HEARTBEAT * 2,
            retry_policy=AGAIN,
            summary="standbys",
        )
        # It returns only once a run has a newer epoch, of which the watch may not have heard.
        await self.until_free()
        self.superseded = True

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
