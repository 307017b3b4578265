"""The worker's log as JSON and as text: the run where there is one, and no secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest
from temporalio import activity, workflow
from temporalio.testing import ActivityEnvironment

from activities import secrets
from schemas.orders import ClaimOrder
from tests.unit.estates import service as database
from workers import logs
from workers.main import main


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, quiet = root.handlers[:], root.level, logging.getLogger("httpx").level
    adapters = (workflow.logger.workflow_info_on_message, activity.logger.activity_info_on_message)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("httpx").setLevel(quiet)
    workflow.logger.workflow_info_on_message, activity.logger.activity_info_on_message = adapters


def read(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    (line,) = capsys.readouterr().err.splitlines()
    found: dict[str, object] = json.loads(line)
    return found


def test_a_line_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    logging.getLogger("lifeboat.test").warning("two\nlines of %s", "“text”")
    found = read(capsys)
    assert datetime.fromisoformat(str(found.pop("time"))).tzinfo is not None
    assert found == {"level": "WARNING", "logger": "lifeboat.test", "message": "two\nlines of “text”"}


def test_an_exception_is_in_the_same_object(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("lifeboat.test").exception("it failed")
    assert "ValueError: why" in str(read(capsys)["exception"])


async def test_what_an_activity_logs_carries_its_run(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")

    def work() -> None:
        logging.getLogger("some.library").info("plain")

    environment = ActivityEnvironment()
    environment.run(work)
    found = read(capsys)
    info = environment.info
    assert (found["workflow_id"], found["run_id"]) == (info.workflow_id, info.workflow_run_id)
    assert (found["activity"], found["attempt"]) == (info.activity_type, info.attempt)

    # The SDK's own logger puts a dictionary into the message otherwise.
    environment.run(lambda: activity.logger.info("mine"))
    found = read(capsys)
    assert found["message"] == "mine"
    assert not [name for name in found if name.startswith("temporal")]


def test_the_service_is_read_from_what_an_activity_is_told() -> None:
    service = database()
    assert logs.service_of(ClaimOrder.model_construct(service="counting-db")) == "counting-db"
    assert logs.service_of(type("Order", (), {"service": service})()) == service.name
    assert logs.service_of(type("Order", (), {"notice": type("Notice", (), {"service": "a-db"})()})()) == "a-db"
    assert logs.service_of(7) == ""


@pytest.mark.parametrize("form", logs.FORMATS)
def test_no_secret_is_logged(form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_seen", set())
    monkeypatch.setenv("SOME_SECRET", 'quo"ted')
    secret = secrets.resolve("env:SOME_SECRET")
    logs.configure(form)
    try:
        raise ValueError(secret)
    except ValueError:
        logging.getLogger("lifeboat.test").exception("at %s and postgresql://a:b@c/d", secret)
    told = capsys.readouterr().err
    assert "***" in told
    assert "quo" not in told
    assert "a:b@" not in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--log-format", "xml"], "text, json"), (["--metrics", "9090"], "HOST:PORT")],
)
def test_what_a_worker_is_given_wrongly_is_said_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--region", "us-east-1", *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
