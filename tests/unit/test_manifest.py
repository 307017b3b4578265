"""Which tables of a copy are counted, and against how many rows."""

from __future__ import annotations

from activities.manifest import expected


def test_a_table_has_had_at_least_what_both_manifests_say() -> None:
    assert expected({"a": 5000, "b": 2000}, {"a": 4000, "b": 9000}) == {"b": 2000, "a": 4000}


def test_what_came_or_went_in_between_is_not_expected() -> None:
    before = {"loaded since": 0, "emptied since": 9000, "dropped since": 9000}
    assert expected(before, {"loaded since": 9000, "emptied since": 3, "made since": 9000}) == {}
