"""The authoritative zone that holds the names of routes, and the epochs."""

from __future__ import annotations

from pydantic import Field

from schemas.base import Declared, SecretRef


class Zone(Declared):
    """The authoritative zone that holds routes and epochs, updated by RFC 2136 with TSIG.

    `servers` are all authoritative servers as `host:port`, the one that takes updates first.
    """

    name: str
    servers: list[str] = Field(min_length=1)
    key_name: str
    key_algorithm: str = "hmac-sha256"
    key_secret: SecretRef
