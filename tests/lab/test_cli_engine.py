"""The command against a real Temporal server: a small runbook on the product's own kit, started by each test."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from rich.console import Console
from temporalio import workflow
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.topology import load_topology
from cli.engine import Engine
from cli.follow import follow
from cli.main import call
from cli.problems import Problem
from lab.binaries import find_temporal
from schemas.attributes import INT_ATTRIBUTES, KEYWORD_ATTRIBUTES, TASK_QUEUE, region_queue
from schemas.orders import Estate
from schemas.reports import Outcome, Report
from schemas.requests import Answer, FailoverRequest, Verb, WatchRequest
from workflows.runbook import Ended, Runbook

pytestmark = pytest.mark.lab

LOOK, ASK, ACT = "Look", "Ask", "Act"


@workflow.defn(name="DatabaseFailover", failure_exception_types=[Exception])
class SmallRunbook(Runbook):
    """`reason` says what it meets: `fails`, `parks`, or a question."""

    procedure = "DatabaseFailover"
    titles = (LOOK, ASK, ACT)

    @workflow.run
    async def run(self, request: FailoverRequest) -> Report:
        with workflow.unsafe.imports_passed_through():
            topology = load_topology("topology.yaml")
        service = topology.services[0].model_copy(update={"name": request.service})
        self.estate = Estate(service=service, zone=topology.zone, vantages=[])
        self.service_name, self.reason, self.rto_s = request.service, request.reason, 300.0
        self.attribute("LifeboatService", request.service)
        self.failures = 1
        if request.reason == "fails":
            raise ApplicationError("counting-db is held by another run", type="ServiceLocked", non_retryable=True)
        self.start_clock(workflow.now())
        outcome: Outcome = "recovered, unprotected"
        summary = "done"
        try:
            await self.step(LOOK, self.look, skippable=True)
            await self.step(ASK, self.question_of_it)
            await self.step(ACT, self.look)
        except Ended as end:
            outcome, summary = end.outcome, end.summary
        self.outcome = outcome
        await workflow.wait_condition(workflow.all_handlers_finished)
        return Report(
            procedure=self.procedure,
            service=request.service,
            run=workflow.info().workflow_id,
            reason=request.reason,
            outcome=outcome,
            summary=summary,
            started=workflow.info().start_time,
            ended=workflow.now(),
            rto_s=300,
            rpo_s=60,
            steps=self.steps,
            decisions=self.decisions,
        )

    async def look(self) -> None:
        if self.reason == "parks" and self.failures:
            self.failures -= 1
            raise ApplicationError("the disk is full", type="NotYet")

    async def question_of_it(self) -> None:
        decision = await self.ask("promote pg-east-2?", "d1gest", needs_override=False, machine_s=5)
        if decision.answer != "approved":
            raise Ended("rejected", f"rejected by {decision.by}")


@workflow.defn(name="Watch")
class SmallWatch:
    """An activity on each region's queue, as the product's; nobody serves them here."""

    @workflow.run
    async def run(self, request: WatchRequest) -> None:
        await asyncio.gather(
            *(
                workflow.execute_activity(
                    "watch_member", task_queue=region_queue(region), start_to_close_timeout=timedelta(days=1)
                )
                for region in ("us-east-1", "us-west-2")
            )
        )


class Running:
    """A server, an engine, and workers that a test may stop."""

    def __init__(self, client: Client) -> None:
        self.client, self.engine = client, Engine(client)
        self.address = client.service_client.config.target_host

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        async with Worker(
            self.client,
            task_queue=TASK_QUEUE,
            workflows=[SmallRunbook, SmallWatch],
            workflow_runner=UnsandboxedWorkflowRunner(),
            sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
        ):
            yield

    async def start(self, reason: str) -> str:
        """A run of a service of its own, so that tests don't meet in the visibility store."""
        request = FailoverRequest(service=f"db-{uuid.uuid4().hex[:6]}", reason=reason)
        return await self.engine.start("database-failover", request)

    async def until_asked(self, run: str) -> None:
        async with asyncio.timeout(10):
            while (state := await self.engine.state(run)) is None or state.question is None:
                await asyncio.sleep(0.05)

    async def command(self, *arguments: str) -> int:
        """A command as typed, in a thread of its own: it runs its own event loop."""
        return await asyncio.to_thread(call, [*arguments, "--address", self.address])


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    attributes = [
        *(SearchAttributeKey.for_keyword(name) for name in KEYWORD_ATTRIBUTES),
        *(SearchAttributeKey.for_int(name) for name in INT_ATTRIBUTES),
    ]
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(find_temporal()),
        dev_server_log_level="error",
        search_attributes=attributes,
        data_converter=pydantic_data_converter,
    ) as server:
        yield Running(server.client)


