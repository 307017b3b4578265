"""containers/start on real servers, as containers run it but for the engine: a node's folder is laid, and it serves."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from activities import rfc2136
from activities.names import ask
from lab.binaries import find_pg_bin
from lab.container_secrets import make
from lab.containers import estate, polls, write_configuration
from lab.layout import LOOPBACK, RECORD, THREE_REGIONS, choose_base_port, nodes
from lab.model import Lab
from lab.owner import as_server, give
from lab.paths import PARENT, PREFIX, log_tail
from lab.waiting import until
from lab.watch import connect
from lab.world import server_env
from schemas.failures import RouteUnavailable
from schemas.zones import Rfc2136Zone

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="module")]

ROOT = Path(__file__).parents[2]
_STOP_S = 15.0


class Containers:
    """What Compose does with containers/start, without containers: its mounts are folders, its networks loopback."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str) -> None:
        folder, log = self.lab.folder, self.lab.folder / f"{name}.log"
        mounts = {
            "LIFEBOAT_CONFIGURATION": str(folder / "configuration"),
            "LIFEBOAT_SECRETS": str(self.lab.secrets),
            "LIFEBOAT_NODES": str(self.lab.paths.nodes),
            "LIFEBOAT_PG_BIN": str(find_pg_bin()),
        }
        with log.open("ab") as output:
            self.running[name] = await asyncio.create_subprocess_exec(
                str(folder / "start"),
                *(self.lab.node(name).kind, name),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=server_env(folder) | mounts,
                **as_server(),
            )

    async def stop(self, name: str, number: int = signal.SIGINT) -> None:
        process = self.running.pop(name)
        if process.returncode is None:
            process.send_signal(number)
        await asyncio.wait_for(process.wait(), _STOP_S)

    async def session(self, name: str, user: str = "lifeboat", database: str = "counting") -> asyncpg.Connection:
        node = self.lab.node(name)

        async def taken() -> asyncpg.Connection | None:
            assert self.running[name].returncode is None, log_tail(self.lab.folder / f"{name}.log")
            try:
                return await asyncpg.connect(
                    host=node.host,
                    port=node.port,
                    user=user,
                    password=self.lab.secret(user),
                    database=database,
                    ssl=False,
                    timeout=2,
                    statement_cache_size=0,
                )
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                return None

        return await until(f"{name} takes a session", taken, 60, every=0.1)

    async def ask(self, name: str, question: str, user: str = "lifeboat") -> object:
        conn = await self.session(name, user)
        try:
            return await conn.fetchval(question, timeout=10)
        finally:
            await conn.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def up() -> AsyncIterator[Containers]:
    """The primary with one voter, a pooler and the zone."""
    root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PARENT))
    found = nodes(THREE_REGIONS, LOOPBACK, choose_base_port(THREE_REGIONS))
    lab = estate().model_copy(
        update={
            "folder": root,
            "network": LOOPBACK,
            "nodes": found,
            "secrets": root / "secrets",
            "dns": next(node.address for node in found if node.kind == "knot"),
        }
    )
    there = Containers(lab)
    try:
        shutil.copy(ROOT / "containers" / "start", root / "start")
        write_configuration(lab, root / "configuration")
        make(lab.secrets)
        lab.paths.nodes.mkdir()
        give(root)
        await there.start("pg-east-1")
        await (await there.session("pg-east-1")).close()
        for name in ("pg-east-2", "pgbouncer-east", "knot-eu"):
            await there.start(name)
        await (await there.session("pg-east-2")).close()
        yield there
    finally:
        # A primary waits for its standbys to have all: whoever follows goes first.
        for name in reversed(list(there.running)):
            await there.stop(name, signal.SIGTERM if name == "knot-eu" else signal.SIGINT)
        shutil.rmtree(root)


