"""Base backups of lifeboat-archive on a real PostgreSQL and a real store: taken, restored, seen to be bad."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import shutil
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import backups, copy_checks, restoring
from activities.restore_host import ask
from lab.owner import server_ids
from schemas.failures import BackupsUnreadable
from schemas.restores import HostOrder, LookOrder, Moment, RecoverOrder, RestoreOrder, ScanOrder
from tests.lab.plain_desk import BUCKET, Desk, desk_of, unlucky
from tests.unit.estates import service

pytestmark = [pytest.mark.lab, pytest.mark.campaign]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk_of(tmp_path_factory.mktemp("store")) as made:
        yield made


@pytest.fixture(scope="module")
def label(desk: Desk) -> str:
    desk.well("backup")
    return desk.labels()[-1]


def test_a_backup_is_a_tar_that_anybody_unpacks(desk: Desk, label: str, tmp_path: Path) -> None:
    (told,) = [each for each in desk.stanza()["backup"] if each["label"] == label]
    assert (told["type"], told["error"], told["info"]["repository"]["class"]) == ("full", False, "STANDARD")
    names = {f"wal/{told['archive'][each]}" for each in ("start", "stop")}
    assert names <= set(desk.keys("wal/"))
    assert desk.keys(f"base/{label}/") == [
        f"base/{label}/{name}" for name in ("backup.json", "backup_manifest", "base.tar.gz", "index.json")
    ]
    packed = desk.key(f"base/{label}/base.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as tar:
        tar.extractall(tmp_path / "by-hand", filter="data")
    manifest = json.loads((tmp_path / "by-hand" / "backup_manifest").read_text())
    assert manifest == json.loads(desk.key(f"base/{label}/backup_manifest"))
    # It was cut where a part of it can be read alone.
    (chunks,) = json.loads(desk.key(f"base/{label}/index.json"))["tars"].values()
    for each in chunks:
        assert len(gzip.decompress(packed[each["at"] : each["at"] + each["bytes"]])) == each["raw"]


def test_it_is_restored_and_recovers_to_the_newest_row(desk: Desk, label: str) -> None:
    copy = desk.folder / "copy"
    desk.sql("CREATE TABLE IF NOT EXISTS later (n int)", "INSERT INTO later VALUES (42)")
    desk.archived()
    desk.well("restore", f"--set={label}", f"--pg1-path={copy}")
    assert desk.execute("pg_verifybackup", "-n", str(copy)).returncode == 0
    before = (copy / "PG_VERSION").stat()
    # Again: what is whole is let be; what is not, and what is there too much, is not.
    (copy / "global" / "pg_control").write_bytes(b"x" * 8192)
    (copy / "base" / "999999").write_bytes(b"left by a server")
    desk.well("restore", "--delta", f"--set={label}", f"--pg1-path={copy}")
    assert desk.execute("pg_verifybackup", "-n", str(copy)).returncode == 0
    after = (copy / "PG_VERSION").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    command = " ".join(desk.argv("archive-get", "%f", "%p"))
    with (copy / "postgresql.auto.conf").open("a") as file:
        file.write(f"port = {desk.port + 1}\narchive_mode = off\nrestore_command = '{command}'\n")
    (copy / "recovery.signal").touch()
    desk.start(copy)
    try:
        end = time.monotonic() + 60
        while desk.sql("SELECT pg_is_in_recovery()", port=desk.port + 1) == "t":
            assert time.monotonic() < end
            time.sleep(0.1)
        assert desk.sql("SELECT DISTINCT n FROM later", port=desk.port + 1) == "42"
    finally:
        desk.stop(copy)
        shutil.rmtree(copy)


async def test_a_restore_that_was_killed_goes_on_with_what_is_there(desk: Desk, tmp_path: Path) -> None:
    desk.sql("CREATE TABLE large AS SELECT n, repeat(md5(n::text), 30) AS x FROM generate_series(1, 60000) n")
    desk.well("backup")
    label, copy = desk.labels()[-1], desk.folder / "copy"
    chunks = json.loads(desk.key(f"base/{label}/index.json"))["tars"]["base.tar.gz"]
    assert len(chunks) > 1
    words = ("restore", "--delta", f"--set={label}", f"--pg1-path={copy}")
    async with unlucky(desk, tmp_path) as (store, ini):
        # In their order: the first part comes, and no other.
        ini.write_text(ini.read_text().replace("[archive]\n", "[archive]\nprocesses = 1\n"))
        store.has("held", "base.tar.gz", since=lambda: any("base.tar.gz" in each for each in store.asked[:-1]))
        restoring = desk.begin(*desk.argv(*words, ini=ini))
        whole = copy / chunks[0]["files"][-1]
        async with asyncio.timeout(30):
            while not whole.exists() or not whole.stat().st_size:
                await asyncio.sleep(0.05)
        os.kill(restoring.pid, signal.SIGKILL)
        await asyncio.to_thread(restoring.wait, 10)
    before = {name: (copy / name).stat().st_mtime_ns for name in chunks[0]["files"][:-1]}
    desk.well(*words)
    assert {name: (copy / name).stat().st_mtime_ns for name in before} == before
    assert desk.execute("pg_verifybackup", "-n", str(copy)).returncode == 0
    shutil.rmtree(copy)
    desk.sql("DROP TABLE large")


def test_without_delta_nothing_is_written_over(desk: Desk, label: str) -> None:
    other = desk.folder / "another"
    desk.execute("sh", "-c", f"mkdir {other} && echo 15 > {other}/PG_VERSION")
    done = desk.run("restore", f"--set={label}", f"--pg1-path={other}")
    assert done.returncode == 27
    assert "is not empty" in done.stderr
    assert os.listdir(other) == ["PG_VERSION"]
    shutil.rmtree(other)


@pytest.mark.parametrize("what", ["flipped", "truncated", "manifest", "gone"])
def test_a_backup_that_is_not_what_it_was_is_named(desk: Desk, label: str, what: str) -> None:
    name = f"base/{label}/" + ("backup_manifest" if what == "manifest" else "base.tar.gz")
    good = desk.key(name)
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 0x10
    copy = desk.folder / "bad"
    try:
        if what == "gone":
            desk.client.delete_object(Bucket=BUCKET, Key=f"unit/{name}")
        else:
            desk.put(name, bytes(bad[: len(bad) // 2]) if what == "truncated" else bytes(bad))
        done = desk.run("restore", f"--set={label}", f"--pg1-path={copy}")
        assert done.returncode not in (0, 103), done.stdout
        assert name in done.stderr, done.stderr
        if what == "flipped":
            assert "base/" in done.stderr.split("base.tar.gz", 1)[1], done.stderr
    finally:
        desk.put(name, good)
        shutil.rmtree(copy, ignore_errors=True)


def test_a_flipped_byte_that_unpacks_is_named_by_its_file(desk: Desk, label: str) -> None:
    """Of a tar that is not compressed, nothing but the manifest's checksum tells."""
    ini = desk.configure("raw.ini", more={"compress_level": "0"})
    desk.well("backup", ini=ini)
    raw = desk.labels()[-1]
    name, copy = f"base/{raw}/base.tar", desk.folder / "bad"
    body = bytearray(desk.key(name))
    with tarfile.open(fileobj=io.BytesIO(bytes(body))) as tar:
        member = next(each for each in tar if each.name.startswith("base/5/") and each.size > 100000)
    body[member.offset_data + 70000] ^= 1
    desk.put(name, bytes(body))
    done = desk.run("restore", f"--set={raw}", f"--pg1-path={copy}")
    shutil.rmtree(copy, ignore_errors=True)
    for key in desk.keys(f"base/{raw}/"):
        desk.client.delete_object(Bucket=BUCKET, Key=f"unit/{key}")
    assert done.returncode == 26
    assert f"{name}: {member.name}: its checksum does not match backup_manifest" in done.stderr


