"""Expected failures of the command, and what it says of those that Temporal reports."""

from __future__ import annotations

import inspect
from enum import IntEnum

from temporalio.client import RPCTimeoutOrCancelledError
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.service import RPCError, RPCStatusCode

from schemas.failures import LifeboatError, UnknownMember, UnknownService

ASKED_WRONGLY = (UnknownService.__name__, UnknownMember.__name__)


class Exit(IntEnum):
    """The exit codes, the same for every command; schemas.reports.EXIT_CODES maps outcomes to them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    COMPENSATED = 3
    WAITING = 4
    INTERRUPTED = 130


class Problem(Exception):
    """The command can't do what was asked. The text says what happened, who must act and what to do."""

    def __init__(self, text: str, code: int = Exit.FAILED) -> None:
        super().__init__(inspect.cleandoc(text))
        self.code = int(code)


def innermost(error: BaseException) -> str:
    """The message of the failure that started a chain of them, with its type where that says more."""
    while isinstance(error, FailureError) and error.cause is not None:
        error = error.cause
    return str(getattr(error, "message", "") or str(error) or type(error).__name__)


def exit_of(error: BaseException) -> Exit:
    """2 when what was asked for can't be right, 1 for what else went wrong."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ApplicationError) and cause.type in ASKED_WRONGLY:
            return Exit.USAGE
        cause = cause.__cause__ or (cause.cause if isinstance(cause, FailureError) else None)
    return Exit.FAILED


def explain(error: Exception, place: str) -> Problem | None:
    """The problem behind an exception that a command may meet at `place` (which Temporal); None for a defect."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, LifeboatError):
        return Problem(str(error))
    if isinstance(error, RPCError):
        if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED):
            return Problem(f"{place} refuses your credentials: {error.message}; its owner must grant them")
        if error.status in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
            return out_of_reach(place)
        if error.status is RPCStatusCode.NOT_FOUND:
            return Problem(f"{place} doesn't know it: {error.message}")
        return Problem(f"{place} answers {error.status.name}: {error.message}")
    if isinstance(error, RPCTimeoutOrCancelledError | TimeoutError):
        return out_of_reach(place)
    return None


def out_of_reach(place: str) -> Problem:
    return Problem(
        f"{place} doesn't answer\nstart it (a lab: `lifeboat lab up`), or name another with --address HOST:PORT"
    )
