"""Keeping the report beside the run: storage that is down delays nobody, and gets it once it is back."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import quote

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities import reports
    from schemas import attributes
    from schemas.keeping import ReportStore
    from schemas.orders import ReportOrder
    from schemas.reports import Report
    from workflows.reasons import reason_of

KEEP_TRYING = timedelta(days=7)
AGAIN = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=2, maximum_interval=timedelta(minutes=5))


@workflow.defn(name="KeepReport", failure_exception_types=[Exception])
class KeepReport:
    """Ends once the report is kept, with its place."""

    @workflow.run
    async def run(self, order: ReportOrder) -> str:
        return await workflow.execute_activity(
            reports.keep_report,
            order,
            start_to_close_timeout=timedelta(seconds=30),
            schedule_to_close_timeout=KEEP_TRYING,
            heartbeat_timeout=timedelta(seconds=5),
            retry_policy=AGAIN,
            summary=order.store.reference(f"{order.name}.html"),
        )


def name_of(service: str) -> str:
    """The name of this run's report. Whoever started the run chose its id, which may hold slashes and dots."""
    info = workflow.info()
    return f"{service}/{quote(info.workflow_id, safe='')[:120]}-{info.run_id}"


async def keep(report: Report, store: ReportStore) -> str:
    """Begin to keep the report; what went wrong with the beginning, or ""."""
    order = ReportOrder(report=report, store=store, name=name_of(report.service))
    try:
        await workflow.start_child_workflow(
            "KeepReport",
            order,
            id=f"keep/{workflow.info().workflow_id}/{workflow.info().run_id}",
            task_queue=attributes.TASK_QUEUE,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
        )
    except FailureError as error:
        return reason_of(error)
    return ""