async def test_lifeboats_own_activities_restore_from_it(desk: Desk, label: str) -> None:
    """Each twice: the second finds it done. The whole runbooks: tests/faults/test_restore_plain.py."""
    desk.sql("CREATE TABLE recovered AS SELECT 7 AS n")
    desk.archived()
    ids = server_ids()
    user = [] if ids is None else ["setpriv", f"--reuid={ids[0]}", f"--regid={ids[1]}", "--clear-groups"]
    host = {"name": "restore", "region": "us-east-1", "directory": f"{desk.folder}/copies", "bin": str(desk.bin)}
    kept = {"kind": "plain", "stanza": "unit", "program": str(desk.program), "config": str(desk.ini)}
    declared = {"repository": kept, "host": {**host, "run_as": user, "keep_free_bytes": 1000}}
    given: dict[str, Any] = {"service": service(backup=declared), "run": "r@1", "copy_name": "c0ffee"}
    environment = ActivityEnvironment()

    async def twice(activity: Any, order: HostOrder) -> Any:
        await environment.run(activity, order)
        return await environment.run(activity, order)

    await twice(backups.open_archive, HostOrder(**given))
    found = await twice(backups.read_repository, LookOrder(**given, timeline=1))
    backup = next(each for each in found.backups if each.label == label)
    (stretch,) = found.stretches
    assert stretch.first <= backup.wal_start
    assert backup.storage == "STANDARD"
    await twice(restoring.restore_backup, RestoreOrder(**given, backup=backup))
    read = ScanOrder(**given, stretches=[stretch], lsn=backup.lsn_start, what="commits", segment_bytes=16 << 20)
    newest = await twice(backups.read_wal, read)
    moment = Moment(kind="lsn", timeline=1, lsn=newest.newest_commit_lsn, reason="a test")
    copy = await twice(restoring.recover_copy, RecoverOrder(**given, backup=backup, moment=moment))
    assert (copy.pause, copy.system, copy.timeline) == ("paused", backup.system, 1)
    rows = await ask(HostOrder(**given), "query", "postgres", "SELECT n FROM recovered")
    assert rows["row"] == ["7"]
    assert (await twice(copy_checks.check_pages, HostOrder(**given)))[0].ok
    # What S3 says it has not is absent; a store that is not there says nothing.
    assert "none" in await ask(HostOrder(**given), "history", "00000007")
    nowhere = desk.configure("nowhere.ini", endpoint="http://127.0.0.1:9")
    kept["config"] = str(nowhere)
    other = given | {"service": service(backup=declared)}
    with pytest.raises(BackupsUnreadable, match="lifeboat-archive's archive-get exited 255"):
        await ask(HostOrder(**other), "history", "00000007")
    with pytest.raises(BackupsUnreadable, match="lifeboat-archive can't read its repository"):
        await environment.run(backups.read_repository, LookOrder(**other, timeline=1))
    await twice(restoring.remove_copy, HostOrder(**given))
    assert os.listdir(desk.folder / "copies") == []


