"""What there is to see of a lab: metrics of each worker, and Jaeger where it was asked for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from cli.main import _mount_lab, call
from lab import lab as life
from lab.binaries import find_jaeger
from lab.errors import LabError, MissingBuild, MissingProgram
from lab.model import Lab
from lab.waiting import until

pytestmark = pytest.mark.lab


def get(url: str) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=5) as client:
        return client.get(url).raise_for_status()


def test_status_says_where_each_worker_is_scraped(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    _mount_lab()
    assert call(["lab", "status", "--json", "--lab", str(lab.folder)]) == 0
    told = json.loads(capsys.readouterr().out)
    workers = [node for node in told["nodes"] if node["role"] == "worker"]
    assert len({node["metrics"] for node in workers}) == len(lab.regions)
    assert not any("metrics" in node for node in told["nodes"] if node["role"] != "worker")
    assert "traces" not in told

    async def scraped(where: str) -> str | None:
        text = (await asyncio.to_thread(get, f"http://{where}/metrics")).text
        # The gauges come with the worker's first look at the engine.
        return text if "lifeboat_rto_left_seconds" in text else None

    for node in workers:
        text = asyncio.run(until("gauges", lambda node=node: scraped(node["metrics"]), 20))
        assert 'lifeboat_open_runs{service="counting-db"} 0' in text
        assert 'lifeboat_runs_waiting_for_person{service="counting-db"} 0' in text
        assert 'lifeboat_rto_left_seconds{service="counting-db"} 300' in text
        assert "temporal_num_pollers{" in text


def test_what_goes_with_a_lab_is_a_short_list() -> None:
    with pytest.raises(LabError, match="one of: jaeger"):
        asyncio.run(life.up(extras=["zipkin"], make_current=False))


def test_a_missing_jaeger_says_what_builds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIFEBOAT_JAEGER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingBuild, match="make jaeger"):
        find_jaeger()
    monkeypatch.setenv("LIFEBOAT_JAEGER", str(tmp_path / "none"))
    with pytest.raises(MissingProgram, match="LIFEBOAT_JAEGER"):
        find_jaeger()


def test_jaeger_keeps_its_traces_over_a_reset_and_goes_with_the_lab() -> None:
    lab = asyncio.run(life.up(watch=False, workers=False, extras=["jaeger"], make_current=False))
    try:
        assert lab.traces is not None
        assert lab.traces.ui == f"http://{lab.node('jaeger').address}"
        before = asyncio.run(life.status(lab))
        asyncio.run(life.reset(lab))
        after = asyncio.run(life.status(lab))
        pids = [next(node.pid for node in each.nodes if node.name == "jaeger") for each in (before, after)]
        assert pids[0] == pids[1]
        assert pids[0] is not None
        assert get(f"{lab.traces.ui}/api/services").json()["errors"] is None
    finally:
        asyncio.run(life.down(lab))
    with pytest.raises(httpx.ConnectError):
        get(f"{lab.traces.ui}/api/services")
