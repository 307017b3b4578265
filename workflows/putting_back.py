"""Putting a member's own folder back to a moment that a copy has proved, and proving it once more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import damage, data_folder, epoch, in_place
    from schemas.cut_over import CutOverRequest, InPlaceOrder
    from schemas.damage_orders import CheckOrder
    from schemas.facts import EpochRecord
    from schemas.orders import RecordOrder
    from schemas.rejoin import FolderOrder
    from schemas.restores import CopyFacts, CutOverEvidence, Proof
    from workflows.database_return import Returning
    from workflows.policy import cut_over as policy
    from workflows.policy import restore
    from workflows.reasons import reason_of

T = TypeVar("T")

TRIES = 4
AGAIN = timedelta(seconds=1)
CHECKS_S = 600.0
"""How long the newest rows may take, and the owner's queries: what takes longer is undone."""


class PuttingBack(Returning):
    """The candidate of a cut-over, in its own folder."""

    def __init__(self) -> None:
        super().__init__()
        self.request: CutOverRequest
        self.candidate = ""
        self.led_on = 0
        """The timeline of who led."""
        self.touched = False
        """The candidate's folder is not what it was."""
        self.before: EpochRecord
        """The record that bound the leader of before."""
        self.cut = CutOverEvidence()

    def in_place(self) -> InPlaceOrder:
        return InPlaceOrder(
            **self.on_folder(), backup=self.request.backup, moment=self.request.moment, led_on=self.led_on
        )

    def on_folder(self, member: str | None = None) -> dict[str, Any]:
        """What an order on a member's folder says, the candidate's by itself. Its leader is who leads, or led."""
        self.member = member or self.candidate
        return self.folder_order()

    def node_of(self, member: str) -> dict[str, Any]:
        return {name: value for name, value in self.on_folder(member).items() if name != "leader"}

    async def put_back(self) -> CopyFacts:
        """Its own folder, from the same backup and the same WAL as the copy; it then stands where that stood."""
        await self.promise_nothing()
        self.touched, self.member = True, self.candidate
        await self.stop_member()
        limit = restore.time_limit(self.request.backup.bytes, self.request.rate_bytes_s)
        long: dict[str, Any] = {"limit": limit, "total": 2 * limit, "heartbeat": 10.0, "attempts": 1}
        await self.tried(lambda: self.do(in_place.restore_in_place, self.in_place(), **long))

        async def recovered() -> CopyFacts:
            folder = FolderOrder.model_validate(self.on_folder())
            await self.do(data_folder.start_standby, folder, **long)
            return await self.do(in_place.until_it_stands, self.in_place(), **long)

        return await self.tried(recovered)

    async def tried(self, action: Callable[[], Awaitable[T]]) -> T:
        """A few times, since a store may refuse for a moment, and not for long: clients wait. An abort is obeyed."""
        for left in reversed(range(TRIES)):
            try:
                return await self.unless_aborted(action())
            except ActivityError as error:
                if not left:
                    raise
                self.note(f"tried again: {reason_of(error)}")
                await workflow.sleep(AGAIN, summary="before it is tried again")
        raise AssertionError("the last round returns or raises")

    async def promise_nothing(self) -> None:
        """The record says that nobody had to acknowledge. What the voters have among them is not all that was
        acknowledged any more, once one of them is put back: whoever comes after must not rest on it.
        """
        self.before = self.record
        if not self.record.w:
            return
        wanted = self.record.model_copy(update={"w": 0, "voters": []})
        order = RecordOrder(zone=self.estate.zone, service=self.service_name, seen=self.record, wanted=wanted)
        self.record = await self.do(epoch.write_record, order, limit=4, total=60, heartbeat=None)

    def stands_text(self, facts: CopyFacts) -> str:
        return f"{self.candidate} stands at {restore.lsn_text(facts.replayed)}"

    async def prove(self, facts: CopyFacts) -> str:
        """By the clauses of the copy, and against the copy itself; then its rows, as far as they were told."""
        given, service = self.request, self.estate.service
        heartbeat = service.detection.heartbeat
        proofs = restore.prove(
            facts,
            given.backup,
            given.moment,
            given.repository,
            system=given.copy_facts.system,
            heartbeat=heartbeat,
        )
        proofs += policy.compare(facts, given.copy_facts)
        if service.member(self.candidate).data is not None and service.backup is not None:
            proofs += await self.ask_rows()
        self.cut = self.cut.model_copy(update={"candidate": self.candidate, "proofs": proofs})
        if told := restore.failed_text(proofs):
            raise ApplicationError(f"{self.candidate} is not what the copy was: {told}", type="NotTheCopy")
        return restore.hold_text(proofs)

    async def ask_rows(self) -> list[Proof]:
        """The newest rows and the owner's queries; where the member's own socket is not declared, nobody can ask.

        Clients wait, so that an abort is obeyed at once, and they may not take as long as on the copy.
        """
        data = self.estate.service.member(self.candidate).data
        if data is None or data.socket is None:
            why = f"{self.candidate} has no `data.socket` in the topology"
            return [Proof(clause="the owner's queries", ok=None, evidence=why)]
        order = CheckOrder(**self.node_of(self.candidate))
        long: dict[str, Any] = {"limit": CHECKS_S, "total": CHECKS_S, "heartbeat": 10.0}
        newest = await self.unless_aborted(self.do(damage.look_at_newest_rows, order, **long))
        answers = await self.unless_aborted(self.do(damage.ask_leader, order, **long))
        return [*policy.compare_rows(newest, self.request.newest), *answers]

    async def stop_candidate(self) -> None:
        """Nobody starts it before it is rebuilt."""
        self.member = self.candidate
        await self.stop_member()
