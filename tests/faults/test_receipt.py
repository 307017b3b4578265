"""What an asynchronous failover lost: told before, counted afterwards, and both compared with the ledger."""

from __future__ import annotations

import os
import signal
import time

import pytest

from lab import ledger
from lab.lab import fault
from lab.postgres import session
from lab.referee import Audit, audit
from schemas.decisions import Verdict
from schemas.receipts import Receipt
from schemas.reports import Report
from tests.faults.scene import Run, Scene
from tests.faults.worker import processes_of

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.estate(synchronous={"voters": [], "policy": "available"}, rejoin={"when": "by-hand"}),
]

LOST = 60
"""Acknowledged rows that no standby has, at least."""


async def nobody_acknowledges(scene: Scene) -> None:
    """The owner's own setting, as the topology declares no voters; the watch has it recorded."""
    conn = await session(scene.lab, "pg-east-1")
    assert conn is not None
    await conn.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
    await conn.execute("SELECT pg_reload_conf()")
    await conn.close()

    async def alone() -> bool:
        record = await scene.epoch()
        return record is not None and record.w == 0

    await scene.until("the record says that nobody has to acknowledge", alone)


async def replication_stands_still(scene: Scene) -> None:
    """Every sender of the primary is frozen, and clients are acknowledged what no standby has."""
    before = len(ledger.read(scene.lab.ledger))
    for pid in processes_of(str(scene.lab.folder), "pg-east-1", "walsender"):
        os.kill(pid, signal.SIGSTOP)

    async def enough() -> bool:
        return len(ledger.read(scene.lab.ledger)) - before > LOST

    await scene.until("rows are acknowledged that no standby has", enough, 10)


def compare(scene: Scene, loss: Receipt | None, found: Audit, report: Report) -> None:
    """The receipt counts each acknowledged row that was lost, and beside them only those whose outcome is unknown."""
    assert loss is not None, report
    assert found.missing is not None
    assert found.missing >= LOST / 2, "hardly anything was lost, so that this shows nothing"
    assert found.unknown_present is not None
    in_flight = found.unknown - found.unknown_present
    assert loss.commits is not None, loss
    assert found.missing <= loss.commits <= found.missing + in_flight, (loss, found)
    assert loss.acknowledged_at_most == loss.commits + loss.catalog_commits, loss
    (table,) = [each for each in loss.tables if each.table == "public.counting_results"]
    assert (table.inserted, table.updated, table.deleted) == (loss.commits, 0, 0), loss.tables
    assert loss.first_commit is not None
    assert loss.last_commit is not None
    lost = set(found.missing_ids)
    times = [each.acked for each in ledger.read(scene.lab.ledger) if each.id in lost and each.acked]
    assert times
    # A commit's own time is taken before it is acknowledged, on the same machine.
    assert loss.first_commit.timestamp() <= min(times)
    assert loss.first_commit <= loss.last_commit <= report.started
    assert found.concurrent_writers == 0, found


async def test_a_killed_primarys_loss_is_bounded_in_time_before_and_counted_after(scene: Scene) -> None:
    """Its port is closed, so that it acknowledges no more; what is older than the newest heartbeat is not lost."""
    await nobody_acknowledges(scene)
    await scene.traffic()
    await replication_stands_still(scene)
    killed = time.time()
    _, verdict = await decided(scene, "kill")
    assert verdict.in_time_only, verdict
    assert verdict.at_most_s is not None

    rejoin = await scene.rejoin("pg-east-1")
    back = await scene.report(rejoin)
    found = await audit(scene.lab)
    compare(scene, back.loss, found, back)
    assert back.loss is not None
    assert (back.loss.predicted, back.loss.within) == (verdict.text(), True), back.loss
    lost = set(found.missing_ids)
    oldest = min(each.acked for each in ledger.read(scene.lab.ledger) if each.id in lost and each.acked)
    assert killed - oldest <= verdict.at_most_s, (killed, oldest, verdict)
    await came_by_rewind(scene, rejoin, back)


