"""Acts on a cluster are behind the epoch, each of them; and a shovel takes nothing out of a cluster that serves."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from activities import epoch, rabbit_api
from activities.rabbit_api import Api, must_be_newest, stamp
from activities.rabbit_definitions import let_ours_in
from activities.rabbit_doors import keep_limits, restore_limits
from activities.rabbit_shovels import keep_shovels_out, let_shovels_take
from schemas.facts import EpochRecord
from schemas.failures import EpochSuperseded, EpochUnavailable, QueueRefused
from schemas.queue_facts import QueueOrder
from schemas.zones import Rfc2136Zone
from tests.unit.test_policy_queue import service

SHOVEL = "/api/permissions/counting/lifeboat-shovel"
STAMP = "/api/global-parameters/lifeboat-counting-queue"
USER = "/api/connections/username/lifeboat-shovel"


class Broker:
    """What one management API holds, and what was changed there."""

    def __init__(self, **held: Any) -> None:
        self.held: dict[str, Any] = {STAMP: {"value": {"epoch": 4}}}
        self.changes: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        where = request.url.path
        if request.method == "GET":
            return httpx.Response(200, json=self.held[where]) if where in self.held else httpx.Response(404)
        self.changes.append(f"{request.method} {where}")
        if request.method == "PUT":
            self.held[where] = json.loads(request.content)
        elif where == USER:
            self.held[where] = []
        return httpx.Response(204)

    def api(self, order: QueueOrder | None = None) -> Api:
        client = httpx.AsyncClient(base_url="http://b", transport=httpx.MockTransport(self.answer))
        api = Api(service(), service().members[0], client)
        api.order = order
        return api


def order(number: int, **more: Any) -> QueueOrder:
    return QueueOrder(service=service(), region="us-east-1", epoch=number, **more)


@pytest.fixture
def zone() -> Rfc2136Zone:
    return Rfc2136Zone.model_construct()


async def test_nothing_is_changed_once_a_newer_run_was_there() -> None:
    broker = Broker()
    api = broker.api(order(4))
    await api.put("/api/x", {})
    broker.held[STAMP] = {"value": {"epoch": 5}}
    for late in (api.put("/api/x", {}), api.post("/api/x", {}), api.delete("/api/x")):
        with pytest.raises(EpochSuperseded):
            await late
    assert broker.changes == ["PUT /api/x"]


async def test_the_record_keeps_late_acts_out_before_the_cluster_does(
    monkeypatch: pytest.MonkeyPatch, zone: Rfc2136Zone
) -> None:
    held = EpochRecord(epoch=5, run="another", leader="rabbit-east-1", w=0, voters=[])

    async def read(*_: Any) -> EpochRecord:
        return held

    monkeypatch.setattr(epoch, "read", read)
    late = QueueOrder.model_construct(service=service(), region="us-east-1", epoch=4, zone=zone, run="mine")
    with pytest.raises(EpochSuperseded, match="another"):
        await must_be_newest(Broker().api(), late)
    # What a watch holds in reserve is its own.
    held = held.model_copy(update={"run": "mine"})
    assert await must_be_newest(Broker().api(), late) == 4


async def test_a_record_that_can_not_be_read_keeps_nobody_from_acting(
    monkeypatch: pytest.MonkeyPatch, zone: Rfc2136Zone
) -> None:
    async def read(*_: Any) -> EpochRecord:
        raise EpochUnavailable("nobody answers")

    monkeypatch.setattr(epoch, "read", read)
    asked = QueueOrder.model_construct(service=service(), region="us-east-1", epoch=4, zone=zone, run="mine")
    assert await must_be_newest(Broker().api(), asked) == 4


async def test_a_run_leaves_its_epoch() -> None:
    broker = Broker()
    await stamp(broker.api(), order(6))
    assert await rabbit_api.read_stamp(broker.api()) == 6
    with pytest.raises(EpochSuperseded):
        await stamp(broker.api(), order(5))


async def test_shovels_take_nothing_from_a_cluster_that_serves() -> None:
    broker = Broker()
    await let_shovels_take(broker.api())
    assert broker.held[SHOVEL]["read"] == ".*"
    broker.held[USER] = [{"name": "c"}]
    await keep_shovels_out(broker.api())
    assert broker.held[SHOVEL]["read"] == "^lifeboat\\.probe$"
    assert broker.changes[-1] == f"DELETE {USER}"
    # Those that deliver there are cut off once only; at an opening whatever was before.
    broker.held[USER], count = [{"name": "c"}], len(broker.changes)
    await keep_shovels_out(broker.api())
    assert len(broker.changes) == count
    await keep_shovels_out(broker.api(), at_once=True)
    assert broker.changes[count:] == [f"DELETE {USER}"]


async def test_a_limit_of_connections_is_the_owners_again() -> None:
    broker = Broker()
    broker.held["/api/vhost-limits/counting"] = [{"vhost": "counting", "value": {"max-connections": 70}}]
    await keep_limits(broker.api())
    # Closed, and cut off: the next attempt finds the 0.
    broker.held["/api/vhost-limits/counting"] = [{"vhost": "counting", "value": {"max-connections": 0}}]
    await keep_limits(broker.api())
    await restore_limits(broker.api())
    assert broker.held["/api/vhost-limits/counting/max-connections"] == {"value": 70}
    assert broker.changes[-1] == "DELETE /api/global-parameters/lifeboat-limits-counting-queue"


async def test_where_none_was_noted_no_limit_is_taken_away() -> None:
    broker = Broker()
    await restore_limits(broker.api())
    assert broker.changes == []


async def test_letting_ours_in_gives_shovels_nothing_to_take() -> None:
    broker = Broker()
    await let_ours_in(broker.api())
    assert broker.held[SHOVEL]["read"] == "^$"
    changes = list(broker.changes)
    await let_ours_in(broker.api())
    assert broker.changes == changes


async def test_a_refused_shovel_tells_no_password() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400, text="bad uri amqp://u:secret@h")

    client = httpx.AsyncClient(base_url="http://b", transport=httpx.MockTransport(refuse))
    api = Api(service(), service().members[0], client)
    with pytest.raises(QueueRefused) as failure:
        await api.put("/api/parameters/shovel/counting/lifeboat-1", {})
    assert "secret" not in str(failure.value)
    assert "400" in str(failure.value)
