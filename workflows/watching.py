"""The watch of a service of any kind: each region probes, a quorum starts the failover, planned runs are waited for.

No history grows while all is well: the regions' activities return only when something changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

from temporalio import workflow
from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities import epoch, estate
    from schemas.attributes import TASK_QUEUE, TASK_TIMEOUT, region_queue
    from schemas.facts import EpochRecord
    from schemas.failures import ServiceLocked
    from schemas.orders import AnyEstate, ClaimOrder, LockQuestion
    from schemas.reports import Report
    from schemas.requests import RunRequest
    from workflows.reasons import kind_of, reason_of
    from workflows.runbook import RETRY

FOR_EVER = timedelta(days=3650)
HEARTBEAT = timedelta(seconds=3)
SHORT = timedelta(seconds=5)
AGAIN = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=5))


class Watching:
    """What every watch does. A kind says how it probes, what it establishes, and what it starts."""

    procedure: ClassVar[str]
    """The workflow type that it starts; its runs' ids begin with `run_prefix`."""
    run_prefix: ClassVar[str]

    def __init__(self) -> None:
        self.estate: AnyEstate
        self.record: EpochRecord
        self.down: dict[str, Any] = {}
        """Region → what it saw, while it sees the service down."""
        self.standing_back = ""
        """The planned run that asked for it."""
        self.recovered = False
        """The failover that it started has ended the outage."""
        self.report: Report | None = None

    @workflow.signal(description="A planned run works on the service: the watch waits for its end.")
    def stand_back(self, run: str) -> None:
        self.standing_back = run

    @workflow.query(description="Who leads, and which regions see it down.")
    def state(self) -> dict[str, Any]:
        return {"leader": self.record.leader, "epoch": self.record.epoch, "down": sorted(self.down)}

    async def describe(self, service: str) -> AnyEstate:
        """The watch's own copy of the estate, of any kind."""
        workflow.upsert_search_attributes([SearchAttributeKey.for_keyword("LifeboatService").value_set(service)])
        return await workflow.execute_local_activity(
            estate.describe_estate,
            service,
            start_to_close_timeout=SHORT,
            schedule_to_close_timeout=timedelta(seconds=30),
            retry_policy=RETRY,
        )

    # What a kind says

    def keepers(self) -> Sequence[Awaitable[None]]:
        """What goes on beside the probes."""
        return []

    def begins_anew(self) -> bool:
        """Whether the watch goes on in a new run: its history has grown long, or another leads."""
        return workflow.info().is_continue_as_new_suggested()

    def quorum(self) -> bool:
        return len(self.down) >= self.estate.service.detection.quorum

    async def look_from(self, region: str, until: str) -> tuple[str, Any]:
        """Wait until the region sees it `down`, or `up` again: the state, and what it saw."""
        raise NotImplementedError

    def seen_down(self, region: str, state: str, sighting: Any) -> None:
        self.down[region] = sighting

    # What is the same for all

    async def watch_until_something(
        self, blocked: datetime | None, request: Callable[[], RunRequest]
    ) -> datetime | None:
        """Watch until a run was started or waited for, or the watch begins anew; until when no other may be started."""
        working = [asyncio.ensure_future(self._region(name)) for name in self.estate.vantages]
        working += [asyncio.ensure_future(each) for each in self.keepers()]
        try:
            if blocked is not None and blocked > workflow.now():
                await workflow.sleep(blocked - workflow.now(), summary="block period after a run")
            await workflow.wait_condition(lambda: self.quorum() or self.begins_anew() or bool(self.standing_back))
            if self.standing_back:
                await self.until_free()
            elif self.quorum() and await self.fail_over(request()):
                blocked = workflow.now() + timedelta(seconds=self.estate.service.detection.block_s)
        finally:
            for task in working:
                task.cancel()
        return blocked

    async def fail_over(self, request: RunRequest) -> bool:
        """Start the runbook, which confirms before it acts, and wait for its end; whether it did anything."""
        try:
            self.report = await workflow.execute_child_workflow(
                self.procedure,
                request,
                result_type=Report,
                id=f"{self.run_prefix}/{request.service}/{workflow.now():%Y%m%dT%H%M%S}",
                task_queue=TASK_QUEUE,
                task_timeout=TASK_TIMEOUT,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            )
            self.recovered = self.report.recovered is not None
        except FailureError as error:
            workflow.logger.warning("the failover did not run: %s", reason_of(error))
            if kind_of(error) == ServiceLocked.__name__:
                # Not again and again: whoever works on the service is awaited, and what is true then is looked at.
                await self.until_free()
                return False
            return True
        return self.blocks_after(self.report)

    def blocks_after(self, report: Report) -> bool:
        """Whether no other run may be started for a while."""
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

    async def _region(self, region: str) -> None:
        """One region's view: down, up again, down …"""
        while True:
            state, sighting = await self.look_from(region, "up" if region in self.down else "down")
            if state == "up":
                self.down.pop(region, None)
                continue
            self.seen_down(region, state, sighting)
            # The next second belongs to the failover, if there is one.
            await workflow.sleep(1, summary=f"before {region} looks again")

    async def probing(self, act: Any, order: Any, region: str, until: str, heartbeat: timedelta = HEARTBEAT) -> Any:
        """One activity of a region, for as long as it takes."""
        return await workflow.execute_activity(
            act,
            order,
            task_queue=region_queue(region),
            start_to_close_timeout=FOR_EVER,
            heartbeat_timeout=heartbeat,
            retry_policy=AGAIN,
            summary=f"{region} until {until}",
        )

    async def reserve(self, record: EpochRecord) -> EpochRecord:
        """Claim an epoch ahead of time, for the one run that this watch will start (docs/adr/0015).

        Never while a run is under way, which would be overtaken; one that begins meanwhile changes the record, and the
        claim is refused. Without a reserve nothing is lost but the time of a claim.
        """
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
