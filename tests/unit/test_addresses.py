"""Servers may be declared by name: an A record, a DNS message and the check of who answered take the address."""

from __future__ import annotations

import pytest

from activities import rfc2136
from activities.addresses import address_of
from schemas.failures import RouteUnavailable


async def test_an_address_is_taken_as_it_is() -> None:
    assert await address_of("10.1.2.3") == "10.1.2.3"


async def test_a_name_is_resolved() -> None:
    assert await address_of("localhost") == "127.0.0.1"


async def test_a_name_that_nobody_knows_says_so() -> None:
    """RFC 2606: no resolver knows it."""
    with pytest.raises(RouteUnavailable, match=r"the name pg\.invalid has no address here: \S+"):
        await address_of("pg.invalid")


async def test_a_name_server_may_be_declared_by_name() -> None:
    """dnspython itself takes addresses only. Nothing listens at port 9 (RFC 863)."""
    with pytest.raises(RouteUnavailable, match=r"DNS server localhost:9: "):
        await rfc2136.ask("localhost:9", "counting.db.example.com.", "A")
