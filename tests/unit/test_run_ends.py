"""A run's end is told once, whoever carried out its last task how often."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.api.history.v1 import History, HistoryEvent
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from workers import run_ends
from workers.run_ends import RunEnds

T0 = datetime(2026, 1, 1, tzinfo=UTC)
CLOSED = T0 + timedelta(seconds=5)


class Engine:
    """A client of a Temporal whose only run is open for the first `open_for` looks, and was closed by `closer`."""

    namespace = "default"

    def __init__(self, *, open_for: int = 0, closer: str = "us-east-1@7", silent_for: int = 0) -> None:
        self.open_for, self.closer, self.silent_for = open_for, closer, silent_for
        self.workflow_service = self

    def get_workflow_handle(self, workflow_id: str, *, run_id: str) -> Any:
        return self

    async def describe(self) -> Any:
        if self.silent_for:
            self.silent_for -= 1
            raise RPCError("gone", RPCStatusCode.UNAVAILABLE, b"")
        self.open_for -= 1
        if self.open_for >= 0:
            return SimpleNamespace(status=WorkflowExecutionStatus.RUNNING, close_time=None, start_time=T0)
        return SimpleNamespace(status=WorkflowExecutionStatus.COMPLETED, close_time=CLOSED, start_time=T0)

    async def get_workflow_execution_history_reverse(self, request: Any) -> Any:
        last, earlier = HistoryEvent(), HistoryEvent()
        last.workflow_task_completed_event_attributes.identity = self.closer
        earlier.workflow_task_completed_event_attributes.identity = "us-east-1@7"
        completed = HistoryEvent()
        completed.workflow_execution_completed_event_attributes.SetInParent()
        return SimpleNamespace(history=History(events=[completed, last, earlier]))


async def told(engine: Engine, *said: tuple[str, object]) -> list[Any]:
    found: list[Any] = []
    ends = RunEnds(engine, "us-east-1@7")  # type: ignore[arg-type]
    for kind in ("counts", "spans"):
        ends.listen(kind, lambda each, started, closed, kind=kind: found.append((kind, each, started, closed)))
    for kind, each in said:
        ends.ended(kind, "workflow", "run", each)
    await asyncio.sleep(0)
    await ends.settle(20)
    return found


async def test_each_listener_is_told_once_the_run_is_closed() -> None:
    found = await told(Engine(open_for=2, silent_for=1), ("counts", 1), ("spans", 2))
    assert found == [("counts", 1, T0, CLOSED), ("spans", 2, T0, CLOSED)]


async def test_of_a_task_that_was_done_again_here_the_last_word_counts() -> None:
    assert await told(Engine(open_for=1), ("spans", 1), ("spans", 2)) == [("spans", 2, T0, CLOSED)]


async def test_a_run_that_another_worker_closed_is_that_ones_to_tell() -> None:
    assert await told(Engine(closer="us-west-2@8"), ("spans", 1)) == []


async def test_a_run_that_is_not_closed_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_ends, "CLOSED_S", 0.3)
    assert await told(Engine(open_for=1000), ("spans", 1)) == []
