"""The load on the lab's own routes, and the referee's two bites there."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import psutil
import pytest

from lab import findings, ledger, load
from lab import lab as life
from lab.ledger import Entry
from lab.model import Lab
from lab.referee import audit
from lab.wire import Session, Target

pytestmark = pytest.mark.lab


@pytest.fixture
async def loaded(lab: Lab) -> AsyncIterator[Lab]:
    """The lab under load, with a ledger of its own; rows of earlier loads stay, and are owed to nobody."""
    await asyncio.to_thread(load.start, lab)
    yield lab
    await asyncio.to_thread(load.forget, lab)


async def ask(lab: Lab, member: str, sql: str) -> list[tuple[str | None, ...]]:
    node = lab.node(member)
    session = await Session.open(Target(node.host, node.port, "postgres", lab.secret("postgres"), "counting"), limit=5)
    try:
        return (await session.ask(sql, limit=20)).rows
    finally:
        session.close()


async def acknowledge(lab: Lab, count: int) -> list[Entry]:
    """The acknowledged entries, once there are so many."""
    async with asyncio.timeout(10):
        while len(found := findings.acknowledged(ledger.read(lab.ledger))) < count:
            await asyncio.sleep(0.02)
    return found


async def test_each_route_writes_to_the_primary_until_the_load_is_stopped(loaded: Lab) -> None:
    pid = load.start(loaded)
    process = psutil.Process(pid)
    during = await audit(loaded)
    assert set(during.routes) == {"dns", "pgbouncer-transaction", "pgbouncer-session"}
    assert all(route.writing for route in during.routes.values())
    assert (during.missing, during.concurrent_writers, during.leader, during.errors) == (0, 0, "pg-east-1", [])
    await asyncio.to_thread(load.stop, loaded)
    assert not process.is_running()
    after = await audit(loaded)
    assert not any(route.writing for route in after.routes.values())
    assert {entry.server for entry in ledger.read(loaded.ledger)} == {loaded.node("pg-east-1").address}


async def test_a_users_variables_lead_neither_load_nor_referee_astray(
    loaded: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(load.stop, loaded)
    for name, value in {
        "PGHOST": "production.invalid",
        "PGSERVICE": "production",
        "PGOPTIONS": "-c no_such_setting=1",
        "PGTARGETSESSIONATTRS": "standby",
        "TEMPORAL_ADDRESS": "production.invalid:7233",
    }.items():
        monkeypatch.setenv(name, value)
    await asyncio.to_thread(load.start, loaded)
    assert (await audit(loaded)).clean


async def test_a_route_that_does_not_write_is_named(loaded: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await asyncio.to_thread(load.stop, loaded)
    monkeypatch.setattr(load, "READY_S", 2.0)
    await life.fault(loaded, "kill", "pgbouncer-east")
    try:
        with pytest.raises(load.LoadFailed, match=r"pgbouncer-session: .*refused"):
            await asyncio.to_thread(load.start, loaded)
        assert load.running(loaded) is None
    finally:
        await life.fault(loaded, "start", "pgbouncer-east")


async def test_a_load_that_died_is_an_outage(loaded: Lab) -> None:
    os.kill(load.start(loaded), signal.SIGKILL)
    async with asyncio.timeout(5):
        while load.running(loaded) is not None:
            await asyncio.sleep(0.02)
    await asyncio.sleep(1.0)
    found = await audit(loaded)
    assert all(route.longest_gap_s >= 1.0 and not route.writing for route in found.routes.values())


async def test_deleted_rows_and_a_second_primary_are_both_reported(loaded: Lab) -> None:
    acknowledged = await acknowledge(loaded, 20)
    gone = {entry.id for entry in acknowledged[3:8]}
    listed = ", ".join(f"'{key}'" for key in gone)
    try:
        await ask(loaded, "pg-east-1", f"DELETE FROM counting_results WHERE id IN ({listed})")
        await ask(loaded, "pg-east-4", "SELECT pg_promote(true, 20)")
        found = await audit(loaded)
    finally:
        await life.reset(loaded, watch=False)
    assert (found.missing, set(found.missing_ids)) == (5, gone)
    # The newer timeline leads, so it is the server that the clients use that writes beside it.
    assert [writer.name for writer in found.writers] == ["pg-east-1"]
    assert (found.concurrent_writers, found.leader) == (1, "pg-east-4")
