"""Retention of the plain archive: what stays, what is archived, what goes, and what never does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from archiver.catalogue import RECORD, Held, Record
from archiver.config import Limits
from archiver.errors import Unusable
from archiver.keeping import DAY_S, plan
from archiver.manifest import NAME
from archiver.store import Stored
from schemas.backup import Retention

NOW = 2_000_000_000.0
AT = datetime.fromtimestamp(NOW - 3 * DAY_S, UTC)


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


def test_what_is_younger_stays_besides() -> None:
    found = [backup(9, 10), backup(3, 20), backup(2, 30), backup(1, 40)]
    made = plan(found, wal(5, 50), Limits(keep_fulls=1, keep_days=5), NOW)
    assert made.remove == [label_of(9)]
    assert names(made.wal_remove) == names(wal(5, 20))


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


def test_what_a_killed_backup_left_goes_once_it_is_no_longer_under_way() -> None:
    def left(at: datetime) -> Held:
        return Held(label_of(0.5), [Stored("base/x/base.tar.gz", 100, at, "STANDARD")])

    young = plan([left(datetime.fromtimestamp(NOW - 3600, UTC)), backup(1, 40)], wal(5, 50), Limits(keep_fulls=1), NOW)
    assert (young.debris, young.warnings) == ([], [])
    old = plan([left(AT), backup(1, 40)], wal(5, 50), Limits(keep_fulls=1), NOW)
    assert old.debris == [label_of(0.5)]


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
