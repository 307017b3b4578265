"""The report as one self-contained HTML page: nothing is loaded from anywhere, and nothing in it runs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jinja2

from schemas import backup_words, damage_words, restore_words
from schemas.reports import Report, StepReport
from schemas.words import hour, instant, size, span

WIDTH, LEFT, RIGHT = 1000.0, 262.0, 24.0
"""Of the drawing, in its own units; LEFT holds the names of its rows."""
LINES, CHARACTER = 3, 6.6
"""Lines for the names of moments, and how wide a character of theirs is at most."""
ROW, TOP = 24.0, 46.0
TICKS = 6
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400)
"""Seconds from one tick to the next: a copy may be read for a day."""
GOOD, BAD = ("recovered", "not needed", "done"), ("needs a person",)


@dataclass(frozen=True)
class Bar:
    """A stretch of a row; `kind` is its class in the style sheet."""

    x: float
    width: float
    kind: str
    title: str


@dataclass(frozen=True)
class Row:
    name: str
    y: float
    bars: list[Bar]
    label: str = ""


@dataclass(frozen=True)
class Mark:
    """A moment, as a line down all rows; its text begins at `text_x` on the line `y`."""

    x: float
    text_x: float
    y: float
    text: str
    kind: str


@dataclass(frozen=True)
class Drawing:
    """The timeline: routes above, steps below, moments across."""

    height: float
    rows: list[Row]
    marks: list[Mark]
    ticks: list[tuple[float, str]]
    split: float
    note: str


class _Scale:
    """Time to x. Linear, from a little before the outage to the end of the run."""

    def __init__(self, start: datetime, end: datetime) -> None:
        self.start, self.end = start, end
        self.whole = max((end - start).total_seconds(), 0.001)

    def x(self, at: datetime) -> float:
        share = (at - self.start).total_seconds() / self.whole
        return round(LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT), 1)

    def bar(self, since: datetime, until: datetime, kind: str, title: str) -> Bar:
        x = self.x(since)
        return Bar(x, round(max(self.x(until) - x, 1.5), 1), kind, title)


def draw(report: Report) -> Drawing:
    """Everything of the report that has a time, on one scale: not what was only planned."""
    report = report.model_copy(update={"steps": [step for step in report.steps if step.outcome != "planned"]})
    begins = [report.started, *(step.started for step in report.steps)]
    begins += [each for each in (report.outage_started, *(seen.last_good for seen in report.witness)) if each]
    ends = [report.ended, *(seen.first_good for seen in report.witness if seen.first_good)]
    margin = timedelta(seconds=(max(ends) - min(begins)).total_seconds() * 0.03)
    scale = _Scale(min(begins) - margin, max(ends) + margin)
    rows = [*_route_rows(report, scale)]
    split = TOP + ROW * len(rows)
    rows += [
        Row(
            step.title,
            split + 10 + ROW * index,
            [scale.bar(step.started, step.ended, _kind(step), f"{step.title}: {step.outcome}")],
            span((step.ended - step.started).total_seconds()),
        )
        for index, step in enumerate(report.steps)
    ]
    height = split + 10 + ROW * len(report.steps) + 26
    note = ""
    if report.outage_started is not None:
        deadline = report.outage_started + timedelta(seconds=report.rto_s)
        if deadline > scale.end:
            note = f"the RTO of {span(report.rto_s)} ends at {hour(deadline)}, beyond this drawing"
    return Drawing(height, rows, list(_marks(report, scale)), list(_ticks(report, scale)), split, note)


def _route_rows(report: Report, scale: _Scale) -> Iterator[Row]:
    """A route is down from its last good write, or from the first failed probe, to its first good one."""
    names = dict.fromkeys([*(seen.route for seen in report.witness), *(write.route for write in report.routes)])
    for index, name in enumerate(names):
        seen = next((each for each in report.witness if each.route == name), None)
        good = min((write.at for write in report.routes if write.route == name and write.ok), default=None)
        down = seen.last_good if seen else report.outage_started
        up = seen.first_good if seen else good
        bars = [scale.bar(scale.start, down or scale.end, "up", f"{name}: writes are acknowledged")]
        label = ""
        if down is not None:
            how = (
                f"as clients saw it ({seen.source})" if seen else "from the first failed probe to the first good write"
            )
            label = span((up - down).total_seconds()) if up else "not back"
            bars.append(scale.bar(down, up or scale.end, "down", f"{name}: no write acknowledged, {how}"))
            if up is not None:
                bars.append(scale.bar(up, scale.end, "up", f"{name}: writes are acknowledged again"))
        yield Row(name, TOP + ROW * index, bars, label)


def _kind(step: StepReport) -> str:
    return {"done": "done", "failed": "bad", "undo failed": "bad"}.get(step.outcome, "other")


def _marks(report: Report, scale: _Scale) -> Iterator[Mark]:
    deadline = report.outage_started + timedelta(seconds=report.rto_s) if report.outage_started else None
    moments = [
        (report.outage_began_with(), report.outage_started, "moment"),
        ("detected", report.detected, "moment"),
        ("decided", report.decided, "moment"),
        ("recovered", report.recovered, "good"),
        ("RTO ends", deadline if deadline is not None and deadline <= scale.end else None, "deadline"),
    ]
    known = sorted((at, text, kind) for text, at, kind in moments if at is not None)
    ends = [0.0] * LINES
    for at, text, kind in known:
        x, width = scale.x(at), CHARACTER * len(text)
        begin = min(max(x - width / 2, 0.0), WIDTH - width)
        # The first line on which it touches none before it; where all are taken, the one that ends first.
        line = next((index for index, end in enumerate(ends) if end < begin), ends.index(min(ends)))
        begin = max(begin, ends[line])
        ends[line] = begin + width + 8
        yield Mark(x, round(begin, 1), 12.0 + 13 * line, text, kind)


def _ticks(report: Report, scale: _Scale) -> Iterator[tuple[float, str]]:
    """Round times since the outage began, or since the run did."""
    zero = report.outage_started or report.started
    step = next((each for each in STEPS if scale.whole / each <= TICKS * 2), STEPS[-1])
    unit, name = next((each for each in ((3600, "h"), (60, "min")) if step >= each[0]), (1, "s"))
    count = 0
    while zero + timedelta(seconds=count * step) <= scale.end:
        yield scale.x(zero + timedelta(seconds=count * step)), f"{count * step / unit:g} {name}"
        count += 1


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("activities"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"span": span, "instant": instant, "hour": hour, "size": size}
    environment.globals |= {"restore_facts": restore_words.facts, "tally": restore_words.tally}
    environment.globals |= {"damage_facts": damage_words.facts, "backup_facts": backup_words.facts}
    environment.globals |= {"damage_headline": damage_words.headline, "wrong_answers": damage_words.wrong_answers}
    return environment.get_template("report.html.j2")


def page(report: Report) -> str:
    """The whole document, UTF-8 text."""
    # A restore is refused since the copy, or what there is to restore from, is no good; so is a backup.
    bad = (*BAD, "refused") if report.is_of_copies() else BAD
    kind = "good" if report.outcome in GOOD else "bad" if report.outcome in bad else "warn"
    gaps = [
        (seen.first_good - seen.last_good).total_seconds()
        for seen in report.witness
        if seen.last_good and seen.first_good
    ]
    return _template().render(
        report=report,
        kind=kind,
        drawing=draw(report),
        width=WIDTH,
        left=LEFT,
        row=ROW,
        client_outage=max(gaps) if gaps else None,
        made=datetime.now(UTC),
    )
