"""A procedure from its start to its report, on a service of any kind, behind the service's epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import epoch, estate
    from schemas import attributes
    from schemas.decisions import Fence
    from schemas.facts import EpochRecord, RouteWrite
    from schemas.failures import UnknownMember, UnknownService
    from schemas.orders import AnyEstate, ClaimOrder, JourneyQuestion
    from schemas.reports import Outcome, Report, StepReport
    from schemas.requests import RunRequest, Suspicion
    from workflows.keeping import keep
    from workflows.reasons import reason_of
    from workflows.reporting import build_report, report_line, told_at_end
    from workflows.runbook import NO_WORKER_S, RETRY, Ended, Runbook


Order = TypeVar("Order")
Result = TypeVar("Result")


class Procedure(Runbook):
    """What is the same of every procedure: its estate, its end whatever comes, its report."""

    estate_type: ClassVar[type[AnyEstate]]
    kind: ClassVar[str]
    """What its services are called."""

    def __init__(self) -> None:
        super().__init__()
        self.suspect = ""
        """Who led when the run looked."""
        self.detected: datetime | None = None
        self.decided: datetime | None = None
        self.recovered: datetime | None = None
        self.fence: Fence | None = None
        self.route_writes: list[RouteWrite] = []
        self.unprotected: list[str] = []
        self.blockers: list[str] = []
        self.followed_by: list[str] = []
        """Runs that this one has started."""
        self.end_told = False

    async def describe(self, service: str) -> AnyEstate:
        """The run's own copy of its estate; UnknownService for a service of another kind."""
        found: AnyEstate = await workflow.execute_local_activity(
            estate.describe_estate,
            service,
            start_to_close_timeout=timedelta(seconds=5),
            schedule_to_close_timeout=timedelta(seconds=30),
            retry_policy=RETRY,
        )
        if not isinstance(found, self.estate_type):
            told = str(UnknownService(f"{service} is no {self.kind}, which {self.procedure} is for"))
            raise ApplicationError(told, type=UnknownService.__name__, non_retryable=True)
        return found

    # What a report tells besides the steps

    def leads_now(self) -> str | None:
        """Who was made to lead."""
        return None

    def summary(self) -> str:
        return ""

    def lost_text(self) -> str:
        """What was lost, as far as this run knows."""
        return ""

    def acknowledges_alone(self) -> str:
        """Why the new leader's own loss would lose writes; "" where it would not."""
        return ""

    async def carry_out(self, request: Any) -> None:
        raise NotImplementedError

    async def from_start_to_report(self, request: RunRequest) -> Report:
        """The whole run: what `carry_out` says, and its undo when it ends before the point of no return."""
        self.service_name, self.reason = request.service, request.reason
        self.attribute("LifeboatService", request.service)
        self.attribute("LifeboatProcedure", self.procedure)
        # A run of the watch has clients waiting from its first moment.
        suspicion: Suspicion | None = getattr(request, "suspicion", None)
        self.urgent = suspicion is not None
        self.estate = await self.describe(request.service)
        self.rto_s = self.estate.service.rto_s
        self._must_be_members(request.names())
        self.note(f"started: {request.reason}")
        if not request.dry_run:
            self.tell("started", f"{self.procedure} of {self.service_name} has started: {request.reason}")
        if suspicion is not None:
            self.detected = workflow.info().start_time
            self.start_clock(suspicion.outage_began or suspicion.first_failure)
        try:
            await self.carry_out(request)
            done: Outcome = "planned" if request.dry_run else self.reached()
            end = Ended("needs a person" if self.tasks else done, "")
        except Ended as early:
            end = await self._end(early)
        except Exception:
            if not self.past_no_return:
                await self.undo_all()
            self.outcome = "failed"
            self.calm()
            raise
        self.calm()
        await self.learn_journey()
        report = build_report(self, end.outcome, end.summary)
        self.outcome = report.outcome
        self.attribute("LifeboatOutcome", report.outcome)
        self.attribute("LifeboatStep", "")
        self.note(f"ended: {report.outcome}")
        if not self.end_told and not request.dry_run:
            self.tell_end(report)
        if report.kept and self.estate.reports is not None and (failed := await keep(report, self.estate.reports)):
            self.note(f"the report is not kept: {failed}")
        await self.all_told()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return report

    def tell_end(self, report: Report) -> None:
        self.end_told = True
        self.tell("ended", report_line(report), told_at_end(report))

    async def notify(self) -> str:
        """The targets are told in a workflow of its own; what they are told is what is known by now."""
        self.tell_end(build_report(self, "needs a person" if self.tasks else self.reached()))
        await self.all_told()
        return ", ".join(target.name for target in self.estate.service.notify) or "nobody is to be told"

    async def after_undo(self) -> None:
        """Look at what clients get now that everything was undone."""

    def reached(self) -> Outcome:
        """What a run that came to its end has reached."""
        return "recovered, unprotected"

    def _must_be_members(self, asked: Sequence[str]) -> None:
        names = self.estate.service.member_names()
        for name in [name for name in asked if name not in names]:
            told = str(UnknownMember(f"{name}; {self.service_name} has {', '.join(names)}"))
            raise ApplicationError(told, type=UnknownMember.__name__, non_retryable=True)

    async def _end(self, end: Ended) -> Ended:
        """What an early end comes to, once everything is undone that can be."""
        if self.past_no_return:
            self.tasks.append(end.summary)
            return Ended("needs a person", end.summary)
        undone = bool(self._undos)
        whole = await self.undo_all()
        if undone:
            await self.after_undo()
        if not whole or self.tasks:
            return Ended("needs a person", end.summary)
        if undone and end.outcome == "aborted" and self._abort is None:
            return Ended("undone", end.summary)
        return end

    async def learn_journey(self) -> None:
        """Attempts and regions of each step, as the engine recorded them; a report without them is better than none."""
        try:
            question = JourneyQuestion(run=workflow.info().workflow_id, run_id=workflow.info().run_id)
            journey = await self.do(estate.read_journey, question, limit=5, total=10)
        except ActivityError as error:
            self.note(f"attempts and regions are not known: {reason_of(error)}")
            return
        for index, step in enumerate(self.steps):
            if step.title in journey.attempts:
                update = {"attempts": journey.attempts[step.title], "region": ", ".join(journey.regions[step.title])}
                self.steps[index] = step.model_copy(update=update)

    async def child(self, procedure: str, request: object, name: str) -> Report:
        """Another procedure's run, to its end; it outlives this one, and is told of in the report."""
        run = f"{workflow.info().workflow_id}/{name}"
        if run not in self.followed_by:
            self.followed_by.append(run)
        report: Report = await workflow.execute_child_workflow(
            procedure,
            request,
            id=run,
            task_queue=attributes.TASK_QUEUE,
            task_timeout=attributes.TASK_TIMEOUT,
            result_type=Report,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
        )
        return report

    def point_of_no_return(self) -> None:
        if self._abort is not None:
            raise Ended("aborted", f"aborted by {self._abort.by}")
        self.past_no_return = True
        self.note("point of no return: from here the run only goes forward")

    async def plan_rest(self, would: Mapping[str, str]) -> None:
        """Of a dry run: a step each, with what it would do and the time that is expected of it."""
        now = workflow.now()
        self.steps += [
            StepReport(
                title=title,
                outcome="planned",
                started=now,
                ended=now,
                expected_s=self.expected_s.get(title),
                detail=would[title],
            )
            for title in self.titles
            if title in would
        ]

    # Looking from regions

    async def from_region(
        self, region: str, act: Callable[[Order], Awaitable[Result]], order: Order, *, limit: float
    ) -> Result | None:
        """Once, by a worker of one region; None where none took it in time, or it failed."""
        try:
            return await self.do(
                act,
                order,
                region=region,
                limit=limit,
                total=limit + 1,
                attempts=1,
                waits_for_worker=NO_WORKER_S,
                heartbeat=None,
            )
        except ActivityError:
            return None

    async def from_everywhere(
        self, act: Callable[[Order], Awaitable[Result]], order: Order, *, limit: float
    ) -> dict[str, Result]:
        """What each region's worker gives, from all of them at once."""
        regions = self.estate.vantages
        answers = await asyncio.gather(*(self.from_region(region, act, order, limit=limit) for region in regions))
        return {region: answer for region, answer in zip(regions, answers, strict=True) if answer is not None}

    # Routes, as regions wrote through them

    async def written_from_everywhere(
        self, act: Callable[[Order], Awaitable[list[RouteWrite]]], order_of: Callable[[str], Order], *, limit: float
    ) -> list[RouteWrite]:
        """What each region that has a worker wrote through every route; `order_of` makes its order."""

        async def from_region(region: str) -> list[RouteWrite]:
            try:
                return await self.do(
                    act,
                    order_of(region),
                    region=region,
                    limit=limit,
                    total=limit + 10,
                    attempts=2,
                    waits_for_worker=5.0,
                )
            except ActivityError as error:
                self.note(f"{region} could not verify: {reason_of(error)}")
                return []

        return [write for found in await asyncio.gather(*map(from_region, self.estate.vantages)) for write in found]

    def served_since(self) -> datetime | None:
        """Since when the slowest route serves; None while one of them does not, or no region could look."""
        times = [self.first_good(route) for route in {write.route for write in self.route_writes}]
        good = [at for at in times if at is not None]
        return max(good) if good and len(good) == len(times) else None

    def unserved(self) -> str:
        """The routes that do not serve, with each region's error."""
        names = sorted({write.route for write in self.route_writes if not self.first_good(write.route)})
        return "; ".join(f"{name}: {self.errors_of(name)}" for name in names) or "no region has a worker"

    def first_good(self, route: str) -> datetime | None:
        """When the first region's write through the route was good."""
        return min((write.at for write in self.route_writes if write.route == route and write.ok), default=None)

    def errors_of(self, route: str) -> str:
        return "; ".join(f"{w.region}: {w.error}" for w in self.route_writes if w.route == route and not w.ok)

    # The epoch

    async def claim_after(
        self, seen: EpochRecord, note: str = "", *, at_least: int = 0, total: float = 30
    ) -> EpochRecord:
        """The next epoch, for this run."""
        run = workflow.info().workflow_id + note
        order = ClaimOrder(zone=self.estate.zone, service=self.service_name, run=run, seen=seen, at_least=at_least)
        record = await self.do(epoch.claim_epoch, order, limit=5, total=total)
        self._take_epoch(record)
        return record

    def _take_epoch(self, record: EpochRecord) -> None:
        self.epoch = record.epoch
        self.number("LifeboatEpoch", record.epoch)
