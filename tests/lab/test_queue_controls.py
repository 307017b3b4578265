"""The referee of the queue bites: on a move that leaves messages behind, and on two regions that confirm at once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from lab import lab as life
from lab import load, queue_traffic, rabbit
from lab.layout import QUEUE_HOME
from lab.ledger import Ledger
from lab.model import Lab
from tests.lab.queues import WEST, fill, judged

pytestmark = [pytest.mark.lab, pytest.mark.campaign]
QUORUM = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}


@pytest.fixture
async def disturbed(queue_lab: Lab) -> AsyncIterator[Lab]:
    yield queue_lab
    await life.reset(queue_lab)


async def let_in(lab: Lab, name: str) -> None:
    async with rabbit.Management(lab, lab.node(name)) as api:
        await api.call("PUT", "permissions", "counting", "app", body=EVERYTHING)


async def test_a_move_that_leaves_messages_behind_is_not_clean(disturbed: Lab) -> None:
    await fill(disturbed, 10)
    async with rabbit.Management(disturbed, disturbed.node(QUEUE_HOME)) as api:
        for vhost in rabbit.QUEUES:
            await api.call("DELETE", "permissions", vhost, "app")
    await let_in(disturbed, WEST)
    found = await judged(disturbed)
    assert (found.missing, found.stranded, found.concurrent_writers) == (0, 10, 0)
    assert not found.clean


async def test_two_regions_that_confirm_at_once_are_seen(disturbed: Lab) -> None:
    await let_in(disturbed, WEST)
    async with rabbit.Management(disturbed, disturbed.node(WEST)) as api:
        # It has the queue already where a run has been.
        if await api.call("GET", "queues", "counting", "counts") is None:
            await api.call("PUT", "queues", "counting", "counts", body=QUORUM)
    east = load.to_queue(disturbed)
    route = east.routes["queue-dns"]._replace(host=disturbed.node(WEST).host)
    west = dataclasses.replace(east, routes={"queue-dns": route})
    with Ledger(disturbed.ledger) as notes:
        await asyncio.gather(
            queue_traffic.fill(east, notes, "queue-dns", 600, "east"),
            queue_traffic.fill(west, notes, "queue-dns", 600, "west"),
        )
    async with rabbit.Management(disturbed, disturbed.node(WEST)) as api:
        await api.call("DELETE", "permissions", "counting", "app")
    found = await judged(disturbed)
    assert found.overlapping > 0
    assert found.concurrent_writers > 0
