"""The referee bites: each run here is known to be bad in one way, on real servers, and it must say so.

A primary and a standby of our own are enough, and leave the shared lab alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from lab import findings, ledger
from lab.binaries import find_pg_bin
from lab.ledger import Span
from lab.referee import Audit, Case, Server, audit_text, examine
from lab.traffic import Traffic, drive
from lab.wire import Answer, Lost, NotConnected, Refused, Session, Target

pytestmark = pytest.mark.lab

SETTINGS = {
    "unix_socket_directories": "",
    "shared_buffers": "16MB",
    "fsync": "off",
    "wal_keep_size": "256MB",
    "wal_retrieve_retry_interval": "100ms",
}
TABLE = (
    "CREATE TABLE counting_results (id uuid primary key, camera text, counted_at timestamptz, count int, route text)"
)


@dataclass
class Estate:
    """`a` is the primary, `b` its standby; both on one port, as in the lab."""

    root: Path
    port: int
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    hosts: dict[str, str] = field(default_factory=lambda: {"a": "127.0.77.1", "b": "127.0.77.2"})

    def server(self, name: str) -> Server:
        return Server(name, Target(self.hosts[name], self.port, "lifeboat", self.password, "postgres"))

    def program(self, name: str, *words: str, limit: float = 60) -> None:
        """Run one of PostgreSQL's programs as the user that may."""
        user = "postgres" if os.geteuid() == 0 else None
        argv = [str(find_pg_bin() / name), *words]
        env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGPASSWORD": self.password}
        with (self.root / "programs.log").open("ab") as log:
            subprocess.run(
                argv, user=user, group=user, env=env, cwd=self.root, check=True, timeout=limit, stdout=log, stderr=log
            )

    def start(self, name: str) -> None:
        data = self.root / name
        settings = SETTINGS | {"listen_addresses": self.hosts[name], "port": str(self.port), "cluster_name": name}
        given = " ".join(f"-c {key}={value}" for key, value in settings.items())
        self.program("pg_ctl", "start", "-w", "-D", str(data), "-l", str(self.root / f"{name}.log"), "-o", given)

    def stop(self, name: str, mode: str = "immediate") -> None:
        if (self.root / name / "postmaster.pid").exists():
            self.program("pg_ctl", "stop", "-w", "-m", mode, "-D", str(self.root / name))

    def build(self) -> None:
        # A folder of the databases' user: it can read neither the checkout nor pytest's own folder.
        if os.geteuid() == 0:
            shutil.chown(self.root, "postgres", "postgres")
        (self.root / "password").write_text(self.password)
        (self.root / "password").chmod(0o644)
        pwfile = str(self.root / "password")
        locale = ["--locale=C.UTF-8", "-E", "UTF8", "--no-sync", "-A", "scram-sha-256"]
        self.program("initdb", "-D", str(self.root / "a"), *locale, "-U", "lifeboat", f"--pwfile={pwfile}")
        self.start("a")
        self.copy("b", of="a")
        self.start("b")

    def copy(self, name: str, *, of: str) -> None:
        """A standby of another server, as `pg_basebackup -R` makes it."""
        source = ["-h", self.hosts[of], "-p", str(self.port), "-U", "lifeboat"]
        self.program("pg_basebackup", "-D", str(self.root / name), *source, "-c", "fast", "-R", "--no-sync")

    async def ask(self, name: str, sql: str) -> Answer:
        session = await Session.open(self.server(name).target, limit=5)
        try:
            return await session.ask(sql, limit=10)
        finally:
            session.close()

    async def until(self, name: str, condition: str, limit: float = 10) -> None:
        end = time.monotonic() + limit
        while (await self.ask(name, f"SELECT {condition}")).rows != [("t",)]:
            assert time.monotonic() < end, f"{name}: {condition} does not come true"
            await asyncio.sleep(0.02)

    async def promote(self, name: str) -> None:
        await self.ask(name, "SELECT pg_promote(true, 20)")


@pytest.fixture(scope="module")
def estate() -> Iterator[Estate]:
    """The two servers; a test that promotes leaves them as they are, and the next one begins from new copies."""
    with socket.socket() as probe:
        probe.bind(("127.0.77.1", 0))
        port = probe.getsockname()[1]
    root = Path(tempfile.mkdtemp(prefix="lifeboat-ref-", dir="/var/tmp"))
    found = Estate(root, port)
    try:
        found.build()
        yield found
    finally:
        for name in found.hosts:
            with contextlib.suppress(subprocess.SubprocessError):
                found.stop(name)
        shutil.rmtree(root)


