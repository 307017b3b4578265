"""The assessment as a whole, its digest, and whether a later one is covered by what was decided on."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.decisions import Assessment, Choice, Verdict
from tests.unit.estates import DEAD, E1, E2, E3, E4, W1, after, gone, leader, record, service, standby
from workflows.policy.assess import CLOSE_BYTES, assess, covers, digest_of
from workflows.policy.quorum import SyncSet, binding_sets


def look(*facts, of=None, on=None, **more):
    return assess(of or service(), suspect=E1, death=DEAD, record=on, facts=facts, **more)


def test_all_is_well():
    found = look(standby(E2), standby(E3), on=record())
    assert (found.choice.candidate, found.verdict.kind, found.survivors) == (E2, "none", [E3])
    assert (found.w, found.voters, len(found.digest)) == (1, [E2, E3], 12)


def test_without_a_record_nothing_is_known_but_the_furthest_is_still_chosen():
    found = look(standby(E2), standby(E3, 2000))
    assert (found.choice.candidate, found.verdict.kind, found.voters) == (E3, "unknown", [])


def test_positions_and_ages_do_not_change_the_digest():
    digests = {look(standby(E2, 1000 + n, replay_age_s=n), standby(E3, 1000), on=record()).digest for n in range(3)}
    assert len(digests) == 1


class TestSurvivors:
    def test_only_what_can_follow(self):
        assert look(standby(E2), gone(E3), on=record()).survivors == []
        assert look(standby(E2), leader(E3, system_identifier="8"), standby(E4), on=record()).survivors == []
        assert look(standby(E2), standby(E3), on=record(), disconnected=[E2]).survivors == []

    def test_without_a_voter_one_that_may_be_promoted_stands_in(self):
        of = service(failover={"candidates": [E2, E3, E4]})
        assert look(standby(E2, 2000), gone(E3), standby(E4), of=of, on=record(1, [E2])).survivors == [E4]
        assert look(standby(E2), standby(E3), standby(E4), of=of, on=record()).survivors == [E3]

    def test_a_voter_far_behind_is_not_waited_for_if_another_can_confirm(self):
        of = service(synchronous={"voters": [E1, E2, E3, E4]})
        on = record(1, [E2, E3, E4])
        far, near = 1000, 1000 + CLOSE_BYTES + 1
        assert look(standby(E2, near), standby(E3, near), standby(E4, far), of=of, on=on).survivors == [E3]
        assert look(standby(E2, near), standby(E4, far), of=of, on=record(1, [E2, E4])).survivors == [E4]

    def test_one_that_died_since_votes_and_confirms_nothing(self):
        of = service(failover={"candidates": [E2, E3, E4]})
        found = look(standby(E2), standby(E3), standby(E4), of=of, on=record(), disconnected=[E2, E3, E4], lost=[E3])
        assert (found.verdict.kind, found.survivors) == ("none", [E4])

    def test_no_stand_in_is_far_behind_or_undeclared(self):
        of = service(failover={"candidates": [E2, E3, E4]})
        far = standby(E2, 1000 + CLOSE_BYTES + 1)
        assert look(far, gone(E3), standby(E4), of=of, on=record(1, [E2])).survivors == []
        assert look(standby(E2), gone(E3), standby(E4), on=record(1, [E2])).survivors == []

    def test_nobody_in_another_region_stands_in(self):
        of = service(failover={"candidates": [E2, E3, E4, W1]})
        assert look(standby(E2, 2000), gone(E3), standby(W1, 2000), of=of, on=record(1, [E2])).survivors == []
        near = look(standby(E2, 2000), gone(E3), standby(E4), standby(W1, 2000), of=of, on=record(1, [E2]))
        assert near.survivors == [E4]

    def test_one_past_the_fork_can_not(self):
        """pg-east-3 is declared, but not in the set in force, and has more than the candidate."""
        assert look(standby(E2), standby(E3, 2000), on=record(1, [E2]), requested=E2).survivors == []

    def test_nobody_confirms_under_available(self):
        assert (
            look(standby(E2), standby(E3), of=service(synchronous={"policy": "available"}), on=record()).survivors == []
        )


def test_an_earlier_run_s_candidate_that_leads_is_adopted():
    on = record(candidate=E3, candidate_voters=[E2])
    found = look(leader(E3, 1500, timeline=2), standby(E2), on=on)
    assert (found.choice.candidate, found.verdict.kind, found.survivors) == (E3, "none", [E2])


ASYNC = service(synchronous={"voters": []}, failover={"candidates": [E2]})


@pytest.mark.parametrize(
    ("approved", "final", "why"),
    [
        ((standby(E2), standby(E3)), (standby(E2, 1100), standby(E3, 1050)), None),
        ((standby(E2), standby(E3)), (standby(E2), standby(E3, 1100)), None),
        ((standby(E2), standby(E3)), (standby(E2),), "the loss is unknown"),
        ((standby(E2),), (standby(E2), standby(E3)), None),
        ((standby(E2), standby(E3)), (), "the candidate is none"),
    ],
)
def test_covers(approved, final, why):
    worse = covers(look(*approved, on=record()), look(*final, on=record()))
    assert (worse is None) if why is None else (why in worse)


def test_another_candidate_than_was_asked_for_is_not_covered():
    """Unless one was asked for by name, the decision is for whoever is furthest once all are disconnected."""
    approved = look(standby(E2), standby(E3), on=record(), requested=E2)
    assert "the candidate is pg-east-3" in covers(approved, look(standby(E2), standby(E3, 1100), on=record()))


def test_a_candidate_that_nobody_saw_is_not_covered():
    approved = look(standby(E2), gone(E3), on=record(1, [E2]))
    assert "the candidate is pg-east-3" in covers(approved, look(standby(E3), on=record(1, [E2])))


def test_a_changed_set_is_not_covered():
    worse = covers(look(standby(E2), standby(E3), on=record()), look(standby(E2), standby(E3), on=record(1, [E2])))
    assert "the synchronous set is 1 of pg-east-2, decided on was 1 of pg-east-2, pg-east-3" in worse


def test_a_lost_survivor_is_not_covered():
    on = record(2, [E2, E3])
    assert "no voter is left" in covers(look(standby(E2), standby(E3), on=on), look(standby(E2), on=on))


def test_a_larger_bound_is_not_covered_and_a_smaller_one_is():
    def at(written):
        return look(leader(E1, written), standby(E2, 1000), of=ASYNC, on=record(0, []))

    assert covers(at(2000), at(1900)) is None
    assert "at most 1100 bytes" in covers(at(2000), at(2100))


def test_a_bound_in_time_is_covered_by_the_same_and_by_no_other():
    """What the old primary had written is not known: that it is now means that it was seen again."""

    def at(heartbeat, *more):
        facts = (standby(E2, 1000, heartbeat=after(-heartbeat)), *more)
        return look(*facts, of=ASYNC, on=record(0, []), ended=after(0.5))

    assert at(3).verdict.in_time_only
    assert covers(at(3), at(3)) is None
    assert at(3).digest == at(3).digest != at(4).digest
    assert covers(at(3), at(2)) is None
    assert "at most 5.5 s" in covers(at(3), at(4))
    assert "bytes" in covers(at(3), at(3, leader(E1, 1001)))
    assert "at most 4.5 s" in covers(at(3, leader(E1, 9000)), at(3))


verdicts = st.one_of(
    st.just(Verdict(kind="none", reason="")),
    st.just(Verdict(kind="unknown", reason="")),
    st.builds(
        lambda most, age: Verdict(kind="bounded", reason="", at_most_bytes=most, at_most_s=age),
        st.sampled_from([None, 1, 2, 3]),
        st.sampled_from([None, 1.0, 2.0]),
    ),
)
sets = st.lists(st.sampled_from([E2, E3, E4]), unique=True).flatmap(
    lambda voters: st.builds(SyncSet.of, st.integers(0, 3), st.just(voters), st.sampled_from([E1, E2]))
)
deciding = st.tuples(st.sampled_from([E1, E2]), st.lists(sets, max_size=2), st.sampled_from([None, E2, E3]), verdicts)
assessments = st.builds(
    lambda suspect, candidate, verdict, w, voters, survivors: Assessment(
        suspect=suspect,
        death=DEAD,
        choice=Choice(candidate=candidate, reason="r"),
        verdict=verdict,
        w=w,
        voters=voters,
        survivors=survivors,
        digest="",
    ),
    st.just(E1),
    st.sampled_from([E2, E3]),
    verdicts,
    st.just(1),
    st.permutations([E2, E3]),
    st.sampled_from([[], [E3], [E2]]),
)


def _decides(suspect, bind, candidate, verdict):
    return (
        suspect,
        tuple((each.leader, each.w, frozenset(each.voters)) for each in bind),
        candidate,
        verdict.kind,
        verdict.at_most_bytes,
        verdict.at_most_s if verdict.kind == "bounded" and verdict.at_most_bytes is None else None,
    )


@given(deciding, deciding)
def test_the_digest_changes_exactly_when_what_decides_changes(one, other):
    assert (digest_of(*one) == digest_of(*other)) == (_decides(*one) == _decides(*other))


@given(deciding, st.floats(0, 60))
def test_the_digest_stays_when_only_what_moves_changes(one, age):
    suspect, bind, candidate, verdict = one
    turned = [SyncSet(each.w, each.voters[::-1], each.leader) for each in bind]
    if verdict.kind == "bounded" and verdict.at_most_bytes is None:
        age = verdict.at_most_s  # Then it is the bound, and fixed: from the newest heartbeat to the end.
    aged = verdict.model_copy(update={"at_most_s": age, "reason": f"{age} s later"})
    assert digest_of(suspect, turned, candidate, aged) == digest_of(*one)


def test_the_digest_tells_each_part_from_the_others():
    none, most = Verdict(kind="none", reason=""), Verdict(kind="bounded", reason="", at_most_bytes=1)
    inputs = itertools.product(
        (E1, E2),
        (
            binding_sets(record()),
            binding_sets(record(2)),
            binding_sets(record(1, [E2])),
            binding_sets(record(candidate=E2)),
        ),
        (E2, E3, None),
        (none, most, most.model_copy(update={"at_most_bytes": 2}), Verdict(kind="unknown", reason="")),
    )
    digests = [digest_of(*each) for each in inputs]
    assert len(set(digests)) == len(digests) == 96


@given(assessments)
def test_what_was_approved_covers_itself(found):
    assert covers(found, found) is None


@given(assessments, assessments, assessments)
def test_covering_is_transitive(first, second, third):
    """So that a chain of small steps never ends where the first decision would not have gone."""
    if covers(first, second) is None and covers(second, third) is None:
        assert covers(first, third) is None


@given(assessments, assessments)
def test_what_is_covered_loses_no_more(approved, final):
    if covers(approved, final) is None:
        order = ("none", "bounded", "unknown")
        assert order.index(final.verdict.kind) <= order.index(approved.verdict.kind)
        if final.verdict.kind == approved.verdict.kind == "bounded":
            if approved.verdict.at_most_bytes is not None:
                assert final.verdict.at_most_bytes is not None
                assert final.verdict.at_most_bytes <= approved.verdict.at_most_bytes
            elif approved.verdict.at_most_s is not None:
                assert final.verdict.at_most_bytes is None
                assert final.verdict.at_most_s is not None
                assert final.verdict.at_most_s <= approved.verdict.at_most_s
        assert final.choice.candidate == approved.choice.candidate