@pytest.mark.campaign
async def test_a_frozen_primarys_loss_is_unknown_before_and_counted_after(scene: Scene) -> None:
    """It may go on acknowledging, for all that anybody knows: any bound would be a guess."""
    await nobody_acknowledges(scene)
    await scene.traffic()
    await replication_stands_still(scene)
    report, verdict = await decided(scene, "freeze")
    assert verdict.kind == "unknown", verdict
    assert "unknown" in report.receipt, report.receipt

    await fault(scene.lab, "thaw", "pg-east-1")
    rejoin = await scene.rejoin("pg-east-1")
    back = await scene.report(rejoin)
    compare(scene, back.loss, await audit(scene.lab), back)
    assert back.loss is not None
    assert (back.loss.predicted, back.loss.within) == ("unknown", None), back.loss
    await came_by_rewind(scene, rejoin, back)


async def decided(scene: Scene, kind: str) -> tuple[Report, Verdict]:
    """The primary fails, a person is shown the verdict and fails over all the same."""
    await fault(scene.lab, kind, "pg-east-1")
    run = await scene.run_of_watch()
    state = await scene.question(run)
    assert state.question is not None
    assert state.question.needs_override
    assert state.assessment is not None
    while state.question is not None:
        # Asked once more where nothing keeps the old primary from acknowledging.
        await scene.approve(run, override=True, reason="what no standby has is lost, and clients wait")
        state = await scene.state_when(
            run, "a question, or the end", lambda each: each.question or each.parked or each.outcome
        )
        if state.parked:
            # It may be alive for all that anybody knows: a person says that clients are served all the same.
            assert "stop pg-east-1 by hand" in state.journal[-1], state.journal[-1]
            await scene.say(run, "skip")
    report = await scene.report(run)
    assert state.assessment is not None
    assert report.outcome == ("recovered, unprotected" if kind == "kill" else "needs a person"), report
    return report, state.assessment.verdict


@pytest.mark.campaign
async def test_a_living_primarys_loss_is_bounded_before_and_counted_within_it(scene: Scene) -> None:
    """A person fails over from a primary that serves, and is shown how much nobody else has."""
    await nobody_acknowledges(scene)
    await scene.traffic()
    for name in ("pg-east-2", "pg-east-3", "pg-east-4", "pg-west-1"):
        conn = await session(scene.lab, name)
        assert conn is not None
        await conn.execute("ALTER SYSTEM SET primary_conninfo = ''")
        await conn.execute("SELECT pg_reload_conf()")
        await conn.close()
    await replication_stands_still(scene)
    run = await scene.start("by-hand")
    asked = 0
    while not await scene.ended(run):
        # What is acknowledged meanwhile makes the bound worse, and is asked about again.
        state = await scene.state_when(run, "a question, or the end", lambda each: each.question or each.outcome)
        if state.question is None:
            break
        asked += 1
        assert state.assessment is not None
        assert state.assessment.verdict.kind == "bounded", state.assessment
        await scene.approve(run, override=True, reason="what no standby has is lost")
    assert asked
    report = await scene.report(run)
    assert report.outcome == "recovered, unprotected", report
    rejoin = await scene.rejoin("pg-east-1")
    back = await scene.report(rejoin, 30)
    compare(scene, back.loss, await audit(scene.lab), back)
    assert back.loss is not None
    assert "bytes" in back.loss.predicted, "\n".join((await scene.state(run)).journal)
    # Clients that were stalled have committed past the bound, and were told nothing: nobody can tell from the WAL.
    assert back.loss.within is not False, back.loss
    await came_by_rewind(scene, rejoin, back)


async def came_by_rewind(scene: Scene, run: Run, report: Report) -> None:
    # Where the watch took the service meanwhile, it was looked at anew: by then it was a standby's.
    rewound = [step.detail for step in report.steps if step.title == "Rewind or rebuild it"]
    assert report.outcome in ("done", "done, unprotected"), report
    assert "was rewound" in rewound[0], rewound
    await scene.is_back("pg-east-1")
    await scene.record(run, "rejoined-by-rewind")
