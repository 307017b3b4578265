"""Which backup leads to a target, over which WAL, and what proves that a copy is what it should be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.facts import Branch
from schemas.restore_requests import Target
from schemas.restores import Backup, CopyFacts, Found, Moment, Place, Repository, Stretch
from schemas.wal import file_of, following, position
from workflows.policy.restore import (
    HEARTBEAT_S,
    after_backup,
    before_lsn,
    choose_backup,
    end_of,
    legs,
    lsn_text,
    newest_moment,
    on_the_way,
    place_of,
    prove,
    resolve,
    rpo_of,
    time_limit,
)

MB = 1 << 20
SIZE = 16 * MB
SYSTEM = "7713549656427098888"
T0 = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def backup(label: str = "F1", *, start: int = 2 * SIZE, timeline: int = 1, hour: float = 0, **changed: Any) -> Backup:
    """It took a minute and most of one WAL file."""
    facts = {
        "label": label,
        "kind": "full",
        "started": after(3600 * hour - 60),
        "stopped": after(3600 * hour),
        "lsn_start": start + 0x28,
        "lsn_stop": start + 0x100,
        "wal_start": file_of(timeline, start, SIZE),
        "wal_stop": file_of(timeline, start, SIZE),
        "system": SYSTEM,
        "archive": "15-1",
        "bytes": 100 * MB,
        "kept_bytes": 10 * MB,
    }
    return Backup.model_validate(facts | changed)


def repository(*stretches: str, **changed: Any) -> Repository:
    """Stretches as `1:2-5`: of timeline 1, the files 2 to 5."""
    found = []
    for each in stretches:
        timeline, _, files = each.partition(":")
        first, _, last = files.partition("-")
        found.append(Stretch(first=wal(int(timeline), int(first)), last=wal(int(timeline), int(last or first))))
    return Repository.model_validate({"backups": [backup()], "timeline": 1, "stretches": found} | changed)


def wal(timeline: int, number: int) -> str:
    return file_of(timeline, number * SIZE, SIZE)


def files(stretches: list[Stretch]) -> list[str]:
    """As `repository` takes them."""
    told = []
    for each in stretches:
        first, last = (int(name[8:16], 16) * 256 + int(name[16:], 16) for name in (each.first, each.last))
        told.append(f"{int(each.first[:8], 16)}:{first}-{last}")
    return told


class TestFiles:
    @pytest.mark.parametrize(
        ("timeline", "lsn", "size", "name"),
        [
            (1, 0x3000148, SIZE, "000000010000000000000003"),
            (0x1A, 0x5_FFFF_FFFF, SIZE, "0000001A00000005000000FF"),
            (0x1A, 0x6_0000_0000, SIZE, "0000001A0000000600000000"),
            (2, 0x5_FF00_0000, 64 * MB, "00000002000000050000003F"),
            (1, MB, MB, "000000010000000000000001"),
        ],
    )
    def test_the_file_that_holds_a_byte(self, timeline: int, lsn: int, size: int, name: str) -> None:
        assert file_of(timeline, lsn, size) == name

    @given(
        st.integers(1, 0xFFFFFFFF),
        st.integers(0, (1 << 62)),
        st.sampled_from([1 << n for n in range(20, 31)]),
    )
    def test_the_next_file_holds_the_byte_one_file_later(self, timeline: int, lsn: int, size: int) -> None:
        assert following(file_of(timeline, lsn, size), size) == file_of(timeline, lsn + size, size)

    @given(st.integers(0, (1 << 64) - 1))
    def test_an_lsn_as_text_and_back(self, lsn: int) -> None:
        assert position(lsn_text(lsn)) == lsn

    @pytest.mark.parametrize(
        ("count", "expected"), [(1, "1:9-9"), (2, "1:8-9"), (5, "1:5-9"), (6, "1:5-9"), (64, "1:5-9")]
    )
    def test_the_last_files_of_a_stretch(self, count: int, expected: str) -> None:
        (stretch,) = repository("1:5-9").stretches
        assert files([end_of(stretch, count, SIZE)]) == [expected]

    def test_the_last_files_across_four_gigabytes(self) -> None:
        (stretch,) = repository("1:250-257").stretches
        assert files([end_of(stretch, 4, SIZE)]) == ["1:254-257"]

    @pytest.mark.parametrize(
        ("lsn", "expected"),
        [
            (2 * SIZE - 1, []),
            (2 * SIZE, ["1:2-2"]),
            (4 * SIZE - 1, ["1:2-3"]),
            (5 * SIZE, ["1:2-4", "2:5-5"]),
            (99 * SIZE, ["1:2-4", "2:5-9"]),
        ],
    )
    def test_up_to_an_lsn(self, lsn: int, expected: list[str]) -> None:
        assert files(before_lsn(repository("1:2-4", "2:5-9").stretches, lsn, SIZE)) == expected


class TestLegs:
    """The WAL from a backup on, which begins in file 2."""

    @pytest.mark.parametrize(
        ("stretches", "expected", "missing"),
        [
            (["1:1-7"], ["1:2-7"], ""),
            (["1:2-2"], ["1:2-2"], ""),
            (["1:2-4", "1:6-9"], ["1:2-4"], wal(1, 5)),
            (["1:1-1", "1:3-9"], [], wal(1, 2)),
            ([], [], wal(1, 2)),
            # Before the backup nothing is needed.
            (["1:0-0", "1:2-4"], ["1:2-4"], ""),
        ],
    )
    def test_one_timeline(self, stretches: list[str], expected: list[str], missing: str) -> None:
        found, lacks = legs(repository(*stretches), backup())
        assert (files(found), lacks) == (expected, missing)

    @pytest.mark.parametrize(
        ("switch", "stretches", "expected", "missing"),
        [
            # In mid file 5: the old timeline's is archived as .partial alone, and its bytes are in the new one's.
            (5 * SIZE + 100, ["1:1-4", "2:5-9"], ["1:2-4", "2:5-9"], ""),
            (5 * SIZE + 100, ["1:1-5", "2:5-9"], ["1:2-4", "2:5-9"], ""),
            # At a border.
            (5 * SIZE, ["1:1-4", "2:5-9"], ["1:2-4", "2:5-9"], ""),
            # In the file that the backup begins in.
            (2 * SIZE + 0x200, ["1:1-1", "2:2-9"], ["2:2-9"], ""),
            (3 * SIZE, ["1:1-2", "2:3-9"], ["1:2-2", "2:3-9"], ""),
            # What is missing, on either.
            (5 * SIZE + 100, ["1:1-3", "2:5-9"], [], wal(1, 4)),
            (5 * SIZE + 100, ["1:3-4", "2:5-9"], [], wal(1, 2)),
            (5 * SIZE + 100, ["1:1-4", "2:6-9"], ["1:2-4"], wal(2, 5)),
            (5 * SIZE + 100, ["1:1-4"], ["1:2-4"], wal(2, 5)),
            (5 * SIZE + 100, ["1:1-4", "2:5-6", "2:8-9"], ["1:2-4", "2:5-6"], wal(2, 7)),
        ],
    )
    def test_a_timeline_that_was_left(
        self, switch: int, stretches: list[str], expected: list[str], missing: str
    ) -> None:
        there = repository(*stretches, timeline=2, branches=[Branch(timeline=1, switch=switch)])
        found, lacks = legs(there, backup())
        assert (files(found), lacks) == (expected, missing)

    def test_two_promotions_within_one_file(self) -> None:
        branches = [Branch(timeline=1, switch=5 * SIZE + 100), Branch(timeline=2, switch=5 * SIZE + 900)]
        there = repository("1:1-4", "3:5-9", timeline=3, branches=branches)
        found, lacks = legs(there, backup())
        assert (files(found), lacks) == (["1:2-4", "3:5-9"], "")

    @pytest.mark.parametrize(
        ("since", "expected"),
        [
            (2 * SIZE + 0x100, ["1:2-4", "2:5-9"]),
            (4 * SIZE, ["1:4-4", "2:5-9"]),
            (5 * SIZE + 99, ["2:5-9"]),
            (5 * SIZE + 100, ["2:5-9"]),
            (7 * SIZE + 1, ["2:7-9"]),
        ],
    )
    def test_since(self, since: int, expected: list[str]) -> None:
        there = repository("1:1-4", "2:5-9", timeline=2, branches=[Branch(timeline=1, switch=5 * SIZE + 100)])
        assert files(legs(there, backup(), since=since)[0]) == expected

    def test_a_backup_of_a_later_timeline_begins_there(self) -> None:
        there = repository("1:1-4", "2:5-9", timeline=2, branches=[Branch(timeline=1, switch=5 * SIZE + 100)])
        assert files(legs(there, backup(start=6 * SIZE, timeline=2))[0]) == ["2:6-9"]

    @given(st.sets(st.integers(0, 12)), st.integers(0, 12 * 4), st.integers(2, 8))
    def test_no_file_is_left_out_in_silence(self, there: set[int], quarter: int, start: int) -> None:
        """Whatever is archived: what is named is there, follows without a gap, and ends at what is called missing."""
        switch = max(quarter * SIZE // 4, start * SIZE + 0x100)
        border = switch // SIZE
        stretches = []
        for timeline in (1, 2):
            own = sorted(n for n in there if (n < border if timeline == 1 else n >= border))
            for n in own:
                if stretches and stretches[-1][0] == timeline and stretches[-1][2] == n - 1:
                    stretches[-1] = (timeline, stretches[-1][1], n)
                else:
                    stretches.append((timeline, n, n))
        archived = repository(
            *(f"{t}:{a}-{b}" for t, a, b in stretches), timeline=2, branches=[Branch(timeline=1, switch=switch)]
        )
        found, missing = legs(archived, backup(start=start * SIZE))
        names = []
        for each in found:
            name = each.first
            while name <= each.last:
                names.append(name)
                name = following(name, SIZE)
        numbers = [int(name[8:16], 16) * 256 + int(name[16:], 16) for name in names]
        wanted = [wal(1 if n < border else 2, n) for n in numbers]
        gap = int(missing[8:16], 16) * 256 + int(missing[16:], 16) if missing else None
        assert set(numbers) <= there
        assert names == wanted
        if gap is not None:
            assert gap not in there
            assert missing == wal(1 if gap < border else 2, gap)
            assert gap >= start
        else:
            # Complete to the end of what is archived.
            assert numbers == list(range(start, max(there) + 1))


class TestChooseBackup:
    OLD, MIDDLE, NEW = backup("F1"), backup("I2", start=4 * SIZE, hour=24), backup("I3", start=6 * SIZE, hour=48)

    def chosen(self, *backups: Backup, branches: list[Branch] | None = None, timeline: int = 1, **to: Any) -> Any:
        there = repository(backups=list(backups), branches=branches or [], timeline=timeline)
        return choose_backup(there, **to)

    @pytest.mark.parametrize(
        ("to", "label"),
        [
            ({}, "I3"),
            ({"before": after(48 * 3600)}, "I3"),
            ({"before": after(48 * 3600 - 0.001)}, "I2"),
            ({"before": T0}, "F1"),
            ({"lsn": 6 * SIZE + 0x100}, "I3"),
            ({"lsn": 6 * SIZE + 0xFF}, "I2"),
            ({"before": after(30 * 3600), "lsn": 99 * SIZE}, "I2"),
            ({"before": after(99 * 3600), "lsn": 3 * SIZE}, "F1"),
        ],
    )
    def test_the_newest_that_had_ended(self, to: dict[str, Any], label: str) -> None:
        chosen, reason = self.chosen(self.OLD, self.MIDDLE, self.NEW, **to)
        assert chosen.label == label
        assert reason == f"{label} is the newest that had ended by then"

    @pytest.mark.parametrize("to", [{"before": T0 - timedelta(seconds=1)}, {"lsn": 2 * SIZE}])
    def test_before_the_oldest_nothing_can_be_restored(self, to: dict[str, Any]) -> None:
        chosen, reason = self.chosen(self.OLD, self.NEW, **to)
        assert chosen is None
        assert reason == (
            "the oldest backup, F1, ended after it: at 2026-11-25 10:00:00+00:00, at 0/02000100; nothing before that"
            " can be restored"
        )

    def test_one_with_bad_pages_is_passed_over_and_told(self) -> None:
        broken = self.NEW.model_copy(update={"broken": True})
        chosen, reason = self.chosen(self.OLD, self.MIDDLE, broken)
        assert chosen == self.MIDDLE
        assert reason.endswith("passed over, since pages were bad when it was taken: I3")
        # Of one that would not have fitted nothing is said.
        assert "passed over" not in self.chosen(self.OLD, broken, before=after(3600))[1]
        chosen, reason = self.chosen(broken)
        assert (chosen, reason) == (None, "no backup leads to timeline 1: take one; pages were bad when I3 was taken")

    def test_one_of_another_branch_is_not_taken(self) -> None:
        """Timeline 2 left 1 in file 5; somebody went on with 1 all the same, and backed that up."""
        branches = [Branch(timeline=1, switch=5 * SIZE)]
        chosen, _ = self.chosen(self.OLD, self.MIDDLE, self.NEW, branches=branches, timeline=2)
        assert chosen == self.MIDDLE
        lost = repository(backups=[self.NEW], branches=branches, timeline=2)
        assert not on_the_way(lost, self.NEW)
        assert choose_backup(lost) == (None, "no backup leads to timeline 2: take one")
        # One that ended exactly where it was left counts; one of a timeline that nobody comes from does not.
        edge = backup("F9", lsn_stop=5 * SIZE)
        assert on_the_way(lost, edge)
        assert not on_the_way(lost, backup("F9", timeline=7))
        assert on_the_way(lost, backup("F9", timeline=2, start=7 * SIZE))

    def test_none_at_all(self) -> None:
        assert self.chosen() == (None, "no backup leads to timeline 1: take one")


NEWEST = Found(places=[], newest_commit=after(500), newest_commit_lsn=8 * SIZE, newest_lsn=9 * SIZE)


class TestResolve:
    def test_a_time(self) -> None:
        moment = resolve(Target(time=after(499.9)), repository(), NEWEST, "")
        assert isinstance(moment, Moment)
        assert (moment.kind, moment.time, moment.timeline) == ("time", after(499.9), 1)

    def test_the_time_of_the_last_commit_is_reached_by_its_lsn(self) -> None:
        """PostgreSQL stops at the first commit that is later; there is none, and the server ends."""
        moment = resolve(Target(time=after(500)), repository(), NEWEST, "")
        assert isinstance(moment, Moment)
        assert (moment.kind, moment.lsn, moment.inclusive, moment.near) == ("lsn", 8 * SIZE, True, after(500))
        assert moment == newest_moment(NEWEST, 1, moment.reason)

    def test_a_time_after_the_last_commit_says_what_could_be_had(self) -> None:
        told = resolve(Target(time=after(501)), repository(), NEWEST, "")
        assert told == (
            "2026-11-25 10:08:21+00:00 is after the last commit that is archived, at 2026-11-25 10:08:20+00:00"
        )
        gap = resolve(Target(time=after(501)), repository(), NEWEST, wal(1, 5))
        assert gap == f"{told}; WAL file {wal(1, 5)} is missing from the archive"

    def test_no_commit_since_the_backup(self) -> None:
        told = resolve(Target(time=after(1)), repository(), Found(places=[]), wal(1, 2))
        assert told == (
            f"the archive holds no commit after the backup; WAL file {wal(1, 2)} is missing from the archive"
        )
        # One that was made while the backup was taken is none: recovery can't stand still before its end.
        during = NEWEST.model_copy(update={"newest_commit_lsn": 2 * SIZE})
        assert after_backup(during, backup()).newest_commit is None
        assert after_backup(NEWEST, backup()) == NEWEST

    @pytest.mark.parametrize("exclusive", [True, False])
    def test_an_lsn(self, exclusive: bool) -> None:
        moment = resolve(Target(lsn="0/9000000", exclusive=exclusive), repository(), NEWEST, "")
        assert isinstance(moment, Moment)
        assert (moment.kind, moment.lsn, moment.inclusive) == ("lsn", 9 * SIZE, not exclusive)

    def test_an_lsn_past_the_end(self) -> None:
        told = resolve(Target(lsn="0/9000001"), repository(), NEWEST, "X")
        assert told == (
            "0/9000001 is after the end of the archived WAL, at 0/09000000; WAL file X is missing from the archive"
        )

    def test_the_timeline_is_named_and_why(self) -> None:
        two = repository(timeline=2, branches=[Branch(timeline=1, switch=5)])
        for target, there, timeline, reason in (
            (Target(lsn="0/1"), repository(), 1, "there is one timeline only"),
            (Target(lsn="0/1"), two, 2, "timeline 2 is the living branch of history"),
            (Target(lsn="0/1", timeline=2), two, 2, "timeline 2 was asked for"),
        ):
            moment = resolve(target, there, NEWEST, "")
            assert isinstance(moment, Moment)
            assert (moment.timeline, moment.reason) == (timeline, reason)


def place(what: str, lsn: int = 700, xid: int = 0, at: float | None = None) -> Place:
    return Place(lsn=lsn, xid=xid, at=None if at is None else after(at), what=what)


class TestPlaceOf:
    @pytest.mark.parametrize("what", ["COMMIT", "COMMIT_PREPARED"])
    @pytest.mark.parametrize("exclusive", [True, False])
    def test_a_transaction(self, what: str, exclusive: bool) -> None:
        moment = place_of(Target(xid=7, exclusive=exclusive), [place(what, xid=7, at=10)], 3)
        assert isinstance(moment, Moment)
        assert (moment.kind, moment.lsn, moment.inclusive, moment.xid) == ("lsn", 700, not exclusive, 7)
        assert (moment.timeline, moment.near) == (3, after(10))

    @pytest.mark.parametrize("what", ["ABORT", "ABORT_PREPARED"])
    def test_one_that_was_rolled_back(self, what: str) -> None:
        told = place_of(Target(xid=7), [place(what, xid=7, at=10)], 1)
        assert told == "transaction 7 was rolled back: there is no state with it"

    def test_nothing(self) -> None:
        assert place_of(Target(name="x"), [], 1) is None
        assert place_of(Target(before_drop="public.t", until=T0), [place("DROP", at=1)], 1) is None

    TWICE = (place("RESTORE_POINT", 700, at=10), place("RESTORE_POINT", 900, at=20))

    def test_a_name_that_was_given_twice_is_not_guessed(self) -> None:
        told = place_of(Target(name="x"), self.TWICE, 1)
        assert told == (
            "restore point x: it happened more than once, at 0/000002BC (2026-11-25 10:00:10+00:00), 0/00000384"
            " (2026-11-25 10:00:20+00:00); say `until` or name one by its `lsn`"
        )

    @pytest.mark.parametrize(("until", "lsn"), [(15, 700), (20, 900), (99, 900)])
    def test_until_tells_which(self, until: float, lsn: int) -> None:
        moment = place_of(Target(name="x", until=after(until)), self.TWICE, 1)
        assert isinstance(moment, Moment)
        assert (moment.lsn, moment.inclusive) == (lsn, True)
        assert moment.reason.startswith("restore point x is at")

    def test_a_drop_is_never_with_it(self) -> None:
        for exclusive in (True, False):
            target = Target(before_drop="public.t", exclusive=exclusive)
            moment = place_of(target, [place("DROP", 700, xid=9, at=10)], 1)
            assert isinstance(moment, Moment)
            assert (moment.lsn, moment.inclusive, moment.xid, moment.near) == (700, False, 9, after(10))
            assert "transaction 9 dropped public.t" in moment.reason


GOOD = CopyFacts(
    running=True,
    in_recovery=True,
    pause="paused",
    system=SYSTEM,
    timeline=1,
    replayed=8 * SIZE,
    last_commit=after(99.8),
    heartbeat=after(99.5),
    fetched=6,
    newest_file=wal(1, 8),
    refused={"00000002.history": 1, wal(1, 9): 1},
    network="own",
)
AT = Moment(kind="time", timeline=1, time=after(100), reason="")
NAMES = [
    "the backup had ended before the target",
    "recovery stands still at the target",
    "nothing after the target was replayed",
    "the heartbeat is within a second or two of the target",
    "it is on the intended timeline",
    "it is the same cluster",
    "every WAL file was there",
    "it reaches nobody",
]
ENDED, STILL, LATE, CLOSE, BRANCH, SAME, WHOLE, NOBODY = NAMES


def verdicts(
    moment: Moment = AT,
    *,
    of: Backup | None = None,
    branches: list[Branch] | None = None,
    system: str = SYSTEM,
    declares: bool = True,
    **changed: Any,
) -> dict[str, bool | None]:
    there = repository(branches=branches or [], timeline=moment.timeline)
    copy = GOOD.model_copy(update=changed)
    found = prove(copy, of or backup(), moment, there, system=system, heartbeat=declares)
    assert [each.clause for each in found] == NAMES
    assert all(each.evidence for each in found)
    return {each.clause: each.ok for each in found}


def lsn(at: int = 8 * SIZE, **changed: Any) -> Moment:
    return Moment.model_validate({"kind": "lsn", "timeline": 1, "lsn": at, "reason": ""} | changed)


class TestProve:
    def test_a_good_copy(self) -> None:
        assert set(verdicts().values()) == {True}
        assert set(verdicts(lsn(near=after(100))).values()) == {True}
        assert set(verdicts(lsn(near=after(100), inclusive=False)).values()) == {True}

    @pytest.mark.parametrize(
        ("clause", "changed"),
        [
            (ENDED, {"replayed": 2 * SIZE + 0xFF}),
            (ENDED, {"of": backup(stopped=after(100.001))}),
            (STILL, {"pause": "not paused"}),
            (STILL, {"pause": "pause requested"}),
            (STILL, {"running": False}),
            # Promoted: the worst that could be taken for a good end.
            (STILL, {"in_recovery": False}),
            (LATE, {"last_commit": after(100.001)}),
            (CLOSE, {"heartbeat": None}),
            (CLOSE, {"heartbeat": after(100 - HEARTBEAT_S - 0.01)}),
            (CLOSE, {"heartbeat": after(100 + HEARTBEAT_S + 0.01)}),
            (BRANCH, {"timeline": 2}),
            (SAME, {"system": "8"}),
            (SAME, {"of": backup(system="8")}),
            (WHOLE, {"fetched": 0}),
            (WHOLE, {"refused": {wal(1, 9): 55}}),
            (WHOLE, {"refused": {wal(1, 8): 103}}),
            (WHOLE, {"refused": {wal(1, 5): 1}}),
            (WHOLE, {"refused": {"00000002.history": 255}}),
            (NOBODY, {"reaches": ["has 127.0.0.1"]}),
            (NOBODY, {"reaches": ["has a route by eth0"]}),
        ],
    )
    def test_each_clause_fails_alone(self, clause: str, changed: dict[str, Any]) -> None:
        assert [name for name, ok in verdicts(**changed).items() if ok is False] == [clause]

    @pytest.mark.parametrize(
        ("moment", "changed"),
        [
            (lsn(inclusive=False), {"replayed": 8 * SIZE + 1}),
            (lsn(inclusive=False, near=after(99)), {"heartbeat": after(98)}),
            (lsn(near=after(99)), {"heartbeat": after(98)}),
        ],
    )
    def test_an_lsn_that_was_passed(self, moment: Moment, changed: dict[str, Any]) -> None:
        found = verdicts(moment, **changed)
        assert [name for name, ok in found.items() if ok is False] == [LATE]

    def test_with_the_record_itself_more_is_replayed_than_its_beginning(self) -> None:
        assert verdicts(lsn(8 * SIZE - 40, near=after(100)))[LATE] is True

    def test_another_leaders_cluster_and_none(self) -> None:
        assert [name for name, ok in verdicts(system="8").items() if ok is False] == [SAME]
        assert verdicts(system="")[SAME] is True

    def test_what_does_not_apply_is_told_as_that(self) -> None:
        assert verdicts(declares=False)[CLOSE] is None
        at_end = Moment(kind="immediate", timeline=1, reason="")
        assert [name for name, ok in verdicts(at_end).items() if ok is None] == [LATE, CLOSE]
        # Where nothing was committed there is no time to compare with.
        assert verdicts(lsn(), last_commit=None)[CLOSE] is None
        assert verdicts(last_commit=None)[LATE] is True

    def test_a_network_that_it_shares_is_never_told_as_none(self) -> None:
        assert verdicts(network="shared")[NOBODY] is None
        assert verdicts(network="")[NOBODY] is None
        found = prove(
            GOOD.model_copy(update={"network": "shared", "shared": "unshare failed"}),
            backup(),
            AT,
            repository(branches=[], timeline=1),
            system=SYSTEM,
            heartbeat=True,
        )
        assert found[-1].evidence.endswith("its host's network: unshare failed")

    def test_a_heartbeat_that_pauses_while_another_takes_over_proves_nothing(self) -> None:
        led = {"branches": [Branch(timeline=1, switch=8 * SIZE)], "moment": AT.model_copy(update={"timeline": 2})}
        told = {"timeline": 2, "heartbeat": after(96), "last_commit": after(99.9)}
        assert verdicts(**led, **told)[CLOSE] is None
        for changed in ({"heartbeat": after(39)}, {"last_commit": after(97)}, {"last_commit": None}):
            assert verdicts(**led, **{**told, **changed})[CLOSE] is False
        assert verdicts(heartbeat=after(96), last_commit=after(99.9))[CLOSE] is False, "nobody else has ever led"

    def test_an_older_timeline_only_up_to_where_it_was_left(self) -> None:
        moment = Moment(kind="time", timeline=2, time=after(100), reason="")
        for switch, ok in ((8 * SIZE, True), (8 * SIZE - 1, False)):
            found = verdicts(moment, branches=[Branch(timeline=1, switch=switch)])
            assert found[BRANCH] is ok, switch
        assert verdicts(moment, branches=[Branch(timeline=3, switch=99 * SIZE)])[BRANCH] is False


def test_a_time_limit_leaves_room() -> None:
    assert time_limit(0, 50e6) == 900
    assert time_limit(50_000_000_000, 50e6) == 900 + 3 * 1000


def test_what_was_lost_is_never_less_than_nothing() -> None:
    assert rpo_of(T0, after(12.5)) == 12.5
    assert rpo_of(after(1), T0) == 0
    assert rpo_of(None, T0) is None
    assert rpo_of(T0, None) is None
