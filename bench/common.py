"""What every bench shares: figures, their statistics and targets, the environment, and the printing of both."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import psutil
from pydantic import BaseModel

from lab.model import Lab

P95_RUNS = 20
"""Below so many runs a 95th percentile is the maximum by another name, and is not claimed."""

Value = float | None
"""What one run measured; None: it did not happen within the run's limits, or can't be known. Never left out."""


class Spread(BaseModel):
    """Of all runs; a run without a value is worse than any other, so a statistic that falls on it is None."""

    min: Value
    median: Value
    p95: Value
    max: Value


class Figure(BaseModel):
    """One measured quantity. `target` bounds the statistic `target_of`, `target_p95` the 95th percentile; from below
    where it is `at_least`, since more is better.

    `met`: every target that may be claimed is met, and no run is without a value; None where there is no target.
    """

    name: str
    unit: str
    runs: int
    min: Value
    median: Value
    p95: Value
    max: Value
    target: float | None = None
    target_of: str = "median"
    target_p95: float | None = None
    at_least: bool = False
    met: bool | None = None
    without_value: int = 0
    values: list[Value] = []
    parts: dict[str, Spread] = {}
    """The same figure route by route, region by region …"""


class Result(BaseModel):
    """What a bench prints. `problems` are what went wrong in single runs, which count all the same."""

    bench: str
    environment: dict[str, Any]
    figures: list[Figure]
    problems: list[str] = []


class BenchFailed(RuntimeError):
    """The bench could not run; the lab's logs say why."""


def spread(values: Sequence[Value], *, worst: float = math.inf) -> Spread:
    """Minimum, median, 95th percentile (nearest rank, from P95_RUNS on) and maximum; None counts as `worst`."""
    if not values:
        return Spread(min=None, median=None, p95=None, max=None)
    ordered = sorted(worst if value is None else value for value in values)
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1] if len(ordered) >= P95_RUNS else math.inf
    found = {"min": ordered[0], "median": statistics.median(ordered), "p95": p95, "max": ordered[-1]}
    return Spread(**{name: round(value, 4) if math.isfinite(value) else None for name, value in found.items()})


def figure(
    name: str,
    unit: str,
    values: Sequence[Value],
    *,
    target: float | None = None,
    target_of: str = "median",
    target_p95: float | None = None,
    at_least: bool = False,
    parts: Mapping[str, Sequence[Value]] | None = None,
) -> Figure:
    """The figure of these runs, judged by its targets: inclusive bounds, upper ones unless `at_least`."""
    sign = -1 if at_least else 1
    whole = spread(values, worst=sign * math.inf)
    missing = sum(value is None for value in values)
    bounds = [(getattr(whole, target_of), target), (whole.p95 if len(values) >= P95_RUNS else 0.0, target_p95)]
    claimed = [(value, bound) for value, bound in bounds if bound is not None]
    met = None
    if claimed:
        met = (
            bool(values)
            and not missing
            and all(value is not None and sign * value <= sign * bound for value, bound in claimed)
        )
    return Figure(
        name=name,
        unit=unit,
        runs=len(values),
        **whole.model_dump(),
        target=target,
        target_of=target_of,
        target_p95=target_p95,
        at_least=at_least,
        met=met,
        without_value=missing,
        values=[None if value is None else round(value, 4) for value in values],
        parts={part: spread(found) for part, found in (parts or {}).items()},
    )


def slowest(by_route: Mapping[str, Value]) -> Value:
    """The run's figure: its slowest route's; None as soon as one route has none."""
    values = [value for value in by_route.values() if value is not None]
    return max(values) if values and len(values) == len(by_route) else None


def environment(lab: Lab, **more: Any) -> dict[str, Any]:
    """What the figures depend on: machine, versions, and how busy the machine was at the start."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "postgresql": _version(r"[\d.]+", str(lab.pg_bin / "postgres"), "--version"),
        # A command line that `go install` built calls itself 0.0.0; the server in it knows its own version.
        "temporal_server": _version(r"(?<=Server )[\d.]+", lab.temporal.cli, "--version"),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        **more,
    }


def _version(pattern: str, *argv: str) -> str:
    told = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False).stdout
    found = re.search(pattern, told)
    return found.group() if found else "unknown"


def say(value: Value) -> str:
    return "never" if value is None else f"{value:.3f} s"


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def text(result: Result) -> str:
    """The figures as a person reads them."""
    lines = [f"{'figure':<24} {'runs':>4} {'min':>8} {'median':>8} {'p95':>8} {'max':>8}  target"]
    for each in result.figures:
        than = "≥" if each.at_least else "≤"
        bounds = [] if each.target is None else [f"{each.target_of} {than} {each.target:g}"]
        bounds += [] if each.target_p95 is None else [f"p95 ≤ {each.target_p95:g}"]
        verdict = "" if each.met is None else ": met" if each.met else ": MISSED"
        lines.append(_line(each.name, each.runs, each) + f"  {', '.join(bounds)} {each.unit}{verdict}")
        lines += [_line(f"  {name}", each.runs, part) for name, part in each.parts.items()]
    return "\n".join([*lines, *(f"problem: {problem}" for problem in result.problems)])


def _line(name: str, runs: int, of: Figure | Spread) -> str:
    cells = " ".join(f"{'-' if value is None else f'{value:.3f}':>8}" for value in (of.min, of.median, of.p95, of.max))
    return f"{name:<24} {runs:>4} {cells}"


def run(measure: Callable[[argparse.Namespace], Awaitable[Result]], parser: argparse.ArgumentParser) -> int:
    """Measure, and print JSON alone on stdout (or a table); 1 when the bench could not run, 130 when interrupted."""
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    try:
        result = asyncio.run(_until_signalled(measure(given)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        progress("interrupted; nothing of its lab is left running")
        return 130
    except Exception as error:  # noqa: BLE001 - whatever it was, the caller gets one line and exit 1
        progress(f"the bench could not run: {type(error).__name__}: {error}")
        return 1
    print(json.dumps(result.model_dump(mode="json")) if given.json else text(result))
    return 0


async def _until_signalled(work: Awaitable[Result]) -> Result:
    """SIGTERM ends a bench as Ctrl-C does: its lab is taken down first."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task
