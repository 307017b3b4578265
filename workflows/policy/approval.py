"""Which answers to a question count, and what they add up to (invariant 10)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from schemas.decisions import Question
from schemas.requests import Answer


def weigh(
    question: Question, given: Sequence[tuple[Answer, bool]], answer: Answer, approve: bool, now: datetime
) -> str | None:
    """Why this answer does not count, as text for who gave it; None when it counts.

    `given` are the answers that counted so far, each with whether it approves. Who approved may still reject.
    """
    settled = tally(question, given)
    if settled != "open":
        return f"the question is settled already: {settled}"
    if now >= question.expires:
        return f"too late: the question expired at {question.expires:%H:%M:%S} UTC; look at what the run did since"
    if not answer.digest:
        return f"the answer has no digest; read the question, and give the digest that it shows: {question.digest}"
    if answer.digest != question.digest:
        return (
            f"the answer is to other evidence ({answer.digest}); read the question again, its digest is"
            f" {question.digest}"
        )
    if question.approvers and _person(answer.by) not in map(_person, question.approvers):
        return f"{answer.by} may not answer; one of these must: {', '.join(question.approvers)}"
    if any(_person(each.by) == _person(answer.by) and approved == approve for each, approved in given):
        return f"{answer.by} has {'approved' if approve else 'rejected'} already; another person must answer"
    if approve and (wrong := _wrong_choice(question, given, answer)) is not None:
        return wrong
    if approve and question.needs_override and not answer.override:
        return "the policy refuses this; approve it with an override and its reason, or reject it"
    if approve and answer.override and not answer.reason.strip():
        return "an override needs a reason, which is kept on record"
    return None


def tally(question: Question, given: Sequence[tuple[Answer, bool]]) -> Literal["approved", "rejected", "open"]:
    """One rejection rejects; `quorum` different people approve."""
    if any(not approved for _, approved in given):
        return "rejected"
    if len({_person(each.by) for each, _ in given}) >= question.quorum:
        return "approved"
    return "open"


def chosen(question: Question, answer: Answer) -> str:
    """What an approval chooses; "" where there is nothing to choose."""
    return answer.choice or (question.choices[0] if question.choices else "")


def _wrong_choice(question: Question, given: Sequence[tuple[Answer, bool]], answer: Answer) -> str | None:
    """Why an approval's choice does not count: it is not offered, or others have chosen something else."""
    if answer.choice and answer.choice not in question.choices:
        offered = f"; one of: {', '.join(question.choices)}" if question.choices else ": nothing is to be chosen"
        return f"{answer.choice} is not offered{offered}"
    for each, approved in given:
        if approved and chosen(question, each) != chosen(question, answer):
            return f"{each.by} has chosen {chosen(question, each)}; say the same, or reject it"
    return None


def _person(name: str) -> str:
    """The same person however the name was typed: `Ana ` must not be a second approver beside `ana`."""
    return " ".join(name.split()).casefold()
