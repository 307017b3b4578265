"""HAProxy: hold, point and let in, through its runtime API.

Every server but the leader's is in maintenance, and sessions on those are shut down: health checks alone would let
clients back to an old primary that answers again. The epoch, and who leads by it, stand in a variable of the HAProxy
process. An order looks and acts within one session of the API, which HAProxy closes when it is idle (`stats timeout`,
10 s by default), so that a worker that was frozen for longer acts no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from temporalio import activity

from activities.files import replace_file
from activities.leading import until_it_leads
from schemas.failures import EpochSuperseded, NotYet, RouteUnavailable
from schemas.orders import ProofResult, ProxyOrder
from schemas.routes import HAProxyRoute

LIMIT_S = 3.0
"""Of one session of the API, the waiting for a promotion apart."""
_FORCED = 0x01
"""SRV_ADMF_FMAINT of `srv_admin_state`: in maintenance because somebody said so."""
_RUNNING = 2
"""SRV_ST_RUNNING of `srv_op_state`."""


class Led(NamedTuple):
    """What the last order left in HAProxy; `leader` is "" while clients are held."""

    epoch: int
    leader: str


class Api:
    """One interactive session of the runtime API (Management Guide, section 9.3)."""

    def __init__(self, route: HAProxyRoute, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.route, self._reader, self._writer = route, reader, writer

    async def ask(self, command: str) -> str:
        self._writer.write(command.encode() + b"\n")
        await self._writer.drain()
        return (await self._reader.readuntil(b"\n> ")).decode(errors="replace").removesuffix("> ").strip()

    async def order(self, command: str) -> None:
        """A command that answers nothing when it is carried out."""
        if answer := await self.ask(command):
            raise RouteUnavailable(f"{self.route.name}: HAProxy answers `{command}` with: {answer}")

    async def states(self) -> dict[str, tuple[int, int]]:
        """Operational and administrative state of each declared server, by its member."""
        text = await self.ask(f"show servers state {self.route.backend}")
        lines = [line.split() for line in text.splitlines()]
        fields = next((line[1:] for line in lines if line[:1] == ["#"]), [])
        rows = [dict(zip(fields, line, strict=False)) for line in lines if len(line) == len(fields)]
        found = {row["srv_name"]: (int(row["srv_op_state"]), int(row["srv_admin_state"])) for row in rows}
        missing = [server for server in self.route.servers.values() if server not in found]
        if missing:
            told = f"has no server {', '.join(missing)} in its backend {self.route.backend}"
            raise RouteUnavailable(f"{self.route.name}: HAProxy {told}")
        return {member: found[server] for member, server in self.route.servers.items()}

    async def led(self) -> Led:
        """By what the last order left; epoch 0 when there was none since HAProxy has started."""
        match = re.search(r"value=<(\d+):(.*)>", await self.ask(f"get var {_variable(self.route)}"))
        return Led(int(match[1]), match[2]) if match else Led(0, "")

    async def remember(self, led: Led) -> None:
        variable = _variable(self.route)
        # `set var` is an experiment in HAProxy 2.4 to 2.7. Each of two commands on a line would answer by itself.
        await self.ask("experimental-mode on")
        await self.ask(f"set var {variable} str({led.epoch}:{led.leader})")
        if await self.led() != led:
            raise RouteUnavailable(f"{self.route.name}: HAProxy does not keep {variable}; it must be 2.4 or newer")

    async def keep_out(self, member: str) -> None:
        """No new session to the member's server, and none of the old ones."""
        place = f"{self.route.backend}/{self.route.servers[member]}"
        await self.order(f"set server {place} state maint")
        await self.order(f"shutdown sessions server {place}")

    async def let_in(self, member: str) -> None:
        await self.order(f"set server {self.route.backend}/{self.route.servers[member]} state ready")


def _variable(route: HAProxyRoute) -> str:
    return "proc.lifeboat_" + "".join(char if char.isalnum() else f"_{ord(char):x}" for char in route.backend)


