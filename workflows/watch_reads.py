"""The watch's part in reads: read-only routes serve who follows and does not lag, all day long.

No history grows while all is well: the activity that looks returns only when something changed.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities import epoch, pgpool, read_names, reads
    from schemas.orders import Estate
    from schemas.read_orders import KeepReadsOrder, PgpoolOrder, ReadPicture, ReadSet, ReadsOrder
    from schemas.reads import PgpoolRoute, ReadRoute
    from workflows.policy.reads import who_may_read
    from workflows.reasons import reason_of
    from workflows.runbook import RETRY

FOR_EVER = timedelta(days=3650)
SILENT = timedelta(seconds=10)
"""A look takes a second or two where members are out of reach."""
SHORT = timedelta(seconds=10)
AGAIN = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=5))
PATIENCE_S = 5.0
"""A member that Pgpool-II took out by itself is let in again only then: each change there ends clients' sessions."""
LONGEST_WAIT_S = 60.0


class ReadKeeper:
    """Keeps the read-only routes of one service for as long as one member leads."""

    def __init__(self, estate: Estate, leader: str) -> None:
        self.estate, self.leader = estate, leader
        self.served: list[str] = []

    async def keep(self) -> None:
        """Look, decide, apply, for ever. What could not be applied is tried again, ever more seldom."""
        order = KeepReadsOrder(service=self.estate.service, zone=self.estate.zone, leader=self.leader)
        wait = 1.0
        while True:
            picture: ReadPicture = await workflow.execute_activity(
                reads.keep_watch_of_reads,
                order,
                start_to_close_timeout=FOR_EVER,
                heartbeat_timeout=SILENT,
                retry_policy=AGAIN,
                summary="who may be read",
            )
            seen = picture.signature
            try:
                failed = await self._apply(picture)
            except FailureError as error:
                failed = reason_of(error)
            if failed:
                workflow.logger.warning("the read-only routes are not all led: %s", failed)
                seen = ""
                await workflow.sleep(wait, summary="before reads are looked at again")
            wait = min(wait * 2, LONGEST_WAIT_S) if failed else 1.0
            order = order.model_copy(
                update={
                    "seen": seen,
                    "lagging": picture.lagging,
                    "served": self.served,
                    "serving": picture.serving,
                }
            )

    async def _apply(self, picture: ReadPicture) -> str:
        """Lead every route to those who may be read now; why not all of them are led, "" when they are.

        Also while a run works on the service, a rejoin for hours: once a run has chosen another leader, the record
        says so, and nothing is done here.
        """
        service = self.estate.service
        record = await workflow.execute_activity(
            epoch.read_record, self.estate, start_to_close_timeout=SHORT, schedule_to_close_timeout=SHORT
        )
        if record is None or (record.candidate or record.leader) != self.leader:
            return "another leads by the record"
        wanted = who_may_read(service, self.leader, picture.members, lags=picture.lags, lagging=picture.lagging)
        self.served = wanted.members
        assert service.reads is not None
        told = await asyncio.gather(*(self._lead(route, wanted, record.epoch) for route in service.reads.routes))
        return "; ".join(filter(None, told))

    async def _lead(self, route: ReadRoute, wanted: ReadSet, number: int) -> str:
        order: dict[str, Any] = {
            "service": self.estate.service,
            "zone": self.estate.zone,
            "leader": self.leader,
            "members": wanted.members,
            "epoch": number,
            "patience_s": PATIENCE_S,
        }
        limits: dict[str, Any] = {
            "start_to_close_timeout": SHORT,
            "schedule_to_close_timeout": 2 * SHORT,
            "retry_policy": RETRY,
            "summary": wanted.text()[:200],
        }
        try:
            if isinstance(route, PgpoolRoute):
                await workflow.execute_activity(pgpool.lead_pgpool, PgpoolOrder(route=route, **order), **limits)
            else:
                await workflow.execute_activity(read_names.lead_read_names, ReadsOrder(**order), **limits)
        except FailureError as error:
            # One that is down is looked at once it answers: the look itself says so (activities/reads.py).
            return "" if isinstance(route, PgpoolRoute) else f"{route.name}: {reason_of(error)}"
        return ""
