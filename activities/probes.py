"""Probes: is the primary there, and does a write go through? Each is made from the region of its worker.

A probe is two things at once: `SELECT 1` in a session that is held open, and a new TCP connection on which the server
must answer an SSLRequest. The second needs the postmaster, so a frozen one fails it, and costs a fiftieth of a
new session; the first is reset the moment the server dies, and the next probe starts then.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
from temporalio import activity

from activities.addresses import address_of
from activities.beating import beating
from activities.names import ask
from activities.secrets import resolve
from activities.sessions import BROKEN, Session, open_session
from activities.survey import look, look_around
from activities.zones import names_of
from schemas.facts import Probe, RouteWrite
from schemas.failures import MemberUnreachable, RouteUnavailable, SecretUnavailable
from schemas.orders import Observation, ProbeOrder, Sighting, VerifyOrder, WatchOrder
from schemas.routes import DnsRoute, HAProxyRoute, PgBouncerRoute, Route
from schemas.topology import DatabaseService, Member

_SSL_REQUEST = struct.pack("!II", 8, 80877103)
"""PostgreSQL's frontend protocol, "SSLRequest"."""
_WARM_EVERY_S = 5.0


async def _postmaster_answers(member: Member) -> None:
    reader, writer = await asyncio.open_connection(member.host, member.port)
    try:
        writer.write(_SSL_REQUEST)
        if not await reader.read(1):
            raise ConnectionResetError("closed without an answer")
    finally:
        writer.transport.abort()


class Prober:
    """One region's probes of one member; `lost` is set when the held session breaks."""

    def __init__(self, service: DatabaseService, member: Member, region: str) -> None:
        self.service, self.member, self.region = service, member, region
        self.lost = asyncio.Event()
        self._held: Session | None = None

    async def probe(self) -> Probe:
        """One probe, within `detection.probe_timeout_s`."""
        at = datetime.now(UTC)
        limit = self.service.detection.probe_timeout_s
        try:
            async with asyncio.timeout(limit):
                await self._ask(limit)
        except TimeoutError:
            self.drop()
            return self._result(at, "timeout", f"no answer within {limit} s")
        except MemberUnreachable as error:
            self.drop()
            if isinstance(error.__cause__, asyncpg.TooManyConnectionsError):
                return self._result(at, "alive", "it answers, and has no session free")
            silent = isinstance(error.__cause__, TimeoutError)
            return self._result(at, "timeout" if silent else "refused", error.detail, error.__cause__)
        except (*BROKEN, asyncpg.PostgresError) as error:
            self.drop()
            return self._result(at, "refused", f"{type(error).__name__}: {error}", error)
        return self._result(at, "alive", "")

    def _result(self, at: datetime, outcome: str, detail: str, cause: BaseException | None = None) -> Probe:
        # A reset, or a server that is starting up or shutting down, says nothing of the sessions that are open.
        closed = isinstance(cause, ConnectionRefusedError)
        return Probe.model_validate(
            {
                "region": self.region,
                "member": self.member.name,
                "at": at,
                "outcome": outcome,
                "detail": detail,
                "closed_at": datetime.now(UTC) if closed else None,
            }
        )

    async def _ask(self, limit: float) -> None:
        if self._held is None:
            self.lost.clear()
            self._held = await open_session(self.service, self.member.host, self.member.port, limit=limit)
            self._held.add_termination_listener(lambda _: self.lost.set())
            await self._held.fetchval("SELECT 1")
        else:
            await asyncio.gather(_postmaster_answers(self.member), self._held.fetchval("SELECT 1", timeout=limit))

    def drop(self) -> None:
        if self._held is not None:
            self._held.terminate()
            self._held = None


