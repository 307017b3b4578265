"""DNS routes: the address moves in the same update as the epoch's record, or not at all."""

from __future__ import annotations

import asyncio

import dns.rcode
from temporalio import activity

from activities import epoch as epochs
from activities import rfc2136
from schemas.failures import EpochSuperseded, NotYet, RouteUnavailable
from schemas.orders import DnsOrder, ProofResult


@activity.defn
async def move_address(order: DnsOrder) -> ProofResult:
    """Lead the name to the target while the record is still this run's, and see it at every authoritative server."""
    zone, route, service = order.zone, order.route, order.service
    address = service.member(order.target).host
    name = rfc2136.absolute(route.record)
    held = await epochs.read(zone, service.name)
    if held not in (order.seen, order.wanted) or held is None:
        raise EpochSuperseded(f"epoch {held.epoch} is held by {held.run}" if held else "the record is gone")
    if held != order.wanted or await rfc2136.ask(zone.servers[0], name, "A") != [address]:
        update = rfc2136.new_update(zone)
        epochs.compare_and_set(update, zone, service.name, held, order.wanted)
        update.replace(name, route.ttl_s, "A", address)
        rcode = await rfc2136.send(zone, update)
        # Our own update, its reply lost, would have made the prerequisite false: what stands there now decides.
        if rcode != dns.rcode.NOERROR and await rfc2136.ask(zone.servers[0], name, "A") != [address]:
            raise RouteUnavailable(
                f"{route.record}: the update was refused: {dns.rcode.to_text(dns.rcode.Rcode(rcode))}"
            )
    answers = await asyncio.gather(*(rfc2136.ask(server, name, "A") for server in zone.servers))
    behind = [server for server, found in zip(zone.servers, answers, strict=True) if found != [address]]
    if behind:
        raise NotYet(f"{route.record} is still old at {', '.join(behind)}")
    return ProofResult(acknowledged=True, evidence=f"{route.record} is {address} at {len(zone.servers)} servers")
