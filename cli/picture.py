"""A run under way, drawn: steps, the clock running down, the open question and what to type."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.words import MARKS, hour, left_style, outcome_text, span
from schemas.state import RunState


def picture(state: RunState, now: datetime, note: str = "", short: bool = False) -> RenderableType:
    """What must be acted on stands above the steps, since a low terminal cuts the end off.

    `note` says what the view itself must tell, for instance that no worker answers; `short`: one line a step.
    """
    parts: list[RenderableType] = [
        Text.assemble((f"{state.procedure} of {state.service}", "bold"), f"  {state.run}"),
        Text(state.reason, style="dim"),
    ]
    if state.deadline is not None and state.rto_s > 0:
        parts.append(_clock(state, now))
    if note:
        parts.append(Text(note, style="red"))
    parts += (Panel(Text("\n".join(lines)), title=title, style="yellow") for title, lines in waiting(state, now))
    parts.append(_steps(state, now, short))
    if state.outcome:
        parts.append(outcome_text(state.outcome))
    return Group(*parts)


def waiting(state: RunState, now: datetime) -> Iterator[tuple[str, list[str]]]:
    """What the run waits for a person to do: a title, and the lines that say what to type."""
    if state.question is not None:
        yield "a person must decide", [*question_lines(state, now), "", *what_to_type(state)]
    if state.parked is not None:
        verbs = ["retry", "skip", "abort"] if state.skippable else ["retry", "abort"]
        yield f"parked at “{state.parked}”", [*_last_words(state), *(f"lifeboat {verb} {state.run}" for verb in verbs)]
    if state.held:
        yield "held", [f"lifeboat resume {state.run}", f"lifeboat abort {state.run}"]


def question_lines(state: RunState, now: datetime) -> list[str]:
    """The open question with all that decides: candidate, verdict, digest, decide-by, expiry, who may answer."""
    question = state.question
    if question is None:
        return []
    lines = [question.text]
    if state.assessment is not None:
        candidate = state.assessment.choice.candidate or f"none ({state.assessment.choice.reason})"
        lines += [f"candidate  {candidate}", f"loss       {state.assessment.verdict.text()}"]
    lines.append(f"digest     {question.digest}")
    if question.decide_by is not None:
        left = (question.decide_by - now).total_seconds()
        when = f"{span(left)} left" if left >= 0 else f"{span(-left)} ago: the RTO will be missed"
        lines.append(f"decide by  {hour(question.decide_by)} UTC, {when}")
    lines.append(f"expires    {hour(question.expires)} UTC, {span((question.expires - now).total_seconds())} left")
    if question.approvers:
        lines.append(f"approvers  {', '.join(question.approvers)}; needed: {question.quorum}")
    if question.choices[1:]:
        lines.append(f"choices    {', '.join(question.choices)}; the first, unless --then says another")
    return lines


def what_to_type(state: RunState) -> list[str]:
    """The two answers to the open question, as commands."""
    override = " --override --reason …" if state.question and state.question.needs_override else ""
    return [f"lifeboat approve {state.run}{override}", f"lifeboat reject {state.run}"]


def clock_line(state: RunState, now: datetime) -> str:
    """`RTO 5 min 00 s: 4 min 41 s left`; "" while no outage is known."""
    if state.deadline is None:
        return ""
    left = (state.deadline - now).total_seconds()
    end = f"{span(left)} left" if left >= 0 else f"missed {span(-left)} ago"
    return f"RTO {span(state.rto_s)}: {end}"


def _clock(state: RunState, now: datetime) -> Table:
    assert state.deadline is not None
    left = (state.deadline - now).total_seconds()
    style = left_style(left, state.rto_s)
    row = Table.grid(padding=(0, 2, 0, 0))
    bar = ProgressBar(total=state.rto_s, completed=max(left, 0.0), width=30, complete_style=style, finished_style=style)
    row.add_row(Text(clock_line(state, now), style=style), bar)
    return row


def _steps(state: RunState, now: datetime, short: bool) -> Table:
    """Planned steps with what came of them, then undone ones and others that no plan names."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=short, overflow="ellipsis")
    done = {step.title: step for step in state.steps}
    begun = state.steps[-1].ended if state.steps else state.started
    for title in [*state.planned, *(title for title in done if title not in state.planned)]:
        step = done.get(title)
        if title == state.step:
            table.add_row(Text(f"→ {title}", style="bold"), span((now - begun).total_seconds()), state.progress)
        elif step is not None:
            mark, style = MARKS[step.outcome]
            detail = step.detail if step.outcome in ("done", "failed") else f"{step.outcome}; {step.detail}"
            took = span((step.ended - step.started).total_seconds())
            table.add_row(Text(f"{mark} {title}", style=style), took, detail)
        else:
            table.add_row(Text(f"· {title}", style="dim"), "", "")
    return table


def _last_words(state: RunState) -> list[str]:
    failed = [step for step in state.steps if step.title == state.parked and step.detail]
    return [failed[-1].detail] if failed else []
