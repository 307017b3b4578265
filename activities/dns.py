"""DNS routes: the addresses move in the same change as the epoch's record, or not at all (docs/adr/0014).

Where the epochs are in a bucket, the record is chosen there first. The names then move in one change with a copy of the
record that stands beside them, so that a run whose epoch is older moves none back.
"""

from __future__ import annotations

import asyncio

from temporalio import activity

from activities import epoch as epochs
from activities.addresses import address_of
from activities.epoch_stores import after, as_record, canonical, in_zone
from activities.names import Record, RecordSet, ask
from activities.read_names import next_record, read_held, sets_of
from activities.zones import names_of
from schemas.facts import EpochRecord
from schemas.failures import EpochSuperseded, EpochUnavailable, NotYet, RouteUnavailable
from schemas.orders import DnsOrder, ProofResult
from schemas.topology import DatabaseService

NAMES_S = 2.0
"""What a zone gets in the middle of a failover whose epochs are elsewhere."""


async def _wanted(order: DnsOrder) -> list[Record]:
    if not order.service.dns_routes():
        return []
    address = await address_of(order.service.member(order.target).host)
    return [Record(route.record, "A", route.ttl_s, address) for route in order.service.dns_routes()]


async def _reads(order: DnsOrder) -> list[Record | RecordSet]:
    """The read-only names, which nobody may lead to a member of the old timeline once another acknowledges."""
    service = order.service
    if order.reads is None or not isinstance(service, DatabaseService):
        return []
    if service.reads is None or not service.reads.names():
        return []
    held, sets = await asyncio.gather(read_held(order.zone, order.service.name), sets_of(service, order.reads))
    return [next_record(order.zone, order.service.name, held, order.wanted.epoch, order.target), *sets]


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
    """The record becomes `wanted`, and every name leads to the target: in one change, if the record is still `seen`.

    With epochs in a bucket the choice alone counts here: a zone out of reach holds no promotion up, and the names are
    led on when clients are routed (`lead_names`).
    """
    zone = order.zone
    order = order.model_copy(update={"wanted": after(order.seen, order.wanted)})
    if zone.epochs is None:
        try:
            await _lead(order)
        except RouteUnavailable as error:
            raise EpochUnavailable(error.detail) from error
        return order.wanted
    await epochs.replace(zone, order.service.name, order.seen, order.wanted)
    try:
        async with asyncio.timeout(NAMES_S):
            await _lead(order)
    except (RouteUnavailable, EpochUnavailable, TimeoutError) as error:
        activity.logger.warning("the names do not lead to %s yet: %s", order.target, error)
    return order.wanted


@activity.defn
async def lead_names(order: DnsOrder) -> ProofResult:
    """Every name leads to the target, where the epochs are in a bucket: the record there is chosen already."""
    try:
        await _lead(order.model_copy(update={"wanted": canonical(order.wanted)}))
    except EpochUnavailable as error:
        raise RouteUnavailable(error.detail) from error
    return ProofResult(acknowledged=True, evidence=f"the names lead to {order.target}")


async def _lead(order: DnsOrder) -> None:
    """In one change: the record beside the names, and they themselves. RouteUnavailable when nobody answers."""
    zone, service = order.zone, order.service
    if zone.epochs is not None and not service.dns_routes() and order.reads is None:
        return
    wanted = await _wanted(order)
    held, reads = await asyncio.gather(_beside_names(order), _reads(order))
    if held == order.wanted and await _leads(order, wanted):
        return
    before = as_record(zone, service.name, held) if held is not None else None
    refusal = await names_of(zone).apply(before, as_record(zone, service.name, order.wanted), [*wanted, *reads])
    # It may be the answer to our own change whose reply was lost: what stands there now decides.
    if refusal is not None and not (await in_zone(zone, service.name) == order.wanted and await _leads(order, wanted)):
        raise EpochUnavailable(f"the change was refused: {refusal}")


@activity.defn
async def confirm_names(order: DnsOrder) -> ProofResult:
    """Every authoritative server leads every name to the target."""
    wanted = await _wanted(order)
    servers = await names_of(order.zone).servers() if wanted else []

    async def late_at(server: str) -> list[str]:
        answers = await asyncio.gather(*(ask(server, record.name, record.kind) for record in wanted))
        return [record.name for found, record in zip(answers, wanted, strict=True) if found != [record.text]]

    behind = await asyncio.gather(*map(late_at, servers))
    late = {server: names for server, names in zip(servers, behind, strict=True) if names}
    if late:
        raise NotYet(f"names are still old: {late}")
    names = ", ".join(record.name for record in wanted)
    address = wanted[0].text if wanted else order.target
    return ProofResult(acknowledged=True, evidence=f"{names or 'no name'} leads to {address} at every server")
