"""The watch of one service: each region probes, a quorum starts the failover, and the synchronous set is kept.

No history grows while all is well: the regions' activities return only when something changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities import epoch, estate, keeper, probes, survey
    from schemas.facts import EpochRecord
    from schemas.orders import (
        CacheEstate,
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
    from schemas.requests import FailoverRequest, Suspicion, WatchRequest
    from workflows.policy.sightings import agreeing, began, goes_on, outage_of
    from workflows.policy.voters import next_set, parse_names
    from workflows.reasons import reason_of
    from workflows.synchronous import carry_out_change
    from workflows.watch_reads import ReadKeeper
    from workflows.watching import AGAIN, FOR_EVER, HEARTBEAT, Watching


@workflow.defn(name="Watch", failure_exception_types=[Exception])
class Watch(Watching):
    """Of a database. Runs until it is cancelled; continues as new after each run that it started.

    One that is started for another kind of service goes on as that kind's watch.
    """

    procedure, run_prefix = "DatabaseFailover", "database-failover"
    estate: Estate

    def __init__(self) -> None:
        super().__init__()
        self.outdated = False
        """The record names another leader than the one that is watched."""
        self.probing_since: datetime

    @workflow.run
    async def run(self, request: WatchRequest) -> None:
        found = await self.describe(request.service)
        if not isinstance(found, Estate):
            others = {CacheEstate: "CacheWatch", QueueEstate: "QueueWatch"}
            workflow.continue_as_new(workflow=others[type(found)], args=[request])
        self.estate = found
        self.record = await self.reserve(await self.establish())
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

    def keepers(self) -> list[Awaitable[None]]:
        keeping: list[Awaitable[None]] = [self.keep()]
        if self.estate.service.reads is not None:
            keeping.append(ReadKeeper(self.estate, self.record.leader).keep())
        return keeping

    def begins_anew(self) -> bool:
        return self.outdated or super().begins_anew()

    def outage_before(self, request: WatchRequest) -> datetime | None:
        before = request.down_since if request.down_leader == self.record.leader else None
        return goes_on(before, list(self.down.values()), self.probing_since, self.estate.service.detection)

    def down_since(self, request: WatchRequest) -> datetime | None:
        """Since when whoever leads is down, as long as it is."""
        if not self.quorum() or self.recovered:
            return None
        return self.outage_before(request) or outage_of(list(self.down.values()), self.estate.service.detection)

    def suspicion(self, request: WatchRequest) -> FailoverRequest:
        """What the runbook is started with."""
        recent = agreeing(list(self.down.values()), self.estate.service.detection)
        reserved = self.record.run == self.holder()
        return FailoverRequest(
            service=self.estate.service.name,
            reason=f"{self.record.leader} fails the probes of {', '.join(sorted(self.down))}",
            suspicion=Suspicion(
                member=self.record.leader,
                first_failure=min(began(sighting) for sighting in recent),
                outage_began=self.outage_before(request),
                regions=sorted(self.down),
                votes=[sighting.last for sighting in recent],
                cut_off=sorted(set(self.down) - {sighting.region for sighting in recent}),
                seen=next((sighting.seen for sighting in recent if sighting.seen), None),
                epoch=self.record.epoch if reserved else None,
                holder=self.record.run if reserved else "",
            ),
        )

    async def look_from(self, region: str, until: str) -> tuple[str, Sighting]:
        order = WatchOrder(
            service=self.estate.service, zone=self.estate.zone, member=self.record.leader, region=region, until=until
        )
        return until, await self.probing(probes.watch_member, order, region, until)

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
