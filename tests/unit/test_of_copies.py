"""Reports of damage and of backups, as text and as a page."""

from __future__ import annotations

import io
import re
from html import unescape

import pytest
from rich.console import Console

from activities.page import page
from cli.render import report_text
from tests.unit.of_copies import OF_COPIES
from workflows.reporting import report_line, told_at_end


def as_text(name: str) -> str:
    file = io.StringIO()
    Console(file=file, width=200).print(report_text(OF_COPIES[name]))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def as_page(name: str) -> str:
    """Without its style sheet, and with its markup's text as a reader sees it."""
    return unescape(re.sub(r"<style>.*?</style>", "", page(OF_COPIES[name]), flags=re.DOTALL))


SAID = [
    ("damaged", "heap counting.public.accounts: ERROR:  invalid page in block 3"),
    ("damaged", "2 checksum failures seen by its server, the last at 2026-11-25 11:00:00 UTC"),
    ("damaged", "pg-west-1: does not answer"),
    ("damaged", "done: 20261125-100000F restores: 11 proofs and checks, none failed"),
    ("damaged", "2026-11-25 11:00:03.000 UTC: every owner's query is answered as it should be"),
    ("damaged", "pages of pg-east-1 are damaged; pg-east-2 has every commit"),
    ("damaged", "corruption-1/switchover, corruption-1/rejoin/pg-east-1"),
    ("damaged", "owner's query the balances are whole"),
    ("damaged", "# Post-mortem (draft): corruption of counting-db"),
    ("rows", "public.accounts: 12,000 rows"),
    ("rows", "the backup had ended before the target"),
    ("rows", "f; expected t"),
    ("taken", "20261125-100000F_20261125-110000I (incr) on pg-east-1, 2026-11-25 10:00:12 UTC"),
    ("taken", "the newest full is 1 h old"),
    ("taken", "3.40 GB"),
    ("taken", "500 MB, at 40.0 MB/s"),
    ("taken", "42.0 MB in the repository, for this backup alone"),
    ("taken", "3 files since 20261125-100000F, 50.3 MB, kept 4.00 MB"),
    ("taken", "20261118-100000F"),
    ("taken", "2: 20261125-100000F, 20261125-100000F_20261125-110000I"),
    ("taken", "000000030000000000000004"),
    ("taken", "the repository lists it"),
    ("not taken", "nothing"),
    ("not taken", "the newest full is 8 days old"),
]


@pytest.mark.parametrize(("name", "said"), SAID)
def test_both_say(name: str, said: str) -> None:
    assert said in as_text(name)
    assert said in as_page(name)


@pytest.mark.parametrize("name", OF_COPIES)
def test_neither_speaks_of_an_outage_or_of_a_loss(name: str) -> None:
    for told in (as_text(name), as_page(name).replace("None was taken", "")):
        for word in ("outage", "error budget", "not assessed", "loss", "None", "promoted"):
            assert word not in told, word


@pytest.mark.parametrize("name", OF_COPIES)
def test_a_page_loads_nothing_and_runs_nothing(name: str) -> None:
    text = page(OF_COPIES[name])
    assert not re.search(r"<(script|link|img|iframe|object|how)\b|\b(src|href)=|url\(|@import|https?://", text)


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("damaged", '<b class="warn">2 relations</b><span>damaged on pg-east-1</span>'),
        ("damaged", '<b class="">1 hold</b>'),
        ("rows", '<b class="warn">rows</b><span>are wrong; no page is damaged</span>'),
        ("rows", '<b class="warn">1 of 1 fails</b>'),
        ("not looked at", '<b class="">–</b><span>nothing was looked at</span>'),
        ("taken", "<b>46.0 MB</b>"),
        ("taken", "kept: 42.0 MB of 3.40 GB, and 4.00 MB of WAL"),
        ("not taken", "<b>nothing taken</b>"),
    ],
)
def test_what_a_page_shows_first(name: str, card: str) -> None:
    assert card in as_page(name)


def test_a_copy_that_was_not_restored_is_not_told_of() -> None:
    assert "The copy" in as_text("rows")
    assert "<h2>The copy</h2>" in as_page("rows")
    for told in (as_text("damaged"), as_page("damaged")):
        assert "The copy" not in told
        assert "restored     nothing" not in told


def test_a_backup_in_a_line() -> None:
    report = OF_COPIES["taken"]
    assert report_line(report) == f"BackupTake counting-db: done; {report.summary}"
    assert told_at_end(report) == {
        "outcome": "done",
        "backup": "20261125-100000F_20261125-110000I (incr), 42.0 MB kept, WAL 4.00 MB",
        "report": report.kept,
    }
