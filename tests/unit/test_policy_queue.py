"""Which cluster serves, what of it is lost, and whether another may take over: facts in, reasons out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.facts import EpochRecord
from schemas.queue import QueueService
from schemas.queue_facts import BrokerFacts, ClusterFacts, Mirror, QueueFacts, QueueObservation
from workflows.policy import queue as policy
from workflows.policy import queue_moves as moves

NOW = datetime(2026, 5, 1, 3, tzinfo=UTC)
EAST = ("rabbit-east-1", "rabbit-east-2", "rabbit-east-3")


def service(**changes: Any) -> QueueService:
    def member(name: str, region: str, number: int) -> dict[str, Any]:
        return {"name": name, "host": f"10.0.{number}.1", "region": region, "node": f"rabbit@{name}"}

    east = [member(name, "us-east-1", number) for number, name in enumerate(EAST)]
    given = {
        "kind": "rabbitmq",
        "name": "counting-queue",
        "rto_s": 180,
        "rpo_s": 0,
        "home": "rabbit-east-1",
        "members": [*east, member("rabbit-west-1", "us-west-2", 9)],
        "vhosts": ["counting"],
        "clients": [{"name": "app"}],
    }
    return QueueService.model_validate(given | changes)


def broker(name: str, answers: bool = True, **more: Any) -> BrokerFacts:
    error = "" if answers else f"{name}: refused"
    return BrokerFacts(member=name, at=NOW, answers=answers, listens=answers, error=error, **more)


def queue(kind: str = "quorum", **more: Any) -> QueueFacts:
    names = [f"rabbit@{name}" for name in EAST]
    given: dict[str, Any] = {"members": names, "online": names, "leader": names[0], "ready": 3, "durable": True}
    return QueueFacts(vhost="counting", name="counts", kind=kind, **(given | more))


def east(*down: str, **more: Any) -> ClusterFacts:
    brokers = [broker(name, name not in down) for name in EAST]
    given: dict[str, Any] = {"brokers": brokers, "queues": [queue()], "clients_let_in": True, "read": True}
    return ClusterFacts(region="us-east-1", at=NOW, **(given | more))


def west(**more: Any) -> ClusterFacts:
    return ClusterFacts(region="us-west-2", at=NOW, **({"brokers": [broker("rabbit-west-1")], "read": True} | more))


def seen(*clusters: ClusterFacts, leader: str | None = "rabbit-east-1", **more: Any) -> QueueObservation:
    record = EpochRecord(epoch=3, run="r", leader=leader, w=0, voters=[]) if leader is not None else None
    return QueueObservation(record=record, clusters=list(clusters), **more)


@pytest.mark.parametrize(
    ("down", "loss"),
    [
        ((), "nothing"),
        (EAST[:1], "node"),
        (EAST[:2], "majority"),
        (EAST, "cluster"),
    ],
)
def test_what_is_lost_is_counted_by_the_nodes_that_answer(down: tuple[str, ...], loss: str) -> None:
    found = policy.state_of(service(), seen(east(*down), west()), "rabbit-east-1")
    assert (found.loss, found.down) == (loss, list(down))
    assert all(name in found.reason for name in down)


def test_a_node_that_one_region_reaches_is_not_lost() -> None:
    cut_off, well = seen(east(*EAST), west()), seen(east(), west())
    assert policy.state_of(service(), policy.merge([cut_off, well]), "rabbit-east-1").loss == "nothing"


def test_the_record_says_whom_clients_are_led_to() -> None:
    assert policy.led_to(service(), seen(east(), west(), leader="rabbit-west-1"))[0] == "rabbit-west-1"


def test_without_a_record_the_only_open_cluster_serves() -> None:
    open_west = west(clients_let_in=True)
    assert policy.led_to(service(), seen(east(clients_let_in=False), open_west, leader=None))[0] == "rabbit-west-1"
    leader, why = policy.led_to(service(), seen(east(), open_west, leader=None))
    assert leader is None
    assert "us-east-1 and us-west-2" in why


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        (west(brokers=[broker("rabbit-west-1", alarms=["memory of rabbit@rabbit-west-1"])]), "memory"),
        (west(brokers=[broker("rabbit-west-1", answers=False)]), "is not reached"),
        (west(brokers=[broker("rabbit-west-1", partitions=["rabbit@x"])]), "is partitioned"),
        (west(clients_let_in=True), "lets clients in already"),
    ],
)
def test_a_cluster_that_is_not_fit_is_passed_over_with_a_reason(cluster: ClusterFacts, why: str) -> None:
    found = policy.choose_region(service(), seen(east(), cluster), "us-east-1", None)
    assert found.candidate is None
    assert why in found.reason


TOLD = {"us-west-2": Mirror(region="us-east-1", at=NOW, digest="d", counts={})}


def test_the_fit_one_takes_over() -> None:
    known = seen(east(), west(), mirrors=TOLD)
    assert policy.choose_region(service(), known, "us-east-1", None).candidate == "rabbit-west-1"


@pytest.mark.parametrize("mirrors", [{}, {"us-west-2": TOLD["us-west-2"].model_copy(update={"region": "eu-west-1"})}])
def test_one_that_was_never_told_of_the_lost_cluster_does_not_take_over(mirrors: dict[str, Mirror]) -> None:
    """Clients would be let into a cluster without their queues."""
    known = seen(east(), west(), mirrors=mirrors)
    found = policy.choose_region(service(), known, "us-east-1", None, lost=True)
    assert found.candidate is None
    assert policy.choose_region(service(), known, "us-east-1", None).candidate == "rabbit-west-1", "a move tells it"
    assert "was never told what us-east-1 defines" in found.reason


def test_nodes_that_hold_back_have_lost_their_majority_and_not_everything() -> None:
    dead = policy.state_of(service(), seen(east(*EAST), west()), EAST[0])
    found = policy.with_held_back(dead, [EAST[0]])
    assert (found.loss, found.down) == ("majority", list(EAST[1:]))
    assert "holds back" in found.reason
    assert policy.with_held_back(dead, []) == dead


def test_clients_stay_at_home_where_home_is_well() -> None:
    assert policy.other_node(service(), east("rabbit-east-2"), ["rabbit-east-2"]) == "rabbit-east-1"
    assert policy.other_node(service(), east("rabbit-east-1"), ["rabbit-east-1"]) == "rabbit-east-2"


@pytest.mark.parametrize(
    ("down", "cross_region", "approval", "action"),
    [
        ((), "ask", "policy", "stop"),
        (EAST[:1], "never", "policy", "go"),
        (EAST[:1], "allowed", "always", "ask"),
        (EAST, "ask", "policy", "ask"),
        (EAST, "allowed", "policy", "go"),
        (EAST, "never", "policy", "refuse"),
        (EAST[:2], "ask", "policy", "ask"),
    ],
)
def test_leaving_a_region_is_for_the_policy_or_a_person(
    down: tuple[str, ...], cross_region: str, approval: Any, action: str
) -> None:
    declared = service(failover={"cross_region": cross_region})
    state = policy.state_of(declared, seen(east(*down), west()), "rabbit-east-1")
    assert policy.may_fail_over(declared, state, approval=approval).action == action


def test_what_a_lost_cluster_holds_is_never_called_nothing() -> None:
    state = policy.state_of(service(), seen(east(*EAST), west()), "rabbit-east-1")
    mirror = Mirror(region="us-east-1", at=NOW - timedelta(seconds=9), digest="d", counts={"counting/counts": 12})
    held = policy.held_text("us-east-1", mirror, NOW)
    assert "12 messages" in held
    assert "9 s before" in held
    assert policy.verdict_of(state, [], held).kind == "unknown"
    assert "not known" in policy.held_text("us-east-1", None, NOW)
    of_another = mirror.model_copy(update={"region": "eu-west-1"})
    assert "12" not in policy.held_text("us-east-1", of_another, NOW)


def test_mirrored_queues_promise_less() -> None:
    assert "mirrored" in moves.weaker([queue("mirrored")])[0]
    state = policy.state_of(service(), seen(east("rabbit-east-1"), west()), "rabbit-east-1")
    gone = ["rabbit@rabbit-east-1"]
    told = policy.verdict_of(state, [queue("mirrored")], "", gone=gone, before=[queue("mirrored")])
    assert (told.kind, "synchronised mirror" in told.reason) == ("none", True)
    assert moves.weaker([queue()]) == []


def test_careless_publishers_are_told() -> None:
    told = moves.careless(east(transient={"counting/counts": 4}, dropped=7))
    assert "4 messages that are not persistent" in told[0]
    assert "`mandatory`" in told[1]


def test_a_queue_that_does_not_answer_can_not_be_drained() -> None:
    assert policy.why_not_drain(east()) is None
    assert "counting/counts" in str(policy.why_not_drain(east(queues=[queue(ready=None)])))


def test_a_lone_standby_is_not_protected() -> None:
    assert "fail back to us-east-1" in policy.unprotected(service(), west())[0]
    assert policy.unprotected(service(), east()) == []
    behind = east(queues=[queue(online=["rabbit@rabbit-east-1", "rabbit@rabbit-east-2"])])
    assert policy.unprotected(service(), behind) == ["counting/counts is not on rabbit@rabbit-east-3"]


def test_the_digest_changes_with_what_decides() -> None:
    def digest(*down: str) -> str:
        found = seen(east(*down), west())
        state = policy.state_of(service(), found, "rabbit-east-1")
        choice = policy.choose_region(service(), found, "us-east-1", None)
        return policy.assess("rabbit-east-1", state, choice, policy.verdict_of(state, [], "")).digest

    assert digest(*EAST) == digest(*EAST)
    assert digest(*EAST) != digest(*EAST[:2])


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"home": "rabbit-north-1"}, "home"),
        ({"clients": [{"name": "lifeboat"}]}, "clients.0.name"),
        ({"clients": []}, "clients"),
        ({"vhosts": []}, "vhosts"),
        ({"routes": [{"kind": "dns", "name": "q", "record": "q.example.com", "port": 5672, "ttl_s": 600}]}, "routes.0"),
    ],
)
def test_a_wrong_declaration_names_its_place(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(ValueError, match=place):
        service(**changes)


def test_a_standby_that_lost_what_it_was_told_does_not_take_over() -> None:
    other = west(differ=["queue counting counts is another in it"])
    found = policy.choose_region(service(), seen(east(), other, mirrors=TOLD), "us-east-1", None, lost=True)
    assert found.candidate is None
    assert "is another in it" in found.reason


def test_a_mirrored_queue_of_some_nodes_is_not_missed_on_the_others() -> None:
    two = [f"rabbit@{name}" for name in EAST[:2]]
    declared = {f"rabbit@{name}" for name in EAST}
    assert queue("mirrored", members=two, online=two).absent(declared) == ["rabbit@rabbit-east-3"]
    assert queue("mirrored", members=two, online=two, mirrored_everywhere=False).absent(declared) == []
    assert queue("mirrored", members=two, online=two[:1], mirrored_everywhere=False).absent(declared) == two[1:]
