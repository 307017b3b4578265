"""DNS routes: the addresses move in the same update as the epoch's record, or not at all (docs/adr/0014)."""

from __future__ import annotations

import asyncio

import dns.rcode
from temporalio import activity

from activities import epoch as epochs
from activities import rfc2136
from activities.addresses import address_of
from schemas.facts import EpochRecord
from schemas.failures import EpochSuperseded, EpochUnavailable, NotYet, RouteUnavailable
from schemas.orders import DnsOrder, ProofResult


async def _elsewhere(order: DnsOrder, server: str) -> list[str]:
    """The routes' names that a server does not lead to the target."""
    address = await address_of(order.service.member(order.target).host)
    names = [rfc2136.absolute(route.record) for route in order.service.dns_routes()]
    answers = await asyncio.gather(*(rfc2136.ask(server, name, "A") for name in names))
    return [name for name, found in zip(names, answers, strict=True) if found != [address]]


@activity.defn
async def choose_and_lead(order: DnsOrder) -> EpochRecord:
    """The record becomes `wanted`, and every name leads to the target: in one update, if the record is still `seen`."""
    zone, service = order.zone, order.service
    held = await epochs.read(zone, service.name)
    if held is None or held not in (order.seen, order.wanted):
        raise EpochSuperseded(f"epoch {held.epoch} is held by {held.run}" if held else "the record is gone")
    try:
        if held == order.wanted and not await _elsewhere(order, zone.servers[0]):
            return held
        address = await address_of(service.member(order.target).host)
        update = rfc2136.new_update(zone)
        epochs.compare_and_set(update, zone, service.name, held, order.wanted)
        for route in service.dns_routes():
            update.replace(rfc2136.absolute(route.record), route.ttl_s, "A", address)
        rcode = await rfc2136.send(zone, update)
        if rcode == dns.rcode.NOERROR:
            return order.wanted
        # It may be the answer to our own update whose reply was lost: what stands there now decides.
        if await epochs.read(zone, service.name) == order.wanted and not await _elsewhere(order, zone.servers[0]):
            return order.wanted
    except RouteUnavailable as error:
        raise EpochUnavailable(error.detail) from error
    raise EpochUnavailable(f"the update was refused: {dns.rcode.to_text(dns.rcode.Rcode(rcode))}")


@activity.defn
async def confirm_names(order: DnsOrder) -> ProofResult:
    """Every authoritative server leads every name to the target."""
    zone = order.zone
    behind = await asyncio.gather(*(_elsewhere(order, server) for server in zone.servers))
    late = {server: names for server, names in zip(zone.servers, behind, strict=True) if names}
    if late:
        raise NotYet(f"names are still old: {late}")
    names = ", ".join(route.record for route in order.service.dns_routes())
    address = await address_of(order.service.member(order.target).host)
    return ProofResult(acknowledged=True, evidence=f"{names or 'no name'} leads to {address} at every server")
