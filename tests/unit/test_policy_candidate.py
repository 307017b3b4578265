"""The candidate: behind no reachable voter, of this cluster, and never a second primary."""

from __future__ import annotations

import pytest

from tests.unit.estates import E1, E2, E3, E4, W1, W2, gone, leader, service, standby
from workflows.policy.candidate import choose_candidate, is_behind, system_identifier

VOTERS = (E2, E3)
OTHERS = (standby(E4, 900), standby(W1, 900), standby(W2, 900))


def choose(*facts, of=None, voters=VOTERS, **more):
    return choose_candidate(of or service(), E1, facts, voters=voters, **more)


@pytest.mark.parametrize(
    ("facts", "candidate"),
    [
        ((standby(E2, 2000), standby(E3, 1000)), E2),
        ((standby(E2, 1000), standby(E3, 2000)), E3),
        ((standby(E2, 1000), standby(E3, 1000)), E2),
        ((gone(E2), standby(E3, 1000)), E3),
        ((gone(E2), gone(E3)), None),
        ((), None),
        ((standby(E2, 1000, system_identifier="8"), standby(E3), *OTHERS), E3),
        ((standby(E2, 1000, timeline=2), standby(E3, 1000)), E2),
        ((standby(E2, 1000, received=500, replayed=1000), standby(E3, 900)), E2),
        ((standby(E2, 0, received=None, replayed=None), standby(E3, 1000)), E3),
        ((standby(E2, 1000, timeline=0), standby(E3, 1000)), E3),
    ],
)
def test_the_furthest_that_may(facts, candidate):
    assert choose(*facts).candidate == candidate


def test_the_declared_order_of_candidates_breaks_a_tie():
    preferred = service(failover={"candidates": [E3, E2]})
    assert choose(standby(E2), standby(E3), of=preferred).candidate == E3


def test_a_voter_is_preferred_to_an_asynchronous_one_that_is_as_far():
    either = service(failover={"candidates": [E4, E2]})
    choice = choose(standby(E2), standby(E3), standby(E4), of=either)
    assert choice.candidate == E2
    assert "preferred" in choice.passed_over[E4]


def test_an_asynchronous_candidate_that_is_further_than_every_voter_may_lead():
    either = service(failover={"candidates": [E4, E2]})
    assert choose(standby(E2, 900), standby(E3, 900), standby(E4), of=either).candidate == E4


def test_a_laggard_is_no_candidate_even_when_the_voter_ahead_may_not_be_promoted():
    only_e2 = service(failover={"candidates": [E2]})
    choice = choose(standby(E2, 900), standby(E3, 1000), of=only_e2)
    assert choice.candidate is None
    assert "behind the voter pg-east-3" in choice.reason


def test_a_voter_further_on_an_older_timeline_is_not_thrown_away():
    """Its timeline may have been read late: neither of the two is promoted without a person."""
    assert choose(standby(E2, 900, timeline=2), standby(E3, 1000, timeline=1)).candidate is None


def test_an_older_timeline_is_passed_over_without_voters():
    both = service(failover={"candidates": [E2, E4]})
    choice = choose(standby(E2, 900, timeline=2), standby(E4, 1000, timeline=1), of=both, voters=())
    assert choice.candidate == E2
    assert "timeline 1" in choice.passed_over[E4]


def test_every_member_passed_over_has_its_reason():
    choice = choose(standby(E2), standby(E3, 900), standby(E4, 2000), gone(W1))
    assert choice.candidate == E2
    assert set(choice.passed_over) == {E3, E4, W1, W2}
    assert "is behind the voter pg-east-2" in choice.passed_over[E3]
    assert "not declared as a candidate" in choice.passed_over[E4]
    assert choice.passed_over[W1] == choice.passed_over[W2] == "is not reached"


def test_once_disconnecting_began_only_a_disconnected_member_may_lead():
    choice = choose(standby(E2, 2000), standby(E3, 2000), disconnected=[E3, E4])
    assert choice.candidate == E3
    assert "not disconnected" in choice.passed_over[E2]


class TestRequested:
    def test_it_is_chosen_when_it_is_as_good(self):
        choice = choose(standby(E2), standby(E3), requested=E3)
        assert choice.candidate == E3
        assert E2 in choice.passed_over

    @pytest.mark.parametrize(
        ("requested", "why"),
        [
            (E3, "behind the voter"),
            (E4, "not declared as a candidate"),
            (W1, "not reached"),
            (E1, "the primary that is to be replaced"),
            ("pg-north-1", "not a member"),
        ],
    )
    def test_else_there_is_no_candidate_and_the_reason_is_told(self, requested, why):
        choice = choose(standby(E2, 2000), standby(E3), standby(E4), requested=requested)
        assert choice.candidate is None
        assert why in choice.reason


