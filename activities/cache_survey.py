"""Looking at a cache: its servers by INFO, its Sentinels by what they say of the master. Nothing is changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from temporalio import activity

from activities import epoch
from activities.addresses import address_of
from activities.redis_sessions import ErrorReply, Talk, fields_of, talk, to_member, to_sentinel
from schemas.cache import CacheMember, CacheService, Sentinel
from schemas.cache_facts import CacheFacts, CacheSeen, ReplicaSeen, SentinelFacts
from schemas.facts import EpochRecord
from schemas.failures import CacheUnreachable, EpochUnavailable, RouteUnavailable, SecretUnavailable
from schemas.orders import CacheEstate
from schemas.ready import CacheRegionOrder, CacheRegionView
from schemas.service import Place
from schemas.zones import Zone

CONFIG = (
    "min-replicas-to-write",
    "min-replicas-max-lag",
    "replica-priority",
    "replica-announced",
    "save",
    "appendonly",
)


Names = Mapping[tuple[str, int], str]
"""`(address, port)` → member: Redis and Sentinel tell addresses, where hosts may be declared by name."""


async def names_by_address(service: CacheService) -> Names:
    found: dict[tuple[str, int], str] = {}
    for member in service.members:
        found[member.host, member.port] = member.name
        with contextlib.suppress(RouteUnavailable):
            found[await address_of(member.host), member.port] = member.name
    return found


def _history(text: str) -> str:
    """Redis writes 40 zeros for none."""
    return text if text.strip("0") else ""


def _name(names: Names, host: str, port: str) -> str:
    return names.get((host, int(port)), f"{host}:{port}")


async def look_at_member(service: CacheService, member: CacheMember, *, limit: float = 1.5) -> CacheFacts:
    """One server; never an exception."""
    at = datetime.now(UTC)
    try:
        async with asyncio.timeout(limit), to_member(service, member.name, limit=limit) as asked:
            return await read_member(asked, await names_by_address(service), at)
    except (CacheUnreachable, SecretUnavailable) as error:
        return CacheFacts(member=member.name, at=at, reachable=False, error=error.detail)
    except TimeoutError:
        return CacheFacts(member=member.name, at=at, reachable=False, error=f"no answer within {limit:g} s")


async def read_member(asked: Talk, names: Names, at: datetime | None = None) -> CacheFacts:
    """What the server on the other end says of itself."""
    info = await asked.info()
    config = await asked.config(*CONFIG)
    return facts_of(asked.name, at or datetime.now(UTC), info, config, names)


def facts_of(name: str, at: datetime, info: Mapping[str, str], config: Mapping[str, str], names: Names) -> CacheFacts:
    """From INFO and CONFIG GET, by the names of Redis 7."""
    master = info.get("role") == "master"
    number = int(info.get("connected_slaves", 0)) if master else 0
    replicas = [fields_of(info[f"slave{index}"]) for index in range(number) if f"slave{index}" in info]
    return CacheFacts(
        member=name,
        at=at,
        reachable=True,
        role="master" if master else "replica",
        run_id=info.get("run_id", ""),
        version=info.get("redis_version", ""),
        history=info.get("master_replid", ""),
        history_before=_history(info.get("master_replid2", "")),
        before_until=int(info.get("second_repl_offset", -1)),
        offset=int(info.get("master_repl_offset" if master else "slave_repl_offset", 0)),
        follows="" if master else _name(names, info.get("master_host", ""), info.get("master_port", "0")),
        link_up=info.get("master_link_status") == "up",
        link_down_s=int(info.get("master_link_down_since_seconds", -1)),
        silent_s=int(info.get("master_last_io_seconds_ago", -1)),
        loading=info.get("loading", "0") != "0",
        syncing=info.get("master_sync_in_progress", "0") != "0",
        replicas=[
            ReplicaSeen(
                member=_name(names, each.get("ip", ""), each.get("port", "0")),
                state=each.get("state", ""),
                offset=int(each.get("offset", 0)),
                lag_s=int(each.get("lag", 0)),
            )
            for each in replicas
        ],
        keys=sum(int(fields_of(value).get("keys", 0)) for field, value in info.items() if field.startswith("db")),
        min_replicas=int(config.get("min-replicas-to-write", 0)),
        max_lag_s=int(config.get("min-replicas-max-lag", 0)),
        priority=int(config.get("replica-priority", 100)),
        announced=config.get("replica-announced", "yes") == "yes",
        aof=config.get("appendonly") == "yes",
        rdb=bool(config.get("save")),
        cluster=info.get("cluster_enabled", "0") != "0",
    )


async def look_at_sentinel(service: CacheService, sentinel: Sentinel, *, limit: float = 1.5) -> SentinelFacts:
    """One Sentinel; never an exception."""
    at = datetime.now(UTC)
    try:
        async with asyncio.timeout(limit), to_sentinel(service, sentinel, limit=limit) as asked:
            return await read_sentinel(asked, service.monitor.name, await names_by_address(service), at)
    except (CacheUnreachable, SecretUnavailable) as error:
        return SentinelFacts(sentinel=sentinel.name, at=at, reachable=False, error=error.detail)
    except TimeoutError:
        return SentinelFacts(sentinel=sentinel.name, at=at, reachable=False, error=f"no answer within {limit:g} s")


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def read_sentinel(asked: Talk, name: str, names: Names, at: datetime | None = None) -> SentinelFacts:
    """What the Sentinel on the other end says of the master called `name`."""
    facts = SentinelFacts(sentinel=asked.name, at=at or datetime.now(UTC), reachable=True)
    try:
        master = _pairs(await asked("SENTINEL", "MASTER", name))
    except ErrorReply as error:
        if "No such master" in str(error):
            return facts
        raise
    replicas = [_pairs(each) for each in await asked("SENTINEL", "REPLICAS", name)]
    quorum_error = ""
    try:
        await asked("SENTINEL", "CKQUORUM", name)
    except ErrorReply as error:
        quorum_error = str(error)
    flags = master.get("flags", "").split(",")

    def named(fields: Mapping[str, str]) -> str:
        return _name(names, fields.get("ip", ""), fields.get("port", "0"))

    return facts.model_copy(
        update={
            "watches": True,
            "master": _name(names, master["ip"], master["port"]),
            "config_epoch": int(master.get("config-epoch", 0)),
            "quorum": int(master.get("quorum", 0)),
            "down_after_s": int(master.get("down-after-milliseconds", 0)) / 1000,
            "others": int(master.get("num-other-sentinels", 0)),
            "replicas": int(master.get("num-slaves", 0)),
            "flags": flags,
            "failing_over": "failover_in_progress" in flags,
            "quorum_error": quorum_error,
            "priorities": {named(each): int(each.get("slave-priority", 100)) for each in replicas},
            "bad_replicas": {named(each): why for each in replicas if (why := _unfit(each))},
        }
    )


def _unfit(fields: Mapping[str, str]) -> str:
    """Why a Sentinel would not elect this replica (sentinel.c, sentinelSelectSlave), as far as it tells."""
    flags = fields.get("flags", "").split(",")
    bad = [flag for flag in flags if flag in ("s_down", "o_down", "disconnected")]
    if fields.get("slave-priority") == "0":
        bad.append("priority 0")
    return ", ".join(bad)


async def read_record(service: CacheService, zone: Zone) -> tuple[EpochRecord | None, str]:
    try:
        return await epoch.read(zone, service.name), ""
    except (EpochUnavailable, SecretUnavailable) as error:
        return None, str(error)


async def look_around(service: CacheService, zone: Zone, *, limit: float = 1.5) -> CacheSeen:
    """Everything at once; what does not answer is told as such."""
    record, members, sentinels = await asyncio.gather(
        read_record(service, zone),
        asyncio.gather(*(look_at_member(service, each, limit=limit) for each in service.members)),
        asyncio.gather(*(look_at_sentinel(service, each, limit=limit) for each in service.sentinels)),
    )
    return CacheSeen(record=record[0], epoch_error=record[1], members=list(members), sentinels=list(sentinels))


@activity.defn
async def observe_cache(estate: CacheEstate) -> CacheSeen:
    """The cache as it is now, as this worker sees it."""
    return await look_around(estate.service, estate.zone)


@activity.defn
async def look_at_cache_from_region(order: CacheRegionOrder) -> CacheRegionView:
    """Everything that a procedure would need, as it is seen from this worker. Nothing is changed."""
    service = order.estate.service
    places: list[Place] = [*service.members, *service.sentinels]
    seen, found = await asyncio.gather(look_around(service, order.estate.zone), asyncio.gather(*map(_is_open, places)))
    opened = [place.name for place, is_open in zip(places, found, strict=True) if is_open]
    return CacheRegionView(region=order.region, seen=seen, open_to_all=opened)


async def _is_open(place: Place) -> bool:
    """Whether it answers to somebody without a password."""
    try:
        async with talk(place, None, None, limit=1.0) as asked:
            return bool(await asked("PING") == "PONG")
    except CacheUnreachable:
        return False
