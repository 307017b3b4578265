"""The watch of one service: each region probes, a quorum starts the failover, and the synchronous set is kept.

No history grows while all is well: the regions' activities return only when something changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities import epoch, estate, keeper, probes, survey
    from schemas.attributes import TASK_QUEUE, TASK_TIMEOUT, region_queue
    from schemas.facts import EpochRecord
    from schemas.failures import ServiceLocked
    from schemas.orders import (
        CacheEstate,
        ClaimOrder,
        EstablishOrder,
        Estate,
        KeepOrder,
        LockQuestion,
        Observation,
        Picture,
        Sighting,
        WatchOrder,
    )
    from schemas.queue_facts import QueueEstate
    from schemas.reports import Report
    from schemas.requests import FailoverRequest, Suspicion, WatchRequest
    from workflows.policy.sightings import agreeing, began, goes_on, outage_of
    from workflows.policy.voters import next_set, parse_names
    from workflows.reasons import kind_of, reason_of
    from workflows.runbook import RETRY
    from workflows.synchronous import carry_out_change
    from workflows.watch_reads import ReadKeeper
    from workflows.watching import AGAIN, FOR_EVER, HEARTBEAT


@workflow.defn(name="Watch", failure_exception_types=[Exception])
class Watch:
    """Runs until it is cancelled; continues as new after each run that it started."""

    def __init__(self) -> None:
        self.estate: Estate
        self.record: EpochRecord
        self.down: dict[str, Sighting] = {}
        self.outdated = False
        """The record names another leader than the one that is watched."""
        self.standing_back = ""
        """The planned run that asked for it."""
        self.probing_since: datetime
        self.recovered = False
        """The failover that it started has ended the outage."""

    @workflow.signal(description="A planned run takes the primary down: the watch waits for its end.")
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
        if isinstance(found, CacheEstate):
            workflow.continue_as_new(workflow="CacheWatch", args=[request])
        if isinstance(found, QueueEstate):
            workflow.continue_as_new(workflow="QueueWatch", args=[request])
        self.estate = found
        self.record = await self.reserve(await self.establish())
        blocked = request.blocked_until
        self.probing_since = workflow.now()
        regions = [asyncio.ensure_future(self.region(name)) for name in self.estate.vantages]
        keeping = [asyncio.ensure_future(self.keep())]
        if self.estate.service.reads is not None:
            keeping.append(asyncio.ensure_future(ReadKeeper(self.estate, self.record.leader).keep()))
        try:
            if blocked is not None and blocked > workflow.now():
                await workflow.sleep(blocked - workflow.now(), summary="block period after a run")
            await workflow.wait_condition(lambda: self.quorum() or self.begins_anew() or bool(self.standing_back))
            if self.standing_back:
                await self.until_free()
            elif self.quorum() and await self.fail_over(self.outage_before(request)):
                blocked = workflow.now() + timedelta(seconds=self.estate.service.detection.block_s)
        finally:
            for task in (*regions, *keeping):
                task.cancel()
        workflow.continue_as_new(
            WatchRequest(
                service=request.service,
                blocked_until=blocked,
                down_since=self.down_since(request),
                down_leader=self.record.leader,
            )
        )

    def begins_anew(self) -> bool:
        """Another leads, or the history has grown long: the watch goes on in a new run."""
        return self.outdated or workflow.info().is_continue_as_new_suggested()

    def quorum(self) -> bool:
        return len(self.down) >= self.estate.service.detection.quorum

    def outage_before(self, request: WatchRequest) -> datetime | None:
        before = request.down_since if request.down_leader == self.record.leader else None
        return goes_on(before, list(self.down.values()), self.probing_since, self.estate.service.detection)

    def down_since(self, request: WatchRequest) -> datetime | None:
        """Since when whoever leads is down, as long as it is."""
        if not self.quorum() or self.recovered:
            return None
        return self.outage_before(request) or outage_of(list(self.down.values()), self.estate.service.detection)

    async def fail_over(self, outage_began: datetime | None) -> bool:
        """Start the runbook, which confirms before it acts, and wait for its end; whether it had the service."""
        recent = agreeing(list(self.down.values()), self.estate.service.detection)
        first = min(began(sighting) for sighting in recent)
        reserved = self.record.run == self.holder()
        request = FailoverRequest(
            service=self.estate.service.name,
            reason=f"{self.record.leader} fails the probes of {', '.join(sorted(self.down))}",
            suspicion=Suspicion(
                member=self.record.leader,
                first_failure=first,
                outage_began=outage_began,
                regions=sorted(self.down),
                votes=[sighting.last for sighting in recent],
                cut_off=sorted(set(self.down) - {sighting.region for sighting in recent}),
                seen=next((sighting.seen for sighting in recent if sighting.seen), None),
                epoch=self.record.epoch if reserved else None,
                holder=self.record.run if reserved else "",
            ),
        )
        try:
            report: Report = await workflow.execute_child_workflow(
                "DatabaseFailover",
                request,
                result_type=Report,
                id=f"database-failover/{request.service}/{workflow.now():%Y%m%dT%H%M%S}",
                task_queue=TASK_QUEUE,
                task_timeout=TASK_TIMEOUT,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            )
            self.recovered = report.recovered is not None
        except FailureError as error:
            workflow.logger.warning("the failover did not run: %s", reason_of(error))
            if kind_of(error) == ServiceLocked.__name__:
                # Not again and again: whoever works on the service is awaited, and what is true then is looked at.
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
            order = WatchOrder(
                service=self.estate.service,
                zone=self.estate.zone,
                member=self.record.leader,
                region=region,
                until=until,
            )
            sighting = await workflow.execute_activity(
                probes.watch_member,
                order,
                task_queue=region_queue(region),
                start_to_close_timeout=FOR_EVER,
                heartbeat_timeout=HEARTBEAT,
                retry_policy=AGAIN,
                summary=f"{region} until {until}",
            )
            if until == "down":
                self.down[region] = sighting
                # The next second belongs to the failover, if there is one.
                await workflow.sleep(1, summary=f"before {region} looks again")
            else:
                self.down.pop(region, None)

    async def establish(self) -> EpochRecord:
        """The service's record; where there is none, a first one from the only member that leads."""
        service = self.estate.service
        wait = 1.0
        while True:
            seen: Observation = await workflow.execute_activity(
                survey.observe, self.estate, start_to_close_timeout=timedelta(seconds=5), retry_policy=AGAIN
            )
            if seen.record is not None:
                return seen.record
            leading = [facts for facts in seen.members if facts.reachable and not facts.in_recovery]
            parsed = parse_names(leading[0].synchronous_names) if len(leading) == 1 else None
            if parsed is not None and not seen.epoch_error:
                first = EpochRecord(
                    epoch=max(facts.stamp for facts in seen.members if facts.reachable),
                    run="watch",
                    leader=leading[0].member,
                    w=parsed[0],
                    voters=parsed[1],
                )
                return await workflow.execute_activity(
                    epoch.establish_epoch,
                    EstablishOrder(service=service, zone=self.estate.zone, first=first),
                    start_to_close_timeout=timedelta(seconds=5),
                    retry_policy=AGAIN,
                )
            await workflow.sleep(wait, summary="no single primary, or no epoch store")
            wait = min(wait * 2, 60.0)

    async def reserve(self, record: EpochRecord) -> EpochRecord:
        """Claim an epoch ahead of time, for the one run that this watch will start (docs/adr/0015).

        Never while a run is under way, which would be overtaken; one that begins meanwhile changes the record, and the
        claim is refused. Without a reserve nothing is lost but the time of a claim.
        """
        short = timedelta(seconds=5)
        order = ClaimOrder(
            zone=self.estate.zone,
            service=self.estate.service.name,
            run=self.holder(),
            seen=record,
        )
        try:
            busy = await workflow.execute_activity(
                estate.lock_holder,
                LockQuestion(service=self.estate.service.name),
                start_to_close_timeout=short,
                schedule_to_close_timeout=short,
            )
            if busy:
                return record
            return await workflow.execute_activity(
                epoch.claim_epoch,
                order,
                start_to_close_timeout=short,
                schedule_to_close_timeout=short,
                retry_policy=RETRY,
            )
        except FailureError as error:
            workflow.logger.warning("no epoch is held in reserve: %s", reason_of(error))
            return record

    def holder(self) -> str:
        """The name under which this run of the watch holds an epoch."""
        return f"watch/{workflow.info().run_id}"

    async def keep(self) -> None:
        """Keep the synchronous set and its record in step with the voters that stream (policy/voters.py)."""
        service, seen = self.estate.service, ""
        missing: dict[str, datetime] = {}
        while True:
            picture: Picture = await workflow.execute_activity(
                keeper.keep_watch_of_set,
                KeepOrder(service=service, leader=self.record.leader, seen=seen, missing_since=missing),
                start_to_close_timeout=FOR_EVER,
                heartbeat_timeout=HEARTBEAT * 2,
                retry_policy=AGAIN,
                summary="synchronous set",
            )
            seen, missing = picture.signature, picture.missing_since
            try:
                if await self._change_set(picture, workflow.now()):
                    seen = ""
            except FailureError as error:
                # A run took the epoch meanwhile, or the leader died: what is true then is looked at afresh.
                workflow.logger.warning("the synchronous set was not changed: %s", reason_of(error))
                seen = ""
                await workflow.sleep(2, summary="before the set is looked at again")

    async def _change_set(self, picture: Picture, now: datetime) -> bool:
        """One step towards the set that the policy wants; whether there was one, so that the next is looked for."""
        service, zone = self.estate.service, self.estate.zone
        short = timedelta(seconds=10)
        busy = await workflow.execute_activity(
            estate.lock_holder,
            LockQuestion(service=service.name),
            start_to_close_timeout=short,
            schedule_to_close_timeout=short,
        )
        if busy:
            return False
        record = await workflow.execute_activity(
            epoch.read_record, self.estate, start_to_close_timeout=short, schedule_to_close_timeout=short
        )
        if record is None or record.leader != self.record.leader:
            self.outdated = record is not None
            return False
        change = next_set(service, record, picture.leader, missing_since=picture.missing_since, now=now)
        if change is None:
            return False
        # The epoch in reserve is the next run's: what the watch does to the node is older than that.
        held = record.epoch - 1 if record.run == self.record.run else record.epoch
        reason = change.reason[:200]

        async def act(activity: Callable[[Any], Awaitable[object]], order: object) -> object:
            return await workflow.execute_activity(
                activity, order, start_to_close_timeout=short, schedule_to_close_timeout=short, summary=reason
            )

        await carry_out_change(service, zone, record, change, held, act=act)
        return True
