"""What lifeboat-archive refuses, and what it leaves where something went wrong: backups and restores."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from activities.jobs import script
from tests.lab.plain_desk import BUCKET, Desk, desk_of, unlucky

pytestmark = [pytest.mark.lab, pytest.mark.campaign]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk_of(tmp_path_factory.mktemp("store")) as made:
        yield made


@pytest.fixture(scope="module")
def label(desk: Desk) -> str:
    desk.well("backup")
    return desk.labels()[-1]


def forget(desk: Desk, label: str) -> None:
    for key in desk.keys(f"base/{label}/"):
        desk.client.delete_object(Bucket=BUCKET, Key=f"unit/{key}")


# Restores


def test_delta_is_for_a_clusters_folder_alone(desk: Desk, label: str) -> None:
    home = desk.folder / "home"
    desk.execute("sh", "-c", f"mkdir -p {home}/docs && echo x > {home}/docs/thesis && echo x > {home}/key")
    done = desk.run("restore", "--delta", f"--set={label}", f"--pg1-path={home}")
    assert done.returncode == 27
    assert "is not empty, and is no cluster's" in done.stderr
    assert sorted(os.listdir(home)) == ["docs", "key"]
    assert os.listdir(home / "docs") == ["thesis"]


@pytest.mark.parametrize("words", [("--delta",), ()], ids=["delta", "whole"])
def test_nothing_is_restored_where_a_server_runs(desk: Desk, label: str, words: tuple[str, ...]) -> None:
    done = desk.run("restore", *words, f"--set={label}", f"--pg1-path={desk.data}")
    assert done.returncode == 38
    assert "postmaster.pid: a server runs there" in done.stderr
    assert (desk.data / "global" / "pg_control").exists()
    assert desk.sql("SELECT 1") == "1"


def test_a_backup_of_another_cluster_than_the_archives_is_not_restored(desk: Desk, label: str) -> None:
    own, copy = desk.key("wal/system"), desk.folder / "strange"
    desk.put("wal/system", b"1\n")
    try:
        done = desk.run("restore", f"--set={label}", f"--pg1-path={copy}")
    finally:
        desk.put("wal/system", own)
    assert done.returncode == 45
    assert "is the archive of the cluster 1, and" in done.stderr
    assert not copy.exists()


def test_a_link_is_not_followed_and_does_not_stay(desk: Desk, label: str) -> None:
    copy, other, wal = (desk.folder / name for name in ("linked", "other-space", "other-wal"))
    desk.well("restore", f"--set={label}", f"--pg1-path={copy}")
    text = f"mkdir -p {other}/PG_15 {wal} && echo x > {other}/PG_15/rel && echo x > {wal}/0000000100000000000000FE"
    links = f"ln -s {other} {copy}/pg_tblspc/99999 && rm -r {copy}/pg_wal && ln -s {wal} {copy}/pg_wal"
    assert desk.execute("sh", "-c", f"{text} && {links} && ln -s {other} {copy}/base/7").returncode == 0
    desk.well("restore", "--delta", f"--set={label}", f"--pg1-path={copy}")
    assert os.listdir(other / "PG_15") == ["rel"]
    assert os.listdir(wal) == ["0000000100000000000000FE"]
    assert os.listdir(copy / "pg_tblspc") == []
    assert not (copy / "pg_wal").is_symlink()
    assert not (copy / "base" / "7").exists()
    assert desk.execute("pg_verifybackup", "-n", str(copy)).returncode == 0
    shutil.rmtree(copy)


def test_tablespaces_go_into_folders_that_are_empty_or_a_restores(desk: Desk) -> None:
    space, mine, copy, spaces = (desk.folder / name for name in ("space", "by-hand", "spaced", "spaces"))
    space.mkdir()
    shutil.chown(space, desk.data.owner(), desk.data.group())
    desk.sql(f"CREATE TABLESPACE apart LOCATION '{space}'", "CREATE TABLE far TABLESPACE apart AS SELECT 7 AS n")
    basebackup(desk, mine)
    for each in mine.iterdir():
        desk.put(f"base/spaced/{each.name}", each.read_bytes())
    words = ("--set=spaced", f"--pg1-path={copy}", f"--tablespace-map-all={spaces}")
    try:
        desk.well("adopt", "spaced")
        oid = desk.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'apart'")
        assert desk.execute("sh", "-c", f"mkdir -p {spaces}/{oid} && echo x > {spaces}/{oid}/theirs").returncode == 0
        for more in ((), ("--delta",)):
            done = desk.run("restore", *more, *words)
            assert done.returncode == 27
            assert "is not empty, and no restore made it" in done.stderr
        assert os.listdir(spaces / oid) == ["theirs"]
        assert os.listdir(copy) == []
        shutil.rmtree(spaces)
        desk.well("restore", *words)
        # A link that leads elsewhere is made anew; what was restored before is a restore's.
        (copy / "pg_tblspc" / oid).unlink()
        (copy / "pg_tblspc" / oid).symlink_to(space)
        desk.well("restore", "--delta", *words)
        assert os.readlink(copy / "pg_tblspc" / oid) == str(spaces / oid)
        assert desk.sql("SELECT n FROM far") == "7"
    finally:
        desk.sql("DROP TABLE far", "DROP TABLESPACE apart")
        forget(desk, "spaced")
        for each in (copy, spaces, mine):
            shutil.rmtree(each, ignore_errors=True)


def basebackup(desk: Desk, to: Path) -> None:
    server = ("-h", str(desk.folder), "-p", str(desk.port))
    done = desk.execute("pg_basebackup", *server, "-D", str(to), "-Ft", "-z", "-X", "none", "-c", "fast")
    assert done.returncode == 0, done.stderr


def test_half_a_restore_does_not_start(desk: Desk, label: str) -> None:
    copy = desk.folder / "half"
    desk.well("restore", f"--set={label}", f"--pg1-path={copy}")
    desk.sql("CREATE TABLE more AS SELECT n, repeat('y', 200) AS y FROM generate_series(1, 20000) n")
    desk.well("backup")
    later = desk.labels()[-1]
    key = f"base/{later}/base.tar.gz"
    good = desk.key(key)
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 0xFF
    desk.put(key, bytes(bad))
    done = desk.run("restore", "--delta", f"--set={later}", f"--pg1-path={copy}")
    assert done.returncode == 26, done.stderr
    assert not (copy / "global" / "pg_control").exists()
    done = desk.execute("pg_ctl", "-D", str(copy), "-w", "-t", "10", "-o", f"-p {desk.port + 1}", "start")
    assert done.returncode != 0
    # And goes on from there.
    desk.put(key, good)
    desk.well("restore", "--delta", f"--set={later}", f"--pg1-path={copy}")
    assert desk.execute("pg_verifybackup", "-n", str(copy)).returncode == 0
    assert not [each for each in copy.rglob("*lifeboat*")]
    shutil.rmtree(copy)


# What there is


def test_a_folder_that_can_not_be_read_stops_nothing(desk: Desk, label: str) -> None:
    desk.put("base/by-hand/base.tar.gz", b"x" * 100)
    desk.put("base/by-hand/backup_manifest", b'{ "PostgreSQL-Backup-Manifest-Version": 1, half')
    desk.put("base/20200101-000000F/backup.json", b'{"label": "half')
    before = [key for key in desk.keys("wal/") if len(key) == 28]
    copy = desk.folder / "beside"
    try:
        told = desk.stanza()
        assert set(told["unreadable"]) == {"by-hand", "20200101-000000F"}
        assert label in [each["label"] for each in told["backup"]]
        assert "by-hand  can't be read" in desk.well("info")
        said = desk.well("expire", "--keep-fulls=1")
        assert "WARN: by-hand can't be read, and all WAL is kept" in said
        assert set(before) <= set(desk.keys("wal/"))
        desk.well("restore", f"--set={desk.labels()[-1]}", f"--pg1-path={copy}")
    finally:
        shutil.rmtree(copy, ignore_errors=True)
        forget(desk, "by-hand")
        forget(desk, "20200101-000000F")


def test_a_cut_over_finds_the_backup_on_its_member(desk: Desk) -> None:
    """activities/data_folder.sh looks at the listing in sh."""
    desk.well("backup")
    kept = (str(desk.program), str(desk.ini), "unit", "1", "plain", "lifeboat-archive")

    def restorable(label: str) -> str:
        words = (str(desk.data), str(desk.bin), str(desk.folder / "keep"), "", "restorable", label, "2", "1", *kept)
        done = desk.execute("sh", "-c", 'eval "$1"', "lifeboat-data", script("data_folder.sh"), *words)
        return done.stdout + done.stderr

    assert "::done=1" in restorable(desk.labels()[-1])
    assert "lists no backup 20200101-000000F" in restorable("20200101-000000F")


def test_an_old_backup_that_is_adopted_is_not_the_newest(desk: Desk) -> None:
    mine = desk.folder / "old"
    basebackup(desk, mine)
    desk.archived()
    desk.well("backup")
    newest = desk.labels()[-1]
    for each in sorted(mine.iterdir(), key=lambda each: each.name == "base.tar.gz", reverse=True):
        desk.put(f"base/old/{each.name}", each.read_bytes())
        time.sleep(1.1)
    try:
        desk.well("adopt", "old")
        assert desk.labels()[-2:] == ["old", newest]
        (told,) = [each for each in desk.stanza()["backup"] if each["label"] == "old"]
        # As late as it may be: a copy that streams has the time of its begin, and its manifest comes last.
        at = desk.client.head_object(Bucket=BUCKET, Key="unit/base/old/backup_manifest")["LastModified"]
        assert told["timestamp"]["stop"] == int(at.timestamp())
        assert told["timestamp"]["start"] < told["timestamp"]["stop"]
        assert f"{newest}: kept: the newest good one" in desk.well("expire", "--keep-fulls=1", "--dry-run")
    finally:
        forget(desk, "old")
        shutil.rmtree(mine)


# Backups


def test_a_backup_whose_wal_is_not_archived_says_so_in_time(desk: Desk) -> None:
    ini = desk.configure("patient.ini")
    ini.write_text(ini.read_text().replace("[server]\n", "[server]\nwal_timeout = 3\n"))
    before = desk.keys("base/")
    command = desk.sql("SHOW archive_command")
    desk.sql("ALTER SYSTEM SET archive_command = 'false'", "SELECT pg_reload_conf()")
    try:
        began = time.monotonic()
        done = desk.run("backup", ini=ini)
        assert time.monotonic() - began < 30
        assert done.returncode == 82, done.stderr
        assert "no WAL came to s3://archive/unit/wal/" in done.stderr
        assert "archive_command" in done.stderr
        assert desk.keys("base/") == before
    finally:
        desk.sql("ALTER SYSTEM RESET archive_command", "SELECT pg_reload_conf()")
    assert desk.sql("SHOW archive_command") == command
    desk.archived()


def test_what_postgresql_says_of_bad_pages_is_passed_on(desk: Desk) -> None:
    desk.sql("CREATE TABLE bad AS SELECT n, repeat('x', 500) AS x FROM generate_series(1, 1000) n", "CHECKPOINT")
    path = desk.data / desk.sql("SELECT pg_relation_filepath('bad')")
    with path.open("r+b") as file:
        file.seek(8192 + 4000)
        file.write(b"not what was here")
    done = desk.run("backup")
    desk.sql("DROP TABLE bad")
    assert done.returncode == 0, done.stderr
    assert "WARN: WARNING:  checksum verification failed" in done.stdout
    told = desk.stanza()["backup"][-1]
    forget(desk, told["label"])
    assert told["error"] is True


def test_no_backup_is_taken_from_a_standby(desk: Desk) -> None:
    copy, port = desk.folder / "standby", desk.port + 1
    desk.well("backup")
    desk.well("restore", f"--set={desk.labels()[-1]}", f"--pg1-path={copy}")
    command = " ".join(desk.argv("archive-get", "%f", "%p")) + " || exit 1"
    with (copy / "postgresql.auto.conf").open("a") as file:
        file.write(f"port = {port}\narchive_mode = off\nrestore_command = '{command}'\n")
    (copy / "standby.signal").touch()
    desk.start(copy)
    before = desk.keys("base/")
    try:
        ini = desk.configure("standby.ini")
        ini.write_text(ini.read_text().replace(f"port = {desk.port}", f"port = {port}"))
        done = desk.run("backup", ini=ini)
        assert done.returncode == 82, done.stderr
        assert "this server is a standby" in done.stderr
        assert desk.keys("base/") == before
        assert not desk.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")
    finally:
        desk.stop(copy)
        shutil.rmtree(copy)


async def test_a_backup_whose_tar_was_removed_meanwhile_is_none(desk: Desk, tmp_path: Path) -> None:
    before = desk.keys("base/")
    async with unlucky(desk, tmp_path) as (store, ini):
        luck = store.has("held", "backup_manifest", method="PUT")
        running = asyncio.create_task(asyncio.to_thread(desk.run, "backup", ini=ini))
        await asyncio.wait_for(luck.reached.wait(), 30)
        (tar,) = [key for key in desk.keys("base/") if key not in before and key.endswith("base.tar.gz")]
        desk.client.delete_object(Bucket=BUCKET, Key=f"unit/{tar}")
        luck.over.set()
        done = await running
    assert done.returncode == 82, done.stderr
    assert "base.tar.gz was stored, and is not there" in done.stderr
    assert desk.keys("base/") == before


async def test_why_an_upload_failed_is_told_and_not_that_of_its_end(desk: Desk, tmp_path: Path) -> None:
    async with unlucky(desk, tmp_path) as (store, ini):
        for method in ("PUT", "DELETE"):
            store.has("403", "base.tar.gz", method=method)
        done = await asyncio.to_thread(desk.run, "backup", ini=ini)
    for each in desk.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
        desk.client.abort_multipart_upload(Bucket=BUCKET, Key=each["Key"], UploadId=each["UploadId"])
    assert done.returncode == 103, done.stderr
    assert "backup: PUT s3://archive/unit/base/" in done.stderr
