"""A run while it is under way: what the `state` query answers, and live views draw."""

from __future__ import annotations

from datetime import datetime

from schemas.base import Fact
from schemas.decisions import Assessment, Question
from schemas.reports import DecisionReport, Escalation, StepReport


class RunState(Fact):
    """`planned` lists the steps' titles in order; `step` is the one under way, "" between steps.

    `parked` names the step that used up its retries and waits for `retry`, `skip` or `abort`.
    `deadline` is when the RTO ends; it runs from the first failed probe.
    """

    procedure: str
    service: str
    run: str
    reason: str
    started: datetime
    planned: list[str] = []
    step: str = ""
    steps: list[StepReport] = []
    question: Question | None = None
    parked: str | None = None
    skippable: bool = False
    held: bool = False
    past_no_return: bool = False
    outage_started: datetime | None = None
    deadline: datetime | None = None
    rto_s: float = 0.0
    epoch: int | None = None
    assessment: Assessment | None = None
    decisions: list[DecisionReport] = []
    escalations: list[Escalation] = []
    journal: list[str] = []
    outcome: str = ""
    progress: str = ""
    """Of long work: what its last heartbeat said. Whoever looks adds it; the run itself doesn't know."""
