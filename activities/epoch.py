"""A service's epoch: one TXT record in the routing zone, changed only by compare-and-set (safety.md, "The epoch").

claim (epoch, run) → choose (candidate) → route (leader, in the same update as the address). A refusal may be the
answer to our own update whose reply was lost: the record is read, and it's done if it is ours.
"""

from __future__ import annotations

import dns.rcode
import dns.update
from temporalio import activity

from activities import rfc2136
from schemas.facts import EpochRecord
from schemas.failures import EpochSuperseded, EpochUnavailable, RouteUnavailable
from schemas.orders import ClaimOrder, EstablishOrder, Estate, RecordOrder
from schemas.zones import Zone

_TTL = 0
RESERVE = "watch/"
"""How the name of a holder begins that has only reserved the epoch (docs/adr/0015)."""


def record_name(zone: Zone, service: str) -> str:
    return rfc2136.absolute(f"_lifeboat-{service}.{zone.name}")


def to_text(record: EpochRecord) -> str:
    """The record as one TXT record: quoted key=value strings, each of at most 255 bytes (RFC 1035 §3.3)."""
    values = {
        "v": "lifeboat1",
        "epoch": str(record.epoch),
        "run": record.run,
        "leader": record.leader,
        "w": str(record.w),
        "voters": ",".join(record.voters),
        "candidate": record.candidate or "",
        "candidate-voters": ",".join(record.candidate_voters),
        "verdict": record.verdict[:200],
    }
    return " ".join(f'"{_plain(key, value)}"' for key, value in values.items())


def _plain(key: str, value: str) -> str:
    """Without what a zone file would escape, so that text and record are the same to the byte."""
    text = "".join(char if " " <= char <= "~" and char not in '"\\' else "'" for char in value)
    return f"{key}={text}"[:255]


def from_text(text: str) -> EpochRecord:
    """The inverse of `to_text`; EpochUnavailable for a record that is not ours."""
    values: dict[str, str] = {}
    for part in text.strip('"').split('" "'):
        key, _, value = part.partition("=")
        values[key] = value
    if values.get("v") != "lifeboat1":
        raise EpochUnavailable(f"the record is not Lifeboat's: {text}")
    try:
        return EpochRecord(
            epoch=int(values["epoch"]),
            run=values["run"],
            leader=values["leader"],
            w=int(values["w"]),
            voters=[name for name in values["voters"].split(",") if name],
            candidate=values["candidate"] or None,
            candidate_voters=[name for name in values["candidate-voters"].split(",") if name],
            verdict=values["verdict"],
        )
    except (KeyError, ValueError) as error:
        raise EpochUnavailable(f"the record can't be read: {text}: {error}") from error


async def read(zone: Zone, service: str) -> EpochRecord | None:
    """The record at the server that takes updates; None when there is none yet."""
    try:
        found = await rfc2136.ask(zone.servers[0], record_name(zone, service), "TXT")
    except RouteUnavailable as error:
        raise EpochUnavailable(error.detail) from error
    return from_text(found[0]) if found else None


def compare_and_set(
    update: dns.update.UpdateMessage, zone: Zone, service: str, seen: EpochRecord | None, wanted: EpochRecord
) -> None:
    """Add to `update`: only if the record is still `seen` (None: absent), it becomes `wanted` (RFC 2136 §2.4)."""
    name = record_name(zone, service)
    if seen is None:
        update.absent(name, "TXT")
    else:
        update.present(name, "TXT", to_text(seen))
    update.replace(name, _TTL, "TXT", to_text(wanted))


async def replace(zone: Zone, service: str, seen: EpochRecord | None, wanted: EpochRecord) -> EpochRecord:
    """Make the record `wanted`. EpochSuperseded when another changed it first; EpochUnavailable when nobody answers."""
    wanted = from_text(to_text(wanted))
    if await read(zone, service) == wanted:
        return wanted
    update = rfc2136.new_update(zone)
    compare_and_set(update, zone, service, seen, wanted)
    try:
        rcode = await rfc2136.send(zone, update)
    except RouteUnavailable as error:
        raise EpochUnavailable(error.detail) from error
    found = await read(zone, service)
    if found == wanted:
        return wanted
    if rcode == dns.rcode.NOERROR or found is None or found == seen:
        raise EpochUnavailable(f"the update was answered {dns.rcode.to_text(dns.rcode.Rcode(rcode))}")
    raise EpochSuperseded(f"epoch {found.epoch} is held by {found.run}")


@activity.defn
async def claim_epoch(order: ClaimOrder) -> EpochRecord:
    """Raise the epoch by one for this run. Candidate and sets stay, so that both still bind.

    The watch may have changed the voters since the run looked: the claim rests on what stands there now.
    """
    for _ in range(5):
        held = await read(order.zone, order.service)
        if held is None:
            raise EpochUnavailable("the record is gone")
        if held.epoch > order.seen.epoch and held.run == order.run:
            return held
        # An epoch that a watch holds in reserve is nobody's yet: whoever has the lock claims the one after it.
        if held.epoch != order.seen.epoch and not (held.epoch == order.seen.epoch + 1 and held.run.startswith(RESERVE)):
            raise EpochSuperseded(f"epoch {held.epoch} is held by {held.run}")
        wanted = held.model_copy(update={"epoch": max(held.epoch, order.at_least) + 1, "run": order.run, "verdict": ""})
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
