"""A run whose history was read beyond its last workflow task is read anew for its next one.

A query that finds no worker with the run in its cache is answered by another one, from the whole history. Where events
came in meanwhile, the SDK (1.35) hands them to the workflow as if a task had begun with them, and keeps the run so. The
next task then brings only what came later, and the order of its commands may be one that no replay repeats: the run
fails for nondeterminism, hours after a worker was busy or killed while somebody looked at it (docs/adr/0040).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.client import Client
from temporalio.worker import Worker, WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.workflow import Info

log = logging.getLogger("lifeboat.runs")

DIRECT = "legacy_query"
"""What the SDK's core calls a query that came with no task."""


class RereadingWorker(Worker):
    """A worker that forgets a run which a query had it read too far."""

    def __init__(self, client: Client, *, restrictions: SandboxRestrictions, **more: Any) -> None:
        runner = RereadingRunner(restrictions=restrictions, forget=self._forget)
        super().__init__(client, workflow_runner=runner, **more)

    def _forget(self, run_id: str) -> None:
        """Take it out of the cache, as soon as what is in hand has been answered."""
        self._bridge_worker.request_workflow_eviction(run_id)


@dataclass(frozen=True, kw_only=True)
class RereadingRunner(SandboxedWorkflowRunner):
    """The SDK's sandbox, whose runs are forgotten where they must be."""

    forget: Callable[[str], None]

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        return Rereading(super().create_instance(det), self.forget)


class Rereading(WorkflowInstance):
    """A run in this worker's cache, which is forgotten once a query had it read too far."""

    def __init__(self, run: WorkflowInstance, forget: Callable[[str], None]) -> None:
        self._run, self._forget = run, forget
        self._task, self._length = (0, 0), 0
        self._beyond = False

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        # What a query has read is followed by the query itself, at once. A task never is, so that one which were taken
        # for such reading would lose nothing.
        if self._beyond and any(job.query_workflow.query_id == DIRECT for job in act.jobs):
            info = self.get_info()
            log.info("%s (%s): a query had it read beyond its last task; forgotten", info.workflow_id, info.run_id)
            self._forget(info.run_id)
        # More of the history, but at the time and the size of the task before, is no task's. The clock of Temporal may
        # be set back, but the size grows with each task.
        task = act.timestamp.ToNanoseconds(), act.history_size_bytes
        self._beyond = not act.is_replaying and act.history_length > self._length and task == self._task
        self._task, self._length = task, act.history_length
        return self._run.activate(act)

    def get_info(self) -> Info:
        return self._run.get_info()

    def get_thread_id(self) -> int | None:
        return self._run.get_thread_id()

    def get_serialization_context(self, command_info: Any) -> Any:
        return self._run.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:
        return self._run.get_external_store_context(command_info)