@contextlib.asynccontextmanager
async def api(route: HAProxyRoute) -> AsyncIterator[Api]:
    """A session of the API; RouteUnavailable when it can't be reached, ends, or takes longer than LIMIT_S."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(LIMIT_S):
            if route.socket.startswith("/"):
                reader, writer = await asyncio.open_unix_connection(route.socket)
            else:
                host, _, port = route.socket.rpartition(":")
                reader, writer = await asyncio.open_connection(host, int(port))
            session = Api(route, reader, writer)
            await session.ask("prompt")
            yield session
    except (OSError, EOFError, TimeoutError) as error:
        told = str(error) or type(error).__name__
        raise RouteUnavailable(f"{route.name}: HAProxy's runtime API at {route.socket}: {told}") from error
    finally:
        if writer is not None:
            writer.transport.abort()


def _refuse_older(order: ProxyOrder, led: Led) -> None:
    if led.epoch > order.epoch:
        raise EpochSuperseded(f"{order.route.name} is at epoch {led.epoch}, this run at {order.epoch}")


@activity.defn
async def read_proxy(order: ProxyOrder) -> ProofResult:
    """Whether the runtime API answers, and knows every declared server. Nothing is changed."""
    route = order.route
    async with api(route) as session:
        await session.states()
        if (level := await session.ask("show cli level")) != "admin":
            told = f"its runtime API has `level {level}`, and takes no orders; its owner must declare `level admin`"
            raise RouteUnavailable(f"{route.name}: {told}")
    if route.state_file is not None and not os.access(Path(route.state_file).parent, os.W_OK):
        raise RouteUnavailable(f"{route.name}: {route.state_file} can't be written from this worker")
    return ProofResult(acknowledged=True, evidence=f"{route.name} answers")


@activity.defn
async def hold_proxy(order: ProxyOrder) -> ProofResult:
    """Cut every session of the backend, and refuse new ones until it is led on.

    Nothing to do once the route leads to another member at this epoch: a late attempt must not cut it again.
    """
    route, held = order.route, Led(order.epoch, "")
    elsewhere = ProofResult(acknowledged=False, evidence=f"{route.name} already leads elsewhere")
    async with api(route) as session:
        led = await session.led()
        _refuse_older(order, led)
        if led.epoch == order.epoch and led.leader:
            return elsewhere
        await session.remember(held)
        for member in route.servers:
            await session.keep_out(member)
        if (now := await session.led()) != held:
            # Led on between this order's look and its act: whoever leads by now gets its clients back.
            if now.leader in route.servers:
                await session.let_in(now.leader)
            return elsewhere
        open_still = [member for member, (_, admin) in (await session.states()).items() if not admin & _FORCED]
    if open_still:
        raise NotYet(f"{route.name} still lets clients to {', '.join(open_still)}")
    return ProofResult(acknowledged=False, evidence=f"{route.name} holds {len(route.servers)} servers")


@activity.defn
async def point_proxy(order: ProxyOrder) -> ProofResult:
    """Only the target's server is let in, sessions of the others are ended, observed in the servers' states.

    `once_it_leads`: the others are kept out at once, and the target is let in when it is seen to lead.
    """
    route, service = order.route, order.service
    async with api(route) as session:
        _refuse_older(order, await session.led())
        for member, (_, admin) in (await session.states()).items():
            if member != order.target and not admin & _FORCED:
                await session.keep_out(member)
    if order.once_it_leads:
        await until_it_leads(service, service.member(order.target))
    async with api(route) as session:
        _refuse_older(order, await session.led())
        await session.remember(Led(order.epoch, order.target))
        for member in route.servers:
            if member != order.target:
                await session.keep_out(member)
        await session.let_in(order.target)
        _refuse_older(order, await session.led())
        states = await session.states()
        text = await session.ask(f"show servers state {route.backend}")
    await asyncio.to_thread(_keep_state, route, text)
    wrong = [
        member
        for member, (running, admin) in states.items()
        if (admin & _FORCED or running != _RUNNING if member == order.target else not admin & _FORCED)
    ]
    if wrong:
        raise NotYet(f"{route.name} does not lead to {order.target} alone yet: look at {', '.join(wrong)}")
    return ProofResult(acknowledged=True, evidence=f"{route.name} leads to {order.target}")


def _keep_state(route: HAProxyRoute, text: str) -> None:
    if route.state_file is None:
        return
    try:
        replace_file(Path(route.state_file), text + "\n")
    except OSError as error:
        raise RouteUnavailable(f"{route.name}: {route.state_file}: {error.strerror}") from error
