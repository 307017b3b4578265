"""The leader's synchronous set and its heartbeat row, watched while all is well."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

import asyncpg
from temporalio import activity

from activities.sessions import BROKEN, session
from activities.survey import look
from schemas.facts import MemberFacts
from schemas.failures import MemberUnreachable
from schemas.orders import KeepOrder, Picture

_EVERY_S = 1.0
STANDBY = "standby"
"""Signature of a leader that leads no more: it came back as somebody's standby."""
_BEAT = """
INSERT INTO lifeboat.heartbeat (id, at) VALUES (1, $1)
ON CONFLICT (id) DO UPDATE SET at = excluded.at
"""
"""By the clock of the probes, before it is sent: a server that was frozen with it in hand commits it later, never
earlier, so that all commits which it precedes are younger (workflows/policy/loss.py)."""


def signature(order: KeepOrder, leader: MemberFacts, missing: dict[str, datetime], now: datetime) -> str:
    """What decides about the set, as text: the set in force, who streams, who has been missing for too long."""
    voters = [name for name in order.service.synchronous.voters if name != order.leader]
    streaming = sorted(s.name for s in leader.standbys if s.state == "streaming" and s.name in voters)
    limit = order.service.synchronous.lost_after_s
    lost = sorted(name for name, since in missing.items() if (now - since).total_seconds() >= limit)
    return f"{leader.synchronous_names}|{','.join(streaming)}|{','.join(lost)}"


@activity.defn
async def keep_watch_of_set(order: KeepOrder) -> Picture:
    """Look at the leader once a second, and return when its picture is not the one that was seen before.

    The heartbeat row is written beside it where the topology asks: a write that waits must not stop the looking.
    """
    service = order.service
    member = service.member(order.leader)
    voters = [name for name in service.synchronous.voters if name != order.leader]
    missing: dict[str, datetime] = dict(order.missing_since)
    beats = asyncio.create_task(_beat(order)) if service.detection.heartbeat else None
    try:
        while True:
            facts = await look(service, member)
            now = datetime.now(UTC)
            if facts.reachable and facts.in_recovery and order.seen != STANDBY:
                return Picture(leader=facts, missing_since=missing, signature=STANDBY)
            if facts.reachable and not facts.in_recovery:
                streaming = {s.name for s in facts.standbys if s.state == "streaming"}
                missing = {name: missing.get(name, now) for name in voters if name not in streaming}
                found = signature(order, facts, missing, now)
                if found != order.seen:
                    return Picture(leader=facts, missing_since=missing, signature=found)
            activity.heartbeat({"reachable": facts.reachable, "missing": sorted(missing)})
            await asyncio.sleep(_EVERY_S)
    finally:
        if beats is not None:
            beats.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beats


async def _beat(order: KeepOrder) -> None:
    while True:
        with contextlib.suppress(MemberUnreachable, *BROKEN, asyncpg.PostgresError):
            async with session(order.service, order.service.member(order.leader)) as conn:
                while True:
                    await conn.execute(_BEAT, datetime.now(UTC), timeout=30)
                    await asyncio.sleep(_EVERY_S)
        await asyncio.sleep(_EVERY_S)
