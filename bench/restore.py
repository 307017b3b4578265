"""`python -m bench.restore --runs N --json`: a point-in-time restore against the same commands by hand.

One database of random rows, one backup of it, and one target in the WAL after it. Each run restores it both ways, by
turns: pgBackRest and a server's recovery by hand, and `PitrRestore` from its start to the copy that is proved.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from dataclasses import dataclass, field

from temporalio.client import WorkflowHistory

from bench import restore_by_hand as by_hand
from bench.common import BenchFailed, Result, Value, environment, figure, progress, run, say
from bench.rejoin import activity_seconds
from bench.restore_by_hand import Prepared
from bench.stand import Stand, own_lab
from lab.errors import LabError
from schemas.reports import Report
from schemas.restore_requests import PitrRequest, Target
from workflows import pitr_restore as runbook

RATE_RATIO = 0.9
"""Restore and recovery: at least this share of the rate by hand."""
SHARE_S = 2.0
"""All of a run up to the proof that is neither restoring, nor recovering, nor reading WAL."""
WORD_RATIO = 1.15
"""From the start of the run to the proved copy, at most so much longer than the commands by hand."""
MEGABYTES = 2000
WAL_MEGABYTES = 64
RUN_S = 900.0
WORK = ("restore_backup", "recover_copy", "read_wal")
"""Activities whose time is the data's, not the workflow's."""


@dataclass
class Measured:
    """One run. Seconds; None where it did not happen."""

    hand_restore: Value = None
    hand_recovery: Value = None
    steps: dict[str, Value] = field(default_factory=dict)
    word_to_proved: Value = None
    work: dict[str, Value] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def restore_ratio(self) -> Value:
        return ratio(self.hand_restore, self.steps.get(runbook.RESTORE))

    @property
    def recovery_ratio(self) -> Value:
        return ratio(self.hand_recovery, self.steps.get(runbook.RECOVER))

    @property
    def hand(self) -> Value:
        """All that was done by hand."""
        return (
            None if self.hand_restore is None or self.hand_recovery is None else self.hand_restore + self.hand_recovery
        )

    @property
    def word_ratio(self) -> Value:
        return ratio(self.word_to_proved, self.hand)

    @property
    def share(self) -> Value:
        """The workflow's own seconds."""
        spent = [self.work.get(name) for name in WORK]
        known = [each for each in spent if each is not None]
        return None if self.word_to_proved is None or len(known) < len(WORK) else self.word_to_proved - sum(known)


def ratio(one: Value, other: Value) -> Value:
    return None if one is None or not other else one / other


def step_seconds(report: Report) -> dict[str, Value]:
    """Seconds of each step that was done."""
    return {each.title: (each.ended - each.started).total_seconds() for each in report.steps if each.outcome == "done"}


def word_to_proved(report: Report) -> Value:
    """From the start of the run to the end of the step that proves the copy."""
    proved = [each.ended for each in report.steps if each.title == runbook.PROVE and each.outcome == "done"]
    return (proved[0] - report.started).total_seconds() if proved else None


async def hand(stand: Stand, prepared: Prepared, measured: Measured) -> None:
    try:
        measured.hand_restore = await by_hand.restore(stand, prepared)
        measured.hand_recovery = await by_hand.recover(stand, prepared)
    finally:
        await by_hand.remove(stand)


async def product(stand: Stand, prepared: Prepared, measured: Measured) -> None:
    request = PitrRequest(
        service=stand.lab.service, reason="bench.restore", target=Target(time=prepared.target), then="remove"
    )
    report, history = await stand.carry_out("PitrRestore", request, RUN_S)
    measured.steps, measured.word_to_proved = step_seconds(report), word_to_proved(report)
    measured.work = {name: activity_seconds(history, name) for name in WORK}
    measured.problems += wrong(report, prepared)
    for line in spent(report, history):
        progress(f"  {line}")


def wrong(report: Report, prepared: Prepared) -> list[str]:
    """Why a run is not what is measured here: another outcome, another backup, or a proof that does not hold."""
    found = report.restore
    told = []
    if report.outcome != "done":
        told.append(f"{report.run}: {report.outcome}: {report.summary} {report.tasks}")
    if found is None or found.backup is None or found.backup.label != prepared.backup.label:
        told.append(f"{report.run}: not from {prepared.backup.label}")
    elif failed := found.failed():
        told.append(f"{report.run}: {'; '.join(f'{each.clause}: {each.evidence}' for each in failed)}")
    return told


