"""A demonstration of a cache or a queue: each procedure, planned and unplanned, under load, as its referee saw it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from temporalio.client import Client

from lab import load
from lab.demo import APPROVER, DemoFailed, Print, follow, witnessed
from lab.model import Lab
from lab.referee import Audit
from lab.waiting import until
from schemas.attributes import TASK_QUEUE
from schemas.base import Fact
from schemas.reports import EXIT_CODES, Report
from schemas.requests import RunRequest

WRITING_S = 20.0


class Planned(Fact):
    """What clients were told is there, and what of it is not. `missing` None: it could not be found out."""

    acknowledged: int
    missing: int | None

    @property
    def passed(self) -> bool:
        return self.missing == 0


class Unplanned(Planned):
    """`bound`: as many of the acknowledged ones as the run's own verdict lets be missing; None: it set no bound."""

    bound: int | None

    @property
    def passed(self) -> bool:
        return self.missing is not None and self.bound is not None and self.missing <= self.bound


class Moves(Fact):
    """`lifeboat lab demo cache|queue --json`."""

    planned: Planned
    unplanned: Unplanned
    runs: list[Report]
    longest_gap_s: dict[str, float] = {}
    """By phase and route."""
    notes: list[str] = []
    """What else the referee says: duplicates, what was acknowledged by WAIT …"""
    faults: list[str] = []
    """What it must not say: concurrent writers, errors, routes that do not write."""

    @property
    def passed(self) -> bool:
        ended_well = bool(self.runs) and all(EXIT_CODES[report.outcome] == 0 for report in self.runs)
        return self.planned.passed and self.unplanned.passed and ended_well and not self.faults


class Course:
    """One demonstration under way: its runs, and what the referee said of each phase."""

    def __init__(self, lab: Lab, client: Client, part: str, tell: Print) -> None:
        self.lab, self.client, self.part, self.tell = lab, client, part, tell
        self.service = lab.services[part]
        self.reports: list[Report] = []
        self.gaps: dict[str, float] = {}
        self.notes: list[str] = []
        self.faults: list[str] = []

    async def run(self, name: str, workflow: str, request: RunRequest) -> Report:
        """Start a procedure and follow it to its report; the demonstration answers what it asks."""
        run = f"{name}/{self.service}/{datetime.now(UTC):%Y%m%dT%H%M%S}"
        handle = await self.client.start_workflow(workflow, request, id=run, task_queue=TASK_QUEUE, result_type=Report)
        self.tell(f"the run {run}")
        return await self.followed(handle.id)

    async def followed(self, run: str) -> Report:
        handle = self.client.get_workflow_handle(run, result_type=Report)
        report = witnessed(await follow(handle, self.tell, APPROVER), self.lab, self.part)
        self.reports.append(report)
        if EXIT_CODES[report.outcome] != 0:
            raise DemoFailed(f"{run} ended “{report.outcome}”: {report.summary}; {'; '.join(report.tasks)}")
        return report

    async def begun(self, workflow: str, since: datetime, limit: float) -> str:
        """The run of that type which the watch has started since."""

        async def look() -> str | None:
            query = f"WorkflowType = '{workflow}' AND ExecutionStatus != 'Failed'"
            async for found in self.client.list_workflows(query):
                if found.start_time >= since:
                    return found.id
            return None

        return await until(f"the watch starts a {workflow}", look, limit)

    async def judged(self, phase: str, referee: Callable[[Lab], Awaitable[Audit]]) -> Audit:
        """The audit once every route writes, or what stands after WRITING_S; then the load ends and begins anew."""
        end = asyncio.get_running_loop().time() + WRITING_S
        while True:
            found = await referee(self.lab)
            if all(route.writing for route in found.routes.values()) or asyncio.get_running_loop().time() > end:
                break
            await asyncio.sleep(0.5)
        self.gaps |= {f"{phase} {name}": route.longest_gap_s for name, route in found.routes.items()}
        self.faults += [f"{phase}: {error}" for error in found.errors]
        self.faults += [f"{phase}: {name} does not write" for name, route in found.routes.items() if not route.writing]
        self.faults += [
            f"{phase}: {writer.name} acknowledged beside the leader: {reason}"
            for writer in found.writers
            for reason in writer.reasons
        ]
        return found

    async def load_anew(self) -> None:
        """A ledger of its own for each phase."""
        await asyncio.to_thread(load.forget, self.lab)
        await asyncio.to_thread(load.start, self.lab)


def text(found: Moves) -> str:
    """What a person wants to know of it."""
    lines = [f"outcome    {report.procedure}: {report.outcome}; {report.summary}" for report in found.runs]
    lines.append(f"planned    {found.planned.acknowledged} acknowledged, missing {_number(found.planned.missing)}")
    lines.append(
        f"unplanned  {found.unplanned.acknowledged} acknowledged, missing {_number(found.unplanned.missing)},"
        f" the verdict allowed {_number(found.unplanned.bound)}"
    )
    lines += [f"gap        {name}: {seconds:.2f} s" for name, seconds in found.longest_gap_s.items()]
    lines += [f"also       {each}" for each in found.notes]
    lines += [f"WRONG      {each}" for each in found.faults]
    return "\n".join(lines)


def _number(given: int | None) -> str:
    return "UNKNOWN" if given is None else str(given)
