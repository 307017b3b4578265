"""Clients of the read-only routes, and of each answer: who gave it, on which timeline, and when it was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import asyncpg
import dns.asyncquery
import dns.exception
import dns.message

from lab.model import Lab

_READ = """
SELECT host(inet_server_addr()) AS address, (SELECT max(at) FROM lifeboat.heartbeat) AS newest,
       CASE WHEN pg_is_in_recovery() THEN (SELECT received_tli FROM pg_stat_get_wal_receiver())
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline
"""
"""A standby without a receiver has no timeline that counts: it follows nobody."""


@dataclass(frozen=True)
class Read:
    """`began`: seconds since the epoch, when the client looked for a server."""

    route: str
    member: str
    timeline: int | None
    began: float


@dataclass
class Readers:
    """`failed` counts attempts that gave nothing: a route may refuse, but never answer with what is stale."""

    lab: Lab
    reads: list[Read] = field(default_factory=list)
    failed: int = 0

    async def names(self) -> list[str]:
        """Addresses behind the read-only name, as its server has them now."""
        host, _, port = self.lab.dns.partition(":")
        query = dns.message.make_query(urlsplit(self.lab.reads["dns-ro"]).hostname or "", "A")
        answer = await dns.asyncquery.udp(query, host, port=int(port), timeout=2)
        return [record.to_text() for found in answer.answer for record in found]

    async def members_by_name(self) -> set[str]:
        return {self._member(address) for address in await self.names()}

    def _member(self, address: str) -> str:
        return next(node.name for node in self.lab.members() if node.host == address)

    async def read(self, route: str, host: str, port: int) -> None:
        began = time.time()
        try:
            conn = await asyncpg.connect(
                host=host,
                port=port,
                user="lifeboat",
                password=self.lab.secret("lifeboat"),
                database="counting",
                ssl=False,
                timeout=2,
                statement_cache_size=0,
            )
            try:
                row = await conn.fetchrow(_READ, timeout=2)
            finally:
                conn.terminate()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.failed += 1
            return
        assert row is not None
        self.reads.append(Read(route, self._member(row["address"]), row["timeline"], began))

    async def _by_name(self) -> None:
        port = self.lab.members()[0].port
        while True:
            with contextlib.suppress(dns.exception.DNSException, OSError):
                found = await self.names()
                await asyncio.gather(*(self.read("dns-ro", address, port) for address in found))
            await asyncio.sleep(0.05)

    async def _by_pgpool(self) -> None:
        node = self.lab.node("pgpool-east")
        while True:
            await self.read("pgpool-east", node.host, node.port)
            await asyncio.sleep(0.02)

    def since(self, route: str, moment: float) -> list[Read]:
        return [each for each in self.reads if each.route == route and each.began > moment]


@contextlib.asynccontextmanager
async def reading(lab: Lab) -> AsyncIterator[Readers]:
    """Readers through both routes for as long as the block takes."""
    readers = Readers(lab)
    tasks = [asyncio.create_task(readers._by_name()), asyncio.create_task(readers._by_pgpool())]
    try:
        yield readers
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
