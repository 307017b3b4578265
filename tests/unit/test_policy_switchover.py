"""Whether a planned move may begin, to whom, and the comparison without which nobody is promoted."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.facts import MemberFacts
from schemas.rejoin import FolderFacts
from tests.unit.estates import E1, E2, E3, E4, W1, gone, leader, service, standby
from workflows.policy.switchover import CLOSE_BYTES, candidates_of, choose, has_all, leads_alone, may_switch, unfit

ABLE = service(failover={"candidates": [W1, E2, E3, E1]})


def leads(written: int = 1000, streaming: tuple[str, ...] = (E2, E3, E4, W1)) -> MemberFacts:
    return leader(E1, written, streaming=streaming)


class TestChoose:
    def test_the_leaders_own_region_first(self):
        assert candidates_of(ABLE, E1) == [E2, E3, W1]
        assert candidates_of(ABLE, W1) == [E2, E3, E1]
        assert choose(ABLE, leads(), [standby(E2), standby(E3), standby(W1)], None)[0] == E2

    def test_the_next_where_one_is_not_fit_and_why_where_nobody_is(self):
        assert choose(ABLE, leads(), [gone(E2), standby(E3)], None)[0] == E3
        chosen, why = choose(ABLE, leads(), [gone(E2)], None)
        assert chosen is None
        assert why == "pg-east-2 is not reached; pg-east-3 is not reached; pg-west-1 is not reached"

    def test_who_is_asked_for_or_nobody(self):
        assert choose(ABLE, leads(), [standby(E2), standby(W1)], W1)[0] == W1
        assert choose(ABLE, leads(), [standby(E2), gone(E3)], E3) == (None, "pg-east-3 is not reached")
        chosen, why = choose(ABLE, leads(), [standby(E4)], E4)
        assert chosen is None
        assert "not declared as a candidate" in why


@pytest.mark.parametrize(
    ("facts", "primary", "why"),
    [
        (standby(E2), leads(), None),
        (standby(E2), leads(1000 + CLOSE_BYTES), None),
        (standby(E2), leads(1001 + CLOSE_BYTES), "bytes behind"),
        # A promotion replays the rest while clients wait, so that what was only received does not count.
        (standby(E2, 1001 + CLOSE_BYTES, replayed=1000), leads(1001 + CLOSE_BYTES), "bytes behind"),
        (None, leads(), "not reached"),
        (gone(E2), leads(), "not reached"),
        (leader(E2), leads(), "not a standby"),
        (standby(E2, system_identifier="8"), leads(), "another cluster"),
        (standby(E2), leads(streaming=(E3,)), "does not stream from pg-east-1"),
        (standby(E2, timeline=2), leads(), "on timeline 2"),
    ],
)
def test_unfit(facts, primary, why):
    found = unfit(facts, primary)
    assert (found is None) if why is None else (why in (found or "")), found


def test_across_regions_or_where_it_is_asked_for_a_person_decides():
    assert may_switch(ABLE, E1, E2, approval="policy").action == "go"
    assert may_switch(ABLE, E1, W1, approval="policy").action == "ask"
    assert may_switch(ABLE, E1, E2, approval="always").action == "ask"


def shut(**changed: Any) -> FolderFacts:
    return FolderFacts.model_validate(
        {"member": E1, "running": False, "state": "shut down", "checkpoint": 1000} | changed
    )


@pytest.mark.parametrize(
    ("folder", "candidate", "why"),
    [
        (shut(), standby(E2, 1001), None),
        (shut(), standby(E2, 1001, replayed=0), None),
        # At the checkpoint's own beginning it has not been received.
        (shut(), standby(E2, 1000), "has received up to 0/3E8, and pg-east-1 was shut down at 0/3E8"),
        (shut(running=True), standby(E2, 2000), "runs"),
        (shut(state="in production"), standby(E2, 2000), "was not shut down"),
        (shut(state="shutting down"), standby(E2, 2000), "was not shut down"),
        (shut(state=""), standby(E2, 2000), "was not shut down"),
        (shut(), gone(E2), "not reached"),
    ],
)
def test_has_all(folder, candidate, why):
    found = has_all(folder, candidate)
    assert (found is None) if why is None else (why in (found or "")), found


def test_alone_where_no_other_voter_streams_and_the_policy_forbids_it():
    required = service(synchronous={"policy": "required", "acknowledgements": 1, "voters": [E2, E3]})
    assert not leads_alone(required, leads(), E2)
    assert leads_alone(required, leads(streaming=(E2, E4)), E2)
    # A candidate that is no voter has both.
    assert not leads_alone(required, leads(streaming=(E2, E4)), E4)
    available = service(synchronous={"policy": "available", "acknowledgements": 1, "voters": [E2, E3]})
    assert not leads_alone(available, leads(streaming=(E2, E4)), E2)
    go = may_switch(required, E1, E2, approval="policy", alone=True)
    assert go.action == "ask"
    assert "would acknowledge alone" in go.reason
