"""How a member comes back, and what its divergent WAL says of the loss."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.facts import Branch
from schemas.receipts import Receipt
from schemas.rejoin import Divergence, Examination, FolderFacts, Room
from tests.unit.estates import E1, E2, SYSTEM, gone, leader, receiver, standby
from workflows.policy.rejoin import (
    already_back,
    how_to_return,
    is_within,
    make_receipt,
    may_rejoin,
    newest,
    room_for,
    verdict_on,
)

FORK = 1000


def folder(**changed: Any) -> FolderFacts:
    """pg-east-1 as a crash left it: on timeline 1, which pg-east-2 left at FORK."""
    facts = {
        "member": E1,
        "running": False,
        "major": 15,
        "programs": 15,
        "state": "in production",
        "system": SYSTEM,
        "checkpoint": 900,
        "timeline": 1,
        "segment_bytes": 16 << 20,
        "hints": True,
    }
    return FolderFacts.model_validate(facts | changed)


def examined(*, timeline: int = 2, branches: list[Branch] | None = None, **changed: Any) -> Examination:
    return Examination(
        folder=folder(**changed),
        leader=E2,
        leader_timeline=timeline,
        leader_system=SYSTEM,
        leader_major=15,
        branches=[Branch(timeline=1, switch=FORK)] if branches is None else branches,
    )


def past(**changed: Any) -> Divergence:
    return Divergence.model_validate({"records": 5, "end": 1500, "commits": 3, "last_commit_at": 1400} | changed)


NOTHING_PAST = Divergence(records=0, end=FORK)


class TestHowToReturn:
    @pytest.mark.parametrize(
        ("found", "divergence", "method", "reason"),
        [
            (examined(), past(), "rewind", "WAL up to 0/5DC, past the fork at 0/3E8"),
            (examined(), NOTHING_PAST, "follow", "nothing past the fork"),
            (examined(hints=False), past(), "rebuild", "neither checksums nor wal_log_hints"),
            (examined(hints=False), NOTHING_PAST, "follow", "nothing past the fork"),
            (examined(), Divergence(missing="0…1"), "follow", "ends at 0/384, before the fork"),
            (examined(checkpoint=1200), Divergence(missing="0…1"), "rebuild", "is gone"),
            (examined(recovered_to=1200), Divergence(missing="0…1"), "rebuild", "is gone"),
            (examined(major=0), None, "rebuild", "empty"),
            (examined(major=14), None, "rebuild", "PostgreSQL 14"),
            (examined(begun="rewind"), past(), "rebuild", "a rewind has begun"),
            (examined(begun="rebuild"), None, "rebuild", "a rebuild has begun"),
            (examined(begun="restore"), None, "rebuild", "a restore has begun"),
            (examined(held="it has rows"), past(), "refuse", "it has rows"),
            (examined(held="it has rows"), NOTHING_PAST, "refuse", "--release WHY"),
            (examined(timeline=1, branches=[], standby=True), None, "follow", "on pg-east-2's timeline 1"),
            (examined(timeline=1, branches=[]), None, "rebuild", "can't be told apart"),
            (examined(branches=[Branch(timeline=7, switch=1)]), None, "rewind", "none that pg-east-2 ever was on"),
            (examined(branches=[], hints=False), None, "rebuild", "none that pg-east-2 ever was on"),
        ],
    )
    def test_by_what_is_there(self, found, divergence, method, reason):
        how = how_to_return(found, divergence)
        assert how.method == method, how
        assert reason in how.reason

    def test_what_is_held_goes_by_a_persons_word_alone(self):
        """A run has reasons of its own to copy a member anew: none of them releases it."""
        held = examined(held="it has rows")
        for reason in ("it has WAL of after the moment", "pages of it are damaged"):
            assert how_to_return(held, past(), anew=reason).method == "refuse"
            assert how_to_return(examined(), past(), anew=reason).method == "rebuild"
        assert how_to_return(held, past(), anew="nobody needs it", released="nobody needs it").method == "rebuild"

    def test_whose_data_it_is_comes_first(self):
        for found in (examined(system="8"), examined(system="8", begun="rebuild"), examined(programs=16)):
            assert how_to_return(found, past()).method == "refuse"
        assert "another cluster's" in (may_rejoin(examined(system="8")) or "")
        assert "PostgreSQL none" in (may_rejoin(examined(programs=0)) or "")
        # An empty folder has no system identifier, and is nobody's.
        assert may_rejoin(examined(system="", major=0)) is None

    def test_the_fork_is_where_the_leader_left_this_timeline_not_an_older_one(self):
        found = examined(timeline=3, branches=[Branch(timeline=1, switch=10), Branch(timeline=2, switch=20)])
        assert found.fork == 10
        assert (
            examined(timeline=3, branches=found.branches).model_copy(update={"folder": folder(timeline=2)}).fork == 20
        )


class TestParted:
    def test_past_the_fork_or_where_it_went_off_by_itself(self):
        assert examined().parted == FORK
        assert examined(timeline=1, branches=[]).parted is None
        astray = {"timeline": 5, "ancestors": [Branch(timeline=1, switch=800), Branch(timeline=4, switch=1500)]}
        # It left timeline 1, on which the leader still is.
        still = examined(branches=[]).model_copy(update={"leader_timeline": 1, "folder": folder(**astray)})
        assert still.parted == 800
        # The leader left it as well, before or after.
        for switch, parted in ((700, 700), (900, 800)):
            left = examined(branches=[Branch(timeline=1, switch=switch)]).model_copy(
                update={"folder": folder(**astray)}
            )
            assert left.parted == parted
        # The last that they share counts.
        shared = examined(branches=[Branch(timeline=1, switch=800), Branch(timeline=4, switch=1600)])
        shared = shared.model_copy(update={"leader_timeline": 6, "folder": folder(**astray)})
        assert shared.parted == 1500

    def test_without_its_own_history_nobody_knows(self):
        assert examined(branches=[]).parted is None


class TestAlreadyBack:
    def test_it_streams_on_the_leaders_timeline(self):
        leads = leader(E2, timeline=2)
        there = standby(E1, timeline=2, receiver=receiver(E2))
        assert "streams on timeline 2 already" in (already_back(E1, there, leads) or "")
        for other in (
            gone(E1),
            leader(E1, timeline=2),
            standby(E1, timeline=2),
            standby(E1, timeline=1, receiver=receiver(E2)),
            standby(E1, timeline=2, receiver=receiver(E2), system_identifier="8"),
            standby(E1, timeline=2, receiver=receiver(E2).model_copy(update={"status": "waiting"})),
        ):
            assert already_back(E1, other, leads) is None, other
        assert already_back(E1, there, None) is None
        assert already_back(E1, None, leads) is None
        assert already_back(E1, there, gone(E2)) is None


class TestReceipt:
    def test_none_where_the_leader_never_left_its_timeline(self):
        assert make_receipt(examined(timeline=1, branches=[]), None, "unknown") is None
        assert make_receipt(examined(branches=[], major=0), None, "unknown") is None

    def test_every_commit_past_the_fork_may_have_been_acknowledged(self):
        receipt = make_receipt(examined(), past(catalog_commits=1, own_commits=9), "unknown")
        assert receipt is not None
        assert (receipt.commits, receipt.acknowledged_at_most, receipt.within) == (3, 4, None)
        assert "acknowledged and lost: at most 4; 3 commits only on pg-east-1" in receipt.text()

    def test_where_the_inequality_held_they_were_acknowledged_to_nobody(self):
        receipt = make_receipt(examined(), past(), "none")
        assert receipt is not None
        assert (receipt.commits, receipt.acknowledged_at_most, receipt.within) == (3, 0, True)
        assert receipt.text().startswith("nothing acknowledged was lost")

    def test_nothing_past_the_fork(self):
        for divergence in (NOTHING_PAST, Divergence(missing="0…1")):
            receipt = make_receipt(examined(), divergence, "unknown")
            assert receipt is not None
            assert (receipt.commits, receipt.acknowledged_at_most) == (0, 0), receipt

    @pytest.mark.parametrize("changed", [{"checkpoint": 1200}, {"begun": "rewind"}])
    def test_wal_that_is_gone_is_unknown_never_nothing(self, changed):
        receipt = make_receipt(examined(**changed), Divergence(missing="0…1"), "none")
        assert receipt is not None
        assert (receipt.commits, receipt.acknowledged_at_most) == (None, None)
        assert receipt.text().startswith("unknown: ")

    def test_a_timeline_that_nobody_knows_is_unknown(self):
        receipt = make_receipt(examined(branches=[]), None, "none")
        assert receipt is not None
        assert receipt.commits is None

    def test_what_was_promoted_beside_the_leader_has_no_verdict_that_says_anything(self):
        own = folder(timeline=5, ancestors=[Branch(timeline=1, switch=800)])
        found = examined(branches=[]).model_copy(update={"leader_timeline": 1, "folder": own})
        receipt = make_receipt(found, past(), "none")
        assert receipt is not None
        assert (receipt.fork, receipt.commits, receipt.acknowledged_at_most, receipt.within) == (800, 3, 3, None)

    def test_the_newest_count_of_the_same_wal(self):
        first, more = (make_receipt(examined(), past(commits=n), "unknown") for n in (3, 4))
        other = make_receipt(examined(branches=[Branch(timeline=1, switch=1200)]), past(commits=0), "unknown")
        gone_ = make_receipt(examined(begun="rewind"), Divergence(missing="0…1"), "unknown")
        assert newest(None, first) is first
        assert newest(first, more) is more
        for counted in (None, other, gone_):
            assert newest(first, counted) is first

    @pytest.mark.parametrize(
        ("predicted", "last", "within"),
        [
            ("none", 10**9, True),
            ("unknown", 1001, None),
            ("", 1001, None),
            ("bounded: at most 401 bytes, 1.0 s", 1400, True),
            ("bounded: at most 400 bytes, 1.0 s", 1400, None),
            ("bounded: at most 1,024 bytes", 2023, True),
            ("bounded: at most 1,024 bytes", 2024, None),
            # A checkpoint and Lifeboat's own writes lose nothing.
            ("bounded: at most 4 bytes", None, True),
        ],
    )
    def test_within_what_was_predicted(self, predicted, last, within):
        receipt = Receipt(
            member=E1, timeline=1, fork=FORK, end=9999, reason="", predicted=predicted, last_commit_at=last, commits=1
        )
        assert is_within(receipt) is within

    @pytest.mark.parametrize(("seconds", "within"), [(2.9, True), (3.1, None)])
    def test_within_what_was_predicted_in_time(self, seconds, within):
        first = datetime(2026, 1, 1, tzinfo=UTC)
        times = {"first_commit": first, "last_commit": first + timedelta(seconds=seconds)}
        told = {"predicted": "bounded: at most 3.0 s", "commits": 9, "last_commit_at": 2000, **times}
        assert is_within(Receipt(member=E1, timeline=1, fork=FORK, end=9999, reason="", **told)) is within


def test_the_newest_verdict_is_that_of_whoever_was_left_behind_then():
    """An older primary that comes back late was left behind at another promotion, of which it says nothing."""
    branches = [Branch(timeline=1, switch=FORK), Branch(timeline=2, switch=2 * FORK)]
    early = examined(timeline=3, branches=branches)
    late = early.model_copy(update={"folder": folder(timeline=2)})
    assert (early.left_last, late.left_last) == (False, True)
    assert not examined(timeline=1, branches=[]).left_last
    assert verdict_on(early, "", "none") == ""
    assert verdict_on(late, "", "none") == "none"
    assert verdict_on(early, "bounded, at most 9 bytes", "none") == "bounded, at most 9 bytes"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "not shut down"),
        ({"running": True}, "in production"),
        ({"state": "shut down"}, "shut down"),
        ({"state": "", "system": ""}, "a folder whose pg_control can't be read"),
        ({"state": "", "system": "", "programs": 0}, "a folder, and no program to read it"),
        ({"major": 0, "state": "", "system": ""}, "an empty folder"),
    ],
)
def test_how_a_folder_stands_is_told_in_words(changed: dict[str, Any], text: str):
    assert folder(**changed).text() == text


def test_a_folder_that_tells_nothing_is_nobodys_to_erase():
    unknown = examined(state="", system="", timeline=1, branches=[])
    assert how_to_return(unknown, None).method == "refuse"
    # Nothing is said of the folder where only the programs are missing.
    missing = how_to_return(examined(state="", system="", programs=0, timeline=1, branches=[]), None)
    assert (missing.method, "at its `bin`" in missing.reason) == ("refuse", True)
    # Begun on by a copy, or empty, it is good for one.
    assert how_to_return(examined(state="", system="", begun="rebuild"), None).method == "rebuild"
    assert how_to_return(examined(major=0, state="", system=""), None).method == "rebuild"


def test_what_followed_in_vain_is_copied():
    follows = examined(timeline=1, standby=True, branches=[])
    assert how_to_return(follows, None).method == "follow"
    assert how_to_return(follows, None, in_vain=True).method == "rebuild"
    # On an older timeline as well: nothing of its own, or ended before the fork.
    early, nothing = examined(checkpoint=FORK - 1), Divergence(records=0, missing="")
    assert how_to_return(early, nothing).method == "follow"
    assert how_to_return(early, nothing, in_vain=True).method == "rebuild"
    gone = Divergence(records=0, missing="000000010000000000000001")
    assert how_to_return(early, gone).method == "follow"
    assert how_to_return(early, gone, in_vain=True).method == "rebuild"


def test_room_for_a_copy():
    needs = 1_000_000_000
    assert room_for(E1, E2, Room(bytes=needs, free=1_100_000_000, used=0)) is None
    assert room_for(E1, E2, Room(bytes=needs, free=100_000_000, used=1_000_000_000)) is None
    assert room_for(E1, E2, Room(bytes=None, free=0, used=0)) is None
    told = room_for(E1, E2, Room(bytes=needs, free=100_000_000, used=0))
    assert told == "pg-east-1 has room for 0.1 GB, a copy of pg-east-2 takes 1.1 GB"
