"""One lab for the session, started from a user's environment that points at production."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from lab import lab as life
from lab.model import Lab

PRODUCTION = "production.invalid"
"""Whatever reads one of these names ends up in an address that no resolver knows (RFC 2606)."""

HOSTILE = {
    "TEMPORAL_ADDRESS": f"{PRODUCTION}:7233",
    "TEMPORAL_NAMESPACE": PRODUCTION,
    "TEMPORAL_API_KEY": PRODUCTION,
    "TEMPORAL_TLS": "true",
    "AWS_PROFILE": PRODUCTION,
    "AWS_ACCESS_KEY_ID": PRODUCTION,
    "AWS_ENDPOINT_URL": f"https://{PRODUCTION}",
    "PGHOST": PRODUCTION,
    "PGPORT": "1",
    "PGUSER": PRODUCTION,
    "PGPASSWORD": PRODUCTION,
    "PGDATABASE": PRODUCTION,
    "PGSSLMODE": "verify-full",
    "PGOPTIONS": "-c no_such_setting=1",
    "PGTARGETSESSIONATTRS": "standby",
    "PGDATA": f"/{PRODUCTION}",
    "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{PRODUCTION}:4318",
    "HTTPS_PROXY": f"http://{PRODUCTION}:3128",
    "https_proxy": f"http://{PRODUCTION}:3128",
    "all_proxy": f"socks5://{PRODUCTION}:1080",
}


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab with workers and without a watch, so that no fault is answered. Its tests leave it as they found it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in HOSTILE.items():
            patch.setenv(name, value)
        lab = asyncio.run(life.up(watch=False, make_current=False))
    try:
        yield lab
    finally:
        asyncio.run(life.down(lab))
        assert not lab.folder.exists()


def lab_of(profile: str, **options: Any) -> Iterator[Lab]:
    """A lab of this profile, for as long as it is needed."""
    lab = asyncio.run(life.up(profile, make_current=False, **options))
    try:
        yield lab
    finally:
        asyncio.run(life.down(lab))


@pytest.fixture(scope="session")
def cache_lab() -> Iterator[Lab]:
    """A lab of the cache alone, in which nothing of the product runs: only Sentinel acts. Its tests reset it."""
    yield from lab_of("cache", workers=False)


@pytest.fixture(scope="session")
def queue_lab() -> Iterator[Lab]:
    """A lab of the queue alone, in which nothing of the product runs. Its tests reset it."""
    yield from lab_of("queue", workers=False)


@pytest.fixture(scope="session")
def backup_lab() -> Iterator[Lab]:
    """A lab of the database with its backups, in which nothing of the product runs. Its tests reset it."""
    yield from lab_of("backup", workers=False)
