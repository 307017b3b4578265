"""What a queue's runs must not take for granted: that silence is death, that unread is empty."""

from __future__ import annotations

from typing import Any

import pytest

from activities.rabbit_nodes import leaderless, why_critical, with_its_node
from schemas.decisions import Verdict
from schemas.facts import EpochRecord
from schemas.queue_facts import BrokerFacts, ClusterFacts, Counted, QueueObservation, QueueState
from tests.unit.test_policy_queue import EAST, NOW, broker, east, queue, seen, service, west
from workflows.policy import queue as policy
from workflows.policy import queue_moves as moves

GONE = ["rabbit@rabbit-east-1"]
NODE = QueueState(loss="node", reason="", down=["rabbit-east-1"], led_to="rabbit-east-1")


def mute(name: str) -> BrokerFacts:
    return BrokerFacts(member=name, at=NOW, answers=False, listens=True, error="401")


def unsettled(east_open: bool, west_open: bool) -> QueueObservation:
    record = EpochRecord(epoch=4, run="r", leader="rabbit-east-1", candidate="rabbit-west-1", w=0, voters=[])
    return QueueObservation(record=record, clusters=[east(clients_let_in=east_open), west(clients_let_in=west_open)])


@pytest.mark.parametrize(
    ("east_open", "west_open", "leader"),
    [
        (False, True, "rabbit-west-1"),
        (True, False, "rabbit-east-1"),
        (True, True, "rabbit-east-1"),
        (False, False, "rabbit-east-1"),
    ],
)
def test_a_choice_that_no_run_settled_leads_where_clients_are_let_in(
    east_open: bool, west_open: bool, leader: str
) -> None:
    assert policy.led_to(service(), unsettled(east_open, west_open))[0] == leader


def test_the_only_cluster_that_lets_clients_in_is_not_closed() -> None:
    assert moves.why_not_close(east(), [west()]) is None
    assert moves.why_not_close(east(), [west(clients_let_in=True)]) is None
    assert "us-west-2" in str(moves.why_not_close(east(clients_let_in=False), [west(clients_let_in=True)]))


@pytest.mark.parametrize(
    ("brokers", "loss"),
    [
        ([broker(EAST[0]), broker(EAST[1]), mute(EAST[2])], "nothing"),
        ([mute(EAST[0]), mute(EAST[1]), mute(EAST[2])], "unclear"),
        ([broker(EAST[0]), mute(EAST[1]), broker(EAST[2], answers=False)], "unclear"),
        ([broker(EAST[0]), broker(EAST[1]), broker(EAST[2], answers=False)], "node"),
        ([mute(EAST[0]), broker(EAST[1], answers=False), broker(EAST[2], answers=False)], "majority"),
    ],
)
def test_a_node_that_speaks_amqp_is_not_down(brokers: list[BrokerFacts], loss: str) -> None:
    found = policy.state_of(service(), seen(east(brokers=brokers), west()), "rabbit-east-1")
    assert found.loss == loss, found
    if loss == "unclear":
        assert "its owner must see to the API" in found.reason


def test_a_lone_node_whose_password_was_changed_is_not_lost() -> None:
    alone = west(brokers=[mute("rabbit-west-1")])
    assert policy.state_of(service(), seen(east(), alone), "rabbit-west-1").loss == "unclear"


def test_what_one_region_hears_of_a_port_counts() -> None:
    cut_off = seen(east(*EAST), west())
    heard = seen(east(brokers=[mute(name) for name in EAST]), west())
    assert policy.state_of(service(), policy.merge([cut_off, heard]), "rabbit-east-1").loss == "unclear"


