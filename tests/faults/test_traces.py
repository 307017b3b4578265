"""A failover as its trace tells it: one trace a run, true times, no span twice, no secret; and nothing waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
import pytest_asyncio

from lab import lab as labs
from lab.layout import HOME
from lab.model import Lab, Node
from schemas.reports import Report
from tests.faults.jaeger import Span, Trace, trace_of
from tests.faults.scene import Scene
from tests.faults.striking import striking_scene

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults]

MICROSECOND = timedelta(microseconds=1)
"""Jaeger's own resolution, of a beginning and of a duration."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def traced_lab() -> AsyncIterator[Lab]:
    lab = await labs.up(make_current=False, extras=["jaeger"])
    yield lab
    await labs.down(lab)


def steps_match(trace: Trace, report: Report) -> None:
    """Each step of the report is one span under the run, with the times on record."""
    root = trace.one("DatabaseFailover", "lifeboat.run")
    assert root.parent is None
    steps = [span for span in trace.of("lifeboat.run") if span.parent == root.id and "lifeboat.step" in span.tags]
    assert Counter(span.name for span in steps) == Counter(step.title for step in report.steps)
    for step in report.steps:
        span = next(span for span in steps if span.name == step.title)
        assert abs(span.started - step.started) <= MICROSECOND, step
        assert abs(span.ended - step.ended) <= 2 * MICROSECOND, step
        assert span.tags["lifeboat.step.outcome"] == step.outcome
        assert root.started <= span.started <= span.ended <= root.ended
    assert root.started <= report.started <= report.ended <= root.ended + MICROSECOND


def hangs_together(trace: Trace) -> None:
    """No span is there twice, each but the root hangs under another, and all of them tell the run."""
    assert [span for span, times in Counter(span.id for span in trace.spans).items() if times > 1] == []
    assert [span.name for span in trace.spans if span.parent is None] == ["DatabaseFailover"]
    for span in trace.spans:
        assert {"lifeboat.service", "lifeboat.run", "lifeboat.run_id", "lifeboat.procedure"} <= set(span.tags), span


async def counted(lab: Lab) -> str | None:
    """What all workers tell, once a run is counted and each has seen that none is open."""
    texts = [await scrape(node) for node in lab.of_kind("worker")]
    none_open = all('lifeboat_open_runs{service="counting-db"} 0' in text for text in texts)
    return "".join(texts) if none_open and any("lifeboat_runs_total{" in text for text in texts) else None


async def scrape(node: Node) -> str:
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        return (await client.get(f"http://{node.metrics}/metrics")).raise_for_status().text


