"""`python -m bench.watch --minutes 10 --json`: what the watch of a healthy service costs.

History events that it adds (it must add none, however long all is well), and the share of a core that it takes of each
region's worker, above what the same worker takes without a watch.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import psutil

from bench.common import BenchFailed, Result, environment, figure, progress, run, slowest
from bench.stand import Stand, own_lab
from lab.lab import connect
from lab.supervise import Supervisor
from schemas.attributes import watch_id

SETTLE_S = 60.0
QUIET_S = 5.0


def worker_seconds(stand: Stand) -> dict[str, float]:
    """CPU time that each region's worker has taken so far, user and system; BenchFailed when one is down."""
    supervisor = Supervisor(stand.lab.paths)
    found: dict[str, float] = {}
    for region in stand.lab.regions:
        pid = supervisor.process(f"worker-{region}").pid
        if pid is None:
            raise BenchFailed(f"the worker of {region} is down")
        times = psutil.Process(pid).cpu_times()
        found[region] = times.user + times.system
    return found


async def shares(stand: Stand, seconds: float) -> dict[str, float]:
    """Share of a core that each region's worker takes during the next `seconds`."""
    before, started = worker_seconds(stand), time.monotonic()
    await asyncio.sleep(seconds)
    after, took = worker_seconds(stand), time.monotonic() - started
    return {region: (after[region] - before[region]) / took for region in before}


async def history(stand: Stand) -> tuple[str, int]:
    """Run id of the watch, and how many events its history holds."""
    client = await connect(stand.lab)
    described = await client.get_workflow_handle(watch_id(stand.lab.service)).describe()
    return described.run_id, described.history_length


async def settled(stand: Stand) -> tuple[str, int]:
    """The history once it has stood still for QUIET_S: what the watch's own start writes is not counted."""
    seen, since = await history(stand), time.monotonic()
    end = time.monotonic() + SETTLE_S
    while time.monotonic() - since < QUIET_S:
        if time.monotonic() > end:
            raise BenchFailed(f"the watch's history still grows {SETTLE_S:g} s after its start: {seen[1]} events")
        await asyncio.sleep(0.5)
        now = await history(stand)
        if now != seen:
            seen, since = now, time.monotonic()
    return seen


async def measure(given: argparse.Namespace) -> Result:
    """One lab, first without a watch for a third of the time, then with one."""
    seconds = given.minutes * 60
    problems: list[str] = []
    async with own_lab() as stand:
        about = environment(stand.lab, minutes=given.minutes, interval_s=stand.service.detection.interval_s)
        await stand.begin(watch=False, rate=None)
        progress(f"without a watch, {seconds / 3:.0f} s")
        idle = await shares(stand, seconds / 3)
        await stand.begin(watch=True, rate=None)
        run_before, before = await settled(stand)
        progress(f"with the watch, {seconds:.0f} s; its history holds {before} events")
        busy = await shares(stand, seconds)
        run_after, after = await history(stand)
        if run_after != run_before:
            problems.append("the watch began a new run meanwhile: it saw a failure, or continued as new")
    # A new run's history counts whole: those events were added.
    added = after - before if run_after == run_before else after
    cost = {region: busy[region] - idle[region] for region in busy}
    figures = [
        figure("watch_history_events", "events", [float(added)], target=0, target_of="max"),
        figure(
            "watch_cpu_share",
            "of a core",
            [slowest(cost)],
            target=0.02,
            target_of="max",
            parts={region: [share] for region, share in cost.items()},
        ),
        figure("worker_cpu_share", "of a core", [max(busy.values())], parts={r: [share] for r, share in busy.items()}),
    ]
    return Result(bench="watch", environment=about, figures=figures, problems=problems)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.watch", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to look (default: 10)")
    parser.add_argument("--runs", type=int, default=1, choices=[1], help="one: the time is what counts here")
    return run(measure, parser)


if __name__ == "__main__":
    raise SystemExit(main())