def test_nodes_that_do_not_see_each_other_are_apart() -> None:
    names = [f"rabbit@{name}" for name in EAST]
    one = broker(EAST[0], running=names[:1])
    rest = [broker(name, running=names) for name in EAST[1:]]
    found = policy.state_of(service(), seen(east(brokers=[one, *rest]), west()), "rabbit-east-1")
    assert found.loss == "partitioned"
    assert "rabbit-east-1 does not see rabbit@rabbit-east-2" in found.reason
    told = broker(EAST[0], partitions=["rabbit@rabbit-east-2"])
    assert policy.split(service(), east(brokers=[told, *map(broker, EAST[1:])]))


def test_a_node_that_is_down_splits_nothing() -> None:
    names = [f"rabbit@{name}" for name in EAST]
    left = [broker(name, running=names[1:]) for name in EAST[1:]]
    assert policy.split(service(), east(brokers=[broker(EAST[0], answers=False), *left])) == ""


@pytest.mark.parametrize(
    ("wanted", "candidate", "why"),
    [
        (None, "rabbit-east-2", ""),
        ("rabbit-east-3", "rabbit-east-3", ""),
        ("rabbit-east-1", None, "does not answer"),
        ("rabbit-west-1", None, "use queue-switchover"),
    ],
)
def test_a_lost_node_is_no_reason_to_leave_the_region(wanted: str | None, candidate: str | None, why: str) -> None:
    found = policy.choose_node(service(), east("rabbit-east-1"), NODE, wanted)
    assert found.candidate == candidate
    assert why in found.reason


def test_unread_is_not_empty() -> None:
    unread = {"read": False, "queues": []}
    assert "could not be read" in str(policy.why_not_drain(east(**unread)))
    assert "could not be read" in str(policy.unfit(west(read=False), "us-east-1"))
    assert moves.not_moved(east(**unread))
    assert any("could not be read" in each for each in policy.unprotected(service(), east(**unread)))
    assert policy.verdict_of(NODE, [], "", read=False).kind == "unknown"
    assert not ClusterFacts(region="us-east-1", at=NOW, brokers=[]).read


@pytest.mark.parametrize(
    ("before", "kind"),
    [
        (None, "unknown"),
        (queue("mirrored"), "none"),
        (queue("mirrored", online=GONE), "unknown"),
        (queue("mirrored", leader="rabbit@rabbit-east-2", online=["rabbit@rabbit-east-2"]), "none"),
    ],
)
def test_a_mirrored_queue_is_whole_if_it_was_before_the_loss(before: Any, kind: str) -> None:
    # Afterwards another is its master, whether that held everything or not.
    now = queue("mirrored", leader="rabbit@rabbit-east-2")
    found = policy.verdict_of(NODE, [now], "", gone=GONE, before=[before] if before else [])
    assert found.kind == kind
    assert kind == "none" or "counting/counts" in found.reason


@pytest.mark.parametrize(
    ("lost", "kind"),
    [
        (queue(), "none"),
        (queue(members=GONE), "unknown"),
        (queue(members=[*GONE, "rabbit@rabbit-east-2"]), "unknown"),
        (queue("classic", leader=GONE[0]), "unknown"),
        (queue("classic", leader="rabbit@rabbit-east-2"), "none"),
    ],
)
def test_the_verdict_of_a_node_is_of_the_queues_that_it_held(lost: Any, kind: str) -> None:
    assert policy.verdict_of(NODE, [lost], "", gone=GONE).kind == kind


def test_the_receipt_says_no_more_than_the_verdict() -> None:
    assert policy.receipt_of(Verdict(kind="none", reason="r")) == "nothing confirmed was lost"
    assert "nothing" not in policy.receipt_of(Verdict(kind="unknown", reason="a/b had no mirror"))


def test_what_would_be_gone_with_its_clients_keeps_the_cluster_open() -> None:
    assert moves.ends_with_its_clients(east()) == []
    assert moves.ends_with_its_clients(east(queues=[queue("classic", auto_delete=True, ready=0)])) == []
    assert "last consumer" in moves.ends_with_its_clients(east(queues=[queue("classic", auto_delete=True)]))[0]
    assert "not used" in moves.ends_with_its_clients(east(queues=[queue("classic", expires=True)]))[0]
    assert "stream" in moves.ends_with_its_clients(east(queues=[queue("stream")]))[0]
    assert "stays with 3 messages" in moves.not_moved(east(queues=[queue("classic", durable=False)]))[0]


