"""`python -m bench.queue --runs N --json`: a queue moved to another region, and a node killed, as its clients see it.

Each run has its raw floors of the same minute: a bare shovel that waits for confirms, and RabbitMQ's own election with
the publishers on a node that lives.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from activities.rabbit_drain import shovel_name, shovel_of
from activities.topology import load_topology
from bench.common import BenchFailed, Result, Value, environment, figure, progress, run, say, slowest
from bench.stand import Stand, own_lab
from lab import findings, ledger, load, queue_traffic, rabbit
from lab.errors import LabError
from lab.layout import QUEUE, QUEUE_HOME
from lab.ledger import Ledger
from lab.queue_referee import QueueAudit, audit
from lab.rabbit import Management
from schemas.queue import QueueService
from schemas.queue_facts import MoveOrder
from schemas.reports import Report
from schemas.requests import CandidateRequest

MESSAGES = 20_000
RATE = 100.0
"""Messages a second along each of two routes, of the node that is killed."""
MOVE_SHARE = 0.8
GAP_S = 1.0
"""Targets: of a bare shovel's rate; of the longest gap when a node is killed [issue 6]."""
MOVE_S = 120.0
WEST = "rabbit-west-1"
DRAIN = "Drain the source"
WAITS = ("Close the source", DRAIN, "Lead consumers over", "Let publishers in")
"""While these last clients are not served."""


@dataclass
class Measured:
    """One run; None where it did not happen."""

    raw_rate: Value = None
    rate: Value = None
    clients_wait: Value = None
    moved_lost: Value = None
    moved_twice: Value = None
    raw_gap: Value = None
    gaps: dict[str, Value] = field(default_factory=dict)
    killed_lost: Value = None
    problems: list[str] = field(default_factory=list)


def queue_of(stand: Stand) -> QueueService:
    service = load_topology(stand.lab.topology).service(QUEUE)
    assert isinstance(service, QueueService)
    return service


async def fill(stand: Stand) -> None:
    with Ledger(stand.lab.ledger) as notes:
        await queue_traffic.fill(load.to_queue(stand.lab), notes, "queue-dns", MESSAGES)


async def ready(stand: Stand, name: str) -> int:
    """Messages in the quorum queue as a node's own queue says."""
    return await rabbit.ready(stand.lab, stand.lab.node(name), "counting")


async def bare_shovel(stand: Stand) -> float:
    """Messages a second: the shovel that Lifeboat would make, and nothing else."""
    await stand.begin(watch=False, rate=None)
    await fill(stand)
    order = MoveOrder(service=queue_of(stand), region="us-east-1", target="us-west-2", epoch=0)
    name = shovel_name("counting", "counts")
    body = {"value": shovel_of(order, "counting", "counts")}
    began = time.monotonic()
    async with Management(stand.lab, stand.lab.node(WEST)) as api:
        await api.call("PUT", "parameters", "shovel", "counting", name, body=body)
        while await ready(stand, WEST) < MESSAGES:
            if time.monotonic() - began > MOVE_S:
                raise BenchFailed(f"the bare shovel did not move {MESSAGES} messages in {MOVE_S:g} s")
            await asyncio.sleep(0.05)
        took = time.monotonic() - began
        await api.call("DELETE", "parameters", "shovel", "counting", name)
    return MESSAGES / took


async def move(stand: Stand, measured: Measured) -> None:
    """Lifeboat's move of as many."""
    await stand.begin(watch=False, rate=None)
    await fill(stand)
    request = CandidateRequest(service=QUEUE, reason="bench.queue")
    report, _ = await stand.carry_out("QueueSwitchover", request, MOVE_S)
    took = {step.title: (step.ended - step.started).total_seconds() for step in report.steps if step.outcome == "done"}
    if report.new_primary != WEST or any(title not in took for title in WAITS):
        measured.problems.append(f"{report.run}: {report.outcome}: {report.summary}")
        return
    measured.rate = MESSAGES / took[DRAIN]
    measured.clients_wait = sum(took[title] for title in WAITS)
    found = await judged(stand, measured)
    if found is not None:
        measured.moved_lost = found.missing
        await queue_traffic.empty(load.to_queue(stand.lab))
        after = await judged(stand, measured)
        measured.moved_twice = after.duplicated if after is not None else None


