"""Follow a run to its end: a live picture on a terminal, one line a step elsewhere. All of it goes to stderr."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text
from temporalio.service import RPCError, RPCStatusCode

from cli.engine import Engine
from cli.picture import clock_line, picture, waiting
from cli.problems import Exit
from cli.words import MARKS, span
from schemas.reports import EXIT_CODES, Report
from schemas.state import RunState

REFRESH_S = 0.3
NO_WORKER = "no worker answers; the run goes on as soon as one is back"
NO_TEMPORAL = "Temporal doesn't answer; the run goes on when it is back"


@dataclass(frozen=True)
class Ending:
    """A report when the run ended; `waiting` when it did not, and why the view did."""

    report: Report | None
    waiting: str = ""

    @property
    def code(self) -> int:
        return Exit.WAITING if self.report is None else EXIT_CODES[self.report.outcome]


class View(Protocol):
    def show(self, state: RunState | None, now: datetime, note: str) -> None:
        """`state` is None while no worker has ever answered."""


class Drawing:
    """The live picture."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, state: RunState | None, now: datetime, note: str) -> None:
        drawn = Text(note, style="red") if state is None else picture(state, now, note, short=True)
        self._live.update(drawn, refresh=True)


class Lines:
    """For a log: each step as it ends, each question once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[tuple[object, ...]] = set()
        self._asked: set[str] = set()

    def show(self, state: RunState | None, now: datetime, note: str) -> None:
        asked = {note: note} if note else {}
        if state is not None:
            self._tell_steps(state, now)
            for title, lines in waiting(state, now):
                # The lines hold the time left, so they are no key; a new question has a new moment.
                moment = state.question.asked if state.question else ""
                rest = (f"  {line}" for line in lines[1:])
                asked[f"{title} {moment}"] = "\n".join((f"{title}: {lines[0]}", *rest))
        for key, said in asked.items():
            if key not in self._asked:
                self._say(said)
        self._asked = set(asked)

    def _tell_steps(self, state: RunState, now: datetime) -> None:
        for step in state.steps:
            key = (step.title, step.outcome, step.ended)
            if key not in self._told:
                self._told.add(key)
                took = span((step.ended - step.started).total_seconds())
                parts = [f"{MARKS[step.outcome][0]} {step.title}", took, step.detail, clock_line(state, now)]
                self._say("  ".join(part for part in parts if part))

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


async def follow(engine: Engine, run: str, console: Console, *, ask: bool, limit_s: float | None) -> Ending:
    """Until the run ends, or `limit_s` passes, or (with `ask` False) it needs a person.

    Temporal or the workers may go away and come back meanwhile; the view says so and stays.
    """
    started = asyncio.get_running_loop().time()
    live = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
    view: View = Drawing(live) if live is not None else Lines(console)
    frame: AbstractContextManager[object] = live if live is not None else nullcontext()
    state: RunState | None = None
    ended = asyncio.ensure_future(_report(engine, run))
    try:
        with frame:
            while True:
                note = ""
                try:
                    seen = await engine.state(run)
                    state, note = seen or state, "" if seen else NO_WORKER
                except RPCError as error:
                    if error.status is RPCStatusCode.NOT_FOUND:
                        raise
                    note = NO_TEMPORAL
                view.show(state, datetime.now(UTC), "" if ended.done() else note)
                if ended.done():
                    return Ending(ended.result())
                needs = next((title for title, _ in waiting(state, datetime.now(UTC))), "") if state else ""
                if needs and not ask:
                    return Ending(None, needs)
                if limit_s is not None and asyncio.get_running_loop().time() - started > limit_s:
                    return Ending(None, needs or f"not ended within {span(limit_s)}")
                await asyncio.wait({ended}, timeout=REFRESH_S)
    finally:
        ended.cancel()


async def _report(engine: Engine, run: str) -> Report:
    """The report, however often Temporal is restarted meanwhile."""
    while True:
        try:
            return await engine.report(run)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise
            # Not a tight loop: a server that is away refuses at once.
            await asyncio.sleep(1)
