"""Is the cache's master there, is it still the one, and does a write go through? Each is asked from a region."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from datetime import UTC, datetime, timedelta

from temporalio import activity

from activities.addresses import address_of
from activities.beating import beating
from activities.cache_survey import Names, look_around, look_at_sentinel, names_by_address, read_member
from activities.names import ask
from activities.redis_sessions import ErrorReply, Talk, talk, to_member
from activities.secrets import resolve
from activities.zones import names_of
from schemas.cache import CacheMember, CacheService
from schemas.cache_facts import CacheFacts, CacheSeen
from schemas.cache_orders import CacheProbeOrder, CacheSighting, CacheVerifyOrder, CacheWatchOrder
from schemas.facts import Probe, RouteWrite
from schemas.failures import CacheUnreachable, EpochUnavailable, RouteUnavailable, SecretUnavailable
from schemas.routes import DnsRoute

SENTINELS = "sentinels"
"""The route of clients that ask the Sentinels."""
NO_SENTINEL = "no Sentinel answers"
"""What is wrong with it when there is nobody to ask."""


class Prober:
    """One region's probes of one server, on a connection that is held; `facts` is what the last good one saw."""

    def __init__(self, service: CacheService, member: CacheMember, region: str) -> None:
        self.service, self.member, self.region = service, member, region
        self.facts: CacheFacts | None = None
        self._names: Names | None = None
        self._held: Talk | None = None
        self._stack = contextlib.AsyncExitStack()

    async def probe(self) -> Probe:
        """One probe, within `detection.probe_timeout_s`. One that loads its data is not there yet."""
        at = datetime.now(UTC)
        limit = self.service.detection.probe_timeout_s
        try:
            async with asyncio.timeout(limit):
                facts = await self._ask(limit)
        except TimeoutError:
            await self.drop()
            return self._result(at, "timeout", f"no answer within {limit} s")
        except ErrorReply as error:  # -BUSY, for instance: it answers, and serves nobody
            await self.drop()
            return self._result(at, "refused", str(error))
        except (CacheUnreachable, SecretUnavailable) as error:
            await self.drop()
            silent = isinstance(error.__cause__, TimeoutError) or "imeout" in error.detail
            return self._result(at, "timeout" if silent else "refused", error.detail)
        if facts.loading:
            return self._result(at, "refused", "it loads its data")
        self.facts = facts
        return self._result(at, "alive", "" if facts.role == "master" else f"it is a replica of {facts.follows}")

    def _result(self, at: datetime, outcome: str, detail: str) -> Probe:
        return Probe.model_validate(
            {"region": self.region, "member": self.member.name, "at": at, "outcome": outcome, "detail": detail}
        )

    async def _ask(self, limit: float) -> CacheFacts:
        if self._names is None:
            self._names = await names_by_address(self.service)
        if self._held is None:
            self._held = await self._stack.enter_async_context(to_member(self.service, self.member.name, limit=limit))
        return await read_member(self._held, self._names)

    async def drop(self) -> None:
        self._held = None
        with contextlib.suppress(CacheUnreachable):
            await self._stack.aclose()
        self._stack = contextlib.AsyncExitStack()


async def sees_anything(service: CacheService, but: str) -> bool:
    """Whether this region reaches any other server's or Sentinel's port within 1 s: else it has no vote."""
    others = [(each.host, each.port) for each in service.members if each.name != but]
    others += [(each.host, each.port) for each in service.sentinels]

    async def reach(host: str, port: int) -> bool:
        try:
            async with asyncio.timeout(1.0):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            return False
        writer.transport.abort()
        return True

    return not others or any(await asyncio.gather(*(reach(*each) for each in others)))


@activity.defn
async def probe_master(order: CacheProbeOrder) -> Probe:
    """One probe from this worker's region, now; `blind` if this region sees nothing else either."""
    prober = Prober(order.service, order.service.member(order.member), order.region)
    try:
        result = await prober.probe()
    finally:
        await prober.drop()
    if result.outcome != "alive" and not await sees_anything(order.service, order.member):
        return result.model_copy(update={"outcome": "blind"})
    return result


