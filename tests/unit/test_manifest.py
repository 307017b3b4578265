"""Which tables of a copy are counted, and against how many rows."""

from __future__ import annotations

import pytest

from activities.manifest import expected, in_both, not_deleted
from schemas.manifest import Kept


def of(rows: int, deleted: int = 0, *, filenode: int = 16384, since: str = "monday") -> Kept:
    return Kept(name="a", filenode=filenode, since=since, rows=rows, deleted=deleted)


def test_a_table_has_had_at_least_what_both_manifests_say() -> None:
    both = in_both({"a": 5000, "b": 2000}, {"a": 4000, "b": 9000})
    assert list(expected(both, {}).items()) == [("b", 2000), ("a", 4000)]


def test_what_came_or_went_in_between_is_not_expected() -> None:
    before = {"loaded since": 0, "emptied since": 9000, "dropped since": 9000}
    assert expected(in_both(before, {"loaded since": 9000, "emptied since": 3, "made since": 9000}), {}) == {}


@pytest.mark.parametrize(
    ("now", "left"),
    [
        (of(0), 5000),
        (of(0, 100), 4900),
        (of(0, 2500), 2500),
        (of(0, 2501), None),
        (of(0, 5000), None),
        # TRUNCATE and rewriting give a new file; a crash, a promotion and a reset begin the counters anew.
        (of(0, filenode=16385), None),
        (of(0, since="tuesday"), None),
    ],
)
def test_a_table_has_what_the_leader_has_not_deleted(now: Kept, left: int | None) -> None:
    assert not_deleted([of(5000)], [now]).get("a") == left


def test_a_table_is_expected_to_have_the_more_of_both() -> None:
    assert expected({"a": 0, "b": 3000}, {"a": 5000, "b": 2000, "c": 999}) == {"b": 3000, "a": 5000}
