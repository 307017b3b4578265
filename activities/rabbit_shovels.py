"""Lifeboat's shovels on a cluster: which there are, how they end, and whether they may take anything out of it.

A shovel is kept by its broker and starts again with it: one that was left behind on a target that died would, once
that is back, pull live messages out of the cluster that serves. So its user may take nothing out of a cluster that
serves, and is given that only for a drain.
"""

from __future__ import annotations

import asyncio
import re

from activities.rabbit_api import Api, path
from activities.rabbit_definitions import OURS
from schemas.failures import QueueUnreachable
from schemas.queue_facts import PROBE_QUEUE

EVERYTHING = ".*"
PROBES = f"^{re.escape(PROBE_QUEUE)}$"
"""What shovels may take out of a cluster that serves: Lifeboat's own queue, to try whether one gets through."""
ENDED_S = 5.0


async def our_shovels(api: Api) -> list[tuple[str, str]]:
    """(virtual host, name) of the shovels that a run has defined there."""
    listed = await api.get(path("parameters", "shovel")) or []
    return [
        (each["vhost"], each["name"])
        for each in listed
        if each["vhost"] in api.service.vhosts and each["name"].startswith(OURS)
    ]


async def foreign_links(api: Api) -> list[str]:
    """Shovels and federation upstreams of others in the service's virtual hosts, each as `kind name in vhost`."""
    listed = await api.get(path("parameters")) or []
    return sorted(
        f"{each['component']} {each['name']} in {each['vhost']}"
        for each in listed
        if each.get("vhost") in api.service.vhosts
        and (
            (each["component"] == "shovel" and not each["name"].startswith(OURS))
            or each["component"] == "federation-upstream"
        )
    )


async def remove_shovels(api: Api) -> None:
    for vhost, name in await our_shovels(api):
        await api.delete(path("parameters", "shovel", vhost, name))


async def _allow(api: Api, read: str) -> bool:
    """Whether that was otherwise."""
    wanted = {"configure": EVERYTHING, "write": EVERYTHING, "read": read}
    changed = False
    for vhost in api.service.vhosts:
        where = path("permissions", vhost, api.service.access.shovel_user)
        found = await api.get(where) or {}
        if {key: found.get(key) for key in wanted} != wanted:
            await api.put(where, wanted)
            changed = True
    return changed


async def let_shovels_take(api: Api) -> None:
    """A drain from this cluster begins."""
    await _allow(api, EVERYTHING)


async def keep_shovels_out(api: Api, *, at_once: bool = False) -> None:
    """No shovel takes anything out of this cluster, whatever is defined elsewhere; those that deliver here come back.

    `at_once`: their connections end even where they were kept out already. QueueUnreachable when they don't.
    """
    if not await _allow(api, PROBES) and not at_once:
        return
    user = path("connections", "username", api.service.access.shovel_user)
    # A channel keeps what it was allowed when it was opened.
    before = {each["name"] for each in await api.get(user) or []}
    until = asyncio.get_running_loop().time() + ENDED_S
    while before:
        await api.delete(user)
        before &= {each["name"] for each in await api.get(user) or []}
        if before and asyncio.get_running_loop().time() > until:
            raise QueueUnreachable(f"{api.member.name}: {len(before)} connections of shovels do not end")
        if before:
            await asyncio.sleep(0.05)
