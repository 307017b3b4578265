"""Retention of the plain archive: what stays, what is archived, what goes, and what never does."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from archiver.catalogue import RECORD, Held, Record, backups, needs_from, read_record
from archiver.config import Limits
from archiver.errors import Damaged, Unusable
from archiver.keeping import DAY_S, plan
from archiver.manifest import NAME, Manifest
from archiver.store import Stored
from schemas.backup import Retention
from schemas.wal import file_of, position

NOW = 2_000_000_000.0
AT = datetime.fromtimestamp(NOW - 8 * DAY_S, UTC)


def label_of(age: float) -> str:
    return datetime.fromtimestamp(NOW - age * DAY_S, UTC).strftime("%Y%m%d-%H%M%SF")


def segment(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}{number // 256:08X}{number % 256:08X}"


def backup(age: float, first: int, *, error: bool = False, storage: str = "STANDARD", timeline: int = 1) -> Held:
    label = label_of(age)
    stop = int(NOW - age * DAY_S)
    record = Record(
        label=label,
        start=stop - 60,
        stop=stop,
        lsn_start="0/0",
        lsn_stop="0/0",
        wal_start=segment(first, timeline),
        wal_stop=segment(first + 1, timeline),
        system="1",
        bytes=1000,
        kept=100,
        tars=["base.tar.gz"],
        error=error,
    )
    names = {"base.tar.gz": storage, NAME: "STANDARD", RECORD: "STANDARD"}
    stored = [Stored(f"base/{label}/{name}", 100, AT, kept) for name, kept in names.items()]
    return Held(label, stored, record)


def wal(first: int, last: int, timeline: int = 1, storage: str = "STANDARD") -> list[Stored]:
    return [Stored(f"wal/{segment(each, timeline)}", 16 << 20, AT, storage) for each in range(first, last)]


def names(found: list[Stored]) -> list[str]:
    return [each.name for each in found]


def test_the_newest_so_many_stay_and_the_rest_goes_with_its_wal_alone() -> None:
    found = [backup(4, 10), backup(3, 20), backup(2, 30), backup(1, 40)]
    made = plan(found, wal(5, 50), Limits(keep_fulls=2), NOW)
    assert (made.remove, made.archive) == ([label_of(4), label_of(3)], [])
    assert names(made.wal_remove) == names(wal(5, 30))
    assert made.wal_archive == []


def test_what_is_younger_stays_besides_and_the_one_before_it() -> None:
    found = [backup(12, 6), backup(9, 10), backup(3, 20), backup(2, 30), backup(1, 40)]
    made = plan(found, wal(5, 50), Limits(keep_fulls=1, keep_days=5), NOW)
    assert made.remove == [label_of(12)]
    assert names(made.wal_remove) == names(wal(5, 10))
    # Taken once a week and kept for one: what was six days ago is recovered from the one before.
    weekly = [backup(14.2, 10), backup(7.1, 20), backup(0.1, 30)]
    made = plan(weekly, wal(5, 50), Limits(keep_days=7), NOW)
    assert made.remove == [label_of(14.2)]
    assert made.why[label_of(7.1)] == "kept: what was 7 days ago is recovered from it"
    # A broken one is no beginning.
    weekly.insert(2, backup(7.05, 25, error=True))
    made = plan(weekly, wal(5, 50), Limits(keep_days=7), NOW)
    assert made.remove == [label_of(14.2), label_of(7.05)]


def test_the_newest_is_that_which_ends_last_in_the_wal_whatever_its_time() -> None:
    """An old one that is copied here and adopted has the time of its copy."""
    adopted = backup(0.1, 10)
    found = [adopted, backup(9, 20), backup(5, 30)]
    assert [each.label for each in backups(found)] == [label_of(0.1), label_of(9), label_of(5)]
    made = plan(found, wal(5, 50), Limits(keep_fulls=1), NOW)
    assert made.remove == [label_of(0.1), label_of(9)]
    assert made.why[label_of(5)] == "kept: the newest good one"
    # A later timeline is later, wherever it branched off.
    found.append(backup(4, 25, timeline=2))
    assert plan(found, wal(5, 50), Limits(keep_fulls=1), NOW).why[label_of(4)] == "kept: the newest good one"


def test_an_archive_class_takes_them_with_the_wal_that_they_alone_need() -> None:
    found = [backup(400, 10), backup(100, 20), backup(50, 30, storage="GLACIER"), backup(2, 40), backup(1, 50)]
    limits = Limits(keep_fulls=2, archive_class="GLACIER", keep_archived_days=365)
    made = plan(found, [*wal(5, 35), *wal(35, 38, storage="GLACIER"), *wal(38, 60)], limits, NOW)
    assert (made.remove, made.archive) == ([label_of(400)], [label_of(100), label_of(50)])
    assert names(made.wal_remove) == names(wal(5, 20))
    # What is there already is not moved again.
    assert names(made.wal_archive) == names([*wal(20, 35), *wal(38, 40)])
    assert made.why[label_of(50)].startswith("in GLACIER")
    assert made.warnings == []


def test_a_broken_backup_does_not_count_and_the_newest_good_one_stays() -> None:
    found = [backup(9, 10), backup(3, 20), backup(1, 40, error=True)]
    made = plan(found, wal(5, 50), Limits(keep_fulls=1), NOW)
    assert made.remove == [label_of(9)]
    assert made.why[label_of(1)] == "kept: no good one is newer"
    assert names(made.wal_remove) == names(wal(5, 20))
    # Older than every limit, and the only one.
    (only,) = [backup(900, 10)]
    made = plan([only], wal(5, 50), Limits(keep_days=1, archive_class="GLACIER", keep_archived_days=2), NOW)
    assert (made.remove, made.archive) == ([], [])
    assert names(made.wal_remove) == names(wal(5, 10))


def test_without_a_good_backup_or_a_limit_nothing_goes() -> None:
    for found, limits in (([backup(9, 10, error=True)], Limits(keep_fulls=1)), ([backup(9, 10)], Limits())):
        made = plan(found, wal(1, 50), limits, NOW)
        assert (made.remove, made.archive, made.wal_remove, made.wal_archive) == ([], [], [], [])
        assert made.warnings


def test_timelines_are_compared_by_place_and_histories_never_go() -> None:
    found = [backup(3, 10), backup(1, 40, timeline=2)]
    other = [Stored("wal/00000002.history", 50, AT, "STANDARD")]
    other += [Stored(f"wal/{segment(7)}.00000028.backup", 300, AT, "STANDARD")]
    other += [Stored(f"wal/{segment(39)}.partial", 16 << 20, AT, "STANDARD")]
    other += [Stored(f"wal/{segment(40)}.partial", 16 << 20, AT, "STANDARD")]
    made = plan(found, [*wal(5, 45), *wal(38, 50, timeline=2), *other], Limits(keep_fulls=1), NOW)
    gone = names(made.wal_remove)
    assert set(gone) == {
        *names(wal(5, 40)),
        *names(wal(38, 40, 2)),
        f"{segment(7)}.00000028.backup",
        f"{segment(39)}.partial",
    }


def test_what_is_somebody_elses_is_kept_with_its_wal() -> None:
    own = Held("sunday", [Stored(f"base/sunday/{NAME}", 100, AT, "STANDARD")], None, wal_start=segment(12))
    made = plan([own, backup(9, 20), backup(1, 40)], wal(5, 50), Limits(keep_fulls=1), NOW)
    assert made.remove == [label_of(9)]
    assert names(made.wal_remove) == names(wal(5, 12))
    assert "sunday is no backup of this program's" in made.warnings[0]
    unknown = Held("monday", [Stored("base/monday/base.tar.gz", 100, AT, "STANDARD")])
    made = plan([unknown, backup(9, 20), backup(1, 40)], wal(5, 50), Limits(keep_fulls=1), NOW)
    assert made.wal_remove == []
    assert "monday has no backup_manifest" in made.warnings[0]
    # Somebody copies it here at this moment: its manifest comes last.
    copied = [Stored("base/monday/base.tar.gz", 100, datetime.fromtimestamp(NOW - 60, UTC), "STANDARD")]
    made = plan([Held("monday", copied), backup(9, 20), backup(1, 40)], wal(5, 50), Limits(keep_fulls=1), NOW)
    assert made.wal_remove == []


def test_what_can_not_be_read_is_kept_with_all_wal_and_the_rest_goes() -> None:
    for label in ("sunday", label_of(30)):
        bad = Held(label, [Stored(f"base/{label}/{RECORD}", 100, AT, "STANDARD")], unreadable="half of it is there")
        made = plan([bad, backup(9, 20), backup(1, 40)], wal(5, 50), Limits(keep_fulls=1), NOW)
        assert (made.remove, made.debris, made.wal_remove) == ([label_of(9)], [], [])
        assert made.warnings == [f"{label} can't be read, and all WAL is kept: half of it is there"]


def test_a_record_of_a_later_version_is_read_and_half_of_one_is_not() -> None:
    record = backup(1, 10).record
    assert record is not None
    told = asdict(record)
    assert read_record(json.dumps(told | {"colour": "blue"}).encode(), "x") == record
    del told["wal_stop"]
    for text in (json.dumps(told), json.dumps(told | {"wal_stop": "7"}), "[]", '{"label": "x'):
        with pytest.raises(Damaged, match="x is no record of a backup"):
            read_record(text.encode(), "x")


def test_what_a_killed_backup_left_goes_once_it_is_no_longer_under_way() -> None:
    def left(days: float, *names: str) -> Held:
        at = datetime.fromtimestamp(NOW - days * DAY_S, UTC)
        start = segment(12) if NAME in names else ""
        return Held(label_of(0.5), [Stored(f"base/x/{name}", 100, at, "STANDARD") for name in names], wal_start=start)

    # The time of an object is that at which its upload began.
    young = plan([left(2, "base.tar.gz"), backup(1, 40)], wal(5, 50), Limits(keep_fulls=1), NOW)
    assert (young.debris, young.warnings) == ([], [])
    young = plan([left(2, "base.tar.gz", NAME), backup(1, 40)], wal(5, 50), Limits(keep_fulls=1), NOW)
    assert (young.debris, names(young.wal_remove)) == ([], names(wal(5, 12)))
    for there in (["base.tar.gz"], ["base.tar.gz", NAME]):
        old = plan([left(8, *there), backup(1, 40)], wal(5, 50), Limits(keep_fulls=1), NOW)
        assert (old.debris, names(old.wal_remove)) == ([label_of(0.5)], names(wal(5, 40)))


@given(
    ages=st.lists(
        st.tuples(st.floats(0.1, 900), st.booleans()), min_size=1, max_size=12, unique_by=lambda each: each[0]
    ),
    keep_fulls=st.integers(0, 5),
    keep_days=st.sampled_from([0.0, 1.0, 30.0]),
    cold=st.sampled_from([("", 0.0), ("GLACIER", 0.0), ("GLACIER", 400.0)]),
)
def test_whatever_is_declared_nothing_that_is_kept_loses_what_it_needs(
    ages: list[tuple[float, bool]], keep_fulls: int, keep_days: float, cold: tuple[str, float]
) -> None:
    order = sorted(ages, reverse=True)
    found = [backup(age, 10 * n, error=error) for n, (age, error) in enumerate(order, start=1)]
    limits = Limits(keep_fulls=keep_fulls, keep_days=keep_days, archive_class=cold[0], keep_archived_days=cold[1])
    made = plan(found, wal(1, 200), limits, NOW)
    good = [each for each in found if each.record and not each.record.error]
    if good:
        assert good[-1].label not in {*made.remove, *made.archive}
    else:
        assert not made.remove
    moved, gone = set(names(made.wal_archive)), set(names(made.wal_remove))
    for each in found:
        assert each.record is not None
        needed = {name for name in names(wal(1, 200)) if name >= each.record.wal_start}
        if each.label in made.remove:
            continue
        assert not needed & gone
        if each.label not in made.archive:
            assert not needed & moved


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(keep_fulls=1, keep_archived_days=30), "no archive_class is named"),
        (Limits(keep_days=30, archive_class="GLACIER", keep_archived_days=30), "nothing would ever be archived"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(limits: Limits, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        plan([backup(1, 10)], [], limits, NOW)


def test_what_goes_too_early_is_paid_for_still() -> None:
    limits = Limits(keep_fulls=1, archive_class="DEEP_ARCHIVE", keep_archived_days=100)
    assert "before 180 days" in plan([backup(1, 10)], [], limits, NOW).warnings[0]


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({}, "nothing would be kept but the newest backup"),
        ({"keep_fulls": 2, "keep_archived_days": 30}, "no `archive_class` is named"),
        ({"keep_days": 30, "archive_class": "GLACIER", "keep_archived_days": 20}, "ends before `keep_days`"),
        ({"keep_fulls": 2, "archive_class": "STANDARD"}, "GLACIER"),
    ],
)
def test_so_they_are_in_the_topology(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Retention.model_validate(given_)


def test_it_is_told_to_the_program_in_words() -> None:
    declared = Retention(keep_fulls=4, keep_days=30, archive_class="GLACIER", keep_archived_days=365)
    words = declared.words()
    assert words == ["--keep-fulls=4", "--keep-days=30.0", "--archive-class=GLACIER", "--keep-archived-days=365.0"]


@pytest.mark.parametrize("megabytes", [1, 16, 64, 1024])
@pytest.mark.parametrize("lsn", ["0/5000028", "3/FF000028", "3/0"])
def test_what_nobody_adopted_keeps_its_wal_whatever_the_size_of_its_files(lsn: str, megabytes: int) -> None:
    manifest = Manifest(files={}, lsn_start=lsn, lsn_stop=lsn, timelines=(2, 2))
    assert needs_from(manifest) <= file_of(2, position(lsn), megabytes << 20)
