"""What is counted of divergent WAL: data_folder.sh on lines of a real pg_waldump, and what is made of its answers."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from activities.receipts import _count, first_segment
from schemas.wal import position

ROOT = Path(__file__).parents[2]
RECORDED = (Path(__file__).parent / "recorded" / "pg_waldump-15.txt").read_text(encoding="utf-8")
"""PostgreSQL 15: one insert; a transaction with two savepoints, one of them rolled back; a COPY of three rows; two that
were prepared, one committed and one not; one logical message with a transaction and one without; a delete; a rollback;
a TRUNCATE; the shutdown."""
T, U, CLASS = "1663/5/16384", "1663/5/16391", "1663/5/1259"


def tally(lines: str, fork: str = "0/0") -> dict[str, list[str]]:
    """The script's own function, over these lines of a file that holds the fork."""
    script = (ROOT / "activities" / "data_folder.sh").read_text(encoding="utf-8")
    begin = script.index("tally() {")
    code = script[begin : script.index("\n}\n", begin) + 3] + f"tally {fork}"
    told = subprocess.run(["sh", "-c", code], input=lines, capture_output=True, text=True, check=True, timeout=10)
    found: dict[str, list[str]] = {}
    for line in told.stdout.splitlines():
        name, _, value = line.removeprefix("::").partition("=")
        found.setdefault(name, []).append(value)
    return found


def line(manager: str, tx: int, lsn: str, desc: str, relation: str = "") -> str:
    at = f", blkref #0: rel {relation} blk 0" if relation else ""
    head = f"rmgr: {manager:<11} len (rec/tot):     59/    59, tx: {tx:10d}, lsn: {lsn}, prev 0/01526478, desc: "
    return f"{head}{desc}{at}\n"


def test_recorded_lines():
    found = tally(RECORDED)
    commits = {each.split(";")[4]: each.split(";")[:4] for each in found["commits"]}
    assert {touched: number for touched, (number, *_) in commits.items()} == {
        T: "2",
        U: "2",
        f"{T},{U}": "1",
        CLASS: "1",
        "lifeboat": "1",
    }
    assert commits[T] == ["2", "2026-11-27 12:32:56.315260", "2026-11-27 12:32:56.607482", "0/01526968"]
    # What a savepoint took back, a rollback, or ROLLBACK PREPARED never counts.
    assert sorted(found["rows"]) == sorted([f"{T};2;1;1", f"{U};5;0;0", f"{CLASS};0;1;0"])
    assert found["records"] == ["27"]
    assert found["end"] == ["0/0152A7F8"]


def test_nothing_past_the_fork():
    assert tally("") == {"records": ["0"]}
    before = "first record is after 0/2000000, at 0/2000028, skipping over 40 bytes\n"
    before += line("Heap", 731, "0/02000028", "INSERT off 3 flags 0x08", T)
    assert tally(before, "0/2000100") == {"records": ["0"]}


def test_a_transaction_that_was_under_way_at_the_fork_has_the_rows_of_before_it():
    found = tally(
        line("Heap", 730, "0/0FFFFF28", "INSERT off 2 flags 0x08", T)
        + line("Transaction", 730, "0/0FFFFF80", "COMMIT 2026-11-27 12:00:00.000000 UTC")
        + line("Heap", 731, "0/0FFFFFA8", "INSERT off 3 flags 0x08", T)
        + line("Transaction", 731, "0/10000028", "COMMIT 2026-11-27 12:00:01.000000 UTC"),
        "0/FFFFFF0",
    )
    assert found["commits"] == [f"1;2026-11-27 12:00:01.000000;2026-11-27 12:00:01.000000;0/10000028;{T}"]
    assert found["rows"] == [f"{T};1;0;0"]
    assert found["records"] == ["1"]
    assert found["end"] == ["0/10000028"]


def test_a_transaction_that_has_not_committed_counts_nothing():
    assert set(tally(line("Heap", 7, "0/01", "INSERT off 1 flags 0x00", U))) == {"records", "end", "length"}


@pytest.mark.parametrize("words", ["MULTI_INSERT 3 tuples flags 0x02", "MULTI_INSERT+INIT ntuples: 3, flags: 0x02"])
def test_rows_of_a_copy_as_15_and_as_16_write_them(words):
    found = tally(line("Heap2", 7, "0/01", words, U) + line("Transaction", 7, "0/02", "COMMIT 2026-11-27 12:00:00 UTC"))
    assert found["rows"] == [f"{U};3;0;0"]


def test_a_transaction_that_was_prepared_before_the_fork_is_a_commit_of_nothing_known():
    found = tally(line("Transaction", 0, "0/02", "COMMIT_PREPARED 731: 2026-11-27 12:00:00.000000 UTC"))
    assert found["commits"] == ["1;2026-11-27 12:00:00.000000;2026-11-27 12:00:00.000000;0/02;"]


NAMES = {T: "public.counting_results", U: "lifeboat.probe", CLASS: "pg_catalog.pg_class"}


def commit(number: int, second: int, touched: str, at: str = "0/10") -> str:
    return f"{number};2026-11-27 12:00:{second:02d}.5;2026-11-27 12:00:{second + 1:02d}.5;{at};{touched}"


class TestCount:
    def test_whose_commits(self):
        found = _count(
            {"commits": [commit(5, 1, T), commit(2, 0, U), commit(1, 8, CLASS), commit(3, 9, "lifeboat")]}, NAMES
        )
        assert (found.commits, found.own_commits, found.catalog_commits) == (5, 5, 1)
        assert found.first_commit == datetime(2026, 11, 27, 12, 0, 1, 500000, tzinfo=UTC)
        assert found.last_commit == datetime(2026, 11, 27, 12, 0, 2, 500000, tzinfo=UTC)

    def test_one_that_touched_a_clients_table_as_well_is_a_clients(self):
        assert _count({"commits": [commit(1, 1, f"{T},{U}"), commit(1, 1, f"{CLASS},{T}")]}, NAMES).commits == 2

    def test_one_that_touched_nothing_that_is_known_is_a_clients_rather_than_nobodys(self):
        assert _count({"commits": [commit(1, 1, ""), commit(1, 1, "1663/5/99")]}, NAMES).commits == 2

    def test_the_last_commit_that_is_not_lifeboats_own(self):
        found = _count(
            {"commits": [commit(1, 1, T, "0/20"), commit(1, 2, CLASS, "1/0"), commit(1, 3, U, "2/0")]}, NAMES
        )
        assert found.last_commit_at == position("1/0")
        assert _count({"commits": [commit(1, 3, U)]}, NAMES).last_commit_at is None

    def test_rows_of_tables_by_their_names_without_the_catalogs(self):
        found = _count({"rows": [f"{U};1;0;0", f"{T};3;2;1", f"{CLASS};0;1;0", "1663/5/99;4;0;0"]}, NAMES)
        assert [(each.table, each.inserted, each.updated, each.deleted) for each in found.tables] == [
            ("1663/5/99", 4, 0, 0),
            ("lifeboat.probe", 1, 0, 0),
            ("public.counting_results", 3, 2, 1),
        ]


@pytest.mark.parametrize(
    ("timeline", "fork", "size", "name"),
    [
        (1, 0x1526150, 16 << 20, "000000010000000000000001"),
        (0x1A, 0x5_FF00_0000, 16 << 20, "0000001A00000005000000FF"),
        (2, 0x5_FF00_0000, 64 << 20, "00000002000000050000003F"),
    ],
)
def test_the_segment_that_holds_the_fork(timeline, fork, size, name):
    assert first_segment(timeline, fork, size) == name
