"""What an operator may say to a run, and when it is refused."""

from __future__ import annotations

import pytest

from schemas.requests import Verb
from workflows.doors import Doors

ANN = Verb(by="ann")


class Run(Doors):
    """A run that keeps its journal."""

    def __init__(self) -> None:
        super().__init__()
        self.journal: list[str] = []

    def note(self, text: str) -> None:
        self.journal.append(text)

    def park(self, title: str, *, may_skip: bool) -> None:
        self._parked = (title, may_skip)


def test_a_run_is_held_and_goes_on():
    run = Run()
    run.hold(ANN)
    assert run.held
    run.resume(ANN)
    assert not run.held
    assert run.resume_update(ANN) == "the run is not held"


def test_nobody_is_kept_waiting_by_a_hold():
    run = Run()
    run.clients_wait = True
    run.hold(ANN)
    assert not run.held
    assert run.journal == ["hold by ann is refused: clients wait meanwhile: abort the run instead"]
    assert "is taken" in run.abort_update(ANN)


def test_one_that_was_held_before_is_let_go_on_while_clients_wait():
    run = Run()
    run.hold(ANN)
    run.clients_wait = True
    assert "is taken" in run.resume_update(ANN)
    assert not run.held


@pytest.mark.parametrize("verb", ["hold", "abort"])
def test_past_its_point_of_no_return_it_only_goes_forward(verb: str):
    run = Run()
    run.past_no_return = True
    assert "only goes forward" in getattr(run, f"{verb}_update")(ANN)


@pytest.mark.parametrize("verb", ["retry", "skip"])
def test_without_a_parked_step_there_is_nothing_to_answer(verb: str):
    assert getattr(Run(), f"{verb}_update")(ANN) == f"no step is parked, so there is nothing to {verb}"


def test_a_parked_step_that_may_not_be_left_out():
    run = Run()
    run.park("Promote", may_skip=False)
    assert "can't be skipped" in run.skip_update(ANN)
    assert "is taken" in run.retry_update(ANN)


def test_a_parked_step_ends_the_run_even_past_its_point_of_no_return():
    run = Run()
    run.park("Route", may_skip=True)
    run.past_no_return = True
    assert "is taken" in run.abort_update(ANN)
