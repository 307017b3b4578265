"""An answer that is late, duplicate, by the wrong person, or on old evidence does not count."""

from __future__ import annotations

import pytest

from schemas.decisions import Question
from schemas.requests import Answer
from tests.unit.estates import T0, after
from workflows.policy.approval import chosen, tally, weigh

QUESTION = Question(text="Fail over?", digest="abc", asked=T0, expires=after(60), approvers=["ana", "ben"], quorum=2)
OPEN_TO_ALL = QUESTION.model_copy(update={"approvers": []})
OVERRIDE = OPEN_TO_ALL.model_copy(update={"needs_override": True})


def answer(by="ana", digest="abc", **more):
    return Answer(by=by, digest=digest, **more)


def why(question=QUESTION, given=(), by="ana", approve=True, at=1.0, **more):
    return weigh(question, list(given), answer(by, **more), approve, after(at))


@pytest.mark.parametrize("approve", [True, False])
def test_a_good_answer_counts(approve):
    assert why(approve=approve) is None
    assert why(OPEN_TO_ALL, by="whoever", approve=approve) is None


@pytest.mark.parametrize("approve", [True, False])
@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"at": 60}, "too late"),
        ({"at": 61}, "too late"),
        ({"digest": "old"}, "other evidence"),
        ({"digest": ""}, "has no digest; read the question"),
        ({"by": "mallory"}, "one of these must: ana, ben"),
    ],
)
def test_late_old_or_wrong_person(changed, text, approve):
    assert text in why(approve=approve, **changed)


def test_a_duplicate_does_not_count():
    assert "approved already" in why(given=[(answer(), True)])
    assert "approved already" in why(given=[(answer(), True)], by=" Ana ")
    assert why(given=[(answer(), True)], by="ben") is None


def test_who_approved_may_still_reject_while_the_question_is_open():
    assert why(given=[(answer(), True)], approve=False) is None


def test_nothing_counts_once_it_is_settled():
    assert "settled already: rejected" in why(given=[(answer("ben"), False)])
    assert "settled already: approved" in why(given=[(answer(), True), (answer("ben"), True)], approve=False)


def test_an_override_is_asked_for_and_needs_its_reason():
    assert "with an override" in why(OVERRIDE)
    assert "needs a reason" in why(OVERRIDE, override=True)
    assert "needs a reason" in why(OVERRIDE, override=True, reason="  ")
    assert why(OVERRIDE, override=True, reason="we accept the loss") is None
    assert why(OVERRIDE, approve=False) is None
    assert "needs a reason" in why(OPEN_TO_ALL, override=True)


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ([], "open"),
        ([("ana", True)], "open"),
        ([("ana", True), ("ANA ", True)], "open"),
        ([("ana", True), ("ben", True)], "approved"),
        ([("ana", False)], "rejected"),
        ([("ana", True), ("ben", False)], "rejected"),
        ([("ana", True), ("ana", False)], "rejected"),
    ],
)
def test_tally(given, result):
    assert tally(QUESTION, [(answer(by), approve) for by, approve in given]) == result


CHOICE = QUESTION.model_copy(update={"choices": ["hand-over", "cut-over"]})


def test_what_is_chosen_must_be_offered():
    assert why(CHOICE) is None
    assert why(CHOICE, choice="cut-over") is None
    assert "remove is not offered; one of: hand-over, cut-over" in why(CHOICE, choice="remove")
    assert "nothing is to be chosen" in why(choice="cut-over")
    assert why(CHOICE, approve=False) is None


def test_the_first_is_chosen_where_nothing_is_said():
    assert chosen(CHOICE, answer()) == "hand-over"
    assert chosen(CHOICE, answer(choice="cut-over")) == "cut-over"
    assert chosen(QUESTION, answer()) == ""


def test_two_who_choose_differently_do_not_add_up():
    given = [(answer("ana", choice="cut-over"), True)]
    assert "ana has chosen cut-over" in why(CHOICE, given=given, by="ben")
    assert why(CHOICE, given=given, by="ben", choice="cut-over") is None
    assert why(CHOICE, given=given, by="ben", approve=False) is None
