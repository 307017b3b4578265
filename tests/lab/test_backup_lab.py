"""The database's backups in the lab: object storage, archiving, the first backup, the host of restores, the reset."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from lab import backup, processes, storage
from lab import lab as life
from lab.binaries import find_versitygw
from lab.errors import LabError, MissingBuild
from lab.layout import HOME, RESTORES, STORAGE
from lab.model import Lab
from lab.owner import server_name
from lab.waiting import until
from lab.world import assert_inside
from tests.lab.looks import ask, lab_processes, roles

pytestmark = [pytest.mark.lab, pytest.mark.campaign]

ARCHIVED_S = 60.0
"""A segment takes half a second; the machine may be shared."""


@pytest.fixture
async def disturbed(backup_lab: Lab) -> AsyncIterator[Lab]:
    """The lab, for a test that leaves it otherwise than it was."""
    yield backup_lab
    await life.reset(backup_lab)


async def on_node(lab: Lab, name: str, *command: str) -> str:
    """What a command prints that is run on the node as the product runs one."""
    argv = [str(lab.paths.control), "exec", name, *command]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def info(lab: Lab) -> dict[str, Any]:
    """The stanza, as the host of restores sees it."""
    (stanza,) = json.loads(await on_node(lab, RESTORES, *backup.command(lab, RESTORES, "info", "--output=json")))
    found: dict[str, Any] = stanza
    return found


async def archive_one(lab: Lab) -> str:
    """The name of a segment that was filled just now, and is archived."""
    row = await ask(
        lab,
        HOME,
        "INSERT INTO counting_results (id) VALUES (gen_random_uuid())",
        "SELECT pg_walfile_name(pg_switch_wal()) AS segment",
    )

    async def archived() -> bool:
        told = await ask(lab, HOME, "SELECT last_archived_wal AS last FROM pg_stat_archiver")
        return bool(told["last"] >= row["segment"])

    await until(f"{row['segment']} is archived", archived, ARCHIVED_S, every=0.1)
    return str(row["segment"])


async def as_at_first(lab: Lab) -> None:
    """One full backup, and an archive that goes on where it ended."""
    stanza = await info(lab)
    assert (stanza["status"]["message"], stanza["cipher"]) == ("ok", "aes-256-cbc")
    (only,) = stanza["backup"]
    assert (only["type"], only["error"]) == ("full", False)
    (archive,) = stanza["archive"]
    assert archive["max"] >= only["archive"]["stop"]
    segment = await archive_one(lab)
    assert (await info(lab))["archive"][0]["max"] == segment
    assert (await ask(lab, HOME, "SELECT failed_count FROM pg_stat_archiver"))["failed_count"] == 0


def _versions(listing: str) -> list[str]:
    """Ids of the versions, without the markers of deletions."""
    return re.findall(
        r"<VersionId>(\w+)</VersionId>", "".join(re.findall(r"<Version>.*?</Version>", listing, re.DOTALL))
    )


class TestEstate:
    async def test_the_first_primary_is_backed_up_and_archiving_goes_on(self, backup_lab: Lab) -> None:
        await as_at_first(backup_lab)
        await backup.run_on(backup_lab, HOME, "check")

    async def test_it_is_a_node_as_others_are(self, backup_lab: Lab) -> None:
        found = await roles(backup_lab)
        assert (found[STORAGE], found[RESTORES], found[HOME]) == ("storage", "restore", "primary")
        assert_inside(backup_lab, backup_lab.node(STORAGE).host, backup_lab.node(STORAGE).port)

    async def test_what_is_overwritten_or_deleted_is_kept(self, disturbed: Lab) -> None:
        bucket = storage.BUCKET
        assert "<Status>Enabled</Status>" in await storage.call(disturbed, "GET", f"{bucket}?versioning")
        for body in ("first", "second"):
            await storage.call(disturbed, "PUT", f"{bucket}/note", body)
        await storage.call(disturbed, "DELETE", f"{bucket}/note")
        with pytest.raises(LabError, match="NoSuchKey"):
            await storage.call(disturbed, "GET", f"{bucket}/note")
        told = await storage.call(disturbed, "GET", f"{bucket}?prefix=note&versions")
        found = [storage.call(disturbed, "GET", f"{bucket}/note?versionId={each}") for each in _versions(told)]
        assert sorted(await asyncio.gather(*found)) == ["first", "second"]

    async def test_nothing_is_readable_in_the_bucket(self, backup_lab: Lab) -> None:
        bucket = backup_lab.paths.node(STORAGE) / "stored" / "data" / storage.BUCKET / "pgbackrest"
        kept = [file for file in bucket.rglob("*") if file.is_file()]
        assert len(kept) > 5
        for file in kept:
            with file.open("rb") as opened:
                # What OpenSSL's own encryption begins with.
                assert opened.read(8) == b"Salted__", file

    async def test_without_the_authority_no_connection_is_made(self, backup_lab: Lab) -> None:
        node, public = backup_lab.node(STORAGE), "/etc/ssl/certs/ca-certificates.crt"
        async with httpx.AsyncClient(verify=ssl.create_default_context(), trust_env=False) as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(f"https://{node.address}/")
        with pytest.raises(LabError, match="unable to verify certificate"):
            await backup.run_on(backup_lab, RESTORES, "--io-timeout=1", f"--repo1-storage-ca-file={public}", "repo-ls")

    def test_secrets_are_read_by_nobody_else(self, backup_lab: Lab) -> None:
        secrets = [backup_lab.secret(name) for name in ("s3-key", "s3-secret", "repo-cipher")]
        for name in (*(node.name for node in backup_lab.members()), RESTORES):
            file = backup_lab.paths.pgbackrest(name)
            assert (stat.S_IMODE(file.stat().st_mode), file.owner()) == (0o600, server_name())
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        for process in lab_processes(backup_lab):
            with contextlib.suppress(psutil.NoSuchProcess):
                assert not any(secret in " ".join(process.cmdline()) for secret in secrets)


class TestFaults:
    async def test_an_archiver_in_the_background_dies_with_its_node(self, disturbed: Lab) -> None:
        await life.fault(disturbed, "freeze", STORAGE)
        assert (await roles(disturbed))[STORAGE] == "frozen"
        await ask(disturbed, HOME, "CREATE TABLE more AS SELECT 1", "SELECT pg_switch_wal()")

        def in_background() -> list[psutil.Process]:
            return [each for each in processes.tree(disturbed.paths, HOME) if "archive-push:async" in each.cmdline()]

        async def there() -> list[psutil.Process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                return in_background()
            return []

        found = await until("the archiver waits for object storage", there, 20, every=0.02)
        assert found[0].cwd() == "/"
        await life.fault(disturbed, "kill", HOME)
        assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in found)

    async def test_storage_that_comes_back_has_what_it_had(self, disturbed: Lab) -> None:
        for action, role in (("kill", "down"), ("start", "storage"), ("stop", "down"), ("start", "storage")):
            await life.fault(disturbed, action, STORAGE)
            assert (await roles(disturbed))[STORAGE] == role
        await as_at_first(disturbed)

    async def test_a_host_can_be_frozen_and_thawed_though_nothing_runs_there(self, disturbed: Lab) -> None:
        await life.fault(disturbed, "freeze", RESTORES)
        assert (await roles(disturbed))[RESTORES] == "frozen"
        with pytest.raises(AssertionError, match="does not answer"):
            await info(disturbed)
        await life.fault(disturbed, "thaw", RESTORES)
        for action in ("stop", "start", "kill"):
            await life.fault(disturbed, action, RESTORES)
        assert (await roles(disturbed))[RESTORES] == "restore"


class TestRestore:
    async def test_the_host_restores_a_copy_that_can_be_looked_at(self, disturbed: Lab) -> None:
        """Beside the estate: the copy archives nothing, and listens on a socket of its own."""
        folder, bin_ = disturbed.paths.node(RESTORES), disturbed.pg_bin
        data, port = folder / "restored", disturbed.node(RESTORES).port
        words = ("restore", f"--pg1-path={data}", "--type=immediate", "--target-action=promote", "--archive-mode=off")
        await on_node(disturbed, RESTORES, *backup.command(disturbed, RESTORES, *words))
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c port={port}"
        options += " -c synchronous_standby_names=''"
        control = (str(bin_ / "pg_ctl"), "-D", str(data), "-w", "-t", "60")
        await on_node(disturbed, RESTORES, *control, "-l", str(folder / "restored.log"), "-o", options, "start")
        try:
            question = "SELECT current_setting('data_checksums'), extname FROM pg_extension WHERE extname = 'amcheck'"
            psql = (str(bin_ / "psql"), "-XAt", "-h", str(folder), "-p", str(port), "-U", "postgres", "-d", "counting")
            assert (await on_node(disturbed, RESTORES, *psql, "-c", question)).strip() == "on|amcheck"
        finally:
            await on_node(disturbed, RESTORES, *control, "-m", "immediate", "stop")


class TestReset:
    async def test_everything_is_as_it_was(self, backup_lab: Lab) -> None:
        lab = backup_lab
        await archive_one(lab)
        await backup.run_on(lab, HOME, "backup", "--type=diff")
        assert len((await info(lab))["backup"]) == 2
        await on_node(lab, RESTORES, "touch", "left")
        await life.fault(lab, "freeze", STORAGE)
        await ask(lab, HOME, "CREATE TABLE more AS SELECT 1", "SELECT pg_switch_wal()")

        await life.reset(lab)

        host = lab.paths.node(RESTORES)
        assert sorted(each.name for each in host.iterdir()) == ["copy_back.pgpass", "pgbackrest", "pgbackrest.conf"]
        await as_at_first(lab)
        # Again, since it is the copy that must not have changed.
        await life.reset(lab)
        await as_at_first(lab)


def test_a_program_that_is_not_built_is_named_with_what_builds_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingBuild, match="scripts/setup versitygw"):
        find_versitygw()


async def test_a_shape_without_the_part_is_refused() -> None:
    with pytest.raises(LabError, match="there is no backup in two regions"):
        await life.up("backup", shape="two-regions", make_current=False)
