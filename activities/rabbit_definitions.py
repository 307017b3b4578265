"""Definitions of RabbitMQ clusters: exported, imported and compared. Nothing of a password leaves this module."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from temporalio import activity

from activities.beating import beating
from activities.rabbit_amqp import counts
from activities.rabbit_api import Api, acting, cluster_api, path
from schemas.failures import DefinitionsDiffer, QueueUnreachable
from schemas.queue import QueueService
from schemas.queue_facts import PROBE_QUEUE, SERVER_NAMED, Definitions, Mirror, MoveOrder

OURS = "lifeboat-"
"""How the names of our shovels and global parameters begin."""
_KINDS = (
    *("vhosts", "users", "permissions", "topic_permissions", "parameters", "policies"),
    *("queues", "exchanges", "bindings"),
)
_IDENTITY = {
    "vhosts": ("name",),
    "users": ("name",),
    "permissions": ("vhost", "user"),
    "topic_permissions": ("vhost", "user", "exchange"),
    "parameters": ("vhost", "component", "name"),
    "policies": ("vhost", "name"),
    "queues": ("vhost", "name"),
    "exchanges": ("vhost", "name"),
    "bindings": ("vhost", "source", "destination_type", "destination", "routing_key"),
}
_LOCAL_ARGUMENTS = ("x-quorum-initial-group-size", "x-initial-cluster-size", "x-queue-leader-locator")
"""What a queue is told of the cluster that it is declared in, which another cluster may fulfil otherwise."""


def portable(raw: dict[str, Any], service: QueueService) -> dict[str, list[dict[str, Any]]]:
    """Of a cluster's definitions what another must have as well: all of the service's virtual hosts, but for Lifeboat's
    own things, and for the permissions of client users, which are how a cluster is opened and closed."""
    # Every broker has a `guest` of its own.
    ours = {*service.not_clients(), "guest"}
    clients = {each.name for each in service.clients}
    passing = {(each["vhost"], each["name"]) for each in raw.get("queues") or [] if is_passing(each)}
    kept: dict[str, list[dict[str, Any]]] = {}
    for kind in _KINDS:
        for each in raw.get(kind) or []:
            vhost = each.get("name") if kind == "vhosts" else each.get("vhost")
            if kind != "users" and vhost not in service.vhosts:
                continue
            if kind == "users" and each["name"] in ours:
                continue
            if kind in ("permissions", "topic_permissions") and each["user"] in ours:
                continue
            if kind == "permissions" and each["user"] in clients:
                continue
            # A limit of connections is how a cluster is closed; taken away it stays behind, empty.
            if kind == "parameters" and each.get("component") in ("shovel", "vhost-limits"):
                continue
            if kind == "queues" and (each["name"] == PROBE_QUEUE or is_passing(each)):
                continue
            if kind == "exchanges" and (each.get("auto_delete") or each["name"].startswith(SERVER_NAMED)):
                continue
            if kind == "bindings" and _is_of_passing(each, passing):
                continue
            kept.setdefault(kind, []).append(each)
    return kept


def is_passing(queue: dict[str, Any]) -> bool:
    """A queue that ends with its clients or its broker, or that the broker named: its clients declare it where they are
    led to. On a standby it would end, unused, or be left for ever; and no import takes a server's own name."""
    return (
        bool(queue.get("auto_delete"))
        or not queue.get("durable")
        or "x-expires" in (queue.get("arguments") or {})
        or queue["name"].startswith(SERVER_NAMED)
    )


def _is_of_passing(binding: dict[str, Any], passing: set[tuple[str, str]]) -> bool:
    return binding["destination_type"] == "queue" and (binding["vhost"], binding["destination"]) in passing


