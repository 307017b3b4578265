"""Metrics for Prometheus, on one port: the Temporal SDK's own (`temporal_…`) and the product's (`lifeboat_…`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from temporalio import workflow
from temporalio.common import MetricMeter
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from schemas.failures import LifeboatError
from schemas.reports import Escalation, Report, StepReport
from workers.run_ends import RunEnds, say
from workflows.journal import Journal

VARIABLE = "LIFEBOAT_METRICS"
COUNTS = "counts"
"""What a run says at its end for its metrics."""

RUNS = "lifeboat_runs"
STEP_SECONDS = "lifeboat_step_seconds"
RECOVERY_SECONDS = "lifeboat_recovery_seconds"
MACHINE_SECONDS = "lifeboat_machine_seconds"
WAITING_SECONDS = "lifeboat_waiting_for_person_seconds"
ESCALATIONS = "lifeboat_escalations"

_SHORT = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_LONG = (0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
_BUCKETS = {STEP_SECONDS: _SHORT, RECOVERY_SECONDS: _LONG, MACHINE_SECONDS: _LONG, WAITING_SECONDS: _LONG}


class MetricsAddress(LifeboatError):
    """Metrics need HOST:PORT; correct --metrics or LIFEBOAT_METRICS."""

    retryable = False


def checked(where: str) -> str:
    """HOST:PORT, as the SDK takes it; MetricsAddress says what is wrong."""
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise MetricsAddress(where)
    # The SDK takes addresses only.
    return f"127.0.0.1:{port}" if host == "localhost" else where


def make_runtime(where: str | None) -> Runtime:
    """The SDK's runtime, with `/metrics` at `where`; ValueError or RuntimeError when that can't be bound.

    What the SDK's core logs goes through this process's own log: in its form, and without secrets.
    """
    through = LogForwardingConfig(logger=logging.getLogger("temporalio.core"))
    logs = LoggingConfig(filter=TelemetryFilter(core_level="WARN", other_level="ERROR"), forwarding=through)
    if where is None:
        return Runtime(telemetry=TelemetryConfig(logging=logs))
    config = PrometheusConfig(
        bind_address=where,
        counters_total_suffix=True,
        unit_suffix=True,
        durations_as_seconds=True,
        histogram_bucket_overrides=_BUCKETS,
    )
    return Runtime(telemetry=TelemetryConfig(logging=logs, metrics=config, attach_service_name=False))


@dataclass(frozen=True)
class Ended:
    """What is counted of a run; `report` is None for one that failed."""

    service: str
    procedure: str
    outcome: str
    steps: Sequence[StepReport]
    escalations: Sequence[Escalation]
    report: Report | None


class RunCounter:
    """Counts runs that ended (run_ends.py)."""

    def __init__(self, meter: MetricMeter) -> None:
        self._runs = meter.create_counter(RUNS, "Runs that ended, by outcome")
        self._steps = meter.create_histogram_float(STEP_SECONDS, "From a step's beginning to its end")
        self._escalations = meter.create_counter(ESCALATIONS, "Shares of the RTO that passed during a run")
        self._machine = meter.create_histogram_float(
            MACHINE_SECONDS, "A run's time without what it waited for a person"
        )
        self._waiting = meter.create_histogram_float(WAITING_SECONDS, "What a run waited for a person")
        self._recovery = meter.create_histogram_float(
            RECOVERY_SECONDS, "From the first failed probe to the first good write on the slowest route"
        )

    def count(self, ended: Ended, started: datetime, closed: datetime) -> None:
        of = {"service": ended.service, "procedure": ended.procedure}
        self._runs.add(1, {**of, "outcome": ended.outcome})
        for step in ended.steps:
            if step.outcome != "planned":
                took = max((step.ended - step.started).total_seconds(), 0.0)
                self._steps.record(took, {**of, "step": step.title, "outcome": step.outcome})
        for each in ended.escalations:
            self._escalations.add(1, {**of, "percent": str(each.percent)})
        report = ended.report
        if report is None or report.outcome == "planned":
            return
        self._machine.record(report.machine_s, of)
        if report.waiting_s:
            self._waiting.record(report.waiting_s, of)
        if report.outage_s is not None:
            self._recovery.record(max(report.outage_s, 0.0), {**of, "rto_met": str(report.rto_met).lower()})


class MeasureRuns(Interceptor):
    """Has each run say at its end what is counted of it."""

    def __init__(self, ends: RunEnds) -> None:
        self._ends = ends

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        self._ends.offer(input)
        return _Measured


class _Measured(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        try:
            result = await super().execute_workflow(input)
        except workflow.ContinueAsNewError:
            raise
        except Exception:
            self._say("failed", None)
            raise
        if isinstance(result, Report):
            self._say(result.outcome, result)
        return result

    def _say(self, outcome: str, report: Report | None) -> None:
        run = workflow.instance()
        if isinstance(run, Journal):
            steps, escalations = list(run.steps), list(run.escalations)
            say(COUNTS, Ended(run.service_name, run.procedure, outcome, steps, escalations, report))
