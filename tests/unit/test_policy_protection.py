"""Whether the estate is protected, and what a person is told where it is not."""

from __future__ import annotations

from schemas.facts import MemberFacts
from schemas.orders import Observation
from tests.unit.estates import E1, E2, E3, E4, W1, W2, gone, leader, receiver, record, service, standby
from workflows.policy.protection import what_is_missing

SET = 'ANY 1 ("pg-east-2","pg-east-3")'


def follows(name: str, **changed: object) -> MemberFacts:
    return standby(name, receiver=receiver(W1 if name == W2 else E1), **changed)


def missing(*changed: MemberFacts, names: str = SET, of=None) -> list[str]:
    facts = {each.member: each for each in (leader(E1, names=names), *(follows(name) for name in (E2, E3, E4, W1, W2)))}
    facts |= {each.member: each for each in changed}
    return what_is_missing(of or service(), record(), list(facts.values()))


def test_all_is_well():
    assert missing() == []
    assert missing(names='FIRST 1 ("pg-east-3","pg-east-2")') == []


def test_a_leader_that_does_not_lead_is_all_that_is_told():
    for lost in (gone(E1), follows(E1)):
        assert missing(lost) == ["pg-east-1 should lead, and does not: fail over"]


def test_who_does_not_follow_and_why():
    for found, why in (
        (gone(E4), "is not reached (connection refused)"),
        (leader(E4), "leads beside it"),
        (follows(E4, system_identifier="8"), "is of another cluster"),
        (standby(E4), "does not stream"),
        (follows(E4, timeline=2), "is on timeline 2, not 1"),
    ):
        (told,) = missing(found)
        assert told.startswith(f"pg-east-4 {why}: `lifeboat run database-rejoin counting-db --member pg-east-4`"), told
    told = what_is_missing(service(), record(), [leader(E1, names=SET)])
    assert [line.split()[0] for line in told] == [E2, E3, E4, W1, W2]


def test_the_synchronous_set():
    assert "acknowledges with 0 of 1 voters" in missing(names="")[0]
    assert missing(names='ANY 1 ("pg-east-2")') == [
        "pg-east-3 not in the synchronous set yet: the watch adds who streams"
    ]
    assert "its owner must look" in missing(names='FIRST 1 ("__fenced__")')[0]
    assert "its owner must look" in missing(names="ANY 1 (*)")[0]
    two = service(synchronous={"acknowledgements": 2})
    assert "acknowledges with 1 of 2 voters" in missing(of=two)[0]


def test_an_asynchronous_estate_needs_no_set():
    assert missing(names="", of=service(synchronous={"voters": []})) == []


def test_who_leads():
    def led_by(*facts: MemberFacts, **changed: object) -> str | None:
        return Observation(record=record(**changed), members=list(facts)).led_by

    assert led_by(leader(E1), follows(E2)) == E1
    assert led_by(leader(E1), candidate=E2) is None
    assert led_by(gone(E1), leader(E2)) is None
    assert led_by(follows(E1)) is None
    assert Observation(record=None, members=[leader(E1)]).led_by is None