def to_import(raw: dict[str, Any], service: QueueService, found: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Of what is portable what may be written over: users only where the target (`found`) lacks them, or where they are
    the service's declared clients. Another's password there is somebody else's to change."""
    given = portable(raw, service)
    clients = {each.name for each in service.clients}
    users = [each for each in given.get("users", []) if each["name"] in clients or f"user {each['name']}" not in found]
    return {**given, "users": users}


def essence(raw: dict[str, Any], service: QueueService) -> dict[str, str]:
    """What is defined → a text that is equal where the definition is; secrets only as a digest."""
    found: dict[str, str] = {}
    for kind, listed in portable(raw, service).items():
        for each in listed:
            name = " ".join([kind.rstrip("s") if kind != "policies" else "policy", *_identity(kind, each)])
            rest = {key: value for key, value in each.items() if key not in _IDENTITY[kind]}
            if kind == "queues":
                rest["arguments"] = {k: v for k, v in each.get("arguments", {}).items() if k not in _LOCAL_ARGUMENTS}
            if kind == "vhosts":
                # 3.11 and later add metadata and a default queue type that an older one doesn't export.
                rest = {}
            text = json.dumps(rest, sort_keys=True)
            found[name] = hashlib.sha256(text.encode()).hexdigest() if kind in ("users", "parameters") else text
    return found


def _identity(kind: str, each: dict[str, Any]) -> list[str]:
    return [str(each.get(part, "")) for part in _IDENTITY[kind]]


def digest_of(found: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def differences(source: dict[str, str], target: dict[str, str], region: str) -> list[str]:
    """What the target lacks, or has otherwise: a message of the source's could have nowhere to go there."""
    lacks = [f"{name} is not in {region}" for name in source if name not in target]
    return lacks + [
        f"{name} is another in {region}" for name, text in source.items() if name in target and target[name] != text
    ]


async def export(api: Api) -> dict[str, Any]:
    found = await api.get(path("definitions"), limit=10.0)
    if not isinstance(found, dict):
        raise QueueUnreachable(f"{api.member.name} gives no definitions")
    return found


async def let_ours_in(api: Api) -> None:
    """Lifeboat's own user may do everything on the service's virtual hosts, wherever these came from; its shovels'
    user gets in, and what it may take out stays as it is (activities/rabbit_shovels.py)."""
    access = api.service.access
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    for vhost in api.service.vhosts:
        ours = path("permissions", vhost, access.user)
        found = await api.get(ours) or {}
        if {key: found.get(key) for key in everything} != everything:
            await api.put(ours, everything)
        shovels = path("permissions", vhost, access.shovel_user)
        if await api.get(shovels) is None:
            await api.put(shovels, {**everything, "read": "^$"})


def mirror_path(service: QueueService) -> str:
    return path("global-parameters", f"{OURS}mirror-{service.name}")


async def read_mirror(api: Api) -> tuple[Mirror, dict[str, str]] | None:
    """What a standby was last told, and the definitions that this was about."""
    found = await api.get(mirror_path(api.service))
    value = found.get("value") if isinstance(found, dict) else None
    return (Mirror.model_validate(value), dict(value.get("essence", {}))) if isinstance(value, dict) else None


async def _write_mirror(api: Api, order: MoveOrder, known: dict[str, str], queues: list[tuple[str, str]]) -> None:
    """On the standby itself, since the cluster that it tells of may be gone when somebody asks."""
    ready = await counts(order.service, order.region, queues)
    mirror = Mirror(
        region=order.region,
        at=datetime.now(UTC),
        digest=digest_of(known),
        counts={f"{vhost}/{name}": found[0] for (vhost, name), found in ready.items() if found is not None},
    )
    await api.put(mirror_path(order.service), {"value": {**mirror.model_dump(mode="json"), "essence": known}})


@activity.defn
async def import_definitions(order: MoveOrder) -> Definitions:
    """The target has all that the source defines: imported where it lacks something, and compared again.

    DefinitionsDiffer when something is still missing, or another one there. What only the target has is left alone.
    """
    async with beating("definitions"):
        return await bring_definitions(order)


async def bring_definitions(order: MoveOrder) -> Definitions:
    """As `import_definitions`, without its heartbeats."""
    service = order.service
    async with cluster_api(service, order.region) as source, acting(order, order.target) as target:
        raw = await export(source)
        wanted = essence(raw, service)
        found = essence(await export(target), service)
        if differences(wanted, found, order.target):
            await target.post(path("definitions"), to_import(raw, service, found), limit=15.0)
            # Queues are declared one after another, and a quorum queue elects before it shows.
            for _ in range(20):
                found = essence(await export(target), service)
                if not differences(wanted, found, order.target):
                    break
                await asyncio.sleep(0.1)
        differ = differences(wanted, found, order.target)
        if differ:
            raise DefinitionsDiffer("; ".join(differ[:10]) + (f" and {len(differ) - 10} more" if differ[10:] else ""))
        await let_ours_in(target)
        names = [(each["vhost"], each["name"]) for each in portable(raw, service).get("queues", [])]
        await _write_mirror(target, order, wanted, names)
    return Definitions(digest=digest_of(wanted), defined=len(wanted))


@activity.defn
async def compare_with_mirror(order: MoveOrder) -> Definitions:
    """The target still has all that it was last told of the source, which is out of reach itself."""
    async with cluster_api(order.service, order.target) as target:
        told = await read_mirror(target)
        found = essence(await export(target), order.service)
    if told is None or told[0].region != order.region:
        differ = [f"{order.target} was never told what {order.region} defines"]
    else:
        since = f"as {order.region} had it at {told[0].at:%d %b %H:%M:%S} UTC"
        differ = [f"{each}, {since}" for each in differences(told[1], found, order.target)]
    return Definitions(digest=digest_of(found), defined=len(found), differ=differ)
