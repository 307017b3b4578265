"""Traces without a collector: when there are any, how ids are made, what a run's spans are."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import StatusCode
from temporalio.api.common.v1 import Payload

from workers import tracing
from workers.run_spans import HEADER, Ended, Place, RunSpans, Step, place_in, span_id

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HERE = Place("01a212cc687f76fe8b585eb19e333309", span_id("r", "run"), {"lifeboat.run": "a"})
ENDED = Ended(
    name="DatabaseFailover",
    run_id="r",
    here=HERE,
    parent=None,
    told={"lifeboat.run": "a", "lifeboat.outcome": "aborted"},
    steps=[
        Step("Fence", T0 + timedelta(seconds=1), T0 + timedelta(seconds=2), {"lifeboat.step.region": ""}),
        Step("Promote", T0 + timedelta(seconds=2), None, error="no voter left"),
    ],
    error=None,
)


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}, "http://a:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "b"}, "b"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "a", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_there_are_traces_only_where_an_endpoint_is_named(environ: dict[str, str], wanted: str | None) -> None:
    assert tracing.endpoint(environ) == wanted


def test_a_place_is_read_as_it_was_written() -> None:
    assert place_in({HEADER: HERE.payload()}) == HERE
    assert HERE.context().is_valid


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"trace": "x", "span": "y", "of_run": {}}', b"\xff"])
def test_a_header_that_cannot_be_read_is_none(data: bytes) -> None:
    assert place_in({HEADER: Payload(data=data)}) is None


def told(*given: Ended) -> list[ReadableSpan]:
    sent: list[ReadableSpan] = []
    runs = RunSpans(Resource({}), sent.append)
    for each in given:
        runs.tell(each, T0, T0 + timedelta(seconds=5))
    return sent


def test_a_run_is_told_with_the_times_of_the_engine() -> None:
    root, fence, promote = told(ENDED)
    assert (root.name, root.parent) == ("DatabaseFailover", None)
    assert root.start_time == int(T0.timestamp() * 1e9)
    assert root.end_time == int((T0.timestamp() + 5) * 1e9)
    assert root.status.status_code == StatusCode.OK
    assert fence.parent is not None
    assert promote.parent is not None
    assert fence.context is not None
    assert fence.parent.span_id == promote.parent.span_id == HERE.context().span_id
    assert f"{fence.context.span_id:016x}" == span_id("r", "step/Fence")
    assert fence.attributes == {"lifeboat.run": "a", "lifeboat.outcome": "aborted", "lifeboat.step": "Fence"}
    assert promote.end_time == root.end_time
    assert (promote.status.status_code, promote.status.description) == (StatusCode.ERROR, "no voter left")


def test_a_step_that_comes_twice_is_two_spans() -> None:
    twice = replace(ENDED, steps=[ENDED.steps[0], ENDED.steps[0]])
    ids = [span.context.span_id for span in told(twice) if span.context]
    assert len(set(ids)) == 3


async def test_a_worker_ends_although_its_collector_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await asyncio.Event().wait()

    # As much longer than the test's limit as a collector may be.
    monkeypatch.setattr(tracing, "EXPORT_S", 600.0)
    monkeypatch.setattr(tracing, "LEAVE_S", 0.2)
    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    exporter = tracing.OTLPSpanExporter(f"http://127.0.0.1:{port}/v1/traces", timeout=tracing.EXPORT_S)
    provider = TracerProvider(shutdown_on_exit=False)
    batches = BatchSpanProcessor(exporter)
    provider.add_span_processor(batches)
    with provider.get_tracer("test").start_as_current_span("a span"):
        pass
    held: Any = tracing.Tracing(provider, None)  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        await held.stop()
        await reached.wait()
    server.close()
