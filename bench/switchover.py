"""`python -m bench.switchover --runs N --json`: a planned move of the primary under load, as its clients see it.

Measured on the lab's routes, beside the raw floor of the same machine and time: pg_ctl by hand (bench/floor.py).
Clients of a transaction pool wait and are answered: for them the move is one long write, and never an error.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from bench import floor
from bench.common import BenchFailed, Result, Value, environment, figure, progress, run, say
from bench.stand import Stand, own_lab
from lab.errors import LabError
from lab.findings import acknowledged
from lab.ledger import Entry
from lab.referee import audit
from schemas.reports import Report
from schemas.requests import CandidateRequest

ROUTE = "pgbouncer-transaction"
"""The route whose clients wait instead of failing."""
GAP_S = 0.4
"""Target of the longest gap there, median [issue 5]."""
RUN_S = 60.0
AFTER_S = 2.0
"""Each route must have written again by then, after the run's end."""
RATE = 25.0

STEPS = {
    "pause": "Pause the poolers",
    "stop": "Shut the primary down",
    "compare": "Compare: the candidate has all of it",
    "promote": "Promote the candidate",
    "route": "Route clients",
}
"""The steps while clients wait: a part's name → the step's title."""


@dataclass
class Measured:
    """One switchover. Seconds by route, and by step; None where it did not happen."""

    gaps: dict[str, Value]
    errors: dict[str, Value]
    steps: dict[str, Value]
    rows_lost: Value = None
    problems: list[str] = field(default_factory=list)


def longest_gaps(routes: Iterable[str], entries: Sequence[Entry], since: float, timeline: int) -> dict[str, Value]:
    """Each route's longest time without an acknowledgement that did not end before `since`, UTC seconds.

    None for a route without one on a timeline after `timeline`: its gap has not ended.
    """
    found: dict[str, Value] = {}
    for route in routes:
        seen = [entry for entry in acknowledged(entries) if entry.route == route]
        gaps = [
            (later.acked or 0.0) - (earlier.acked or 0.0)
            for earlier, later in pairwise(seen)
            if (later.acked or 0.0) >= since
        ]
        led_on = any(entry.timeline > timeline for entry in seen)
        found[route] = max(gaps) if gaps and led_on else None
    return found


def client_errors(routes: Iterable[str], entries: Sequence[Entry]) -> dict[str, Value]:
    """Writes by route that were not acknowledged: failed, or of an outcome that their clients never learned.

    A writer notes the same failure once a second (lab/traffic.py), so that any number above 0 is "at least".
    """
    return {
        route: float(sum(entry.route == route and entry.outcome != "acknowledged" for entry in entries))
        for route in routes
    }


def durations(report: Report) -> dict[str, Value]:
    """Seconds of each of STEPS."""
    took = {step.title: (step.ended - step.started).total_seconds() for step in report.steps if step.outcome == "done"}
    return {name: took.get(title) for name, title in STEPS.items()}


async def switch(stand: Stand) -> Measured:
    """Move the primary under load by Lifeboat's runbook."""
    await stand.begin(watch=True, rate=RATE)
    await asyncio.sleep(random.uniform(0.5, 1.5))
    entries = stand.tail.fresh()
    timeline = max(entry.timeline for entry in entries)
    began = time.time()
    routes = list(stand.lab.routes)
    measured = Measured(gaps=dict.fromkeys(routes), errors=dict.fromkeys(routes), steps=dict.fromkeys(STEPS))
    try:
        request = CandidateRequest(service=stand.lab.service, reason="bench.switchover")
        report, _ = await stand.carry_out("DatabaseSwitchover", request, RUN_S)
    except BenchFailed as error:
        measured.problems.append(str(error))
    else:
        measured.steps = durations(report)
        if report.outcome != "done":
            measured.problems.append(f"{report.run}: {report.outcome}: {report.summary} {report.unprotected}")
    await _until_written(stand, entries, timeline)
    measured.gaps = longest_gaps(routes, entries, began, timeline)
    measured.errors = client_errors(routes, entries)
    measured.problems += [
        f"{entry.route}: {entry.outcome}: {entry.error}"
        for entry in entries
        if entry.route == ROUTE and entry.outcome != "acknowledged"
    ]
    measured.problems += [f"{route}: not led on" for route, gap in measured.gaps.items() if gap is None]
    try:
        found = await audit(stand.lab)
    except LabError as error:
        measured.problems.append(str(error))
    else:
        measured.rows_lost = found.missing
        measured.problems += found.errors
        measured.problems += [f"{each.name} wrote beside the leader" for each in found.writers]
    await stand.end()
    return measured


async def _until_written(stand: Stand, entries: list[Entry], timeline: int) -> None:
    """Read the ledger on until each route has written on a newer timeline, at most AFTER_S."""
    end = time.monotonic() + AFTER_S
    while True:
        entries += stand.tail.fresh()
        written = {entry.route for entry in entries if entry.outcome == "acknowledged" and entry.timeline > timeline}
        if written == set(stand.lab.routes) or time.monotonic() > end:
            return
        await asyncio.sleep(0.1)


def told(steps: Mapping[str, Value]) -> str:
    return " + ".join(f"{name} {'?' if took is None else f'{took:.2f}'}" for name, took in steps.items())


async def measure(given: argparse.Namespace) -> Result:
    """`--runs` times the floor and Lifeboat, each from the estate as it was at first."""
    raw: list[Value] = []
    runs: list[Measured] = []
    problems: list[str] = []
    async with own_lab() as stand:
        about = environment(
            stand.lab,
            policy=stand.service.synchronous.policy,
            writes_per_s_and_route=RATE,
            routes=list(stand.lab.routes),
        )
        for number in range(1, given.runs + 1):
            try:
                raw.append(await floor.hand_over(stand, rate=RATE))
            except floor.FloorFailed as error:
                raw.append(None)
                problems.append(f"run {number}: the raw floor: {error}")
            measured = await switch(stand)
            runs.append(measured)
            problems += [f"run {number}: {problem}" for problem in measured.problems]
            progress(
                f"run {number} of {given.runs}: raw {say(raw[-1])}, write gap {say(measured.gaps[ROUTE])}"
                f" ({told(measured.steps)}), errors {measured.errors[ROUTE]}, rows lost {measured.rows_lost}"
            )
            for problem in measured.problems:
                progress(f"  {problem}")
        routes = list(stand.lab.routes)
    figures = [
        figure("raw_stop_to_write", "s", raw),
        figure(
            "write_gap",
            "s",
            [each.gaps[ROUTE] for each in runs],
            target=GAP_S,
            parts={route: [each.gaps[route] for each in runs] for route in routes},
        ),
        figure("steps", "s", [_sum(each.steps) for each in runs], parts={n: [r.steps[n] for r in runs] for n in STEPS}),
        figure(
            "client_errors",
            "writes",
            [each.errors[ROUTE] for each in runs],
            target=0,
            target_of="max",
            parts={route: [each.errors[route] for each in runs] for route in routes},
        ),
        figure("rows_lost", "rows", [each.rows_lost for each in runs], target=0, target_of="max"),
    ]
    return Result(bench="switchover", environment=about, figures=figures, problems=problems)


def _sum(steps: Mapping[str, Value]) -> Value:
    known = [took for took in steps.values() if took is not None]
    return sum(known) if len(known) == len(steps) else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.switchover", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="how often to measure (default: 5; p95 from 20 on)")
    return run(measure, parser)


if __name__ == "__main__":
    raise SystemExit(main())
