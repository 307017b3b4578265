"""A run's own spans, workflow and steps: made when it has ended (run_ends.py), with the times on record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags
from temporalio.api.common.v1 import Payload

HEADER = "lifeboat-trace"
SCOPE = InstrumentationScope("lifeboat.run")


@dataclass(frozen=True)
class Place:
    """Where a span of a run hangs: ids as OpenTelemetry writes them (hexadecimal), and what every span of it says."""

    trace: str
    span: str
    of_run: Mapping[str, str]

    def payload(self) -> Payload:
        data = {"trace": self.trace, "span": self.span, "of_run": dict(self.of_run)}
        return Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(data, sort_keys=True).encode())

    def context(self) -> SpanContext:
        return SpanContext(int(self.trace, 16), int(self.span, 16), is_remote=True, trace_flags=TraceFlags(1))


def place_in(headers: Mapping[str, Payload]) -> Place | None:
    """The place that a header names; None without one, or with one that can't be read."""
    if HEADER not in headers:
        return None
    try:
        data = json.loads(headers[HEADER].data)
        found = Place(data["trace"], data["span"], data["of_run"])
        return found if found.context().is_valid else None
    except (ValueError, KeyError, TypeError):
        return None


def span_id(run_id: str, what: str) -> str:
    """The same for whoever computes it."""
    return hashlib.sha256(f"{run_id}/{what}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Step:
    title: str
    started: datetime
    ended: datetime | None
    """None: with the run."""
    told: Mapping[str, str | int] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Ended:
    """A run that ended, as its workflow knows it."""

    name: str
    run_id: str
    here: Place
    parent: Place | None
    told: Mapping[str, str]
    steps: list[Step]
    error: str | None


class RunSpans:
    """Makes the spans of a run that ended. `send` takes a finished span and returns at once."""

    def __init__(self, resource: Resource, send: Callable[[ReadableSpan], None]) -> None:
        self._resource, self._send = resource, send

    def tell(self, ended: Ended, started: datetime, closed: datetime) -> None:
        """The run from its start to its close, and each of its steps."""
        here = ended.here.context()
        parent = ended.parent.context() if ended.parent else None
        self._span(ended.name, here, parent, started, closed, ended.told, ended.error)
        seen: dict[str, int] = {}
        for step in ended.steps:
            again = seen[step.title] = seen.get(step.title, 0) + 1
            what = f"step/{step.title}" + (f"/{again}" if again > 1 else "")
            place = Place(ended.here.trace, span_id(ended.run_id, what), {})
            told = {**ended.told, "lifeboat.step": step.title, **step.told}
            self._span(step.title, place.context(), here, step.started, step.ended or closed, told, step.error)

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        started: datetime,
        ended: datetime,
        told: Mapping[str, str | int],
        error: str | None,
    ) -> None:
        self._send(
            ReadableSpan(
                name=name,
                context=context,
                parent=parent,
                resource=self._resource,
                attributes={key: value for key, value in told.items() if value != ""},
                status=Status(StatusCode.ERROR, error) if error is not None else Status(StatusCode.OK),
                start_time=int(started.timestamp() * 1e9),
                end_time=int(ended.timestamp() * 1e9),
                instrumentation_scope=SCOPE,
            )
        )
