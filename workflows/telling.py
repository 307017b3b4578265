"""Telling people of a run, without waiting for them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from schemas import attributes
    from schemas.orders import AnyEstate, Notice, NoticeEvent, NoticeOrder
    from workflows.journal import Journal
    from workflows.reasons import reason_of


class Telling(Journal):
    """Notices go out with what is shown: while clients wait for the next step they are put off as well."""

    def __init__(self) -> None:
        super().__init__()
        self.estate: AnyEstate
        self._notices: list[list[NoticeOrder]] = []
        self._telling: list[asyncio.Future[object]] = []
        self._told = 0

    def tell(self, event: NoticeEvent, text: str, more: Mapping[str, str] | None = None) -> None:
        """Tell the service's targets, in a workflow of its own: nobody waits for a target, and it outlives the run."""
        self._told += 1
        info = workflow.info()
        notice = Notice(
            key=f"{info.workflow_id}/{info.run_id}/{self._told}",
            event=event,
            procedure=self.procedure,
            service=self.service_name,
            run=info.workflow_id,
            at=workflow.now(),
            text=text,
            more=dict(more or {}),
        )
        self._notices.append([NoticeOrder(notice=notice, target=target) for target in self.estate.service.notify])
        self.show()

    def send_notices(self) -> None:
        notices, self._notices = [each for each in self._notices if each], []
        for orders in notices:
            started = workflow.start_child_workflow(
                "Notify",
                orders,
                id=f"notify/{orders[0].notice.key}",
                task_queue=attributes.TASK_QUEUE,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            )
            self._telling.append(asyncio.ensure_future(started))

    async def all_told(self) -> None:
        """Every notice is on its way: a child that the engine has not started yet would end with the run."""
        for result in await asyncio.gather(*self._telling, return_exceptions=True):
            if isinstance(result, BaseException):
                self.journal.append(f"a notice was not sent: {reason_of(result)}")
