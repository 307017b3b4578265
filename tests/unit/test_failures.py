"""Every error says what happened, who must act and what to do; its docstring is its message."""

from __future__ import annotations

import inspect
import re

import pytest

from schemas import failures
from schemas.failures import LifeboatError

FAILURES = [each for each in vars(failures).values() if isinstance(each, type) and issubclass(each, LifeboatError)]
WHO = re.compile(r"\b(owner|operator|person|whoever|nobody|maintainers)\b|by itself")
TOLD_DIRECTLY = re.compile(r"; (send|look|wait|read|name|start|abort|answer) ")
"""The imperative: whoever reads it must act."""


def names_who_acts(message: str) -> bool:
    return bool(WHO.search(message) or TOLD_DIRECTLY.search(message))


@pytest.mark.parametrize("failure", FAILURES, ids=lambda each: each.__name__)
def test_it_says_what_happened_and_who_must_act(failure):
    assert "__doc__" in vars(failure)
    message = inspect.cleandoc(failure.__doc__)
    assert message.endswith(".")
    assert re.search(r"[;,] ", message), "what happened, then what to do"
    assert names_who_acts(message)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda each: each.__name__)
def test_the_docstring_is_the_message(failure):
    message = inspect.cleandoc(failure.__doc__)
    assert str(failure()) == message
    assert str(failure("pg-east-1")) == f"{message} (pg-east-1)"
    assert failure("pg-east-1").detail == "pg-east-1"


def test_names_are_unique_since_temporal_matches_them_without_inheritance():
    names = [each.__name__ for each in FAILURES]
    assert len(set(names)) == len(names) > 10


@pytest.mark.parametrize("failure", FAILURES, ids=lambda each: each.__name__)
def test_what_only_needs_time_is_tried_again(failure):
    if "by itself" in inspect.cleandoc(failure.__doc__):
        assert failure.retryable


@pytest.mark.parametrize("message", ["It failed.", "The value was wrong; it is 7."])
def test_the_check_bites(message):
    assert not names_who_acts(message)
