"""Poolers and proxies, which stand between clients and servers: held while nobody leads, and led to who does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import haproxy, pooler
    from schemas.orders import PoolerOrder, ProofResult, ProxyOrder
    from schemas.routes import Gate, HAProxyRoute, PgBouncerRoute
    from workflows.database import DatabaseRunbook
    from workflows.reasons import reason_of
    from workflows.runbook import STEP

Act = Callable[[Any], Awaitable[ProofResult]]
READS: Mapping[type[Gate], Act] = {PgBouncerRoute: pooler.read_pooler, HAProxyRoute: haproxy.read_proxy}
HOLDS: Mapping[type[Gate], Act] = {PgBouncerRoute: pooler.hold_pooler, HAProxyRoute: haproxy.hold_proxy}
POINTS: Mapping[type[Gate], Act] = {PgBouncerRoute: pooler.point_pooler, HAProxyRoute: haproxy.point_proxy}


class Gating(DatabaseRunbook):
    """Read, hold, resume, open."""

    def __init__(self) -> None:
        super().__init__()
        self._holds: dict[str, asyncio.Future[str]] = {}
        self._openings: dict[str, asyncio.Future[ProofResult]] = {}

    async def gates_out_of_reach(self) -> str:
        """Poolers and proxies that don't answer, and why."""
        gates = self.estate.service.gates()
        acts = (self.gate(READS, route, self.suspect, limit=4, total=4, attempts=1) for route in gates)
        found = await asyncio.gather(*acts, return_exceptions=True)
        failed = [(r.name, each) for r, each in zip(gates, found, strict=True) if isinstance(each, BaseException)]
        for _, error in failed:
            if not isinstance(error, ActivityError):
                raise error
        return "; ".join(f"{name}: {reason_of(error)}" for name, error in failed)

    async def hold_poolers(self) -> list[str]:
        """Poolers and proxies cut and refuse clients. One out of reach serves nobody, and doesn't hold the run up."""
        if self.outage_started is None:
            self.start_clock(workflow.now())

        self._holds = {route.name: asyncio.ensure_future(self._hold(route)) for route in self.estate.service.gates()}
        return list(await asyncio.gather(*self._holds.values()))

    async def _hold(self, route: Gate) -> str:
        try:
            held = await self.gate(HOLDS, route, self.suspect, limit=4, total=4)
        except ActivityError as error:
            return f"{route.name} not held: {reason_of(error)}"
        return held.evidence

    async def gate(
        self,
        acts: Mapping[type[Gate], Act],
        route: Gate,
        target: str,
        *,
        once_it_leads: bool = False,
        after_s: float = 0.0,
        **limits: Any,
    ) -> ProofResult:
        """One act on a pooler or proxy: where its Unix socket or its state file is, or from anywhere."""
        at: dict[str, Any] = {"target": target, "epoch": self.epoch or 0, "once_it_leads": once_it_leads}
        at["service"] = self.estate.service
        if isinstance(route, HAProxyRoute):
            region = route.region if route.socket.startswith("/") or route.state_file else None
            return await self.do(acts[HAProxyRoute], ProxyOrder(route=route, **at), region=region, **limits)
        return await self.do(acts[PgBouncerRoute], PoolerOrder(route=route, after_s=after_s, **at), **limits)

    async def resume_poolers(self) -> None:
        """Undo of the hold: every pooler leads to the old primary again, the others even where one fails."""
        await self.together(
            *(self.gate(POINTS, route, self.suspect, limit=10, total=60) for route in self.estate.service.gates())
        )

    def open_poolers(self, leader: str, title: str, *, after_s: float = 0.0) -> None:
        """Begin to lead the poolers to a member that is being promoted: each lets its clients in once it leads."""
        self._openings = {
            route.name: asyncio.ensure_future(self._open(route, leader, title, after_s))
            for route in self.estate.service.gates()
        }

    async def _open(self, route: Gate, leader: str, title: str, after_s: float) -> ProofResult:
        STEP.set(title)
        if route.name in self._holds:
            # A hold that is still under way would cut the clients that are let in.
            await self._holds[route.name]
        return await self.gate(
            POINTS, route, leader, once_it_leads=True, after_s=after_s, limit=30, total=30, attempts=1
        )

    def give_up_openings(self) -> None:
        """The member will not lead. What is under way is refused by the pooler's epoch, should it go on."""
        for opening in self._openings.values():
            opening.cancel()
        self._openings.clear()

    async def opened(self, route: Gate, leader: str) -> ProofResult:
        """What was begun during the promotion, or, where that failed, anew."""
        begun = self._openings.pop(route.name, None)
        if begun is not None:
            try:
                return await begun
            except ActivityError as error:
                self.note(f"{route.name} did not open by itself: {reason_of(error)}")
        return await self.gate(POINTS, route, leader, limit=8, total=20)