async def sees_anything(service: DatabaseService, but: str) -> bool:
    """Whether this region reaches any other member's port within 1 s: one that reaches nothing has no vote.

    One member after another, the next when the last has not answered within 0.1 s: each connection costs its server
    a fork, in the very second in which a failover needs the processor.
    """
    others = [member for member in service.members if member.name != but]
    trying: set[asyncio.Task[bool]] = set()
    try:
        async with asyncio.timeout(1.0):
            for number, member in enumerate(others, 1):
                trying.add(asyncio.create_task(_reach(member)))
                wait = 0.1 if number < len(others) else None
                while trying:
                    done, trying = await asyncio.wait(trying, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                    if any(task.result() for task in done):
                        return True
                    if wait is not None:
                        break
    except TimeoutError:
        return False
    finally:
        for task in trying:
            task.cancel()
    return not others


async def _reach(member: Member) -> bool:
    try:
        _, writer = await asyncio.open_connection(member.host, member.port)
    except OSError:
        return False
    writer.transport.abort()
    return True


@activity.defn
async def probe(order: ProbeOrder) -> Probe:
    """One probe from this worker's region, now; `blind` if this region sees no other member either."""
    prober = Prober(order.service, order.service.member(order.member), order.region)
    try:
        result = await prober.probe()
    finally:
        prober.drop()
    if result.outcome != "alive" and not await sees_anything(order.service, order.member):
        return result.model_copy(update={"outcome": "blind"})
    return result


@activity.defn
async def stays_closed(order: ProbeOrder) -> Probe:
    """Probe at the declared interval while nothing listens at the member's port; the first that finds otherwise."""
    prober = Prober(order.service, order.service.member(order.member), order.region)
    try:
        while True:
            result = await prober.probe()
            if result.closed_at is None:
                return result
            activity.heartbeat({"closed": result.closed_at.isoformat()})
            await asyncio.sleep(order.service.detection.interval_s)
    finally:
        prober.drop()


async def _keep_warm(service: DatabaseService, but: str) -> None:
    """Look at every other member, and keep the sessions: a failover then starts without handshakes and planning."""
    await asyncio.gather(*(look(service, member) for member in service.members if member.name != but))


def _count_failure(order: WatchOrder, result: Probe) -> None:
    counter = activity.metric_meter().create_counter("lifeboat_probes_failed", "Probes of the watch that failed")
    about = {"service": order.service.name, "member": order.member, "region": order.region, "outcome": result.outcome}
    counter.add(1, about)


@activity.defn
async def watch_member(order: WatchOrder) -> Sighting:
    """Probe at the declared interval until the member has failed, or (`until: up`) answered, to the declared count.

    Returns only then, so that no history grows while all is well.
    """
    detection = order.service.detection
    prober = Prober(order.service, order.service.member(order.member), order.region)
    loop = asyncio.get_running_loop()
    count, first_failure, warmed = 0, None, 0.0
    looking: asyncio.Task[Observation] | None = None
    warming: asyncio.Task[None] | None = None
    try:
        while True:
            started = loop.time()
            result = await prober.probe()
            failed: bool | None = result.outcome != "alive"
            if failed:
                _count_failure(order, result)
            if failed and not await sees_anything(order.service, order.member):
                # Cut off from everything: this region knows nothing about the member.
                count, first_failure, failed = 0, None, None
            elif failed != (order.until == "down"):
                count, first_failure = 0, None
            else:
                first_failure = first_failure or result.at
                count += 1
            if count == detection.failures - 1 and order.until == "down":
                # The time before the last probe is free: a failover then begins with what was seen meanwhile.
                limit = 0.7 * detection.interval_s
                looking = asyncio.create_task(look_around(order.service, order.zone, limit=limit))
            if count >= detection.failures:
                return Sighting(
                    region=order.region,
                    member=order.member,
                    state=order.until,
                    first_failure=first_failure,
                    at=datetime.now(UTC),
                    last=result,
                    seen=looking.result() if looking is not None and looking.done() else None,
                    detail=f"{result.outcome}: {result.detail}".strip(": "),
                )
            activity.heartbeat({"outcome": result.outcome, "count": count, "at": result.at.isoformat()})
            if failed is False and started - warmed > _WARM_EVERY_S:
                warmed = started
                if warming is None or warming.done():
                    # Not awaited: a member that is silent must not keep this one from being probed.
                    warming = asyncio.create_task(_keep_warm(order.service, order.member))
            rest = detection.interval_s - (loop.time() - started)
            if rest > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(prober.lost.wait() if not failed else asyncio.Event().wait(), rest)
    finally:
        for task in (looking, warming):
            if task is not None:
                task.cancel()
        prober.drop()


async def _address(order: VerifyOrder, route: Route | None) -> tuple[str, int, str]:
    """Where a client of the route connects: host, port, database."""
    if route is None:
        leader = order.service.member(order.expected)
        return leader.host, leader.port, order.service.access.database
    if isinstance(route, DnsRoute):
        servers = await names_of(order.zone).servers()
        found = await ask(servers[-1], route.record, "A")
        if not found:
            raise RouteUnavailable(f"{route.record} has no address")
        return found[0], route.port, order.service.access.database
    if isinstance(route, HAProxyRoute):
        return route.host, route.port, route.database or order.service.access.database
    if isinstance(route, PgBouncerRoute):
        return route.host, route.port, next(iter(route.databases))
    raise RouteUnavailable(f"{route.name} carries no writes")


_WRITE = """
INSERT INTO lifeboat.probe (route, region, run, token) VALUES ($1, $2, $3, $4)
ON CONFLICT (route, region) DO UPDATE SET run = excluded.run, token = excluded.token, at = clock_timestamp()
RETURNING ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int AS timeline,
          host(inet_server_addr()) || ':' || inet_server_port() AS server
"""


DIRECT = "the leader itself"


def name_of(route: Route | None) -> str:
    return route.name if route is not None else DIRECT


async def write_through(order: VerifyOrder, route: Route | None) -> RouteWrite:
    """One probe write through the route and its reading back, each in a session of its own; never an exception.

    None: straight to the leader, where no route of the service carries writes.
    """
    name = name_of(route)
    access = order.service.access
    token = uuid.uuid4().hex
    user = access.probe_user or access.user
    at, server, timeline, error = datetime.now(UTC), "", 0, ""
    try:
        password = resolve(access.probe_password if access.probe_user else access.password) or ""
        host, port, database = await _address(order, route)
        conn = await open_session(order.service, host, port, user=user, password=password, database=database)
        try:
            # One transaction: a transaction pool may give each of asyncpg's round trips another server otherwise.
            async with conn.transaction():
                if order.insists:
                    await conn.execute("SET TRANSACTION READ WRITE")
                row = await conn.fetchrow(_WRITE, name, order.region, order.run, token, timeout=1.5)
            at = datetime.now(UTC)
            if row is None:
                raise MemberUnreachable("the write returned nothing")
            server, timeline = row["server"], row["timeline"]
            async with conn.transaction():
                back = await conn.fetchval(
                    "SELECT token FROM lifeboat.probe WHERE route = $1 AND region = $2", name, order.region
                )
            if back != token:
                error = "the write was not read back"
        finally:
            conn.terminate()
        expected = order.service.member(order.expected)
        if not error and server != f"{await address_of(expected.host)}:{expected.port}":
            error = f"answered by {server}, not by {order.expected}"
    except (
        MemberUnreachable,
        RouteUnavailable,
        SecretUnavailable,
        *BROKEN,
        asyncpg.PostgresError,
    ) as failure:
        error = str(failure) or type(failure).__name__
    return RouteWrite(
        route=name,
        region=order.region,
        at=at,
        ok=not error,
        server=server,
        timeline=timeline,
        error=error,
    )


@activity.defn
async def verify_routes(order: VerifyOrder) -> list[RouteWrite]:
    """Write and read back through every route from this region, again for up to 3 s where it failed."""
    results: dict[str, RouteWrite] = {}
    until = datetime.now(UTC) + timedelta(seconds=3)
    told = order.service.told()
    through: list[Route | None] = [route for route in order.service.routes if route not in told]
    through = through or [None]
    waiting = through
    async with beating("writing through every route"):
        while waiting:
            for write in await asyncio.gather(*(write_through(order, route) for route in waiting)):
                results[write.route] = write
            waiting = [route for route in waiting if not results[name_of(route)].ok]
            if waiting and datetime.now(UTC) > until:
                break
            if waiting:
                await asyncio.sleep(0.05)
    return [results[name_of(route)] for route in through]
