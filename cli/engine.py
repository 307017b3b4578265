"""What the command asks of Temporal: start, find, look at and talk to runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from cli.problems import Exit, Problem, exit_of, innermost
from cli.words import progress_text
from schemas.attributes import TASK_QUEUE, TASK_TIMEOUT
from schemas.cache_requests import CacheFailoverRequest
from schemas.queue_requests import QueueFailoverRequest
from schemas.reports import Report
from schemas.requests import Answer, CandidateRequest, FailoverRequest, RejoinRequest, RunRequest, Verb
from schemas.restore_requests import CorruptionRequest, PitrRequest, TakeRequest, VerifyRequest
from schemas.state import RunState

PROCEDURES = {
    "database-failover": "DatabaseFailover",
    "database-rejoin": "DatabaseRejoin",
    "database-switchover": "DatabaseSwitchover",
    "database-failback": "DatabaseFailback",
    "cache-failover": "CacheFailover",
    "cache-switchover": "CacheSwitchover",
    "cache-failback": "CacheFailback",
    "pitr-restore": "PitrRestore",
    "backup-take": "BackupTake",
    "backup-verify": "BackupVerify",
    "corruption-recovery": "CorruptionRecovery",
    "queue-failover": "QueueFailover",
    "queue-drain": "QueueDrain",
    "queue-switchover": "QueueSwitchover",
    "queue-failback": "QueueFailback",
}
"""Name on the command line → workflow type."""

REQUESTS: dict[str, type[RunRequest]] = {
    "database-failover": FailoverRequest,
    "database-rejoin": RejoinRequest,
    "database-switchover": CandidateRequest,
    "database-failback": RunRequest,
    "cache-failover": CacheFailoverRequest,
    "cache-switchover": CandidateRequest,
    "cache-failback": RunRequest,
    "pitr-restore": PitrRequest,
    "backup-take": TakeRequest,
    "backup-verify": VerifyRequest,
    "corruption-recovery": CorruptionRequest,
    "queue-failover": QueueFailoverRequest,
    "queue-drain": RunRequest,
    "queue-switchover": CandidateRequest,
    "queue-failback": RunRequest,
}
"""Name on the command line → its start form."""

INNER = ("CutOver",)
"""Workflow types that are runs as well, and are started by others."""

ANSWER_S = timedelta(seconds=3)
"""How long a worker may take to answer a query or an update. With none alive, neither is ever answered."""

SHORT = timedelta(seconds=5)

EVERY: Sequence[str] = ()
OPEN: Sequence[str] = ("Running",)
REPORTING: Sequence[str] = ("Running", "Completed")
"""Runs that have a report, or will: not those that were refused at their start."""


@dataclass(frozen=True)
class RunLine:
    """A run as the visibility store lists it: nothing is asked of a worker."""

    run: str
    procedure: str
    service: str
    status: str
    started: datetime
    ended: datetime | None
    step: str
    outcome: str
    verdict: str
    waiting_for: str
    epoch: int | None


@dataclass(frozen=True)
class Delivered:
    """`by_signal`: no worker answered, so the message waits in the run's history and is judged there."""

    text: str
    by_signal: bool


