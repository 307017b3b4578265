"""The kit of every runbook: steps with undo, the point of no return, approvals, the RTO clock, the operator's verbs.

A runbook subclasses `Runbook`, and its `carry_out` reads top to bottom. Everything here is deterministic workflow code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy, SearchAttributeKey, SearchAttributeUpdate
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
    from schemas.orders import Estate, LockQuestion
    from schemas.reports import DecisionReport, Escalation, Outcome, StepReport
    from schemas.requests import Answer, Verb
    from schemas.state import RunState
    from workflows.narrative import details_text
    from workflows.policy import approval as ballots
    from workflows.policy import clock

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


class Ended(Exception):
    """The runbook ends here, with this outcome, before the point of no return; what was done is undone."""

    def __init__(self, outcome: Outcome, summary: str) -> None:
        super().__init__(summary)
        self.outcome, self.summary = outcome, summary


class Skipped(Exception):
    """A person skipped the step."""


def reason_of(error: BaseException) -> str:
    """The innermost message of a failure, as the one who must act should read it."""
    while isinstance(error, ActivityError | ChildWorkflowError) and error.cause is not None:
        error = error.cause
    if isinstance(error, FailureError):
        return error.message
    return str(error) or type(error).__name__


class Runbook:
    """State of one run, its doors, and the verbs that `carry_out` is written in."""

    procedure: ClassVar[str]
    titles: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        self.estate: Estate
        self.service_name = ""
        self.reason = ""
        self.steps: list[StepReport] = []
        self.decisions: list[DecisionReport] = []
        self.escalations: list[Escalation] = []
        self.journal: list[str] = []
        self.tasks: list[str] = []
        self.question: Question | None = None
        self.outage_started: datetime | None = None
        self.waiting = timedelta()
        self.rto_s = 0.0
        self.past_no_return = False
        self.urgent = False
        """Clients wait for the next step: search attributes, each of which costs the server a write, are put off."""
        self._later: dict[str, SearchAttributeUpdate[Any]] = {}
        self.outcome = ""
        self.held = False
        self.epoch: int | None = None
        self._answers: list[tuple[Answer, bool]] = []
        self._undos: list[tuple[str, Callable[[], Awaitable[object]]]] = []
        self._current = ""
        self._parked: tuple[str, bool] | None = None
        self._verdict_on_parked: str | None = None
        self._parking = asyncio.Lock()
        self._beside: list[asyncio.Future[object]] = []
        self._abort: Verb | None = None
        self._cancelled = False

    # What people see

    @workflow.query(description="Where the run stands: steps, question, clock, journal.")
    def state(self) -> RunState:
        info = workflow.info()
        return RunState(
            procedure=self.procedure,
            service=self.service_name,
            run=info.workflow_id,
            reason=self.reason,
            started=info.start_time,
            planned=list(self.titles),
            step=self._current,
            steps=self.steps,
            question=self.question,
            parked=self._parked[0] if self._parked else None,
            skippable=self._parked[1] if self._parked else False,
            held=self.held,
            past_no_return=self.past_no_return,
            outage_started=self.outage_started,
            deadline=clock.deadline(self.outage_started, self.rto_s) if self.outage_started else None,
            rto_s=self.rto_s,
            epoch=self.epoch,
            assessment=getattr(self, "assessment", None),
            decisions=self.decisions,
            escalations=self.escalations,
            journal=self.journal,
            outcome=self.outcome,
        )

    def note(self, text: str) -> None:
        """A line of the journal, and the page of details that the UI shows."""
        self.journal.append(f"{workflow.now():%H:%M:%S.%f}"[:-3] + f" {text}")
        workflow.set_current_details(details_text(self.state()))

    def attribute(self, name: str, value: str) -> None:
        self._upsert(name, SearchAttributeKey.for_keyword(name).value_set(value))

    def number(self, name: str, value: int) -> None:
        self._upsert(name, SearchAttributeKey.for_int(name).value_set(value))

    def _upsert(self, name: str, update: SearchAttributeUpdate[Any]) -> None:
        if self.urgent and self._parked is None:
            self._later[name] = update
        else:
            workflow.upsert_search_attributes([*self._later.values(), update])
            self._later.clear()

    def calm(self) -> None:
        """Clients are served: what was put off is done now."""
        self.urgent = False
        if self._later:
            workflow.upsert_search_attributes(list(self._later.values()))
            self._later.clear()

    # Doors: a signal needs no live worker; an update is validated and answered. Both rest on the same decisions.

    @workflow.signal(description="Approve what the run asks; `digest` is the one shown with the question.")
    def approve(self, answer: Answer) -> None:
        self._take(answer, approve=True)

    @workflow.signal(description="Reject what the run asks: what was done is undone.")
    def reject(self, answer: Answer) -> None:
        self._take(answer, approve=False)

    @workflow.update(name="approve")
    def approve_update(self, answer: Answer) -> str:
        return self._take(answer, approve=True)

    @approve_update.validator
    def _valid_approval(self, answer: Answer) -> None:
        self._must_count(answer, approve=True)

    @workflow.update(name="reject")
    def reject_update(self, answer: Answer) -> str:
        return self._take(answer, approve=False)

    @reject_update.validator
    def _valid_rejection(self, answer: Answer) -> None:
        self._must_count(answer, approve=False)

    def _why_not(self, answer: Answer, approve: bool) -> str | None:
        if self.question is None:
            return "nothing is asked now"
        return ballots.weigh(self.question, self._answers, answer, approve, workflow.now())

    def _must_count(self, answer: Answer, approve: bool) -> None:
        refusal = self._why_not(answer, approve)
        if refusal is not None:
            raise ApplicationError(f"the answer does not count: {refusal}", type="AnswerRefused", non_retryable=True)

    def _take(self, answer: Answer, approve: bool) -> str:
        refusal = self._why_not(answer, approve)
        word = "approval" if approve else "rejection"
        if refusal is not None:
            self.note(f"the {word} by {answer.by} does not count: {refusal}")
            return refusal
        self._answers.append((answer, approve))
        self.note(f"{word} by {answer.by}" + (f": {answer.reason}" if answer.reason else ""))
        return f"{word} by {answer.by} counts"

    @workflow.signal(description="Stop before the next step, until `resume`; refused past the point of no return.")
    def hold(self, verb: Verb) -> None:
        self._obey("hold", verb)

    @workflow.signal(description="Go on after `hold`.")
    def resume(self, verb: Verb) -> None:
        self._obey("resume", verb)

    @workflow.signal(description="Try the parked step again.")
    def retry(self, verb: Verb) -> None:
        self._obey("retry", verb)

    @workflow.signal(description="Leave the parked step out, where it may be.")
    def skip(self, verb: Verb) -> None:
        self._obey("skip", verb)

    @workflow.signal(description="End the run and undo what was done; past the point of no return only while parked.")
    def abort(self, verb: Verb) -> None:
        self._obey("abort", verb)

    @workflow.update(name="hold")
    def hold_update(self, verb: Verb) -> str:
        return self._obey("hold", verb)

    @workflow.update(name="resume")
    def resume_update(self, verb: Verb) -> str:
        return self._obey("resume", verb)

    @workflow.update(name="retry")
    def retry_update(self, verb: Verb) -> str:
        return self._obey("retry", verb)

    @workflow.update(name="skip")
    def skip_update(self, verb: Verb) -> str:
        return self._obey("skip", verb)

    @workflow.update(name="abort")
    def abort_update(self, verb: Verb) -> str:
        return self._obey("abort", verb)

    def _validate(self, verb: str) -> None:
        refusal = self._why_not_now(verb)
        if refusal is not None:
            raise ApplicationError(refusal, type="AnswerRefused", non_retryable=True)

    @hold_update.validator
    def _may_hold(self, verb: Verb) -> None:
        self._validate("hold")

    @resume_update.validator
    def _may_resume(self, verb: Verb) -> None:
        self._validate("resume")

    @retry_update.validator
    def _may_retry(self, verb: Verb) -> None:
        self._validate("retry")

    @skip_update.validator
    def _may_skip(self, verb: Verb) -> None:
        self._validate("skip")

    @abort_update.validator
    def _may_abort(self, verb: Verb) -> None:
        self._validate("abort")

    def _why_not_now(self, verb: str) -> str | None:
        if verb in ("retry", "skip") and self._parked is None:
            return f"no step is parked, so there is nothing to {verb}"
        if verb == "skip" and self._parked is not None and not self._parked[1]:
            return f"the step “{self._parked[0]}” can't be skipped: retry it, or abort the run"
        if verb == "hold" and self.past_no_return:
            return "the run is past its point of no return, and only goes forward"
        if verb == "resume" and not self.held:
            return "the run is not held"
        if verb == "abort" and self.past_no_return and self._parked is None:
            return "the run is past its point of no return, and only goes forward"
        return None

    def _obey(self, verb: str, given: Verb) -> str:
        refusal = self._why_not_now(verb)
        if refusal is not None:
            self.note(f"{verb} by {given.by} is refused: {refusal}")
            return refusal
        if verb in ("hold", "resume"):
            self.held = verb == "hold"
        elif verb == "abort" and not self.past_no_return:
            self._abort = given
        if self._parked is not None and verb in ("retry", "skip", "abort"):
            self._verdict_on_parked = verb
        self.note(f"{verb} by {given.by}" + (f": {given.reason}" if given.reason else ""))
        return f"{verb} by {given.by} is taken"

    # Verbs of the runbook

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
        return await workflow.execute_activity(
            activity,
            order,
            task_queue=attributes.region_queue(region) if region else attributes.TASK_QUEUE,
            start_to_close_timeout=timedelta(seconds=limit),
            schedule_to_close_timeout=timedelta(seconds=total) if total else None,
            schedule_to_start_timeout=timedelta(seconds=waits_for_worker) if waits_for_worker else None,
            heartbeat_timeout=timedelta(seconds=heartbeat) if heartbeat else None,
            retry_policy=RetryPolicy(
                initial_interval=RETRY.initial_interval,
                backoff_coefficient=RETRY.backoff_coefficient,
                maximum_interval=RETRY.maximum_interval,
                maximum_attempts=attempts,
                non_retryable_error_types=NEVER_AGAIN,
            ),
            summary=self._current or None,
        )

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
        told: Callable[[T], str] = lambda _: "",
    ) -> T:
        """Carry out one step; past its retries it parks and asks for `retry`, `skip` or `abort`.

        The undo is registered first: a step that failed half way is undone as well.
        """
        if not self.past_no_return:
            await self._gate()
        self._current = title
        self.attribute("LifeboatStep", title)
        workflow.set_current_details(details_text(self.state()))
        if undo is not None:
            self._undos.append(undo)
        started, rounds = workflow.now(), 0
        while True:
            rounds += 1
            try:
                result = await action()
            except Ended:
                raise
            except (ActivityError, ChildWorkflowError, ApplicationError) as error:
                failed = self._report(title, "failed", started, rounds, reason_of(error))
                answer = await self._park(title, reason_of(error), skippable)
                if answer == "retry":
                    self.steps.remove(failed)
                    continue
                if answer == "skip":
                    self.steps.remove(failed)
                    self._report(title, "skipped", started, rounds, reason_of(error))
                    raise Skipped(title) from error
                raise Ended(
                    "needs a person" if self.past_no_return else "aborted", f"{title}: {reason_of(error)}"
                ) from error
            self._report(title, "done", started, rounds, told(result))
            self._current = ""
            return result

    def _report(self, title: str, outcome: Any, started: datetime, rounds: int, detail: str) -> StepReport:
        report = StepReport(
            title=title, outcome=outcome, started=started, ended=workflow.now(), rounds=rounds, detail=detail
        )
        self.steps.append(report)
        self.note(f"{title}: {outcome}" + (f": {detail}" if detail else ""))
        return report

    async def _gate(self) -> None:
        """Between steps: an abort is obeyed, and a hold kept."""
        if self.held:
            self.attribute("LifeboatWaitingFor", "resume")
            before = workflow.now()
            await workflow.wait_condition(lambda: not self.held or self._abort is not None)
            self.waiting += workflow.now() - before
            self.attribute("LifeboatWaitingFor", "")
        if self._abort is not None:
            raise Ended(
                "aborted",
                f"aborted by {self._abort.by}" + (f": {self._abort.reason}" if self._abort.reason else ""),
            )

    async def _park(self, title: str, why: str, skippable: bool) -> str:
        """Wait for `retry`, `skip` or `abort`; of two steps that park side by side, one is asked about at a time."""
        async with self._parking:
            if self._abort is not None:
                return "abort"
            self._parked, self._verdict_on_parked = (title, skippable), None
            verbs = "retry, skip or abort" if skippable else "retry or abort"
            self.attribute("LifeboatWaitingFor", verbs)
            self.note(f"parked at “{title}”: {why}; a person must say {verbs}")
            before = workflow.now()
            await workflow.wait_condition(lambda: self._verdict_on_parked is not None)
            self.waiting += workflow.now() - before
            self._parked = None
            self.attribute("LifeboatWaitingFor", "")
            return str(self._verdict_on_parked)

    async def ask(self, text: str, digest: str, *, needs_override: bool, machine_s: float) -> DecisionReport:
        """Ask a person, and wait until quorum, a rejection, the expiry or an abort. The answer is on record."""
        policy = self.estate.service.approval
        now = workflow.now()
        self.question = Question(
            text=text,
            digest=digest,
            asked=now,
            expires=now + timedelta(seconds=policy.expires_s),
            decide_by=clock.decide_by(self.outage_started, self.rto_s, machine_s) if self.outage_started else None,
            approvers=policy.approvers,
            quorum=policy.quorum,
            needs_override=needs_override,
        )
        self._answers = []
        question = self.question
        self.attribute("LifeboatWaitingFor", "approval")
        self.note(f"asked (digest {digest}): {text}")

        def settled() -> bool:
            return self._abort is not None or ballots.tally(question, self._answers) != "open"

        try:
            await workflow.wait_condition(settled, timeout=timedelta(seconds=policy.expires_s))
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
        )
        self.decisions.append(decision)
        self.note(f"answer: {answer} by {decision.by}")
        return decision

    def meanwhile(self, work: Awaitable[object]) -> None:
        """Begin work that the next steps do not wait for; `all_done` does, and so does every end of the run."""
        self._beside.append(asyncio.ensure_future(work))

    async def all_done(self) -> None:
        """Wait for what was begun meanwhile, and pass on its first failure."""
        beside, self._beside = self._beside, []
        for result in await asyncio.gather(*beside, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def lock(self) -> None:
        """Take the service's lock for as long as this run is open; ServiceLocked names who holds it."""
        try:
            await workflow.start_child_workflow(
                "Lock",
                id=attributes.lock_id(self.service_name),
                task_queue=attributes.TASK_QUEUE,
                parent_close_policy=workflow.ParentClosePolicy.TERMINATE,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            )
        except FailureError:
            holder = await self.do(estates.lock_holder, LockQuestion(service=self.service_name), attempts=5)
            raise ApplicationError(
                str(failures.ServiceLocked(f"{self.service_name} is held by {holder or 'a run that just ended'}")),
                type="ServiceLocked",
                non_retryable=True,
            ) from None

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
            passed = [each.percent for each in self.escalations]
            at = clock.next_at(self.outage_started, self.rto_s, passed)
            if at is None:
                return
            delay = max((at - workflow.now()).total_seconds(), 0.001)
            await workflow.sleep(timedelta(seconds=delay), summary="RTO clock")

    async def undo_all(self) -> bool:
        """Undo in reverse order. One that fails becomes a task for a person, and the rest still run."""
        whole = True
        await asyncio.gather(*self._beside, return_exceptions=True)
        while self._undos:
            title, undo = self._undos.pop()
            self._current = title
            started = workflow.now()
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
