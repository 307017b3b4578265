"""`lifeboat ready`: looks at a service from every region, and says what would break or weaken its procedures.

It takes no lock and no epoch, and changes nothing; what is down is a finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities import backup_health, cache_survey, rabbit_look, readiness
    from activities import estate as estates
    from schemas import attributes
    from schemas.failures import TopologyInvalid
    from schemas.orders import CacheEstate, Estate, LockQuestion
    from schemas.queue_facts import QueueEstate
    from schemas.ready import (
        CACHE_CHECKS,
        QUEUE_CHECKS,
        SHARED,
        CacheRegionOrder,
        CacheRegionView,
        EngineView,
        Finding,
        QueueRegionView,
        Readiness,
        ReadyReport,
        ReadyRequest,
        RegionOrder,
        RegionView,
    )
    from schemas.takes import BackupView
    from workflows.database_failover import DatabaseFailover
    from workflows.policy import clock
    from workflows.policy.cache_ready import judge_cache
    from workflows.policy.queue_ready import judge_queue
    from workflows.policy.ready import judge
    from workflows.policy.ready_sight import regions_of
    from workflows.reasons import kind_of, reason_of
    from workflows.runbook import NEVER_AGAIN, NO_WORKER_S

T = TypeVar("T")
Order = TypeVar("Order")

LOOK_S = 8.0
"""Limit of one region's look: its own limits are shorter, each on its own."""


@workflow.defn(name="DatabaseReady", failure_exception_types=[Exception])
class DatabaseReady:
    """Start with `{"service": "counting-db"}`, or `{}` for every service; ends with a ReadyReport."""

    @workflow.run
    async def run(self, request: ReadyRequest) -> ReadyReport:
        try:
            names = [request.service] if request.service else await self.ask(readiness.list_services)
            services = list(await asyncio.gather(*(self.look_at(name) for name in names)))
        except FailureError as error:
            if kind_of(error) != TopologyInvalid.__name__:
                raise
            services = [Readiness(service=request.service or "every service", findings=[_unusable(reason_of(error))])]
        return ReadyReport(at=workflow.now(), services=services)

    async def look_at(self, name: str) -> Readiness:
        estate = await self.ask(estates.describe_estate, name)
        if isinstance(estate, CacheEstate):
            return await self.look_at_cache(estate)
        if isinstance(estate, QueueEstate):
            return await self.look_at_queue(estate)
        (engine, views), backups = await asyncio.gather(
            self.look_around(name, regions_of(estate), lambda region: self.look_from(region, estate)),
            self.look_at_backups(estate),
        )
        machine_s = clock.forecast(DatabaseFailover.expected_s)
        return Readiness(
            service=name,
            findings=judge(estate, views, engine, machine_s=machine_s, backups=backups),
            members=[member.name for member in estate.service.members],
            regions=[view.region for view in views],
            routes=[route.name for route in estate.service.routes],
        )

    async def look_at_cache(self, estate: CacheEstate) -> Readiness:
        async def look_from(region: str) -> CacheRegionView | None:
            order = CacheRegionOrder(estate=estate, region=region)
            return await self.look(cache_survey.look_at_cache_from_region, order, region)

        name = estate.service.name
        engine, views = await self.look_around(name, estate.vantages, look_from)
        return Readiness(
            service=name,
            findings=judge_cache(estate, views, engine),
            members=[*estate.service.member_names(), *(each.name for each in estate.service.sentinels)],
            regions=[view.region for view in views],
            routes=[route.name for route in estate.service.routes],
            checks=len(SHARED) + len(CACHE_CHECKS),
        )

    async def look_at_queue(self, estate: QueueEstate) -> Readiness:
        async def look_from(region: str) -> QueueRegionView | None:
            seen = await self.look(rabbit_look.observe_queue, estate, region)
            return QueueRegionView(region=region, seen=seen) if seen is not None else None

        name = estate.service.name
        engine, views = await self.look_around(name, estate.vantages, look_from)
        return Readiness(
            service=name,
            findings=judge_queue(estate, views, engine),
            members=estate.service.member_names(),
            regions=[view.region for view in views],
            routes=[route.name for route in estate.service.routes],
            # And `persistence`, which a cache has as well.
            checks=len(SHARED) + len(QUEUE_CHECKS) + 1,
        )

    async def look_around(
        self, name: str, regions: Sequence[str], look_from: Callable[[str], Awaitable[T | None]]
    ) -> tuple[EngineView | None, list[T]]:
        """The engine's view, and that of each region that has one."""
        engine, seen = await asyncio.gather(self.look_at_engine(name), asyncio.gather(*map(look_from, regions)))
        return engine, [view for view in seen if view is not None]

    async def ask(self, act: Callable[..., Awaitable[T]], *given: Any) -> T:
        return await workflow.execute_local_activity(
            act,
            args=given,
            start_to_close_timeout=timedelta(seconds=5),
            schedule_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(maximum_attempts=3, non_retryable_error_types=NEVER_AGAIN),
        )

    async def look_from(self, region: str, estate: Estate) -> RegionView | None:
        return await self.look(readiness.look_from_region, RegionOrder(estate=estate, region=region), region)

    async def look_at_backups(self, estate: Estate) -> BackupView | None:
        """As the restore host sees them."""
        backup = estate.service.backup
        if backup is None:
            return None
        return await self.look(backup_health.look_at_backups, estate.service, backup.host.region)

    async def look(self, act: Callable[[Order], Awaitable[T]], order: Order, region: str) -> T | None:
        """One region's view; None when none of its workers took it in time, or answered."""
        try:
            return await workflow.execute_activity(
                act,
                order,
                task_queue=attributes.region_queue(region),
                start_to_close_timeout=timedelta(seconds=LOOK_S),
                schedule_to_start_timeout=timedelta(seconds=NO_WORKER_S),
                retry_policy=RetryPolicy(maximum_attempts=1),
                summary=f"as seen from {region}",
            )
        except ActivityError as error:
            workflow.logger.warning("nothing is seen from %s: %s", region, reason_of(error))
            return None

    async def look_at_engine(self, name: str) -> EngineView | None:
        try:
            return await workflow.execute_activity(
                readiness.look_at_engine,
                LockQuestion(service=name),
                start_to_close_timeout=timedelta(seconds=3),
                schedule_to_close_timeout=timedelta(seconds=LOOK_S),
                retry_policy=RetryPolicy(maximum_attempts=2),
                summary="the watch, and who works on the service",
            )
        except ActivityError as error:
            workflow.logger.warning("the engine does not say who works: %s", reason_of(error))
            return None


def _unusable(why: str) -> Finding:
    return Finding(
        check="topology",
        severity="error",
        where="topology",
        what=f"a worker can't use its file: {why}",
        remedy="its owner must correct the places named here (`lifeboat topology check` names them too)",
    )
