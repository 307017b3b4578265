"""The command without a server: usage, errors, exit codes, and which Temporal it means."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from cli import choices, connect, runs
from cli.answers import digest_of
from cli.engine import choose
from cli.follow import Ending
from cli.main import call
from cli.problems import Exit, Problem, explain, innermost
from cli.targets import restore_options
from schemas.failures import ServiceLocked
from schemas.reports import EXIT_CODES
from schemas.requests import Answer
from schemas.restore_requests import PitrRequest, Target
from tests.unit.test_cli_render import QUESTION, REPORT, state

NOWHERE = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a current lab nor a profile of the person who runs the tests."""
    for name in ("LIFEBOAT_LAB", "TEMPORAL_ADDRESS", "TEMPORAL_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        (["nope"], 2, "No such command"),
        (["run", "database-failover"], 2, "Missing argument"),
        (["run", "region-failover", "counting-db"], 2, "one of: database-failover"),
        (["run", "database-failover", "Counting DB"], 2, "service"),
        (["run", "database-failover", "counting-db", "--approval", "never"], 2, "--approval"),
        (["approve", "ui-1", "--override"], 2, "--reason"),
        (["report", "--address", NOWHERE], 1, "doesn't answer"),
        (["runs", "--address", NOWHERE], 1, "--address HOST:PORT"),
        (["runs"], 2, "lifeboat lab up"),
        (["ready"], 2, "lifeboat lab up"),
        (["ready", "Counting DB"], 2, "service"),
        (["ready", "--address", NOWHERE], 1, "doesn't answer"),
        (["watch", "start", "--address", NOWHERE], 2, "--topology FILE"),
        (["topology", "check", "/nowhere/topology.yaml"], 1, "/nowhere/topology.yaml"),
    ],
)
def test_what_can_be_mended_is_short_and_on_stderr(
    typed: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(typed) == code
    answer = capsys.readouterr()
    assert answer.out == ""
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert len(answer.err.splitlines()) <= 2


RESTORE = ["run", "pitr-restore", "counting-db", "--address", NOWHERE]
OPTIONS = "--until, --exclusive and --timeline go with --to"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "pitr-restore needs --to KIND=VALUE"),
        (["--to", "time"], "--to time: say one of time=…, lsn=…, xid=…, name=…, before-drop=…"),
        (["--to", "tme=1"], "--to tme=1: say one of"),
        (["--to", "before_drop=a.b"], "--to before_drop=a.b: say one of"),
        (
            ["--to", "time=2026-11-25T10:00:00"],
            "should have timezone info (given: 2026-11-25T10:00:00); write it as 2026",
        ),
        (["--to", "time=soon"], "--to: Input should be a valid datetime"),
        (["--to", "lsn=xyz"], "--to: xyz can't be used; write it as 0/3000148"),
        (["--to", "xid=0"], "--to: Input should be greater than 0 (given: 0); write it as 731"),
        (["--to", "name="], "--to: String should have at least 1 character"),
        (["--to", f"name={'x' * 64}"], "--to: String should have at most 63 characters"),
        (["--to", "before-drop=orders"], "--to: orders can't be used; write it as public.orders"),
        (["--until", "2026-11-25T10:00:00Z"], OPTIONS),
        (["--exclusive"], OPTIONS),
        (["--timeline", "2"], OPTIONS),
        (["--to", "xid=1", "--timeline", "0"], "--timeline: Input should be greater than 0"),
        (["--to", "name=x", "--until", "yesterday"], "--until: Input should be a valid datetime"),
        (
            ["--to", "xid=1", "--then", "nope"],
            "--then: Input should be 'ask', 'hand-over', 'copy-back', 'cut-over' or 'remove'",
        ),
        (["--to", "xid=1", "--then", "copy-back"], "--table: say which tables are to be copied back"),
        (["--to", "xid=1", "--table", "orders"], "--table: orders can't be used; write it as public.orders"),
        (["--to", "xid=1", "--backup", "F1"], "pitr-restore takes no --backup"),
        (["--to", "xid=1", "--member", "pg-east-1"], "pitr-restore takes no --member"),
    ],
)
def test_a_restore_that_can_not_be_is_refused_in_one_line(
    typed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([*RESTORE, *typed]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert said in answer.err
    assert len(answer.err.splitlines()) == 1, answer.err


@pytest.mark.parametrize("option", [["--to", "xid=1"], ["--then", "remove"], ["--table", "public.orders"]])
@pytest.mark.parametrize("procedure", ["backup-verify", "database-failover"])
def test_what_a_procedure_has_no_use_for_is_refused(
    procedure: str, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["run", procedure, "counting-db", "--address", NOWHERE, *option]) == 2
    assert f"{procedure} takes no {option[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "form"),
    [
        ({"to": "time=2026-11-25T10:00:00Z"}, {"target": {"time": "2026-11-25T10:00:00Z"}}),
        ({"to": "name=a=b", "until": "x"}, {"target": {"name": "a=b", "until": "x"}}),
        ({"to": "before-drop=a.b", "then": "copy-back"}, {"target": {"before_drop": "a.b"}, "then": "copy-back"}),
        ({"to": "xid=1", "exclusive": True, "timeline": 2}, {"target": {"xid": "1", "exclusive": True, "timeline": 2}}),
        ({"to": "lsn=0/1", "tables": ["a.b", "a.c"]}, {"target": {"lsn": "0/1"}, "tables": ["a.b", "a.c"]}),
        ({"backup": "F1"}, {"backup": "F1"}),
        ({}, {}),
    ],
)
def test_what_is_typed_is_the_start_form(typed: dict[str, Any], form: dict[str, Any]) -> None:
    nothing = {"to": None, "until": None, "exclusive": False, "timeline": None, "then": None}
    assert restore_options(**(nothing | {"tables": [], "backup": None} | typed)) == form


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ({}, "given: none"),
        ({"xid": 1, "lsn": "0/1"}, "given: lsn, xid"),
        ({"name": "x", "before_drop": "a.b", "until": "2026-11-25T10:00:00Z"}, "given: name, before_drop"),
    ],
)
def test_a_target_is_one_moment(target: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=f"exactly one of time, lsn, xid, name, before_drop .*{told}"):
        Target.model_validate(target)


