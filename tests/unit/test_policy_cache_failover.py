"""Is a cache's master dead, who comes next, what is lost at most, and who is asked."""

from __future__ import annotations

from datetime import timedelta

import pytest

from schemas.decisions import Choice, Death, Verdict
from tests.unit.cache_estates import (
    AT,
    E1,
    E2,
    E3,
    E4,
    REGIONS,
    W1,
    W2,
    away,
    cache_service,
    facts,
    master,
    priorities,
    seen,
    sentinel,
    silent,
    votes,
)
from workflows.policy.cache_failover import (
    after_election,
    choose_next,
    first_failure,
    judge_master,
    lost_at_most,
    may_fail_over,
    moved_to,
)

ABLE = cache_service()
S1, S2, S3 = (f"sentinel-east-{number}" for number in (1, 2, 3))
REFUSED = votes("refused", "refused", "refused")
LOST = tuple(facts(name, link_up=False) for name in (E2, E3, E4))
SILENT = tuple(facts(name, silent_s=9) for name in (E2, E3, E4))
ALL_SILENT = tuple(map(silent, (S1, S2, S3)))


def down(name: str):
    return sentinel(name, flags=["master", "s_down"])


@pytest.mark.parametrize(
    ("probed", "looked", "state", "reason"),
    [
        (REFUSED, seen(away(E1), *LOST), "dead", "all 3 replicas have lost it"),
        (votes("refused", "timeout", "alive"), seen(away(E1), *LOST), "dead", "2 regions fail"),
        (votes("refused", "blind", "alive"), seen(), "alive", "1 of 3 regions"),
        (votes("refused", "blind", "blind"), seen(), "ask", "a quorum is 2"),
        (REFUSED, seen(away(E1)), "wait", "the Sentinels do not call it down yet"),
        (REFUSED, seen(away(E1), down(S1)), "wait", "the Sentinels do not call it down yet"),
        (REFUSED, seen(away(E1), down(S1), down(S2), *SILENT), "dead", "3 regions and 2 Sentinels say so"),
        # A replica that heard it a moment ago denies it.
        (REFUSED, seen(away(E1), down(S1), down(S2)), "wait", "the Sentinels do not call it down yet"),
        # Somebody has ordered it: an election comes.
        (votes("alive", "alive", "alive"), seen(facts(E1, role="replica", follows=E2)), "wait", "nobody leads"),
        (REFUSED, seen(away(E1), *ALL_SILENT), "ask", "cache-east-2, cache-east-3, cache-east-4 may still hear it"),
        (REFUSED, seen(*map(away, REGIONS), *ALL_SILENT), "ask", "no replica and no Sentinel can be asked"),
        (REFUSED, seen(away(E1), *LOST, *ALL_SILENT), "dead", "all 3 replicas have lost it"),
    ],
)
def test_judge_master(probed, looked, state, reason):
    found = judge_master(ABLE, E1, probed, looked)
    assert (found.state, found.wait_s > 0) == (state, state == "wait")
    assert reason in found.reason


def test_whom_sentinel_has_promoted_already():
    promoted = master(E2)
    said = [sentinel(name, E2) for name in (S1, S2, S3)]
    assert moved_to(ABLE, seen(), E1) is None
    assert moved_to(ABLE, seen(away(E1), promoted, *said), E1) == E2
    assert moved_to(ABLE, seen(away(E1), promoted, *said[:1]), E1) is None, "one of three is not most"
    assert moved_to(ABLE, seen(away(E1), *said), E1) is None, "its role is still a replica's"
    assert moved_to(ABLE, seen(away(E1), master(W1)), E1) is None


