"""What the queue runbooks share: looking, closing and opening clusters, moving messages, verifying, asking."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import rabbit_definitions, rabbit_doors, rabbit_drain, rabbit_look, rabbit_routes
    from schemas.decisions import Assessment
    from schemas.facts import RouteWrite
    from schemas.failures import NotYet
    from schemas.queue_facts import (
        Closed,
        Counted,
        Definitions,
        DoorOrder,
        Drained,
        MoveOrder,
        QueueEstate,
        QueueObservation,
        QueueOrder,
        RouteCheck,
    )
    from workflows.by_name import LeadingByName
    from workflows.policy import queue as policy
    from workflows.runbook import Ended


class QueueRunbook(LeadingByName):
    """A runbook on the RabbitMQ clusters of one service, behind its epoch."""

    estate: QueueEstate
    estate_type = QueueEstate
    kind = "queue service"
    assessment: Assessment

    def __init__(self) -> None:
        super().__init__()
        self.candidate = ""
        self.led = ""
        """Whom clients were led to."""
        self.receipt = ""

    def leads_now(self) -> str | None:
        return self.led or None

    def lost_text(self) -> str:
        return self.receipt

    def region_of(self, member: str) -> str:
        return self.estate.service.member(member).region

    async def look(self) -> QueueObservation:
        """From every region: a worker that is cut off from a part of the estate would call it dead."""
        views = await self.from_everywhere(rabbit_look.observe_queue, self.estate, limit=12)
        if views:
            return policy.merge(list(views.values()))
        return await self.do(rabbit_look.observe_queue, self.estate, limit=15, total=40, heartbeat=None)

    async def ask_about(self, text: str, *, needs_override: bool, machine_s: float) -> str:
        """A person's approval; anything else ends the run."""
        decision = await self.ask(text, self.assessment.digest, needs_override=needs_override, machine_s=machine_s)
        self.decided = workflow.now()
        if decision.answer == "approved":
            return f"approved by {decision.by}"
        if self._abort is not None:
            raise Ended("aborted", self.aborted_by())
        raise Ended("rejected" if decision.answer == "rejected" else "expired", f"{decision.answer} by {decision.by}")

    # Acts within the run's epoch

    def at(self, region: str) -> QueueOrder:
        return QueueOrder(service=self.estate.service, region=region, epoch=self.record.epoch)

    def move(self, source: str, target: str) -> MoveOrder:
        return MoveOrder(service=self.estate.service, region=source, target=target, epoch=self.record.epoch)

    async def close(self, region: str, *, total: float = 60.0, attempts: int = 0) -> Closed:
        return await self.do(rabbit_doors.close_cluster, self.at(region), limit=25, total=total, attempts=attempts)

    async def open(self, region: str, *, write: bool = True) -> list[str]:
        order = DoorOrder(service=self.estate.service, region=region, epoch=self.record.epoch, write=write)
        return await self.do(rabbit_doors.open_cluster, order, limit=10, total=60, heartbeat=None)

    async def define(self, source: str, target: str, *, total: float = 60.0) -> Definitions:
        return await self.do(rabbit_definitions.import_definitions, self.move(source, target), limit=30, total=total)

    async def drain(self, source: str, target: str, *, total: float) -> Drained:
        """Lasts as long as there are messages; each attempt goes on with the shovels of the one before."""
        return await self.do(rabbit_drain.drain, self.move(source, target), limit=total, total=total, heartbeat=5.0)

    async def count(self, region: str) -> Counted:
        return await self.do(rabbit_drain.count_messages, self.at(region), limit=10, total=40)

    async def stop_drain(self, source: str, target: str) -> list[str]:
        order = self.move(source, target)
        return await self.do(rabbit_drain.stop_drain, order, limit=10, total=15, heartbeat=None)

    # Routes and the end

    async def write_through_routes(self, leader: str) -> list[RouteWrite]:
        """Every region that has a worker publishes through every name, into every virtual host."""

        def order_of(region: str) -> RouteCheck:
            return RouteCheck(service=self.estate.service, zone=self.estate.zone, region=region, expected=leader)

        return await self.written_from_everywhere(rabbit_routes.verify_queue_routes, order_of, limit=20)

    async def verify_leader(self, leader: str) -> str:
        """Every route serves the leader: each must be seen good by a region."""
        self.route_writes = await self.write_through_routes(leader)
        self.recovered = self.served_since()
        if self.recovered is None:
            raise not_yet(f"not every route serves {leader}: {self.unserved()}")
        names = ", ".join(route.name for route in self.estate.service.routes) or "the node itself"
        return f"published with confirm and `mandatory`, and read back, through {names}"

    async def after_undo(self) -> None:
        """When the source served clients again is measured, and not assumed."""
        self.route_writes = await self.write_through_routes(self.suspect)
        self.recovered = self.served_since()
        if self.recovered is None:
            self.tasks.append(f"clients are not served: {self.unserved()}")

    async def look_at_protection(self, leader: str) -> list[str]:
        seen = await self.look()
        return policy.unprotected(self.estate.service, seen.cluster(self.region_of(leader)))


def not_yet(text: str) -> ApplicationError:
    """What a step failed with that no activity failed with."""
    return ApplicationError(str(NotYet(text)), type=NotYet.__name__)
