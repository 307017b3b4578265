"""Looking at RabbitMQ clusters: nodes, queues and their leaders, who is let in, what is defined."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

from temporalio import activity

from activities import epoch as epochs
from activities.rabbit_amqp import counts, speaks, tls_of
from activities.rabbit_api import Api, api_of, path, read_stamp
from activities.rabbit_definitions import differences, digest_of, essence, export, read_mirror
from activities.rabbit_doors import granted, strangers_of
from activities.rabbit_shovels import foreign_links, our_shovels
from schemas.facts import EpochRecord
from schemas.failures import EpochUnavailable, QueueRefused, QueueUnreachable
from schemas.queue import Broker, QueueService
from schemas.queue_facts import (
    PROBE_QUEUE,
    BrokerFacts,
    ClusterFacts,
    Mirror,
    QueueEstate,
    QueueFacts,
    QueueObservation,
)

LOOK_S = 1.5
"""Limit of one node's answer: a frozen node takes connections and never answers."""
SHOVELS = {"rabbitmq_shovel", "rabbitmq_shovel_management"}
"""Either runs shovels: the second brings the first, which then isn't listed."""
_AT_ONCE = 16
"""Queues that are asked about at the same time."""
_UNHEARD = (QueueUnreachable, QueueRefused)


async def listens(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def alarms_of(api: Api, nodes: list[dict[str, Any]]) -> list[str]:
    """What holds the cluster's publishers now. /api/nodes knows it, and its end, only seconds later."""
    answer = await api.ask("GET", "/api/health/checks/alarms", limit=LOOK_S)
    if answer.status_code == 404:  # before RabbitMQ 3.8.10
        keys = (("memory", "mem_alarm"), ("disk", "disk_free_alarm"))
        return sorted(f"{what} of {each['name']}" for each in nodes for what, key in keys if each.get(key))
    if answer.status_code not in (200, 503):
        raise QueueUnreachable(f"{api.member.name}: whether there are alarms was answered {answer.status_code}")
    try:
        # 503 is its way to say that there are some.
        found = answer.json().get("alarms", [])
    except json.JSONDecodeError as error:
        raise QueueUnreachable(f"{api.member.name}: whether there are alarms was answered without JSON") from error
    return sorted(f"{each['resource']} of {each['node']}" for each in found)


async def look_at_broker(service: QueueService, member: Broker) -> BrokerFacts:
    """One node; never an exception."""
    open_port = asyncio.ensure_future(speaks(member, LOOK_S, tls=tls_of(service) or False))
    try:
        async with asyncio.timeout(2 * LOOK_S), api_of(service, member) as api:
            nodes = await api.get("/api/nodes", limit=LOOK_S)
            known = await read_stamp(api)
            alarms = await alarms_of(api, nodes)
    except (*_UNHEARD, TimeoutError) as error:
        why = getattr(error, "detail", "") or f"no answer within {2 * LOOK_S:g} s"
        return BrokerFacts(member=member.name, at=datetime.now(UTC), answers=False, listens=await open_port, error=why)
    running = [each for each in nodes if each.get("running")]
    return BrokerFacts(
        member=member.name,
        at=datetime.now(UTC),
        answers=True,
        listens=await open_port,
        running=[each["name"] for each in running],
        alarms=alarms,
        partitions=sorted({name for each in running for name in each.get("partitions", [])}),
        without_shovels=[
            each["name"] for each in running if "enabled_plugins" in each and not SHOVELS & {*each["enabled_plugins"]}
        ],
        epoch=known,
    )


def _queue(found: dict[str, Any]) -> QueueFacts:
    kind = found.get("type", "classic")
    mirrors = found.get("slave_nodes")
    if isinstance(mirrors, list):
        kind = "mirrored"
    leader = found.get("leader") or found.get("node") or ""
    synchronised = found.get("synchronised_slave_nodes") or []
    arguments = found.get("arguments") or {}
    # An empty one is a list.
    effective = found.get("effective_policy_definition") or {}
    limits = [each for each in (arguments.get("x-delivery-limit"), effective.get("delivery-limit")) if each is not None]
    return QueueFacts(
        vhost=found["vhost"],
        name=found["name"],
        kind=kind,
        durable=bool(found.get("durable")),
        leader=leader,
        members=found.get("members") or [leader, *(mirrors or [])],
        online=found.get("online") or [leader, *synchronised],
        auto_delete=bool(found.get("auto_delete")),
        expires="x-expires" in arguments,
        size=arguments.get("x-quorum-initial-group-size"),
        mirrored_everywhere=effective.get("ha-mode", "all") == "all",
        delivery_limit=min(limits) if limits else None,
        dead_letters="x-dead-letter-exchange" in arguments or "dead-letter-exchange" in effective,
    )


async def _one_by_one(api: Api, queues: list[QueueFacts]) -> tuple[list[QueueFacts], dict[str, int]]:
    """Classic queues, each asked for by its name: the list has mirrors that were synchronised long ago as if they were
    not. And how many messages in each are not persistent; quorum queues keep every message on disk."""
    told: list[QueueFacts] = []
    transient: dict[str, int] = {}
    some = asyncio.Semaphore(_AT_ONCE)

    async def of(each: QueueFacts) -> Any:
        async with some:
            return await api.get(path("queues", each.vhost, each.name)) if each.kind != "quorum" else None

    for each, found in zip(queues, await asyncio.gather(*map(of, queues)), strict=True):
        if not found:
            told.append(each)
            continue
        told.append(_queue(found))
        lost = int(found.get("messages", 0)) - int(found.get("messages_persistent", 0))
        if each.durable and "messages_persistent" in found and lost > 0:
            transient[each.place] = lost
    return told, transient


async def _of_cluster(api: Api) -> dict[str, Any]:
    queues: list[QueueFacts] = []
    for vhost in api.service.vhosts:
        listed = await api.get(path("queues", vhost) + "?disable_stats=true&enable_queue_totals=true") or []
        # An exclusive one answers its own connection alone, and ends with it.
        queues += [_queue(each) for each in listed if each["name"] != PROBE_QUEUE and not each.get("exclusive")]
    queues, transient = await _one_by_one(api, queues)
    held = await granted(api)
    clients = {each.name for each in api.service.clients}
    told = await read_mirror(api)
    defined = essence(await export(api), api.service)
    ours = [each for each in await api.get("/api/vhosts") or [] if each["name"] in api.service.vhosts]
    return {
        "read": True,
        "transient": transient,
        "dropped": sum(int((each.get("message_stats") or {}).get("drop_unroutable", 0)) for each in ours),
        "strangers": strangers_of(api.service, held),
        "differ": differences(told[1], defined, "it")[:5] if told is not None else [],
        "queues": queues,
        "clients_let_in": any(user in clients for _, user in held),
        "digest": digest_of(defined),
        "shovels": [name for _, name in await our_shovels(api)],
        "foreign": await foreign_links(api),
        "mirror": told[0] if told is not None else None,
    }


async def look_at_cluster(service: QueueService, region: str) -> tuple[ClusterFacts, Mirror | None]:
    """One region's cluster, and what it was last told of another as a standby; never an exception."""
    brokers = await asyncio.gather(*(look_at_broker(service, member) for member in service.cluster(region)))
    found: dict[str, Any] = {}
    for each in brokers:
        if not each.answers:
            continue
        try:
            async with asyncio.timeout(4 * LOOK_S), api_of(service, service.member(each.member)) as api:
                found = await _of_cluster(api)
        except (*_UNHEARD, TimeoutError):
            continue
        break
    mirror = found.pop("mirror", None)
    queues: list[QueueFacts] = found.pop("queues", [])
    seen = await counts(service, region, [(each.vhost, each.name) for each in queues])
    told = [
        each.model_copy(update={"ready": live[0], "consumers": live[1]})
        if (live := seen[(each.vhost, each.name)]) is not None
        else each
        for each in queues
    ]
    ready = [each.ready for each in told if each.ready is not None]
    facts = ClusterFacts(
        region=region,
        at=datetime.now(UTC),
        brokers=list(brokers),
        queues=told,
        known=sum(ready) if ready else None,
        **found,
    )
    return facts, mirror


@activity.defn
async def read_queue_record(estate: QueueEstate) -> EpochRecord | None:
    """The service's record as it stands."""
    return await epochs.read(estate.zone, estate.service.name)


@activity.defn
async def observe_queue(estate: QueueEstate) -> QueueObservation:
    """Every cluster, and the epoch's record."""
    service = estate.service

    async def record() -> tuple[EpochRecord | None, str]:
        try:
            return await epochs.read(estate.zone, service.name), ""
        except EpochUnavailable as error:
            return None, error.detail

    looking = asyncio.ensure_future(record())
    looks = await asyncio.gather(*(look_at_cluster(service, region) for region in service.clusters()))
    held, why = await looking
    return QueueObservation(
        record=held,
        epoch_error=why,
        clusters=[facts for facts, _ in looks],
        mirrors={facts.region: mirror for facts, mirror in looks if mirror is not None},
    )