def test_the_dropped_table_is_what_is_copied_back() -> None:
    form = {"service": "counting-db", "reason": "x", "then": "copy-back"}
    dropped = PitrRequest.model_validate(form | {"target": {"before_drop": "a.b"}})
    assert dropped.wanted_tables() == ["a.b"]
    named = PitrRequest.model_validate(form | {"target": {"before_drop": "a.b"}, "tables": ["a.c"]})
    assert named.wanted_tables() == ["a.c"]


def test_an_explicit_address_is_used_and_no_profile_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "production.example.com:7233")
    assert connect.where(NOWHERE, None).address == NOWHERE


def test_without_a_lab_the_profile_of_the_stock_cli_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "temporal.example.com:7233")
    place = connect.where(None, None)
    assert place.address is None
    assert "temporal.example.com:7233" in place.name


def test_the_current_lab_comes_before_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = connect.Place("the lab", NOWHERE, "default")
    monkeypatch.setattr(connect, "_current_lab", lambda namespace: lab)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "production.example.com:7233")
    assert connect.where(None, None) == lab


def test_a_topology_that_can_be_used_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["topology", "check", "topology.yaml", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["valid"], answer["services"]) == (True, ["counting-db", "counting-cache", "counting-queue"])


def test_a_topology_that_can_not_names_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(Path("topology.yaml").read_text(encoding="utf-8").replace("rto_s:", "rot_s:", 1), encoding="utf-8")
    assert call(["topology", "check", str(wrong)]) == 1
    assert "rot_s" in capsys.readouterr().err
    assert call(["topology", "check", "--json", str(wrong)]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["valid"] is False
    assert any("rot_s" in problem for problem in answer["problems"])


def test_a_unique_beginning_names_a_run() -> None:
    runs = ["database-failover/counting-db/20261124T200501", "ui-1"]
    assert choose("ui", runs) == "ui-1"
    assert choose("database-failover/c", runs) == runs[0]


def test_several_or_no_runs_are_a_matter_of_usage() -> None:
    with pytest.raises(Problem, match="ui-1") as several:
        choose("ui", ["ui-1", "ui-2"])
    with pytest.raises(Problem, match="lifeboat runs") as none:
        choose("x", [])
    assert (several.value.code, none.value.code) == (Exit.USAGE, Exit.USAGE)


@pytest.mark.parametrize(("outcome", "code"), EXIT_CODES.items())
def test_each_outcome_has_its_exit_code(outcome: str, code: int) -> None:
    assert Ending(REPORT.model_copy(update={"outcome": outcome})).code == code


def test_a_run_that_waits_for_a_person_ends_with_4() -> None:
    assert Ending(None, "a person must decide").code == 4


def test_the_open_questions_digest_is_taken_only_where_it_can_count() -> None:
    approval = Answer(by="ana", digest="-")
    override = Answer(by="ana", digest="-", override=True, reason="seen")
    asking = state(question=QUESTION)
    assert digest_of("ui-1", asking, override) == QUESTION.digest
    assert digest_of("ui-1", asking, None) == QUESTION.digest, "a rejection needs no override"
    for told, given, said in (
        (asking, approval, "--override"),
        (state(), override, "asks nothing"),
        (None, override, "--digest"),
    ):
        with pytest.raises(Problem, match=said):
            digest_of("ui-1", told, given)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RPCError("no", RPCStatusCode.UNAVAILABLE, b""), "doesn't answer"),
        (RPCError("who are you", RPCStatusCode.PERMISSION_DENIED, b""), "credentials"),
        (RPCError("gone", RPCStatusCode.NOT_FOUND, b""), "gone"),
        (TimeoutError(), "doesn't answer"),
        (ServiceLocked("counting-db is held by ui-1"), "ui-1"),
    ],
)
def test_an_expected_failure_is_explained(error: Exception, said: str) -> None:
    problem = explain(error, "Temporal at here")
    assert problem is not None
    assert said in str(problem)


