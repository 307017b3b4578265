"""Failing a lab over by hand, without the product: right or wrong, as whoever calls it does the steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import dns.query
import dns.rcode
import dns.tsigkeyring
import dns.update
import psycopg
from psycopg.rows import dict_row

from lab import ledger
from lab.command import run
from lab.config import conninfo, postgresql_conf
from lab.layout import DATABASES, RECORD, ZONE
from lab.ledger import Entry
from lab.model import Lab, Node
from lab.owner import write_private
from lab.secrets import KEY_NAME, SUPERUSER
from lab.waiting import until
from lab.world import server_env
from tests.lab.looks import ask


class Hands:
    """What a person could type at 3 a.m., as superuser on every node of one lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    async def sql(self, member: str, *statements: str) -> Any:
        """The last statement's single value."""
        row = await ask(self.lab, member, *statements)
        return None if row is None else row[0]

    async def until_true(self, member: str, condition: str, limit: float = 15) -> None:
        async def holds() -> bool:
            return bool(await self.sql(member, f"SELECT {condition}"))

        await until(f"{member}: {condition}", holds, limit)

    # Standbys

    async def disconnect(self, member: str) -> None:
        await self.sql(member, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        await self.until_true(member, "NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")

    async def lead(self, member: str, to: str) -> None:
        """Let a standby follow another server, and wait until it streams."""
        wanted = conninfo(self.lab, member, to)
        await self.sql(member, f"ALTER SYSTEM SET primary_conninfo = '{wanted}'", "SELECT pg_reload_conf()")
        await self.until_streams(member, to)

    async def until_streams(self, member: str, to: str) -> None:
        async def streams() -> bool:
            # A receiver that found no sender waits for 5 s, unless the configuration is read again.
            await self.sql(member, "SELECT pg_reload_conf()")
            rows = f"FROM pg_stat_replication WHERE application_name = '{member}' AND state = 'streaming'"
            return bool(await self.sql(to, f"SELECT EXISTS (SELECT {rows})"))

        await until(f"{member} streams from {to}", streams, 15)

    async def promote(self, member: str) -> None:
        assert await self.sql(member, "SELECT pg_promote(true, 20)")

    # Clients

    async def lead_name(self, member: str) -> None:
        keyring = dns.tsigkeyring.from_text({KEY_NAME: self.lab.secret("tsig")})
        update = dns.update.UpdateMessage(ZONE, keyring=keyring, keyalgorithm="hmac-sha256")
        update.replace(f"{RECORD}.", 1, "A", self.lab.node(member).host)
        host, _, port = self.lab.dns.partition(":")
        answer = await asyncio.to_thread(dns.query.tcp, update, host, timeout=5, port=int(port))
        assert answer.rcode() == dns.rcode.NOERROR

    async def lead_poolers(self, member: str, *, cut: Collection[str] = ()) -> None:
        """New databases files, read by RELOAD; the clients of the databases in `cut` are ended and come anew."""
        leader = self.lab.node(member)
        lines = [f"{name} = host={leader.host} port={leader.port} {more}" for name, more in DATABASES.items()]
        for pooler in self.lab.of_kind("pgbouncer"):
            path = self.lab.paths.node(pooler.name) / "databases.ini"
            write_private(path, "\n".join(("[databases]", *lines)) + "\n", server=True)
            await self._reload(pooler, cut)

    async def _reload(self, pooler: Node, cut: Collection[str]) -> None:
        conn: psycopg.AsyncConnection[dict[str, Any]] = await psycopg.AsyncConnection.connect(
            host=pooler.host,
            port=pooler.port,
            user="lifeboat",
            password=self.lab.secret("lifeboat"),
            dbname="pgbouncer",
            sslmode="disable",
            autocommit=True,
            prepare_threshold=None,
            row_factory=dict_row,
            cursor_factory=psycopg.AsyncClientCursor,
        )

        async def nobody_logs_in() -> bool:
            rows = await (await conn.execute("SHOW LISTS")).fetchall()
            return any((row["list"], row["items"]) == ("login_clients", 0) for row in rows)

        async with conn:
            for name in cut:
                await conn.execute(f"DISABLE {name}")
            # PgBouncer 1.18 dies when a KILL meets a client in mid login (docs/runbooks/database_failover.md).
            await until(f"nobody logs in to {pooler.name}", nobody_logs_in, 5)
            for verb in ("KILL", "RELOAD", "RESUME", "ENABLE"):
                for words in [verb] if verb == "RELOAD" else [f"{verb} {name}" for name in cut]:
                    await conn.execute(words)

    async def end_clients(self, member: str, like: str) -> None:
        """End sessions by application_name: their clients connect anew, along their route."""
        await self.sql(
            member,
            f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE '{like}'",
        )

    async def entries(self, what: str, enough: Callable[[list[Entry]], bool], limit: float = 15) -> list[Entry]:
        """What the clients were told, once it is enough."""

        async def found() -> list[Entry] | None:
            entries = ledger.read(self.lab.ledger)
            return entries if enough(entries) else None

        return await until(what, found, limit)

    def acknowledged_by(self, entries: list[Entry], member: str) -> list[Entry]:
        address = self.lab.node(member).address
        return [each for each in entries if each.outcome == "acknowledged" and each.server == address]

    async def until_routes_reach(self, member: str, routes: Collection[str], before: int = 0) -> list[Entry]:
        """Until clients of each of these routes were acknowledged by a member, after the ledger's first `before`."""

        def reached(entries: list[Entry]) -> bool:
            return {each.route for each in self.acknowledged_by(entries[before:], member)} >= set(routes)

        return await self.entries(f"{', '.join(routes)} reach {member}", reached)

    # The old primary

    async def rewind(self, member: str, source: str) -> None:
        """pg_rewind without -R, which leaves no standby.signal; the node keeps its own address."""
        node = self.lab.node(source)
        data = self.lab.paths.data(member)
        server = f"host={node.host} port={node.port} user={SUPERUSER} dbname=postgres sslmode=disable"
        await self.sql(source, "CHECKPOINT")
        await run(
            [str(self.lab.pg_bin / "pg_rewind"), f"--target-pgdata={data}", f"--source-server={server}", "--no-sync"],
            cwd=self.lab.paths.nodes,
            env=server_env(self.lab.folder) | {"PGPASSWORD": self.lab.secret(SUPERUSER)},
            server=True,
        )
        write_private(data / "postgresql.conf", postgresql_conf(self.lab.node(member)), server=True)

    def make_standby(self, member: str, of: str) -> None:
        """As a stopped former primary has to be started: with standby.signal, and led to the leader."""
        data = self.lab.paths.data(member)
        write_private(data / "standby.signal", "", server=True)
        wanted = f"primary_conninfo = '{conninfo(self.lab, member, of)}'\n"
        write_private(data / "postgresql.auto.conf", wanted, server=True)
