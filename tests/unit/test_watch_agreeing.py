"""Which regions' sightings date an outage."""

from __future__ import annotations

from datetime import timedelta

from schemas.facts import Probe
from schemas.orders import Sighting
from schemas.service import Detection
from tests.unit.estates import T0
from workflows.policy.sightings import agreeing, goes_on

DETECTION = Detection(interval_s=0.2, probe_timeout_s=1.5, quorum=2)


def saw(region: str, seconds: float) -> Sighting:
    at = T0 + timedelta(seconds=seconds)
    probe = Probe(region=region, member="pg-east-1", at=at, outcome="refused")
    return Sighting(region=region, member="pg-east-1", state="down", first_failure=at, at=at, last=probe)


def regions(*sightings: Sighting) -> list[str]:
    return [each.region for each in agreeing(sightings, DETECTION)]


def test_all_that_saw_it_begin():
    assert regions(saw("a", 0.1), saw("b", 0), saw("c", 1.5)) == ["b", "a", "c"]


def test_a_region_that_was_cut_off_before_does_not_date_it():
    assert regions(saw("a", -30), saw("b", 0), saw("c", 0.1)) == ["b", "c"]
    assert regions(saw("a", -3), saw("b", 0)) == ["b"]


def test_one_that_joins_late_is_left_out():
    assert regions(saw("a", 0), saw("b", 0.1), saw("c", 20)) == ["a", "b"]


def test_an_outage_that_a_run_did_not_end_goes_on():
    """Down from the moment on at which the watch began anew: one outage, as its clients see it."""
    before = T0 - timedelta(seconds=60)
    assert goes_on(before, [saw("a", 0.3), saw("b", 2.5)], T0, DETECTION) == before
    # It was well for a while.
    assert goes_on(before, [saw("a", 30), saw("b", 30.5)], T0, DETECTION) is None
    assert goes_on(None, [saw("a", 0.3)], T0, DETECTION) is None
    assert goes_on(before, [], T0, DETECTION) is None
    # One region is cut off all the time, and the others see it die days later.
    assert goes_on(before, [saw("c", 0.1), saw("a", 9e5), saw("b", 9e5)], T0, DETECTION) is None