def total(text: str, name: str, label: str) -> float:
    """The sum of a metric's samples that carry a label."""
    lines = [line for line in text.splitlines() if line.startswith(name + "{") and label in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def path(trace: Trace, span: Span) -> list[str]:
    """The names from the root down to a span."""
    above = trace.parent(span)
    return [*(path(trace, above) if above else []), span.name]


@pytest.mark.campaign
async def test_a_failover_is_one_trace_down_to_its_statements(traced_lab: Lab) -> None:
    scene = Scene(
        await labs.reset(traced_lab, overrides={"rejoin": {"when": "by-hand"}}), await labs.connect(traced_lab)
    )
    await scene.traffic()
    await labs.fault(scene.lab, "kill", HOME)
    run = await scene.run_of_watch()
    report = await scene.report(run)
    trace = await trace_of(scene, run)

    steps_match(trace, report)
    hangs_together(trace)
    for span in trace.of("lifeboat.activity"):
        above = trace.parent(span)
        assert above is not None, span
        assert above.scope == "lifeboat.run", (span, above)
        if "lifeboat.step" in above.tags:
            assert above.started <= span.started <= span.ended <= above.ended, (span, above)
    for scope in ("asyncpg", "psycopg", "lifeboat.dns"):
        calls = trace.of(scope)
        assert calls, scope
        for span in calls:
            above = trace.parent(span)
            assert above is not None, span
            assert above.scope == "lifeboat.activity", (span, above)
            assert above.started <= span.started, (span, above)

    root = "DatabaseFailover"
    paths = [path(trace, span) for span in trace.spans]
    assert [root, "Fence the old primary", "disconnect_standbys", "ALTER"] in paths
    assert [root, "Hold the poolers", "hold_pooler", "KILL"] in paths
    assert [root, "Compare positions and record the choice", "choose_and_lead"] in paths
    assert [root, "Promote the candidate", "promote_candidate", "SELECT"] in paths
    assert [root, "Verify through every route", "verify_routes", "INSERT"] in paths
    assert any(span.name.startswith("DNS UPDATE lab.lifeboat.test.") for span in trace.of("lifeboat.dns"))

    # No secret of the lab, no parameter, no literal.
    for secret in scene.lab.secrets.iterdir():
        assert secret.read_text(encoding="utf-8").strip() not in trace.raw, secret.name
    statements = [str(span.tags["db.statement"]) for span in trace.spans if "db.statement" in span.tags]
    assert any("primary_conninfo = '?'" in text for text in statements)
    assert [text for text in statements if "application_name=" in text or "passfile" in text] == []
    assert not any("parameters" in tag for span in trace.spans for tag in span.tags)

    # Metrics tell the same run, which one worker counted; the gauges are looked up every few seconds.
    seen = await scene.until("the gauges say that the run has ended", lambda: counted(scene.lab), 30)
    of = f'outcome="{report.outcome}",procedure="DatabaseFailover",service="counting-db"'
    assert total(seen, "lifeboat_runs_total", of) == 1
    assert total(seen, "lifeboat_recovery_seconds_count", 'rto_met="true"') == 1
    assert abs(total(seen, "lifeboat_recovery_seconds_sum", "") - (report.outage_s or 0)) < 0.001
    assert total(seen, "lifeboat_step_seconds_count", 'step="Promote the candidate"') == 1
    assert total(seen, "lifeboat_probes_failed_total", 'member="pg-east-1",') >= 6  # 3 each, of 2 regions
    assert 'lifeboat_rto_left_seconds{service="counting-db"} 300' in seen
    assert "temporal_activity_execution_latency_seconds_bucket" in seen

    # A replay, which a question to a run that has ended is, tells nothing again: workers send all when they stop.
    for region in scene.lab.regions:
        await labs.fault(scene.lab, "stop", f"worker-{region}")
    for region in scene.lab.regions:
        await labs.fault(scene.lab, "start", f"worker-{region}")
    assert (await scene.state_when(run, "a new worker replays it", lambda state: state.outcome)).outcome
    for region in scene.lab.regions:
        await labs.fault(scene.lab, "stop", f"worker-{region}")
    again = await trace_of(scene, run)
    assert Counter(span.id for span in again.spans) == Counter(span.id for span in trace.spans)


@pytest.mark.campaign
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_worker_killed_in_the_promotion_leaves_one_trace(traced_lab: Lab, when: str) -> None:
    async with striking_scene(traced_lab, activity="promote_candidate", when=when, strike="kill") as (scene, done):
        await scene.traffic()
        await labs.fault(scene.lab, "kill", HOME)
        run = await scene.run_of_watch()
        report = await scene.report(run)
        trace = await trace_of(scene, run, lost=True)
        assert done.exists()
        assert report.outcome == "recovered, unprotected", report
        steps_match(trace, report)
        hangs_together(trace)
        promoted = trace.one("promote_candidate", "lifeboat.activity")
        assert promoted.tags["temporal.attempt"] > 1
        assert path(trace, promoted)[1] == "Promote the candidate"
        await scene.safe()


@pytest.mark.campaign
async def test_what_failed_is_marked_with_its_reason(traced_lab: Lab) -> None:
    """The DNS server dies between fence and choice, the run parks and is aborted: its trace says where and why."""
    plan = {"activity": "disconnect_standbys", "when": "after", "strike": "pid", "node": "knot-eu"}
    async with striking_scene(traced_lab, **plan) as (scene, _):
        await scene.traffic()
        run = await scene.start("traced-1")
        await scene.approve(run)
        await scene.state_when(run, "the run parks at the choice", lambda each: each.parked, 90)
        await scene.say(run, "abort")
        report = await scene.report(run)
        trace = await trace_of(scene, run)
    steps_match(trace, report)
    hangs_together(trace)
    choice = trace.one("Compare positions and record the choice", "lifeboat.run")
    assert choice.error is not None
    assert "DNS" in choice.error
    assert trace.one("Fence the old primary", "lifeboat.run").error is None
    undo = trace.one("Unfence the old primary", "lifeboat.run")
    assert undo.tags["lifeboat.step.outcome"] == "undo failed"
    assert undo.error
    tries = [span for span in trace.of("lifeboat.activity") if span.name == "choose_and_lead"]
    assert len(tries) > 1
    assert all(span.error and "EpochUnavailable" in span.error for span in tries)
    assert any(span.error for span in trace.of("lifeboat.dns"))
    root = trace.one("DatabaseFailover", "lifeboat.run")
    assert root.tags["lifeboat.outcome"] == report.outcome == "needs a person"
    assert root.error


class Hanging:
    """A collector that takes connections and what is sent, and never answers."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reached.set()
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                pass
        writer.close()


@pytest.mark.campaign
async def test_a_collector_that_hangs_is_nobodys_business(traced_lab: Lab) -> None:
    hanging = Hanging()
    async with await asyncio.start_server(hanging.take, "127.0.0.1", 0) as server:
        where = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": where, "LIFEBOAT_LOG": "json"}
        async with striking_scene(traced_lab, env=env) as (scene, done):
            report = await recovered(scene)
            assert report.rto_met
            # It did hang: only then is anything shown here.
            await asyncio.wait_for(hanging.reached.wait(), 30)
            lines = (done.parent / "workers.log").read_text(encoding="utf-8").splitlines()
            secrets = [file.read_text(encoding="utf-8").strip() for file in scene.lab.secrets.iterdir()]

    log = [json.loads(line) for line in lines]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in log)
    assert sum("traces go to" in line["message"] for line in log) == len(scene.lab.regions), lines
    # What the run told people is in the log, under the workflow that tells it, with the run's service.
    told = [line for line in log if line["logger"] == "lifeboat.notice" and report.run in line["message"]]
    assert told, lines
    for line in told:
        assert line["service"] == scene.lab.service
        assert (line["activity"], line["attempt"]) == ("deliver", 1)
        assert line["workflow_id"].startswith(f"notify/{report.run}/")
    assert [secret for secret in secrets if any(secret in line for line in lines)] == []


@pytest.mark.campaign
async def test_a_collector_that_is_down_is_nobodys_business(traced_lab: Lab) -> None:
    with socket.socket() as closed:
        # Bound and not listening: nobody else can have the port, and whoever connects is refused.
        closed.bind(("127.0.0.1", 0))
        env = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{closed.getsockname()[1]}/v1/traces"}
        async with striking_scene(traced_lab, env=env) as (scene, _):
            report = await recovered(scene)
            assert report.rto_met


async def recovered(scene: Scene) -> Report:
    await scene.traffic()
    await labs.fault(scene.lab, "kill", HOME)
    report = await scene.report(await scene.run_of_watch())
    assert report.outcome == "recovered, unprotected", report
    await scene.safe()
    return report
