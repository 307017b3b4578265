"""DNS routes: the addresses move in the same change as the epoch's record, or not at all (docs/adr/0014).

Where the epochs are in a bucket, the record is chosen there first. The names then move in one change with a copy of the
record that stands beside them, so that a run whose epoch is older moves none back.
"""

from __future__ import annotations

import asyncio

from temporalio import activity

from activities import epoch as epochs
from activities.addresses import address_of
from activities.epoch_stores import as_record, canonical, in_zone
from activities.names import Record, ask
from activities.zones import names_of
from schemas.facts import EpochRecord
from schemas.failures import EpochSuperseded, EpochUnavailable, NotYet, RouteUnavailable
from schemas.orders import DnsOrder, ProofResult


async def _wanted(order: DnsOrder) -> list[Record]:
    address = await address_of(order.service.member(order.target).host)
    return [Record(route.record, "A", route.ttl_s, address) for route in order.service.dns_routes()]


async def _leads(order: DnsOrder, wanted: list[Record]) -> bool:
    """Whether every name leads to the target, where changes are made."""
    names = names_of(order.zone)
    answers = await asyncio.gather(*(names.read(record.name, record.kind) for record in wanted))
    return all(found == [record.text] for found, record in zip(answers, wanted, strict=True))


async def _beside_names(order: DnsOrder) -> EpochRecord | None:
    """The record beside the names, which this order may replace. EpochSuperseded when it is another run's."""
    held = await in_zone(order.zone, order.service.name)
    if order.zone.epochs is None:
        ours = held is not None and held in (order.seen, order.wanted)
    else:
        ours = held is None or held.epoch <= order.wanted.epoch
    if not ours:
        raise EpochSuperseded(f"epoch {held.epoch} is held by {held.run}" if held else "the record is gone")
    return held


@activity.defn
async def choose_and_lead(order: DnsOrder) -> EpochRecord:
    """The record becomes `wanted`, and every name leads to the target: in one change, if the record is still `seen`."""
    zone, service = order.zone, order.service
    order = order.model_copy(update={"wanted": canonical(order.wanted)})
    if zone.epochs is not None:
        await epochs.replace(zone, service.name, order.seen, order.wanted)
    try:
        wanted = await _wanted(order)
        held = await _beside_names(order)
        if held == order.wanted and await _leads(order, wanted):
            return order.wanted
        before = as_record(zone, service.name, held) if held is not None else None
        refusal = await names_of(zone).apply(before, as_record(zone, service.name, order.wanted), wanted)
        if refusal is None:
            return order.wanted
        # It may be the answer to our own change whose reply was lost: what stands there now decides.
        if await in_zone(zone, service.name) == order.wanted and await _leads(order, wanted):
            return order.wanted
    except RouteUnavailable as error:
        raise EpochUnavailable(error.detail) from error
    raise EpochUnavailable(f"the change was refused: {refusal}")


@activity.defn
async def confirm_names(order: DnsOrder) -> ProofResult:
    """Every authoritative server leads every name to the target."""
    servers = await names_of(order.zone).servers()
    wanted = await _wanted(order)

    async def late_at(server: str) -> list[str]:
        answers = await asyncio.gather(*(ask(server, record.name, record.kind) for record in wanted))
        return [record.name for found, record in zip(answers, wanted, strict=True) if found != [record.text]]

    behind = await asyncio.gather(*map(late_at, servers))
    late = {server: names for server, names in zip(servers, behind, strict=True) if names}
    if late:
        raise NotYet(f"names are still old: {late}")
    names = ", ".join(record.name for record in wanted)
    address = await address_of(order.service.member(order.target).host)
    return ProofResult(acknowledged=True, evidence=f"{names or 'no name'} leads to {address} at every server")
