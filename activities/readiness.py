"""What one region's worker sees of a service before anything has happened; the engine's part beside it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from pydantic import BaseModel
from temporalio import activity
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities import estate as estates
from activities.addresses import address_of
from activities.application import read_hook
from activities.data_folder import look_at_folder
from activities.haproxy import read_proxy
from activities.names import ask_with_ttl
from activities.node import run_on
from activities.pooler import console, read_pooler
from activities.readiness_server import look_at_server
from activities.secrets import resolve
from activities.survey import read_record
from activities.zones import names_of
from schemas.attributes import region_queue, watch_id
from schemas.cache import CacheService
from schemas.failures import LifeboatError, RouteUnavailable, SecretUnavailable
from schemas.orders import Estate, LockQuestion, NodeOrder, PoolerOrder, ProxyOrder
from schemas.ready import EngineView, NameSeen, Pool, Pooler, RegionOrder, RegionView
from schemas.rejoin import FolderFacts
from schemas.routes import FileRoute, HAProxyRoute, PgBouncerRoute, WebhookRoute
from schemas.topology import DatabaseService, Member, Topology
from schemas.zones import Zone

LIMIT_S = 5.0
"""Limit of each thing that is looked at, all of them at once: so long a look takes at most."""
_REFERENCE = re.compile(r"(env|file|aws-sm):.+")
_MISSING = 'for each; do command -v "$each" >/dev/null || echo "$each"; done'
"""Prints the programs, of its arguments, that are not there. Nothing is run."""


@activity.defn
async def list_services() -> list[str]:
    """The services of this worker's topology that have a preflight."""
    return [each.name for each in _own_topology().services if isinstance(each, DatabaseService | CacheService)]


def _own_topology() -> Topology:
    return estates.topology_at(os.environ.get(estates.TOPOLOGY_VARIABLE, ""))


@activity.defn
async def look_from_region(order: RegionOrder) -> RegionView:
    """Everything that a run of any procedure would need, as it is seen from this worker. Nothing is changed."""
    estate = order.estate
    service, zone = estate.service, estate.zone
    (record, epoch_error), servers, poolers, names, addresses, others = await asyncio.gather(
        read_record(service, zone),
        asyncio.gather(*(look_at_server(service, member) for member in service.members)),
        asyncio.gather(*(_pooler(service, each) for each in service.gates() if isinstance(each, PgBouncerRoute))),
        _names(service, zone),
        _addresses(service),
        asyncio.gather(
            _proxies(order), _applications(order), _secrets(estate), _controls(service.members), _folders(order)
        ),
    )
    proxies, applications, secrets, controls, folders = others
    return RegionView(
        region=order.region,
        digest=digest_of(service.name),
        record=record,
        epoch_error=epoch_error,
        servers=list(servers),
        poolers=list(poolers),
        proxies=proxies,
        applications=applications,
        names=names,
        addresses=addresses,
        secrets=secrets,
        controls=controls,
        folders={name: found for name, found in folders.items() if isinstance(found, FolderFacts)},
        folder_errors={name: found for name, found in folders.items() if isinstance(found, str)},
    )


def digest_of(service: str) -> str:
    """Of the service and the zone in this worker's own file, as far as they can be read."""
    try:
        topology = _own_topology()
        text = topology.service(service).model_dump_json() + topology.zone.model_dump_json()
    except (LifeboatError, KeyError) as error:
        return f"can't be used: {error}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# Routes


async def _pooler(service: DatabaseService, route: PgBouncerRoute) -> Pooler:
    try:
        async with asyncio.timeout(LIMIT_S):
            return await _read_pooler(service, route)
    except (LifeboatError, psycopg.Error, TimeoutError) as error:
        return Pooler(route=route.name, error=_why(error))


async def _read_pooler(service: DatabaseService, route: PgBouncerRoute) -> Pooler:
    await read_pooler(PoolerOrder(service=service, target=service.home, epoch=0, route=route))
    async with console(route) as conn:
        rows = await (await conn.execute("SHOW CONFIG")).fetchall()
        config = {str(row["key"]): str(row["value"] or "") for row in rows}
        rows = await (await conn.execute("SHOW DATABASES")).fetchall()
    databases = {
        str(row["name"]): Pool(
            host=str(row["host"] or ""), port=int(row["port"]), mode=str(row["pool_mode"] or config.get("pool_mode"))
        )
        for row in rows
        if row["name"] in route.databases
    }
    return Pooler(route=route.name, config=config, databases=databases)


async def _proxies(order: RegionOrder) -> dict[str, str]:
    """Every HAProxy that is told what to do from here: one with a local socket or file only from its own region."""
    service = order.estate.service

    async def look(route: HAProxyRoute) -> str:
        try:
            await read_proxy(ProxyOrder(service=service, target=service.home, epoch=0, route=route))
        except LifeboatError as error:
            return _why(error)
        return ""

    routes = [each for each in service.gates() if isinstance(each, HAProxyRoute)]
    here = [
        each
        for each in routes
        if each.region == order.region or not (each.socket.startswith("/") or each.state_file is not None)
    ]
    return dict(zip([each.name for each in here], await asyncio.gather(*map(look, here)), strict=True))


