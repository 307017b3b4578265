"""Which activations are read beyond a run's last task, and what comes of the next task."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstance
from temporalio.workflow import Info

from workers.rereading import WHY, Rereading


class Carried(WorkflowInstance):
    """A run that carries out whatever comes."""

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        done = WorkflowActivationCompletion()
        done.successful.SetInParent()
        return done

    def get_info(self) -> Info:
        class Named:
            workflow_id, run_id = "a", "b"

        return Named()  # type: ignore[return-value]

    def get_serialization_context(self, command_info: Any) -> Any:
        return None

    def get_external_store_context(self, command_info: Any) -> Any:
        return None


def given(run: Rereading, seconds: int, length: int, job: str = "resolve_activity", *, replayed: bool = False) -> bool:
    """Whether the run carries this out: a task, or what a query brought, at a time and with so much history."""
    act = WorkflowActivation(history_length=length, is_replaying=replayed)
    act.timestamp.FromSeconds(seconds)
    getattr(act.jobs.add(), job).SetInParent()
    done = run.activate(act)
    assert done.failed.failure.message in ("", WHY)
    return done.HasField("successful")


@pytest.fixture
def run() -> Rereading:
    made = Rereading(Carried())
    assert given(made, 1, 3, "initialize_workflow")
    return made


def test_tasks_are_carried_out(run: Rereading) -> None:
    assert given(run, 1, 3), "a local activity ends in the same task"
    assert given(run, 2, 9)
    assert given(run, 2, 9, "query_workflow", replayed=True)
    assert given(run, 3, 14, "signal_workflow")


def test_a_task_after_a_query_that_read_beyond_is_not(run: Rereading) -> None:
    assert given(run, 1, 9)
    assert given(run, 1, 9, "query_workflow", replayed=True)
    assert given(run, 1, 12), "another query, with more events"
    assert given(run, 1, 12, "query_workflow", replayed=True)
    assert not given(run, 2, 14)
    assert not given(run, 3, 18)
    assert given(run, 3, 18, "remove_from_cache")


def test_a_clock_that_was_set_back_costs_one_task_and_no_replay(run: Rereading) -> None:
    assert given(run, 1, 9, replayed=True)
    assert given(run, 1, 14, replayed=True)
    assert given(run, 2, 18)
