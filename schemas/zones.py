"""The authoritative zone that holds the names of routes, and where the epochs are: in it, or in a bucket."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from schemas.base import Declared, SecretRef, Url


class S3Epochs(Declared):
    """Epochs as one object a service, changed only by conditional writes (`If-Match`, `If-None-Match`).

    The bucket lies outside the regions that are failed over. `endpoint`: a URL, for a store that is not AWS's.
    """

    kind: Literal["s3"] = "s3"
    bucket: str
    prefix: str = "lifeboat/epochs"
    region: str
    endpoint: Url | None = None


class Rfc2136Zone(Declared):
    """A zone updated by RFC 2136 with TSIG.

    `servers` are all authoritative servers as `host:port`, the one that takes updates first.
    """

    kind: Literal["rfc2136"] = "rfc2136"
    name: str
    servers: list[str] = Field(min_length=1)
    key_name: str
    key_algorithm: str = "hmac-sha256"
    key_secret: SecretRef
    epochs: S3Epochs | None = None
    """Where the epochs are; in the zone itself when it is not said."""


class Route53Zone(Declared):
    """A hosted zone of Route 53, changed by batches that take effect whole or not at all.

    `servers` are the authoritative servers that confirm a change; those of the zone's delegation set when none are
    named. A private zone has none of its own, so name the resolvers of its networks.
    """

    kind: Literal["route53"]
    name: str
    hosted_zone_id: str
    servers: list[str] = Field(default_factory=list)
    endpoint: Url | None = None
    epochs: S3Epochs | None = None


DEFAULT_KIND = "rfc2136"


def _kind_by_default(given: Any) -> Any:
    return {"kind": DEFAULT_KIND, **given} if isinstance(given, dict) else given


Zone = Annotated[
    Annotated[Rfc2136Zone | Route53Zone, Field(discriminator="kind")],
    BeforeValidator(_kind_by_default),
]