def spent(report: Report, history: WorkflowHistory) -> list[str]:
    """Where a run's time went: its steps, then its activities."""
    names = {
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    }
    activities = {name: activity_seconds(history, name) for name in sorted(names)}
    return [
        ", ".join(f"{name} {say(took)}" for name, took in step_seconds(report).items()),
        ", ".join(f"{name} {say(took)}" for name, took in activities.items()),
    ]


async def once(stand: Stand, prepared: Prepared, *, first: bool) -> Measured:
    """Both ways, Lifeboat `first` or by hand; what went wrong is told, and what was measured stands."""
    measured = Measured()
    for way in (product, hand) if first else (hand, product):
        # What was written before is not on this one's time.
        await asyncio.to_thread(os.sync)
        try:
            await way(stand, prepared, measured)
        except (BenchFailed, LabError, OSError) as error:
            measured.problems.append(f"{type(error).__name__}: {error}")
    return measured


async def measure(given: argparse.Namespace) -> Result:
    """`--runs` times both ways, from one backup to one target."""
    runs: list[Measured] = []
    problems: list[str] = []
    async with own_lab(profile="backup", watch=False) as stand:
        prepared = await by_hand.prepare(stand, given.size_mb, WAL_MEGABYTES)
        size = prepared.backup.bytes
        about = environment(stand.lab, database_bytes=size, wal_bytes=prepared.wal_bytes)
        progress(f"{prepared.backup.label}: {size / 1e6:.0f} MB, and {prepared.wal_bytes / 1e6:.0f} MB of WAL after it")
        for number in range(1, given.runs + 1):
            measured = await once(stand, prepared, first=number % 2 == 0)
            runs.append(measured)
            problems += [f"run {number}: {problem}" for problem in measured.problems]
            progress(
                f"run {number} of {given.runs}: by hand {say(measured.hand_restore)} and {say(measured.hand_recovery)};"
                f" Lifeboat {say(measured.steps.get(runbook.RESTORE))} and {say(measured.steps.get(runbook.RECOVER))},"
                f" proved after {say(measured.word_to_proved)}, of which its own {say(measured.share)}"
            )
            for problem in measured.problems:
                progress(f"  {problem}")

    def step(title: str) -> list[Value]:
        return [each.steps.get(title) for each in runs]

    def rate(took: list[Value]) -> list[Value]:
        return [size / each / 1e6 if each else None for each in took]

    raw = [each.hand_restore for each in runs]
    figures = [
        figure("raw_restore", "s", raw),
        figure("raw_restore_rate", "MB/s", rate(raw)),
        figure("raw_recovery", "s", [each.hand_recovery for each in runs]),
        figure("find_time", "s", step(runbook.FIND)),
        figure("restore_time", "s", step(runbook.RESTORE)),
        figure("restore_rate", "MB/s", rate(step(runbook.RESTORE))),
        figure("recovery_time", "s", step(runbook.RECOVER)),
        figure("proof_time", "s", step(runbook.PROVE)),
        figure("validation_time", "s", step(runbook.VALIDATE)),
        figure("word_to_proved", "s", [each.word_to_proved for each in runs]),
        figure("restore_rate_ratio", "ratio", [each.restore_ratio for each in runs], target=RATE_RATIO, at_least=True),
        figure(
            "recovery_rate_ratio", "ratio", [each.recovery_ratio for each in runs], target=RATE_RATIO, at_least=True
        ),
        figure("workflow_share", "s", [each.share for each in runs], target=SHARE_S),
        figure("word_to_proved_ratio", "ratio", [each.word_ratio for each in runs], target=WORD_RATIO),
    ]
    return Result(bench="restore", environment=about, figures=figures, problems=problems)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.restore", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="how often to measure (default: 3; p95 from 20 on)")
    parser.add_argument("--size-mb", type=int, default=MEGABYTES, help="of the database (default: %(default)s)")
    return run(measure, parser)


if __name__ == "__main__":
    raise SystemExit(main())
