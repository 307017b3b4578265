"""Who is put back to a moment, and what keeps one that is not where the copy stood from leading."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from schemas.orders import PromoteResult
from schemas.rejoin import FolderFacts, Room
from schemas.restores import CopyFacts, Newest, Written
from tests.unit.estates import E1, E2, E3, W1, gone, leader, service, standby
from workflows.policy import cut_over

CONTROL = {"kind": "command", "start": ["a"], "stop": ["b"]}
DATA = {"directory": "/d", "bin": "/b", "keep": "/k"}
NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


@pytest.fixture
def estate():
    declared = service(failover={"candidates": [W1, E2, E3, E1]})
    members = []
    for each in declared.members:
        given = each.model_dump() | {"control": CONTROL, "data": DATA}
        members.append(type(each).model_validate(given))
    return declared.model_copy(update={"members": members})


class TestChoose:
    def test_a_standby_of_the_leaders_region_however_far_behind(self, estate):
        chosen, why = cut_over.choose(estate, leader(E1, 10**9), [standby(W1), standby(E2, 1)], None)
        assert chosen == E2
        assert "pg-east-1 keeps what came after" in why

    def test_the_one_that_is_named_or_nobody(self, estate):
        assert cut_over.choose(estate, leader(E1), [standby(W1), standby(E2)], W1)[0] == W1
        assert cut_over.choose(estate, leader(E1), [gone(W1), standby(E2)], W1) == (None, "pg-west-1 is not reached")
        chosen, why = cut_over.choose(estate, leader(E1), [standby(E2)], E1)
        assert chosen is None
        assert "not declared as a candidate" in why

    def test_why_nobody(self, estate):
        found = [gone(E2), leader(E3), standby(W1, system_identifier="8")]
        chosen, why = cut_over.choose(estate, leader(E1), found, None)
        assert chosen is None
        assert why == "pg-east-2 is not reached; pg-east-3 is not a standby; pg-west-1 is of another cluster"

    def test_a_member_that_can_not_be_worked_on(self):
        bare = service(failover={"candidates": [E2]})
        members = [each.model_copy(update={"data": None}) for each in bare.members]
        chosen, why = cut_over.choose(bare.model_copy(update={"members": members}), leader(E1), [standby(E2)], None)
        assert chosen is None
        assert "no `control` and `data`" in why


def test_room():
    assert cut_over.too_small(E2, Room(bytes=100, free=40, used=60)) is None
    assert cut_over.too_small(E2, Room(bytes=None, free=0, used=0)) is None
    assert "has room for" in (cut_over.too_small(E2, Room(bytes=101, free=40, used=60)) or "")


COPY = CopyFacts(replayed=1000, last_commit=NOW, heartbeat=NOW)


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({}, []),
        ({"replayed": 1001}, ["it stands at the copy's own place"]),
        ({"replayed": 999}, ["it stands at the copy's own place"]),
        ({"last_commit": NOW + timedelta(microseconds=1)}, ["its last commit is the copy's"]),
        ({"heartbeat": None}, ["its heartbeat is the copy's"]),
    ],
)
def test_it_must_stand_where_the_copy_stood(changed, failing):
    proofs = cut_over.compare(COPY.model_copy(update=changed), COPY)
    assert [each.clause for each in proofs if each.ok is False] == failing


def test_what_the_copy_did_not_tell_is_not_told():
    proofs = cut_over.compare(CopyFacts(replayed=1000), CopyFacts(replayed=1000))
    assert [each.ok for each in proofs] == [True, None, None]


def test_the_newest_rows():
    a, b, c = (Newest(table=f"public.{each}", at=NOW) for each in "abc")
    copy = [a, b.model_copy(update={"at": None}), c.model_copy(update={"at": None, "error": "x"})]
    found = [a, b, c]
    assert [each.ok for each in cut_over.compare_rows(found, copy)] == [True, False, None]
    assert [each.ok for each in cut_over.compare_rows([], copy)] == [None, None, None]


@pytest.mark.parametrize(
    ("found", "how"),
    [
        ({"running": True}, "runs"),
        ({"standby": True, "stamp": 7}, "standby"),
        ({"standby": False, "stamp": 7, "state": "in production"}, "leader"),
        ({"standby": False, "stamp": 7, "state": "shut down"}, "leader"),
        # A primary that this run did not promote would be a second one.
        ({"standby": False, "stamp": 6, "state": "in production"}, "person"),
        ({"standby": False, "stamp": 7, "state": "in archive recovery"}, "person"),
        ({"standby": False, "stamp": 7, "begun": "restore"}, "person"),
    ],
)
def test_a_candidate_that_has_ended_is_started_as_what_it_was(found, how):
    given = {"member": E2, "running": False} | found
    said, why = cut_over.how_to_start(FolderFacts(**given), 7)
    assert said == how
    assert E2 in why


@pytest.mark.parametrize(("timeline", "led_on", "apart"), [(3, 2, True), (2, 2, False), (2, 3, False), (2, 1, True)])
def test_two_branches_with_one_number_are_told(timeline, led_on, apart):
    why = cut_over.not_its_own(PromoteResult(member=E2, timeline=timeline, fork=1), E1, led_on)
    assert (why is None) == apart, why
    if why is not None:
        assert "can't be told apart" in why


def test_what_keeps_something_is_told_with_the_word_that_lets_it_go():
    told = cut_over.kept_text("counting-db", E1, "it has rows")
    assert "--member pg-east-1 --release WHY" in told
    assert "keeps it has rows" in told


def test_what_was_written_after_the_moment_is_told_by_bytes_and_seconds():
    written = Written(member=E1, first=0x3000148, last=0x3000248, since=NOW, until=NOW + timedelta(seconds=90))
    assert written.text() == "from 0/03000148 to 0/03000248 (256 bytes, 90.0 s)"
    assert "up to 2026-11-29 12:01:30 UTC" in written.model_copy(update={"last": None}).text()
