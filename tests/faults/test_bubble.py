"""A copy that tries to reach production: from its bubble it can't, and with its configuration alone it can."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from lab.layout import HOME, RESTORES
from lab.postgres import DATABASE
from lab.secrets import SUPERUSER
from schemas.reports import Report
from tests.faults.restore_scene import MARKS, RestoreScene
from tests.faults.test_restore_bad_luck import dropped_marks

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]

NOBODY = "it reaches nobody"
WAYS = ("dblink", "program")
RPO_S = 0.5
"""What the copies need must be older than that."""


class Door:
    """A way to the living primary, on its own host, that counts who comes through."""

    def __init__(self, scene: RestoreScene) -> None:
        node = scene.lab.node(HOME)
        self.host, self.real, self.port = node.host, (node.host, node.port), 0
        self.came = 0

    async def let_through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        server_reader, server_writer = await asyncio.open_connection(*self.real)

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

        with contextlib.suppress(OSError):
            await asyncio.gather(pass_on(reader, server_writer), pass_on(server_reader, writer))


@contextlib.asynccontextmanager
async def door_to_production(scene: RestoreScene) -> AsyncIterator[Door]:
    """Two of the owner's queries go through it, each with credentials that the primary takes."""
    door = Door(scene)
    server = await asyncio.start_server(door.let_through, door.host, 0)
    door.port = server.sockets[0].getsockname()[1]
    place = f"host={door.host} port={door.port} user={SUPERUSER} dbname={DATABASE} connect_timeout=5 sslmode=disable"
    secret = scene.lab.secret(SUPERUSER)
    dblink = f"SELECT n FROM dblink('{place} password={secret}', 'SELECT 1') AS t (n int)"
    psql = f'PGPASSWORD={secret} {scene.lab.pg_bin}/psql -X -d "{place}" -c "SELECT 1"'
    program = f"COPY (SELECT 1) TO PROGRAM '{psql} > /dev/null'"
    checks = [
        {"name": "dblink", "sql": dblink, "expect": "1"},
        {"name": "program", "sql": program, "expect": "COPY 1"},
    ]
    await scene.sql("CREATE EXTENSION dblink", "SELECT 1")
    await scene.backup_with(lambda backup: backup.update(checks=checks))
    async with server:
        yield door


async def namespaces(scene: RestoreScene) -> None:
    """Skips where the servers' user is given none; what is done then, test_restore_bubble has."""
    words = ("unshare", "--user", "--map-current-user", "--net", "true")
    process = await asyncio.create_subprocess_exec(str(scene.lab.paths.control), "exec", RESTORES, *words)
    if await process.wait() != 0:
        pytest.skip("this machine lets nobody make network namespaces")


def said(report: Report) -> dict[str, tuple[bool | None, str]]:
    """What came of each clause and check."""
    assert report.restore is not None
    return {each.clause: (each.ok, each.evidence) for each in (*report.restore.proofs, *report.restore.checks)}


@pytest.mark.estate(rpo_s=RPO_S)
async def test_from_its_bubble_a_copy_reaches_nobody(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    await namespaces(scene)
    async with door_to_production(scene) as door:
        await scene.mark(1)
        await scene.older_than(RPO_S)
        await scene.mark(2)
        names = [f"owner's query {name}" for name in WAYS]
        found = said(await scene.ends(await scene.verify(), "needs a person", *names))
        assert found[NOBODY] == (True, "a network of its own: no address, no route")
        for name in names:
            ok, evidence = found[name]
            assert ok is False, evidence
            assert "Network is unreachable" in evidence or "child process exited" in evidence, evidence
        assert door.came == 0


@pytest.mark.estate(rpo_s=RPO_S)
async def test_control_with_configuration_alone_it_does(restore_scene: RestoreScene) -> None:
    """The same queries, with the same credentials: so it is the bubble that keeps them in."""
    scene = restore_scene
    async with door_to_production(scene) as door:
        await scene.mark(1)
        await scene.older_than(RPO_S)
        await scene.mark(2)
        await scene.backup_with(lambda backup: backup["host"].update(isolation="configuration"))
        # Nobody counts, so that no row tells what is lost.
        found = said(await scene.ends(await scene.verify(), "done, unprotected", "none failed"))
        ok, evidence = found[NOBODY]
        assert ok is None
        assert "isolation: configuration is declared" in evidence
        assert [found[f"owner's query {name}"][0] for name in WAYS] == [True, True]
        assert door.came == len(WAYS)


def fetchers(scene: RestoreScene) -> list[psutil.Process]:
    """Who fetches WAL for a copy, outside of its bubble."""
    found = []
    for folder in (scene.lab.paths.node(RESTORES) / "copies").glob("*/coming"):
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                works = Path(f"/proc/{each.pid}/cwd").readlink() == folder
                # What it has begun works there as well, in its session.
                if works and os.getsid(each.pid) == each.pid:
                    found.append(each)
    return found


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
async def test_who_fetches_dies_in_mid_recovery(restore_scene: RestoreScene, blow: signal.Signals) -> None:
    """Recovery never takes that for the archive's end: it ends, is begun again with another, and goes on."""
    scene = restore_scene
    await namespaces(scene)
    target, file = await dropped_marks(scene)
    async with scene.through_bad_store() as store:
        held = store.has("held", file)
        run = await scene.pitr(target, then="copy-back", tables=[MARKS])
        await asyncio.wait_for(held.reached.wait(), 40)
        (first,) = await asyncio.to_thread(fetchers, scene)
        os.kill(first.pid, blow)
        await scene.until("recovery could not have a file", scene.recovery_was_refused, 40)
        held.over.set()
        report = await scene.ends(run, "done", "public.marks (5 rows)")
    assert report.restore is not None
    assert report.restore.failed() == []
    assert said(report)[NOBODY][0] is True
    assert not first.is_running()
