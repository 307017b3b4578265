"""Waiting for a member that is being promoted."""

from __future__ import annotations

import asyncio

import asyncpg
from temporalio import activity

from activities.sessions import BROKEN, session
from schemas.failures import MemberUnreachable, NotYet
from schemas.topology import DatabaseService, Member

LEADS_S = 25.0
"""How long a route that is led to a candidate waits for its promotion, an attempt."""


async def until_it_leads(service: DatabaseService, member: Member) -> None:
    """Return the moment that the member is seen to lead; NotYet after LEADS_S."""
    try:
        async with asyncio.timeout(LEADS_S), session(service, member) as conn:
            while await conn.fetchval("SELECT pg_is_in_recovery()"):
                activity.heartbeat(f"{member.name} does not lead yet")
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise NotYet(f"{member.name} does not lead yet, so its clients are not let in") from None
    except (*BROKEN, asyncpg.PostgresError) as error:
        raise MemberUnreachable(f"{member.name}: {error}") from error
