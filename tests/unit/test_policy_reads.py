"""Who may be read: the leader's timeline, a stream that comes from the leader, and less lag than declared."""

from __future__ import annotations

from typing import Any

import pytest

from activities.reads import Lags, signature
from schemas.facts import MemberFacts
from schemas.read_orders import Lag
from schemas.topology import DatabaseService
from tests.unit.estates import E1, E2, E3, E4, PORT, W1, W2, gone, leader, receiver, service, standby
from workflows.policy.reads import who_may_read, who_may_read_next

NAMES = {"kind": "dns", "name": "ro", "record": "counting-ro.example.com", "port": PORT}
NONE = Lag(bytes=0, seconds=0.0)


def reading(**changed: Any) -> DatabaseService:
    return service(reads={"max_lag_s": 10, "routes": [NAMES], **changed})


def estate(**changed: MemberFacts) -> list[MemberFacts]:
    """All stream from pg-east-1, pg-west-2 from pg-west-1; a member is replaced under its name with underscores."""
    found = {E1: leader()}
    found |= {name: standby(name, receiver=receiver(W1 if name == W2 else E1)) for name in (E2, E3, E4, W1, W2)}
    return list((found | {name.replace("_", "-"): facts for name, facts in changed.items()}).values())


def lags(**changed: Lag) -> dict[str, Lag]:
    return dict.fromkeys((E2, E3, E4, W1, W2), NONE) | {name.replace("_", "-"): lag for name, lag in changed.items()}


def test_all_who_follow_may_be_read_and_the_leader_is_left_alone() -> None:
    found = who_may_read(reading(), E1, estate(), lags=lags())
    assert found.members == [E2, E3, E4, W1, W2]
    assert found.left_out == {E1: "leads"}


@pytest.mark.parametrize(
    ("name", "facts", "why"),
    [
        (E2, gone(E2), "is not reached"),
        (E2, standby(E2, timeline=2, receiver=receiver()), "is on timeline 2, and pg-east-1 on 1"),
        (E2, standby(E2), "streams from nobody, so that its lag is unknown"),
        (E2, standby(E2, receiver=receiver().model_copy(update={"status": "waiting"})), "streams from nobody"),
        (E2, leader(E2), "leads beside it, and must not be read"),
        (E2, standby(E2, system_identifier="1", receiver=receiver()), "is of another cluster"),
        (E2, standby(E2, receiver=receiver().model_copy(update={"sender_host": "10.9.9.9"})), "10.9.9.9:6000"),
        (E2, standby(E2, receiver=receiver(E2)), "does not lead to pg-east-1"),
    ],
)
def test_each_reason_not_to_be_read(name: str, facts: MemberFacts, why: str) -> None:
    found = who_may_read(reading(), E1, estate(**{name.replace("-", "_"): facts}), lags=lags())
    assert name not in found.members
    assert why in found.left_out[name]


@pytest.mark.parametrize(
    ("upstream", "why"),
    [
        (gone(W1), "cascades from pg-west-1, which is not reached"),
        (standby(W1), "cascades from pg-west-1, which streams from nobody"),
        (standby(W1, timeline=2, receiver=receiver()), "cascades from pg-west-1, which is on timeline 2"),
    ],
)
def test_who_cascades_is_no_better_than_its_senders(upstream: MemberFacts, why: str) -> None:
    found = who_may_read(reading(), E1, estate(pg_west_1=upstream), lags=lags())
    assert W1 not in found.members
    assert W2 not in found.members
    assert why in found.left_out[W2]


def test_lag_in_seconds_in_bytes_and_unknown() -> None:
    measured = lags(
        pg_east_2=Lag(bytes=500, seconds=12.0),
        pg_east_3=Lag(bytes=5000, seconds=1.0),
        pg_east_4=Lag(bytes=9, seconds=None),
    )
    del measured[W1]
    found = who_may_read(reading(max_lag_bytes=4096), E1, estate(), lags=measured, lagging=[W2])
    assert found.members == [E1]
    assert found.left_out[E2] == "lags 12.0 s (500 bytes), the limit is 10 s"
    assert found.left_out[E3] == "lags 5000 bytes, the limit is 4096"
    assert found.left_out[E4] == found.left_out[W1] == "lags, and nobody knows how much"
    assert "has not caught up" in found.left_out[W2]


