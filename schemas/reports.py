"""The typed report in which every run ends: its result, and what text, JSON and pages are rendered from."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from schemas.base import Fact
from schemas.damage import DamageEvidence
from schemas.decisions import Assessment, Fence
from schemas.facts import RouteWrite
from schemas.reads import ReadResult
from schemas.receipts import Receipt
from schemas.restores import CutOverEvidence, RestoreEvidence
from schemas.takes import BackupEvidence

Outcome = Literal[
    "recovered, unprotected",
    "recovered",
    "done, unprotected",
    "done",
    "not needed",
    "rejected",
    "expired",
    "refused",
    "aborted",
    "undone",
    "needs a person",
    "planned",
]

EXIT_CODES: dict[str, int] = {
    "recovered, unprotected": 0,
    "recovered": 0,
    "done, unprotected": 0,
    "done": 0,
    "not needed": 0,
    "rejected": 3,
    "expired": 3,
    "refused": 3,
    "aborted": 3,
    "undone": 3,
    "needs a person": 1,
    "planned": 0,
}
"""0 done, 1 failed, 2 usage, 3 compensated, 4 waiting for a person (a run that has not ended)."""


class StepReport(Fact):
    """One step. `attempts` counts the activity's own retries of the last round; `rounds` those asked by a person."""

    title: str
    outcome: Literal["done", "failed", "skipped", "undone", "undo failed", "planned"]
    started: datetime
    ended: datetime
    attempts: int = 1
    rounds: int = 1
    region: str = ""
    detail: str = ""
    expected_s: float | None = None
    """Of a step that is only planned: what it takes at most when all goes well."""


class DecisionReport(Fact):
    """Who answered what, when, and the digest of what they saw. `by` is `policy` when no person did."""

    question: str
    answer: str
    by: str
    at: datetime
    reason: str = ""
    digest: str = ""
    override: bool = False
    choice: str = ""
    """Of several things that were offered, the one that was approved."""


class Escalation(Fact):
    """The clock passed a share of the RTO."""

    percent: int
    at: datetime
    text: str


class Witness(Fact):
    """A route as its clients saw it: the last write before the outage and the first after it that was acknowledged.

    `source` names who saw it; `first_good` None: not served again by then.
    """

    route: str
    last_good: datetime | None
    first_good: datetime | None
    source: str


class Report(Fact):
    """Times are UTC. Seconds are of wall clock; `None` where a thing did not happen or is not known."""

    procedure: str
    service: str
    run: str
    reason: str
    outcome: Outcome
    summary: str
    started: datetime
    ended: datetime
    outage_started: datetime | None = None
    detected: datetime | None = None
    decided: datetime | None = None
    recovered: datetime | None = None
    """First good routed write, as verified through the slowest route."""
    outage_s: float | None = None
    machine_s: float = 0.0
    waiting_s: float = 0.0
    """Time in which the run waited for a person."""
    rto_s: float
    rto_met: bool | None = None
    rpo_s: float
    error_budget_s: float | None = None
    """Seconds of the month's error budget that the outage spent."""
    epoch: int | None = None
    old_primary: str | None = None
    new_primary: str | None = None
    assessment: Assessment | None = None
    fence: Fence | None = None
    receipt: str = ""
    """What was lost, as far as it is known now."""
    loss: Receipt | None = None
    """The same, counted in the WAL that only the old primary has."""
    restore: RestoreEvidence | None = None
    """Of a run that restored a copy: what came of it, and the proof."""
    cut_over: CutOverEvidence | None = None
    """Of a run that put a service back to a moment: who was put back, and the proof once more."""
    damage: DamageEvidence | None = None
    """Of a recovery from corruption."""
    backup: BackupEvidence | None = None
    """Of a run that took a backup: what it is, and what it costs."""
    followed_by: list[str] = []
    """Runs that this one started, and that go on: rejoins."""
    routes: list[RouteWrite] = []
    reads: list[ReadResult] = []
    """Read-only routes, and whom they led to when the run ended."""
    witness: list[Witness] = []
    """Empty where nobody watched as a client."""
    steps: list[StepReport] = []
    decisions: list[DecisionReport] = []
    escalations: list[Escalation] = []
    unprotected: list[str] = []
    """What is still not protected, and what to do."""
    tasks: list[str] = []
    """What a person must do now."""
    blockers: list[str] = []
    """Of a plan: what would stop the run or make it ask, and who must act."""
    kept: str = ""
    """Where the topology keeps reports: this one's page; beside it the same as JSON."""
    expected_s: float | None = None
    """Of a plan: from the decision to the first good write, when all goes well."""

    def is_of_copies(self) -> bool:
        """A run on data, backups or copies beside the service: no outage, no loss, and nobody leads by it."""
        return self.restore is not None or self.damage is not None or self.backup is not None

    def outage_began_with(self) -> str:
        """A primary that was alive serves its clients until the run cuts them off, or lets them wait."""
        if self.procedure.endswith(("Switchover", "Failback")):
            return "clients wait"
        cut = self.detected is not None and self.outage_started is not None and self.outage_started > self.detected
        return "clients cut off" if cut else "first failed probe"

    def leader_word(self) -> str:
        """What leads is called in the field."""
        words = {"Cache": "master", "Queue": "serving"}
        return next((word for kind, word in words.items() if self.procedure.startswith(kind)), "primary")
