"""What leaves in logs and traces holds no secret, no literal and no path of a webhook."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status, StatusCode

from activities import secrets
from workers import redaction
from workers.tracing import Redacting, Runs


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(secrets, "_seen", set())
    monkeypatch.setenv("SOME_SECRET", "cor'rect-horse")
    resolved = secrets.resolve("env:SOME_SECRET")
    assert resolved is not None
    return resolved


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("postgresql://app:hunter2@10.0.0.1:5432/counting", "postgresql://app:***@10.0.0.1:5432/counting"),
        ("amqp://guest:a:b@host", "amqp://guest:***@host"),
        ("host=a password=hunter2 user=b", "host=a password=*** user=b"),
        ("host=a password='hun ter2' user=b", "host=a password=*** user=b"),
        ('{"api_key": "hunter2", "a": 1}', '{"api_key": ***, "a": 1}'),
        ("AWS_SECRET_ACCESS_KEY=hunter2", "AWS_SECRET_ACCESS_KEY=***"),
        ("Authorization: Bearer ab.cd/ef==", "Authorization: Bearer ***"),
        ("the primary pg-east-1 at 10.0.0.1:5432 is dead", "the primary pg-east-1 at 10.0.0.1:5432 is dead"),
        ("http://127.0.0.1:8233/namespaces", "http://127.0.0.1:8233/namespaces"),
    ],
)
def test_what_stands_where_secrets_do_is_struck_out(given: str, wanted: str) -> None:
    assert redaction.clean(given) == wanted


def test_a_secret_that_was_resolved_is_struck_out_wherever_it_stands(secret: str) -> None:
    assert redaction.clean(f"server says: {secret} is wrong") == "server says: *** is wrong"
    assert redaction.clean("nothing of it") == "nothing of it"


def test_the_longer_of_two_secrets_is_struck_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_seen", {"abcd", "abcdefgh"})
    assert redaction.clean("abcdefgh") == "***"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("ALTER SYSTEM SET primary_conninfo = 'host=a passfile=b'", "ALTER SYSTEM SET primary_conninfo = '?'"),
        ("SELECT 'it''s', x FROM t WHERE y = 'z'", "SELECT '?', x FROM t WHERE y = '?'"),
        ("DO $body$ BEGIN 'secret' END $body$", "DO '?'"),
        ("INSERT INTO t VALUES ($1, $2)", "INSERT INTO t VALUES ($1, $2)"),
    ],
)
def test_statements_go_without_literals(given: str, wanted: str) -> None:
    assert redaction.statement(given) == wanted


def test_a_url_goes_without_what_may_be_its_secret() -> None:
    assert redaction.url("https://u:p@hooks.example.com/services/T0/B0/XXXX?sig=1") == "https://hooks.example.com"
    assert redaction.url("http://127.0.0.1:8080/x") == "http://127.0.0.1:8080"


class Kept(SpanExporter):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


def test_a_span_is_cleaned_as_a_whole_when_it_leaves(secret: str) -> None:
    kept = Kept()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Redacting(kept, Runs())))
    given = {
        "db.statement": "SET x = 'y'",
        "db.statement.parameters": "('y',)",
        "http.url": f"https://hooks.example.com/{secret}",
        "list": [secret],
        "number": 7,
    }
    with provider.get_tracer("test").start_as_current_span(f"name {secret}", attributes=given) as span:
        span.record_exception(ValueError(secret))
        span.set_status(Status(StatusCode.ERROR, f"failed with {secret}"))
    (found,) = kept.spans
    assert secret not in found.to_json()
    assert found.attributes == {
        "db.statement": "SET x = '?'",
        "http.url": "https://hooks.example.com",
        "list": ["***"],
        "number": 7,
    }
    assert found.events == ()
