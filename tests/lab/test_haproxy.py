"""What is particular to HAProxy among the routes: sessions cut and held, a restart, an order that was overtaken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import haproxy
from schemas.failures import EpochSuperseded, RouteUnavailable
from schemas.orders import ProxyOrder
from tests.standins.proxy import namesakes, proxy, who_answers
from tests.unit.estates import E1, E2, service


async def run(activity: Callable[[Any], Awaitable[Any]], order: Any) -> Any:
    return await ActivityEnvironment().run(activity, order)


async def test_haproxy_cuts_sessions_and_holds_new_ones(tmp_path: Path) -> None:
    async with namesakes(E1, E2) as members:
        with proxy(tmp_path / "haproxy", members) as made:
            order = ProxyOrder(service=service(), route=made.route, target=E1, epoch=1)
            assert (await run(haproxy.read_proxy, order)).acknowledged
            assert await who_answers(made.port) == E1
            reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
            assert (await reader.readline()).decode().strip() == E1
            for _ in range(2):
                assert "holds 2 servers" in (await run(haproxy.hold_proxy, order)).evidence
                assert await who_answers(made.port) == ""
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            led = order.model_copy(update={"target": E2})
            await run(haproxy.point_proxy, led)
            assert await who_answers(made.port) == E2
            # A late attempt of the same hold must not cut the clients that were let in.
            assert "already leads elsewhere" in (await run(haproxy.hold_proxy, order)).evidence
            assert await who_answers(made.port) == E2
            with pytest.raises(EpochSuperseded):
                await run(haproxy.hold_proxy, order.model_copy(update={"epoch": 0}))
            assert await who_answers(made.port) == E2


async def test_haproxy_still_knows_who_leads_after_its_restart(tmp_path: Path) -> None:
    """By its configuration the old primary would be let in, and everybody sent to it."""
    async with namesakes(E1, E2) as members:
        with proxy(tmp_path / "haproxy", members) as made:
            await run(haproxy.point_proxy, ProxyOrder(service=service(), route=made.route, target=E2, epoch=1))
            made.stop()
            made.start()
            assert await who_answers(made.port) == E2


async def test_a_hold_of_haproxy_that_was_overtaken_lets_the_clients_in_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still between its look and its act, and the route was led on meanwhile."""
    async with namesakes(E1, E2) as members:
        with proxy(tmp_path / "haproxy", members) as made:
            order = ProxyOrder(service=service(), route=made.route, target=E2, epoch=1)
            keep_out = haproxy.Api.keep_out
            late = [True]

            async def slow(self: haproxy.Api, member: str) -> None:
                if late:
                    late.clear()
                    await run(haproxy.point_proxy, order)
                await keep_out(self, member)

            monkeypatch.setattr(haproxy.Api, "keep_out", slow)
            assert "already leads elsewhere" in (await run(haproxy.hold_proxy, order)).evidence
            assert await who_answers(made.port) == E2


async def test_a_server_that_haproxy_does_not_have_is_named(tmp_path: Path) -> None:
    async with namesakes(E1, E2) as members:
        with proxy(tmp_path / "haproxy", members) as made:
            route = made.route.model_copy(update={"servers": {E1: E1, E2: "standby-2"}})
            with pytest.raises(RouteUnavailable, match="no server standby-2 in its backend counting"):
                await run(haproxy.read_proxy, ProxyOrder(service=service(), route=route, target=E1, epoch=1))


async def test_an_api_that_takes_no_orders_is_found_by_the_plan(tmp_path: Path) -> None:
    async with namesakes(E1, E2) as members:
        with proxy(tmp_path / "haproxy", members, level="operator") as made:
            order = ProxyOrder(service=service(), route=made.route, target=E1, epoch=1)
            with pytest.raises(RouteUnavailable, match="its owner must declare `level admin`"):
                await run(haproxy.read_proxy, order)
