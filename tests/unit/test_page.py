"""The report as a page: what is read first, what is drawn, and that nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import json
import re
import xml.etree.ElementTree as ET
from datetime import timedelta
from html import unescape
from pathlib import Path

import pytest

from activities.page import LEFT, WIDTH, draw, page
from schemas.reports import Report, Witness
from tests.unit.restored import EVERY

HISTORIES = Path(__file__).parents[1] / "replay" / "histories"
BRANCHES = ("automatic", "approved", "rejected", "expired", "aborted", "parked-and-retried", "undone")


def report_of(branch: str) -> Report:
    """The report in which a recorded run ended."""
    event = json.loads((HISTORIES / f"{branch}.json").read_text(encoding="utf-8"))["events"][-1]
    [payload] = event["workflowExecutionCompletedEventAttributes"]["result"]["payloads"]
    return Report.model_validate_json(base64.b64decode(payload["data"]))


def svg_of(text: str) -> ET.Element:
    found = re.search(r"<svg.*?</svg>", text, re.DOTALL)
    assert found
    return ET.fromstring(found.group())


@pytest.mark.parametrize("branch", BRANCHES)
class TestEveryBranch:
    def test_the_outcome_comes_first_and_every_step_is_there(self, branch):
        report = report_of(branch)
        text = page(report)
        assert report.outcome in re.search(r"<h1[^>]*>(.*?)</h1>", text, re.DOTALL).group(1).lower()
        for step in report.steps:
            assert text.count(step.title) >= 2, "in the drawing and in the table"
        for each in (*report.unprotected, *report.tasks):
            assert each.split(":")[0] in text

    def test_nothing_is_loaded_and_nothing_runs(self, branch):
        text = page(report_of(branch))
        assert not re.search(r"<(script|link|img|iframe|object)\b|\b(src|href)=|url\(|@import|https?://", text)
        assert "default-src 'none'" in text

    def test_the_drawing_is_well_formed_and_stays_inside(self, branch):
        report = report_of(branch)
        for each in svg_of(page(report)).iter("rect"):
            x, width = float(each.attrib["x"]), float(each.attrib["width"])
            assert LEFT <= x <= x + width <= WIDTH, each.attrib
        assert len(draw(report).rows) == len(report.steps) + len({write.route for write in report.routes})


def test_what_people_wrote_is_text_and_no_markup():
    report = report_of("automatic").model_copy(update={"reason": "<script>alert(1)</script>"})
    assert "<script" not in page(report)
    assert "&lt;script&gt;" in page(report)


def test_a_witness_outweighs_lifeboats_own_writes():
    report = report_of("automatic")
    assert report.outage_started is not None
    seen = Witness(
        route="dns",
        last_good=report.outage_started - timedelta(seconds=1),
        first_good=report.outage_started + timedelta(seconds=6.5),
        source="a client",
    )
    text = page(report.model_copy(update={"witness": [seen]}))
    assert "7.50 s" in text
    assert "as clients saw it" in text
    assert "as clients saw it" not in page(report)


def test_a_route_that_is_not_back_is_down_to_the_end():
    report = report_of("automatic")
    seen = Witness(route="dns", last_good=report.outage_started, first_good=None, source="a client")
    row = next(row for row in draw(report.model_copy(update={"witness": [seen]})).rows if row.name == "dns")
    assert [bar.kind for bar in row.bars] == ["up", "down"]
    assert row.label == "not back"


def test_names_of_moments_do_not_lie_on_each_other():
    marks = draw(report_of("parked-and-retried")).marks
    for index, one in enumerate(marks):
        for other in marks[index + 1 :]:
            apart = one.y != other.y or other.text_x >= one.text_x + 5 * len(one.text)
            assert apart, (one, other)


@pytest.mark.parametrize("name", EVERY)
class TestEveryRestore:
    def test_it_speaks_of_no_outage_and_of_nobody_who_leads(self, name):
        told = re.sub(r"<style>.*?</style>", "", page(EVERY[name]), flags=re.DOTALL).lower()
        for word in ("outage", "loss", "error budget", "primary", "promoted", "pg-east-1", "not assessed", "none<"):
            assert word not in told.replace('<b class="">none</b>', ""), word

    def test_every_clause_is_there_with_its_evidence(self, name):
        restore = EVERY[name].restore
        rows = re.findall(
            r'<tr(?: class="(bad)")?><td[^>]*>([✓✗–])</td><td>(.*?)</td><td>(.*?)</td>', page(EVERY[name])
        )
        assert [(unescape(clause), unescape(evidence)) for _, _, clause, evidence in rows] == [
            (each.clause, each.evidence) for each in (*restore.proofs, *restore.checks)
        ]
        assert [(mark, bool(bad)) for bad, mark, _, _ in rows] == [
            ({True: "✓", False: "✗", None: "–"}[each.ok], each.ok is False)
            for each in (*restore.proofs, *restore.checks)
        ]

    def test_nothing_is_loaded_and_nothing_runs(self, name):
        assert not re.search(
            r"<(script|link|img|iframe|object)\b|\b(src|href)=|url\(|@import|https?://", page(EVERY[name])
        )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("copied back", "good"),
        ("verified", "good"),
        ("slow", "warn"),
        ("refused", "bad"),
        ("not begun", "bad"),
        ("handed over", "bad"),
        ("planned", "warn"),
    ],
)
def test_how_good_a_restores_end_was_is_seen_at_once(name, kind):
    assert f'<h1 class="{kind}">' in page(EVERY[name])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("copied back", '<b class="">11 hold</b>\n    <span>proofs and checks; 1 not to be told'),
        ("copied back", "<dt>copied back</dt><dd>public.accounts: 12,000 rows</dd>"),
        ("copied back", "<li>0/06000110 (2026-11-25 10:20:00+00:00): an earlier one</li>"),
        ("refused", '<b class="bad">1 of 12 fails</b>'),
        ("verified", "restore and recovery; RTO of 5 min 00 s met"),
        ("slow", '<b class="warn">14.0 s</b>\n    <span>restore and recovery; RTO of 10.0 s missed'),
        ("not begun", "nothing restored"),
    ],
)
def test_a_restores_page_says(name, said):
    assert said in page(EVERY[name])


@pytest.mark.parametrize(
    ("hours", "first", "second"), [(0.005, "0 s", "2 s"), (0.5, "0 min", "5 min"), (26, "0 h", "6 h")]
)
def test_a_long_run_has_ticks_that_can_be_read(hours, first, second):
    report = EVERY["verified"]
    ticks = draw(report.model_copy(update={"steps": [], "ended": report.started + timedelta(hours=hours)})).ticks
    assert [text for _, text in ticks][:2] == [first, second]
    assert len(ticks) <= 13
