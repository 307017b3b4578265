"""Reports of runs that restored a copy: one of each end that reads differently."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from schemas.reports import Report, StepReport
from schemas.restores import Backup, Moment, Proof, RestoreEvidence

T0 = datetime(2026, 11, 25, 11, 0, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


BACKUP = Backup(
    label="20261125-100000F",
    kind="full",
    started=at(-3600),
    stopped=at(-3588),
    lsn_start=0x0_4000028,
    lsn_stop=0x0_4000138,
    wal_start="000000030000000000000004",
    wal_stop="000000030000000000000004",
    system="7577001122334455667",
    archive="15-1",
    bytes=3_400_000_000,
    kept_bytes=420_000_000,
)
DROP = Moment(
    kind="lsn",
    timeline=3,
    lsn=0x0_A000060,
    inclusive=False,
    xid=791,
    near=at(-600),
    reason="transaction 791 dropped public.accounts and committed at 2026-11-25 10:50:00+00:00; its lock is at"
    " 0/0A000060",
)
TIME = Moment(kind="time", timeline=3, time=at(-60), reason="60 s before now")
PROOFS = [
    Proof(
        clause="the backup had ended before the target",
        ok=True,
        evidence="20261125-100000F ended at 2026-11-25 10:00:12+00:00, 0/04000138; replayed to 0/0A000060",
    ),
    Proof(
        clause="recovery stands still at the target",
        ok=True,
        evidence="paused, in recovery: yes, twice at 0/0A000060",
    ),
    Proof(
        clause="nothing after the target was replayed",
        ok=True,
        evidence="replayed to 0/0A000060, last commit at 2026-11-25 10:49:59.812000+00:00",
    ),
    Proof(
        clause="the heartbeat is within a second or two of the target",
        ok=True,
        evidence="2026-11-25 10:49:59.512000+00:00, 0.49 s before the target",
    ),
    Proof(
        clause="it is on the intended timeline",
        ok=True,
        evidence="replayed WAL of timeline 3; wanted 3",
    ),
    Proof(
        clause="it is the same cluster",
        ok=True,
        evidence="system identifier 7577001122334455667; the backup's 7577001122334455667, the leader's"
        " 7577001122334455667",
    ),
    Proof(
        clause="every WAL file was there",
        ok=True,
        evidence="7 files from 000000030000000000000004 to 00000003000000000000000A, none refused",
    ),
    Proof(clause="it reaches nobody", ok=True, evidence="a network of its own: no address, no route"),
]
CHECKS = [
    Proof(clause="owner's query the balances are whole", ok=True, evidence="0; expected 0"),
    Proof(clause="no sequence lags behind its column", ok=True, evidence="3 sequences"),
    Proof(
        clause="heaps and indexes agree",
        ok=None,
        evidence="counting has no amcheck; its owner must CREATE EXTENSION amcheck on the leader",
    ),
    Proof(clause="every page has its checksum", ok=True, evidence="0 of 415039 bad"),
]
BAD_PAGES = Proof(
    clause="every page has its checksum", ok=False, evidence="2 of 415039 bad: base/16384/16402, block 17 and block 18"
)


def steps(*told: tuple[str, str, float, str]) -> list[StepReport]:
    """Title, outcome, seconds and detail of each, one after another from T0 on."""
    found, now = [], 0.1
    for title, outcome, took, detail in told:
        found.append(
            StepReport.model_validate(
                {"title": title, "outcome": outcome, "started": at(now), "ended": at(now + took), "detail": detail}
            )
        )
        now += took + 0.02
    return found


UP_TO_PROOF = (
    ("Make room on the restore host", "done", 0.3, "71.2 GB are free"),
    ("Restore the backup beside the service", "done", 10.2, "20261125-100000F: 3400 MB in 10.2 s"),
    ("Find the moment in the WAL", "done", 2.1, DROP.reason),
    ("Recover to the target", "done", 3.8, "stands at 0/0A000060"),
    ("Prove the copy", "done", 0.4, "8 hold"),
)

COPIED_BACK = Report(
    procedure="PitrRestore",
    service="counting-db",
    run="pitr-restore/counting-db/20261125T110000",
    reason="public.accounts was dropped by a migration",
    outcome="done",
    summary="restored to just before 0/0A000060 on timeline 3; copied back: public.accounts (12000 rows)",
    started=at(0),
    ended=at(24),
    machine_s=22.0,
    waiting_s=2.0,
    rto_s=300,
    rpo_s=60,
    old_primary="pg-east-1",
    kept="s3://lifeboat-reports/pitr.html",
    restore=RestoreEvidence(
        backup=BACKUP,
        moment=DROP,
        restore_s=10.2,
        recovery_s=3.8,
        bytes=BACKUP.bytes,
        reached_lsn=0x0_A000060,
        last_commit=at(-600.188),
        newest_row=at(-600.42),
        rpo_s=0.42,
        proofs=PROOFS,
        checks=CHECKS,
        copied={"public.accounts": 12000},
        considered=["0/06000110 (2026-11-25 10:20:00+00:00): an earlier one"],
    ),
    steps=steps(
        ("Find the target and its backup", "done", 1.4, "from 20261125-100000F"),
        *UP_TO_PROOF,
        ("Validate the data", "done", 2.6, "3 hold; not to be told: heaps and indexes agree"),
        ("Decide what it is for", "done", 0.01, "copy back"),
        ("Copy tables back", "done", 0.9, "public.accounts: 12000 rows"),
        ("Notify", "done", 0.05, "told: on-call"),
        ("Remove the copy", "done", 0.5, "0123456789ab is removed from bk-east"),
    ),
)

_WHY = f"the data is not good: {BAD_PAGES.clause}: no: {BAD_PAGES.evidence}"
REFUSED = COPIED_BACK.model_copy(
    update={
        "outcome": "refused",
        "summary": _WHY,
        "ended": at(22),
        "restore": RestoreEvidence.model_validate(
            dict(COPIED_BACK.restore or {}) | {"checks": [*CHECKS[:3], BAD_PAGES], "copied": {}, "considered": []}
        ),
        "steps": steps(
            ("Find the target and its backup", "done", 1.4, "from 20261125-100000F"),
            *UP_TO_PROOF,
            ("Validate the data", "failed", 2.6, f"{BAD_PAGES.clause}: no: {BAD_PAGES.evidence}"),
            ("Remove the copy", "undone", 0.5, ""),
        ),
    }
)

_VERIFIED = RestoreEvidence(
    backup=BACKUP,
    moment=TIME,
    restore_s=10.2,
    recovery_s=3.8,
    bytes=BACKUP.bytes,
    reached_lsn=0x0_C0001F8,
    last_commit=at(-60.2),
    newest_row=at(-60.3),
    rpo_s=0.3,
    proofs=PROOFS,
    checks=[*CHECKS[:2], CHECKS[2].model_copy(update={"ok": True, "evidence": "2 databases"}), CHECKS[3]],
)
VERIFIED = COPIED_BACK.model_copy(
    update={
        "procedure": "BackupVerify",
        "run": "backup-verify/counting-db/20261125T110000",
        "reason": "every night",
        "summary": "20261125-100000F restores: 12 proofs and checks, none failed",
        "waiting_s": 0.0,
        "restore": _VERIFIED,
        "steps": steps(
            ("Find the backup", "done", 1.4, "20261125-100000F"),
            ("Make room on the restore host", "done", 0.3, "71.2 GB are free"),
            ("Restore it into a bubble", "done", 10.2, "20261125-100000F: 3400 MB in 10.2 s"),
            ("Recover to the RPO", "done", 3.8, "stands at 0/0C0001F8"),
            ("Prove the copy", "done", 0.4, "8 hold"),
            ("Validate the data", "done", 2.6, "4 hold"),
            (
                "Measure it against RTO and RPO",
                "done",
                0.01,
                "restored in 14.0 s of 300 s; newest row 0.3 s before",
            ),
            ("Notify", "done", 0.05, "told: on-call"),
            ("Remove the copy", "done", 0.5, "0123456789ab is removed from bk-east"),
        ),
    }
)
SLOW = VERIFIED.model_copy(
    update={
        "outcome": "done, unprotected",
        "rto_s": 10.0,
        "unprotected": ["the restore took 14 s, and the RTO is 10 s"],
    }
)

HANDED_OVER = COPIED_BACK.model_copy(
    update={
        "outcome": "needs a person",
        "tasks": ["“Remove the copy” was skipped: bk-east does not answer"],
        "restore": RestoreEvidence.model_validate(
            dict(COPIED_BACK.restore or {}) | {"where": "bk-east:6100", "copied": {}, "considered": []}
        ),
    }
)

_MISSING = "WAL file 000000030000000000000007 is missing from the archive: nothing after it can be restored"
NOT_BEGUN = VERIFIED.model_copy(
    update={
        "outcome": "needs a person",
        "summary": _MISSING,
        "tasks": [_MISSING],
        "ended": at(1.5),
        "machine_s": 1.5,
        "restore": RestoreEvidence(),
        "steps": steps(("Remove the copy", "undone", 0.3, "")),
    }
)
PLANNED = COPIED_BACK.model_copy(
    update={
        "outcome": "planned",
        "summary": "restores to before public.accounts was dropped",
        "restore": RestoreEvidence(backup=BACKUP),
        "kept": "",
        "steps": steps(
            ("Find the target and its backup", "done", 1.4, "from 20261125-100000F"),
            ("Make room on the restore host", "planned", 0, "3400 MB on bk-east"),
            ("Restore the backup beside the service", "planned", 0, "20261125-100000F, in about 34 s"),
        ),
    }
)

EVERY = {
    "copied back": COPIED_BACK,
    "handed over": HANDED_OVER,
    "refused": REFUSED,
    "verified": VERIFIED,
    "slow": SLOW,
    "not begun": NOT_BEGUN,
    "planned": PLANNED,
}
