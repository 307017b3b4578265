"""What the bench of restores reads out of a report, and how it judges what was measured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bench.restore import WORK, Measured, step_seconds, word_to_proved, wrong
from bench.restore_by_hand import Prepared
from schemas.reports import Report, StepReport
from schemas.restores import Backup, Proof, RestoreEvidence
from workflows import pitr_restore as runbook

AT = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)
BACKUP = Backup(
    label="20261125-095000F",
    kind="full",
    started=AT - timedelta(minutes=10),
    stopped=AT - timedelta(minutes=9),
    lsn_start=1 << 24,
    lsn_stop=2 << 24,
    wal_start="000000010000000000000001",
    wal_stop="000000010000000000000002",
    system="1",
    archive="15-1",
    bytes=2_000_000_000,
    kept_bytes=2_000_000_000,
)
PREPARED = Prepared(BACKUP, AT, 64_000_000)


def step(title: str, began: float, took: float, outcome: str = "done") -> StepReport:
    started = AT + timedelta(seconds=began)
    return StepReport.model_validate(
        {"title": title, "outcome": outcome, "started": started, "ended": started + timedelta(seconds=took)}
    )


def report(*steps: StepReport, **more: object) -> Report:
    form = {
        "procedure": "PitrRestore",
        "service": "db",
        "run": "r",
        "reason": "",
        "outcome": "done",
        "summary": "",
        "started": AT,
        "ended": AT + timedelta(minutes=1),
        "rto_s": 60.0,
        "rpo_s": 0.0,
        "steps": steps,
        "restore": RestoreEvidence(backup=BACKUP),
    }
    return Report.model_validate(form | more)


def test_a_copy_is_proved_at_the_end_of_that_step_and_the_datas_checks_are_apart() -> None:
    found = report(step(runbook.RESTORE, 2, 20), step(runbook.PROVE, 25, 0.5), step(runbook.VALIDATE, 25.5, 30))
    assert word_to_proved(found) == pytest.approx(25.5)
    assert step_seconds(found) == {runbook.RESTORE: 20, runbook.PROVE: 0.5, runbook.VALIDATE: 30}


def test_a_copy_that_was_not_proved_has_no_figure() -> None:
    found = report(step(runbook.RESTORE, 2, 20), step(runbook.PROVE, 25, 0.5, "failed"))
    assert word_to_proved(found) is None
    assert runbook.PROVE not in step_seconds(found)


def test_ratios_are_rates_and_the_workflows_share_is_what_no_work_on_the_data_takes() -> None:
    measured = Measured(
        hand_restore=20.0,
        hand_recovery=4.0,
        steps={runbook.RESTORE: 25.0, runbook.RECOVER: 4.0},
        word_to_proved=32.0,
        work=dict(zip(WORK, (24.9, 3.9, 0.7), strict=True)),
    )
    assert (measured.restore_ratio, measured.recovery_ratio) == (0.8, 1.0)
    assert measured.share == pytest.approx(2.5)
    assert measured.word_ratio == pytest.approx(32 / 24)


def test_what_did_not_happen_has_no_value() -> None:
    nothing = Measured()
    assert (nothing.hand, nothing.share, nothing.word_ratio, nothing.restore_ratio) == (None, None, None, None)
    part = Measured(word_to_proved=30.0, work={"restore_backup": 20.0, "recover_copy": None})
    assert part.share is None


def test_a_run_that_restored_something_else_or_proves_nothing_is_a_problem() -> None:
    assert wrong(report(), PREPARED) == []
    assert len(wrong(report(restore=None), PREPARED)) == 1
    other = BACKUP.model_copy(update={"label": "20261125-080000F"})
    assert len(wrong(report(restore=RestoreEvidence(backup=other)), PREPARED)) == 1
    failed = RestoreEvidence(backup=BACKUP, proofs=[Proof(clause="it is the same cluster", ok=False, evidence="no")])
    refused = report(outcome="refused", restore=failed)
    assert len(wrong(refused, PREPARED)) == 2