def test_what_pg_basebackup_wrote_by_hand_is_adopted(desk: Desk) -> None:
    """As the strategy has it: a backup manager's own, with PostgreSQL's usual checksums and a tablespace."""
    space, mine, copy = (desk.folder / name for name in ("space", "by-hand", "copy"))
    space.mkdir(exist_ok=True)
    shutil.chown(space, desk.data.owner(), desk.data.group())
    desk.sql(
        f"CREATE TABLESPACE apart LOCATION '{space}'",
        "CREATE TABLE far (n int) TABLESPACE apart",
        "INSERT INTO far VALUES (7)",
    )
    done = desk.run("backup")
    assert done.returncode == 82
    assert "the cluster has tablespaces" in done.stderr
    argv = (
        "pg_basebackup",
        "-h",
        str(desk.folder),
        "-p",
        str(desk.port),
        "-D",
        str(mine),
        "-Ft",
        "-z",
        "-X",
        "none",
        "-c",
        "fast",
    )
    done = desk.execute(*argv)
    assert done.returncode == 0, done.stderr
    for each in mine.iterdir():
        desk.put(f"base/sunday/{each.name}", each.read_bytes())
    shutil.rmtree(mine)
    try:
        assert "sunday" in desk.stanza()["not-adopted"]
        assert "sunday is a backup" in desk.well("adopt", "sunday")
        assert desk.labels()[-1] == "sunday"
        desk.well("restore", "--set=sunday", f"--pg1-path={copy}", f"--tablespace-map-all={desk.folder}/spaces")
        (oid,) = os.listdir(copy / "pg_tblspc")
        assert (copy / "tablespace_map").read_text() == f"{oid} {desk.folder}/spaces/{oid}\n"
        # The checksums that are PostgreSQL's own to compute are compared as well.
        name = next(each for each in desk.keys("base/sunday/") if each.endswith(f"{oid}.tar.gz"))
        body = bytearray(gzip.decompress(desk.key(name)))
        with tarfile.open(fileobj=io.BytesIO(bytes(body))) as tar:
            member = next(each for each in tar if each.isfile() and each.size)
        body[member.offset_data + 100] ^= 1
        desk.put(name, gzip.compress(bytes(body)))
        shutil.rmtree(copy)
        done = desk.run("restore", "--set=sunday", f"--pg1-path={copy}", f"--tablespace-map-all={desk.folder}/spaces")
        assert done.returncode == 26
        assert "checksum mismatch" in done.stderr
    finally:
        shutil.rmtree(copy, ignore_errors=True)
        desk.sql("DROP TABLE far", "DROP TABLESPACE apart")
        for key in desk.keys("base/sunday/"):
            desk.client.delete_object(Bucket=BUCKET, Key=f"unit/{key}")