@activity.defn
async def watch_master(order: CacheWatchOrder) -> CacheSighting:
    """Probe at the declared interval until the master has failed (`down`), or answered (`up`), to the declared count;
    or until it is a replica, since somebody else moved it (`moved`). Returns only then.
    """
    detection = order.service.detection
    prober = Prober(order.service, order.service.member(order.member), order.region)
    loop = asyncio.get_running_loop()
    count, first_failure = 0, None
    moved, turned = 0, None
    looking: asyncio.Task[CacheSeen] | None = None
    try:
        while True:
            started = loop.time()
            result = await prober.probe()
            failed: bool | None = result.outcome != "alive"
            replica = not failed and prober.facts is not None and prober.facts.role != "master"
            moved = moved + 1 if replica else 0
            turned = (turned or result.at) if replica else None
            if failed and not await sees_anything(order.service, order.member):
                count, first_failure, failed = 0, None, None
            elif failed != (order.until == "down"):
                count, first_failure = 0, None
            else:
                first_failure = first_failure or result.at
                count += 1
            if failed and count == max(detection.failures - 1, 1) and order.until == "down":
                looking = asyncio.create_task(look_around(order.service, order.zone, limit=0.7 * detection.interval_s))
            if count >= detection.failures or moved >= detection.failures:
                return CacheSighting(
                    region=order.region,
                    member=order.member,
                    state="moved" if moved >= detection.failures else order.until,
                    first_failure=first_failure or turned,
                    at=datetime.now(UTC),
                    last=result,
                    last_seen=prober.facts,
                    seen=looking.result() if looking is not None and looking.done() else None,
                )
            activity.heartbeat({"outcome": result.outcome, "count": count, "at": result.at.isoformat()})
            await asyncio.sleep(max(detection.interval_s - (loop.time() - started), 0))
    finally:
        if looking is not None:
            looking.cancel()
        await prober.drop()


async def write_through(order: CacheVerifyOrder, route: DnsRoute) -> RouteWrite:
    """One write and its reading back through the name, as a client: never an exception."""
    service, access = order.service, order.service.access
    token, key = uuid.uuid4().hex, f"lifeboat:probe:{order.region}"
    at, server, error = datetime.now(UTC), "", ""
    try:
        servers = await names_of(order.zone).servers()
        found = await ask(servers[-1], route.record, "A")
        if not found:
            raise RouteUnavailable(f"{route.record} has no address")
        place = CacheMember(name=route.name, host=found[0], port=route.port, region=order.region)
        tls = (access.tls_ca or True) if access.tls else False
        async with talk(place, access.user, resolve(access.password), tls=tls) as asked:
            role = (await asked("ROLE"))[0]
            server = f"{place.host}:{place.port}"
            if role != "master":
                raise RouteUnavailable(f"{server} is a {role}")
            await asked("SET", key, token, "EX", 3600)
            at = datetime.now(UTC)
            if await asked("GET", key) != token:
                error = "the write was not read back"
        expected = service.member(order.expected)
        if not error and server != f"{await address_of(expected.host)}:{expected.port}":
            error = f"answered by {server}, not by {order.expected}"
    except (CacheUnreachable, RouteUnavailable, EpochUnavailable, SecretUnavailable, ErrorReply) as failure:
        error = str(failure)
    return RouteWrite(route=route.name, region=order.region, at=at, ok=not error, server=server, error=error)


async def by_sentinels(order: CacheVerifyOrder) -> RouteWrite:
    """Whether clients that ask the Sentinels are led to the leader: by most of those that answer.

    The one that carried an election out says so last, once every replica follows: a client finds its answer to be a
    replica by then, and asks the next.
    """
    region = order.service.member(order.expected).region
    there = order.service.sentinels_of(region)
    looked = await asyncio.gather(*(look_at_sentinel(order.service, each) for each in there))
    reached = [each for each in looked if each.reachable]
    wrong = [f"{each.sentinel} says {each.master or 'nothing'}" for each in reached if each.master != order.expected]
    error = "; ".join(wrong) if len(wrong) * 2 >= len(reached) else ""
    error = error if reached else NO_SENTINEL
    return RouteWrite(route=SENTINELS, region=order.region, at=datetime.now(UTC), ok=not error, error=error)


@activity.defn
async def verify_cache_routes(order: CacheVerifyOrder) -> list[RouteWrite]:
    """Through every name, and by the Sentinels, from this region; again for up to 5 s where it failed."""
    results: dict[str, RouteWrite] = {}
    until = datetime.now(UTC) + timedelta(seconds=5)
    async with beating("writing through every route"):
        while True:
            waiting = [route for route in order.service.routes if not _good(results, route.name)]
            works = [write_through(order, route) for route in waiting]
            if order.by_sentinels and not _good(results, SENTINELS):
                works.append(by_sentinels(order))
            for write in await asyncio.gather(*works):
                results[write.route] = write
            if all(write.ok for write in results.values()) or datetime.now(UTC) > until:
                return list(results.values())
            await asyncio.sleep(0.05)


def _good(results: dict[str, RouteWrite], name: str) -> bool:
    return name in results and results[name].ok
