"""Letting a service's clients into a cluster, and keeping them out, so that nothing more is confirmed there.

To close takes three things, and then a proof [T]: permissions alone still let an open channel publish (402 were
confirmed), a limit of connections another 166; and the limit keeps Lifeboat's shovels out as well, so that it is
lifted once every connection has ended: without permissions no client gets in again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from aiormq.exceptions import ProbableAuthenticationError
from temporalio import activity

from activities.beating import beating
from activities.rabbit_amqp import connect, end
from activities.rabbit_api import Api, acting, path
from activities.rabbit_definitions import OURS, let_ours_in
from activities.rabbit_shovels import keep_shovels_out
from activities.secrets import resolve
from schemas.failures import QueueRefused, QueueUnreachable, StillOpen
from schemas.queue import Broker, ClientUser, QueueService
from schemas.queue_facts import Closed, DoorOrder, QueueOrder

QUIET_S = 10.0
"""How long connections may take to end once they were told to."""
NOTHING = "^$"
"""A pattern that matches no name: the default exchange is `amq.default` to permissions."""


async def granted(api: Api) -> dict[tuple[str, str], dict[str, str]]:
    """(virtual host, user) → permissions, of the service's virtual hosts, without those who are no clients anyway."""
    ours = api.service.not_clients()
    found = await api.get(path("permissions")) or []
    return {
        (each["vhost"], each["user"]): {key: each[key] for key in ("configure", "write", "read")}
        for each in found
        if each["vhost"] in api.service.vhosts and each["user"] not in ours
    }


def strangers_of(service: QueueService, held: Iterable[tuple[str, str]]) -> list[str]:
    """Of those who have permissions (virtual host, user) whoever the topology doesn't name."""
    clients = {each.name for each in service.clients}
    return sorted({user for _, user in held if user not in clients})


async def _users(api: Api) -> list[str]:
    """Everybody who may publish for the service, or may have: all users of the broker but those who are no clients."""
    ours = api.service.not_clients()
    declared = [each.name for each in api.service.clients]
    known = [each["name"] for each in await api.get(path("users")) or []]
    return [name for name in dict.fromkeys([*declared, *known]) if name not in ours]


async def _connections(api: Api, names: list[str]) -> list[str]:
    """Connections of these users to the service's virtual hosts, from the tracking tables: the list of all
    connections shows a new one only seconds later."""
    found: list[str] = []
    for user in names:
        listed = await api.get(path("connections", "username", user)) or []
        found += [each["name"] for each in listed if each.get("vhost") in api.service.vhosts]
    return found


async def _limit(api: Api, vhost: str, value: int | None) -> None:
    where = path("vhost-limits", vhost, "max-connections")
    if value is None:
        await api.delete(where)
    else:
        await api.put(where, {"value": value})


def _limits_path(api: Api) -> str:
    return path("global-parameters", f"{OURS}limits-{api.service.name}")


async def keep_limits(api: Api) -> None:
    """Note on the cluster how many connections each virtual host may have, before none may: an attempt that was cut off
    would otherwise be followed by one that takes the 0 for the owner's own."""
    if await api.get(_limits_path(api)) is not None:
        return
    found: dict[str, int] = {}
    for vhost in api.service.vhosts:
        for each in await api.get(path("vhost-limits", vhost)) or []:
            if "max-connections" in each.get("value", {}):
                found[vhost] = int(each["value"]["max-connections"])
    await api.put(_limits_path(api), {"value": found})


async def restore_limits(api: Api) -> None:
    """Each virtual host's own limit of connections again, where one was noted."""
    kept = await api.get(_limits_path(api))
    if kept is None:
        return
    value = kept.get("value")
    own = value if isinstance(value, dict) else {}
    for vhost in api.service.vhosts:
        await _limit(api, vhost, own.get(vhost))
    await api.delete(_limits_path(api))


@activity.defn
async def close_cluster(order: QueueOrder) -> Closed:
    """No client gets in, and none is in: shown by an attempt of each client user whose password is known.

    StillOpen when somebody gets in all the same, or a user that the topology does not name has permissions there.
    """
    async with beating("closing"):
        return await shut(order)


