"""Go, ask, refuse or stop."""

from __future__ import annotations

import pytest

from schemas.decisions import Death
from tests.unit.estates import DEAD, E1, E2, E3, W1, after, gone, leader, record, service, standby
from workflows.policy.assess import assess
from workflows.policy.go import may_go

WELL = (standby(E2), standby(E3))
ALIVE = Death(state="alive", reason="0 of 3 regions fail")
ASK = Death(state="ask", reason="unreachable, not dead")
ASYNC = {"synchronous": {"voters": []}, "failover": {"candidates": [E2]}}


def go(facts=WELL, *, of=None, on=None, death=DEAD, approval="policy", automatic=True):
    of = of or service()
    found = assess(of, suspect=E1, death=death, record=on or record(), facts=facts)
    return may_go(of, found, approval=approval, automatic=automatic, suspect_alive=death.state == "alive")


def test_dead_and_nothing_lost_goes_without_a_person():
    assert go().action == "go"
    assert go(automatic=False).action == "go"


@pytest.mark.parametrize("approval", ["policy", "always"])
def test_an_automatic_run_stops_when_the_primary_is_alive(approval):
    assert go(death=ALIVE, approval=approval).action == "stop"
    assert go(facts=(), death=ALIVE).action == "stop"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"approval": "always"}, "wants it approved"),
        ({"death": ASK}, "not known to be dead"),
        ({"death": Death(state="wait", reason="fresh", wait_s=1)}, "not known to be dead"),
        ({"death": ALIVE, "automatic": False}, "pg-east-1 is alive"),
        ({"of": service(failover={"automatic": False})}, "without a person"),
        ({"facts": (standby(E2), gone(E3)), "on": record(2)}, "no other voter is left"),
    ],
)
def test_it_asks(changed, why):
    found = go(**changed)
    assert found.action == "ask"
    assert why in found.reason


def test_every_reason_to_ask_is_told():
    found = go(death=ALIVE, automatic=False, approval="always", of=service(failover={"automatic": False}))
    assert found.reason.count("; ") == 2
    assert "acknowledges no more" in found.reason


def test_available_needs_no_survivor():
    of = service(synchronous={"policy": "available"})
    assert go((standby(E2), gone(E3)), of=of, on=record(2)).action == "go"


@pytest.mark.parametrize(
    ("facts", "on", "why"),
    [
        ((), record(), "nothing to promote"),
        ((gone(E2), gone(E3)), record(), "nothing to promote"),
        ((standby(E2), gone(E3)), record(), "(1 + 1 > 2 fails)"),
        (WELL, record(0, []), "acknowledged alone"),
    ],
)
def test_it_refuses(facts, on, why):
    found = go(facts, on=on)
    assert found.action == "refuse"
    assert why in found.reason


def test_a_refusal_tells_what_would_have_been_asked():
    found = go((standby(E2), gone(E3)), death=ASK, approval="always", automatic=False)
    assert found.action == "refuse"
    assert "not known to be dead" in found.reason
    assert "wants it approved" in found.reason


class TestTheOtherRegion:
    """Whatever the verdict, a person is asked by default."""

    facts = (standby(W1), gone(E2), gone(E3))

    def west(self, policy, *, on=None, **more):
        of = service(synchronous={"policy": "available"}, failover={"candidates": [E2, E3, W1], "cross_region": policy})
        return go(self.facts, of=of, on=on or record(1, [W1]), **more)

    @pytest.mark.parametrize(("policy", "action"), [("ask", "ask"), ("allowed", "go"), ("never", "refuse")])
    def test_nothing_would_be_lost(self, policy, action):
        found = self.west(policy)
        assert found.action == action, found
        if action == "ask":
            assert "pg-west-1 is in us-west-2" in found.reason

    def test_a_loss_is_refused_and_the_region_told_beside_it(self):
        found = self.west("ask", on=record())
        assert found.action == "refuse"
        assert "may be lost" in found.reason
        assert "pg-west-1 is in us-west-2" in found.reason

    def test_a_near_one_asks_nobody(self):
        of = service(failover={"candidates": [E2, E3, W1]})
        assert go((standby(E2), standby(E3), standby(W1)), of=of).action == "go"

    def test_one_that_leads_already_was_decided_on(self):
        of = service(synchronous={"policy": "available"}, failover={"candidates": [E2, E3, W1]})
        on = record(1, [W1], candidate=W1)
        assert go((leader(W1, 1500, timeline=2), gone(E2), gone(E3)), of=of, on=on).action == "go"


class TestDeclaredLoss:
    """`max_loss_bytes` speaks for asynchronous replication only."""

    facts = (leader(E1, 3944), standby(E2))

    @pytest.mark.parametrize(("most", "action"), [(0, "refuse"), (2943, "refuse"), (2944, "go")])
    def test_asynchronous(self, most, action):
        of = service(
            **ASYNC
            | {"failover": {"candidates": [E2], "max_loss_bytes": most}}
            | {"synchronous": {"voters": [], "policy": "available"}}
        )
        assert go(self.facts, of=of, on=record(0, [])).action == action

    def test_where_voters_exist_an_unsatisfied_inequality_is_refused_whatever_the_bound(self):
        """The old primary can still gather its acknowledgements: no bound holds."""
        of = service(failover={"max_loss_bytes": 1_000_000})
        assert go((*self.facts, gone(E3)), of=of).action == "refuse"

    def test_a_bound_in_time_says_nothing_of_bytes(self):
        of = service(**ASYNC | {"failover": {"candidates": [E2], "max_loss_bytes": 1_000_000}})
        facts = (gone(E1), standby(E2, heartbeat=after(-0.5)))
        found = assess(of, suspect=E1, death=DEAD, record=record(0, []), facts=facts, ended=after(0.5))
        assert found.verdict.in_time_only
        refused = may_go(of, found, approval="policy", automatic=True, suspect_alive=False)
        assert refused.action == "refuse"
        assert "how much is bounded: at most 2.0 s" in refused.reason

    def test_unknown_is_refused(self):
        of = service(**ASYNC | {"failover": {"candidates": [E2], "max_loss_bytes": 1_000_000}})
        assert go((standby(E2),), of=of, on=record(0, [])).action == "refuse"
