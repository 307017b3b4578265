"""What procedures share whose clients find the leader by its name alone: the record and the names, in one change."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities import dns, epoch
    from schemas.attributes import watch_id
    from schemas.facts import EpochRecord
    from schemas.orders import DnsOrder, EstablishOrder, RecordOrder
    from workflows.procedure import Procedure
    from workflows.runbook import Ended


class LeadingByName(Procedure):
    """A procedure whose record names who leads, beside the names that lead there."""

    record: EpochRecord

    def __init__(self) -> None:
        super().__init__()
        self._undo_claimed = False

    async def record_or_first(self, record: EpochRecord | None, epoch_error: str, leader: str) -> EpochRecord:
        """The record; a first one where the service has none yet."""
        if record is not None:
            return record
        if epoch_error:
            raise Ended("refused", f"the epoch store can't be read: {epoch_error}")
        first = EpochRecord(epoch=0, run="none", leader=leader, w=0, voters=[])
        order = EstablishOrder.model_validate(
            {"service": self.estate.service, "zone": self.estate.zone, "first": first}
        )
        return await self.do(epoch.establish_epoch, order)

    async def choose_and_lead(self, target: str, verdict: str, *, total: float = 60.0) -> EpochRecord:
        """The choice stands in the record, and every name leads to it, in one change."""
        wanted = self.record.model_copy(update={"candidate": target, "candidate_voters": [], "verdict": verdict})
        return await self._lead(target, wanted, total)

    async def lead_back(self, leader: str) -> None:
        """Nobody is chosen any more, and the names lead back."""
        await self.claim_once()
        cleared = self.record.model_copy(update={"leader": leader, "candidate": None, "verdict": ""})
        self.record = await self._lead(leader, cleared, 300.0)

    def _names(self, target: str, wanted: EpochRecord) -> DnsOrder:
        return DnsOrder.model_validate(
            {
                "service": self.estate.service,
                "zone": self.estate.zone,
                "target": target,
                "seen": self.record,
                "wanted": wanted,
            }
        )

    async def _lead(self, target: str, wanted: EpochRecord, total: float) -> EpochRecord:
        order = self._names(target, wanted)
        record = await self.do(dns.choose_and_lead, order, limit=4, total=total, heartbeat=None)
        if self.estate.zone.epochs is not None and self.estate.service.dns_routes():
            led = order.model_copy(update={"seen": record, "wanted": record})
            await self.do(dns.lead_names, led, limit=10, total=60, heartbeat=None)
        return record

    async def confirm_names(self, leader: str) -> str:
        order = self._names(leader, self.record)
        return (await self.do(dns.confirm_names, order, limit=4, total=30, heartbeat=None)).evidence

    async def claim_once(self) -> None:
        """Whatever is undone is done behind a newer epoch than what was done: late attempts change nothing."""
        if not self._undo_claimed:
            self.record = await self.claim_after(self.record, " (undo)")
            self._undo_claimed = True

    async def settle(self, leader: str, *, total: float = 60.0) -> None:
        """The record names who leads, and nobody is about to."""
        if self.record.leader == leader and self.record.candidate is None:
            return
        wanted = self.record.model_copy(update={"leader": leader, "candidate": None, "verdict": ""})
        order = RecordOrder(zone=self.estate.zone, service=self.service_name, seen=self.record, wanted=wanted)
        self.record = await self.do(epoch.write_record, order, limit=4, total=total, heartbeat=None)

    async def tell_watch(self) -> None:
        """Its probes would call the planned move an outage."""
        try:
            await workflow.get_external_workflow_handle(watch_id(self.service_name)).signal(
                "stand_back", workflow.info().workflow_id
            )
        except FailureError:
            self.note("no watch runs")
