"""One step towards the synchronous set that the policy wants: leader and record, in the order that is safe."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import epoch, promotion
    from schemas.facts import EpochRecord
    from schemas.orders import NamesOrder, RecordOrder
    from schemas.topology import DatabaseService
    from schemas.zones import Zone
    from workflows.policy.voters import Change, render_names

Act = Callable[[Any, Any], Awaitable[object]]


async def carry_out_change(
    service: DatabaseService, zone: Zone, record: EpochRecord, change: Change, held: int, *, act: Act
) -> None:
    """`held`: the epoch that the leader's node is stamped with for it. policy/voters.py says why this order."""
    wanted = record.model_copy(update={"w": change.w, "voters": change.voters})
    write = RecordOrder(zone=zone, service=service.name, seen=record, wanted=wanted)
    names = NamesOrder(service=service, leader=record.leader, names=render_names(change.w, change.voters), epoch=held)
    if change.record_first:
        await act(epoch.write_record, write)
    if change.apply:
        await act(promotion.apply_names, names)
    if change.confirm:
        # What was acknowledged before may be on a voter that has just left: one commit more is on those that stay.
        await act(promotion.confirm_commit, names)
    if not change.record_first:
        await act(epoch.write_record, write)
