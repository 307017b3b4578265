"""When Sentinels may be asked, who is the heir of a master, and which connection is older than another."""

from __future__ import annotations

from typing import Any

import pytest

from activities.cache_elections import _is_heir, restless
from activities.redis_sessions import PREFIX, Token, fields_of
from schemas.cache_facts import CacheFacts
from schemas.cache_orders import ElectOrder
from tests.unit.cache_estates import AT, E1, E2, E3, EAST, Picture, estate

S1, S2 = "sentinel-east-1", "sentinel-east-2"


def why(picture: Picture, preferred: str | None = None) -> list[str]:
    return restless(
        [each for each in picture.sentinels.values() if each.sentinel.startswith("sentinel-east")], E1, preferred
    )


def test_calm_sentinels_may_be_asked() -> None:
    assert why(Picture()) == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"failing_over": True}, "is at a failover"),
        ({"master": E2}, f"watches {E2}"),
        ({"config_epoch": 8}, "epochs differ"),
    ],
)
def test_one_that_is_at_something_is_waited_for(changed: dict[str, Any], says: str) -> None:
    assert says in why(Picture().change(S1, **changed))[0]


@pytest.mark.parametrize(
    ("priorities", "bad", "calm"),
    [
        ({E2: 1, E3: 100}, {}, True),
        ({E2: 100, E3: 100}, {}, False),
        ({E3: 100}, {}, False),
        ({E2: 1, E3: 1}, {}, False),
        ({E2: 1, E3: 0}, {}, True),
        ({E2: 1, E3: 100}, {E2: "s_down"}, False),
    ],
)
def test_all_must_know_who_is_preferred(priorities: dict[str, int], bad: dict[str, str], calm: bool) -> None:
    picture = Picture()
    for name in (S1, S2, "sentinel-east-3"):
        picture.change(name, priorities=priorities, bad_replicas=bad)
    assert (not why(picture, E2)) is calm


def heir(known: str, /, *, named: str = E1, **facts: Any) -> bool:
    given = estate()
    order = ElectOrder(service=given.service, zone=given.zone, epoch=1, region=EAST, old=E1, history=known)
    picture = Picture()
    for name in (S1, S2, "sentinel-east-3"):
        picture.change(name, master=named)
    master = CacheFacts(member=E2, at=AT, reachable=True, role="master", **facts)
    return _is_heir(order, master, list(picture.sentinels.values()))


def test_an_heir_goes_on_from_the_history_before() -> None:
    assert heir("a", history="b", history_before="a")
    # One that led once, and was started again from its old file.
    assert not heir("a", history="c", history_before="")
    assert not heir("a", history="c", history_before="b")


def test_where_the_history_is_not_known_most_sentinels_must_name_it() -> None:
    assert heir("", named=E2, history="b")
    assert not heir("", named=E1, history="b")


def test_tokens() -> None:
    old, new = Token(3, "7", 1), Token(4, "9", 1)
    assert Token.read(old.name()) == old
    assert old.is_older_than(new)
    assert not new.is_older_than(old)
    assert Token(3, "7", 1).is_older_than(Token(3, "7", 2))
    # Two activities of one run work side by side.
    assert not Token(3, "7", 1).is_older_than(Token(3, "8", 2))
    for name in ("", "app", f"{PREFIX}x/1/1", f"{PREFIX}3"):
        assert Token.read(name) is None


def test_fields() -> None:
    assert fields_of("id=3 name= addr=1.2.3.4:5 ")["addr"] == "1.2.3.4:5"
    assert fields_of("ip=1.2.3.4,port=6,state=online")["state"] == "online"
