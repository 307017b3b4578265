"""Where a service's epoch record is kept, and changed only by compare-and-set: in the zone, or in a bucket.

Both answer the same way. A refusal may be the answer to our own change whose reply was lost, so `replace` reads what
stands there afterwards: it's done if it is ours.
"""

from __future__ import annotations

import hashlib
import json
from typing import Protocol

from pydantic import ValidationError

from activities.aws import FAILED, call, client, code_of
from activities.names import Record
from activities.zones import names_of
from schemas.facts import EpochRecord
from schemas.failures import EpochSuperseded, EpochUnavailable, RouteUnavailable
from schemas.zones import S3Epochs, Zone

_TTL = 0
_MISSING = {"NoSuchKey", "404"}
_OTHERS_CAME_FIRST = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


class EpochStore(Protocol):
    """EpochUnavailable: nobody answers, and a change may have taken effect."""

    async def read(self, service: str) -> EpochRecord | None:
        """The service's record; None when there is none yet."""

    async def replace(self, service: str, seen: EpochRecord | None, wanted: EpochRecord) -> EpochRecord:
        """Make the record `wanted` if it is still `seen` (None: absent). EpochSuperseded when another came first."""


def store_of(zone: Zone) -> EpochStore:
    return ZoneStore(zone) if zone.epochs is None else S3Store(zone, zone.epochs)


def decide(seen: EpochRecord | None, wanted: EpochRecord, found: EpochRecord | None, answer: str) -> EpochRecord:
    """What a change came to, by what stands there afterwards."""
    if found == wanted:
        return wanted
    if found is None or found == seen:
        raise EpochUnavailable(f"the change was answered {answer or 'as done'}, and is not there")
    raise EpochSuperseded(f"epoch {found.epoch} is held by {found.run}")


# One TXT record a service


def record_name(zone: Zone, service: str) -> str:
    return f"_lifeboat-{service}.{zone.name}"


def as_record(zone: Zone, service: str, record: EpochRecord) -> Record:
    return Record(record_name(zone, service), "TXT", _TTL, to_text(record))


def to_text(record: EpochRecord) -> str:
    """The record as one TXT record: quoted key=value strings, each of at most 255 bytes (RFC 1035 §3.3)."""
    values = {
        "v": "lifeboat1",
        "epoch": str(record.epoch),
        # A record of before there was a count of changes must be matched to the letter.
        **({"change": str(record.change)} if record.change else {}),
        "run": _short(record.run, 240),
        "leader": record.leader,
        "w": str(record.w),
        "voters": ",".join(record.voters),
        "candidate": record.candidate or "",
        "candidate-voters": ",".join(record.candidate_voters),
        "verdict": _short(record.verdict, 200),
    }
    return " ".join(f'"{_plain(key, value)}"' for key, value in values.items())


def _short(text: str, limit: int) -> str:
    """Of what is for people; a longer one differs from its beginning by the digest at the end."""
    if len(text) <= limit:
        return text
    return f"{text[: limit - 9]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _plain(key: str, value: str) -> str:
    """Without what a zone file would escape, so that text and record are the same to the byte."""
    text = "".join(char if " " <= char <= "~" and char not in '"\\' else "'" for char in value)
    if len(key) + 1 + len(text) > 255:
        # Never cut: a voter that is missing from the record would be missing from R + W > N.
        raise EpochUnavailable(f"{key} is longer than a TXT string may be (255 bytes); give the members shorter names")
    return f"{key}={text}"


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
            change=int(values.get("change", "0")),
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


def canonical(record: EpochRecord) -> EpochRecord:
    """The record as a store gives it back."""
    return from_text(to_text(record))


def after(seen: EpochRecord | None, wanted: EpochRecord) -> EpochRecord:
    """The record that follows `seen`, as a store gives it back: `wanted`, numbered as the next change."""
    number = seen.change + 1 if seen is not None else 0
    return canonical(wanted.model_copy(update={"change": number}))


async def in_zone(zone: Zone, service: str) -> EpochRecord | None:
    """The record that stands beside the names; RouteUnavailable when nobody answers."""
    found = await names_of(zone).read(record_name(zone, service), "TXT")
    return from_text(found[0]) if found else None


class ZoneStore:
    """The record beside the names that it guards."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone

    async def read(self, service: str) -> EpochRecord | None:
        try:
            return await in_zone(self.zone, service)
        except RouteUnavailable as error:
            raise EpochUnavailable(error.detail) from error

    async def replace(self, service: str, seen: EpochRecord | None, wanted: EpochRecord) -> EpochRecord:
        wanted = after(seen, wanted)
        if await self.read(service) == wanted:
            return wanted
        before = as_record(self.zone, service, seen) if seen is not None else None
        try:
            refusal = await names_of(self.zone).apply(before, as_record(self.zone, service, wanted), [])
        except RouteUnavailable as error:
            raise EpochUnavailable(error.detail) from error
        return decide(seen, wanted, await self.read(service), refusal or "")


# One object a service


class S3Store:
    """One object a service, written only where its ETag is the one that was read (conditional writes)."""

    def __init__(self, zone: Zone, where: S3Epochs) -> None:
        self.where = where
        self.folder = "/".join(part.strip("/") for part in (where.prefix, zone.name) if part)

    def _key(self, service: str) -> str:
        return f"{self.folder}/{service}.json"

    async def _get(self, service: str) -> tuple[EpochRecord | None, str]:
        """The record and its ETag."""
        place = f"s3://{self.where.bucket}/{self._key(service)}"
        try:
            aws = client("s3", self.where.region, self.where.endpoint)
            found = await call(aws, "get_object", Bucket=self.where.bucket, Key=self._key(service))
            body = await call(found["Body"], "read")
        except FAILED as error:
            if code_of(error) in _MISSING:
                return None, ""
            raise EpochUnavailable(f"{place}: {error}") from error
        try:
            return EpochRecord.model_validate(json.loads(body)), str(found["ETag"])
        except (ValueError, ValidationError) as error:
            raise EpochUnavailable(f"{place} is not Lifeboat's: {str(error).splitlines()[0]}") from error

    async def read(self, service: str) -> EpochRecord | None:
        return (await self._get(service))[0]

    async def replace(self, service: str, seen: EpochRecord | None, wanted: EpochRecord) -> EpochRecord:
        wanted = after(seen, wanted)
        found, etag = await self._get(service)
        if found == wanted:
            return wanted
        if found != seen:
            return decide(seen, wanted, found, "")
        condition = {"IfNoneMatch": "*"} if found is None else {"IfMatch": etag}
        refusal = await self._put(service, wanted, condition)
        if refusal:
            return decide(seen, wanted, await self.read(service), refusal)
        if found is None and not await self._put(service, wanted, condition):
            raise EpochUnavailable(f"{self.where.bucket}: it keeps no condition of a write (If-None-Match), as S3 does")
        return wanted

    async def _put(self, service: str, record: EpochRecord, condition: dict[str, str]) -> str:
        """The refusal, because the condition does not hold; "" when it is written."""
        try:
            await call(
                client("s3", self.where.region, self.where.endpoint),
                "put_object",
                Bucket=self.where.bucket,
                Key=self._key(service),
                Body=record.model_dump_json(indent=1).encode(),
                ContentType="application/json",
                **condition,
            )
        except FAILED as error:
            if code_of(error) in _OTHERS_CAME_FIRST:
                return code_of(error)
            raise EpochUnavailable(f"s3://{self.where.bucket}/{self._key(service)}: {error}") from error
        return ""