async def _applications(order: RegionOrder) -> dict[str, str]:
    found: dict[str, str] = {}
    for route in order.estate.service.told():
        if isinstance(route, WebhookRoute):
            found[route.name] = ""
            try:
                async with asyncio.timeout(LIMIT_S):
                    await read_hook(route)
            except (LifeboatError, TimeoutError) as error:
                found[route.name] = _why(error)
        elif route.region == order.region:
            found[route.name] = _file_problem(route)
    return found


def _file_problem(route: FileRoute) -> str:
    folder = Path(route.path).parent
    if not os.access(folder, os.W_OK):
        return f"{folder} can't be written by this worker"
    missing = [argv[0] for argv in (route.reload, route.confirm) if argv and shutil.which(argv[0]) is None]
    return f"there is no {', '.join(missing)} here" if missing else ""


async def _names(service: DatabaseService, zone: Zone) -> list[NameSeen]:
    if not service.dns_routes():
        return []
    try:
        servers = await names_of(zone).servers()
    except RouteUnavailable as error:
        return [NameSeen(record=route.record, server=zone.name, error=_why(error)) for route in service.dns_routes()]

    async def look(server: str, record: str) -> NameSeen:
        try:
            addresses, ttl = await ask_with_ttl(server, record, "A")
        except RouteUnavailable as error:
            return NameSeen(record=record, server=server, error=_why(error))
        return NameSeen(record=record, server=server, addresses=addresses, ttl_s=ttl)

    pairs = [(server, route.record) for server in servers for route in service.dns_routes()]
    return list(await asyncio.gather(*(look(*pair) for pair in pairs)))


async def _addresses(service: DatabaseService) -> dict[str, str]:
    async def look(member: Member) -> str:
        try:
            return await address_of(member.host)
        except RouteUnavailable:
            return ""

    found = await asyncio.gather(*map(look, service.members))
    return {member.name: address for member, address in zip(service.members, found, strict=True) if address}


# Secrets and nodes


def references(value: Any) -> Iterator[str]:
    """Every reference to a secret in a model, whatever its field is called."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from references(each)
    elif isinstance(value, str) and _REFERENCE.fullmatch(value):
        yield value


async def _secrets(estate: Estate) -> dict[str, str]:
    """Why each that can't be resolved here can't be."""

    async def look(reference: str) -> str:
        try:
            async with asyncio.timeout(LIMIT_S):
                return "" if await asyncio.to_thread(resolve, reference) else "it is empty"
        except (SecretUnavailable, TimeoutError) as error:
            return _why(error)
        except UnicodeDecodeError:
            return "it is no text"

    wanted = list(dict.fromkeys(references(estate)))
    found = dict(zip(wanted, await asyncio.gather(*map(look, wanted)), strict=True))
    return {reference: why for reference, why in found.items() if why}


async def _controls(members: Iterable[Member]) -> dict[str, str]:
    """Whether each node answers, and has the programs of its commands."""

    async def look(member: Member) -> str:
        control = member.control
        assert control is not None
        commands = (control.start, control.stop, control.kill, control.autostart_on, control.autostart_off)
        programs = list(dict.fromkeys(argv[0] for argv in commands if argv))
        try:
            async with asyncio.timeout(LIMIT_S):
                code, output = await run_on(control, ["sh", "-c", _MISSING, "sh", *programs])
        except (LifeboatError, TimeoutError) as error:
            return _why(error)
        if code != 0:
            return f"it can't say which programs it has (exit {code}): {output}"
        return f"there is no {', '.join(output.split())}" if output else ""

    controlled = [member for member in members if member.control is not None]
    return dict(zip([each.name for each in controlled], await asyncio.gather(*map(look, controlled)), strict=True))


async def _folders(order: RegionOrder) -> dict[str, FolderFacts | str]:
    """The data folders of this region's members, or why they can't be looked at; the first vantage has the others' too.

    Looking makes Lifeboat's own folder beside them (`data.keep`), where it is not there yet.
    """
    service, vantages = order.estate.service, order.estate.vantages

    def ours(member: Member) -> bool:
        return member.region == order.region or (order.region == vantages[0] and member.region not in vantages)

    async def look(member: Member) -> FolderFacts | str:
        try:
            async with asyncio.timeout(LIMIT_S):
                return await look_at_folder(NodeOrder(service=service, member=member.name))
        except (LifeboatError, TimeoutError) as error:
            return _why(error)

    members = [member for member in service.members if member.data is not None and ours(member)]
    return dict(zip([each.name for each in members], await asyncio.gather(*map(look, members)), strict=True))


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {LIMIT_S:g} s"
    return getattr(error, "detail", "") or str(error) or type(error).__name__


# The engine


@activity.defn
async def look_at_engine(question: LockQuestion) -> EngineView:
    """Whether the service is watched, from where, and which run works on it."""
    holder = await estates.lock_holder(question)
    try:
        found = await activity.client().get_workflow_handle(watch_id(question.service)).describe()
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return EngineView(watched=False, holder=holder)
        raise
    started = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
    prefix = region_queue("")
    queues = {
        each.activity_options.task_queue.name
        for each in found.raw_description.pending_activities
        if each.state == started and each.activity_type.name in ("watch_member", "watch_master", "watch_queue")
    }
    return EngineView(
        watched=found.status == WorkflowExecutionStatus.RUNNING,
        probing=sorted(queue.removeprefix(prefix) for queue in queues if queue.startswith(prefix)),
        holder=holder,
    )
