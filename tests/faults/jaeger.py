"""A run as Jaeger's HTTP API tells it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from lab.model import Lab
from tests.faults.scene import Run, Scene

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Span:
    """`parent` is a span's id; times are of the machine's clock, exact to a microsecond."""

    id: str
    parent: str | None
    name: str
    started: datetime
    ended: datetime
    tags: dict[str, Any]

    @property
    def scope(self) -> str:
        """Who made it: lifeboat.run, lifeboat.activity, lifeboat.dns, or an instrumentation of OpenTelemetry's."""
        return str(self.tags.get("otel.scope.name", ""))

    @property
    def error(self) -> str | None:
        return str(self.tags.get("otel.status_description", "")) if self.tags.get("error") else None


@dataclass(frozen=True)
class Trace:
    """Every span that Jaeger returns, repetitions included; `raw` is its answer."""

    id: str
    spans: list[Span]
    raw: str

    def of(self, scope: str) -> list[Span]:
        return [span for span in self.spans if scope in span.scope]

    def parent(self, span: Span) -> Span | None:
        return next((each for each in self.spans if each.id == span.parent), None)

    def one(self, name: str, scope: str) -> Span:
        """The only span of this name; an assertion lists what there is."""
        found = [span for span in self.of(scope) if span.name == name]
        assert len(found) == 1, (name, scope, Counter(span.name for span in self.spans))
        return found[0]


def _read(found: dict[str, Any]) -> Iterator[Span]:
    for span in found["spans"]:
        parents = [each["spanID"] for each in span["references"] if each["refType"] == "CHILD_OF"]
        started = EPOCH + timedelta(microseconds=span["startTime"])
        yield Span(
            id=span["spanID"],
            parent=parents[0] if parents else None,
            name=span["operationName"],
            started=started,
            ended=started + timedelta(microseconds=span["duration"]),
            tags={each["key"]: each["value"] for each in span["tags"]},
        )


async def traces(lab: Lab, run_id: str) -> list[Trace]:
    """The traces that hold a span of this run, found as a person would: by service and run id."""
    assert lab.traces is not None
    asked = {"service": "lifeboat", "tags": json.dumps({"lifeboat.run_id": run_id}), "limit": "50"}
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        answer = await client.get(f"{lab.traces.ui}/api/traces", params=asked)
    answer.raise_for_status()
    return [Trace(each["traceID"], list(_read(each)), answer.text) for each in answer.json()["data"]]


async def trace_of(scene: Scene, run: Run, *, lost: bool = False) -> Trace:
    """The run's only trace, once its own spans are there, and those of every activity that ended well.

    `lost`: a worker was killed, and what it had not sent yet went with it; the promotion's span is waited for.
    """
    run_id = (await run.describe()).run_id
    wanted = Counter(["promote_candidate"]) if lost else await _completed(run)

    async def whole() -> Trace | None:
        found = await traces(scene.lab, run_id)
        if not found or not any(span.name == "DatabaseFailover" for span in found[0].of("lifeboat.run")):
            return None
        there = Counter(span.name for span in found[0].of("lifeboat.activity"))
        return found[0] if all(there[name] >= count for name, count in wanted.items()) else None

    trace: Trace = await scene.until("Jaeger has the whole run", whole)
    assert len(await traces(scene.lab, run_id)) == 1
    assert trace.id == run_id.replace("-", "")
    return trace


async def _completed(run: Run) -> Counter[str]:
    """How often each activity of the run ended well, by its history."""
    wanted: Counter[str] = Counter()
    scheduled: dict[int, str] = {}
    for event in (await run.fetch_history()).events:
        if event.HasField("activity_task_scheduled_event_attributes"):
            scheduled[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
        elif event.HasField("activity_task_completed_event_attributes"):
            wanted[scheduled[event.activity_task_completed_event_attributes.scheduled_event_id]] += 1
    return wanted
