"""The RTO clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.estates import T0, after
from workflows.policy.clock import deadline, decide_by, due, error_budget_share, forecast, next_at


def test_the_deadline_and_the_latest_moment_to_decide():
    assert deadline(T0, 300) == after(300)
    assert decide_by(T0, 300, 5) == after(295)
    assert decide_by(T0, 3, 5) == after(-2)


@pytest.mark.parametrize(
    ("at", "passed", "shares"),
    [
        (0, [], []),
        (149.9, [], []),
        (150, [], [50]),
        (150, [50], []),
        (240, [50], [80]),
        (1000, [], [50, 80, 100]),
        (1000, [50, 80, 100], []),
    ],
)
def test_shares_are_due_once(at, passed, shares):
    assert due(T0, 300, after(at), passed) == shares


def test_the_next_share():
    assert next_at(T0, 300, []) == after(150)
    assert next_at(T0, 300, [50]) == after(240)
    assert next_at(T0, 300, [50, 80, 100]) is None


@given(st.floats(0.1, 1e5), st.lists(st.sampled_from([50, 80, 100]), unique=True))
def test_whoever_sleeps_until_the_next_share_finds_it_due(rto_s, passed):
    at = next_at(T0, rto_s, passed)
    assert (at is None) == (len(passed) == 3)
    if at is not None:
        assert due(T0, rto_s, at, passed)


def test_forecast_and_error_budget():
    assert forecast({"fence": 0.2, "promote": 0.5}) == pytest.approx(0.7)
    assert forecast({}) == 0
    assert error_budget_share(129.6, 259.2) == 0.5