@pytest.fixture
async def pair(estate: Estate) -> Estate:
    """Primary `a` with an empty table, standby `b` streaming from it."""
    b = await estate.ask("b", "SELECT pg_is_in_recovery()")
    if b.rows != [("t",)]:
        estate.stop("b")
        shutil.rmtree(estate.root / "b")
        estate.copy("b", of="a")
        estate.start("b")
    await estate.ask("a", "DROP TABLE IF EXISTS counting_results")
    await estate.ask("a", TABLE)
    await estate.until("a", "count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'")
    return estate


@dataclass
class Run:
    """Traffic in this process, whose routes can be led elsewhere between two loads."""

    estate: Estate
    path: Path

    def case(self, *, running: bool = False) -> Case:
        servers = [self.estate.server(name) for name in self.estate.hosts]
        return Case(ledger=self.path, routes=["one", "two"], servers=servers, running=running)

    async def audit(self, *, running: bool = False) -> Audit:
        return await examine(self.case(running=running))

    @contextlib.asynccontextmanager
    async def writing(self, to: str, rate: float = 100) -> AsyncIterator[None]:
        """Write to a server along both routes; returns once each of the writers was acknowledged."""
        target = self.estate.server(to).target
        traffic = Traffic(
            routes={"one": target, "two": target},
            addresses=frozenset({target.address}),
            ledger=self.path,
            rate=rate,
        )
        spans = ledger.read_spans(self.path)
        span = Span(pid=0, started=time.time())
        ledger.write_spans(self.path, [*spans, span])
        stop, waiting = asyncio.Event(), asyncio.Semaphore(0)
        task = asyncio.create_task(drive(traffic, stop, lambda _: waiting.release()))
        try:
            async with asyncio.timeout(10):
                for _ in range(4):
                    await waiting.acquire()
            yield
        finally:
            ledger.write_spans(self.path, [*spans, span.model_copy(update={"stopped": time.time()})])
            stop.set()
            await task

    async def until(self, entries: int) -> None:
        """Until the ledger holds so many entries."""
        async with asyncio.timeout(10):
            while len(ledger.read(self.path)) < entries:
                await asyncio.sleep(0.02)

    async def until_unknown(self) -> None:
        """Until a writer gave up a write that it had sent."""
        async with asyncio.timeout(10):
            while not any(entry.outcome == "unknown" for entry in ledger.read(self.path)):
                await asyncio.sleep(0.05)


@pytest.fixture
def run(pair: Estate, tmp_path: Path) -> Run:
    return Run(pair, tmp_path / "ledger.jsonl")


async def test_a_clean_run_gives_zeros(run: Run) -> None:
    async with run.writing("a"):
        await run.until(40)
        during = await run.audit(running=True)
    after = await run.audit()
    assert (during.missing, during.concurrent_writers, during.errors) == (0, 0, [])
    assert all(route.writing and route.longest_gap_s < 1.5 for route in during.routes.values())
    assert (after.missing, after.unknown, after.leader, after.survivor) == (0, 0, "a", "a")
    assert after.acknowledged >= 40
    assert not any(route.writing for route in after.routes.values())
    assert after.clean


async def test_five_deleted_rows_are_missing_by_id(run: Run) -> None:
    async with run.writing("a"):
        await run.until(20)
    gone = {entry.id for entry in ledger.read(run.path)[3:8]}
    listed = ", ".join(f"'{key}'" for key in gone)
    await run.estate.ask("a", f"DELETE FROM counting_results WHERE id IN ({listed})")
    found = await run.audit()
    assert found.missing == 5
    assert set(found.missing_ids) == gone
    assert "missing 5" in audit_text(found)


async def test_an_old_primary_that_writes_behind_the_routes(run: Run) -> None:
    async with run.writing("a"):
        await run.until(20)
    await run.estate.promote("b")
    async with run.writing("b"):
        found = await run.audit(running=True)
    assert found.concurrent_writers == 1
    assert [writer.name for writer in found.writers] == ["a"]
    assert found.leader == "b"


async def test_a_split_brain_under_load_loses_rows_too(run: Run) -> None:
    async with run.writing("a"):
        await run.until(20)
        await run.estate.promote("b")
        async with run.writing("b"):
            await run.until(len(ledger.read(run.path)) + 40)
    found = await run.audit()
    assert found.survivor == "b"
    assert found.missing is not None
    assert found.missing > 0
    assert [writer.name for writer in found.writers] == ["a"]
    assert any("were sent after" in reason for reason in found.writers[0].reasons)


