"""Read-only routes: who may be read while another takes the lead, and once it leads. None of them stops a run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import pgpool, read_names, reads
    from schemas.orders import ProofResult
    from schemas.read_orders import LookAtReads, PgpoolOrder, ReadPicture, ReadSet, ReadsOrder
    from schemas.reads import PgpoolRoute, ReadResult, ReadRoute
    from workflows.database import DatabaseRunbook
    from workflows.policy.reads import who_may_read, who_may_read_next
    from workflows.reasons import reason_of
    from workflows.runbook import STEP


class Reading(DatabaseRunbook):
    """Narrow before the promotion; update once somebody leads and others follow."""

    def __init__(self) -> None:
        super().__init__()
        self.read_set: ReadSet | None = None
        self.read_results: list[ReadResult] = []
        self._narrowing: asyncio.Future[list[ReadResult]] | None = None

    def may_read_next(self, candidate: str, survivors: Sequence[str]) -> ReadSet | None:
        """Whom clients may read from the candidate's first commit on; None where the service has no such routes."""
        if self.estate.service.reads is None:
            return None
        return who_may_read_next(self.estate.service, candidate, survivors)

    def names_next(self, candidate: str, survivors: Sequence[str]) -> list[str] | None:
        found = self.may_read_next(candidate, survivors)
        return found.members if found is not None else None

    def narrow_reads(self, candidate: str, survivors: Sequence[str], title: str) -> None:
        """Begin to take everybody out of the read-only routes who does not follow the candidate.

        The names moved with the choice. Pgpool-II is told beside the promotion, which waits for none of them.
        """
        found = self.may_read_next(candidate, survivors)
        if found is None:
            return
        self.read_set = found
        self._narrowing = asyncio.ensure_future(self._narrow(found, title, self._narrowing))

    async def _narrow(
        self, wanted: ReadSet, title: str, before: asyncio.Future[list[ReadResult]] | None
    ) -> list[ReadResult]:
        STEP.set(title)
        if before is not None:
            # Of a candidate that died: what is told late must not come after this.
            await before
        assert self.estate.service.reads is not None
        return list(
            await asyncio.gather(*(self._lead(each, wanted, total=4) for each in self.estate.service.reads.pgpools()))
        )

    async def narrowed(self) -> None:
        """Wait for the narrowing, which must not come after what is decided next."""
        if self._narrowing is not None:
            self.read_results, self._narrowing = await self._narrowing, None

    async def update_reads(self, leader: str) -> list[ReadResult]:
        """Every read-only route serves exactly those that follow the leader and lag less than declared.

        It never fails: a route that can't be led is in the report, and the watch leads it once it can.
        """
        service = self.estate.service
        if service.reads is None:
            return []
        await self.narrowed()
        try:
            picture: ReadPicture = await self.do(
                reads.look_at_reads, LookAtReads(service=service, leader=leader), limit=6, total=15, heartbeat=None
            )
        except ActivityError as error:
            self.note(f"who may be read is not known: {reason_of(error)}")
            self.unprotected.append(f"the read-only routes are as they were: {reason_of(error)}; the watch looks again")
            return []
        wanted = who_may_read(service, leader, picture.members, lags=picture.lags, lagging=picture.lagging)
        if wanted.left_out.get(leader, "").endswith("not known to lead"):
            self.unprotected.append(f"the read-only routes are as they were: {leader} is not known to lead")
            return []
        self.read_set = wanted
        self.read_results = list(await asyncio.gather(*(self._lead(each, wanted) for each in service.reads.routes)))
        for each in self.read_results:
            if each.error:
                self.unprotected.append(
                    f"the read-only route {each.route} could not be led ({each.error}): it may serve members of the old"
                    " timeline if it runs; the watch leads it once it can be told"
                )
        return self.read_results

    async def after_undo(self) -> None:
        """The old primary serves again, and so do those who follow it."""
        await super().after_undo()
        await self.update_reads(self.suspect)

    async def _lead(self, route: ReadRoute, wanted: ReadSet, *, total: float = 8) -> ReadResult:
        order: dict[str, Any] = {
            "service": self.estate.service,
            "zone": self.estate.zone,
            "leader": wanted.leader,
            "members": wanted.members,
            "epoch": self.record.epoch,
            "recorded": self.recorded,
        }
        work: Awaitable[ProofResult]
        if isinstance(route, PgpoolRoute):
            work = self.do(pgpool.lead_pgpool, PgpoolOrder(route=route, **order), limit=6, total=total, attempts=3)
        else:
            work = self.do(
                read_names.lead_read_names, ReadsOrder(**order), limit=6, total=total, attempts=3, heartbeat=None
            )
        try:
            await work
        except ActivityError as error:
            return ReadResult(route=route.name, kind=route.kind, members=[], error=reason_of(error))
        return ReadResult(route=route.name, kind=route.kind, members=wanted.members)
