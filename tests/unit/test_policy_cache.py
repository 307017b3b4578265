"""Who leads a cache, whether its Sentinels could elect, who may take over in a planned move, who follows whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.decisions import Verdict
from tests.unit.cache_estates import (
    E1,
    E2,
    E3,
    E4,
    EAST,
    REGIONS,
    W1,
    W2,
    WEST,
    away,
    cache_service,
    facts,
    idle,
    master,
    priorities,
    record,
    seen,
    sentinel,
    silent,
)
from workflows.policy.cache import (
    CLOSE_BYTES,
    choose,
    digest_of,
    leader_of,
    may_move,
    unfit,
    upstreams,
    why_not_elect,
    why_not_move,
)
from workflows.policy.cache_seen import astray, led_once, merge_seen

ABLE = cache_service()
S1, S2, S3 = (f"sentinel-east-{number}" for number in (1, 2, 3))
T1 = "sentinel-west-1"


@pytest.mark.parametrize(
    ("looked", "leader", "why"),
    [
        (seen(), E1, "by record, by its role, and by 3 Sentinels"),
        (seen(silent(S1)), E1, "by 2 Sentinels"),
        (seen(record=None), E1, "leads"),
        (seen(master(E3), record=None), None, "no epoch record, and cache-east-1 and"),
        (seen(record=record(leader="cache-x")), None, "which is no member"),
        (seen(sentinel(S1, E2)), None, "the Sentinels of us-east-1 say cache-east-1 and cache-east-2"),
        (seen(*map(silent, (S1, S2, S3))), None, "say nothing"),
        (seen(away(E1)), None, "should lead, and refused"),
        (seen(facts(E1, role="replica", follows=E2)), None, "is a replica of cache-east-2"),
        (seen(master(E3)), None, "cache-east-3 is a master as well: a person must look"),
        # One without keys and replicas leads nobody: it is never adopted, and keeps nobody from being the leader.
        (seen(master(E3, keys=0, replicas=[])), E1, "leads"),
    ],
)
def test_leader_of(looked, leader, why):
    found, told = leader_of(ABLE, looked)
    assert found == leader
    assert why in told


@pytest.mark.parametrize(
    ("looked", "why"),
    [
        (seen(), None),
        (seen(silent(S1)), None),
        (seen(silent(S1), silent(S2)), "1 of 3 Sentinels in us-east-1 answer, and an election takes 2"),
        (seen(idle(S1), idle(S2)), "1 of 3 Sentinels"),
        (seen(sentinel(S3, E2)), "the Sentinels disagree: cache-east-1 and cache-east-2"),
        (seen(*(sentinel(name, quorum_error="NOQUORUM 1 usable") for name in (S1, S2))), "NOQUORUM"),
        (seen(sentinel(S1, quorum_error="NOQUORUM 1 usable")), None),
        (
            seen(*(sentinel(name, priorities=dict.fromkeys((E2, E3, E4), 0)) for name in (S1, S2, S3))),
            "no replica of cache-east-1 may be elected",
        ),
        (
            seen(*(sentinel(name, bad_replicas=dict.fromkeys((E2, E3, E4), "s_down")) for name in (S1, S2, S3))),
            "cache-east-2 s_down",
        ),
        (seen(*(sentinel(name, bad_replicas={E2: "s_down"}) for name in (S1, S2, S3))), None),
    ],
)
def test_why_not_elect(looked, why):
    found = why_not_elect(ABLE, looked, E1)
    assert (found is None) if why is None else (why in (found or "")), found


@pytest.mark.parametrize(
    ("looked", "requested", "candidate", "reason"),
    [
        (seen(), None, E2, "0 bytes behind"),
        (seen(facts(E2, offset=900), facts(E3, offset=950), facts(E4, offset=900)), None, E3, "50 bytes behind"),
        (seen(), E4, E4, "0 bytes behind"),
        (seen(), W1, W1, "0 bytes behind"),
        (seen(), "cache-x", None, "no member; one of:"),
        (seen(away(E3)), E3, None, "cache-east-3 is not reached: refused"),
        (seen(away(E2), away(E3), away(E4)), None, None, "cache-east-2 is not reached"),
    ],
)
def test_choose(looked, requested, candidate, reason):
    found = choose(ABLE, looked, E1, requested)
    assert found.candidate == candidate
    assert reason in found.reason


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (facts(E2), None),
        (facts(W1), None),
        (away(E2), "not reached"),
        (master(E2), "is no replica"),
        (facts(E4), "is never promoted (priority 0)"),
        (facts(E2, follows=E3), "follows cache-east-3"),
        (facts(E2, link_up=False), "no link"),
        (facts(E2, history="h2"), "another history"),
        (facts(E2, offset=1000), None),
    ],
)
def test_unfit(candidate, why):
    found = unfit(priorities({E4: 0}), candidate, facts(E1), EAST)
    assert (found is None) if why is None else (why in (found or "")), found


def test_one_that_is_far_behind_would_keep_clients_waiting():
    ahead = facts(E1, offset=1000 + CLOSE_BYTES)
    assert unfit(ABLE, facts(E2), ahead, EAST) is None
    assert "bytes behind" in (unfit(ABLE, facts(E2, offset=999), ahead, EAST) or "")


@pytest.mark.parametrize(
    ("looked", "candidate", "why"),
    [
        (seen(), E2, None),
        (seen(), W1, None),
        (seen(silent(S1), silent(S2)), E2, "an election takes 2"),
        # The other region's are told to forget the name, each of them.
        (seen(silent(S1)), W1, "sentinel-east-1 must forget the name first"),
        (seen(sentinel(S1, failing_over=True)), E2, "sentinel-east-1 is at a failover"),
        (seen(away(E1), away(E3), away(E4)), E2, "would have 0 replicas"),
        (
            seen(*(away(name) for name in REGIONS if REGIONS[name] != EAST and name != W1)),
            W1,
            "would have 0 replicas",
        ),
    ],
)
def test_why_not_move(looked, candidate, why):
    found = why_not_move(ABLE, looked, E1, candidate)
    assert (found is None) if why is None else (why in (found or "")), found


def test_a_region_without_sentinels_is_no_place_to_move_to():
    alone = cache_service(sentinels=[each.model_dump() for each in ABLE.sentinels if each.region == EAST])
    assert "no Sentinel is declared in us-west-2" in (why_not_move(alone, seen(), E1, W1) or "")


@given(leader=st.sampled_from(sorted(REGIONS)), gone=st.sets(st.sampled_from(sorted(REGIONS))))
def test_upstreams(leader, gone):
    """Everybody but the leader has one, that leads to it in the end; and another region's follows a replica, which
    `min-replicas-to-write` would count otherwise, as long as there is one.
    """
    gone -= {leader}
    found = upstreams(ABLE, leader, sorted(gone))
    assert set(found) == set(REGIONS) - {leader} - gone
    for name in found:
        path = [name]
        while path[-1] != leader:
            path.append(found[path[-1]])
            assert len(path) <= len(REGIONS), path
    near = [name for name in found if REGIONS[name] == REGIONS[leader]]
    across = [name for name in found if REGIONS[name] != REGIONS[leader]]
    assert all(found[name] == leader for name in near)
    assert sum(REGIONS[found[name]] == REGIONS[leader] for name in across) == bool(across), "crossed more than once"
    assert not near or leader not in [found[name] for name in across]


@pytest.mark.parametrize(
    ("candidate", "approval", "cross_region", "action"),
    [
        (E2, "policy", "ask", "go"),
        (E2, "always", "ask", "ask"),
        (W1, "policy", "ask", "ask"),
        (W1, "policy", "allowed", "go"),
        (W1, "policy", "never", "refuse"),
        (E2, "policy", "never", "go"),
    ],
)
def test_may_move(candidate, approval, cross_region, action):
    declared = cache_service(failover={"cross_region": cross_region})
    assert may_move(declared, E1, candidate, approval=approval).action == action


def test_a_decision_is_bound_to_what_decides():
    none, three = Verdict(kind="none", reason=""), Verdict(kind="bounded", reason="", at_most_s=3)
    same = digest_of(E1, E2, none)
    assert digest_of(E1, E2, none.model_copy(update={"reason": "said otherwise"})) == same
    assert len({same, digest_of(E1, E3, none), digest_of(E2, E2, none), digest_of(E1, E2, three)}) == 4


class TestMerge:
    def test_whoever_was_reached_from_anywhere_is_there(self):
        cut_off = seen(away(E1), silent(S1), record=None, epoch_error="no answer")
        found = merge_seen([cut_off, seen()])
        assert found == seen()

    def test_the_record_of_the_highest_epoch(self):
        found = merge_seen([seen(record=record(epoch=5, change=1)), seen(record=record(epoch=5)), seen()])
        assert found.record is not None
        assert (found.record.epoch, found.record.change) == (5, 1)

    def test_why_there_is_none(self):
        found = merge_seen([seen(record=None), seen(record=None, epoch_error="no answer")])
        assert (found.record, found.epoch_error) == (None, "no answer")


@pytest.mark.parametrize(
    ("looked", "wrong"),
    [
        (seen(), {}),
        (seen(*(sentinel(name, E2) for name in (S1, S2, S3))), {EAST: E1}),
        (seen(idle(S1)), {EAST: E1}),
        (seen(silent(S1)), {}),
        # Those of the region that served before, and that did not hear of the move.
        (seen(sentinel(T1, W1)), {WEST: None}),
        (seen(sentinel(T1, W1, failing_over=True), master(W1)), {WEST: None}),
        # Nothing is turned back of what Sentinel does by itself, or a run.
        (seen(sentinel(S1, E2), master(E2)), {}),
        (seen(sentinel(S1, E2), sentinel(S2, failing_over=True)), {}),
        (seen(sentinel(S1, E2), record=record(candidate=E2)), {}),
        (seen(sentinel(S1, E2), record=None), {}),
        (seen(sentinel(S1, E2), away(E1)), {}),
        (seen(sentinel(S1, E2), facts(E1, role="replica", follows=E2)), {}),
        # A master that no Sentinel names keeps nobody from telling them.
        (seen(sentinel(S1, E3), master(W2)), {EAST: E1}),
    ],
)
def test_astray(looked, wrong):
    assert astray(ABLE, looked) == wrong


@pytest.mark.parametrize(
    ("looked", "returned"),
    [
        (seen(), []),
        (seen(master(E3)), [E3]),
        (seen(master(W1)), [W1]),
        # One that a Sentinel names may be its own election's.
        (seen(master(E3), sentinel(S1, E3)), []),
        (seen(master(W1), sentinel(T1, W1)), []),
        (seen(master(E3), sentinel(S1, failing_over=True)), []),
        (seen(master(E3), silent(S1), silent(S2)), []),
        (seen(master(E3), record=record(candidate=E3)), []),
        (seen(master(E3), away(E1)), []),
        # It would be wiped for nothing.
        (seen(master(E3), facts(E1, keys=0)), []),
    ],
)
def test_led_once(looked, returned):
    assert led_once(ABLE, looked) == returned
