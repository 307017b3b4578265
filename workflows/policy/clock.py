"""The RTO clock: it runs from the first failed probe. Durations are seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

SHARES = (50, 80, 100)
"""Per cent of the RTO at which the run escalates."""


def deadline(outage_started: datetime, rto_s: float) -> datetime:
    return outage_started + timedelta(seconds=rto_s)


def decide_by(outage_started: datetime, rto_s: float, machine_s: float) -> datetime:
    """The latest moment at which a decision still meets the RTO, when the steps after it take `machine_s`.

    It may be in the past: then the RTO can't be met any more, and the sooner the better.
    """
    return deadline(outage_started, rto_s) - timedelta(seconds=machine_s)


def due(outage_started: datetime, rto_s: float, now: datetime, passed: Sequence[int]) -> list[int]:
    """Shares that are reached and not yet told."""
    return [share for share in SHARES if share not in passed and now >= _at(outage_started, rto_s, share)]


def next_at(outage_started: datetime, rto_s: float, passed: Sequence[int]) -> datetime | None:
    """When the next share that is not yet told is reached; None after the last."""
    left = [share for share in SHARES if share not in passed]
    return _at(outage_started, rto_s, left[0]) if left else None


def forecast(steps_left: Mapping[str, float]) -> float:
    """Machine time that the steps left will take: they run one after another."""
    return sum(steps_left.values())


def error_budget_share(outage_s: float, budget_s: float) -> float:
    """Share of the month's error budget that the outage spent: 1.0 is all of it."""
    return outage_s / budget_s


def _at(outage_started: datetime, rto_s: float, share: int) -> datetime:
    return outage_started + timedelta(seconds=rto_s * share / 100)
