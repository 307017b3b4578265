"""When an outage began, by what several regions saw of it, and whether one goes on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from schemas.service import Detection


class Seen(Protocol):
    """Why a region's watch returned."""

    @property
    def first_failure(self) -> datetime | None: ...
    @property
    def at(self) -> datetime: ...


S = TypeVar("S", bound=Seen)


def began(sighting: Seen) -> datetime:
    return sighting.first_failure or sighting.at


def agreeing(sightings: Sequence[S], detection: Detection) -> list[S]:
    """Those that saw the outage begin: as one with the region that made the quorum, give or take a probe.

    A region that was cut off long before has a first failure of its own, which is not the outage's.
    """
    ordered = sorted(sightings, key=began)
    quorum = began(ordered[min(detection.quorum, len(ordered)) - 1])
    probe = timedelta(seconds=detection.interval_s + detection.probe_timeout_s)
    return [sighting for sighting in ordered if abs(began(sighting) - quorum) <= probe]


def outage_of(sightings: Sequence[Seen], detection: Detection) -> datetime:
    """When the outage began that these saw."""
    return began(agreeing(sightings, detection)[0])


def goes_on(
    before: datetime | None, sightings: Sequence[Seen], started: datetime, detection: Detection
) -> datetime | None:
    """`before`, when the outage began that a run did not end, if it goes on: nobody was served since the watch probes
    again. None where there was none, or it ended by itself meanwhile.
    """
    if before is None or not sightings:
        return None
    at_once = timedelta(seconds=detection.failures * (detection.interval_s + detection.probe_timeout_s) + 2)
    return before if outage_of(sightings, detection) - started <= at_once else None
