"""Reports of runs on damaged data, and of runs that took a backup: one of each end that reads differently."""

from __future__ import annotations

from schemas.damage import Damaged, DamageEvidence, MemberDamage
from schemas.reports import Report
from schemas.restores import Proof, RestoreEvidence
from schemas.takes import BackupEvidence
from tests.unit.restored import BACKUP, COPIED_BACK, T0, at, steps

WRONG = Proof(clause="owner's query the balances are whole", ok=False, evidence="f; expected t")
RIGHT = WRONG.model_copy(update={"ok": True, "evidence": "t; expected t"})
_INVALID = "ERROR:  invalid page in block 3 of relation base/16389/16438"

DAMAGED = COPIED_BACK.model_copy(
    update={
        "procedure": "CorruptionRecovery",
        "run": "corruption-recovery/counting-db/20261125T110000",
        "reason": "the disk's firmware told of errors",
        "summary": "switch: pages of pg-east-1 are damaged; pg-east-2 has every commit, and was found whole",
        "restore": RestoreEvidence(),
        "damage": DamageEvidence(
            members=[
                MemberDamage(
                    member="pg-east-1",
                    damaged=[
                        Damaged(kind="heap", relation="counting.public.accounts", told=_INVALID),
                        Damaged(kind="index", relation="counting.public.accounts_pkey", told=_INVALID),
                    ],
                    failures=2,
                    since=T0,
                ),
                MemberDamage(member="pg-east-2"),
                MemberDamage(member="pg-west-1", error="does not answer"),
            ],
            queries=[RIGHT],
            backup="done: 20261125-100000F restores: 11 proofs and checks, none failed",
            last_good=at(3),
            reason="every owner's query is answered as it should be",
            repair="pages of pg-east-1 are damaged; pg-east-2 has every commit, and was found whole",
            post_mortem="# Post-mortem (draft): corruption of counting-db\n\n- <how> it came about:\n",
        ),
        "followed_by": ["corruption-1/switchover", "corruption-1/rejoin/pg-east-1"],
        "steps": steps(
            ("Isolate the service", "done", 0.4, "pg-east-1 is read-only for its clients"),
            ("Let a share of writes in", "done", 6.2, "10% of writes: pgbouncer-east: 10% of new sessions"),
        ),
    }
)
_ROWS = DamageEvidence.model_validate(
    dict(DAMAGED.damage or {})
    | {"members": [MemberDamage(member="pg-east-1")], "queries": [WRONG], "last_good": at(-600.42)}
)
ROWS = DAMAGED.model_copy(update={"damage": _ROWS, "restore": COPIED_BACK.restore})
NOT_LOOKED_AT = DAMAGED.model_copy(
    update={"outcome": "rejected", "damage": DamageEvidence(), "followed_by": [], "steps": []}
)

TAKEN = COPIED_BACK.model_copy(
    update={
        "procedure": "BackupTake",
        "run": "backup-take/counting-db/20261125T110000",
        "reason": "scheduled: 0 3 * * * UTC",
        "summary": "20261125-100000F_20261125-110000I (incr) was taken from pg-east-1 in 12 s",
        "restore": None,
        "backup": BackupEvidence(
            backup=BACKUP.model_copy(
                update={
                    "label": "20261125-100000F_20261125-110000I",
                    "kind": "incr",
                    "delta_bytes": 500_000_000,
                    "kept_bytes": 42_000_000,
                }
            ),
            member="pg-east-1",
            reason="the newest full is 1 h old",
            previous="20261125-100000F",
            seconds=12.5,
            wal_files=3,
            wal_bytes=3 * 16 * 1024 * 1024,
            wal_kept_bytes=4_000_000,
            proofs=[Proof(clause="the repository lists it", ok=True, evidence="20261125-100000F_20261125-110000I")],
            removed=["20261118-100000F"],
            left=["20261125-100000F", "20261125-100000F_20261125-110000I"],
            oldest_wal="000000030000000000000004",
        ),
        "steps": steps(
            ("Take the backup", "done", 12.5, "20261125-100000F_20261125-110000I from pg-east-1, in 12.5 s")
        ),
    }
)
NOT_TAKEN = TAKEN.model_copy(
    update={
        "outcome": "needs a person",
        "summary": "the store does not answer",
        "tasks": ["the store does not answer"],
        "backup": BackupEvidence(member="pg-east-1", reason="the newest full is 8 days old"),
        "steps": [],
    }
)
OF_COPIES: dict[str, Report] = {
    "damaged": DAMAGED,
    "rows": ROWS,
    "not looked at": NOT_LOOKED_AT,
    "taken": TAKEN,
    "not taken": NOT_TAKEN,
}
