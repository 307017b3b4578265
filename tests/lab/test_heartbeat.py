"""The heartbeat as a look at a standby reads it: in one round trip, and whatever is the matter with its table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from activities.survey import look
from activities.topology import load_topology
from lab import lab as life
from lab.model import Lab
from lab.postgres import session
from lab.waiting import until
from schemas.facts import MemberFacts

pytestmark = pytest.mark.lab

AT = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
async def primary(lab: Lab) -> AsyncIterator[asyncpg.Connection]:
    conn = await session(lab, "pg-east-1")
    assert conn is not None
    yield conn
    conn.terminate()
    await life.reset(lab, watch=False)


async def seen(lab: Lab, member: str = "pg-west-1") -> MemberFacts:
    service = load_topology(lab.topology).service(lab.service)
    facts = await look(service, service.member(member))
    assert facts.reachable, facts.error
    return facts


async def replayed(lab: Lab, primary: asyncpg.Connection) -> None:
    """Until pg-west-1 has replayed all that was written by now."""
    target = await primary.fetchval("SELECT (pg_current_wal_lsn() - '0/0')::bigint")

    async def there() -> bool:
        return ((await seen(lab)).replayed or 0) >= target

    await until("pg-west-1 has replayed it", there, 10)


async def beat(lab: Lab, primary: asyncpg.Connection, at: datetime) -> None:
    upsert = "INSERT INTO lifeboat.heartbeat VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET at = excluded.at"
    await primary.execute(upsert, at)
    await replayed(lab, primary)


async def test_a_standby_tells_the_newest_that_it_replayed_and_looking_never_fails(
    lab: Lab, primary: asyncpg.Connection
) -> None:
    assert (await seen(lab)).heartbeat is None
    await beat(lab, primary, AT)
    found = (await seen(lab)).heartbeat
    assert found is not None
    assert abs(found - AT) < timedelta(microseconds=5)
    assert (await seen(lab, "pg-east-1")).heartbeat is None
    await beat(lab, primary, AT + timedelta(seconds=1))
    assert (await seen(lab)).heartbeat != found

    # A standby holds a lock of the primary's until it hears of the end of the transaction, or is promoted.
    await primary.execute("BEGIN; LOCK lifeboat.heartbeat IN ACCESS EXCLUSIVE MODE; SELECT pg_switch_wal()")
    await replayed(lab, primary)
    assert (await seen(lab)).heartbeat is None
    await primary.execute("ROLLBACK")

    for taken in (
        "REVOKE SELECT ON lifeboat.heartbeat FROM lifeboat",
        "REVOKE USAGE ON SCHEMA lifeboat FROM lifeboat",
        "DROP TABLE lifeboat.heartbeat",
        "DROP SCHEMA lifeboat CASCADE",
    ):
        await primary.execute(taken)
        await replayed(lab, primary)
        assert (await seen(lab)).heartbeat is None, taken
