"""Schedules by the topology: which are declared, what has to change, and when each one fires."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import ScheduleActionStartWorkflow, ScheduleOverlapPolicy

from activities.topology import load_topology
from cli.schedules import CATCHUP, Planned, changes, planned_by
from schemas.restore_requests import TakeRequest

ROOT = Path(__file__).parents[2]
TAKE = Planned("backup-take", "counting-db", "0 3 * * *")
VERIFY = Planned("backup-verify", "counting-db", 604800.0)
T, V = "schedule/backup-take/counting-db", "schedule/backup-verify/counting-db"


def test_those_of_the_example_are_what_it_declares() -> None:
    found = planned_by(load_topology(ROOT / "topology.yaml"))
    assert [(each.id, each.text) for each in found] == [(T, "0 3 * * * UTC"), (V, "0 5 * * sun UTC")]


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda file: file.name)
def test_who_declares_none_has_none(file: Path) -> None:
    assert planned_by(load_topology(file)) == []


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({}, [("create", T), ("create", V)]),
        ({T: TAKE.note, V: VERIFY.note}, [("keep", T), ("keep", V)]),
        ({T: Planned("backup-take", "counting-db", 86400.0).note, V: VERIFY.note}, [("update", T), ("keep", V)]),
        ({T: "written by hand"}, [("update", T), ("create", V)]),
        (
            {T: TAKE.note, V: VERIFY.note, "schedule/backup-take/gone": "x"},
            [("keep", T), ("keep", V), ("delete", "schedule/backup-take/gone")],
        ),
    ],
)
def test_what_has_to_change(there: dict[str, str], expected: list[tuple[str, str]]) -> None:
    assert [(each.what, each.id) for each in changes([TAKE, VERIFY], there)] == expected


def test_nothing_is_left_where_nothing_is_declared() -> None:
    assert [each.what for each in changes([], {T: TAKE.note, V: VERIFY.note})] == ["delete", "delete"]


def test_a_schedule_fires_by_itself_and_never_a_years_worth() -> None:
    schedule = TAKE.schedule(paused=True)
    assert schedule.spec.cron_expressions == ["0 3 * * *"]
    assert schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
    assert schedule.policy.catchup_window == CATCHUP <= timedelta(hours=1)
    assert schedule.state.paused
    action: Any = schedule.action
    assert isinstance(action, ScheduleActionStartWorkflow)
    assert (action.workflow, action.id, action.task_queue) == (
        *("BackupTake", "backup-take/counting-db/scheduled"),
        "lifeboat",
    )
    (request,) = action.args
    assert request == TakeRequest(service="counting-db", reason="scheduled: 0 3 * * * UTC")


def test_intervals_of_two_schedules_do_not_begin_together() -> None:
    specs = [Planned("backup-take", name, 86400.0).spec().intervals[0] for name in ("orders-db", "counting-db")]
    assert all(each.every == timedelta(days=1) and timedelta() <= each.offset < each.every for each in specs)
    assert specs[0].offset != specs[1].offset
