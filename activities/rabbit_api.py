"""The management API of a RabbitMQ cluster, through the first of its nodes that answers. Every call has a limit."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx

from activities import epoch as epochs
from activities.secrets import resolve
from schemas.failures import EpochSuperseded, EpochUnavailable, QueueRefused, QueueUnreachable
from schemas.queue import Broker, QueueService
from schemas.queue_facts import QueueOrder

CALL_S = 3.0
CONNECT_S = 1.0
AT_ONCE = 20
RECORD_S = 1.0
"""How long an act waits for the epoch's record. A store that is out of reach keeps nobody from it."""
_FAILED = (httpx.TransportError, httpx.TimeoutException, OSError)


def path(*parts: str) -> str:
    """A path below /api, each part escaped: virtual hosts and queues may be called anything, `/` included."""
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


class Api:
    """One node's API. QueueUnreachable when it does not answer, QueueRefused when it says no.

    With `order` nothing is changed through it once a newer run has been there: EpochSuperseded.
    """

    def __init__(self, service: QueueService, member: Broker, client: httpx.AsyncClient) -> None:
        self.service, self.member, self._client = service, member, client
        self.order: QueueOrder | None = None

    async def _may_act(self) -> None:
        if self.order is not None:
            await must_be_newest(self, self.order)

    async def ask(self, method: str, where: str, body: object = None, *, limit: float = CALL_S) -> httpx.Response:
        try:
            return await self._client.request(
                method, where, json=body, timeout=httpx.Timeout(limit, connect=min(limit, CONNECT_S))
            )
        except _FAILED as error:
            raise QueueUnreachable(
                f"{self.member.name}: {method} {where}: {str(error) or type(error).__name__}"
            ) from error

    async def get(self, where: str, *, limit: float = CALL_S) -> Any:
        """What is there; None where nothing is."""
        answer = await self.ask("GET", where, limit=limit)
        if answer.status_code == 404:
            return None
        self._must_be_done(answer)
        try:
            return answer.json()
        except json.JSONDecodeError as error:
            raise QueueUnreachable(f"{self.member.name}: GET {where} gave no JSON") from error

    async def put(self, where: str, body: object, *, limit: float = CALL_S) -> None:
        await self._may_act()
        self._must_be_done(await self.ask("PUT", where, body, limit=limit))

    async def post(self, where: str, body: object, *, limit: float = CALL_S) -> None:
        await self._may_act()
        self._must_be_done(await self.ask("POST", where, body, limit=limit))

    async def delete(self, where: str) -> bool:
        """Whether it was there."""
        await self._may_act()
        answer = await self.ask("DELETE", where)
        if answer.status_code == 404:
            return False
        self._must_be_done(answer)
        return True

    async def delete_all(self, places: list[str]) -> list[bool]:
        """Many at once, behind one look at the epoch; whether each was there."""
        await self._may_act()
        some = asyncio.Semaphore(AT_ONCE)

        async def one(where: str) -> bool:
            async with some:
                answer = await self.ask("DELETE", where)
            if answer.status_code != 404:
                self._must_be_done(answer)
            return answer.status_code != 404

        return await asyncio.gather(*map(one, places))

    def _must_be_done(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        said = f"{self.member.name}: {answer.request.method} {answer.request.url.path} was answered"
        said += f" {answer.status_code}"
        # What is wrong with a shovel is told with its addresses, and these hold a password.
        if "/parameters/shovel" not in answer.request.url.path:
            said += f": {answer.text[:300]}"
        if answer.status_code >= 500:
            raise QueueUnreachable(said)
        raise QueueRefused(said)


@contextlib.asynccontextmanager
async def api_of(service: QueueService, member: Broker) -> AsyncIterator[Api]:
    """The API of one node."""
    access = service.access
    scheme = "https" if access.tls else "http"
    auth = (access.user, resolve(access.password) or "")
    verify: Any = access.tls_ca if access.tls_ca is not None else True
    base = f"{scheme}://{member.host}:{member.management_port}"
    # trust_env: a proxy of the worker's is none of the brokers'.
    async with httpx.AsyncClient(base_url=base, auth=auth, verify=verify, trust_env=False) as client:
        yield Api(service, member, client)


@contextlib.asynccontextmanager
async def cluster_api(service: QueueService, region: str) -> AsyncIterator[Api]:
    """That of the first node of the region's cluster that answers; QueueUnreachable when none does."""
    why: list[str] = []
    for member in service.cluster(region):
        async with api_of(service, member) as api:
            try:
                await api.get("/api/whoami", limit=CONNECT_S)
            except QueueUnreachable as error:
                why.append(error.detail)
                continue
            yield api
            return
    raise QueueUnreachable("; ".join(why) or f"{service.name} has no member in {region}")


# The epoch on the cluster


def stamp_path(service: QueueService) -> str:
    return path("global-parameters", f"lifeboat-{service.name}")


async def read_stamp(api: Api) -> int:
    found = await api.get(stamp_path(api.service))
    value = found.get("value", {}) if isinstance(found, dict) else {}
    return int(value.get("epoch", 0)) if isinstance(value, dict) else 0


async def stamp(api: Api, order: QueueOrder) -> None:
    """Leave the run's epoch on the cluster; EpochSuperseded when a newer run has been there.

    Read and written in two calls: what it keeps out is a late attempt of a run that is long over, and not two runs at
    once, between which the epoch's own record has decided.
    """
    if await must_be_newest(api, order) < order.epoch:
        await api.put(stamp_path(api.service), {"value": {"epoch": order.epoch}})


async def must_be_newest(api: Api, order: QueueOrder) -> int:
    """The epoch that the cluster carries; EpochSuperseded when it, or the record, is a newer run's."""
    found = await read_stamp(api)
    if found > order.epoch:
        raise EpochSuperseded(f"{api.member.name} carries epoch {found}, this run has {order.epoch}")
    if order.zone is not None:
        with contextlib.suppress(EpochUnavailable, TimeoutError):
            async with asyncio.timeout(RECORD_S):
                held = await epochs.read(order.zone, order.service.name)
            if held is not None and held.epoch > order.epoch and held.run != order.run:
                raise EpochSuperseded(f"epoch {held.epoch} is held by {held.run}, this run has {order.epoch}")
    return found


@contextlib.asynccontextmanager
async def acting(order: QueueOrder, region: str | None = None) -> AsyncIterator[Api]:
    """The API of the order's cluster, or another region's, behind the order's epoch: looked at before each call that
    changes something, and once more at the end, since a worker may have been frozen in between."""
    async with cluster_api(order.service, region or order.region) as api:
        await stamp(api, order)
        api.order = order
        yield api
        await must_be_newest(api, order)