async def test_a_write_through_the_pooler_is_on_the_voter(up: Containers) -> None:
    client = await up.session("pgbouncer-east", "app")
    await client.execute("INSERT INTO counting_results (id, camera) VALUES (gen_random_uuid(), 'c1')", timeout=20)
    await client.close()
    assert await up.ask("pg-east-1", "SELECT application_name FROM pg_stat_replication") == "pg-east-2"
    assert await up.ask("pg-east-1", "SELECT sync_state FROM pg_stat_replication") == "quorum"

    async def replayed() -> bool:
        return await up.ask("pg-east-2", "SELECT count(*) FROM counting_results WHERE camera = 'c1'", "app") == 1

    await until("the row is on the voter", replayed, 10)


async def test_who_probes_may_write_there_and_nowhere_else(up: Containers) -> None:
    prober = await up.session("pg-east-1", "lifeboat_probe")
    await prober.execute("INSERT INTO lifeboat.probe (route, region) VALUES ('dns', 'us-east-1')", timeout=20)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await prober.execute("DELETE FROM counting_results")
    await prober.close()


async def test_the_zone_leads_home_and_takes_a_signed_update(up: Containers) -> None:
    zone = Rfc2136Zone(
        name="lab.lifeboat.test",
        servers=[up.lab.dns],
        key_name="lifeboat-lab",
        key_secret=f"file:{up.lab.secrets / 'tsig'}",
    )
    home = up.lab.node("pg-east-1").host

    async def answers() -> bool:
        return await ask(up.lab.dns, f"{RECORD}.", "A") == [home]

    await until("the zone is served", answers, 10)
    update = rfc2136.new_update(zone)
    update.add("proof", 1, "TXT", "signed")
    assert await rfc2136.send(zone, update) == 0
    await up.stop("knot-eu", signal.SIGTERM)
    await up.start("knot-eu")

    async def kept() -> bool:
        try:
            return await ask(up.lab.dns, "proof.lab.lifeboat.test.", "TXT") == ['"signed"']
        except RouteUnavailable:
            return False

    await until("the update outlives the server", kept, 10)


async def test_what_lifeboat_changed_outlives_a_restart(up: Containers) -> None:
    """Only a first start lays a node."""
    databases = up.lab.paths.node("pgbouncer-east") / "databases.ini"
    databases.write_text(databases.read_text().replace("[databases]", "; lifeboat.epoch = 7\n[databases]"))
    conn = await up.session("pg-east-2")
    await conn.execute("ALTER SYSTEM SET primary_conninfo = ''")
    await conn.close()
    for name in ("pg-east-2", "pgbouncer-east"):
        await up.stop(name)
        await up.start(name)
    assert await up.ask("pg-east-2", "SHOW primary_conninfo") == ""
    assert await up.ask("pg-east-2", "SELECT pg_is_in_recovery()") is True
    await (await up.session("pgbouncer-east", "app")).close()
    assert "epoch = 7" in databases.read_text()


async def test_a_laying_that_was_cut_off_begins_anew(up: Containers) -> None:
    leftover = up.lab.paths.node("pg-east-3") / "unfinished"
    leftover.mkdir(parents=True)
    (leftover / "half").touch()
    give(up.lab.paths.node("pg-east-3"))
    await up.start("pg-east-3")
    assert await up.ask("pg-east-3", "SELECT pg_is_in_recovery()") is True
    assert not leftover.exists()
    assert not (up.lab.paths.data("pg-east-3") / "half").exists()


async def test_a_workers_health_is_that_it_polls(lab: Lab) -> None:
    client = await connect(lab)
    assert await polls(client, "us-east-1")
    assert not await polls(client, "nowhere")


async def test_an_unknown_kind_is_refused(up: Containers) -> None:
    done = await asyncio.create_subprocess_exec(
        str(up.lab.folder / "start"), "redis", "x", stderr=asyncio.subprocess.PIPE, env=server_env(up.lab.folder)
    )
    _, said = await asyncio.wait_for(done.communicate(), 10)
    assert (done.returncode, os.fsdecode(said)) == (
        2,
        "start: redis is no kind of node: postgresql, pgbouncer or knot\n",
    )
