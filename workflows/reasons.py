"""Why something failed, from the chain of Temporal's failures."""

from __future__ import annotations

from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, FailureError
from temporalio.exceptions import TimeoutError as OutOfTime


def _innermost(error: BaseException) -> BaseException:
    """What an activity or child failed of; of one whose time ran out over its retries, the last attempt's failure."""
    while isinstance(error, ActivityError | ChildWorkflowError | OutOfTime) and error.cause is not None:
        error = error.cause
    return error


def kind_of(error: BaseException) -> str:
    """The name of the innermost failure's type: one of schemas.failures, or an exception's own."""
    error = _innermost(error)
    return (error.type if isinstance(error, ApplicationError) else None) or type(error).__name__


def reason_of(error: BaseException) -> str:
    """The innermost message of a failure, as the one who must act should read it."""
    error = _innermost(error)
    if isinstance(error, FailureError):
        return error.message
    return str(error) or type(error).__name__