def test_a_backup_that_is_killed_is_no_backup_and_another_is_locked_out(desk: Desk) -> None:
    before, keys = desk.labels(), desk.keys("base/")
    other = desk.begin(*desk.argv("backup"), stderr=-1)
    end = time.monotonic() + 20
    while not desk.stanza()["status"]["lock"]["backup"]["held"]:
        assert other.poll() is None
        assert time.monotonic() < end
    assert desk.run("backup").returncode == 50
    other.send_signal(signal.SIGTERM)
    _, said = other.communicate(timeout=20)
    if other.returncode == 0:
        pytest.skip("it had ended by then")
    assert other.returncode == 63, said
    assert desk.labels() == before
    assert desk.keys("base/") == keys
    assert not desk.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")
    assert not desk.stanza()["status"]["lock"]["backup"]["held"]


@pytest.mark.parametrize("ended", ["in-time", "by-a-signal"])
def test_a_backup_without_its_wal_is_none_and_nothing_of_it_stays(desk: Desk, ended: str) -> None:
    """pg_basebackup waits for what is archived, by the server's own word; the store is asked as well."""
    prefix, limit = f"elsewhere-{ended}", "8" if ended == "in-time" else "120"
    ini = desk.configure("elsewhere.ini", more={"prefix": f"unit/{prefix}"})
    ini.write_text(ini.read_text().replace("[server]\n", f"[server]\nwal_timeout = {limit}\n"))
    running = desk.begin(*desk.argv("backup", ini=ini), stderr=-1)
    if ended == "by-a-signal":
        end = time.monotonic() + 30
        while not any(key.endswith("backup_manifest") for key in desk.keys(f"{prefix}/")):
            assert running.poll() is None
            assert time.monotonic() < end
        time.sleep(1)
        assert running.poll() is None
        running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=40)
    assert running.returncode == (82 if ended == "in-time" else 63), said
    assert ended != "in-time" or "is not there, and the backup is nothing without it" in said
    assert desk.keys(f"{prefix}/") == []


def test_retention_removes_what_is_kept_no_longer_and_no_upload_that_is_under_way(desk: Desk, label: str) -> None:
    desk.well("backup")
    *older, newest = desk.labels()
    assert label in older
    upload = desk.client.create_multipart_upload(Bucket=BUCKET, Key="unit/base/20200101-000000F/base.tar.gz")
    try:
        found = json.loads(desk.well("expire", "--keep-fulls=1", "--json"))
        assert found["removed"]["backups"] == older
        assert desk.labels() == [newest]
        (start,) = [each["archive"]["start"] for each in desk.stanza()["backup"]]
        assert min(key for key in desk.keys("wal/") if len(key) == 28) == f"wal/{start}"
        uploads = desk.client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
        assert [each["UploadId"] for each in uploads] == [upload["UploadId"]]
    finally:
        desk.client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])


def test_a_stanza_that_is_not_this_file_s_is_missing(desk: Desk) -> None:
    argv = [str(desk.program), f"--config={desk.ini}", "--stanza=nobodys", "--output=json", "info"]
    (told,) = json.loads(desk.execute(*argv).stdout)
    assert (told["status"]["code"], told["status"]["message"]) == (1, "missing stanza path")
    argv = [str(desk.program), f"--config={desk.ini}", "--stanza=nobodys", "backup"]
    assert "is of unit, and nobodys was asked for" in desk.execute(*argv).stderr
