"""Several regions' views as one: a region that is cut off takes nothing away from what another reached."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from schemas.facts import EpochRecord, MemberFacts
from schemas.orders import FenceResult, Observation
from workflows.policy.merge import clearest, merge_fences, merge_observations

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def seen(member: str, after_s: float = 0.0, *, reachable: bool = True, received: int | None = None) -> MemberFacts:
    return MemberFacts(member=member, at=NOON + timedelta(seconds=after_s), reachable=reachable, received=received)


def record(epoch: int) -> EpochRecord:
    return EpochRecord(epoch=epoch, run="run", leader="a", w=1, voters=["b"])


def test_what_any_region_reached_is_reached() -> None:
    cut_off = Observation(record=None, epoch_error="no answer", members=[seen("a", 2, reachable=False), seen("b", 2)])
    other = Observation(record=record(7), members=[seen("a", 1), seen("b", 1)])
    both = merge_observations([cut_off, other])
    assert {facts.member: facts.at for facts in both.members if facts.reachable} == {
        "a": NOON + timedelta(seconds=1),
        "b": NOON + timedelta(seconds=2),
    }
    assert (both.record, both.epoch_error) == (record(7), "")


def test_the_newest_record_wins() -> None:
    views = [Observation(record=record(epoch), members=[]) for epoch in (3, 5, 4)]
    assert merge_observations(views).record == record(5)


def test_a_zone_without_a_record_is_no_error_if_one_region_could_read_it() -> None:
    views = [Observation(record=None, epoch_error="no answer", members=[]), Observation(record=None, members=[])]
    assert merge_observations(views).epoch_error == ""
    assert merge_observations(views[:1]).epoch_error == "no answer"


def test_no_view_is_no_observation() -> None:
    with pytest.raises(ValueError, match="nobody"):
        merge_observations([])


def test_a_fence_missed_only_whom_nobody_reached() -> None:
    one = FenceResult(disconnected=["b"], missed={"c": "no route", "d": "no route"}, members=[seen("b", received=5)])
    two = FenceResult(disconnected=["c"], missed={"d": "timeout"}, members=[seen("c", received=6)])
    both = merge_fences([one, two])
    assert (both.disconnected, list(both.missed)) == (["b", "c"], ["d"])
    assert {facts.member: facts.received for facts in both.members} == {"b": 5, "c": 6}


def test_only_what_was_read_behind_the_disconnection_is_final() -> None:
    """Another region's clock may run ahead: its look from before must not win."""
    before = FenceResult(disconnected=[], missed={"b": "slow"}, members=[seen("b", 60, received=5)])
    behind = FenceResult(disconnected=["b"], members=[seen("b", received=9)])
    assert [facts.received for facts in merge_fences([before, behind]).members] == [9]


def test_the_clearest_region_reached_all_that_any_reached() -> None:
    whole = Observation(record=record(1), members=[seen("a"), seen("b")])
    part = Observation(record=record(1), members=[seen("a", reachable=False), seen("b")])
    other = Observation(record=None, epoch_error="no answer", members=[seen("a"), seen("b")])
    assert clearest({"x": part, "y": other, "z": whole}) == "z"
    assert clearest({"y": whole, "z": whole}) is None
    assert clearest({"x": part, "y": other}) is None
    assert clearest({}) is None
