"""Routes: leading every one to a new primary, and writing through them; and the standbys that follow it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import application, dns, epoch, fencing, probes
    from schemas.facts import EpochRecord, RouteWrite
    from schemas.orders import (
        DnsOrder,
        FileOrder,
        FollowOrder,
        FollowResult,
        HookOrder,
        ProofResult,
        RecordOrder,
        VerifyOrder,
    )
    from schemas.routes import FileRoute, Told
    from schemas.zones import Route53Zone
    from workflows.database_gates import Gating
    from workflows.policy.merge import merge_follows
    from workflows.reasons import reason_of

ROUTE53_S = 90.0
"""Route 53 has its changes at all of its servers within 60 s as a rule (its developer guide, "Change propagation")."""


class Routing(Gating):
    """Lead, tell, confirm, verify; follow."""

    def final_record(self) -> EpochRecord:
        """The record once the candidate leads: its own set binds, and the old one no more."""
        return self.record.model_copy(
            update={
                "leader": self.record.candidate,
                "w": self.w,
                "voters": self.record.candidate_voters,
                "candidate": None,
                "candidate_voters": [],
            }
        )

    async def move_routes(self, leader: str) -> list[str]:
        """Poolers and proxies lead to the new leader, applications are told of it, and the names, which moved with the
        choice, are seen at every server."""
        service = self.estate.service
        works: list[Awaitable[ProofResult]] = [self.opened(route, leader) for route in service.gates()]
        works += [self._tell_application(route, leader) for route in service.told()]
        works.append(self._move_names(leader))
        results = await asyncio.gather(*works, return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        for failure in failed:
            if not isinstance(failure, ActivityError | ApplicationError):
                raise failure
        moved = [result.evidence for result in results if isinstance(result, ProofResult)]
        if failed:
            told = "; ".join(reason_of(failure) for failure in failed)
            if moved:
                told += f"; done: {'; '.join(moved)}"
            raise ApplicationError(told, type="RouteUnavailable")
        return moved

    async def _tell_application(self, route: Told, leader: str) -> ProofResult:
        """Its own configuration names the new leader, where its hosts are."""
        at: dict[str, Any] = {"service": self.estate.service, "target": leader, "epoch": self.epoch or 0}
        longest = 3 * route.timeout_s + 5
        if isinstance(route, FileRoute):
            return await self.do(
                application.write_configuration,
                FileOrder(route=route, **at),
                limit=longest,
                total=longest + 15,
                region=route.region,
                waits_for_worker=10,
            )
        return await self.do(
            application.tell_application, HookOrder(route=route, **at), limit=longest, total=longest + 15
        )

    async def _move_names(self, leader: str) -> ProofResult:
        if not self.recorded:
            await self.record_late()
        order = DnsOrder(
            service=self.estate.service, zone=self.estate.zone, target=leader, seen=self.record, wanted=self.record
        )
        if self.estate.zone.epochs is not None and self.estate.service.dns_routes():
            await self.do(dns.lead_names, order, limit=10, total=20, heartbeat=None)
        total = ROUTE53_S if isinstance(self.estate.zone, Route53Zone) else 20
        return await self.do(dns.confirm_names, order, limit=4, total=total, heartbeat=None)

    async def write_final_record(self) -> None:
        if not self.recorded:
            await self.record_late()
        wanted = self.final_record()
        change = RecordOrder(zone=self.estate.zone, service=self.service_name, seen=self.record, wanted=wanted)
        self.record = await self.do(epoch.write_record, change, limit=4, total=60, heartbeat=None)

    async def write_through_routes(self, leader: str) -> list[RouteWrite]:
        """Every region that has a worker writes through every route."""

        def order_of(region: str) -> VerifyOrder:
            return VerifyOrder(
                service=self.estate.service,
                zone=self.estate.zone,
                region=region,
                run=workflow.info().workflow_id,
                expected=leader,
                insists=self.read_only,
            )

        return await self.written_from_everywhere(probes.verify_routes, order_of, limit=12)

    async def after_undo(self) -> None:
        """Clients were cut off for a while: when the old primary served them again is measured, and not assumed."""
        self.route_writes = await self.write_through_routes(self.suspect)
        self.recovered = self.served_since()
        if self.recovered is None:
            self.tasks.append(f"clients are not served: {self.unserved()}")

    async def let_follow(self, leader: str) -> FollowResult:
        """Every standby but the old primary: one that cascades, from its declared upstream if that follows too."""
        others = [m for m in self.estate.service.members if m.name not in (leader, self.suspect)]
        cascades = {m.name: m.follows for m in others if m.follows not in (None, leader, self.suspect)}
        order = FollowOrder(
            service=self.estate.service,
            leader=leader,
            members=[m.name for m in others if m.name not in cascades],
            epoch=self.record.epoch,
            cascades={name: upstream for name, upstream in cascades.items() if upstream},
            timeline=self.promoted.timeline,
        )
        result = await self.do(fencing.follow_leader, order, limit=30, total=60)
        if not result.unreachable:
            return result
        # Perhaps only from where it was tried.
        order = order.model_copy(update={"members": sorted(result.unreachable), "cascades": {}})
        again = await self.from_everywhere(fencing.follow_leader, order, limit=15)
        return merge_follows([result, *again.values()])
