"""Temporal's names: task queues, workflow ids and search attributes, each defined once."""

from __future__ import annotations

from datetime import timedelta

TASK_QUEUE = "lifeboat"
"""Workflows, and activities that any region can do."""

TASK_TIMEOUT = timedelta(seconds=5)
"""After this a workflow task that died with its worker is given to another one. Temporal's own default is 10 s."""

KEYWORD_ATTRIBUTES = (
    "LifeboatService",
    "LifeboatProcedure",
    "LifeboatStep",
    "LifeboatOutcome",
    "LifeboatVerdict",
    "LifeboatWaitingFor",
)
INT_ATTRIBUTES = ("LifeboatEpoch",)


def region_queue(region: str) -> str:
    """Task queue of the workers of one region: what must be seen from there."""
    return f"lifeboat-{region}"


def lock_id(service: str) -> str:
    return f"lock/{service}"


def watch_id(service: str) -> str:
    return f"watch/{service}"


def schedule_id(procedure: str, service: str) -> str:
    """`procedure` as the command line calls it."""
    return f"schedule/{procedure}/{service}"
