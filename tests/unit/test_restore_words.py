"""What a notice and a log say of a run that restored a copy."""

from __future__ import annotations

import pytest

from schemas.restore_words import facts
from schemas.restores import CutOverEvidence, RestoreEvidence, Written
from tests.unit.restored import BAD_PAGES, COPIED_BACK, EVERY, NOT_BEGUN, REFUSED, SLOW, T0, VERIFIED, at
from workflows.reporting import report_line, told_at_end

FAILED = f"{BAD_PAGES.clause}: {BAD_PAGES.evidence}"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "verified",
            "BackupVerify counting-db: done; 20261125-100000F restored in 14.0 s, 12 proofs and checks hold",
        ),
        (
            "copied back",
            "PitrRestore counting-db: done; 20261125-100000F restored in 14.0 s, to just before 0/0A000060 on timeline"
            " 3, 11 proofs and checks hold, 1 not to be told; copied back: public.accounts (12,000 rows)",
        ),
        (
            "refused",
            "PitrRestore counting-db: refused; 20261125-100000F restored in 14.0 s, to just before 0/0A000060 on"
            f" timeline 3, 10 proofs and checks hold, 1 not to be told, 1 fails: {FAILED}",
        ),
        (
            "not begun",
            "BackupVerify counting-db: needs a person; WAL file 000000030000000000000007 is missing from the archive:"
            " nothing after it can be restored",
        ),
    ],
)
def test_a_restore_in_one_line(name: str, line: str) -> None:
    assert report_line(EVERY[name]) == line


def test_why_a_run_ended_early_is_told_though_it_had_restored() -> None:
    aborted = COPIED_BACK.model_copy(
        update={
            "outcome": "aborted",
            "summary": "aborted by ana",
            "restore": RestoreEvidence(backup=VERIFIED.restore.backup, restore_s=10.2),
        }
    )
    assert report_line(aborted) == (
        "PitrRestore counting-db: aborted; 20261125-100000F restored in 10.2 s; aborted by ana"
    )


def test_a_backup_that_was_only_chosen_is_not_called_restored() -> None:
    chosen = NOT_BEGUN.model_copy(
        update={"summary": "bk-east is full", "restore": RestoreEvidence(backup=VERIFIED.restore.backup)}
    )
    assert report_line(chosen) == "BackupVerify counting-db: needs a person; bk-east is full"


def test_a_notice_of_the_end_speaks_of_the_restore() -> None:
    assert told_at_end(SLOW) == {
        "outcome": "done, unprotected",
        "restored": "in 14.0 s; RTO 10.0 s",
        "newest row": "0.30 s before the target; RPO 1 min 00 s",
        "proof": "12 proofs and checks hold",
        "not protected": "the restore took 14 s, and the RTO is 10 s",
        "report": "s3://lifeboat-reports/pitr.html",
    }
    assert told_at_end(REFUSED)["proof"].endswith(FAILED)
    assert told_at_end(NOT_BEGUN)["restored"] == "nothing"


def test_other_runs_are_told_as_before() -> None:
    moved = COPIED_BACK.model_copy(
        update={
            "procedure": "DatabaseFailover",
            "outcome": "recovered",
            "new_primary": "pg-east-2",
            "outage_s": 0.72,
            "restore": None,
            "summary": "",
            "receipt": "nothing acknowledged was lost",
        }
    )
    assert report_line(moved) == (
        "DatabaseFailover counting-db: recovered; pg-east-1 -> pg-east-2; outage 0.72 s of 300 s;"
        " nothing acknowledged was lost"
    )
    assert list(told_at_end(moved)) == ["outcome", "outage", "loss", "report"]


def test_a_cut_over_tells_who_leads_what_is_lost_and_who_keeps_it() -> None:
    written = Written(member="pg-east-1", first=0xA000060, last=0xA000160, since=T0, until=at(14))
    report = COPIED_BACK.model_copy(
        update={
            "outcome": "done, unprotected",
            "restore": COPIED_BACK.restore.model_copy(update={"copied": {}}),
            "cut_over": CutOverEvidence(candidate="pg-east-2", written=written),
            "old_primary": "pg-east-1",
            "new_primary": "pg-east-2",
            "receipt": "acknowledged and lost: at most 5",
            "outage_s": 8.0,
        }
    )
    told = dict(facts(report))
    assert told["cut over"] == "pg-east-1 → pg-east-2"
    assert told["lost"] == "acknowledged and lost: at most 5"
    assert told["kept"] == "what pg-east-1 wrote from 0/0A000060 to 0/0A000160 (256 bytes, 14.0 s): on it, stopped"
    assert report_line(report).endswith("; cut over to pg-east-2; acknowledged and lost: at most 5")
    undone = report.model_copy(update={"new_primary": None, "outcome": "undone"})
    assert dict(facts(undone))["cut over"] == "no: undone"
