"""A cache that lost its keys is filled again from another's, between two real servers of the lab."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import cache_moves, cache_warming
from activities.cache_warming import WINDOW
from lab import resp
from lab.layout import CACHE_HOME
from schemas.cache import Warming
from schemas.cache_orders import MoveOrder, Warmed, WarmOrder
from tests.faults.cache_scene import CacheScene
from tests.faults.test_cache_each_activity_twice import claimed, once

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.lab,
    pytest.mark.campaign,
    pytest.mark.estate(watch=False),
]
FILLED = "cache-west-1"


class Two:
    """The old region's master, which has the keys, and a master of the other region, which has none."""

    def __init__(self, scene: CacheScene, given: dict[str, Any]) -> None:
        self.scene, self.given = scene, given

    async def each(self, member: str, *commands: tuple[str, ...]) -> list[resp.Reply]:
        node = self.scene.lab.node(member)
        secret = self.scene.lab.secret("cache-referee")
        session = await resp.Session.open(node.host, node.port, "referee", secret, limit=5)
        try:
            return await session.ask(*commands, limit=10)
        finally:
            session.close()

    async def keys(self, number: int, *more: str) -> None:
        await self.each(CACHE_HOME, *(("SET", f"count:{index}", str(index), *more) for index in range(number)))

    def order(self, **warming: Any) -> WarmOrder:
        declared = Warming.model_validate({"keys_per_s": 1e6, **warming})
        service = self.given["service"].model_copy(update={"warming": declared})
        return WarmOrder.model_validate(
            {**self.given, "service": service, "leader": FILLED, "source": CACHE_HOME, "expected": 0}
        )


@pytest.fixture
async def two(cache_scene: CacheScene) -> Two:
    _, given = await claimed(cache_scene, "hand-w")
    await once(cache_moves.promote_alone, MoveOrder(**given, old=CACHE_HOME, new=FILLED))
    found = Two(cache_scene, given)
    await found.each(FILLED, ("FLUSHALL",))
    return found


async def test_by_scan_with_what_is_left_of_the_time_to_live(two: Two) -> None:
    await two.keys(300, "PX", "600000")
    await two.each(CACHE_HOME, ("SET", "count:forever", "1"), ("SADD", "count:set", "a", "b"))
    await two.each(FILLED, ("SET", "count:7", "newer"))
    warmed: Warmed = await once(cache_warming.warm_cache, two.order(ttl_jitter=0.5))
    assert (warmed.filled, warmed.there, warmed.why) == (301, 1, "every key was looked at"), warmed
    newer, forever, kind = await two.each(FILLED, ("GET", "count:7"), ("PTTL", "count:forever"), ("TYPE", "count:set"))
    assert (newer, forever, kind) == ("newer", -1, "set"), "what a client has set meanwhile is newer"
    left = await two.each(FILLED, *(("PTTL", f"count:{index}") for index in range(300) if index != 7))
    times = [ttl for ttl in left if isinstance(ttl, int)]
    assert len(times) == 299
    assert all(0 < ttl <= 600_000 for ttl in times)
    # Each its own, so that they do not end together.
    assert max(times) - min(times) > 100_000, (min(times), max(times))


async def test_by_an_access_list(two: Two, tmp_path: Path) -> None:
    await two.keys(20)
    listed = tmp_path / "keys"
    listed.write_text("count:3\ncount:gone\ncount:1\n", encoding="utf-8")
    warmed: Warmed = await once(cache_warming.warm_cache, two.order(access_list=str(listed)))
    assert (warmed.looked, warmed.filled) == (3, 2), warmed
    assert await two.each(FILLED, ("DBSIZE",), ("GET", "count:3"), ("GET", "count:2")) == [2, "3", None]


async def test_it_stops_once_enough_is_there(two: Two) -> None:
    """The newest keys that were looked for are there already: clients have filled it meanwhile."""
    number = 3 * WINDOW
    await two.keys(number)
    await two.each(FILLED, *(("SET", f"count:{index}", "x") for index in range(number)))
    warmed: Warmed = await once(cache_warming.warm_cache, two.order(hit_ratio=0.8))
    assert WINDOW <= warmed.looked < number, warmed
    assert (warmed.filled, warmed.ratio) == (0, 1.0), warmed
    assert "were there already" in warmed.why


async def test_no_more_than_is_declared(two: Two) -> None:
    await two.keys(1000)
    warmed: Warmed = await once(cache_warming.warm_cache, two.order(max_keys=200))
    assert 200 <= warmed.looked < 1000, warmed
    assert "what is declared at most" in warmed.why


async def test_another_worker_goes_on_where_the_first_one_was(two: Two, tmp_path: Path) -> None:
    await two.keys(500)
    listed = tmp_path / "keys"
    listed.write_text("".join(f"count:{index}\n" for index in range(500)), encoding="utf-8")
    order = two.order(access_list=str(listed))
    beats: list[dict[str, Any]] = []

    class Killed(Exception):
        pass

    def beat(details: dict[str, Any]) -> None:
        beats.append(details)
        if len(beats) == 2:
            raise Killed

    first = ActivityEnvironment()
    first.on_heartbeat = beat
    with pytest.raises(Killed):
        await first.run(cache_warming.warm_cache, order)
    (before,) = await two.each(FILLED, ("DBSIZE",))
    assert before == beats[-1]["filled"] == 200

    second = ActivityEnvironment()
    second.info = dataclasses.replace(second.info, attempt=2, heartbeat_details=[beats[-1]])
    warmed: Warmed = await second.run(cache_warming.warm_cache, order)
    assert (warmed.looked, warmed.filled) == (500, 500), warmed
    assert await two.each(FILLED, ("DBSIZE",)) == [500]


async def test_where_it_has_what_there_was_nothing_is_looked_for(two: Two) -> None:
    await two.each(FILLED, *(("SET", f"count:{index}", "x") for index in range(95)))
    order = two.order().model_copy(update={"expected": 100})
    warmed: Warmed = await once(cache_warming.warm_cache, order)
    assert (warmed.looked, warmed.why) == (0, "it has 95 keys of 100")


async def test_the_owners_own_program_fills_it(two: Two, tmp_path: Path) -> None:
    made = tmp_path / "made"
    order = two.order(command=["touch", str(made)]).model_copy(update={"source": None})
    warmed: Warmed = await once(cache_warming.warm_cache, order)
    assert made.exists()
    assert warmed.why == "touch has run"