async def test_a_run_is_found_by_id_by_beginning_and_as_the_newest(running: Running) -> None:
    async with running.worker():
        first = await running.start("asks")
        second = await running.start("asks")
        await running.until_asked(second)
        await running.until_asked(first)
        assert await running.engine.find(first) == first
        assert await running.engine.find(first[:-4]) == first
        assert await running.engine.find(None, newest=True) in (first, second)
        with pytest.raises(Problem, match="begins several runs") as several:
            await running.engine.find("database-failover/db-")
        assert several.value.code == 2
        with pytest.raises(Problem, match="no run is called"):
            await running.engine.find("nothing/such")


async def test_an_approval_is_judged_at_once(running: Running) -> None:
    async with running.worker():
        run = await running.start("asks")
        await running.until_asked(run)
        with pytest.raises(Problem, match="does not count"):
            await running.engine.send(run, "approve", Answer(by="ana", digest="old"))
        answered = await running.engine.send(run, "approve", Answer(by="ana", digest="d1gest"))
        assert not answered.by_signal
        assert (await running.engine.report(run)).outcome == "recovered, unprotected"
        with pytest.raises(Problem, match="has ended"):
            await running.engine.send(run, "abort", Verb(by="ana"))


async def test_without_a_worker_an_answer_goes_by_signal_and_counts_when_one_is_back(running: Running) -> None:
    async with running.worker():
        run = await running.start("asks")
        await running.until_asked(run)
    assert await running.engine.state(run) is None
    answered = await running.engine.send(run, "reject", Answer(by="ben", digest="d1gest"))
    assert answered.by_signal
    async with running.worker(), asyncio.timeout(20):
        report = await running.engine.report(run)
    assert report.outcome == "rejected"
    assert [decision.by for decision in report.decisions] == ["ben"]


async def test_a_run_that_ended_without_a_report_says_why(running: Running) -> None:
    async with running.worker():
        run = await running.start("fails")
        with pytest.raises(Problem, match="held by another run"):
            await running.engine.report(run)
        assert await running.command("report", run) == 1


async def test_follow_tells_each_step_and_question_and_ends_with_the_report(running: Running) -> None:
    seen = io.StringIO()
    async with running.worker():
        run = await running.start("parks")
        console = Console(file=seen, width=120)
        stopped = await follow(running.engine, run, console, ask=False, limit_s=20)
        assert (stopped.report, stopped.code) == (None, 4)
        following = asyncio.ensure_future(follow(running.engine, run, console, ask=True, limit_s=20))
        await running.engine.send(run, "retry", Verb(by="ana"))
        await running.until_asked(run)
        await running.engine.send(run, "approve", Answer(by="ana", digest="d1gest"))
        ending = await following
    assert ending.code == 0
    told = seen.getvalue()
    assert f"lifeboat retry {run}" in told
    assert "✓ Act" in told


async def test_follow_says_that_no_worker_answers(running: Running) -> None:
    seen = io.StringIO()
    run = await running.start("asks")
    ending = await follow(running.engine, run, Console(file=seen, width=120), ask=True, limit_s=0.5)
    assert (ending.code, ending.waiting) == (4, "not ended within 0.50 s")
    assert "no worker answers" in seen.getvalue()


async def test_exit_codes_of_the_command(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    async with running.worker():
        run = await running.start("asks")
        await running.until_asked(run)
        assert await running.command("report", run, "--wait", "0.2") == 4
        assert await running.command("show", run) == 0
        assert "lifeboat approve" in capsys.readouterr().out
        assert await running.command("show", run, "--follow", "--no-ask") == 4
        assert await running.command("approve", run, "--by", "ana", "--digest", "old") == 1
        assert await running.command("reject", run, "--by", "ana") == 0
        assert await running.command("show", run, "--follow", "--json") == 3
        assert await running.command("reject", run, "--by", "ana") == 1
        assert await running.command("runs") == 0
        listed = capsys.readouterr().out
    assert run in listed


async def test_a_watch_is_started_once_shown_and_stopped(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    async with running.worker():
        assert await running.command("watch", "start", "counting-db") == 0
        assert "is watched" in capsys.readouterr().out
        assert await running.command("watch", "start", "counting-db") == 0
        assert "was watched already" in capsys.readouterr().out
        async with asyncio.timeout(10):
            regions: list[str] = []
            while regions != ["us-east-1", "us-west-2"]:
                assert await running.command("watch", "status", "--json") == 0
                (watch,) = json.loads(capsys.readouterr().out)["watches"]
                regions = watch["regions"]
        assert watch["service"] == "counting-db"
        assert watch["workflow_id"] == "watch/counting-db"
        assert watch["history_events"] > 3
        assert await running.command("show", "watch/counting-db") == 2
        assert await running.command("watch", "stop") == 0
        assert "no longer watched" in capsys.readouterr().out
        assert await running.command("watch", "status", "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"watches": []}
        assert await running.command("watch", "stop", "counting-db") == 0
