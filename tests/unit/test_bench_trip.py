"""What the benches of switchover and rejoin read out of a ledger, a report and a history."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import ActivityType
from temporalio.api.history.v1 import (
    ActivityTaskCompletedEventAttributes,
    ActivityTaskScheduledEventAttributes,
    ActivityTaskStartedEventAttributes,
    HistoryEvent,
)
from temporalio.client import WorkflowHistory

from bench.rejoin import Measured, activity_seconds, receipt_error
from bench.switchover import client_errors, longest_gaps
from lab.ledger import Entry, Outcome

OLD, NEW = 1, 2


def write(route: str, acked: float, timeline: int = OLD, *, outcome: Outcome = "acknowledged") -> Entry:
    return Entry(
        id=f"{route}-{acked}",
        route=route,
        writer=f"{route}-1",
        sent=acked - 0.01,
        acked=acked if outcome == "acknowledged" else None,
        timeline=timeline,
        outcome=outcome,
    )


class TestGaps:
    def test_the_longest_that_ends_after_the_beginning(self) -> None:
        entries = [write("a", 1), write("a", 5), write("a", 5.1), write("a", 5.4, NEW), write("a", 5.5, NEW)]
        assert longest_gaps(["a"], entries, 5.05, OLD) == {"a": pytest.approx(0.3)}

    def test_a_write_that_waited_is_one_long_gap_however_early_it_was_sent(self) -> None:
        waited = write("a", 5.4, NEW).model_copy(update={"sent": 5.0})
        assert longest_gaps(["a"], [write("a", 5), waited], 4.5, OLD) == {"a": pytest.approx(0.4)}

    def test_writers_of_a_route_fill_each_others_gaps_and_routes_do_not(self) -> None:
        entries = [write("a", 5), write("b", 5), write("a", 5.2), write("b", 5.6, NEW), write("a", 5.5, NEW)]
        found = longest_gaps(["a", "b"], entries, 4, OLD)
        assert found == {"a": pytest.approx(0.3), "b": pytest.approx(0.6)}

    def test_a_route_that_was_not_led_on_has_no_value(self) -> None:
        entries = [write("a", 5), write("a", 5.2), write("a", 5.5, NEW, outcome="failed")]
        assert longest_gaps(["a", "b"], entries, 4, OLD) == {"a": None, "b": None}


def test_every_write_that_was_not_acknowledged_is_an_error_of_its_route() -> None:
    entries = [write("a", 1), write("a", 2, outcome="failed"), write("b", 2, outcome="unknown")]
    assert client_errors(["a", "b", "c"], entries) == {"a": 1, "b": 1, "c": 0}


@pytest.mark.parametrize(
    ("counted", "lost", "in_flight", "error"),
    [(5000, 5000, 0, 0), (5004, 5000, 8, 0), (5009, 5000, 8, 1), (4990, 5000, 8, 2), (None, 5000, 8, None)],
)
def test_a_receipt_may_be_off_by_the_commits_in_flight(
    counted: int | None, lost: int, in_flight: int, error: float | None
) -> None:
    assert receipt_error(counted, lost, in_flight) == error


def event(number: int, second: int, **attributes: object) -> HistoryEvent:
    found = HistoryEvent(event_id=number, **attributes)  # type: ignore[arg-type]
    found.event_time.seconds = second
    return found


def scheduled(number: int, name: str) -> HistoryEvent:
    what = ActivityTaskScheduledEventAttributes(activity_type=ActivityType(name=name))
    return event(number, number, activity_task_scheduled_event_attributes=what)


def test_an_activity_lasts_from_its_first_start_to_its_last_end() -> None:
    events = [scheduled(1, "keep"), scheduled(2, "other"), scheduled(3, "keep")]
    for number, second in ((1, 10), (2, 5), (3, 14)):
        started = ActivityTaskStartedEventAttributes(scheduled_event_id=number)
        completed = ActivityTaskCompletedEventAttributes(scheduled_event_id=number)
        events.append(event(10 + number, second, activity_task_started_event_attributes=started))
        events.append(event(20 + number, second + 3, activity_task_completed_event_attributes=completed))
    history = WorkflowHistory("run", events)
    assert activity_seconds(history, "keep") == 7
    assert activity_seconds(history, "rewind") is None


def test_a_rebuild_in_twice_the_time_has_half_the_rate() -> None:
    measured = Measured(by_hand=1.0, rewind=2.5, copy_by_hand=2.0, rebuild=4.0, bytes=400_000_000)
    assert (measured.excess, measured.rate_ratio) == (1.5, 0.5)
    assert measured.rate(measured.rebuild) == pytest.approx(100)
    assert (Measured().excess, Measured().rate_ratio, Measured().rate(None)) == (None, None, None)
