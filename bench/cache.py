"""`python -m bench.cache --runs N --json`: a cache's planned move and its failover under load, as clients see them.

Each run has the raw floor of the same minute (`SENTINEL FAILOVER` on an idle cache: order to new master), the stock
tool (the same order under load, unfenced), Lifeboat's switchover, and a master that is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bench.common import BenchFailed, Figure, Result, Value, environment, figure, progress, run, say, slowest
from bench.stand import Stand, own_lab
from lab import cache, cache_referee, findings, ledger, load
from lab.cache_referee import CacheAudit
from lab.demo_cache import bound_of
from lab.layout import CACHE_HOME, MONITORED
from lab.paths import log_tail
from schemas.requests import CandidateRequest, RunRequest

RATE = 250.0
"""Writes a second along each of three routes."""
ACKNOWLEDGED = 10_000
"""Of each planned move, out and home, at least [issue 6]."""
GAP_S = 2.0
AFTER_S = 1.0
"""Targets: the longest gap of a planned move; writes again after Sentinel's own promotion [issue 6]."""
RUN_S = 90.0
WRITING_S = 20.0
STOCK_S = 5.0
SENTINEL = "sentinel-east-1"


@dataclass
class Measured:
    """One run. Seconds by route; None where it did not happen."""

    floor: Value = None
    stock_lost: Value = None
    stock_acknowledged: Value = None
    lost: Value = None
    acknowledged: Value = None
    gaps: dict[str, Value] = field(default_factory=dict)
    after: dict[str, Value] = field(default_factory=dict)
    killed_missing: Value = None
    killed_beyond: Value = None
    waited_missing: Value = None
    problems: list[str] = field(default_factory=list)


async def until_another(stand: Stand, old: str, limit: float = 15.0) -> str:
    """The region's master once it is another than `old`."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        for name in (f"cache-east-{number}" for number in (1, 2, 3, 4)):
            if name == old:
                continue
            answer = await cache.ask(stand.lab, name, "ROLE")
            if isinstance(answer, list) and answer[0] == "master":
                return name
        await asyncio.sleep(0.01)
    raise BenchFailed(f"nobody but {old} leads after {limit:g} s")


async def raw_floor(stand: Stand) -> Value:
    """From the order to the new master's role, without any load or fence."""
    await stand.begin(watch=False, rate=None)
    began = time.monotonic()
    await cache.ask(stand.lab, SENTINEL, "SENTINEL", "FAILOVER", MONITORED)
    await until_another(stand, CACHE_HOME)
    return time.monotonic() - began


async def stock(stand: Stand, measured: Measured) -> None:
    """The control: what is lost of what was acknowledged when Sentinel is only told to."""
    await stand.begin(watch=False, rate=RATE)
    await asyncio.sleep(2)
    await cache.ask(stand.lab, SENTINEL, "SENTINEL", "FAILOVER", MONITORED)
    await until_another(stand, CACHE_HOME)
    # Sentinel turns the old master last, and clients stay on it until then.
    await asyncio.sleep(STOCK_S)
    found = await audited(stand)
    measured.stock_lost, measured.stock_acknowledged = _number(found.missing), float(found.acknowledged)


async def planned(stand: Stand, measured: Measured) -> None:
    """Out and home by Lifeboat, until enough is acknowledged."""
    await stand.begin(watch=True, rate=RATE)
    service = stand.lab.services["cache"]
    while True:
        out = CandidateRequest(service=service, reason="bench.cache")
        home = RunRequest(service=service, reason="bench.cache: home")
        for procedure, request in (("CacheSwitchover", out), ("CacheFailback", home)):
            report, _ = await stand.carry_out(procedure, request, RUN_S)
            if report.outcome not in ("done", "done, unprotected"):
                measured.problems.append(f"{report.run}: {report.outcome}: {report.summary}")
        if len(findings.acknowledged(ledger.read(stand.lab.ledger))) >= ACKNOWLEDGED:
            break
    found = await audited(stand)
    measured.lost, measured.acknowledged = _number(found.missing), float(found.acknowledged)
    measured.gaps = {name: route.longest_gap_s for name, route in found.routes.items()}
    measured.problems += [f"{writer.name}: {'; '.join(writer.reasons)}" for writer in found.writers]


