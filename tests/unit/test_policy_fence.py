"""What fences, strongest first, and what does not."""

from __future__ import annotations

import pytest

from tests.unit.estates import E1, E2, E3, E4, record
from workflows.policy.fence import judge_fence

DIRECT = (E2, E3, E4)


def judge(*, cut=(E2, E3, E4), on=None, stopped=False, isolated=False, stalled=False, proved=True, **more):
    return judge_fence(
        stopped=stopped,
        isolated=isolated,
        stalled=stalled,
        disconnected=cut,
        direct=DIRECT,
        record=on or record(),
        proved=proved,
        **more,
    )


@pytest.mark.parametrize(
    ("done", "strength"),
    [
        ({"stopped": True, "isolated": True, "stalled": True}, "stopped"),
        ({"isolated": True, "stalled": True}, "isolated"),
        ({"stalled": True}, "stalled"),
        ({}, "disconnected"),
        ({"cut": (), "stopped": True}, "stopped"),
        ({"cut": ()}, "none"),
    ],
)
def test_the_strongest_is_named(done, strength):
    assert judge(**done).strength == strength


@pytest.mark.parametrize(
    ("on", "cut", "strength"),
    [
        (record(1), (E2, E3), "disconnected"),
        (record(1), (E2,), "none"),
        (record(2), (E2,), "disconnected"),
        (record(2, [E2, E3, E4]), (E2,), "none"),
        (record(2, [E2, E3, E4]), (E2, E3), "disconnected"),
        (record(0, []), DIRECT, "none"),
        (record(1, []), DIRECT, "none"),
    ],
)
def test_disconnection_fences_only_below_w(on, cut, strength):
    assert judge(on=on, cut=cut).strength == strength


def test_without_a_record_disconnection_proves_nothing():
    fence = judge_fence(stopped=False, stalled=False, disconnected=DIRECT, direct=DIRECT, record=None, proved=False)
    assert fence.strength == "none"
    assert "nobody knows how many voters" in fence.evidence


def test_a_record_that_names_another_leader_proves_nothing():
    assert judge(on=record(1, [E3], leader=E2), cut=(E3,), suspect=E1).strength == "none"
    assert judge(suspect=E1).strength == "disconnected"


def test_the_evidence_is_whole():
    fence = judge(stalled=True, cut=(E2, E3), proved=False)
    assert "it waits for a standby that doesn't exist" in fence.evidence
    assert "it needs 1 of 2 voters and can gather 0" in fence.evidence
    assert "pg-east-4 may still receive from it" in fence.evidence
    assert (fence.proved, "no write has proved it" in fence.evidence) == (False, True)
    assert judge().proved
