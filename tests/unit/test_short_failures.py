"""What an activity fails of reaches the person who must act, however deep the stack that it came from."""

from __future__ import annotations

import pytest
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DefaultFailureConverter, FailureConverter, default

from schemas.failures import EpochUnavailable
from workers.connect import CONVERTER
from workers.short_failures import LIMIT, ShortFailures


def fail(depth: int, message: str) -> None:
    if depth:
        further(depth - 1, message)
    raise EpochUnavailable(message)


def further(depth: int, message: str) -> None:
    """Another name, since Python leaves out lines of a stack that repeat."""
    fail(depth, message)


def deep(message: str, causes: int) -> BaseException:
    try:
        try:
            fail(60, message)
        except EpochUnavailable as error:
            if causes:
                raise EpochUnavailable(f"above {causes}") from deep(message, causes - 1)
            raise error
    except EpochUnavailable as error:
        return error
    raise AssertionError


def converted(converter: FailureConverter, error: BaseException) -> Failure:
    failure = Failure()
    converter.to_failure(error, default().payload_converter, failure)
    return failure


@pytest.mark.parametrize("causes", [0, 1, 5])
@pytest.mark.parametrize("message", ["the zone's server is silent", "x" * 20_000])
def test_a_failure_fits_and_keeps_its_reason(causes: int, message: str) -> None:
    error = deep(message, causes)
    failure = converted(ShortFailures(), error)
    assert failure.ByteSize() <= LIMIT
    assert str(error)[:100] in failure.message
    if causes:
        while failure.HasField("cause"):
            failure = failure.cause
        assert message[:100] in failure.message


def test_the_sdks_own_would_not_fit() -> None:
    assert converted(DefaultFailureConverter(), deep("why", 1)).ByteSize() > 4096


def test_where_it_happened_is_kept_while_there_is_room() -> None:
    assert "raise EpochUnavailable(message)" in converted(ShortFailures(), deep("why", 0)).stack_trace


def test_every_client_has_it() -> None:
    assert CONVERTER.failure_converter_class is ShortFailures
