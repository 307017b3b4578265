"""What a report and a run under way say, and in which order."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console, RenderableType

from cli.picture import clock_line, picture
from cli.render import report_text
from cli.words import left_style, moment, progress_text, span
from schemas.decisions import Assessment, Choice, Death, Fence, Question, Verdict
from schemas.facts import RouteWrite
from schemas.reports import DecisionReport, Escalation, Report, StepReport
from schemas.state import RunState
from schemas.words import size
from tests.unit.restored import EVERY

T0 = datetime(2026, 11, 24, 20, 5, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def text_of(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


ASSESSMENT = Assessment(
    suspect="pg-east-1",
    death=Death(state="dead", reason="3 of 3 regions"),
    choice=Choice(candidate="pg-east-2", reason="furthest"),
    verdict=Verdict(kind="none", reason="2 reached + 1 > 2 voters"),
    w=1,
    voters=["pg-east-2", "pg-east-3"],
    digest="abcdef012345",
)

REPORT = Report(
    procedure="DatabaseFailover",
    service="counting-db",
    run="database-failover/counting-db/20261124T200500",
    reason="pg-east-1 fails the probes",
    outcome="recovered, unprotected",
    summary="pg-east-2 leads, pg-east-1 is fenced",
    started=at(0.41),
    ended=at(1.2),
    outage_started=at(0),
    detected=at(0.4),
    decided=at(0.5),
    recovered=at(0.72),
    outage_s=0.72,
    machine_s=0.72,
    rto_s=300,
    rto_met=True,
    rpo_s=60,
    error_budget_s=0.72,
    epoch=7,
    old_primary="pg-east-1",
    new_primary="pg-east-2",
    assessment=ASSESSMENT,
    fence=Fence(strength="stopped", evidence="no PID file, port closed", proved=True),
    receipt="nothing acknowledged was lost",
    routes=[
        RouteWrite(route="dns", region="us-east-1", at=at(0.7), ok=True, server="127.0.1.12:6000", timeline=2),
        RouteWrite(route="dns", region="us-west-2", at=at(0.72), ok=False, error="no worker"),
    ],
    steps=[
        StepReport(title="Decide", outcome="done", started=at(0.4), ended=at(0.5), detail="approved by policy"),
        StepReport(title="Follow the new primary", outcome="skipped", started=at(0.8), ended=at(1.0), rounds=2),
    ],
    decisions=[
        DecisionReport(
            question="Decide",
            answer="approved",
            by="ana",
            at=at(0.5),
            reason="seen",
            digest="abcdef012345",
            override=True,
        )
    ],
    escalations=[Escalation(percent=50, at=at(150), text="waiting for: Decide")],
    unprotected=["pg-east-1 is not back as a standby: rejoin it"],
    tasks=["Resume the poolers: refused"],
)


def test_the_outcome_comes_first_and_what_is_left_to_do_last() -> None:
    lines = text_of(report_text(REPORT)).splitlines()
    assert lines[0].startswith("recovered, unprotected")
    whole = "\n".join(lines)
    order = [
        "outage",
        "Where the time went",
        "Steps",
        "Decisions",
        "Escalations",
        "Not protected yet",
        "A person must now",
    ]
    places = [whole.index(each) for each in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "said",
    [
        "0.72 s, within the RTO of 5 min 00 s",
        "none (2 reached + 1 > 2 voters)",
        "stopped, proved: no PID file, port closed",
        "pg-east-1 → pg-east-2",
        "nothing acknowledged was lost",
        "✓ Decide",
        "skipped; 2 rounds",
        "approved by ana, overriding the policy: seen",
        "(digest abcdef012345)",
        "dns: writes reach 127.0.1.12:6000 (timeline 2) from us-east-1; us-west-2: no worker",
        "pg-east-1 is not back as a standby: rejoin it",
        "Resume the poolers: refused",
        "+ 0.22 s",
    ],
)
def test_a_report_says(said: str) -> None:
    assert said in text_of(report_text(REPORT))


def test_an_unknown_outage_is_never_shown_as_zero() -> None:
    report = REPORT.model_copy(
        update={"outage_s": None, "assessment": None, "receipt": "", "fence": None, "routes": []}
    )
    shown = text_of(report_text(report))
    assert "not known" in shown
    assert "not assessed" in shown
    assert "fence  " not in shown


def state(**update: object) -> RunState:
    base = RunState(
        procedure="DatabaseFailover",
        service="counting-db",
        run="ui-1",
        reason="drill",
        started=at(0),
        planned=["Decide", "Promote the candidate"],
        step="Decide",
        rto_s=300,
        deadline=at(300),
        outage_started=at(0),
        assessment=ASSESSMENT,
    )
    return base.model_copy(update=update)


QUESTION = Question(
    text="promote pg-east-2?",
    digest="abcdef012345",
    asked=at(1),
    expires=at(121),
    decide_by=at(295),
    approvers=["ana", "ben"],
    needs_override=True,
)


def test_an_open_question_shows_what_decides_and_what_to_type() -> None:
    shown = text_of(picture(state(question=QUESTION), at(5)))
    for said in (
        "promote pg-east-2?",
        "abcdef012345",
        "candidate  pg-east-2",
        "loss       none",
        "20:09:55.000 UTC, 4 min 50 s left",
        "ana, ben; needed: 1",
        "lifeboat approve ui-1 --override --reason …",
        "lifeboat reject ui-1",
    ):
        assert said in shown


def test_a_parked_step_shows_its_failure_and_only_the_verbs_that_it_takes() -> None:
    failed = StepReport(title="Decide", outcome="failed", started=at(0), ended=at(1), detail="the disk is full")
    parked = state(parked="Decide", steps=[failed], step="Decide")
    shown = text_of(picture(parked, at(5)))
    assert "the disk is full" in shown
    assert "lifeboat retry ui-1" in shown
    assert "lifeboat skip" not in shown
    assert "lifeboat skip ui-1" in text_of(picture(parked.model_copy(update={"skippable": True}), at(5)))


def test_the_clock_runs_down_and_says_when_it_is_missed() -> None:
    assert clock_line(state(), at(19)) == "RTO 5 min 00 s: 4 min 41 s left"
    assert clock_line(state(), at(310)) == "RTO 5 min 00 s: missed 10.0 s ago"
    assert clock_line(state(deadline=None), at(0)) == ""


@pytest.mark.parametrize(
    ("left", "style"), [(300, "green"), (151, "green"), (150, "yellow"), (61, "yellow"), (60, "bold red")]
)
def test_the_clock_turns_yellow_at_half_and_red_at_80_percent(left: float, style: str) -> None:
    assert left_style(left, 300) == style


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "not known"),
        (0.0, "0.00 s"),
        (0.718, "0.72 s"),
        (12.34, "12.3 s"),
        (59.97, "1 min 00 s"),
        (245, "4 min 05 s"),
        (7400, "2 h 03 min"),
        (-3, "-3.00 s"),
    ],
)
def test_a_duration_reads(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


def test_a_moment_is_in_utc() -> None:
    assert moment(T0) == "2026-11-24 20:05:00 UTC"
    assert moment(None) == "-"


def test_a_planned_move_speaks_of_no_failure():
    moved = REPORT.model_copy(update={"procedure": "DatabaseSwitchover"})
    text = text_of(report_text(moved))
    assert "clients wait" in text
    assert "first failed probe" not in text


def test_a_rejoin_names_its_member_and_no_primary():
    back = REPORT.model_copy(update={"procedure": "DatabaseRejoin", "new_primary": None})
    lines = text_of(report_text(back)).splitlines()
    assert any(line.startswith("member ") and "pg-east-1" in line for line in lines), lines
    assert not any(line.startswith("primary ") for line in lines), lines


FIFTH, TENTH = "000000030000000000000005", "00000003000000000000000A"


def restore_text(name: str, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(report_text(EVERY[name]))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize("name", EVERY)
def test_a_restore_speaks_of_no_outage_and_of_nobody_who_leads(name: str) -> None:
    shown = restore_text(name)
    for word in ("outage", "loss", "error budget", "primary", "not assessed", "first failed probe", "None"):
        assert word not in shown, word


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("copied back", "restored     20261125-100000F (full), 3.40 GB, taken 2026-11-25 10:00:12 UTC"),
        ("copied back", "target       just before 0/0A000060 on timeline 3"),
        ("copied back", "why          transaction 791 dropped public.accounts"),
        ("copied back", "reached      0/0A000060, last commit 2026-11-25 10:49:59.812 UTC"),
        ("copied back", "14.0 s, within the RTO of 5 min 00 s: restore 10.2 s at 333 MB/s, recovery 3.80 s"),
        ("copied back", "newest row 0.42 s before the target, within the RPO of 1 min 00 s"),
        ("copied back", "copy         removed"),
        ("copied back", "copied back  public.accounts: 12,000 rows"),
        ("copied back", "Proof: 8 hold\n✓ the backup had ended before the target: 20261125-100000F ended at"),
        ("copied back", "Checks: 3 hold, 1 not to be told"),
        ("copied back", "– heaps and indexes agree: counting has no amcheck"),
        ("copied back", "Considered, and not taken\n  0/06000110"),
        ("refused", "Checks: 2 hold, 1 not to be told, 1 fails"),
        ("refused", "✗ every page has its checksum: 2 of 415039 bad"),
        ("slow", "14.0 s, over the RTO of 10.0 s"),
        ("not begun", "restored  nothing"),
        ("planned", "backup  20261125-100000F (full)"),
        ("planned", "RTO     5 min 00 s (target)"),
        ("handed over", "copy      bk-east:6100"),
    ],
)
def test_a_restores_report_says(name: str, said: str) -> None:
    assert said in "\n".join(line.rstrip() for line in restore_text(name).splitlines())


@pytest.mark.parametrize("name", ["not begun", "planned"])
def test_what_was_not_looked_at_has_no_heading(name: str) -> None:
    shown = restore_text(name)
    assert "Proof" not in shown
    assert "Checks" not in shown


def test_evidence_stays_beside_its_clause_on_a_narrow_terminal() -> None:
    lines = restore_text("refused", 80).splitlines()
    begins = next(index for index, line in enumerate(lines) if line.startswith("✓ it is the same cluster: system"))
    assert lines[begins + 1].startswith("  7577001122334455667")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("looking", "looking"),
        (None, ""),
        (
            {
                "doing": "restoring 20261125-100000F",
                "log": "P01 DETAIL: restore file /srv/x (1GB, 35.29%)",
                "bytes": 1_200_000_000,
                "of": 3_400_000_000,
                "rate": 120_000_000,
                "left_s": 18.3,
            },
            "restoring 20261125-100000F: 1.20 of 3.40 GB, 35 %, 120 MB/s, 18.3 s left",
        ),
        (
            {"doing": "restoring 20261125-100000F", "log": "P00 INFO: repo1: restore backup set"},
            "restoring 20261125-100000F: P00 INFO: repo1: restore backup set",
        ),
        (
            {"doing": "rebuild of pg-east-1", "bytes": 0, "of": 512_000, "left_s": None},
            "rebuild of pg-east-1: 0 of 512 kB, 0 %",
        ),
        (
            {
                "doing": "reading WAL",
                "file": FIFTH,
                "to": TENTH,
                "log": f"have {FIFTH}",
            },
            f"reading WAL: WAL file {FIFTH} of {TENTH}",
        ),
        (
            {"doing": "recovering", "file": FIFTH, "to": "", "files": 4, "log": "LOG:  redo starts"},
            f"recovering: WAL file {FIFTH}, 4 fetched, LOG:  redo starts",
        ),
        ({"doing": "recovering", "file": "", "to": TENTH, "files": 0, "log": ""}, "recovering"),
        (
            {"doing": "writing tables back", "rows": 6000, "of": 12000, "log": "COPY"},
            "writing tables back: 6,000 of 12,000 rows, 50 %",
        ),
        ({"doing": "writing tables back", "rows": 0, "of": 0}, "writing tables back"),
        ({"doing": "rebuild", "bytes": 13, "of": 12}, "rebuild: 13 of 12 bytes, 100 %"),
        ({"doing": "writing tables back", "why": "pg-east-1: gone"}, "writing tables back: pg-east-1: gone"),
        ({"doing": "catching up", "bytes behind": {"pg-east-1": 7}}, "catching up: pg-east-1 7 bytes behind"),
    ],
)
def test_progress_reads(told: object, said: str) -> None:
    assert progress_text(told) == said


def test_progress_stands_at_the_step_that_is_under_way() -> None:
    shown = text_of(picture(state(progress="restoring: 1.20 of 3.40 GB, 35 %, 120 MB/s, 18.3 s left"), at(5)))
    assert re.search(r"→ Decide +5\.00 s +restoring: 1\.20 of 3\.40 GB, 35 %, 120 MB/s, 18\.3 s left", shown)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (999_400, "999 kB"),
        (999_600, "1.00 MB"),
        (16 * 1024 * 1024, "16.8 MB"),
        (3.4e9, "3.40 GB"),
        (5e15, "5000 TB"),
    ],
)
def test_an_amount_reads(number: float, text: str) -> None:
    assert size(number) == text
