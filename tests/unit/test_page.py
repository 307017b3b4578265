"""The report as a page: what is read first, what is drawn, and that nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import json
import re
import xml.etree.ElementTree as ET
from datetime import timedelta
from pathlib import Path

import pytest

from activities.page import LEFT, WIDTH, draw, page
from schemas.reports import Report, Witness

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
