"""Read-only names: one A record a member that may be read, changed behind a record of its own.

That record (`_lifeboat_reads-SERVICE` in the zone, wherever the epochs are) is replaced in the same change as the
addresses, and only while it is the one that was seen: of two who lead the names, one is refused. It keeps the epoch,
so that an older run moves nothing back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from temporalio import activity

from activities import epoch as epochs
from activities.addresses import address_of
from activities.names import Record, RecordSet, ask
from activities.zones import names_of
from schemas.failures import EpochSuperseded, NotYet, RouteUnavailable
from schemas.orders import ProofResult
from schemas.read_orders import ReadsOrder
from schemas.topology import DatabaseService
from schemas.zones import Route53Zone, Zone

CONFIRM_S = 2.0
"""What the other authoritative servers get to take a change over; Route 53's take up to a minute."""


class Held(NamedTuple):
    """What stands beside the read-only names: `change` is raised by each change, so that no content comes back."""

    epoch: int
    change: int
    leader: str


async def still_wanted(order: ReadsOrder) -> None:
    """EpochSuperseded once the service's record names a newer epoch, or another leader or candidate."""
    if not order.recorded:
        return
    held = await epochs.read(order.zone, order.service.name)
    if held is None:
        raise EpochSuperseded("the record is gone")
    if held.epoch > order.epoch:
        raise EpochSuperseded(f"epoch {held.epoch} is held by {held.run}")
    if (held.candidate or held.leader) != order.leader:
        raise EpochSuperseded(f"{held.candidate or held.leader} is to lead, by {held.run}, and not {order.leader}")


def _name(zone: Zone, service: str) -> str:
    return f"_lifeboat_reads-{service}.{zone.name}"


def _record(zone: Zone, service: str, held: Held) -> Record:
    text = f'"v=lifeboat1" "epoch={held.epoch}" "change={held.change}" "leader={held.leader}"'
    return Record(_name(zone, service), "TXT", 0, text)


async def read_held(zone: Zone, service: str) -> Held | None:
    """The record as it stands; None when there is none yet. RouteUnavailable when nobody answers."""
    found = await names_of(zone).read(_name(zone, service), "TXT")
    if not found:
        return None
    values = dict(part.partition("=")[::2] for part in found[0].strip('"').split('" "'))
    try:
        return Held(int(values["epoch"]), int(values["change"]), values["leader"])
    except (KeyError, ValueError):
        raise RouteUnavailable(f"{_name(zone, service)} is not Lifeboat's: {found[0]}") from None


def next_record(zone: Zone, service: str, held: Held | None, epoch: int, leader: str) -> Record:
    return _record(zone, service, Held(epoch, held.change + 1 if held is not None else 0, leader))


async def sets_of(service: DatabaseService, members: Sequence[str]) -> list[RecordSet]:
    """Every read-only name with the members' addresses. A member whose host has none here is left out."""
    if service.reads is None or not service.reads.names():
        return []
    found = await asyncio.gather(*(address_of(service.member(name).host) for name in members), return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException) and not isinstance(each, RouteUnavailable):
            raise each
    addresses = tuple(sorted({each for each in found if isinstance(each, str)}))
    return [RecordSet(route.record, "A", route.ttl_s, addresses) for route in service.reads.names()]


async def _stand(zone: Zone, sets: Sequence[RecordSet]) -> bool:
    """Whether every name has these addresses, where changes are made."""
    names = names_of(zone)
    found = await asyncio.gather(*(names.read(each.name, each.kind) for each in sets))
    return all(sorted(there) == list(each.texts) for there, each in zip(found, sets, strict=True))


@activity.defn
async def lead_read_names(order: ReadsOrder) -> ProofResult:
    """Every read-only name leads to the members: in one change, unless a newer epoch or another leader stands there."""
    zone, service = order.zone, order.service
    sets = await sets_of(service, order.members)
    held = await read_held(zone, service.name)
    if held is not None and held.epoch > order.epoch:
        raise EpochSuperseded(f"the read-only names are at epoch {held.epoch}, this run at {order.epoch}")
    await still_wanted(order)
    done = held is not None and (held.epoch, held.leader) == (order.epoch, order.leader)
    if not (done and await _stand(zone, sets)):
        before = _record(zone, service.name, held) if held is not None else None
        after = next_record(zone, service.name, held, order.epoch, order.leader)
        refusal = await names_of(zone).apply(before, after, sets)
        # It may be the answer to our own change whose reply was lost: what stands there now decides.
        if refusal is not None and not (
            await names_of(zone).read(after.name, "TXT") == [after.text] and await _stand(zone, sets)
        ):
            raise NotYet(f"the read-only names changed meanwhile: {refusal}")
    late = await _late(zone, sets)
    names = ", ".join(each.name for each in sets)
    behind = f", not yet at {', '.join(late)}" if late else " at every server"
    return ProofResult(
        acknowledged=not late, evidence=f"{names} leads to {', '.join(order.members) or 'nobody'}{behind}"
    )


async def _late(zone: Zone, sets: Sequence[RecordSet]) -> list[str]:
    """Authoritative servers that do not answer with the addresses; asked again for a while where that can help."""
    try:
        servers = await names_of(zone).servers()
    except RouteUnavailable as error:
        return [error.detail]

    async def behind(server: str) -> bool:
        try:
            answers = await asyncio.gather(*(ask(server, each.name, each.kind) for each in sets))
        except RouteUnavailable:
            return True
        return any(sorted(there) != list(each.texts) for there, each in zip(answers, sets, strict=True))

    loop = asyncio.get_running_loop()
    end = loop.time() + (0 if isinstance(zone, Route53Zone) else CONFIRM_S)
    while True:
        answers = await asyncio.gather(*map(behind, servers))
        late = [server for server, is_behind in zip(servers, answers, strict=True) if is_behind]
        if not late or loop.time() >= end:
            return late
        await asyncio.sleep(0.05)
