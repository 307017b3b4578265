"""One lab, and the words in which scenarios are told: break, start, await, answer, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.service import RPCError, RPCStatusCode

from activities import epoch as epochs
from activities import survey
from activities.files import replace_file
from activities.sessions import open_session
from activities.topology import load_topology
from lab import faults, load
from lab import lab as labs
from lab.model import Lab
from lab.referee import Audit, audit
from lab.watch import start_watch
from schemas.attributes import TASK_QUEUE, watch_id
from schemas.facts import EpochRecord
from schemas.reports import Report
from schemas.requests import Answer, CandidateRequest, FailoverRequest, RejoinRequest, RunRequest, Verb
from schemas.state import RunState

Run = WorkflowHandle[Any, Any]
FIRST_STEPS_S = 20.0


ROOT = Path(__file__).parents[2]


def without_places(value: Any, places: dict[str, str]) -> Any:
    """A history without the paths of the machine that it was recorded on, in payloads and stack traces too."""
    if isinstance(value, dict):
        return {
            key: _payload(each, places) if key == "data" else without_places(each, places)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [without_places(each, places) for each in value]
    if isinstance(value, str):
        for place, neutral in places.items():
            value = value.replace(place, neutral)
    return value


def _payload(data: Any, places: dict[str, str]) -> Any:
    if not isinstance(data, str):
        return without_places(data, places)
    plain = base64.b64decode(data).decode("utf-8", errors="strict")
    return base64.b64encode(without_places(plain, places).encode()).decode()


async def record(lab: Lab, run: Run, branch: str) -> None:
    """Keep the run's history for the replay tests, when LIFEBOAT_RECORD names a folder."""
    folder = os.environ.get("LIFEBOAT_RECORD")
    if folder:
        history = json.loads((await run.fetch_history()).to_json())
        places = {str(lab.folder): "/var/tmp/lifeboat-lab", str(ROOT): "lifeboat", sys.base_prefix: "python"}
        places[f"@{socket.gethostname()}"] = "@host"
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(without_places(history, places), indent=1)
        (Path(folder) / f"{branch}.json").write_text(text + "\n", encoding="utf-8")


def line_of(event: HistoryEvent) -> str:
    """What happened, and to which activity or worker."""
    what = getattr(event, event.WhichOneof("attributes") or "")
    at, kind = event.event_time.ToDatetime(), EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
    told = [getattr(what, "scheduled_event_id", ""), getattr(what, "identity", "")]
    told += [what.activity_type.name] if hasattr(what, "activity_type") else []
    told += [what.failure.message] if hasattr(what, "failure") else []
    return " ".join([f"{event.event_id:4} {at:%H:%M:%S.%f} {kind}", *(str(each) for each in told if each)])


async def result_of(run: Run) -> Report:
    """The run's result; a Temporal that was killed is asked again once it is back, as anybody would."""
    while True:
        try:
            result: Report = await run.result()
        except RPCError as error:
            if error.status is not RPCStatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.2)
        except WorkflowFailureError as error:
            error.args = (f"{run.id}: {error.cause}",)  # what a summary shows of it
            raise
        else:
            return result


async def as_marked(lab: Lab, request: pytest.FixtureRequest) -> Lab:
    """The lab as new, but for what `@pytest.mark.estate(watch=False, detection={…})` says of this scenario."""
    marker = request.node.get_closest_marker("estate")
    # A rejoin that begins by itself would go on beside what a scenario does next.
    options = {"rejoin": {"when": "by-hand"}} | (dict(marker.kwargs) if marker else {})
    watch = options.pop("watch", True)
    return await labs.reset(lab, overrides=options, watch=watch)


