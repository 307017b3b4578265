"""Ends of runs, each told once, by the worker whose word Temporal took.

A workflow's last task may be carried out twice, here or elsewhere: a signal came in between, or a worker died. Its code
can't know, so what it says is kept until Temporal says that the run is closed, and counts if this worker closed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from temporalio import workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryReverseRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError
from temporalio.worker import WorkflowInterceptorClassInput

log = logging.getLogger("lifeboat.runs")

CLOSED_S = 60.0
"""How long Temporal is asked whether a run that ended here is closed."""
_LAST_EVENTS = 10
_ENDED = "lifeboat_run_ended"

Listener = Callable[[Any, datetime, datetime], None]
"""Takes what the workflow said, and when the run began and was closed."""


def say(kind: str, said: object) -> None:
    """Called by workflow code at its end, with what a listener of this kind takes; a replay says nothing."""
    if not workflow.unsafe.is_replaying():
        info = workflow.info()
        workflow.extern_functions()[_ENDED](kind, info.workflow_id, info.run_id, said)


class RunEnds:
    """`identity` is that of this process's workers."""

    def __init__(self, client: Client, identity: str) -> None:
        self._client, self._identity = client, identity
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[str, Listener] = {}
        self._said: dict[str, dict[str, object]] = {}
        self._waiting: dict[str, asyncio.Task[None]] = {}

    def listen(self, kind: str, listener: Listener) -> None:
        self._listeners[kind] = listener

    def offer(self, input: WorkflowInterceptorClassInput) -> None:
        """Let workflows `say`."""
        input.unsafe_extern_functions[_ENDED] = self.ended

    def ended(self, kind: str, workflow_id: str, run_id: str, said: object) -> None:
        """Called from the thread of a workflow; returns at once."""
        self._loop.call_soon_threadsafe(self._begin, kind, workflow_id, run_id, said)

    def _begin(self, kind: str, workflow_id: str, run_id: str, said: object) -> None:
        # Of a task that was done again the last word counts.
        self._said.setdefault(run_id, {})[kind] = said
        if run_id not in self._waiting:
            task = self._loop.create_task(self._once_closed(workflow_id, run_id))
            self._waiting[run_id] = task
            task.add_done_callback(lambda _: self._waiting.pop(run_id, None))

    async def settle(self, limit: float) -> None:
        """Wait for runs that have just ended."""
        if self._waiting:
            await asyncio.wait(list(self._waiting.values()), timeout=limit)

    async def _once_closed(self, workflow_id: str, run_id: str) -> None:
        handle = self._client.get_workflow_handle(workflow_id, run_id=run_id)
        until, rest = time.monotonic() + CLOSED_S, 0.1
        while time.monotonic() < until:
            with contextlib.suppress(RPCError):
                found = await handle.describe()
                if found.status != WorkflowExecutionStatus.RUNNING and found.close_time is not None:
                    said = self._said.pop(run_id, {}) if await self._closed_here(workflow_id, run_id) else {}
                    for kind, each in said.items():
                        if kind in self._listeners:
                            self._listeners[kind](each, found.start_time, found.close_time)
                    self._said.pop(run_id, None)
                    return
            await asyncio.sleep(rest)
            rest = min(rest * 2, 2.0)
        self._said.pop(run_id, None)
        log.warning("the end of %s is not told: Temporal does not say that it is closed", workflow_id)

    async def _closed_here(self, workflow_id: str, run_id: str) -> bool:
        """Whether the last workflow task that Temporal took was this process's."""
        request = GetWorkflowExecutionHistoryReverseRequest(
            namespace=self._client.namespace,
            execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
            maximum_page_size=_LAST_EVENTS,
        )
        answer = await self._client.workflow_service.get_workflow_execution_history_reverse(request)
        for event in answer.history.events:
            if event.HasField("workflow_task_completed_event_attributes"):
                return event.workflow_task_completed_event_attributes.identity == self._identity
        return False
