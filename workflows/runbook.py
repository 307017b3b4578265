"""The kit of every runbook: steps with undo, the point of no return, approvals, the RTO clock, the operator's verbs.

A runbook subclasses `Runbook`, and its `carry_out` reads top to bottom. Everything here is deterministic workflow code.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    FailureError,
)

with workflow.unsafe.imports_passed_through():
    from activities import estate as estates
    from schemas import attributes, failures
    from schemas.decisions import Question
    from schemas.orders import LockQuestion
    from schemas.reports import DecisionReport, Escalation, Outcome
    from schemas.requests import Verb, WayRequest
    from workflows.policy import approval as ballots
    from workflows.policy import clock
    from workflows.reasons import kind_of, reason_of
    from workflows.telling import Telling

T = TypeVar("T")

NEVER_AGAIN = [
    name
    for name, each in vars(failures).items()
    if isinstance(each, type) and issubclass(each, failures.LifeboatError) and not each.retryable
]
"""Types of failures that trying again can't help. Temporal matches the name, with no inheritance."""

RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=50),
    backoff_coefficient=1.6,
    maximum_interval=timedelta(seconds=2),
    non_retryable_error_types=NEVER_AGAIN,
)


STEP: ContextVar[str] = ContextVar("step", default="")
"""The step that this task works for: steps may run side by side, and each activity carries the title of its own."""


MAKE_WAY_ROUNDS = 20
WAIT_S = 30 * 86400.0
"""Longest attempt of an activity that waits for a person, a node or another run."""
NO_WORKER_S = 1.5
"""A region whose workers don't take a task within this has no vote, and no part in the run."""


class Ended(Exception):
    """The runbook ends here, with this outcome, before the point of no return; what was done is undone."""

    def __init__(self, outcome: Outcome, summary: str) -> None:
        super().__init__(summary)
        self.outcome, self.summary = outcome, summary


class Overtaken(Exception):
    """A run that gives way was overtaken by another, which may have changed everything: it looks anew."""


class Skipped(Exception):
    """A person skipped the step."""


