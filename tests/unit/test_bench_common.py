"""The statistics of the benches: nothing is dropped, nothing claimed that the runs don't bear."""

from __future__ import annotations

import pytest

from bench.common import figure, slowest, spread
from bench.observed import ratio


class TestSpread:
    def test_of_an_odd_and_an_even_number_of_runs(self) -> None:
        assert spread([3.0, 1.0, 2.0]).median == 2.0
        found = spread([4.0, 1.0, 2.0, 3.0])
        assert (found.min, found.median, found.max) == (1.0, 2.5, 4.0)

    def test_a_95th_percentile_is_claimed_from_20_runs_on(self) -> None:
        assert spread([float(n) for n in range(19)]).p95 is None
        assert spread([float(n) for n in range(1, 21)]).p95 == 19.0

    def test_a_run_without_a_value_is_worse_than_any_other(self) -> None:
        found = spread([None, 1.0, 2.0])
        assert (found.min, found.median, found.max) == (1.0, 2.0, None)
        assert spread([None, None, 1.0]).median is None
        assert spread([]).max is None


class TestTargets:
    def test_a_bound_is_met_when_it_is_reached(self) -> None:
        assert figure("f", "s", [0.7, 0.8, 0.9], target=0.8).met is True
        assert figure("f", "s", [0.7, 0.81, 0.9], target=0.8).met is False

    def test_a_run_without_a_value_misses_it(self) -> None:
        found = figure("f", "s", [0.1, 0.1, None], target=0.8)
        assert (found.met, found.without_value, found.runs) == (False, 1, 3)

    def test_the_percentiles_target_counts_from_20_runs_on(self) -> None:
        slow = [0.5] * 17 + [2.0] * 2
        assert figure("f", "s", slow, target=0.8, target_p95=1.2).met is True
        assert figure("f", "s", [*slow, 2.0], target=0.8, target_p95=1.2).met is False

    def test_a_maximum_as_target(self) -> None:
        assert figure("rows_lost", "rows", [0, 0, 0], target=0, target_of="max").met is True
        assert figure("rows_lost", "rows", [0, 1, 0], target=0, target_of="max").met is False

    def test_a_target_that_is_to_be_reached_from_below(self) -> None:
        assert figure("rate", "ratio", [0.8, 0.9, 1.1], target=0.9, at_least=True).met is True
        assert figure("rate", "ratio", [0.8, 0.89, 1.1], target=0.9, at_least=True).met is False
        missing = figure("rate", "ratio", [None, 1.0, 1.0], target=0.9, at_least=True)
        assert (missing.met, missing.min, missing.median, missing.max) == (False, None, 1.0, 1.0)

    def test_without_a_target_there_is_no_verdict_and_without_runs_a_miss(self) -> None:
        assert figure("raw", "s", [1.0]).met is None
        assert figure("f", "s", [], target=1).met is False


def test_a_runs_figure_is_its_slowest_routes() -> None:
    assert slowest({"dns": 0.5, "session": 0.7}) == 0.7
    assert slowest({"dns": 0.5, "session": None}) is None


def test_medians_are_compared_only_where_every_run_has_a_value() -> None:
    assert ratio([1.0, 1.1, 3.0], [1.0, 1.0, 0.9]) == pytest.approx(1.1)
    assert ratio([1.0, None], [1.0, 1.0]) is None
    assert ratio([1.0, 1.0], [None, 1.0]) is None
    assert ratio([], []) is None
