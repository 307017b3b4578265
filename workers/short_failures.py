"""Failures whose reason survives the engine's limit."""

from __future__ import annotations

from collections.abc import Iterator

from temporalio.api.failure.v1 import Failure
from temporalio.converter import DefaultFailureConverter, PayloadConverter

LIMIT = 3500
"""Bytes. Of an activity that is tried again Temporal keeps the last failure only up to 4 KB, and puts "Failure exceeds
size limit." in its place otherwise (limit.mutableStateActivityFailureSizeLimitError): a person would read just that."""

STACK = 600
"""Characters of each stack that are kept: its end, where it happened."""
MESSAGE = 1200
"""Bytes of each message, from its beginning."""


def beginning(text: str, size: int) -> str:
    """As much of the text as fits into `size` bytes."""
    return text.encode()[:size].decode(errors="ignore")


def chain(failure: Failure) -> Iterator[Failure]:
    """The failure and its causes, outermost first."""
    yield failure
    while failure.HasField("cause"):
        failure = failure.cause
        yield failure


class ShortFailures(DefaultFailureConverter):
    """The SDK's own converter; of what it makes, the ends of stacks and the beginnings of messages."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        super().to_failure(exception, payload_converter, failure)
        failure.stack_trace = failure.stack_trace[-STACK:]
        if len(failure.message.encode()) > MESSAGE:
            failure.message = beginning(failure.message, MESSAGE) + " …"
        if failure.ByteSize() <= LIMIT:
            return
        for each in chain(failure):
            each.stack_trace = ""
        depth = list(chain(failure))
        for each in reversed(depth[:-1]):
            # The innermost message is the reason; what lies between goes, from the innermost on.
            if failure.ByteSize() > LIMIT:
                each.message = beginning(each.message, MESSAGE // 6)
