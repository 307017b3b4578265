"""The loss verdict: one inequality, for every set that binds, from the record alone."""

from __future__ import annotations

import pytest

from tests.unit.estates import E1, E2, E3, E4, W1, gone, leader, record, standby
from workflows.policy.loss import judge_loss
from workflows.policy.quorum import SyncSet


def judge(facts, *, candidate=E2, on=None, disconnected=None, suspect=E1):
    chosen = next((each for each in facts if each.member == candidate), None)
    return judge_loss(on, suspect=suspect, candidate=chosen, facts=facts, disconnected=disconnected)


@pytest.mark.parametrize(
    ("on", "facts", "kind"),
    [
        (record(1, [E2, E3]), [standby(E2), standby(E3)], "none"),
        (record(1, [E2, E3]), [standby(E2), gone(E3)], "unknown"),
        (record(2, [E2, E3]), [standby(E2), gone(E3)], "none"),
        (record(1, [E2]), [standby(E2), gone(E3)], "none"),
        (record(1, [E3]), [standby(E2), gone(E3)], "unknown"),
        (record(2, [E2, E3, E4]), [standby(E2), standby(E3), gone(E4)], "none"),
        (record(2, [E2, E3, E4]), [standby(E2), gone(E3), gone(E4)], "unknown"),
        (record(2, [E2, E3, E4, W1]), [standby(E2), standby(E3)], "unknown"),
        (record(2, [E2, E3, E4, W1]), [standby(E2), standby(E3), standby(W1)], "none"),
        (record(0, []), [standby(E2), standby(E3)], "unknown"),
        (record(1, []), [standby(E2), standby(E3)], "unknown"),
        (record(3, [E2, E3]), [standby(E2), gone(E3)], "none"),
        (None, [standby(E2), standby(E3)], "unknown"),
    ],
)
def test_r_plus_w_over_n(on, facts, kind):
    assert judge(facts, on=on).kind == kind


def test_the_numbers_are_told():
    verdict = judge([standby(E2), standby(E3)], on=record())
    assert "2 of pg-east-1's 2 voters are reached" in verdict.reason
    assert "(2 + 1 > 2)" in verdict.reason
    failed = judge([standby(E2), gone(E3)], on=record())
    assert "(1 + 1 > 2 fails): pg-east-3 may hold commits" in failed.reason


def test_final_counts_only_the_disconnected():
    facts = [standby(E2), standby(E3)]
    assert judge(facts, on=record(), disconnected=[E2, E3]).kind == "none"
    assert judge(facts, on=record(), disconnected=[E2]).kind == "unknown"


def test_the_suspect_never_counts_as_a_voter_of_its_own():
    facts = [standby(E2), standby(E1)]
    assert judge(facts, on=record(1, [E1, E2], leader=E4)).kind == "unknown"


def test_a_voter_of_another_cluster_does_not_count():
    facts = [standby(E2), standby(E4), standby(E3, system_identifier="8")]
    assert judge(facts, on=record()).kind == "unknown"


def test_a_voter_that_leads_itself_does_not_count():
    assert judge([standby(E2), leader(E3), standby(E4)], on=record()).kind == "unknown"


def test_a_candidate_behind_a_voter_is_bounded_by_the_difference():
    verdict = judge([standby(E2, 1000, replay_age_s=1.25), standby(E3, 3944)], on=record())
    assert verdict.text() == "bounded: at most 2944 bytes, 1.2 s"
    assert "ahead of pg-east-2" in verdict.reason


def test_between_timelines_there_is_no_bound():
    facts = [standby(E2, 1000), standby(E3, 3944, timeline=2)]
    assert judge(facts, on=record()).kind == "unknown"


def test_asynchronous_is_bounded_by_what_the_suspect_had_written():
    facts = [leader(E1, 3944), standby(E2, 1000)]
    verdict = judge(facts, on=record(0, []))
    assert (verdict.kind, verdict.at_most_bytes) == ("bounded", 2944)
    assert "acknowledged alone" in verdict.reason


def test_a_suspect_that_may_have_gone_on_is_never_shown_as_a_loss_of_0():
    verdict = judge([leader(E1, 1000), standby(E2, 1000)], on=record(0, []))
    assert verdict.kind == "unknown"
    assert "may have acknowledged more since" in verdict.reason


def test_without_a_candidate_nothing_is_known():
    assert judge([standby(E3)], on=record()).kind == "unknown"


class TestAnEarlierRunHadChosen:
    """From the choice until the routes are moved both sets bind: the candidate may lead already."""

    chosen = record(candidate=E2, candidate_voters=[E3])

    def test_the_same_candidate_holds_what_it_acknowledged(self):
        assert judge([standby(E2), standby(E3)], on=self.chosen).kind == "none"
        assert judge([leader(E2, 1500, timeline=2), standby(E3)], on=self.chosen).kind == "none"

    def test_another_one_needs_both_sets(self):
        facts = [standby(E2), standby(E3)]
        assert judge(facts, candidate=E3, on=self.chosen).kind == "none"
        alone = record(candidate=E2, candidate_voters=[])
        assert judge(facts, candidate=E3, on=alone).kind == "unknown"

    def test_a_candidate_that_died_leaves_the_old_set_short(self):
        assert judge([gone(E2), standby(E3)], candidate=E3, on=self.chosen).kind == "unknown"
        assert judge([gone(E2), standby(E3)], candidate=E3, on=self.chosen, suspect=E2).kind == "unknown"


class TestSyncSet:
    def test_w_is_cut_to_the_voters(self):
        assert SyncSet.of(3, ["a", "b", "a"]) == SyncSet(2, ("a", "b"))
        assert SyncSet.of(0, ["a"]) == SyncSet.of(1, []) == SyncSet(0, ())

    @pytest.mark.parametrize(
        ("outer", "inner", "binds"),
        [
            ((1, "ab"), (1, "ab"), True),
            ((1, "ab"), (1, "a"), True),
            ((1, "a"), (1, "ab"), False),
            ((1, "ab"), (2, "ab"), True),
            ((2, "ab"), (1, "ab"), False),
            ((1, "abc"), (2, "abcd"), True),
            ((2, "abc"), (1, "a"), False),
            ((0, ""), (1, "a"), True),
            ((1, "a"), (0, ""), False),
        ],
    )
    def test_binds(self, outer, inner, binds):
        assert SyncSet.of(*outer).binds(SyncSet.of(*inner)) is binds
