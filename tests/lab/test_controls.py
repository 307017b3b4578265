"""The controls of safety.md: each does one thing wrong, by hand on a real lab, and the referee must catch it.

The first one does the same things right, there and back, and must be acquitted: else a conviction would prove nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from lab import lab as life
from lab import load
from lab.ledger import Entry
from lab.model import Lab
from lab.referee import audit
from tests.lab.by_hand import Hands

pytestmark = [pytest.mark.lab, pytest.mark.campaign]

A, B, C = "pg-east-1", "pg-east-2", "pg-east-3"
DNS, TRANSACTION, SESSION = "dns", "pgbouncer-transaction", "pgbouncer-session"
ROUTES = (DNS, TRANSACTION, SESSION)
POOLS = ("counting", "counting_session")


@pytest.fixture
async def hands(lab: Lab) -> AsyncIterator[Hands]:
    """The lab under load along every route; afterwards as new. It has no watch, so nobody answers."""
    await asyncio.to_thread(load.start, lab)
    yield Hands(lab)
    await life.reset(lab, watch=False)


async def lead_clients(hands: Hands, to: str) -> None:
    await hands.lead_poolers(to, cut=POOLS)
    await hands.lead_name(to)


def sent_after(entries: list[Entry], moment: float | None) -> list[Entry]:
    assert moment is not None
    return [each for each in entries if each.sent is not None and each.sent > moment]


async def test_done_right_there_and_back_it_convicts_nobody(hands: Hands) -> None:
    """Killed, failed over, rejoined by rewind with standby.signal, and failed back by a fast stop."""
    await life.fault(hands.lab, "kill", A)
    for standby in (B, C):
        await hands.disconnect(standby)
    # The furthest of the two voters holds every acknowledged commit.
    positions = {each: await hands.sql(each, "SELECT pg_last_wal_receive_lsn() - '0/0'") for each in (B, C)}
    chosen = max(positions, key=lambda each: positions[each])
    await hands.promote(chosen)
    await lead_clients(hands, chosen)
    entries = await hands.until_routes_reach(chosen, ROUTES)

    await hands.rewind(A, chosen)
    hands.make_standby(A, chosen)
    await life.fault(hands.lab, "start", A)
    await hands.until_streams(A, chosen)

    await life.fault(hands.lab, "stop", chosen)
    await hands.promote(A)
    await lead_clients(hands, A)
    await hands.until_routes_reach(A, ROUTES, before=len(entries))
    hands.make_standby(chosen, A)
    await life.fault(hands.lab, "start", chosen)
    await hands.until_streams(chosen, A)

    found = await audit(hands.lab)
    assert (found.missing, found.concurrent_writers, found.leader) == (0, 0, A), found
    led = [each.timeline for each in found.servers if each.name == A]
    assert led == [3]


async def test_a_laggard_that_is_promoted_misses_what_the_other_voter_acknowledged(hands: Hands) -> None:
    await hands.disconnect(C)
    known = len(await hands.entries("there are entries", bool))
    await hands.entries("B alone acknowledges", lambda e: len(hands.acknowledged_by(e[known:], A)) >= 20)
    await life.fault(hands.lab, "kill", A)
    await hands.promote(C)
    found = await audit(hands.lab)
    assert (found.survivor, found.errors) == (C, [])
    assert found.missing is not None
    # Two clients a route may have been answered between the two readings.
    assert found.missing >= 20 - 2 * len(ROUTES), found
    assert not found.clean


async def test_pg_rewind_without_r_makes_two_primaries_on_one_timeline(hands: Hands) -> None:
    await life.fault(hands.lab, "kill", A)
    await hands.promote(B)
    await lead_clients(hands, B)
    entries = await hands.until_routes_reach(B, ROUTES)

    await hands.rewind(A, B)
    await life.fault(hands.lab, "start", A)
    await hands.lead_name(A)
    await hands.end_clients(B, "load-dns-%")
    entries = await hands.until_routes_reach(A, [DNS], before=len(entries))
    assert {each.timeline for each in hands.acknowledged_by(entries, B)} == {2}
    assert {each.timeline for each in hands.acknowledged_by(entries, A)} == {1, 2}

    found = await audit(hands.lab)
    assert [(each.name, each.timeline) for each in found.writers] == [(A, 2)], found
    assert any("on timeline 2 that were sent after" in reason for reason in found.writers[0].reasons)

    # Without the referee's own write there, too: what the clients saw is enough.
    await life.fault(hands.lab, "kill", A)
    later = await audit(hands.lab)
    assert [each.name for each in later.writers] == [A], later


async def test_a_session_pool_that_is_only_reloaded_keeps_its_clients_on_the_old_primary(hands: Hands) -> None:
    """The old primary is alive, and still gathers its acknowledgement from the voter that was not disconnected."""
    await hands.promote(B)
    await hands.lead_poolers(B)
    await hands.lead_name(B)
    await hands.end_clients(A, "load-dns-%")
    entries = await hands.until_routes_reach(B, [DNS, TRANSACTION])
    began = hands.acknowledged_by(entries, B)[0].acked
    entries = await hands.entries(
        "the old primary acknowledges", lambda e: bool(sent_after(hands.acknowledged_by(e, A), began))
    )
    late = [each for each in sent_after(hands.acknowledged_by(entries, A), began) if each.route == SESSION]
    assert late
    assert SESSION not in {each.route for each in hands.acknowledged_by(entries, B)}
    found = await audit(hands.lab)
    assert [each.name for each in found.writers] == [A], found
    assert any("sent after" in reason for reason in found.writers[0].reasons)
    assert found.missing


async def test_a_thawed_primary_behind_a_route_that_was_not_cut_writes_on(hands: Hands) -> None:
    """The name still leads to it; the poolers were led away in good order."""
    await life.fault(hands.lab, "freeze", A)
    await hands.promote(B)
    await hands.lead_poolers(B, cut=POOLS)
    entries = await hands.until_routes_reach(B, [TRANSACTION, SESSION])
    frozen = await audit(hands.lab)
    assert frozen.concurrent_writers == 0, frozen
    await life.fault(hands.lab, "thaw", A)
    began = hands.acknowledged_by(entries, B)[0].acked
    entries = await hands.entries(
        "the old primary acknowledges", lambda e: bool(sent_after(hands.acknowledged_by(e, A), began))
    )
    assert {each.route for each in sent_after(hands.acknowledged_by(entries, A), began)} == {DNS}
    found = await audit(hands.lab)
    assert [each.name for each in found.writers] == [A], found
    assert any("sent after" in reason for reason in found.writers[0].reasons)