class TestTheOtherRegion:
    """It is taken only where nobody in the leader's region is fit."""

    either = service(failover={"candidates": [W1, E2, E3, E4]})

    def across(self, policy, *facts, **more):
        of = service(failover={"candidates": [E2, E3, E4, W1], "cross_region": policy})
        return choose(*facts, of=of, **more)

    @pytest.mark.parametrize(
        ("facts", "candidate"),
        [
            ((standby(E2), standby(E3), standby(W1)), E2),
            ((standby(E2), standby(E3), standby(W1, 5000)), E2),
            ((gone(E2), gone(E3), standby(E4, 900), standby(W1)), E4),
            ((gone(E2), gone(E3), standby(E4, system_identifier="8"), standby(W1), standby(W2)), W1),
            ((gone(E2), gone(E3), gone(E4), standby(W1)), W1),
        ],
    )
    def test_the_leader_s_region_comes_first_whatever_the_declared_order(self, facts, candidate):
        assert choose(*facts, of=self.either).candidate == candidate

    def test_it_is_behind_no_reachable_voter_either(self):
        choice = choose(standby(E2, 900, system_identifier="8"), standby(E3), standby(W1, 900), of=self.either)
        assert choice.candidate == E3
        only_west = service(failover={"candidates": [W1]})
        assert "behind the voter" in choose(standby(E2), gone(E3), standby(W1, 900), of=only_west).reason

    def test_the_choice_says_so(self):
        choice = choose(gone(E2), gone(E3), gone(E4), standby(W1), of=self.either)
        assert "pg-west-1 (asynchronous, in us-west-2 since nobody in us-east-1 may lead)" in choice.reason

    def test_one_that_is_passed_over_has_its_reason_and_how_much_further_it_is(self):
        choice = choose(gone(E2), gone(E3), standby(E4, 900), standby(W1, 1000), of=self.either)
        assert choice.passed_over[W1] == (
            "is in us-west-2, and only taken if nobody nearer is fit, though 100 bytes further than pg-east-4"
        )

    def test_a_decision_for_the_region_is_not_one_for_another(self):
        """But one for the other region is also for whoever nearer turns out to be fit."""
        assert choose(standby(E2), standby(E3), standby(W1), of=self.either).open_to == [E2, E3]
        assert choose(gone(E2), gone(E3), standby(E4, 0), standby(W1), of=self.either).open_to == [E4, W1]

    @pytest.mark.parametrize(("policy", "candidate"), [("ask", W1), ("allowed", W1), ("never", None)])
    def test_the_policy(self, policy, candidate):
        choice = self.across(policy, gone(E2), gone(E3), gone(E4), standby(W1))
        assert choice.candidate == candidate
        if candidate is None:
            assert "`never`" in choice.passed_over[W1]

    @pytest.mark.parametrize(("policy", "candidate"), [("ask", W1), ("allowed", W1), ("never", None)])
    def test_one_that_was_asked_for_is_subject_to_it(self, policy, candidate):
        choice = self.across(policy, standby(E2), standby(E3), standby(W1), requested=W1)
        assert (choice.candidate, choice.open_to) == (candidate, [])

    def test_where_the_other_region_leads_it_is_the_near_one(self):
        choice = choose_candidate(
            service(failover={"candidates": [E2, W2], "cross_region": "never"}),
            W1,
            [standby(E2), standby(W2)],
            voters=(),
        )
        assert choice.candidate == W2


class TestAnotherLeader:
    def test_a_recorded_candidate_that_leads_already_is_the_only_one(self):
        """The run that promoted it was cut off before it moved the routes."""
        choice = choose(leader(E2, 1500, timeline=2), standby(E3), recorded=E2)
        assert choice.candidate == E2
        assert "leads already" in choice.reason

    def test_another_that_leads_leaves_no_candidate(self):
        choice = choose(leader(E2, 1500, timeline=2), standby(E3), recorded=E3)
        assert choice.candidate is None
        assert "one primary more" in choice.reason

    def test_two_that_lead_leave_no_candidate(self):
        assert choose(leader(E2), leader(E4), standby(E3), recorded=E2).candidate is None

    def test_a_request_for_another_is_refused(self):
        choice = choose(leader(E2), standby(E3), recorded=E2, requested=E3)
        assert (choice.candidate, "without naming a candidate" in choice.reason) == (None, True)

    def test_a_foreign_server_at_a_member_s_address_does_not_count(self):
        choice = choose(leader(E4, system_identifier="8"), standby(E2), standby(E3))
        assert choice.candidate == E2


class TestSystemIdentifier:
    def test_the_suspect_s_own_counts_most(self):
        facts = [leader(system_identifier="8"), standby(E2), standby(E3)]
        assert system_identifier(E1, facts) == "8"
        assert choose(*facts).candidate is None

    def test_else_that_of_most(self):
        assert system_identifier(E1, [standby(E2), standby(E3), standby(E4, system_identifier="8")]) == (
            standby(E2).system_identifier
        )

    def test_a_draw_is_nobody_s(self):
        facts = [standby(E2), standby(E3, system_identifier="8")]
        assert system_identifier(E1, facts) is None
        assert "disagree" in choose(*facts).reason


def test_behind_counts_timeline_and_position():
    assert is_behind(standby(E2, 900), standby(E3, 1000))
    assert is_behind(standby(E2, 1000), standby(E3, 900, timeline=2))
    assert not is_behind(standby(E2, 1000), standby(E3, 1000))
