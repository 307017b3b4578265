"""What is wrong with an estate as it is declared, whatever its servers say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from schemas.ready import Finding
from schemas.topology import DatabaseService
from schemas.zones import Route53Zone
from workflows.policy.ready_sight import Sight, error, graded, warning

_PLAIN = re.compile(r"(?i)(password|passwd|pwd)\s*[=:]\s*['\"]?[^\s'\"$]|[a-z]://[^/@\s:]+:[^/@\s]+@")
"""`password=…` but for `${…}`, and a URL with a password in it."""


def judge(sight: Sight, machine_s: float) -> Iterator[Finding]:
    yield from _plain_passwords(sight)
    yield from _epoch_place(sight)
    yield from _quorum(sight)
    yield from _voters(sight)
    yield from _candidates(sight)
    for member in sight.service.members:
        if sight.may_lead(member.name):
            yield from fence(sight.service, member.name)
    yield from name_ttl(sight.service, machine_s)


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a declaration with its path."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _texts(each, f"{path}.{index}")
    elif isinstance(value, str):
        yield path, value


def _plain_passwords(sight: Sight) -> Iterator[Finding]:
    for path, text in _texts(sight.service.model_dump()):
        if _PLAIN.search(text):
            yield error(
                "plain-password",
                f"topology, services.{sight.service.name}.{path}",
                "a password stands there as plain text, and so in the history of every run",
                "the topology's owner must give a reference (`env:`, `file:`, `aws-sm:`) or a password file instead,"
                " and change the password",
            )


def _epoch_place(sight: Sight) -> Iterator[Finding]:
    zone = sight.estate.zone
    held = {member.region for member in sight.service.members}
    if zone.epochs is not None and zone.epochs.region in held:
        yield warning(
            "epoch-place",
            f"s3://{zone.epochs.bucket}",
            f"the epochs are in {zone.epochs.region}, with which a part of the servers is lost: a failover from there"
            " would take a person's override",
            "the topology's owner should keep them in a region without members",
        )
    if isinstance(zone, Route53Zone) and zone.epochs is None and "us-east-1" in held:
        yield warning(
            "epoch-place",
            zone.name,
            "Route 53 takes changes in us-east-1 alone, with which a part of the servers is lost: a failover from there"
            " would take a person's override",
            "the topology's owner should keep the epochs in a bucket elsewhere (`zone.epochs`)",
        )


def _quorum(sight: Sight) -> Iterator[Finding]:
    quorum, vantages = sight.service.detection.quorum, sight.estate.vantages
    region = sight.service.member(sight.leader).region
    rest = [each for each in vantages if each != region]
    if quorum > len(rest):
        yield warning(
            "quorum",
            sight.service.name,
            f"{quorum} of {len(vantages)} regions must agree, and without {region} only {len(rest)} would be left: its"
            " loss starts no failover by itself",
            "the topology's owner should let another region probe (`detection.vantages`)",
        )
    elif quorum == 1 and len(vantages) > 1:
        yield warning(
            "quorum",
            sight.service.name,
            "one region's view is enough to start a failover, though it may be the one that is cut off",
            "the topology's owner should declare `detection.quorum: 2`",
        )


def _voters(sight: Sight) -> Iterator[Finding]:
    """requirements: one synchronous standby is out of date, since its loss stops every write."""
    policy, name = sight.service.synchronous, sight.service.name
    others = [each for each in policy.voters if each != sight.leader]
    if not policy.voters:
        yield warning(
            "voters",
            name,
            "replication is asynchronous: what a failover loses is not known, and a person must decide on it",
            "the topology's owner should declare two `synchronous.voters` beside the primary",
        )
    elif len(others) <= policy.acknowledgements:
        yield warning(
            "voters",
            name,
            f"{policy.acknowledgements} of {len(others)} voters ({', '.join(others)}) must acknowledge: if one is lost,"
            " writes wait, and after a failover nobody is left to confirm",
            "the topology's owner should declare another voter",
        )


def _candidates(sight: Sight) -> Iterator[Finding]:
    if not [name for name in sight.service.may_be_promoted() if name != sight.leader]:
        yield error(
            "candidates",
            sight.service.name,
            f"nobody but {sight.leader} may be promoted",
            "the topology's owner must declare `failover.candidates`, or voters",
        )


def fence(service: DatabaseService, name: str) -> list[Finding]:
    """With voters their disconnection keeps an old primary from acknowledging; without, only its stop does."""
    member = service.member(name)
    if member.control is not None or member.isolation is not None:
        return []
    return [
        graded(
            not service.synchronous.voters,
            "fence",
            name,
            "it has no node control, so that nothing could stop it",
            "the topology's owner must declare `control` for it",
        )
    ]


def name_ttl(service: DatabaseService, machine_s: float) -> list[Finding]:
    """Clients that keep a name for its TTL come back so much later than the last step."""
    return [
        late_name(service, route.record, route.ttl_s, machine_s)
        for route in service.dns_routes()
        if route.ttl_s + machine_s > service.rto_s
    ]


def late_name(service: DatabaseService, record: str, ttl_s: int, machine_s: float) -> Finding:
    return error(
        "name-ttl",
        record,
        f"its TTL of {ttl_s} s after {machine_s:.1f} s of work is beyond the RTO of {service.rto_s:g} s",
        "the zone's owner must lower the TTL",
    )