async def killed(stand: Stand, measured: Measured) -> None:
    """The master is killed: when each route writes again after Sentinel's promotion, and what is missing."""
    await stand.begin(watch=True, rate=RATE)
    await asyncio.sleep(2)
    moment = await stand.kill(CACHE_HOME)
    report = await stand.report(since=moment, limit=RUN_S, procedure="CacheFailover")
    found = await audited(stand)
    promoted = promoted_at(stand, moment)
    entries = findings.acknowledged(ledger.read(stand.lab.ledger))
    old = stand.lab.node(CACHE_HOME).address
    for name in stand.lab.routes:
        first = min((e.acked or 0 for e in entries if e.route == name and e.server != old), default=None)
        measured.after[name] = None if first is None or promoted is None else max(first - promoted, 0.0)
    bound = bound_of(report, stand.lab)
    measured.killed_missing = _number(found.missing)
    if found.missing is not None and bound is not None:
        measured.killed_beyond = float(max(found.missing - bound, 0))
    measured.waited_missing = _number(found.waited_missing)
    if report.outcome not in ("recovered", "recovered, unprotected"):
        measured.problems.append(f"{report.run}: {report.outcome}: {report.summary}")


def promoted_at(stand: Stand, since: float) -> float | None:
    """When a Sentinel wrote `+promoted-slave` into its log, UTC seconds; its clock is this machine's."""
    times = []
    for node in stand.lab.of_kind("sentinel"):
        for line in log_tail(stand.lab.paths.log(node.name), 400).splitlines():
            match = re.search(r"(\d\d \w{3} \d{4} \d\d:\d\d:\d\d\.\d{3}) \S \+promoted-slave", line)
            if match:
                at = datetime.strptime(match[1], "%d %b %Y %H:%M:%S.%f").astimezone().timestamp()
                times += [at] if at >= since else []
    return min(times, default=None)


async def audited(stand: Stand) -> CacheAudit:
    """The audit once every route writes, with the load stopped after it."""
    end = time.monotonic() + WRITING_S
    while True:
        found = await cache_referee.audit(stand.lab)
        if all(route.writing for route in found.routes.values()) or time.monotonic() > end:
            break
        await asyncio.sleep(0.3)
    await asyncio.to_thread(load.stop, stand.lab)
    return await cache_referee.audit(stand.lab)


def _number(given: int | None) -> Value:
    return None if given is None else float(given)


async def measure(stand: Stand) -> Measured:
    measured = Measured()
    for name, part in (("stock", stock), ("planned", planned), ("killed", killed)):
        try:
            await part(stand, measured)
        except BenchFailed as error:
            measured.problems.append(f"{name}: {error}")
    measured.floor = await raw_floor(stand)
    return measured


def figures(runs: Sequence[Measured]) -> list[Figure]:
    def parts(of: Callable[[Measured], dict[str, Value]]) -> dict[str, list[Value]]:
        names = sorted({name for each in runs for name in of(each)})
        return {name: [of(each).get(name) for each in runs] for name in names}

    return [
        figure("switchover_lost", "keys", [each.lost for each in runs], target=0, target_of="max"),
        figure(
            "switchover_acknowledged",
            "keys",
            [each.acknowledged for each in runs],
            target=ACKNOWLEDGED,
            target_of="min",
            at_least=True,
        ),
        figure(
            "switchover_gap",
            "s",
            [slowest(each.gaps) for each in runs],
            target=GAP_S,
            target_of="max",
            parts=parts(lambda each: each.gaps),
        ),
        figure("stock_lost", "keys", [each.stock_lost for each in runs]),
        figure("stock_acknowledged", "keys", [each.stock_acknowledged for each in runs]),
        figure(
            "write_after_promotion",
            "s",
            [slowest(each.after) for each in runs],
            target=AFTER_S,
            parts=parts(lambda each: each.after),
        ),
        figure("killed_missing", "keys", [each.killed_missing for each in runs]),
        figure("killed_beyond_verdict", "keys", [each.killed_beyond for each in runs], target=0, target_of="max"),
        figure("waited_missing", "keys", [each.waited_missing for each in runs], target=0, target_of="max"),
        figure("raw_election", "s", [each.floor for each in runs]),
    ]


async def bench(given: argparse.Namespace) -> Result:
    runs: list[Measured] = []
    async with own_lab(profile="cache") as stand:
        about = environment(stand.lab, writes_per_s_and_route=RATE, routes=list(stand.lab.routes))
        for number in range(1, given.runs + 1):
            measured = await measure(stand)
            runs.append(measured)
            progress(
                f"run {number} of {given.runs}: raw {say(measured.floor)}, lost {measured.lost} of"
                f" {measured.acknowledged} (stock {measured.stock_lost} of {measured.stock_acknowledged}), gap"
                f" {say(slowest(measured.gaps))}, after a promotion {say(slowest(measured.after))}"
            )
            for problem in measured.problems:
                progress(f"  {problem}")
    problems = [f"run {number}: {text}" for number, each in enumerate(runs, 1) for text in each.problems]
    return Result(bench="cache", environment=about, figures=figures(runs), problems=problems)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cache", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="how often to measure (default: 3; p95 from 20 on)")
    return run(bench, parser)


if __name__ == "__main__":
    raise SystemExit(main())
