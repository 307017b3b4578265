"""The Sentinels, watched while all is well: one that comes back with what it knew watches a master of the past.

If all of them do, they elect another beside the leader as soon as that old one is down (docs/explanation/safety.md).
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


@activity.defn
async def keep_watch_of_sentinels(order: CacheKeepOrder) -> CacheSeen:
    """Look at the Sentinels twice a second, and return what there is when some of them have watched another than the
    leader, or in another region anybody, in LOOKS looks.
    """
    service = order.service
    region = service.member(order.leader).region
    here = {each.name for each in service.sentinels_of(region)}
    before: dict[str, str] = {}
    count = 0
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
        activity.heartbeat({"watch another": sorted(odd)})
        await asyncio.sleep(EVERY_S)
