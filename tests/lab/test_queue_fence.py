"""A shovel that a run has left on a standby takes nothing out of the cluster that serves, on real brokers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from temporalio.testing import ActivityEnvironment

from activities.rabbit_definitions import import_definitions
from activities.rabbit_doors import open_cluster
from activities.rabbit_drain import shovel_name, shovel_of, try_shovel
from activities.topology import load_topology
from lab import lab as life
from lab import rabbit
from lab.layout import QUEUE, QUEUE_HOME
from lab.model import Lab
from schemas.queue import QueueService
from schemas.queue_facts import DoorOrder, MoveOrder
from tests.lab.queues import WEST, fill, ready

pytestmark = [pytest.mark.lab, pytest.mark.campaign]


@pytest.fixture
async def disturbed(queue_lab: Lab) -> AsyncIterator[Lab]:
    yield queue_lab
    await life.reset(queue_lab)


async def test_a_shovel_that_was_left_takes_nothing(disturbed: Lab) -> None:
    service = load_topology(disturbed.topology).service(QUEUE)
    assert isinstance(service, QueueService)
    move = MoveOrder(service=service, region="us-east-1", target="us-west-2", epoch=1)
    run = ActivityEnvironment().run
    await run(import_definitions, move)
    await run(open_cluster, DoorOrder(service=service, region="us-east-1", epoch=1))
    # One message of Lifeboat's own gets through all the same.
    assert await run(try_shovel, move) > 0
    await fill(disturbed, 20)
    async with rabbit.Management(disturbed, disturbed.node(WEST)) as api:
        value = {"value": shovel_of(move, "counting", "counts")}
        await api.call("PUT", "parameters", "shovel", "counting", shovel_name("counting", "counts"), body=value)
        await asyncio.sleep(4)
        await api.call("DELETE", "parameters", "shovel", "counting", shovel_name("counting", "counts"))
    assert (await ready(disturbed, QUEUE_HOME), await ready(disturbed, WEST)) == (20, 0)