class Runbook(Telling):
    """State of one run, and the verbs that `carry_out` is written in."""

    gives_way: ClassVar[bool] = False
    """Whether any other run may overtake it, after whose end it looks anew."""
    urgent_need: ClassVar[bool] = False
    """Whether clients wait for it, so that a planned run that has done nothing yet is called off for it."""
    can_wait: ClassVar[bool] = False
    """Whether it is planned: nobody waits for it before it has begun to act."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = timedelta()
        self.effects_from: str | None = None
        """The region whose workers act, since others are cut off from a part of the estate; None: any region's."""
        self.has_lock, self.overtaken = False, ""
        self.claiming = False
        """An epoch is about to be claimed, or is: whoever comes after must see it."""
        self.sure: bool | None = None
        """Of a failover, once it has looked: whether it is needed whatever a person says."""
        self._undos: list[tuple[str, Callable[[], Awaitable[object]]]] = []
        self.undoing = False
        self._parking = asyncio.Lock()
        self._beside: list[asyncio.Future[object]] = []
        self._cancelled = False

    async def do(
        self,
        activity: Callable[[Any], Awaitable[T]],
        order: Any,
        *,
        limit: float = 20.0,
        total: float | None = 30.0,
        region: str | None = None,
        attempts: int = 0,
        heartbeat: float | None = 3.0,
        waits_for_worker: float | None = None,
    ) -> T:
        """One activity: `limit` seconds an attempt, `total` for all of them. `region`: must be seen from there."""

        async def on(queue: str, waits: float | None) -> T:
            return await workflow.execute_activity(
                activity,
                order,
                task_queue=queue,
                start_to_close_timeout=timedelta(seconds=limit),
                schedule_to_close_timeout=timedelta(seconds=total) if total else None,
                schedule_to_start_timeout=timedelta(seconds=waits) if waits else None,
                heartbeat_timeout=timedelta(seconds=heartbeat) if heartbeat else None,
                retry_policy=RetryPolicy(
                    initial_interval=RETRY.initial_interval,
                    backoff_coefficient=RETRY.backoff_coefficient,
                    maximum_interval=RETRY.maximum_interval,
                    maximum_attempts=attempts,
                    non_retryable_error_types=NEVER_AGAIN,
                ),
                summary=STEP.get() or None,
            )

        if region is not None:
            return await on(attributes.region_queue(region), waits_for_worker)
        if self.effects_from is not None:
            try:
                return await on(attributes.region_queue(self.effects_from), NO_WORKER_S)
            except ActivityError as error:
                if kind_of(error) in NEVER_AGAIN:
                    raise
                # It has no workers any more, or is cut off as well: any region's are better than none.
                self.effects_from = None
        return await on(attributes.TASK_QUEUE, waits_for_worker)

    async def step_or_skip(
        self, title: str, action: Callable[[], Awaitable[T]], *, told: Callable[[T], str] = lambda _: ""
    ) -> T | None:
        """A step that a person may skip once it is parked: None then, and a task says that it is left to do."""
        try:
            return await self.step(title, action, skippable=True, told=told)
        except Skipped as skipped:
            self.tasks.append(f"“{title}” was skipped: {reason_of(skipped.__cause__ or skipped)}")
            return None

    async def step(
        self,
        title: str,
        action: Callable[[], Awaitable[T]],
        *,
        undo: tuple[str, Callable[[], Awaitable[object]]] | None = None,
        skippable: bool = False,
        parks: bool = True,
        told: Callable[[T], str] = lambda _: "",
    ) -> T:
        """Carry out one step; past its retries it parks and asks for `retry`, `skip` or `abort`, or where clients wait
        for a planned run (`parks` False) everything is undone at once.

        The undo is registered first: a step that failed half way is undone as well.
        """
        if not self.past_no_return:
            await self._gate()
        self._current = title
        STEP.set(title)
        self.attribute("LifeboatStep", title)
        self.show()
        if undo is not None:
            self._undos.append(undo)
        started, rounds = workflow.now(), 0
        self.under_way[title] = started
        while True:
            rounds += 1
            try:
                result = await self._unless_overtaken(action)
            except Ended as end:
                if end.outcome == "refused":
                    self._report(title, "failed", started, rounds, end.summary)
                raise
            except Overtaken:
                raise
            except (ActivityError, ChildWorkflowError, ApplicationError) as error:
                if self.gives_way and (self.overtaken or kind_of(error) == failures.EpochSuperseded.__name__):
                    self._report(title, "failed", started, rounds, f"overtaken: {reason_of(error)}")
                    raise Overtaken(reason_of(error)) from error
                failed = self._report(title, "failed", started, rounds, reason_of(error))
                if kind_of(error) == failures.EpochSuperseded.__name__ and not self.past_no_return:
                    # Nothing is undone: whatever stands there now is the newer run's.
                    self._undos.clear()
                    raise Ended("refused", f"{title}: {reason_of(error)}") from error
                if not parks:
                    raise Ended("undone", f"{title}: {reason_of(error)}") from error
                if self.gives_way and self.has_lock:
                    # A person may take days, and others need the service meanwhile.
                    await self.unlock()
                answer = await self._park(title, reason_of(error), skippable)
                if answer == "retry" and self.gives_way:
                    raise Overtaken(f"“{title}” is tried again from the look on") from error
                if answer == "retry":
                    self.steps.remove(failed)
                    continue
                if answer == "skip":
                    self.steps.remove(failed)
                    self._report(title, "skipped", started, rounds, reason_of(error))
                    raise Skipped(title) from error
                by = f"{self.aborted_by()}; " if self._abort is not None else ""
                raise Ended(
                    "needs a person" if self.past_no_return else "aborted", f"{by}{title}: {reason_of(error)}"
                ) from error
            self._report(title, "done", started, rounds, told(result))
            self._current = ""
            return result

    async def _unless_overtaken(self, action: Callable[[], Awaitable[T]]) -> T:
        """A step of a run that gives way is left as it stands once another has the service."""
        if not self.gives_way:
            return await action()
        return await self._unless(lambda: Overtaken(self.overtaken) if self.overtaken else None, action())

    async def unless_aborted(self, work: Awaitable[T]) -> T:
        """Given up as soon as a person aborts: for what may take hours, and leaves nothing half done."""
        return await self._unless(lambda: Ended("aborted", self.aborted_by()) if self._abort else None, work)

    async def _unless(self, ends: Callable[[], Exception | None], doing: Awaitable[T]) -> T:
        """The work's result; where there is an end to it before that, it is cancelled, and the end is raised."""
        work: asyncio.Future[T] = asyncio.ensure_future(doing)
        await workflow.wait_condition(lambda: work.done() or ends() is not None)
        end = None if work.done() else ends()
        if end is None:
            return await work
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        raise end

    async def _gate(self) -> None:
        """Between steps: an abort is obeyed, and a hold kept."""
        if self.held:
            self.attribute("LifeboatWaitingFor", "resume")
            self.show()
            before = workflow.now()
            await workflow.wait_condition(lambda: not self.held or self._abort is not None)
            self.waiting += workflow.now() - before
            self.attribute("LifeboatWaitingFor", "")
            self.show()
        if self._abort is not None:
            raise Ended("aborted", self.aborted_by())

    def must_be_approved(self, decision: DecisionReport) -> None:
        """Anything but an approval ends the run."""
        if decision.answer == "approved":
            return
        if self._abort is not None:
            raise Ended("aborted", self.aborted_by())
        told = f"{decision.answer} by {decision.by}"
        raise Ended("rejected" if decision.answer == "rejected" else "expired", told)

    def aborted_by(self) -> str:
        assert self._abort is not None
        return f"aborted by {self._abort.by}" + (f": {self._abort.reason}" if self._abort.reason else "")

    async def _park(self, title: str, why: str, skippable: bool) -> str:
        """Wait for `retry`, `skip` or `abort`; of two steps that park side by side, one is asked about at a time."""
        async with self._parking:
            if self._abort is not None:
                return "abort"
            self._parked, self._verdict_on_parked = (title, skippable), None
            verbs = "retry, skip or abort" if skippable else "retry or abort"
            self.attribute("LifeboatWaitingFor", verbs)
            self.attribute("LifeboatStep", title)
            self.note(f"parked at “{title}”: {why}; a person must say {verbs}")
            self.tell("parked", f"“{title}” did not work: {why}", {"a person must say": verbs})
            before = workflow.now()
            await workflow.wait_condition(lambda: self._verdict_on_parked is not None)
            self.waiting += workflow.now() - before
            self.attribute("LifeboatWaitingFor", "")
            self.show()
            self._parked = None
            return str(self._verdict_on_parked)

    async def ask(
        self,
        text: str,
        digest: str,
        *,
        needs_override: bool,
        machine_s: float,
        expires: timedelta | None = None,
        choices: Sequence[str] = (),
    ) -> DecisionReport:
        """Ask a person, and wait until quorum, a rejection, the expiry or an abort. The answer is on record."""
        policy = self.estate.service.approval
        expires = expires or timedelta(seconds=policy.expires_s)
        now = workflow.now()
        self.question = Question(
            text=text,
            digest=digest,
            asked=now,
            expires=now + expires,
            decide_by=clock.decide_by(self.outage_started, self.rto_s, machine_s) if self.outage_started else None,
            approvers=policy.approvers,
            quorum=policy.quorum,
            needs_override=needs_override,
            choices=list(choices),
        )
        self._answers = []
        question = self.question
        self.attribute("LifeboatWaitingFor", "approval")
        self.note(f"asked (digest {digest}): {text}")
        self.tell(
            "decision needed",
            text,
            {
                "decide by": f"{question.decide_by or question.expires:%H:%M:%S} UTC",
                "approvers": ", ".join(question.approvers) or "anyone",
                "digest": digest,
                "answer": f"lifeboat approve|reject {workflow.info().workflow_id}",
                **({"or": f"approve --then {'|'.join(choices[1:])}"} if choices[1:] else {}),
            },
        )

        def settled() -> bool:
            return self._abort is not None or ballots.tally(question, self._answers) != "open"

        try:
            await workflow.wait_condition(settled, timeout=expires)
            answer: str = "aborted" if self._abort is not None else ballots.tally(question, self._answers)
        except TimeoutError:
            answer = "expired"
        self.waiting += workflow.now() - now
        self.question = None
        self.attribute("LifeboatWaitingFor", "")
        decision = DecisionReport(
            question=text,
            answer=answer,
            by=", ".join(given.by for given, yes in self._answers if yes == (answer != "rejected")) or "nobody",
            at=workflow.now(),
            reason="; ".join(given.reason for given, _ in self._answers if given.reason),
            digest=digest,
            override=any(given.override for given, yes in self._answers if yes),
            choice=next((ballots.chosen(question, given) for given, yes in self._answers if yes), ""),
        )
        self.decisions.append(decision)
        self.note(f"answer: {answer} by {decision.by}")
        return decision

    def meanwhile(
        self,
        title: str,
        action: Callable[[], Awaitable[object]],
        *,
        undo: tuple[str, Callable[[], Awaitable[object]]] | None = None,
        parks: bool = True,
    ) -> None:
        """Begin a step that the next ones do not wait for; `all_done` does, and so does every end of the run."""
        if undo is not None:
            self._undos.append(undo)
        self._beside.append(asyncio.ensure_future(self.step(title, action, parks=parks)))

    async def together(self, *works: Awaitable[Any]) -> list[Any]:
        """All of them to their end, then the first failure: nothing may go on beside an undo."""
        results = await asyncio.gather(*works, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    async def all_done(self) -> None:
        """Wait for what was begun meanwhile, and pass on its first failure."""
        beside, self._beside = self._beside, []
        await self.together(*beside)

    async def lock(self, what: str | None = None) -> bool:
        """Take the service's lock (or that of `what`) for as long as this run is open; whether it was waited for.

        A rejoin gives way to whoever asks. ServiceLocked names who holds it otherwise.
        """
        name = what or self.service_name
        if await self._hold_lock(name):
            self.has_lock = what is None
            return False
        holder = await self.do(estates.lock_holder, LockQuestion(service=name), attempts=5)
        if holder and what is None and not self.gives_way:
            if await self._have_way_made(holder, urgent=False):
                return True
            if self.urgent_need:
                await workflow.wait_condition(lambda: self.sure is not None)
            if self.sure and await self._have_way_made(holder, urgent=True):
                return True
        raise ApplicationError(
            str(failures.ServiceLocked(f"{name} is held by {holder or 'a run that just ended'}")),
            type="ServiceLocked",
            non_retryable=True,
        )

    async def _have_way_made(self, holder: str, *, urgent: bool) -> bool:
        """Ask whoever holds the service's lock for it; whether this run has it then."""
        asked = WayRequest(by=workflow.info().workflow_id, reason="it needs the service now", urgent=urgent)
        with contextlib.suppress(FailureError):
            await workflow.get_external_workflow_handle(holder).signal("make_way", asked)
            for _ in range(MAKE_WAY_ROUNDS):
                if await self._hold_lock(self.service_name):
                    self.has_lock = True
                    return True
                await workflow.sleep(timedelta(seconds=0.1), summary="until the other run makes way")
        return False

    async def _hold_lock(self, name: str) -> bool:
        try:
            await workflow.start_child_workflow(
                "Lock",
                id=attributes.lock_id(name),
                task_queue=attributes.TASK_QUEUE,
                parent_close_policy=workflow.ParentClosePolicy.TERMINATE,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            )
        except FailureError:
            return False
        return True

    async def wait_for_lock(self) -> None:
        """Wait until no run holds the service's lock, and take it."""
        while not await self._hold_lock(self.service_name):
            await self.do(
                estates.until_free, LockQuestion(service=self.service_name), limit=WAIT_S, total=None, heartbeat=6.0
            )
        self.has_lock = True

    async def unlock(self) -> None:
        """Give the service's lock back before the end of the run."""
        self.has_lock = False
        with contextlib.suppress(FailureError):
            await workflow.get_external_workflow_handle(attributes.lock_id(self.service_name)).cancel()

    @workflow.signal(
        description="Asked by another run: a rejoin lets it have the service, and goes on after it; a planned move that"
        " has done nothing yet is called off for a failover."
    )
    async def make_way(self, asked: WayRequest) -> None:
        if self.gives_way and self.has_lock:
            self.overtaken = asked.by
            self.note(f"makes way for {asked.by}")
            await self.unlock()
        elif self.can_wait and asked.urgent and self.epoch is None and self.has_lock:
            # Parked, asking a person or looking: what it rests on is no longer so.
            self.note(f"is called off for {asked.by}")
            self._abort = Verb(by=asked.by, reason=asked.reason)
            if self._parked is not None:
                self._verdict_on_parked = "abort"
            # A claim that is under way may land yet: the lock is given back with the end of the run then.
            if not self.claiming or self._parked is not None:
                await self.unlock()

    def start_clock(self, outage_started: datetime) -> None:
        """The RTO runs from the first failed probe."""
        if self.outage_started is None:
            self.outage_started = outage_started
            asyncio.create_task(self._escalate())  # noqa: RUF006 - the workflow's own loop keeps it

    async def _escalate(self) -> None:
        assert self.outage_started is not None
        while not self.outcome:
            passed = [each.percent for each in self.escalations]
            for percent in clock.due(self.outage_started, self.rto_s, workflow.now(), passed):
                waits = self.question.text if self.question else self._current or "nothing"
                text = f"{percent} % of the RTO of {self.rto_s:.0f} s is used; waiting for: {waits}"
                self.escalations.append(Escalation(percent=percent, at=workflow.now(), text=text))
                self.note(text)
                self.tell("escalation", text)
            passed = [each.percent for each in self.escalations]
            at = clock.next_at(self.outage_started, self.rto_s, passed)
            if at is None:
                return
            delay = max((at - workflow.now()).total_seconds(), 0.001)
            await workflow.sleep(timedelta(seconds=delay), summary="RTO clock")

    async def undo_all(self) -> bool:
        """Undo in reverse order. One that fails becomes a task for a person, and the rest still run."""
        whole = True
        self.undoing = True
        await asyncio.gather(*self._beside, return_exceptions=True)
        while self._undos:
            title, undo = self._undos.pop()
            self._current = title
            STEP.set(title)
            self.under_way[title] = started = workflow.now()
            try:
                await undo()
            except (ActivityError, ChildWorkflowError, ApplicationError) as error:
                whole = False
                self.tasks.append(f"{title}: {reason_of(error)}")
                self._report(title, "undo failed", started, 1, reason_of(error))
            else:
                self._report(title, "undone", started, 1, "")
        self._current = ""
        return whole

    async def shielded(self, work: Awaitable[T]) -> T:
        """Await to the end whatever cancel comes: one from the UI is taken as `abort`; nothing is left half done.

        A cancel without a reason is none of a person's: the worker evicts the run from its cache, and must be obeyed.
        """
        task: asyncio.Future[T] = asyncio.ensure_future(work)
        while True:
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.done() or self._cancelled or workflow.cancellation_reason() is None:
                    raise
                self._cancelled = True
                current = asyncio.current_task()
                if current is not None:
                    current.uncancel()
                self._obey("abort", Verb(by="cancel request", reason="the workflow was cancelled"))
