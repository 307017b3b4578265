"""Who comes back from the past, watched while all is well: Sentinels with what they knew, and masters that led once.

If all Sentinels of a region came back so, they would elect another beside the leader as soon as that old one is down.
"""

from __future__ import annotations

import asyncio

from temporalio import activity

from activities.cache_survey import look_around, look_at_sentinel
from schemas.cache_facts import CacheSeen
from schemas.cache_orders import CacheKeepOrder

EVERY_S = 0.5
LOOKS = 4
"""One that lags behind the others catches up by itself within two seconds; all of them elect after down-after."""
SERVERS_S = 5.0
"""Sentinels that know a server turn it around by themselves."""


@activity.defn
async def keep_watch_of_returns(order: CacheKeepOrder) -> CacheSeen:
    """Look at the Sentinels twice a second, and return what there is when some of them have watched another than the
    leader, or in another region anybody, in LOOKS looks; or when a server has led beside it for two looks, SERVERS_S
    apart.
    """
    service = order.service
    region = service.member(order.leader).region
    here = {each.name for each in service.sentinels_of(region)}
    loop = asyncio.get_running_loop()
    before: dict[str, str] = {}
    count, beside, next_look = 0, set[str](), loop.time() + SERVERS_S
    while True:
        found = await asyncio.gather(*(look_at_sentinel(service, each) for each in service.sentinels))
        odd = {
            each.sentinel: each.master
            for each in found
            if each.reachable and each.master != (order.leader if each.sentinel in here else "")
        }
        count = count + 1 if odd and odd == before else int(bool(odd))
        before = odd
        if count >= LOOKS:
            return await look_around(service, order.zone)
        if loop.time() > next_look:
            next_look = loop.time() + SERVERS_S
            seen = await look_around(service, order.zone)
            masters = {each.member for each in seen.masters()} - {order.leader}
            if masters & beside:
                return seen
            beside = masters
        activity.heartbeat({"watch another": sorted(odd), "lead beside": sorted(beside)})
        await asyncio.sleep(EVERY_S)