def test_what_publishes_whoever_is_kept_out_keeps_the_cluster_open() -> None:
    assert moves.published_by_others(east()) == []
    assert "shovel s in counting" in moves.published_by_others(east(foreign=["shovel s in counting"]))[0]


def test_a_surplus_in_one_queue_does_not_hide_a_loss_in_another() -> None:
    there, before = Counted(counts={"v/a": 10, "v/b": 10}), Counted(counts={"v/a": 0, "v/b": 2})
    assert moves.short_of(there, before, Counted(counts={"v/a": 10, "v/b": 12})) == []
    assert moves.short_of(there, before, Counted(counts={"v/a": 15, "v/b": 7})) == ["v/b: 5 of 10"]
    assert moves.short_of(there, before, Counted(counts={"v/a": 10})) == ["v/b: -2 of 10"]


@pytest.mark.parametrize(
    ("members", "size", "declared", "lacks"),
    [(3, None, 3, 0), (2, None, 3, 1), (3, None, 5, 0), (3, 5, 5, 2), (5, 3, 5, 0), (1, None, 1, 0)],
)
def test_a_queue_grows_to_what_it_had_and_no_further(members: int, size: int | None, declared: int, lacks: int) -> None:
    names = [f"rabbit@{number}" for number in range(5)]
    found = queue(members=names[:members], online=names[:members], size=size)
    assert found.lacks(set(names[:declared])) == lacks
    assert bool(found.absent(set(names[:declared]))) == bool(lacks)


def test_a_member_on_a_node_that_is_down_is_absent() -> None:
    names = {f"rabbit@{name}" for name in EAST}
    assert queue(online=sorted(names - set(GONE))).absent(names) == GONE
    assert queue("mirrored", online=sorted(names - set(GONE))).absent(names) == GONE
    assert queue("classic", members=GONE).absent(names) == []
    # One on a node that nobody declared counts for nothing, and none is added there.
    assert queue(members=[*sorted(names - set(GONE)), "rabbit@old"]).lacks(names) == 1


def test_shovels_that_were_left_are_told() -> None:
    assert "lifeboat-1" in moves.stray_shovels([east(), west(shovels=["lifeboat-1"])])[0]
    assert policy.unprotected(service(), east(shovels=["lifeboat-1"]))


def test_who_can_not_be_kept_out_is_told() -> None:
    assert "app" in moves.unproved_clients(service())[0]
    assert moves.unproved_clients(service(clients=[{"name": "app", "password": "env:APP"}])) == []
    assert len(moves.without_control(service(), "us-east-1")) == 3


def test_a_classic_queue_is_gone_with_its_node_and_no_other_waits_for_it() -> None:
    up = [f"rabbit@{name}" for name in EAST[1:]]
    brokers = [broker(name, running=up) for name in EAST[1:]]
    alone = queue("classic", leader=GONE[0], ready=None)
    assert with_its_node(alone, set(up))
    assert leaderless(east(brokers=brokers, queues=[alone, queue(leader=up[0], online=up)])) == []
    assert "leader unknown" in leaderless(east(brokers=brokers, queues=[queue(leader="", online=up)]))[0]


@pytest.mark.parametrize(
    ("code", "body", "told"),
    [
        (503, '{"reason": "would lose quorum"}', "would lose quorum"),
        (503, "[]", "503"),
        (401, "", "401"),
        (404, "", "404"),
    ],
)
def test_a_check_that_could_not_be_made_clears_no_node(code: int, body: str, told: str) -> None:
    assert told in why_critical(code, body)
