"""One trace a run, named by it: the trace's id is the run id without its dashes.

Activities learn by a header under which step they hang; the run's own spans are made when it ends (run_spans.py).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.trace import NonRecordingSpan, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    Interceptor,
    StartActivityInput,
    StartChildWorkflowInput,
    StartLocalActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from schemas.reports import EXIT_CODES
from workers.run_ends import RunEnds, say
from workers.run_spans import HEADER, Ended, Place, Step, place_in, span_id
from workflows.journal import Journal
from workflows.reasons import reason_of
from workflows.runbook import STEP

SPANS = "spans"
"""What a run says at its end for its own spans."""


class TraceRuns(Interceptor):
    """Spans of activities, and what a run's own spans need to be made."""

    def __init__(self, tracer: Tracer, remember: Callable[[Place], None], ends: RunEnds) -> None:
        self._tracer, self._remember, self._ends = tracer, remember, ends

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Activity(next, self._tracer, self._remember)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        self._ends.offer(input)
        return _Workflow


class _Activity(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, tracer: Tracer, remember: Callable[[Place], None]) -> None:
        super().__init__(next)
        self._tracer, self._remember = tracer, remember

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        place = place_in(input.headers)
        if place is None:
            return await super().execute_activity(input)
        self._remember(place)
        info = activity.info()
        told: dict[str, str | int] = {"temporal.activity_id": info.activity_id, "temporal.attempt": info.attempt}
        with self._tracer.start_as_current_span(
            info.activity_type,
            context=set_span_in_context(NonRecordingSpan(place.context())),
            kind=SpanKind.CONSUMER,
            attributes=told,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                return await super().execute_activity(input)
            except BaseException as error:
                span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
                raise


class _Workflow(WorkflowInboundInterceptor):
    """Runs in workflow code: deterministic, and without an effect but the call at the end."""

    place: Place | None = None

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_Outbound(outbound, self))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        parent = place_in(input.headers)
        if parent is None and not isinstance(workflow.instance(), Journal):
            return await super().execute_workflow(input)
        info = workflow.info()
        trace = parent.trace if parent else uuid.UUID(info.run_id).hex
        self.place = Place(trace, span_id(info.run_id, "run"), parent.of_run if parent else {})
        try:
            result = await super().execute_workflow(input)
        except workflow.ContinueAsNewError:
            raise
        except asyncio.CancelledError:
            # Without a reason it is only put out of the worker's cache.
            if workflow.cancellation_reason() is not None:
                self._tell(parent, None, "cancelled")
            raise
        except Exception as error:
            self._tell(parent, None, reason_of(error))
            raise
        self._tell(parent, getattr(result, "outcome", None), None, getattr(result, "summary", ""))
        return result

    def here(self) -> Place | None:
        """Where what the current task schedules hangs: under its step while that is open, else under the run."""
        if self.place is None:
            return None
        run, info = workflow.instance(), workflow.info()
        if not isinstance(run, Journal):
            return self.place
        of_run, title = of(run, info), STEP.get()
        what = f"step/{title}" if title in run.under_way else "run"
        return Place(self.place.trace, span_id(info.run_id, what), of_run)

    def _tell(self, parent: Place | None, outcome: str | None, error: str | None, summary: str = "") -> None:
        if self.place is None:
            return
        run, info = workflow.instance(), workflow.info()
        told = dict(self.place.of_run)
        steps: list[Step] = []
        if isinstance(run, Journal):
            told = of(run, info)
            steps = steps_of(run)
        if outcome is not None:
            told |= {"lifeboat.outcome": outcome, "lifeboat.summary": summary}
            if EXIT_CODES.get(outcome) == 1:
                error = summary or outcome
        say(SPANS, Ended(info.workflow_type, info.run_id, self.place, parent, told, steps, error))


def of(run: Journal, info: workflow.Info) -> dict[str, str]:
    """What every span of a run says."""
    return {
        "lifeboat.service": run.service_name,
        "lifeboat.run": info.workflow_id,
        "lifeboat.run_id": info.run_id,
        "lifeboat.procedure": run.procedure,
    }


def steps_of(run: Journal) -> list[Step]:
    """The steps on record, and those that the end of the run cut short."""
    done = [
        Step(
            title=step.title,
            started=step.started,
            ended=step.ended,
            told={
                "lifeboat.step.outcome": step.outcome,
                "lifeboat.step.detail": step.detail,
                "lifeboat.step.attempts": step.attempts,
                "lifeboat.step.rounds": step.rounds,
                "lifeboat.step.region": step.region,
            },
            error=(step.detail or step.outcome) if "failed" in step.outcome else None,
        )
        for step in run.steps
        if step.outcome != "planned"
    ]
    reported = {step.title for step in done}
    cut = [
        Step(title, started, None, {"lifeboat.step.outcome": "ended with the run"})
        for title, started in run.under_way.items()
        if title not in reported
    ]
    return done + cut


class _Outbound(WorkflowOutboundInterceptor):
    def __init__(self, next: WorkflowOutboundInterceptor, run: _Workflow) -> None:
        super().__init__(next)
        self._run = run

    def _with_place(self, headers: Mapping[str, Payload]) -> Mapping[str, Payload]:
        place = self._run.here()
        return headers if place is None else {**headers, HEADER: place.payload()}

    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
        input.headers = self._with_place(input.headers)
        return super().start_activity(input)

    def start_local_activity(self, input: StartLocalActivityInput) -> workflow.ActivityHandle[Any]:
        input.headers = self._with_place(input.headers)
        return super().start_local_activity(input)

    async def start_child_workflow(self, input: StartChildWorkflowInput) -> workflow.ChildWorkflowHandle[Any, Any]:
        input.headers = self._with_place(input.headers)
        return await super().start_child_workflow(input)
