"""A service's epoch: one record, changed only by compare-and-set (safety.md, "The epoch").

claim (epoch, run) → choose (candidate) → route (leader, in the same change as the address, activities/dns.py).
"""

from __future__ import annotations

from temporalio import activity

from activities.epoch_stores import canonical, store_of
from schemas.facts import EpochRecord
from schemas.failures import EpochSuperseded, EpochUnavailable
from schemas.orders import ClaimOrder, EstablishOrder, Estate, RecordOrder
from schemas.zones import Zone

RESERVE = "watch/"
"""How the name of a holder begins that has only reserved the epoch (docs/adr/0015)."""


async def read(zone: Zone, service: str) -> EpochRecord | None:
    """The record as it stands; None when there is none yet. EpochUnavailable when nobody answers."""
    return await store_of(zone).read(service)


async def replace(zone: Zone, service: str, seen: EpochRecord | None, wanted: EpochRecord) -> EpochRecord:
    """Make the record `wanted`. EpochSuperseded when another changed it first; EpochUnavailable when nobody answers."""
    return await store_of(zone).replace(service, seen, wanted)


@activity.defn
async def claim_epoch(order: ClaimOrder) -> EpochRecord:
    """Raise the epoch by one for this run. Candidate and sets stay, so that both still bind.

    The watch may have changed the voters since the run looked: the claim rests on what stands there now.
    """
    order = order.model_copy(update={"run": canonical(order.seen.model_copy(update={"run": order.run})).run})
    for _ in range(5):
        held = await read(order.zone, order.service)
        if held is None:
            raise EpochUnavailable("the record is gone")
        if held.epoch > order.seen.epoch and held.run == order.run:
            return held
        # An epoch that a watch holds in reserve is nobody's yet: whoever has the lock claims the one after it.
        if held.epoch != order.seen.epoch and not (held.epoch == order.seen.epoch + 1 and held.run.startswith(RESERVE)):
            raise EpochSuperseded(f"epoch {held.epoch} is held by {held.run}")
        wanted = held.model_copy(update={"epoch": max(held.epoch, order.at_least) + 1, "run": order.run})
        try:
            return await replace(order.zone, order.service, held, wanted)
        except EpochSuperseded:
            continue
    raise EpochUnavailable("the record changes all the time")


@activity.defn
async def write_record(order: RecordOrder) -> EpochRecord:
    """Replace the record within this run's epoch: the choice of a candidate, or a changed voter set."""
    return await replace(order.zone, order.service, order.seen, order.wanted)


@activity.defn
async def read_record(estate: Estate) -> EpochRecord | None:
    """The service's record as it stands."""
    return await read(estate.zone, estate.service.name)


@activity.defn
async def establish_epoch(order: EstablishOrder) -> EpochRecord:
    """The service's record; `first` is written when there is none: the watch's first act."""
    zone, service = order.zone, order.service
    record = await read(zone, service.name)
    if record is not None:
        return record
    return await replace(zone, service.name, None, order.first)
