"""`lifeboat lab demo cache`: moves without loss, in the region and to the other; then the master is killed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from lab import cache_referee, findings, ledger, load
from lab.cache_referee import CacheAudit
from lab.demo import Print
from lab.lab import connect, fault
from lab.layout import CACHE_HOME
from lab.model import Lab
from lab.moves import Course, Moves, Planned, Unplanned
from lab.waiting import until
from schemas.reports import Report
from schemas.requests import CandidateRequest, RunRequest

ELSEWHERE = "cache-west-1"
REASON = "the demonstration"
BEGUN_S = 15.0
BEFORE = 200


async def demonstrate_cache(lab: Lab, tell: Print, *, loops: int = 1) -> Moves:
    """`loops` moves out and home in the region, one out and home between regions, one failover and home again."""
    client = await connect(lab)
    service = lab.services["cache"]
    course = Course(lab, client, "cache", tell)
    tell(f"Temporal UI: {lab.temporal.ui}")
    await asyncio.to_thread(load.start, lab)
    tell("counts are set along every route")

    async def out(candidate: str | None) -> None:
        asked = CandidateRequest(service=service, reason=REASON, candidate=candidate)
        await course.run("cache-switchover", "CacheSwitchover", asked)

    async def home() -> None:
        await course.run("cache-failback", "CacheFailback", RunRequest(service=service, reason=f"{REASON}: home again"))

    for number in range(1, loops + 1):
        tell(f"planned, {number} of {loops}: another master in the region, and home")
        await out(None)
        await home()
    tell("planned: the other region, and home")
    await out(ELSEWHERE)
    await home()
    planned = _cache(await course.judged("planned", cache_referee.audit), course, "planned")

    tell("unplanned: a ledger of its own")
    await course.load_anew()
    await until(f"{BEFORE} keys are set", lambda: _acknowledged(lab), 30.0, every=0.2)
    killed = datetime.now(UTC)
    await fault(lab, "kill", CACHE_HOME)
    tell(f"{CACHE_HOME}, the master, is killed: SIGKILL to its whole process tree")
    report = await course.followed(await course.begun("CacheFailover", killed, BEGUN_S))
    unplanned = _cache(await course.judged("unplanned", cache_referee.audit), course, "unplanned")
    bound = bound_of(report, lab)
    await home()
    return Moves(
        planned=Planned(acknowledged=planned.acknowledged, missing=planned.missing),
        unplanned=Unplanned(acknowledged=unplanned.acknowledged, missing=unplanned.missing, bound=bound),
        runs=course.reports,
        longest_gap_s=course.gaps,
        notes=course.notes,
        faults=course.faults,
    )


def _cache(found: object, course: Course, phase: str) -> CacheAudit:
    assert isinstance(found, CacheAudit)
    course.notes.append(f"{phase}: acknowledged by WAIT {found.waited}, missing {found.waited_missing}")
    if found.waited_missing:
        course.faults.append(f"{phase}: {found.waited_missing} that WAIT had counted are missing")
    return found


async def _acknowledged(lab: Lab) -> bool:
    return len(findings.acknowledged(await asyncio.to_thread(ledger.read, lab.ledger))) >= BEFORE


def bound_of(report: Report, lab: Lab) -> int | None:
    """How many of the ledger's writes the run's verdict lets be missing: those that the old master acknowledged in its
    last seconds, as many seconds as the verdict says. None where it set no bound.
    """
    verdict = report.assessment.verdict if report.assessment is not None else None
    if verdict is None or verdict.kind == "unknown":
        return None
    if verdict.kind == "none":
        return 0
    if verdict.at_most_s is None or report.old_primary is None:
        return None
    old = lab.node(report.old_primary).address
    times = [entry.acked for entry in findings.acknowledged(ledger.read(lab.ledger)) if entry.server == old]
    last = max((each for each in times if each is not None), default=0.0)
    return sum(each is not None and each >= last - verdict.at_most_s for each in times)