async def election(stand: Stand) -> float:
    """The longest time without a confirm on a node that lives, while the one that leads the queue is killed."""
    await stand.begin(watch=False, rate=None)
    traffic = load.to_queue(stand.lab, RATE)
    leads = await leader(stand)
    neighbour = next(node for node in rabbit.clusters(stand.lab)["us-east-1"] if node.name != leads)
    way = traffic.routes["queue-dns"]._replace(host=neighbour.host)
    traffic = replace(traffic, routes={"queue-dns": way})
    stop = asyncio.Event()
    with Ledger(stand.lab.ledger) as notes:
        clients = queue_traffic.writers(traffic, notes, stop, lambda _: None)
        running = [asyncio.ensure_future(each.run()) for each in clients]
        await asyncio.sleep(1.5)
        moment = await stand.kill(leads)
        await asyncio.sleep(4.0)
        stop.set()
        await asyncio.gather(*running)
    return longest([entry.acked or 0.0 for entry in findings.acknowledged(ledger.read(stand.lab.ledger))], moment)


async def leader(stand: Stand) -> str:
    async with Management(stand.lab, stand.lab.node(QUEUE_HOME)) as api:
        found = await api.call("GET", "queues", "counting", "counts")
    return str(found["leader"]).partition("@")[0]


def longest(times: Sequence[float], since: float) -> float:
    return max((b - a for a, b in pairwise(sorted(times)) if b >= since), default=float("inf"))


async def killed(stand: Stand, measured: Measured) -> None:
    """The node that clients are led to is killed, and the watch's run leads them on."""
    await stand.begin(watch=True, rate=RATE)
    await asyncio.sleep(1.5)
    moment = await stand.kill(QUEUE_HOME)
    report: Report = await stand.report(since=moment, limit=MOVE_S, procedure="QueueFailover")
    if report.outcome != "recovered":
        measured.problems.append(f"{report.run}: {report.outcome}: {report.unprotected or report.summary}")
    entries = findings.acknowledged(ledger.read(stand.lab.ledger))
    for name in stand.lab.routes:
        measured.gaps[name] = longest([entry.acked or 0.0 for entry in entries if entry.route == name], moment)
    await stand.end()
    found = await judged(stand, measured)
    measured.killed_lost = found.missing if found is not None else None


async def judged(stand: Stand, measured: Measured) -> QueueAudit | None:
    try:
        found = await audit(stand.lab)
    except LabError as error:
        measured.problems.append(str(error))
        return None
    measured.problems += [*found.errors, *(f"{each.name} lets clients in beside the leader" for each in found.writers)]
    return found


async def one_run(stand: Stand) -> Measured:
    measured = Measured()
    try:
        measured.raw_rate = await bare_shovel(stand)
        await move(stand, measured)
        measured.raw_gap = await election(stand)
        await killed(stand, measured)
    except (BenchFailed, LabError) as error:
        measured.problems.append(str(error))
    return measured


async def measure(given: argparse.Namespace) -> Result:
    """`--runs` times the floors and Lifeboat, each from the estate as it was at first."""
    runs: list[Measured] = []
    problems: list[str] = []
    async with own_lab(profile="queue") as stand:
        about = environment(stand.lab, messages=MESSAGES, messages_per_s_and_route=RATE, routes=list(stand.lab.routes))
        for number in range(1, given.runs + 1):
            runs.append(measured := await one_run(stand))
            problems += [f"run {number}: {problem}" for problem in measured.problems]
            progress(
                f"run {number} of {given.runs}: bare {_rate(measured.raw_rate)}, moved {_rate(measured.rate)}, lost"
                f" {measured.moved_lost}; election {say(measured.raw_gap)}, gap {say(slowest(measured.gaps))}, lost"
                f" {measured.killed_lost}"
            )
    share = [each.rate / each.raw_rate if each.rate and each.raw_rate else None for each in runs]
    figures = [
        figure("raw_shovel_rate", "messages/s", [each.raw_rate for each in runs]),
        figure("move_rate", "messages/s", [each.rate for each in runs]),
        figure("move_share_of_raw", "", share, target=MOVE_SHARE, at_least=True),
        figure("move_clients_wait", "s", [each.clients_wait for each in runs]),
        figure("moved_lost", "messages", [each.moved_lost for each in runs], target=0, target_of="max"),
        figure("moved_twice", "messages", [each.moved_twice for each in runs]),
        figure("raw_election_gap", "s", [each.raw_gap for each in runs]),
        figure(
            "node_kill_gap",
            "s",
            [slowest(each.gaps) for each in runs],
            target=GAP_S,
            parts={name: [each.gaps.get(name) for each in runs] for name in ("queue-dns", "queue-mirrored")},
        ),
        figure("killed_lost", "messages", [each.killed_lost for each in runs], target=0, target_of="max"),
    ]
    return Result(bench="queue", environment=about, figures=figures, problems=problems)


def _rate(value: Value) -> str:
    return "never" if value is None else f"{value:.0f}/s"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.queue", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="how often to measure (default: 5; p95 from 20 on)")
    return run(measure, parser)


if __name__ == "__main__":
    raise SystemExit(main())
