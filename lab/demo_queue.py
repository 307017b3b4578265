"""`lifeboat lab demo queue`: moves to the other region and home; then a node is killed, and then all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from lab import findings, ledger, load, queue_referee, queue_traffic, rabbit
from lab.demo import Print
from lab.errors import LabError
from lab.lab import connect, fault
from lab.layout import QUEUE_HOME
from lab.ledger import Ledger
from lab.model import Lab
from lab.moves import Course, Moves, Planned, Unplanned
from lab.queue_referee import QueueAudit
from lab.waiting import until
from lab.wire import NotConnected
from schemas.attributes import watch_id
from schemas.reports import EXIT_CODES, Report
from schemas.requests import CandidateRequest, RunRequest

REASON = "the demonstration"
BACKLOG = 5000
"""Messages that wait in a queue when a move begins, beside what the load brings."""
BEGUN_S = 15.0
BEFORE = 200


async def demonstrate_queue(lab: Lab, tell: Print, *, loops: int = 1) -> Moves:
    """`loops` moves out and home; one node lost; the cluster lost, another region's serving, drained, and home."""
    client = await connect(lab)
    service = lab.services["queue"]
    course = Course(lab, client, "queue", tell)
    tell(f"Temporal UI: {lab.temporal.ui}")
    await asyncio.to_thread(load.start, lab)
    tell("counts are published along every route, and consumed")

    async def home() -> Report:
        asked = RunRequest(service=service, reason=f"{REASON}: home again")
        return await course.run("queue-failback", "QueueFailback", asked)

    for number in range(1, loops + 1):
        tell(f"planned, {number} of {loops}: the other region, and home, with {BACKLOG} messages that wait")
        await backlog(lab)
        asked = CandidateRequest(service=service, reason=REASON)
        await course.run("queue-switchover", "QueueSwitchover", asked)
        await backlog(lab)
        await home()
    planned = _queue(await course.judged("planned", queue_referee.audit), course, "planned")

    tell("unplanned: a ledger of its own")
    await course.load_anew()
    await until(f"{BEFORE} messages are confirmed", lambda: _confirmed(lab), 30.0, every=0.2)
    killed = datetime.now(UTC)
    await fault(lab, "kill", QUEUE_HOME)
    tell(f"{QUEUE_HOME}, to which clients are led, is killed: SIGKILL to its whole process tree")
    await course.followed(await course.begun("QueueFailover", killed, BEGUN_S))

    await until_watched(lab)
    nodes = rabbit.clusters(lab)[lab.node(QUEUE_HOME).region]
    killed = datetime.now(UTC)
    await asyncio.gather(*(fault(lab, "kill", node.name) for node in nodes))
    tell(f"all of {', '.join(node.name for node in nodes)} are killed")
    await course.followed(await course.begun("QueueFailover", killed, BEGUN_S))
    drained = await course.run("queue-drain", "QueueDrain", RunRequest(service=service, reason=f"{REASON}: it is back"))
    course.notes.append(f"drained: {drained.receipt}")
    await home()
    unplanned = _queue(await course.judged("unplanned", queue_referee.audit), course, "unplanned")
    return Moves(
        planned=Planned(acknowledged=planned.acknowledged, missing=planned.missing),
        unplanned=Unplanned(
            acknowledged=unplanned.acknowledged, missing=unplanned.missing, bound=bound_of(course.reports)
        ),
        runs=course.reports,
        longest_gap_s=course.gaps,
        notes=course.notes,
        faults=course.faults,
    )


def bound_of(reports: Sequence[Report]) -> int | None:
    """How many confirmed messages the runs' own verdicts let be missing: 0 where each was "none", or where what a lost
    cluster held, which is unknown, was drained by a later run; None where no run set a bound.
    """
    bound: int | None = 0
    for report in reports:
        if report.procedure == "QueueDrain" and EXIT_CODES[report.outcome] == 0:
            bound = 0
        verdict = report.assessment.verdict if report.assessment is not None else None
        if report.procedure == "QueueFailover" and (verdict is None or verdict.kind != "none"):
            bound = None
    return bound


async def backlog(lab: Lab) -> None:
    """As many messages as consumers don't get through before the move begins, those of earlier moves included."""
    nodes = [cluster[0] for cluster in rabbit.clusters(lab).values()]
    count = BACKLOG - sum([await rabbit.ready(lab, node, "counting") for node in nodes])
    if count <= 0:
        return
    # A publisher of its own each time: its numbers begin anew.
    name = f"backlog-{datetime.now(UTC):%H%M%S%f}"

    async def published() -> bool:
        """As any client it tries again where the broker takes its time to let it in."""
        try:
            with Ledger(lab.ledger) as notes:
                await queue_traffic.fill(load.to_queue(lab), notes, "queue-dns", count, name)
        except NotConnected:
            return False
        return True

    await until("a backlog is published", published, 60.0)


async def until_watched(lab: Lab) -> None:
    """The watch begins anew after each run, and waits its block period."""
    client = await connect(lab)
    handle = client.get_workflow_handle(watch_id(lab.services["queue"]))

    async def probing() -> bool:
        raw = (await handle.describe()).raw_description
        probes = [each for each in raw.pending_activities if each.activity_type.name == "watch_brokers"]
        return len(probes) >= len(lab.regions)

    try:
        await until("the watch probes again", probing, 30.0, every=0.2)
    except LabError as error:
        raise LabError(f"{error.detail}: `lifeboat watch status`") from error
    await asyncio.sleep(6.0)


def _queue(found: object, course: Course, phase: str) -> QueueAudit:
    assert isinstance(found, QueueAudit)
    course.notes.append(f"{phase}: {queue_referee.text_of(found)}")
    if found.stranded:
        course.faults.append(f"{phase}: {found.stranded} messages were left where nobody consumes")
    return found


async def _confirmed(lab: Lab) -> bool:
    return len(findings.acknowledged(await asyncio.to_thread(ledger.read, lab.ledger))) >= BEFORE
