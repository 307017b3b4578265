"""The ways by which clients reach whoever leads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Declared, Name, SecretRef


class DnsRoute(Declared):
    """A name in the estate's zone that clients resolve to the leader's address."""

    kind: Literal["dns"] = "dns"
    name: Name
    record: str
    """Fully qualified name, for instance `counting-db.example.com`."""
    port: int = Field(ge=1, le=65535)
    ttl_s: int = Field(default=5, ge=0)


class PgBouncerRoute(Declared):
    """A PgBouncer whose `databases_file` (its `%include`) Lifeboat rewrites and reloads."""

    kind: Literal["pgbouncer"] = "pgbouncer"
    name: Name
    host: str
    port: int = Field(ge=1, le=65535)
    region: Name
    admin_user: str = "lifeboat"
    admin_password: SecretRef | None = None
    databases: dict[str, str]
    """Name that clients use → options after host and port, for instance `{"counting": "dbname=counting"}`."""
    databases_file: str


Route = Annotated[DnsRoute | PgBouncerRoute, Field(discriminator="kind")]
