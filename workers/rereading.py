"""A run whose history was read beyond its last workflow task is read anew before its next one.

A query that finds no worker with the run in its cache is answered by another one, from the whole history. Where events
came in meanwhile, the SDK (1.35) hands them to the workflow as if a task had begun with them, and keeps the run so. The
next task then brings only what came later, and the order of its commands may be one that no replay repeats: the run
fails for nondeterminism, hours after a worker was killed while somebody looked at it (docs/adr/0040).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.workflow import Info

log = logging.getLogger("lifeboat.runs")

WHY = "Nothing is wrong with the run: a query had it read beyond its last task, so that it is read anew."


@dataclass(frozen=True)
class RereadingRunner(SandboxedWorkflowRunner):
    """The SDK's sandbox, whose runs are read anew where they must be."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        return Rereading(super().create_instance(det))


class Rereading(WorkflowInstance):
    """A run in this worker's cache. A task that it must not carry out fails once: Temporal gives it anew at once, with
    the whole history.
    """

    def __init__(self, run: WorkflowInstance) -> None:
        self._run = run
        self._time, self._length = -1, 0
        self._beyond = False

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        if all(job.HasField("query_workflow") or job.HasField("remove_from_cache") for job in act.jobs):
            return self._run.activate(act)
        # Each task has a time of its own: more of the history, at the time of the task before, is no task's. What is
        # replayed is tasks alone, even where the clock of Temporal was set back meanwhile.
        time = act.timestamp.ToNanoseconds()
        beyond = not act.is_replaying and time == self._time and act.history_length > self._length
        if self._beyond and not beyond:
            info = self.get_info()
            log.info("%s (%s) is read anew: a query had it read beyond its last task", info.workflow_id, info.run_id)
            failed = WorkflowActivationCompletion()
            failed.failed.failure.message = WHY
            return failed
        self._beyond = self._beyond or beyond
        self._time, self._length = time, act.history_length
        return self._run.activate(act)

    def get_info(self) -> Info:
        return self._run.get_info()

    def get_thread_id(self) -> int | None:
        return self._run.get_thread_id()

    def get_serialization_context(self, command_info: Any) -> Any:
        return self._run.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:
        return self._run.get_external_store_context(command_info)
