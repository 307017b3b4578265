"""The slots by which standbys follow: made where a standby is led to, dropped where nobody streams by them any more.

WAL carries no slots: a promoted standby has none of its predecessor's, and whoever follows by one receives nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

import asyncpg

from activities.sessions import BROKEN, Session, host_port, session
from activities.survey import look_at_all
from schemas.facts import MemberFacts
from schemas.failures import MemberUnreachable, SlotMissing
from schemas.topology import DatabaseService, Member

_SLOT = "SELECT current_setting('primary_slot_name')"
_HAS = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)"


async def prepare_slot(service: DatabaseService, standby: Session, leader: Member) -> None:
    """The slot by which the standby of this session follows, on whom it is led to. A standby can hold slots as well.

    SlotMissing where it is not there and can't be made; nothing to do where it follows by none.
    """
    name = await standby.fetchval(_SLOT)
    if name:
        await make_slot(service, leader, name)


async def make_slot(service: DatabaseService, leader: Member, name: str) -> None:
    """SlotMissing where it is not there and can't be made."""
    async with session(service, leader) as conn:
        try:
            if not await conn.fetchval(_HAS, name):
                # It keeps WAL from the moment on at which its standby comes, not before: that one may never come.
                with contextlib.suppress(asyncpg.DuplicateObjectError):
                    await conn.fetchval("SELECT pg_create_physical_replication_slot($1)", name)
        except asyncpg.PostgresError as error:
            raise SlotMissing(f"{leader.name}, slot {name}: {error}") from error


def _follows_elsewhere(facts: MemberFacts, here: str) -> bool:
    """Whether a member leads, or is led to somebody else; of one that is cut off nobody knows where it comes back."""
    return facts.reachable and (not facts.in_recovery or facts.follows not in ("", here))


_DROP = """
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
 WHERE slot_type = 'physical' AND NOT active AND slot_name = ANY($1)
"""


async def drop_unused_slots(service: DatabaseService, members: Iterable[str]) -> None:
    """On these members, the inactive slots of members of this service that stream from elsewhere now: each would keep
    WAL until the disk is full. Those of anybody else stay, as does what can't be dropped: `lifeboat ready` names it.
    """
    used: dict[str, str] = {}

    async def ask(member: Member) -> None:
        with contextlib.suppress(MemberUnreachable, *BROKEN, asyncpg.PostgresError):
            async with session(service, member) as conn:
                if name := await conn.fetchval(_SLOT):
                    used[member.name] = name

    await asyncio.gather(*map(ask, service.members))
    if not used:
        return
    seen = {facts.member: facts for facts in await look_at_all(service, service.members)}
    for member in map(service.member, members):
        here = host_port(member.host, member.port)
        away = {each for each in used if _follows_elsewhere(seen[each], here)}
        kept = {slot for each, slot in used.items() if each not in away}
        with contextlib.suppress(MemberUnreachable, *BROKEN, asyncpg.PostgresError):
            async with session(service, member) as conn:
                await conn.fetch(_DROP, sorted({used[each] for each in away} - kept))