class Engine:
    """Every method may raise RPCError when Temporal is out of reach, and Problem for what a person must know."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def start(self, procedure: str, request: RunRequest, now: datetime | None = None, *, prefix: str = "") -> str:
        """The new run's id: procedure, service and UTC second."""
        run = f"{prefix}{procedure}/{request.service}/{now or datetime.now(UTC):%Y%m%dT%H%M%S}"
        try:
            await self.client.start_workflow(
                PROCEDURES[procedure],
                request,
                id=run,
                task_queue=TASK_QUEUE,
                task_timeout=TASK_TIMEOUT,
                rpc_timeout=SHORT,
            )
        except WorkflowAlreadyStartedError as error:
            raise Problem(f"{run} was started this very second; look at it: `lifeboat show {run}`") from error
        return run

    async def runs(self, limit: int, service: str | None = None, statuses: Sequence[str] = EVERY) -> list[RunLine]:
        """The newest first."""
        query = [_types()]
        if service is not None:
            query.append(f"LifeboatService = '{_quoted(service)}'")
        if statuses:
            query.append("ExecutionStatus IN (" + ", ".join(f"'{each}'" for each in statuses) + ")")
        lines = [_line(each) for each in await self._listed(" AND ".join(query), limit)]
        return sorted(lines, key=lambda line: line.started, reverse=True)

    async def find(self, text: str | None, newest: bool = False, statuses: Sequence[str] = EVERY) -> str:
        """The run that a person means: an id, a unique beginning of one, or the newest of these statuses."""
        if newest:
            lines = await self.runs(1000, statuses=statuses)
            if not lines:
                raise Problem("there is no such run; `lifeboat runs` lists what there is")
            return lines[0].run
        if text is None:
            raise Problem("name a RUN (`lifeboat runs` lists them), or say --last", Exit.USAGE)
        if await self._exists(text):
            return text
        query = f"{_types()} AND WorkflowId STARTS_WITH '{_quoted(text)}'"
        return choose(text, [each.id for each in await self._listed(query, 20)])

    async def state(self, run: str) -> RunState | None:
        """Where the run stands; None when no worker answers in time."""
        handle = self.client.get_workflow_handle(run)
        try:
            state = await handle.query("state", result_type=RunState, rpc_timeout=ANSWER_S)
        except (WorkflowQueryFailedError, WorkflowQueryRejectedError):
            return None
        except RPCError as error:
            if _nobody_answers(error):
                return None
            raise
        assert isinstance(state, RunState)
        # A failover's steps are short, and each look costs it something.
        if state.procedure != "DatabaseFailover" and state.step and not state.outcome:
            state = state.model_copy(update={"progress": await self._progress(handle)})
        return state

    async def _progress(self, handle: WorkflowHandle[Any, Any]) -> str:
        """What the run's activities are at: the newest heartbeat, and why the last attempt of one failed."""
        described = await handle.describe(rpc_timeout=SHORT)
        told = ""
        for each in described.raw_description.pending_activities:
            if each.heartbeat_details.payloads:
                details = await self.client.data_converter.decode(each.heartbeat_details.payloads)
                told = progress_text(details[0]) or told
            if each.attempt > 1 and each.last_failure.message:
                told = ", ".join(
                    part for part in (told, f"attempt {each.attempt}: {each.last_failure.message}") if part
                )
        return told

    async def is_open(self, run: str) -> bool:
        described = await self.client.get_workflow_handle(run).describe(rpc_timeout=SHORT)
        return described.status is WorkflowExecutionStatus.RUNNING

    async def report(self, run: str) -> Report:
        """The report of a run; waits for its end. Problem when the run ended without one."""
        handle: WorkflowHandle[object, Report] = self.client.get_workflow_handle(run, result_type=Report)
        try:
            return await handle.result()
        except WorkflowFailureError as error:
            raise Problem(f"{run} ended without a report: {innermost(error.cause)}", exit_of(error)) from error

    async def send(self, run: str, name: str, message: Answer | Verb) -> Delivered:
        """By update, which is judged at once; by signal when no worker answers.

        The update that went unanswered may still be delivered beside the signal: both doors rest on the same
        decision, which counts the same answer once.
        """
        handle = self.client.get_workflow_handle(run)
        try:
            said = await handle.execute_update(name, message, result_type=str, rpc_timeout=ANSWER_S)
            return Delivered(str(said), by_signal=False)
        except WorkflowUpdateFailedError as error:
            raise Problem(f"{run}: {innermost(error.cause)}") from error
        except WorkflowUpdateRPCTimeoutOrCancelledError:
            pass
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise Problem(f"{run} has ended; `lifeboat report {run}` tells how") from error
            if not _nobody_answers(error):
                raise
        try:
            await handle.signal(name, message, rpc_timeout=SHORT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise Problem(f"{run} has ended; `lifeboat report {run}` tells how") from error
            raise
        return Delivered(f"no worker answers; {name} waits in the run's history and is judged when one does", True)

    async def _exists(self, run: str) -> bool:
        """Problem when it is there and no run: a watch, a lock."""
        try:
            described = await self.client.get_workflow_handle(run).describe(rpc_timeout=SHORT)
        except RPCError as error:
            if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
                return False
            raise
        if described.workflow_type not in (*PROCEDURES.values(), *INNER):
            raise Problem(f"{run} is a {described.workflow_type}, not a run; `lifeboat runs` lists them", Exit.USAGE)
        return True

    async def _listed(self, query: str, limit: int) -> list[WorkflowExecution]:
        return [each async for each in self.client.list_workflows(query, limit=limit, rpc_timeout=SHORT)]


def choose(text: str, runs: Sequence[str]) -> str:
    """The only run that `text` begins. Problem (usage) for none or several, which it names."""
    found = sorted({run for run in runs if run.startswith(text)}, reverse=True)
    if len(found) == 1:
        return found[0]
    if not found:
        raise Problem(f"no run is called {text} or begins so; `lifeboat runs` lists them", Exit.USAGE)
    shown = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
    raise Problem(f"{text} begins several runs: {shown}; give more of the one that you mean", Exit.USAGE)


def _nobody_answers(error: RPCError) -> bool:
    """The three forms in which "no poller, or none in time" comes."""
    return error.status in (
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.FAILED_PRECONDITION,
    )


def _types() -> str:
    return "WorkflowType IN (" + ", ".join(f"'{each}'" for each in (*PROCEDURES.values(), *INNER)) + ")"


def _quoted(text: str) -> str:
    """For a query of the visibility store, which is in SQL's manner."""
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _line(execution: WorkflowExecution) -> RunLine:
    def word(name: str) -> str:
        return execution.typed_search_attributes.get(SearchAttributeKey.for_keyword(name)) or ""

    return RunLine(
        run=execution.id,
        procedure=execution.workflow_type,
        service=word("LifeboatService"),
        status=execution.status.name.lower() if execution.status else "",
        started=execution.start_time,
        ended=execution.close_time,
        step=word("LifeboatStep"),
        outcome=word("LifeboatOutcome"),
        verdict=word("LifeboatVerdict"),
        waiting_for=word("LifeboatWaitingFor"),
        epoch=execution.typed_search_attributes.get(SearchAttributeKey.for_int("LifeboatEpoch")),
    )
