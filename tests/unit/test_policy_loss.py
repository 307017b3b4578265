"""The loss verdict: one inequality, for every set that binds, from the record alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.estates import E1, E2, E3, E4, W1, after, gone, leader, record, standby
from workflows.policy.loss import CLOCK_S, judge_loss
from workflows.policy.quorum import SyncSet


def judge(facts, *, candidate=E2, on=None, disconnected=None, suspect=E1, ended=None):
    chosen = next((each for each in facts if each.member == candidate), None)
    return judge_loss(on, suspect=suspect, candidate=chosen, facts=facts, disconnected=disconnected, ended=ended)


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
    assert verdict.text() == "bounded: at most 2944 bytes, 1.3 s"
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


class TestBoundInTime:
    """What was committed before a heartbeat that the candidate holds is there too, by the order of WAL."""

    west = standby(W1, heartbeat=after(-2.34))
    lost = (gone(E1), gone(E2), gone(E3))

    def judge(self, *facts, ended=after(0.4), candidate=W1, on=None, **more):
        return judge([*self.lost, *facts], candidate=candidate, on=on or record(), ended=ended, **more)

    def test_it_runs_from_the_heartbeat_to_the_end_with_room_for_the_clocks_and_rounded_up(self):
        verdict = self.judge(self.west)
        assert (verdict.kind, verdict.at_most_bytes) == ("bounded", None)
        assert verdict.at_most_s == pytest.approx(2.34 + 0.4 + CLOCK_S + 0.06)
        assert verdict.text() == "bounded: at most 3.8 s"
        assert "holds all that was committed before 11:59:57" in verdict.reason
        assert "nothing listened at pg-east-1's port" in verdict.reason

    def test_while_it_may_go_on_nothing_is_known(self):
        verdict = self.judge(self.west, ended=None)
        assert (verdict.kind, verdict.at_most_s) == ("unknown", None)
        assert "or still do" in verdict.reason

    def test_without_a_heartbeat_the_age_of_the_newest_commit_is_no_bound(self):
        assert self.judge(standby(W1, replay_age_s=0.1)).kind == "unknown"

    def test_where_the_inequality_holds_nothing_is_lost(self):
        facts = [standby(E2), standby(E3, heartbeat=after(-9))]
        assert judge(facts, candidate=E3, on=record(), ended=after(0.4)).kind == "none"

    def test_bytes_are_told_where_they_are_known(self):
        facts = [leader(E1, 3944), standby(E2, 1000, heartbeat=after(-0.4))]
        assert judge(facts, on=record(0, []), ended=after(0.4)).text() == "bounded: at most 2944 bytes, 2.0 s"

    @pytest.mark.parametrize("more", [{"on": record(0, [])}, {"on": record(2, [E2, E3])}, {"disconnected": [W1]}])
    def test_it_asks_for_no_acknowledgement(self, more):
        assert self.judge(self.west, **more).kind == "bounded"

    def test_a_heartbeat_of_a_branch_that_was_left_says_nothing(self):
        assert self.judge(self.west, standby(E4, 900, timeline=2)).kind == "unknown"

    def test_nor_where_another_candidate_may_have_led_since(self):
        on = record(candidate=E2, candidate_voters=[E3])
        assert self.judge(self.west, on=on).kind == "unknown"

    def test_clocks_that_contradict_each_other_give_no_bound(self):
        assert self.judge(standby(W1, heartbeat=after(1.0))).at_most_s == pytest.approx(0.4)
        ahead = self.judge(standby(W1, heartbeat=after(0.4 + CLOCK_S + 0.1)))
        assert (ahead.kind, "clocks disagree" in ahead.reason) == ("unknown", True)

    def test_it_is_never_shown_as_a_loss_of_0(self):
        assert self.judge(standby(W1, heartbeat=after(0.4 + CLOCK_S))).at_most_s == pytest.approx(0.1)

    @given(st.floats(0, 3600), st.floats(0, 60))
    def test_it_is_never_less_than_the_time_between(self, age, seconds):
        verdict = self.judge(standby(W1, heartbeat=after(-age)), ended=after(seconds))
        assert verdict.at_most_s >= age + seconds
        assert float(verdict.text().split()[-2]) >= age + seconds - 1e-6


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
