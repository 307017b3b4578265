"""Metrics as Prometheus scrapes them: names, labels, one port for the SDK's and the product's."""

from __future__ import annotations

import re
import socket
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from schemas.reports import Escalation, StepReport
from tests.unit.test_cli_render import REPORT
from workers import main, metrics

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(where: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{where}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def value(text: str, name: str, **labels: str) -> float | None:
    """The sample with exactly these labels."""
    for line in text.splitlines():
        found = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line)
        if found and found[1] == name and dict(re.findall(r'(\w+)="([^"]*)"', found[2])) == labels:
            return float(found[3])
    return None


def test_a_run_is_counted_under_names_that_stay() -> None:
    where = f"127.0.0.1:{free_port()}"
    runtime = metrics.make_runtime(where)
    step = StepReport(title="Fence", outcome="done", started=T0, ended=T0 + timedelta(seconds=0.3))
    report = REPORT.model_copy(update={"outage_s": 0.7, "rto_met": True, "machine_s": 1.2, "waiting_s": 20.0})
    ended = metrics.Ended(
        service="counting-db",
        procedure="DatabaseFailover",
        outcome=report.outcome,
        steps=[step, step.model_copy(update={"outcome": "planned"})],
        escalations=[Escalation(percent=50, at=T0, text="")],
        report=report,
    )
    counter = metrics.RunCounter(runtime.metric_meter)
    counter.count(ended, T0, T0)
    counter.count(replace(ended, outcome="failed", report=None), T0, T0)
    text = scrape(where)
    of = {"service": "counting-db", "procedure": "DatabaseFailover"}
    assert value(text, "lifeboat_runs_total", **of, outcome=report.outcome) == 1
    assert value(text, "lifeboat_runs_total", **of, outcome="failed") == 1
    assert value(text, "lifeboat_escalations_total", **of, percent="50") == 2
    fence = {**of, "step": "Fence", "outcome": "done"}
    assert value(text, "lifeboat_step_seconds_count", **fence) == 2
    assert value(text, "lifeboat_step_seconds_sum", **fence) == pytest.approx(0.6)
    assert value(text, "lifeboat_step_seconds_bucket", **fence, le="0.25") == 0
    assert value(text, "lifeboat_step_seconds_bucket", **fence, le="0.5") == 2
    assert value(text, "lifeboat_recovery_seconds_sum", **of, rto_met="true") == pytest.approx(0.7)
    assert value(text, "lifeboat_machine_seconds_sum", **of) == pytest.approx(1.2)
    assert value(text, "lifeboat_waiting_for_person_seconds_sum", **of) == pytest.approx(20.0)
    assert "planned" not in text


@pytest.mark.parametrize("wrong", ["9090", ":9090", "host:", "host:port", "host:0", "host:70000"])
def test_an_address_without_host_or_port_is_refused(wrong: str) -> None:
    with pytest.raises(metrics.MetricsAddress, match="HOST:PORT"):
        metrics.checked(wrong)


def test_a_name_for_this_machine_is_taken() -> None:
    assert metrics.checked("localhost:9090") == "127.0.0.1:9090"
    assert metrics.checked("0.0.0.0:9090") == "0.0.0.0:9090"


def test_a_port_that_is_taken_costs_the_metrics_and_not_the_worker() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main.make_runtime(f"127.0.0.1:{taken.getsockname()[1]}")[1] is False