@contextlib.asynccontextmanager
async def stalled(estate: Estate, name: str) -> AsyncIterator[None]:
    """Commits on this server wait for a standby that doesn't exist."""
    await estate.ask(name, "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (__fenced__)'")
    await estate.ask(name, "SELECT pg_reload_conf()")
    await estate.until(name, "current_setting('synchronous_standby_names') <> ''")
    try:
        yield
    finally:
        await estate.ask(name, "ALTER SYSTEM RESET synchronous_standby_names")
        await estate.ask(name, "SELECT pg_reload_conf()")


async def test_a_stalled_primary_acknowledges_nothing(run: Run) -> None:
    """The referee's write waits there too; ended by a cancel, it would be answered as done."""
    async with run.writing("a"):
        await run.until(20)
    await run.estate.promote("b")
    async with stalled(run.estate, "a"):
        found = await run.audit()
    assert found.concurrent_writers == 0
    assert found.leader == "b"


async def test_an_answer_with_a_warning_is_no_acknowledgement(run: Run) -> None:
    """A cancelled wait for the standby answers `INSERT 0 1`, and a warning that the row may be here alone."""
    async with run.writing("a"):
        await run.until(20)
        async with stalled(run.estate, "a"):
            await run.estate.until("a", "count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            before = len(findings.acknowledged(ledger.read(run.path)))
            await run.estate.ask(
                "a", "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            )
            await run.until_unknown()
            warned = [entry for entry in ledger.read(run.path) if entry.outcome == "unknown"]
            assert len(findings.acknowledged(ledger.read(run.path))) == before
    assert all("01000" in entry.error for entry in warned)
    found = await run.audit()
    assert (found.missing, found.unknown) == (0, found.unknown_present)


async def test_a_gap_that_has_not_ended_counts_to_now(run: Run) -> None:
    async with run.writing("a"):
        await run.until(20)
        run.estate.stop("a")
        try:
            await asyncio.sleep(2.2)
            found = await run.audit(running=True)
        finally:
            run.estate.start("a")
    assert all(route.longest_gap_s > 2 for route in found.routes.values())
    assert not any(route.writing for route in found.routes.values())


async def test_what_can_not_be_read_is_an_error_and_never_zero(run: Run) -> None:
    async with run.writing("a"):
        await run.until(20)
    run.estate.stop("a")
    try:
        found = await run.audit()
    finally:
        run.estate.start("a")
    assert found.missing is None
    assert "acknowledged last" in found.errors[0]
    assert not found.clean
    assert "UNKNOWN" in audit_text(found)


async def test_a_frozen_server_holds_neither_the_referee_nor_a_writer(run: Run) -> None:
    async with run.writing("a"):
        await run.until(20)
        postmaster = int((run.estate.root / "a" / "postmaster.pid").read_text().split()[0])
        tree = [psutil.Process(postmaster), *psutil.Process(postmaster).children(recursive=True)]
        for process in tree:
            process.suspend()
        try:
            started = time.monotonic()
            found = await run.audit(running=True)
            took = time.monotonic() - started
            await run.until_unknown()
        finally:
            for process in tree:
                process.resume()
    assert took < 4
    assert found.missing is None


class TestSession:
    """What the witness rests on."""

    async def test_a_limit_closes_the_socket_and_sends_no_cancel(self, pair: Estate) -> None:
        """A cancelled statement would end at once; a closed socket leaves it to find out by itself."""
        session = await Session.open(pair.server("a").target, limit=5, name="limit")
        with pytest.raises(Lost):
            await session.ask("SELECT pg_sleep(1.5)", limit=0.2)
        assert session.closed
        rows = (await pair.ask("a", "SELECT query FROM pg_stat_activity WHERE application_name = 'limit'")).rows
        assert rows == [("SELECT pg_sleep(1.5)",)]

    async def test_an_error_is_a_refusal_and_the_session_goes_on(self, pair: Estate) -> None:
        session = await Session.open(pair.server("a").target, limit=5)
        with pytest.raises(Refused, match="division by zero"):
            await session.ask("SELECT 1/0", limit=5)
        assert (await session.ask("SELECT $1::int + 1", 41, limit=5)).rows == [("42",)]
        session.close()

    async def test_a_session_that_the_server_ends_leaves_the_outcome_open(self, pair: Estate) -> None:
        session = await Session.open(pair.server("a").target, limit=5)
        with pytest.raises(Lost, match="terminating"):
            await session.ask("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(1)", limit=5)

    async def test_nobody_there(self, pair: Estate) -> None:
        with pytest.raises(NotConnected):
            await Session.open(pair.server("a").target._replace(host="127.0.77.9"), limit=1)

    async def test_a_wrong_password(self, pair: Estate) -> None:
        with pytest.raises(NotConnected, match="password"):
            await Session.open(pair.server("a").target._replace(password="wrong"), limit=5)
