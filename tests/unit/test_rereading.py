"""Which activations are read beyond a run's last task, so that the worker forgets the run."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstance
from temporalio.workflow import Info

from workers.rereading import DIRECT, Rereading


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

    def given(self, seconds: int, length: int, *, size: int, replayed: bool = False) -> None:
        """This much of the history, at the time and with the size that its last task has."""
        self._activated(seconds, length, size, replayed).jobs.add().resolve_activity.SetInParent()
        assert self._run.activate(self._act).HasField("successful")

    def asked(self, seconds: int, length: int, *, size: int, query: str = DIRECT) -> int:
        """How often it was forgotten once this query was answered."""
        self._activated(seconds, length, size, True).jobs.add().query_workflow.query_id = query
        assert self._run.activate(self._act).HasField("successful")
        return self.forgotten

    def _activated(self, seconds: int, length: int, size: int, replayed: bool) -> WorkflowActivation:
        self._act = WorkflowActivation(history_length=length, history_size_bytes=size, is_replaying=replayed)
        self._act.timestamp.FromSeconds(seconds)
        return self._act


@pytest.fixture
def read() -> Read:
    made = Read()
    made.given(1, 3, size=300)
    return made


def test_a_run_that_a_query_had_read_beyond_its_last_task_is_forgotten(read: Read) -> None:
    read.given(1, 8, size=300)
    assert read.forgotten == 0, "the query is to come"
    assert read.asked(1, 8, size=300) == 1
    assert read.asked(1, 8, size=300) == 1


def test_a_run_that_was_given_its_tasks_is_kept(read: Read) -> None:
    assert read.asked(1, 3, size=300) == 0
    read.given(1, 3, size=300)  # a local activity ends in the same task
    assert read.asked(1, 3, size=300) == 0
    read.given(2, 9, size=900)
    assert read.asked(2, 9, size=900) == 0


def test_a_replay_is_of_tasks_alone(read: Read) -> None:
    read.given(1, 8, size=300, replayed=True)
    assert read.asked(1, 8, size=300) == 0


def test_a_clock_that_was_set_back_forgets_nothing(read: Read) -> None:
    read.given(1, 9, size=900)
    assert read.asked(1, 9, size=900) == 0


def test_a_task_whose_history_has_no_more_bytes_forgets_nothing(read: Read) -> None:
    """Old servers tell no size at all."""
    read.given(2, 9, size=300)
    assert read.asked(2, 9, size=300) == 0


def test_a_query_that_came_with_a_task_forgets_nothing(read: Read) -> None:
    read.given(1, 8, size=300)
    assert read.asked(1, 8, size=300, query="1") == 0
    read.given(2, 14, size=900)
    assert read.asked(2, 14, size=900) == 0
