"""`python -m bench.failover --runs N --json`: from the SIGKILL of a primary under load to the first acknowledged write.

Measured on the lab's routes, beside the raw floor of the same machine at the same time: what PostgreSQL itself takes
when somebody knows at once that the primary is dead and what to do (bench/floor.py).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from dataclasses import dataclass, field

from bench import floor, observed
from bench.common import BenchFailed, Result, Value, environment, figure, progress, run, say, slowest
from bench.stand import Stand, own_lab
from lab.errors import LabError
from lab.ledger import Entry
from lab.referee import audit

WRITE_S = 30.0
"""A run in which a route has not written by then has no value."""
REPORT_S = 60.0
RATE = 25.0


@dataclass
class Measured:
    """One failover by Lifeboat. Seconds; None where it did not happen."""

    kill: dict[str, Value]
    detect: dict[str, Value]
    rows_lost: Value = None
    problems: list[str] = field(default_factory=list)


async def first_writes(stand: Stand, timeline: int) -> dict[str, Entry]:
    """The first acknowledged write on a newer timeline on each route, of those that came within WRITE_S."""
    found: dict[str, Entry] = {}
    end = time.monotonic() + WRITE_S
    while len(found) < len(stand.lab.routes) and time.monotonic() < end:
        # Ten looks a second: the bench shares its two cores with what it measures.
        await asyncio.sleep(0.1)
        for entry in stand.tail.fresh():
            if entry.outcome == "acknowledged" and entry.timeline > timeline:
                found.setdefault(entry.route, entry)
    return found


async def lifeboat(stand: Stand) -> Measured:
    """Kill the primary and touch nothing; the watch and the runbook do the rest."""
    await stand.begin(watch=True, rate=RATE)
    timeline = max(entry.timeline for entry in stand.tail.fresh())
    # The kill falls anywhere between two probes.
    await asyncio.sleep(random.uniform(0.5, 1.5))
    killed = await stand.kill_primary()
    first = await first_writes(stand, timeline)
    waited = {route: (entry.acked or 0.0) - killed for route, entry in first.items()}
    measured = Measured(
        kill={route: waited.get(route) for route in stand.lab.routes},
        detect=dict.fromkeys(stand.lab.routes),
    )
    for route in stand.lab.routes:
        if route not in first:
            measured.problems.append(f"{route}: no write on a newer timeline within {WRITE_S:g} s of the kill")
    try:
        report = await stand.report(since=killed, limit=REPORT_S)
    except BenchFailed as error:
        measured.problems.append(str(error))
    else:
        if report.detected is None or not report.outcome.startswith("recovered"):
            measured.problems.append(f"{report.run}: {report.outcome}: {report.summary}")
        if report.detected is not None:
            detected = report.detected.timestamp() - killed
            measured.detect = {
                route: None if value is None else value - detected for route, value in measured.kill.items()
            }
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


async def kill_to_write(stand: Stand) -> tuple[dict[str, Value], list[str]]:
    measured = await lifeboat(stand)
    return measured.kill, measured.problems


async def measure(given: argparse.Namespace) -> Result:
    """`--runs` times the floor and Lifeboat, each from the estate as it was at first."""
    if given.with_observability:
        return await observed.compare(given.runs, kill_to_write)
    raw: list[Value] = []
    runs: list[Measured] = []
    problems: list[str] = []
    async with own_lab() as stand:
        detection = stand.service.detection
        about = environment(
            stand.lab,
            policy=stand.service.synchronous.policy,
            detection=f"{detection.failures} × {detection.interval_s * 1000:g} ms",
            writes_per_s_and_route=RATE,
            routes=list(stand.lab.routes),
        )
        for number in range(1, given.runs + 1):
            try:
                raw.append(await floor.promote(stand, rate=RATE))
            except floor.FloorFailed as error:
                raw.append(None)
                problems.append(f"run {number}: the raw floor: {error}")
            measured = await lifeboat(stand)
            runs.append(measured)
            problems += [f"run {number}: {problem}" for problem in measured.problems]
            progress(
                f"run {number} of {given.runs}: raw {say(raw[-1])}, kill to write {say(slowest(measured.kill))},"
                f" detect to write {say(slowest(measured.detect))}, rows lost {measured.rows_lost}"
            )
            for problem in measured.problems:
                progress(f"  {problem}")
        routes = list(stand.lab.routes)
    figures = [
        figure("raw_promote_to_write", "s", raw),
        figure(
            "kill_to_write",
            "s",
            [slowest(each.kill) for each in runs],
            target=0.8,
            target_p95=1.2,
            parts={route: [each.kill[route] for each in runs] for route in routes},
        ),
        figure(
            "detect_to_write",
            "s",
            [slowest(each.detect) for each in runs],
            target=0.4,
            parts={route: [each.detect[route] for each in runs] for route in routes},
        ),
        figure("rows_lost", "rows", [each.rows_lost for each in runs], target=0, target_of="max"),
    ]
    return Result(bench="failover", environment=about, figures=figures, problems=problems)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="how often to measure (default: 5; p95 from 20 on)")
    parser.add_argument(
        "--with-observability",
        action="store_true",
        help="instead: by turns without and with traces (to Jaeger), metrics and notification; compare the medians",
    )
    return run(measure, parser)


if __name__ == "__main__":
    raise SystemExit(main())