@pytest.mark.parametrize(
    ("declared", "looked", "requested", "candidate", "reason"),
    [
        (ABLE, seen(away(E1)), None, E2, "1000 bytes"),
        (ABLE, seen(away(E1), facts(E3, offset=1001)), None, E3, "1001 bytes"),
        # As Sentinel chooses: the lower number first. If another has more, the verdict says so.
        (priorities({E3: 10}), seen(away(E1)), None, E3, "1000 bytes"),
        (priorities({E3: 10}), seen(away(E1), facts(E2, offset=1001)), None, E3, "1000 bytes"),
        (ABLE, seen(away(E1)), E4, E4, "1000 bytes"),
        (ABLE, seen(away(E1), away(E4)), E4, None, "cache-east-4 is not reached"),
        (priorities({E2: 0}), seen(away(E1), away(E3), away(E4)), None, W1, "in us-west-2"),
        (ABLE, seen(*map(away, (E1, E2, E3, E4))), None, W1, "in us-west-2"),
        (
            cache_service(failover={"cross_region": "never"}),
            seen(*map(away, (E1, E2, E3, E4))),
            None,
            None,
            "not reached",
        ),
        (ABLE, seen(*map(away, REGIONS)), None, None, "is not reached"),
        # An empty one is nobody's successor, however far it is; unless all of them are.
        (ABLE, seen(away(E1), facts(E2, keys=0, offset=9999)), None, E3, "1000 bytes"),
        (ABLE, seen(away(E1), *(facts(name, keys=0) for name in (E2, E3, E4, W1, W2))), None, E2, "1000 bytes"),
        (ABLE, seen(away(E1), facts(E2, loading=True, offset=9999)), None, E3, "1000 bytes"),
        (ABLE, seen(away(E1), facts(E2, syncing=True, offset=9999)), None, E3, "1000 bytes"),
    ],
)
def test_choose_next(declared, looked, requested, candidate, reason):
    found = choose_next(declared, looked, E1, requested)
    assert found.candidate == candidate, found
    assert reason in found.reason


@pytest.mark.parametrize(
    ("declared", "looked", "candidate", "last", "kind", "reason"),
    [
        (ABLE, seen(away(E1)), E2, facts(E1), "bounded", "0 bytes of what it had"),
        (ABLE, seen(away(E1)), E2, facts(E1, offset=1500), "bounded", "500 bytes of what it had"),
        (ABLE, seen(away(E1)), E2, None, "bounded", "a master stops 4 s after its last replica"),
        (ABLE, seen(away(E1)), None, facts(E1), "unknown", "nobody would take over"),
        (cache_service(master={"min_replicas": 0}), seen(away(E1)), E2, facts(E1), "unknown", "without any replica"),
        (ABLE, seen(away(E1)), E2, facts(E1, min_replicas=0), "unknown", "not as declared"),
        (ABLE, seen(away(E1)), E2, facts(E1, max_lag_s=60), "unknown", "not as declared"),
        # Its one replica within the lag may have been this one.
        (ABLE, seen(away(E1), away(E3)), E2, facts(E1), "unknown", "cache-east-3 may have what cache-east-2 has not"),
        (ABLE, seen(away(E1), away(E3)), E2, None, "unknown", "cache-east-3 may have what cache-east-2 has not"),
        (ABLE, seen(away(E1), away(W2)), E2, facts(E1), "bounded", "a master stops"),
        (ABLE, seen(away(E1), facts(E3, offset=2000)), E2, facts(E1), "unknown", "cache-east-3 has more"),
        (ABLE, seen(*map(away, (E1, E2, E3, E4))), W1, facts(E1), "unknown", "can't be asked"),
    ],
)
def test_lost_at_most(declared, looked, candidate, last, kind, reason):
    found = lost_at_most(declared, looked, E1, candidate, last)
    assert (found.kind, found.at_most_s) == (kind, 4.0 if kind == "bounded" else None)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("itself", "reason"),
    [
        (facts(E1), "lives, and may acknowledge"),
        # Turned around by now, and nobody knows what it acknowledged until then.
        (facts(E1, role="replica", follows=E2), "took writes beside cache-east-2"),
    ],
)
def test_nobody_knows_what_is_lost_beside_a_living_master(itself, reason):
    found = lost_at_most(ABLE, seen(itself, master(E2)), E1, E2, facts(E1))
    assert found.kind == "unknown"
    assert reason in found.reason


