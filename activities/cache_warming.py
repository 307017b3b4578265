"""Filling a cache again that has lost its keys: in batches, at a declared rate, until enough of them are there.

A key goes over by DUMP and RESTORE with its time to live, a little shortened by chance. What a client has set
meanwhile is newer, and is never overwritten. Where it was is in the heartbeat: another worker goes on from there.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from temporalio import activity

from activities.cache_survey import look_at_member, names_by_address, read_member
from activities.commands import TOLD, run_command
from activities.redis_sessions import ErrorReply, Talk, acting, to_member
from schemas.cache import Warming
from schemas.cache_orders import LostKeys, LostOrder, Warmed, WarmOrder
from schemas.failures import CacheUnreachable

BATCH = 100
WINDOW = 1000
"""Newest keys of which the ratio is taken."""
COMMAND_S = 600.0
LOST_S = 5.0
"""Sentinel makes the old master a replica 8 s after it is back (sentinel.c, +convert-to-slave): no later than that."""
SAMPLE = 10
RESERVED = 8
"""Keys of Lifeboat's own, which are not counted."""


class Progress:
    """What has been done, kept in the heartbeat."""

    def __init__(self) -> None:
        details = activity.info().heartbeat_details if activity.in_activity() else []
        kept = dict(details[0]) if details and isinstance(details[0], dict) else {}
        self.cursor = str(kept.get("cursor", "0"))
        self.looked, self.there, self.filled = (int(kept.get(name, 0)) for name in ("looked", "there", "filled"))
        self.newest: deque[bool] = deque(maxlen=WINDOW)

    def tell(self, cursor: str) -> None:
        self.cursor = cursor
        activity.heartbeat(
            {"cursor": cursor, "looked": self.looked, "there": self.there, "filled": self.filled, "ratio": self.ratio}
        )

    @property
    def ratio(self) -> float | None:
        return sum(self.newest) / len(self.newest) if self.newest else None

    def result(self, why: str) -> Warmed:
        return Warmed(looked=self.looked, there=self.there, filled=self.filled, ratio=self.ratio, why=why)


@activity.defn
async def warm_cache(order: WarmOrder) -> Warmed:
    """Fill the leader by the declared means: the owner's command, then the keys of the access list, or the old ones."""
    warming = order.service.warming
    progress = Progress()
    if warming is None:
        return progress.result("no warming is declared")
    leader = await look_at_member(order.service, order.service.member(order.leader))
    if not leader.reachable:
        raise CacheUnreachable(f"{order.leader}: {leader.error}")
    if order.expected and leader.keys >= warming.hit_ratio * order.expected and not progress.looked:
        return progress.result(f"it has {leader.keys} keys of {order.expected}")
    if warming.command is not None:
        code, output = await _command(warming.command)
        if code:
            raise CacheUnreachable(f"{warming.command[0]} … exited {code}: {output[-TOLD:]}")
    if order.source is None or not (warming.from_old or warming.access_list):
        told = f"{warming.command[0]} has run" if warming.command else "nobody has the old keys"
        return progress.result(told)
    async with (
        to_member(order.service, order.source) as source,
        acting(order, order.service.member(order.leader)) as to,
    ):
        async for cursor, keys in _batches(source, warming, progress):
            await _fill(source, to, keys, warming, progress)
            progress.tell(cursor)
            if progress.looked >= warming.max_keys:
                return progress.result(f"{progress.looked} keys are what is declared at most")
            ratio = progress.ratio
            if ratio is not None and len(progress.newest) == WINDOW and ratio >= warming.hit_ratio:
                return progress.result(f"{ratio:.0%} of the last {WINDOW} keys were there already")
            await asyncio.sleep(len(keys) / warming.keys_per_s)
    return progress.result("every key was looked at")


async def _command(argv: Sequence[str]) -> tuple[int, str]:
    task = asyncio.ensure_future(run_command(list(argv), COMMAND_S))
    while not task.done():
        activity.heartbeat({"command": argv[0]})
        await asyncio.wait({task}, timeout=1.0)
    return task.result()


async def _batches(source: Talk, warming: Warming, progress: Progress) -> AsyncIterator[tuple[str, list[str]]]:
    """Keys, the most used first where there is a list; with where to go on from."""
    if warming.access_list is not None:
        listed = await asyncio.to_thread(_listed, warming.access_list)
        at = int(progress.cursor)
        while at < len(listed):
            keys, at = listed[at : at + BATCH], at + BATCH
            yield str(at), keys
        return
    cursor = progress.cursor
    while True:
        cursor, keys = await source("SCAN", cursor, "COUNT", BATCH)
        yield str(cursor), list(keys)
        if str(cursor) == "0":
            return


def _listed(path: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise CacheUnreachable(f"the access list {path}: {error.strerror}") from error
    return [line for line in text.splitlines() if line]


async def _fill(source: Talk, to: Talk, keys: Sequence[str], warming: Warming, progress: Progress) -> None:
    for key in keys:
        progress.looked += 1
        there = bool(await to("EXISTS", key))
        progress.newest.append(there)
        if there:
            progress.there += 1
            continue
        payload, left = await source("DUMP", key), int(await source("PTTL", key))
        if payload is None or left == -2:
            continue
        # 0 is "never" for RESTORE, and -1 for PTTL.
        ttl = max(int(left * (1 - random.uniform(0, warming.ttl_jitter))), 1) if left > 0 else 0
        try:
            await to("RESTORE", key, ttl, payload)
        except ErrorReply as error:
            if "BUSYKEY" not in str(error):
                raise
        else:
            progress.filled += 1


@activity.defn
async def count_lost_keys(order: LostOrder) -> LostKeys:
    """Keys that the old master has and the leader has not, for LOST_S at most: acknowledged, and lost; or expired, or
    deleted since. The old one must be a master still: as a replica it has only what the leader has.
    """
    names = await names_by_address(order.service)
    looked, only_there, sample = 0, 0, list[str]()

    def result(keys: int, *, whole: bool) -> LostKeys:
        return LostKeys(looked=looked, only_there=only_there, whole=whole, sample=sample, keys=keys)

    async with to_member(order.service, order.old) as old, to_member(order.service, order.leader) as leader:
        while (facts := await read_member(old, names)).loading:
            activity.heartbeat({"loading": order.old})
            await asyncio.sleep(0.2)
        if facts.role != "master":
            return result(0, whole=False)
        end = asyncio.get_running_loop().time() + LOST_S
        cursor = "0"
        while True:
            cursor, keys = await old("SCAN", cursor, "COUNT", 1000)
            keys = [key for key in keys if not key.startswith("lifeboat:")]
            # One round trip for as many keys as are all there, which is the usual case.
            missing = keys if keys and int(await leader("EXISTS", *keys)) < len(keys) else []
            for key in missing:
                if not await leader("EXISTS", key):
                    only_there += 1
                    sample = [*sample, key][:SAMPLE]
            looked += len(keys)
            activity.heartbeat({"looked": looked, "only there": only_there})
            if str(cursor) == "0":
                break
            if asyncio.get_running_loop().time() > end:
                return result(facts.keys, whole=False)
        # SCAN sees one database only.
        ended = (await read_member(old, names)).role == "master"
        return result(facts.keys, whole=ended and looked + RESERVED >= facts.keys)
