"""Metrics for Prometheus, on one port: the Temporal SDK's own (`temporal_…`) and the product's (`lifeboat_…`)."""

from __future__ import annotations

from typing import Any

from temporalio import workflow
from temporalio.common import MetricMeter
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from schemas.failures import LifeboatError
from schemas.reports import Report
from workflows.journal import Journal

VARIABLE = "LIFEBOAT_METRICS"

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


def make_runtime(where: str) -> Runtime:
    """The SDK's runtime that serves `/metrics` at `where`; ValueError or RuntimeError when it can't be bound."""
    config = PrometheusConfig(
        bind_address=where,
        counters_total_suffix=True,
        unit_suffix=True,
        durations_as_seconds=True,
        histogram_bucket_overrides=_BUCKETS,
    )
    return Runtime(telemetry=TelemetryConfig(metrics=config, attach_service_name=False))


def count_run(meter: MetricMeter, run: Journal, outcome: str, report: Report | None) -> None:
    """A run that ended: how, and how long each part of it took."""
    of = {"service": run.service_name, "procedure": run.procedure}
    meter.create_counter(RUNS, "Runs that ended, by outcome").add(1, {**of, "outcome": outcome})
    steps = meter.create_histogram_float(STEP_SECONDS, "From a step's beginning to its end")
    for step in run.steps:
        if step.outcome != "planned":
            took = max((step.ended - step.started).total_seconds(), 0.0)
            steps.record(took, {**of, "step": step.title, "outcome": step.outcome})
    escalations = meter.create_counter(ESCALATIONS, "Shares of the RTO that passed during a run")
    for each in run.escalations:
        escalations.add(1, {**of, "percent": str(each.percent)})
    if report is None:
        return
    meter.create_histogram_float(MACHINE_SECONDS, "A run's time without what it waited for a person").record(
        report.machine_s, of
    )
    if report.waiting_s:
        meter.create_histogram_float(WAITING_SECONDS, "What a run waited for a person").record(report.waiting_s, of)
    if report.outage_s is not None:
        meter.create_histogram_float(
            RECOVERY_SECONDS, "From the first failed probe to the first good write on the slowest route"
        ).record(max(report.outage_s, 0.0), {**of, "rto_met": str(report.rto_met).lower()})


class MeasureRuns(Interceptor):
    """Counts runs once, when they end: the SDK's meter does nothing in a replay."""

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _Measured


class _Measured(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        try:
            result = await super().execute_workflow(input)
        except workflow.ContinueAsNewError:
            raise
        except Exception:
            self._count("failed", None)
            raise
        if isinstance(result, Report):
            self._count(result.outcome, result)
        return result

    def _count(self, outcome: str, report: Report | None) -> None:
        run = workflow.instance()
        if isinstance(run, Journal):
            count_run(workflow.metric_meter(), run, outcome, report)
