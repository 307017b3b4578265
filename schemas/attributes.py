"""Temporal's names: task queues, workflow ids and search attributes, each defined once."""

from __future__ import annotations

TASK_QUEUE = "lifeboat"
"""Workflows, and activities that any region can do."""

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