def test_one_that_was_elected_with_less_than_another():
    assert after_election(ABLE, seen(away(E1)), E1, E2, 1000) is None
    assert after_election(ABLE, seen(away(E1)), E1, E2, -1) is None
    # By then the others followed it, in the history that it began.
    later = [facts(name, history="b" * 40, offset=2000) for name in (E3, E4, W1, W2)]
    promoted = master(E2, history="b" * 40, history_before="a" * 40)
    assert after_election(ABLE, seen(away(E1), promoted, *later), E1, E2, 1000) is None
    assert after_election(ABLE, seen(away(E1), promoted, *later[1:]), E1, E2, 999) is not None, "cache-east-3 does not"
    worse = after_election(ABLE, seen(away(E1)), E1, E2, 999)
    assert worse is not None
    assert (worse.kind, "cache-east-3, cache-east-4" in worse.reason) == ("unknown", True)


DEAD = Death(state="dead", reason="3 regions fail at it")
ALIVE = Death(state="alive", reason="0 of 3 regions fail at it")
NOT_SURE = Death(state="ask", reason="cache-east-2 may still hear it")
NEAR, ACROSS = Choice(candidate=E2, reason=""), Choice(candidate=W1, reason="")
NOBODY = Choice(candidate=None, reason="there is no other member")
BOUNDED = Verdict(kind="bounded", reason="", at_most_s=3)
UNKNOWN = Verdict(kind="unknown", reason="cache-east-3 can't be asked")


@pytest.mark.parametrize(
    ("otherwise", "action", "reason"),
    [
        ({}, "go", "the policy asks nobody"),
        ({"death": ALIVE}, "stop", "no failover is needed"),
        ({"death": ALIVE, "automatic": False}, "ask", "is alive: going on stops it"),
        ({"death": NOT_SURE}, "ask", "is not known to be dead"),
        ({"choice": NOBODY}, "refuse", "there is nothing to promote"),
        ({"verdict": UNKNOWN}, "refuse", "only an override on record goes on"),
        ({"declared": cache_service(failover={"max_loss_s": 2})}, "ask", "up to 3 s of writes may be lost"),
        ({"choice": ACROSS}, "ask", "cache-west-1 is in us-west-2"),
        ({"choice": ACROSS, "declared": cache_service(failover={"cross_region": "allowed"})}, "go", "asks nobody"),
        ({"declared": cache_service(failover={"automatic": False})}, "ask", "without a person"),
        ({"approval": "always"}, "ask", "wants it approved"),
        # Nobody could undo what Sentinel has done.
        ({"moved": True, "verdict": UNKNOWN, "approval": "always", "death": ALIVE}, "go", "Sentinel has promoted"),
    ],
)
def test_may_fail_over(otherwise, action, reason):
    usual = {"declared": ABLE, "death": DEAD, "choice": NEAR, "verdict": BOUNDED}
    facts_of = {name: otherwise.get(name, value) for name, value in usual.items()}
    asked = {"approval": "policy", "automatic": True, "moved": False}
    asked |= {name: value for name, value in otherwise.items() if name in asked}
    declared, *rest = facts_of.values()
    found = may_fail_over(declared, E1, *rest, **asked)
    assert found.action == action, found
    assert reason in found.reason


def test_the_clock_begins_with_the_first_region_that_failed():
    late = [vote.model_copy(update={"at": AT + timedelta(seconds=index)}) for index, vote in enumerate(REFUSED)]
    assert first_failure(list(reversed(late))) == AT
    assert first_failure([late[0].model_copy(update={"outcome": "alive"}), *late[1:]]) == AT + timedelta(seconds=1)
    assert first_failure(votes("alive", "blind")) is None
