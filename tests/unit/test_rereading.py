"""Which activations are read beyond a run's last task, so that the worker forgets the run."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstance
from temporalio.workflow import Info

from workers.rereading import Rereading


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


class Read:
    """A run in a worker's cache, and how often the worker was told to forget it."""

    def __init__(self) -> None:
        self.forgotten = 0
        self._run = Rereading(Carried(), self._forget)

    def _forget(self, run_id: str) -> None:
        assert run_id == "b"
        self.forgotten += 1

    def given(
        self, seconds: int, length: int, job: str = "resolve_activity", *, size: int, replayed: bool = False
    ) -> int:
        """How often it is forgotten by now: this came, with so much history; the time and the size are its task's."""
        act = WorkflowActivation(history_length=length, history_size_bytes=size, is_replaying=replayed)
        act.timestamp.FromSeconds(seconds)
        getattr(act.jobs.add(), job).SetInParent()
        assert self._run.activate(act).HasField("successful")
        return self.forgotten


@pytest.fixture
def read() -> Read:
    made = Read()
    assert made.given(1, 3, "initialize_workflow", size=300) == 0
    return made


def test_a_run_that_was_given_its_tasks_is_kept(read: Read) -> None:
    assert read.given(1, 3, size=300) == 0, "a local activity ends in the same task"
    assert read.given(2, 9, size=900) == 0
    assert read.given(2, 9, "query_workflow", size=900, replayed=True) == 0
    assert read.given(3, 14, "signal_workflow", size=1400) == 0


def test_a_run_that_a_query_had_read_beyond_its_last_task_is_forgotten(read: Read) -> None:
    assert read.given(1, 8, size=300) == 1
    assert read.given(1, 8, "query_workflow", size=300, replayed=True) == 1
    assert read.given(1, 8, "remove_from_cache", size=300) == 1


def test_a_replay_is_of_tasks_alone(read: Read) -> None:
    assert read.given(1, 8, size=300, replayed=True) == 0


def test_a_clock_that_was_set_back_forgets_nothing(read: Read) -> None:
    assert read.given(1, 9, size=900) == 0
    assert read.given(1, 14, size=1400) == 0
