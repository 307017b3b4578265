"""OpenTelemetry traces by OTLP (HTTP), only where an endpoint is named; what is traced never waits (docs/adr/0024)."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import Status

from workers import dns_spans, redaction
from workers.run_ends import RunEnds
from workers.run_spans import Ended, Place, RunSpans
from workers.trace_of_run import SPANS, TraceRuns

log = logging.getLogger("lifeboat.tracing")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's own variables (its specification of the OTLP exporter)."""

EXPORT_S = 3.0
"""Limit of one export. It runs in a thread of its own, and nobody waits for it."""
EVERY_S = 5.0
"""Spans are sent at this interval, and when a run has ended: what a worker that is killed had not sent is lost.
Encoding a failover's spans takes the processor for tens of milliseconds, which are not to spare in mid failover."""
QUEUE = 8192
"""Spans that wait for a collector that doesn't answer; the oldest are dropped."""
LEAVE_S = 2.0
"""What a worker that ends gives its last spans."""

REMEMBERED = 500
"""Runs. What is traced of older ones has long been sent."""


class Runs:
    """What every span of a run says of it, by trace: put in as spans leave, since a step should not wait for that."""

    def __init__(self) -> None:
        self._of: OrderedDict[int, Mapping[str, str]] = OrderedDict()

    def remember(self, place: Place) -> None:
        self._of[int(place.trace, 16)] = place.of_run
        while len(self._of) > REMEMBERED:
            self._of.popitem(last=False)

    def of(self, span: ReadableSpan) -> Mapping[str, str]:
        return self._of.get(span.context.trace_id, {}) if span.context else {}


class Redacting(SpanExporter):
    """Takes out what must not leave, at the last moment: whatever made the span."""

    def __init__(self, inner: SpanExporter, runs: Runs) -> None:
        self._inner, self._runs = inner, runs

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._inner.export([_clean(span, self._runs.of(span)) for span in spans])

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._inner.force_flush(timeout_millis)


def _clean(span: ReadableSpan, of_run: Mapping[str, str]) -> ReadableSpan:
    told = span.status.description
    return ReadableSpan(
        name=redaction.clean(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=redaction.attributes({**of_run, **(span.attributes or {})}),  # type: ignore[arg-type]
        # An exception's message and stack may hold what the statement did; the status has its reason.
        events=[],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code, redaction.clean(told) if told else None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


@dataclass
class Tracing:
    """What a worker that traces holds."""

    provider: TracerProvider
    interceptor: TraceRuns

    async def stop(self) -> None:
        """Send what is left, for LEAVE_S at most: a collector that hangs must not keep a worker from ending."""
        thread = threading.Thread(target=self.provider.shutdown, daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, LEAVE_S)


def endpoint(environ: Mapping[str, str]) -> str | None:
    """Where traces go; None: nowhere."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    return next((environ[name] for name in ENDPOINTS if environ.get(name)), None)


def start(ends: RunEnds, region: str) -> Tracing | None:
    """Trace the runs of this worker; None where no endpoint is named."""
    where = endpoint(os.environ)
    if where is None:
        return None
    shared = {
        "service.name": os.environ.get("OTEL_SERVICE_NAME") or "lifeboat",
        "service.version": importlib.metadata.version("lifeboat"),
    }
    provider = TracerProvider(
        # What isn't part of a run is not recorded: the watch alone asks five times a second.
        sampler=ParentBased(root=ALWAYS_OFF),
        resource=Resource.create(
            {**shared, "service.instance.id": f"{region}@{os.getpid()}", "lifeboat.region": region}
        ),
        shutdown_on_exit=False,
    )
    seen = Runs()
    batches = BatchSpanProcessor(
        Redacting(OTLPSpanExporter(timeout=EXPORT_S), seen), max_queue_size=QUEUE, schedule_delay_millis=EVERY_S * 1000
    )
    provider.add_span_processor(batches)
    AsyncPGInstrumentor().instrument(tracer_provider=provider)  # type: ignore[no-untyped-call, unused-ignore]
    PsycopgInstrumentor().instrument(tracer_provider=provider)
    HTTPXClientInstrumentor().instrument(tracer_provider=provider)
    BotocoreInstrumentor().instrument(tracer_provider=provider)  # type: ignore[no-untyped-call, unused-ignore]
    dns_spans.instrument(provider)
    # A run's own spans are no worker's.
    runs = RunSpans(Resource.create({**shared, "service.instance.id": "runs"}), batches.on_end)

    def tell(said: Ended, started: datetime, closed: datetime) -> None:
        runs.tell(said, started, closed)
        threading.Thread(target=batches.force_flush, daemon=True).start()

    ends.listen(SPANS, tell)
    log.info("traces go to %s", redaction.url(where))
    return Tracing(provider, TraceRuns(provider.get_tracer("lifeboat.activity"), seen.remember, ends))
