"""What a run tells: its state, its journal, the page of details, the search attributes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributeUpdate

with workflow.unsafe.imports_passed_through():
    from schemas.reports import DecisionReport, Escalation, StepReport
    from schemas.state import RunState
    from workflows.doors import Doors
    from workflows.narrative import details_text
    from workflows.policy import clock


class Journal(Doors):
    """Everything of a run that people see. Nothing here decides."""

    procedure: ClassVar[str]
    titles: ClassVar[tuple[str, ...]]
    expected_s: ClassVar[Mapping[str, float]] = {}
    """What each step that clients wait for takes at most when all goes well: for "decide by"."""

    def __init__(self) -> None:
        super().__init__()
        self.service_name = ""
        self.reason = ""
        self.steps: list[StepReport] = []
        self.decisions: list[DecisionReport] = []
        self.escalations: list[Escalation] = []
        self.journal: list[str] = []
        self.tasks: list[str] = []
        self.outage_started: datetime | None = None
        self.rto_s = 0.0
        self.epoch: int | None = None
        self.outcome = ""
        self.urgent = False
        """Clients wait for the next step: what people see, each change of which costs a write, is put off."""
        self.under_way: dict[str, datetime] = {}
        """When each step that has not ended began, by its title."""
        self._current = ""
        self._later: dict[str, SearchAttributeUpdate[Any]] = {}

    @workflow.query(description="Where the run stands: steps, question, clock, journal.")
    def state(self) -> RunState:
        info = workflow.info()
        return RunState(
            procedure=self.procedure,
            service=self.service_name,
            run=info.workflow_id,
            reason=self.reason,
            started=info.start_time,
            planned=list(self.titles),
            step=self._current,
            steps=self.steps,
            question=self.question,
            parked=self._parked[0] if self._parked else None,
            skippable=self._parked[1] if self._parked else False,
            held=self.held,
            past_no_return=self.past_no_return,
            outage_started=self.outage_started,
            deadline=clock.deadline(self.outage_started, self.rto_s) if self.outage_started else None,
            rto_s=self.rto_s,
            epoch=self.epoch,
            assessment=getattr(self, "assessment", None),
            decisions=self.decisions,
            escalations=self.escalations,
            journal=self.journal,
            outcome=self.outcome,
        )

    def note(self, text: str) -> None:
        """A line of the journal."""
        self.journal.append(f"{workflow.now():%H:%M:%S.%f}"[:-3] + f" {text}")
        self.show()

    def attribute(self, name: str, value: str) -> None:
        """A search attribute; it is written with the next thing that is shown."""
        self._later[name] = SearchAttributeKey.for_keyword(name).value_set(value)

    def number(self, name: str, value: int) -> None:
        self._later[name] = SearchAttributeKey.for_int(name).value_set(value)

    def show(self) -> None:
        """The page of details that the UI shows, and the search attributes; put off while it is urgent."""
        waits = self.held or self.question is not None or self._parked is not None
        if self.urgent and not waits:
            return
        self.send_notices()
        workflow.set_current_details(details_text(self.state()))
        if self._later:
            workflow.upsert_search_attributes(list(self._later.values()))
            self._later.clear()

    def send_notices(self) -> None:
        """What people are told goes out with what they are shown."""

    def calm(self) -> None:
        """Clients are served: what was put off is done now."""
        self.urgent = False
        self.show()

    def _report(self, title: str, outcome: Any, started: datetime, rounds: int, detail: str) -> StepReport:
        report = StepReport(
            title=title, outcome=outcome, started=started, ended=workflow.now(), rounds=rounds, detail=detail
        )
        self.steps.append(report)
        if outcome != "failed":
            self.under_way.pop(title, None)
        self.note(f"{title}: {outcome}" + (f": {detail}" if detail else ""))
        return report