class Scene:
    """A lab under test, its Temporal client, and the moment from which runs count as this scenario's."""

    def __init__(self, lab: Lab, client: Client) -> None:
        self.lab, self.client = lab, client
        self.since = datetime.now(UTC)

    async def traffic(self) -> None:
        """Load on all three routes, each of which has acknowledged a write."""
        await asyncio.to_thread(load.start, self.lab)

    async def declare(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Edit the topology file, as its owner would, and start the watch on it where it does not run yet."""
        await self.edit(change)
        await start_watch(self.lab)

    async def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Edit the topology file, as its owner would."""
        declared = yaml.safe_load(self.lab.topology.read_text(encoding="utf-8"))
        change(declared)
        replace_file(self.lab.topology, yaml.safe_dump(declared, sort_keys=False))
        load_topology(self.lab.topology)

    async def until(self, what: str, condition: Callable[[], Awaitable[Any]], limit: float = 30.0) -> Any:
        """The first true answer of a condition; a failed assertion that names it after `limit` seconds."""
        async with asyncio.timeout(limit + 5):
            end = asyncio.get_running_loop().time() + limit
            while True:
                found = await condition()
                if found:
                    return found
                assert asyncio.get_running_loop().time() < end, f"not within {limit:.0f} s: {what}"
                await asyncio.sleep(0.1)

    # Runs

    async def start(self, run: str, *, approval: str = "always", **more: Any) -> Run:
        request = FailoverRequest.model_validate(
            {"service": self.lab.service, "reason": "a test", "approval": approval, **more}
        )
        return await self.client.start_workflow(
            "DatabaseFailover", request, id=run, task_queue=TASK_QUEUE, result_type=Report
        )

    async def rejoin(self, member: str, run: str = "rejoin", **more: Any) -> Run:
        request = RejoinRequest.model_validate(
            {"service": self.lab.service, "reason": "a test", "member": member, **more}
        )
        return await self.begin("DatabaseRejoin", request, run)

    async def switch(self, candidate: str | None = None, run: str = "switchover", **more: Any) -> Run:
        request = CandidateRequest.model_validate(
            {"service": self.lab.service, "reason": "a test", "candidate": candidate, **more}
        )
        return await self.begin("DatabaseSwitchover", request, run)

    async def begin(self, procedure: str, request: RunRequest, run: str) -> Run:
        """One lab serves all scenarios, so that the run's id gets a moment of its own."""
        return await self.client.start_workflow(
            procedure, request, id=f"{run}-{uuid.uuid4().hex[:6]}", task_queue=TASK_QUEUE, result_type=Report
        )

    async def runs(self) -> list[str]:
        """Ids of the failovers of this scenario, oldest first."""
        query = f"WorkflowType = 'DatabaseFailover' AND StartTime > '{self.since.isoformat()}'"
        found = [(each.start_time, each.id) async for each in self.client.list_workflows(query)]
        return [run for _, run in sorted(found)]

    async def run_of_watch(self, number: int = 1, limit: float = 40.0) -> Run:
        """The failover that the watch started (its `number`th in this scenario)."""

        async def found() -> list[str]:
            runs = [run for run in await self.runs() if run.startswith("database-failover/")]
            return runs if len(runs) >= number else []

        runs = await self.until("the watch starts a failover", found, limit)
        return self.client.get_workflow_handle(runs[number - 1], result_type=Report)

    async def state(self, run: Run) -> RunState:
        return await run.query("state", result_type=RunState)

    async def state_when(self, run: Run, what: str, holds: Callable[[RunState], Any], limit: float = 40.0) -> RunState:
        """The run's state once `holds` says so."""

        async def found() -> RunState | None:
            try:
                state = await self.state(run)
            except (RPCError, WorkflowQueryFailedError):
                return None
            return state if holds(state) else None

        try:
            result: RunState = await self.until(what, found, limit)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.told_of(run)}") from None
        return result

    async def told_of(self, run: Run) -> str:
        """Its step and journal; where no query is answered, as when its history can't be replayed, the history."""
        try:
            state = await self.state(run)
        except (RPCError, WorkflowQueryFailedError) as failed:
            history = await run.fetch_history()
            return "\n".join([f"no journal: {failed}", *map(line_of, history.events)])
        return "\n".join([f"now: {state.step}", *state.journal])

    async def question(self, run: Run, limit: float = 40.0) -> RunState:
        return await self.state_when(run, "the run asks a person", lambda state: state.question, limit)

    async def approve(self, run: Run, *, by: str = "ana", digest: str | None = None, **more: Any) -> str:
        state = await self.question(run)
        assert state.question is not None
        answer = Answer(by=by, digest=digest or state.question.digest, **more)
        return await run.execute_update("approve", answer, result_type=str)

    async def reject(self, run: Run, *, by: str = "ana") -> str:
        state = await self.question(run)
        assert state.question is not None
        return await run.execute_update("reject", Answer(by=by, digest=state.question.digest), result_type=str)

    async def say(self, run: Run, verb: str, *, by: str = "ana") -> str:
        return await run.execute_update(verb, Verb(by=by, reason="a test"), result_type=str)

    async def report(self, run: Run, limit: float = 90.0) -> Report:
        """The run's result, once it has ended."""
        try:
            async with asyncio.timeout(limit):
                result = await result_of(run)
        except TimeoutError:
            told = await self.told_of(run)
            running = self.client.list_workflows("ExecutionStatus = 'Running'")
            for other in [each.id async for each in running if each.id != run.id]:
                told += f"\nopen: {other}"
                with contextlib.suppress(RPCError, WorkflowQueryFailedError, ValidationError):  # a watch
                    beside = await self.state(self.client.get_workflow_handle(other, result_type=Report))
                    told += "".join(f"\n  {line}" for line in beside.journal)
            raise AssertionError(f"{run.id} has not ended within {limit:.0f} s\n{told}") from None
        return result

    async def ended(self, run: Run) -> bool:
        return (await run.describe()).status != WorkflowExecutionStatus.RUNNING

    async def watch_is_idle(self) -> bool:
        """Whether the watch runs and no failover of this scenario does."""
        handle = self.client.get_workflow_handle(watch_id(self.lab.service))
        return (await handle.describe()).status == WorkflowExecutionStatus.RUNNING

    async def record(self, run: Run, branch: str) -> None:
        """Keep the run's history for the replay tests, when LIFEBOAT_RECORD names a folder."""
        await record(self.lab, run, branch)

    async def epoch(self) -> EpochRecord | None:
        """The service's epoch record, as it stands in the zone."""
        zone = load_topology(self.lab.topology).zone
        return await epochs.read(zone, self.lab.service)

    async def failed_over(self, fault: str = "kill") -> Report:
        """The home primary is lost under load, and the watch has failed over."""
        await self.traffic()
        await faults.fault(self.lab, fault, "pg-east-1")
        return await self.report(await self.run_of_watch())

    async def is_back(self, member: str) -> None:
        """As the servers say: the member streams from the leader, on its timeline, and the leader sends to it."""
        record = await self.epoch()
        assert record is not None
        estate = load_topology(self.lab.topology).service(self.lab.service)
        leader, found = await survey.look_at_all(estate, [estate.member(record.leader), estate.member(member)])
        assert not leader.in_recovery, leader
        assert found.in_recovery, found
        assert found.receiver is not None, found
        assert found.receiver.status == "streaming", found
        assert found.timeline == leader.timeline, (found, leader)
        assert (member, "streaming") in {(each.name, each.state) for each in leader.standbys}, leader

    async def backend_of(self, member: str) -> int:
        """The process id of a client's session on a member."""
        conn = await open_session(
            load_topology(self.lab.topology).service(self.lab.service),
            self.lab.node(member).host,
            self.lab.node(member).port,
        )
        try:
            return int(
                await conn.fetchval(
                    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename = 'app' LIMIT 1"
                )
            )
        finally:
            conn.terminate()

    # What must hold

    async def safe(self, *, writing: bool = True, limit: float = 30.0) -> Audit:
        """Nothing acknowledged is missing, no second writer, and (unless said otherwise) every route writes again."""

        async def serving() -> bool:
            found = await audit(self.lab)
            return found.missing is not None and all(route.writing for route in found.routes.values())

        if writing:
            await self.until("every route writes again", serving, limit)
        found = await audit(self.lab)
        assert found.missing == 0, found
        assert found.concurrent_writers == 0, found
        assert found.acknowledged > 0, found
        return found
