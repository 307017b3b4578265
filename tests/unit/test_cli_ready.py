"""`lifeboat ready`: its answers and its exit codes, without a server."""

from __future__ import annotations

import json

import pytest

from cli import ready
from cli.main import call
from cli.ready import nobody
from schemas.ready import Finding, Readiness, ReadyReport
from tests.unit.estates import T0

ERROR = nobody()
WARNING = Finding(
    check="voters", severity="warning", where="counting-db", what="one voter only", remedy="its owner should add one"
)


def answered(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    service = Readiness(
        service="counting-db", findings=list(findings), members=["a", "b"], regions=["east", "west"], routes=["dns"]
    )
    report = ReadyReport(at=T0, services=[service])
    monkeypatch.setattr(ready, "where", lambda *_: None)
    monkeypatch.setattr(ready, "at", lambda *_: report)


@pytest.mark.parametrize(
    ("findings", "code", "strict", "said"),
    [
        ([], 0, 0, "counting-db is ready: "),
        ([WARNING], 0, 1, "counting-db is ready, with reserves: 1 warning; "),
        ([ERROR, WARNING], 1, 1, "counting-db is not ready: 1 error and 1 warning; "),
    ],
)
def test_verdict_and_exit_code(
    findings: list[Finding],
    code: int,
    strict: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answered(monkeypatch, *findings)
    assert call(["ready", "counting-db"]) == code
    told = capsys.readouterr().out
    assert told.startswith(said)
    assert "2 members and 1 route, seen from east, west" in " ".join(told.split())
    assert call(["ready", "--strict"]) == strict


def test_each_finding_is_shown_with_where_what_and_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(monkeypatch, ERROR, WARNING)
    call(["ready"])
    told = " ".join(capsys.readouterr().out.split())
    for part in ("[voters]", "[worker]", "every region", "one voter only", "its owner should add one"):
        assert part in told


def test_as_json_it_is_one_document(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answered(monkeypatch, WARNING)
    assert call(["ready", "--json"]) == 0
    (service,) = json.loads(capsys.readouterr().out)["services"]
    assert service["findings"] == [WARNING.model_dump()]