async def shut(order: QueueOrder) -> Closed:
    """As `close_cluster`, without its heartbeats."""
    service = order.service
    async with acting(order) as api:
        await let_ours_in(api)
        held = await granted(api)
        strangers = strangers_of(service, held)
        if strangers:
            raise StillOpen(
                f"{order.region}: {', '.join(strangers)} may use the service's virtual hosts, and is no client in the"
                " topology; declare it, or take its permissions away"
            )
        for vhost, user in held:
            await api.delete(path("permissions", vhost, user))
        await keep_limits(api)
        for vhost in service.vhosts:
            await _limit(api, vhost, 0)
        ended = await _end_all(api, await _users(api))
        await restore_limits(api)
    refused = [
        await _attempt(service, order.region, vhost, client)
        for vhost in service.vhosts
        for client in service.clients
        if client.password is not None
    ]
    return Closed(region=order.region, ended=ended, refused=refused)


async def _end_all(api: Api, names: list[str]) -> int:
    """Every connection is told to end, until two looks in a row find none."""
    ended: set[str] = set()
    missed: set[str] = set()
    quiet, until = 0, asyncio.get_running_loop().time() + QUIET_S
    while quiet < 2:
        left = await _connections(api, names)
        quiet = 0 if left else quiet + 1
        ended.update(left)
        if left:
            # One by one: what the same user does in other virtual hosts is none of ours. One that the API does not find
            # by its name, twice, goes with all that its user has.
            found = await api.delete_all([path("connections", name) for name in left])
            unknown = {name for name, there in zip(left, found, strict=True) if not there}
            if unknown & missed:
                await api.delete_all([path("connections", "username", user) for user in names])
            missed = unknown
            if asyncio.get_running_loop().time() > until:
                raise StillOpen(f"{len(left)} connections of {', '.join(names)} do not end: {', '.join(left[:5])}")
        await asyncio.sleep(0.05)
    return len(ended)


async def _attempt(service: QueueService, region: str, vhost: str, client: ClientUser) -> str:
    """A client's own attempt to connect, at each node that listens; StillOpen when it is let in."""
    told: list[str] = []
    for member in service.cluster(region):
        try:
            told.append(await _refusal(service, member, vhost, client))
        except QueueUnreachable:
            continue  # One that does not answer proves nothing.
    if not told:
        raise QueueUnreachable(f"no node in {region} could be tried as {client.name}")
    return told[0]


async def _refusal(service: QueueService, member: Broker, vhost: str, client: ClientUser) -> str:
    """Refused as it connects, since it has no permission in the virtual host: anything later has let it in."""
    try:
        connection = await connect(
            service, member.host, member.port, vhost, user=client.name, password=resolve(client.password)
        )
    except QueueRefused as error:
        if isinstance(error.__cause__, ProbableAuthenticationError):
            # Its real password may well be accepted.
            raise StillOpen(
                f"{member.name} does not take the topology's password of {client.name}, so that nothing shows that it"
                " is kept out: declare the one that it uses"
            ) from error
        return f"{member.name} lets {client.name} not into {vhost}"
    await end(connection)
    raise StillOpen(f"{member.name} lets {client.name} into {vhost}")


@activity.defn
async def open_cluster(order: DoorOrder) -> list[str]:
    """Clients have the permissions that the topology declares: to read alone, or to write as well.

    Before they may write, no shovel takes anything out of the cluster any more.
    """
    service = order.service
    async with beating("opening"), acting(order) as api:
        await let_ours_in(api)
        if order.write:
            await keep_shovels_out(api, at_once=True)
        wanted = {
            (vhost, client.name): {
                "configure": client.configure,
                "write": client.write if order.write else NOTHING,
                "read": client.read,
            }
            for vhost in service.vhosts
            for client in service.clients
        }
        held = await granted(api)
        for (vhost, user), rights in wanted.items():
            if held.get((vhost, user)) != rights:
                await api.put(path("permissions", vhost, user), rights)
        await restore_limits(api)
        held = await granted(api)
        missing = [
            f"{user} in {vhost}" for (vhost, user), rights in wanted.items() if held.get((vhost, user)) != rights
        ]
        if missing:
            raise QueueRefused(f"{order.region} was told to let in {', '.join(missing)}, and does not")
    how = "read and write" if order.write else "read"
    return [f"{client.name} may {how} in {order.region}" for client in service.clients]
