"""`python -m bench.rejoin --runs N --json`: how fast a former primary comes back, and how well its loss is counted.

Beside pg_rewind and pg_basebackup by hand from the same folder and the same leader, in the same run. Which way of the
rewind comes first changes from run to run; the copy by hand is made before and after the rebuild, and the mean counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from dataclasses import dataclass, field

from temporalio.client import WorkflowHistory

from bench import by_hand
from bench.common import BenchFailed, Result, Value, environment, figure, progress, run, say
from bench.divergence import Diverged, diverge
from bench.stand import Stand, own_lab
from lab.errors import LabError
from schemas.reports import Report
from schemas.requests import RejoinRequest

EXCESS_S = 2.0
"""Rejoin by rewind: at most so much more than by hand [issue 5]."""
RATE_RATIO = 0.9
RECEIPT_S = 1.0
COMMITS = 5000
MEGABYTES = 2048
"""As much as makes what a run costs besides small beside the copy: the target is of throughput."""
RUN_S = 150.0


@dataclass
class Measured:
    """One run. Seconds; None where it did not happen."""

    by_hand: Value = None
    rewind: Value = None
    receipt_s: Value = None
    receipt_error: Value = None
    copy_by_hand: Value = None
    rebuild: Value = None
    bytes: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def excess(self) -> Value:
        return None if self.rewind is None or self.by_hand is None else self.rewind - self.by_hand

    @property
    def rate_ratio(self) -> Value:
        """Bytes a second over those by hand: of the same bytes, the seconds by hand over those of the rebuild."""
        return None if not self.rebuild or self.copy_by_hand is None else self.copy_by_hand / self.rebuild

    def rate(self, took: Value) -> Value:
        return None if not took else self.bytes / took / 1e6


def receipt_error(counted: int | None, lost: int, in_flight: int) -> Value:
    """By how many commits the receipt is off, beyond those of which nobody knows whether they took place."""
    return None if counted is None else float(max(abs(counted - lost) - in_flight, 0))


def activity_seconds(history: WorkflowHistory, name: str) -> Value:
    """Seconds from the first start of an activity of a run to its last end; None when it did not end."""
    scheduled = {
        event.event_id
        for event in history.events
        if event.activity_task_scheduled_event_attributes.activity_type.name == name
    }
    starts: list[float] = []
    ends: list[float] = []
    for event in history.events:
        at = event.event_time.seconds + event.event_time.nanos / 1e9
        if event.activity_task_started_event_attributes.scheduled_event_id in scheduled:
            starts.append(at)
        if event.activity_task_completed_event_attributes.scheduled_event_id in scheduled:
            ends.append(at)
    return max(ends) - min(starts) if starts and ends else None


async def rejoin(stand: Stand, leader: str) -> tuple[float, Report, WorkflowHistory]:
    """Seconds from the start of the run until the leader has the member streaming, and the run."""
    member = stand.service.home
    began = time.monotonic()
    streams = asyncio.create_task(by_hand.until_streams(stand, member, leader))
    try:
        request = RejoinRequest(service=stand.lab.service, reason="bench.rejoin", member=member)
        report, history = await stand.carry_out("DatabaseRejoin", request, RUN_S)
        if not report.outcome.startswith("done"):
            raise BenchFailed(f"{report.run}: {report.outcome}: {report.summary} {report.tasks}")
        return await asyncio.wait_for(streams, 5.0) - began, report, history
    finally:
        streams.cancel()
        with contextlib.suppress(asyncio.CancelledError, BenchFailed):
            await streams


async def rewinds(stand: Stand, measured: Measured, *, first: bool) -> Diverged:
    """The lost commits, and both ways back; Lifeboat `first` or by hand."""
    member = stand.service.home
    found = await diverge(stand, COMMITS)
    await by_hand.keep_copy(stand, member)

    async def lifeboat() -> None:
        measured.rewind, report, history = await rejoin(stand, found.leader)
        if report.loss is None or "rewound" not in _details(report):
            measured.problems.append(f"{report.run}: not a rewind with a receipt: {_details(report)}")
        counted = None if report.loss is None else report.loss.commits
        measured.receipt_s = activity_seconds(history, "keep_divergence")
        measured.receipt_error = receipt_error(counted, found.lost, found.in_flight)
        progress(f"  receipt {counted}, lost {found.lost}, in flight {found.in_flight}")

    async def hand() -> None:
        measured.by_hand = await by_hand.rewind(stand, member, found.leader)

    one, other = (lifeboat, hand) if first else (hand, lifeboat)
    await one()
    await by_hand.put_back(stand, member)
    await other()
    return found


async def rebuilds(stand: Stand, leader: str, measured: Measured) -> None:
    """Copies of the whole into an empty folder: by hand, by Lifeboat, by hand."""
    member = stand.service.home
    idle = [
        each.name
        for each in stand.service.members
        if each.name != leader and (each.name == member or each.name not in stand.service.synchronous.voters)
    ]
    measured.bytes = await by_hand.load_bulk(stand, leader, MEGABYTES, idle)

    async def lifeboat() -> None:
        _, report, history = await rejoin(stand, leader)
        if "copied anew" not in _details(report):
            measured.problems.append(f"{report.run}: not a rebuild: {_details(report)}")
        measured.rebuild = activity_seconds(history, "return_member")

    async def hand() -> float:
        await by_hand.empty(stand, member)
        return await by_hand.copy(stand, member, leader)

    # Before and after it, since a shared machine and its caches change from one second to the next.
    before = await hand()
    await by_hand.empty(stand, member)
    await lifeboat()
    measured.copy_by_hand = statistics.fmean((before, await hand()))


def _details(report: Report) -> str:
    return "; ".join(step.detail for step in report.steps)


async def once(stand: Stand, *, first: bool) -> Measured:
    """One run from the estate as it was at first; what went wrong in it is told, and what was measured stands."""
    measured = Measured()
    await stand.begin(watch=False, rate=None)
    try:
        found = await rewinds(stand, measured, first=first)
        await rebuilds(stand, found.leader, measured)
    except (BenchFailed, LabError, OSError) as error:
        measured.problems.append(f"{type(error).__name__}: {error}")
    return measured


async def measure(given: argparse.Namespace) -> Result:
    """`--runs` times all of it."""
    runs: list[Measured] = []
    problems: list[str] = []
    async with own_lab(watch=False) as stand:
        about = environment(stand.lab, lost_commits=COMMITS, copied_megabytes=MEGABYTES)
        for number in range(1, given.runs + 1):
            measured = await once(stand, first=number % 2 == 0)
            runs.append(measured)
            problems += [f"run {number}: {problem}" for problem in measured.problems]
            progress(
                f"run {number} of {given.runs}: rewind {say(measured.rewind)}, by hand {say(measured.by_hand)};"
                f" receipt {say(measured.receipt_s)}, off by {measured.receipt_error};"
                f" rebuild {say(measured.rebuild)}, pg_basebackup {say(measured.copy_by_hand)}"
            )
            for problem in measured.problems:
                progress(f"  {problem}")
    figures = [
        figure("raw_rewind", "s", [each.by_hand for each in runs]),
        figure("rewind_rejoin", "s", [each.rewind for each in runs]),
        figure("rewind_rejoin_excess", "s", [each.excess for each in runs], target=EXCESS_S),
        figure("raw_copy_rate", "MB/s", [each.rate(each.copy_by_hand) for each in runs]),
        figure("rebuild_rate", "MB/s", [each.rate(each.rebuild) for each in runs]),
        figure("rebuild_rate_ratio", "ratio", [each.rate_ratio for each in runs], target=RATE_RATIO, at_least=True),
        figure("receipt_time", "s", [each.receipt_s for each in runs], target=RECEIPT_S),
        figure("receipt_error", "commits", [each.receipt_error for each in runs], target=0, target_of="max"),
    ]
    return Result(bench="rejoin", environment=about, figures=figures, problems=problems)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rejoin", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="how often to measure (default: 5; p95 from 20 on)")
    return run(measure, parser)


if __name__ == "__main__":
    raise SystemExit(main())
