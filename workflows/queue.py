"""What the queue runbooks share: looking, closing and opening clusters, moving messages, verifying, asking."""

from __future__ import annotations

from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import rabbit_definitions, rabbit_doors, rabbit_drain, rabbit_look, rabbit_nodes, rabbit_routes
    from schemas.decisions import Assessment
    from schemas.facts import EpochRecord, RouteWrite
    from schemas.failures import NotYet
    from schemas.queue_facts import (
        BrokerOrder,
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
    from workflows.policy import queue_moves as moves
    from workflows.reasons import reason_of
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

    async def record_now(self, known: EpochRecord) -> EpochRecord:
        """What was known where the store can't be read: clients wait, and every act asks again."""
        try:
            found = await self.do(rabbit_look.read_queue_record, self.estate, limit=2, total=3, attempts=1)
        except ActivityError as error:
            self.note(f"the record could not be read again: {reason_of(error)}")
            return known
        return found or known

    # Acts within the run's epoch

    def at(self, region: str) -> QueueOrder:
        return QueueOrder(
            service=self.estate.service,
            region=region,
            epoch=self.record.epoch,
            zone=self.estate.zone,
            run=self.record.run,
        )

    def on(self, member: str, *, whatever: bool = False) -> BrokerOrder:
        """One node."""
        return BrokerOrder(
            service=self.estate.service,
            member=member,
            whatever=whatever,
            epoch=self.record.epoch,
            zone=self.estate.zone,
            run=self.record.run,
        )

    def move(self, source: str, target: str, until: datetime | None = None) -> MoveOrder:
        return MoveOrder(**dict(self.at(source)), target=target, until=until)

    async def close(self, region: str, *, total: float | None = 60.0, attempts: int = 0) -> Closed:
        return await self.do(rabbit_doors.close_cluster, self.at(region), limit=25, total=total, attempts=attempts)

    async def open(self, region: str, *, write: bool = True, total: float | None = 60.0) -> list[str]:
        """Without `total` for as long as it takes: clients wait for nothing else."""
        order = DoorOrder(**dict(self.at(region)), write=write)
        return await self.do(rabbit_doors.open_cluster, order, limit=25, total=total)

    async def define(self, source: str, target: str, *, total: float = 60.0) -> Definitions:
        return await self.do(rabbit_definitions.import_definitions, self.move(source, target), limit=30, total=total)

    async def drain(self, source: str, target: str, *, total: float) -> Drained:
        """Lasts as long as there are messages; each attempt goes on with the shovels of the one before.

        It ends by itself, and takes its shovels away, before the engine gives it up: an attempt that is given up goes
        on until it hears of that.
        """
        until = workflow.now() + timedelta(seconds=total - max(min(total / 5, 10.0), 2.0))
        order = self.move(source, target, until)
        return await self.do(rabbit_drain.drain, order, limit=total, total=total, heartbeat=5.0)

    async def count(self, region: str, *, total: float = 40.0) -> Counted:
        return await self.do(rabbit_drain.count_messages, self.at(region), limit=15, total=total)

    async def stop_drain(self, source: str, target: str, *, total: float = 60.0) -> list[str]:
        order = self.move(source, target)
        return await self.do(rabbit_drain.stop_drain, order, limit=10, total=total, heartbeat=None)

    async def start(self, member: str) -> str:
        order = self.on(member)
        limit = self.estate.service.failover.return_s + 60
        try:
            return (await self.do(rabbit_nodes.start_broker, order, limit=limit, total=limit, attempts=1)).evidence
        except ActivityError as error:
            return f"{member} does not start: {reason_of(error)}"

    async def stop(self, member: str) -> tuple[bool, str]:
        order = self.on(member, whatever=True)
        try:
            found = await self.do(rabbit_nodes.stop_broker, order, limit=25, total=30, attempts=1)
        except ActivityError as error:
            return False, f"{member} could not be told: {reason_of(error)}"
        return found.done, found.evidence

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
        region = self.region_of(leader)
        others = [each for each in seen.clusters if each.region != region]
        return policy.unprotected(self.estate.service, seen.cluster(region)) + moves.stray_shovels(others)


def failed(kind: str, text: str) -> ApplicationError:
    """What a comparison found, which trying again can't help."""
    return ApplicationError(text, type=kind, non_retryable=True)


def not_yet(text: str) -> ApplicationError:
    """What a step failed with that no activity failed with."""
    return ApplicationError(str(NotYet(text)), type=NotYet.__name__)
