"""What publishes, deliveries and queues prove together; and what two clusters' definitions have in common."""

from __future__ import annotations

from typing import Any

import pytest

from activities.rabbit_definitions import differences, digest_of, essence, portable, to_import
from lab.ledger import Entry
from lab.queue_findings import MOVE_S, judge, overlapping
from lab.queue_traffic import Delivery
from schemas.queue_facts import PROBE_QUEUE
from tests.unit.test_policy_queue import service


def published(*names: str) -> list[Entry]:
    return [Entry(id=name, route="q", writer="w", sent=1.0, acked=2.0, outcome="acknowledged") for name in names]


def delivered(name: str, seq: int, at: float, **more: Any) -> Delivery:
    return Delivery(id=name, route="q", writer="w", seq=seq, at=at, server="s", **more)


def test_confirmed_is_delivered_or_in_a_queue() -> None:
    found = judge(published("a", "b", "c"), [delivered("a", 1, 1)], {"b"})
    assert found.lost == ["c"]
    assert (found.delivered, found.in_queues) == (1, 1)


def test_what_no_client_was_told_of_is_not_lost() -> None:
    unknown = Entry(id="u", route="q", writer="w", sent=1.0, outcome="unknown")
    assert judge([unknown], [], set()).lost == []


def test_duplicates_are_told_from_redeliveries() -> None:
    twice = [delivered("a", 1, 1), delivered("a", 1, 2, redelivered=True), delivered("b", 2, 3), delivered("b", 2, 4)]
    found = judge(published("a", "b"), twice, set())
    assert (found.duplicated, found.redelivered, found.reordered) == (2, 1, 0)


def test_a_message_after_a_later_one_of_its_publisher_is_out_of_order() -> None:
    found = judge(published("a", "b"), [delivered("b", 2, 1), delivered("a", 1, 2)], set())
    assert found.reordered == 1


def test_what_was_left_behind_is_not_lost_but_stranded() -> None:
    """The control: a move that leaves 10 messages in the source, and says that it is done."""
    names = [f"m{number}" for number in range(30)]
    there, behind = set(names[10:20]), set(names[20:])
    given = [delivered(name, number, number) for number, name in enumerate(names[:10])]
    found = judge(published(*names), given, there | behind, behind)
    assert (found.lost, len(found.stranded)) == ([], 10)
    # One that was delivered meanwhile lies there twice, and nobody misses it.
    assert judge(published("a"), [delivered("a", 1, 1)], {"a"}, {"a"}).stranded == []


def confirmed(server: str, sent: float, took: float = 0.01) -> Entry:
    return Entry(
        id=f"{server}{sent}", route="q", writer="w", sent=sent, acked=sent + took, outcome="acknowledged", server=server
    )


def test_two_regions_that_confirm_at_once_are_seen() -> None:
    """The control: a source that was not closed."""
    regions = {"e": "east", "e2": "east", "w": "west"}
    move = [confirmed("e", 1.0), confirmed("e2", 1.1), confirmed("w", 1.2 + MOVE_S), confirmed("e", 5.0)]
    assert overlapping(move, regions) == []
    assert overlapping([*move, confirmed("e", 1.25 + MOVE_S)], regions) == [move[2], confirmed("e", 1.25 + MOVE_S)][1:]
    # Sent before the new one's first, confirmed after it.
    assert overlapping([confirmed("e", 1.0, 9.0), confirmed("w", 2.0)], regions) == []
    assert overlapping([confirmed("w", 1.0), confirmed("unknown", 1.1)], regions) == []


def definitions(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "vhosts": [{"name": "counting"}, {"name": "others"}],
        "users": [
            {"name": "app", "password_hash": "secret", "tags": []},
            {"name": "lifeboat", "password_hash": "x", "tags": ["administrator"]},
        ],
        "permissions": [
            {"user": "app", "vhost": "counting", "configure": ".*", "write": ".*", "read": ".*"},
            {"user": "lifeboat", "vhost": "counting", "configure": ".*", "write": ".*", "read": ".*"},
        ],
        "parameters": [{"component": "shovel", "vhost": "counting", "name": "s", "value": {"src-uri": "amqp://u:p@h"}}],
        "queues": [
            {"name": "counts", "vhost": "counting", "durable": True, "arguments": {"x-quorum-initial-group-size": 3}},
            {"name": PROBE_QUEUE, "vhost": "counting", "durable": True, "arguments": {}},
            {"name": "counts", "vhost": "others", "durable": True, "arguments": {}},
        ],
    }
    return given | changes


def test_a_standby_is_given_what_is_the_services_own() -> None:
    kept = portable(definitions(), service())
    assert [each["name"] for each in kept["queues"]] == ["counts"]
    assert [each["name"] for each in kept["users"]] == ["app"]
    assert "permissions" not in kept
    assert "parameters" not in kept


@pytest.mark.parametrize(
    "passing",
    [
        {"auto_delete": True},
        {"durable": False},
        {"arguments": {"x-expires": 60_000}},
        {"name": "amq.gen-1"},
    ],
    ids=str,
)
def test_a_queue_that_passes_with_its_clients_is_not_asked_of_a_standby(passing: dict[str, Any]) -> None:
    """On it such a queue ends unused, or stays for ever: a failover would wait for it in vain."""
    queue = {"name": "reply", "vhost": "counting", "durable": True, "arguments": {}, "auto_delete": False, **passing}
    bound = {"vhost": "counting", "source": "amq.topic", "destination_type": "queue", "routing_key": "k"}
    bindings = [{**bound, "destination": queue["name"]}, {**bound, "destination": "counts"}]
    kept = portable(definitions(queues=[*definitions()["queues"], queue], bindings=bindings), service())
    assert [each["name"] for each in kept["queues"]] == ["counts"]
    assert [each["destination"] for each in kept["bindings"]] == ["counts"]


def test_a_user_of_others_is_not_written_over() -> None:
    users = [{"name": name, "password_hash": "new"} for name in ("app", "monitoring", "another")]
    there = essence(definitions(users=[{"name": "app", "password_hash": "old"}, users[1]]), service())
    kept = to_import(definitions(users=users), service(), there)
    assert [each["name"] for each in kept["users"]] == ["app", "another"]


def test_no_secret_is_in_what_is_compared() -> None:
    told = str(essence(definitions(), service()))
    assert "secret" not in told
    assert "amqp://" not in told


def test_the_size_of_a_group_is_each_clusters_own() -> None:
    queue = {"name": "counts", "vhost": "counting", "durable": True, "arguments": {"x-quorum-initial-group-size": 1}}
    one, other = essence(definitions(), service()), essence(definitions(queues=[queue]), service())
    assert digest_of(one) == digest_of(other)


def test_what_the_target_lacks_or_has_otherwise_is_named() -> None:
    one = essence(definitions(), service())
    other_hash = [{"name": "app", "password_hash": "another", "tags": []}]
    other = essence(definitions(queues=[], users=other_hash), service())
    assert differences(one, other, "us-west-2") == [
        "queue counting counts is not in us-west-2",
        "user app is another in us-west-2",
    ]
    assert differences(other, one, "us-east-1") == ["user app is another in us-east-1"]