def test_a_defect_is_not_explained_away() -> None:
    assert explain(KeyError("x"), "Temporal") is None


def test_the_innermost_failure_is_what_a_person_reads() -> None:
    outer = ApplicationError("outer")
    outer.__cause__ = ApplicationError("the disk is full")
    assert innermost(outer) == "the disk is full"


def test_completion_offers_what_is_known_and_stays_silent_without_a_lab() -> None:
    assert "database-failover" in choices.procedures("data")
    assert choices.services("") == choices.regions("") == choices.members("") == choices.runs("") == []


def test_the_process_ends_with_the_commands_code() -> None:
    """Through the real entry: its exit code is the command's, and stdout is flushed before the end."""
    script = "import sys; from cli.main import main; sys.argv[1:] = {}; main()"
    for typed, code, said in ((["--version"], 0, "lifeboat "), (["nope"], 2, "")):
        ended = subprocess.run(
            [sys.executable, "-c", script.format(typed)], capture_output=True, text=True, timeout=30, check=False
        )
        assert ended.returncode == code, ended.stderr
        assert ended.stdout.startswith(said)


@pytest.mark.parametrize(
    ("outcome", "blockers", "code"), [("planned", [], 0), ("planned", ["a worker is missing"], 1), ("refused", [], 1)]
)
def test_a_plan_that_would_come_to_nothing_exits_1(
    outcome: str, blockers: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = REPORT.model_copy(update={"outcome": outcome, "blockers": blockers})
    monkeypatch.setattr(runs, "where", lambda *_: None)
    monkeypatch.setattr(runs, "at", lambda *_: planned)
    assert call(["plan", "database-switchover", "counting-db"]) == code


@pytest.mark.parametrize("begun", [["ui-1"], []])
def test_whoever_stops_looking_is_told_that_the_run_goes_on(
    begun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        with runs.telling_that_it_goes_on() as found:
            found += begun
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    told = capsys.readouterr().err
    assert ("ui-1 goes on; `lifeboat show --follow ui-1` looks again" in told) == bool(begun), told
