"""Pgpool-II as a read-only route: which of its backends are attached, told and read by PCP (activities/pcp.py).

It has no place for an epoch, so the service's record is read right before each order. What a worker that stood still
between the two does all the same is undone at the next look of who keeps the reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from temporalio import activity

from activities import pcp
from activities.addresses import address_of
from activities.read_names import still_wanted
from schemas.failures import NotYet, RouteUnavailable
from schemas.orders import ProofResult
from schemas.read_orders import PgpoolOrder
from schemas.reads import PgpoolRoute
from schemas.topology import DatabaseService

TAKES_S = 4.0
"""How long Pgpool-II may take for a change: it ends its children, and starts others."""


def _served(route: PgpoolRoute, found: Mapping[int, pcp.Backend]) -> list[str]:
    """Members that clients get; a backend of nobody's is called by its address."""
    names = {number: name for name, number in route.backends.items()}
    return [names.get(number, f"{each.host}:{each.port}") for number, each in sorted(found.items()) if each.serves]


async def served_by(service: DatabaseService, route: PgpoolRoute) -> list[str]:
    """Who is read through it now; RouteUnavailable where its backends are not those that the topology declares."""
    found = await pcp.backends(route)
    await _as_declared(service, route, found)
    return _served(route, found)


async def _as_declared(service: DatabaseService, route: PgpoolRoute, found: Mapping[int, pcp.Backend]) -> None:
    """A number that stands for another server would let a stale one in."""
    for name, number in route.backends.items():
        member, there = service.member(name), found.get(number)
        if there is None:
            raise RouteUnavailable(f"Pgpool-II {route.name} has no backend {number}, which is to be {name}")
        same = there.host == member.host or await address_of(there.host) == await address_of(member.host)
        if not same or there.port != member.port:
            told = f"backend {number} is {there.host}:{there.port}, and {name} is {member.host}:{member.port}"
            raise RouteUnavailable(f"Pgpool-II {route.name}: {told}; its owner must correct one of them")


@activity.defn
async def lead_pgpool(order: PgpoolOrder) -> ProofResult:
    """The members' backends are attached, and all others detached, those first: observed by PCP.

    A member that Pgpool-II took out by itself since, by its own sight of it, is let in again only after `patience_s`.
    """
    route, wanted = order.route, {order.route.backends[name]: name for name in order.members}
    end = asyncio.get_running_loop().time() + TAKES_S
    told: set[int] = set()
    while True:
        found = await pcp.backends(route)
        await _as_declared(order.service, route, found)
        alone = not any(each.serves for number, each in found.items() if number in wanted)
        out = [number for number, each in found.items() if each.serves and number not in wanted]
        into = [
            number
            for number in wanted
            if not found[number].serves and (alone or time.time() - found[number].since >= order.patience_s)
        ]
        if not out and not into:
            break
        # Those that must leave come first, where there are more than Pgpool-II takes at once.
        fresh = [number for number in (*out, *into) if number not in told][: pcp.AT_ONCE]
        if fresh:
            await still_wanted(order)
            await pcp.change(route, [n for n in fresh if n in out], [n for n in fresh if n in into])
            told |= set(fresh)
        if asyncio.get_running_loop().time() > end:
            served = ", ".join(_served(route, await pcp.backends(route))) or "nobody"
            raise NotYet(f"Pgpool-II {route.name} serves {served}, and not {', '.join(order.members) or 'nobody'} yet")
        activity.heartbeat({"out": out, "in": into})
        await asyncio.sleep(0.02)
    serves = _served(route, found)
    missing = [name for name in order.members if name not in serves]
    waits = f", which had taken out {', '.join(missing)} by itself" if missing else ""
    return ProofResult(acknowledged=not missing, evidence=f"{route.name}{waits} serves {', '.join(serves) or 'nobody'}")