def test_when_nobody_is_fit_the_leader_is_read_or_nobody() -> None:
    facts = [leader(), *(gone(name) for name in (E2, E3, E4, W1, W2))]
    assert who_may_read(reading(), E1, facts, lags={}).members == [E1]
    refused = who_may_read(reading(fallback="refuse"), E1, facts, lags={})
    assert refused.members == []
    assert refused.left_out[E1] == "leads, and is not to be read"


@pytest.mark.parametrize("head", [gone(E1), standby(E1)])
def test_without_a_leader_that_leads_nobody_is_known_to_be_fit(head: MemberFacts) -> None:
    found = who_may_read(reading(), E1, estate(pg_east_1=head), lags=lags())
    assert found.members == []
    assert found.left_out[E1] == "is not known to lead"


def test_only_declared_members_are_read() -> None:
    found = who_may_read(reading(members=[E4, W2]), E1, estate(), lags=lags())
    assert found.members == [E4, W2]
    assert found.left_out[E2] == "is not declared to be read"


def test_before_a_promotion_only_who_follows_the_candidate_already() -> None:
    found = who_may_read_next(reading(), E2, [E3])
    assert found.members == [E3]
    assert found.left_out[W2] == "does not follow pg-east-2 yet"
    assert who_may_read_next(reading(), E2, []).members == [E2]
    assert who_may_read_next(reading(fallback="refuse"), E2, []).members == []
    assert who_may_read_next(reading(members=[E4]), E2, [E3]).members == [E2]


def test_lag_is_how_long_ago_the_leader_had_written_what_is_missing() -> None:
    found = Lags(reading())
    for second in range(20):
        found.note(leader(written=1000 + 100 * second), float(second))
    assert found.of(standby(E2, 2900), 19.0) == Lag(bytes=0, seconds=0.0)
    assert found.of(standby(E2, 2850), 19.0) == Lag(bytes=50, seconds=0.0)
    assert found.of(standby(E2, 1450), 19.0) == Lag(bytes=1450, seconds=14.0)


def test_an_idle_leader_makes_nobody_lag() -> None:
    """The newest commit is an hour old, and everybody has it."""
    found = Lags(reading())
    for second in range(100):
        found.note(leader(), float(second))
    assert found.of(standby(E2, replay_age_s=3600.0), 99.0) == Lag(bytes=0, seconds=0.0)


def test_what_was_missing_before_the_first_look_is_told_by_the_heartbeat_alone() -> None:
    late = standby(E2, 500, replay_age_s=77.0)
    for heartbeat, seconds in ((True, 77.0), (False, None)):
        found = Lags(
            reading().model_copy(update={"detection": reading().detection.model_copy(update={"heartbeat": heartbeat})})
        )
        found.note(leader(), 0.0)
        assert found.of(late, 0.3) == Lag(bytes=500, seconds=seconds)


def test_who_lagged_comes_back_only_well_below_the_limit() -> None:
    found = Lags(reading())
    measured = {E2: Lag(bytes=1, seconds=11.0), E3: Lag(bytes=1, seconds=6.0), E4: Lag(bytes=1, seconds=4.0)}
    assert found.lagging(measured, []) == [E2]
    assert found.lagging(measured, [E3, E4]) == [E2, E3]
    assert found.lagging({E2: Lag(bytes=1, seconds=None)}, []) == [E2]


def test_positions_alone_are_no_news() -> None:
    one, other = estate(), estate(pg_east_1=leader(written=9000), pg_east_2=standby(E2, 9000, receiver=receiver()))
    assert signature(E1, one, []) == signature(E1, other, [])
    assert signature(E1, one, []) != signature(E1, estate(pg_east_2=standby(E2)), [])
    assert signature(E1, one, []) != signature(E1, one, [E2])
