"""lifeboat-archive on a real PostgreSQL and a real store (versitygw): what is stored, what is not, and how it exits."""

from __future__ import annotations

import asyncio
import contextlib
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

import boto3
import pytest
from temporalio.testing import ActivityEnvironment

from activities import backups, copy_checks, restoring
from activities.restore_host import ask
from lab.owner import server_ids
from schemas.failures import BackupsUnreadable
from schemas.restores import HostOrder, LookOrder, Moment, RecoverOrder, RestoreOrder, ScanOrder
from tests.standins.bad_store import bad_store
from tests.standins.plain import Plain, plain
from tests.standins.storage import KEYS, Storage, storage
from tests.unit.estates import service

pytestmark = [pytest.mark.lab, pytest.mark.campaign]

BUCKET = "archive"


class Desk(Plain):
    """A server with its archive, and the bucket as its owner sees it."""

    store: Storage
    client: Any

    def key(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=f"unit/{key}")["Body"].read())

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"unit/{key}", Body=body)

    def keys(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"unit/{prefix}").get("Contents", [])
        return [each["Key"].removeprefix("unit/") for each in found]

    def stanza(self) -> dict[str, Any]:
        (found,) = json.loads(self.well("info", "--output=json"))
        assert isinstance(found, dict)
        return found

    def labels(self) -> list[str]:
        return [each["label"] for each in self.stanza()["backup"]]

    def wal(self, name: str) -> Path:
        """A WAL file in the server's own folder."""
        return self.data / "pg_wal" / name


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with storage(tmp_path_factory.mktemp("store")) as store:
        store.bucket(BUCKET)
        with plain(store.endpoint, Desk) as made:
            made.store = store
            made.client = boto3.client("s3", endpoint_url=store.endpoint, **KEYS)
            made.initialise()
            made.sql("CREATE TABLE t AS SELECT n, repeat('x', 200) AS x FROM generate_series(1, 20000) n")
            yield made


@pytest.fixture(scope="module")
def label(desk: Desk) -> str:
    desk.well("backup")
    return desk.labels()[-1]


# archive-push


def test_a_segment_is_stored_once_and_a_second_time_is_as_good(desk: Desk) -> None:
    name = desk.archived()
    stored = desk.client.head_object(Bucket=BUCKET, Key=f"unit/wal/{name}")
    assert desk.key(f"wal/{name}") == desk.wal(name).read_bytes()
    assert "was stored before" in desk.well("archive-push", str(desk.wal(name)), "--log-level-console=detail")
    again = desk.client.head_object(Bucket=BUCKET, Key=f"unit/wal/{name}")
    assert (again["LastModified"], again["ETag"]) == (stored["LastModified"], stored["ETag"])


def test_other_content_under_that_name_is_refused_and_the_first_stays(desk: Desk) -> None:
    """Two servers that archive to one place: the second keeps its own."""
    name = desk.archived()
    before = desk.key(f"wal/{name}")
    other = desk.folder / name
    changed = bytearray(before)
    changed[5000] ^= 1
    other.write_bytes(bytes(changed))
    os.chmod(other, 0o644)
    try:
        done = desk.run("archive-push", str(other))
        assert done.returncode == 45
        assert f"s3://archive/unit/wal/{name} holds other content than this server's" in done.stderr
        # Whose store the condition is not known to, is asked first: the same without it.
        assert desk.key(f"wal/{name}") == before
    finally:
        other.unlink()


def test_of_two_that_push_at_once_one_wins(desk: Desk) -> None:
    """Both have seen that nothing is there: only the condition of the request itself decides."""
    name = desk.archived()
    source = desk.wal(name).read_bytes()
    folders = [desk.folder / f"side-{n}" for n in (1, 2, 3, 4)]
    target = f"{name[:8]}000000FF{name[16:]}"
    address = (0xFF << 32) + (int(name[16:], 16) << 24)
    for n, folder in enumerate(folders):
        folder.mkdir()
        made = bytearray(source)
        made[8:16] = address.to_bytes(8, "little")
        made[-1] = n
        (folder / target).write_bytes(bytes(made))
        for each in (folder, folder / target):
            os.chmod(each, 0o755)
    running = [desk.begin(*desk.argv("archive-push", str(folder / target)), stderr=-1) for folder in folders]
    ended = [(each.communicate(timeout=60)[1], each.returncode) for each in running]
    assert sorted(code for _, code in ended) == [0, 45, 45, 45], ended
    winner = [code for _, code in ended].index(0)
    assert desk.key(f"wal/{target}")[-1] == winner
    desk.client.delete_object(Bucket=BUCKET, Key=f"unit/wal/{target}")
    for folder in folders:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("0000000100000000000000AA", b"\0" * (16 << 20), "does not begin as WAL does"),
        ("0000000100000000000000AB", b"half", "it has 4 bytes"),
        ("notes.txt", b"x", "is no file that PostgreSQL archives"),
    ],
)
def test_what_is_no_whole_segment_is_not_stored(desk: Desk, name: str, body: bytes, said: str) -> None:
    path = desk.folder / name
    path.write_bytes(body)
    os.chmod(path, 0o644)
    done = desk.run("archive-push", str(path))
    assert 0 < done.returncode < 126
    assert said in done.stderr
    assert f"wal/{name}" not in desk.keys("wal/")


def test_a_truncated_segment_is_not_stored(desk: Desk) -> None:
    name = desk.archived()
    folder = desk.folder / "cut"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(desk.wal(name).read_bytes()[: 8 << 20])
    for each in (folder, folder / name):
        os.chmod(each, 0o755)
    done = desk.run("archive-push", str(folder / name))
    assert done.returncode == 26
    assert "8388608 bytes of 16777216" in done.stderr


def test_histories_and_what_else_is_archived_are_stored_as_they_are(desk: Desk) -> None:
    told = {
        "00000009.history": b"1\t0/3000000\tno recovery target specified\n",
        "0000000100000000000000AC.00000028.backup": b"START WAL LOCATION: 0/AC000028\n",
    }
    for name, body in told.items():
        (desk.folder / name).write_bytes(body)
        os.chmod(desk.folder / name, 0o644)
        desk.well("archive-push", str(desk.folder / name))
        desk.well("archive-push", str(desk.folder / name))
        assert desk.key(f"wal/{name}") == body
        to = desk.folder / "fetched"
        desk.well("archive-get", name, str(to))
        assert to.read_bytes() == body
    assert "00000009.history" in desk.well("repo-ls", "archive/unit/plain", r"--filter=\.history$")
    (desk.folder / "00000009.history").write_bytes(b"1\t0/4000000\tanother\n")
    assert desk.run("archive-push", str(desk.folder / "00000009.history")).returncode == 45
    for name in told:
        desk.client.delete_object(Bucket=BUCKET, Key=f"unit/wal/{name}")


def test_a_partial_segment_is_no_segment_of_the_archive(desk: Desk) -> None:
    name = desk.archived()
    path = desk.folder / f"{name}.partial"
    path.write_bytes(desk.wal(name).read_bytes())
    os.chmod(path, 0o644)
    desk.well("archive-push", str(path))
    desk.client.delete_object(Bucket=BUCKET, Key=f"unit/wal/{name}")
    try:
        done = desk.run("archive-get", name, str(desk.folder / "fetched"))
        assert done.returncode == 1
    finally:
        desk.put(f"wal/{name}", desk.wal(name).read_bytes())
        desk.client.delete_object(Bucket=BUCKET, Key=f"unit/wal/{name}.partial")


@contextlib.asynccontextmanager
async def unlucky(desk: Desk, folder: Path, **more: Any):  # type: ignore[no-untyped-def]
    """The desk's store, by TLS, behind one that may have bad luck; and a configuration that leads there."""
    host, _, port = desk.endpoint.removeprefix("http://").partition(":")
    async with bad_store(folder, host, int(port), None) as store:
        authority = desk.folder / "authority.pem"
        shutil.copy(store.authority, authority)
        os.chmod(authority, 0o644)
        ini = desk.configure(
            "bad.ini", endpoint=f"https://{store.host}:{store.port}", more={"ca": str(authority)}, **more
        )
        yield store, ini


async def test_a_push_that_is_killed_midway_leaves_nothing_and_is_made_again(desk: Desk, tmp_path: Path) -> None:
    name = desk.archived()
    desk.client.delete_object(Bucket=BUCKET, Key=f"unit/wal/{name}")
    async with unlucky(desk, tmp_path) as (store, ini):
        luck = store.has("held", f"wal/{name}", method="PUT")
        pushing = desk.begin(*desk.argv("archive-push", str(desk.wal(name)), ini=ini))
        await asyncio.wait_for(luck.reached.wait(), 20)
        os.kill(pushing.pid, signal.SIGKILL)
        await asyncio.to_thread(pushing.wait, 10)
        assert f"wal/{name}" not in desk.keys("wal/")
        luck.over.set()
    desk.well("archive-push", str(desk.wal(name)))
    assert desk.key(f"wal/{name}") == desk.wal(name).read_bytes()


async def test_an_answer_that_is_lost_is_asked_for_again(desk: Desk, tmp_path: Path) -> None:
    """The object is stored, and its client is told 500: the second attempt finds its own."""
    name = desk.archived()
    desk.client.delete_object(Bucket=BUCKET, Key=f"unit/wal/{name}")
    async with unlucky(desk, tmp_path) as (store, ini):
        store.has("lost", f"wal/{name}", 1, method="PUT")
        done = await asyncio.to_thread(
            desk.run, "archive-push", str(desk.wal(name)), "--log-level-console=detail", ini=ini
        )
        assert done.returncode == 0, done.stderr
        assert "was stored before" in done.stdout


async def test_a_store_that_is_silent_is_given_up_in_time(desk: Desk, tmp_path: Path) -> None:
    name = desk.archived()
    async with unlucky(desk, tmp_path, timeout=2.0) as (store, ini):
        store.has("held", "wal/", method="HEAD")
        store.has("held", "wal/")
        for words, code in ((("archive-push", str(desk.wal(name))), 103), (("archive-get", name, "x"), 255)):
            began = time.monotonic()
            done = await asyncio.to_thread(desk.run, *words, ini=ini)
            assert done.returncode == code
            assert "after 2 s" in done.stderr
            assert time.monotonic() - began < 6


# archive-get


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("500", "InternalError"),
        ("503", "SlowDown"),
        ("403", "must let these credentials in"),
        ("cut", "total bytes expected"),
    ],
)
async def test_a_store_in_trouble_never_ends_recovery(desk: Desk, tmp_path: Path, kind: Any, said: str) -> None:
    """PostgreSQL takes 1 to 125 for the end of the archive."""
    name, to = desk.archived(), desk.folder / f"trouble-{kind}"
    async with unlucky(desk, tmp_path) as (store, ini):
        store.has(kind, f"wal/{name}")
        done = await asyncio.to_thread(desk.run, "archive-get", name, str(to), ini=ini)
        assert done.returncode == 255, done.stderr
        assert said in done.stderr
        assert not to.exists()


async def test_a_byte_that_changed_on_the_way_or_in_the_store_is_seen(desk: Desk, tmp_path: Path) -> None:
    name, to = desk.archived(), desk.folder / "changed"
    async with unlucky(desk, tmp_path) as (store, ini):
        store.has("changed", f"wal/{name}", 1)
        # Once: the next attempt has it whole.
        done = await asyncio.to_thread(desk.run, "archive-get", name, str(to), ini=ini)
        assert done.returncode == 0, done.stderr
        assert to.read_bytes() == desk.wal(name).read_bytes()
        store.has("changed", f"wal/{name}")
        to.unlink()
        done = await asyncio.to_thread(desk.run, "archive-get", name, str(to), ini=ini)
        assert (done.returncode, to.exists()) == (255, False)
        assert "its checksum does not match" in done.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"bucket": "no-such-bucket"},
        {"credentials": "/nowhere"},
        {"endpoint": "http://127.0.0.1:9"},
        {"bucket": ""},
        {"colour": "blue"},
        {"timeout": "soon"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_only_what_s3_says_is_absent_is_absent(desk: Desk, change: dict[str, str]) -> None:
    absent = "0000000100000000000000FF"
    done = desk.run("archive-get", absent, "x")
    assert done.returncode == 1
    assert "is not in the archive" in done.stderr
    ini = desk.configure("other.ini", more=change)
    done = desk.run("archive-get", absent, "x", ini=ini)
    assert done.returncode == 255, done.stderr
    assert "is not in the archive" not in done.stderr


@pytest.mark.parametrize(
    "words", [("archive-get", "--no-such-option", "x", "y"), ("archive-get", "x"), ("archive-get", "x", "y")]
)
def test_what_was_asked_wrongly_is_no_end_of_the_archive(desk: Desk, words: tuple[str, ...]) -> None:
    assert desk.run(*words).returncode == 255


def test_a_program_that_can_not_start_is_not_believed(desk: Desk, tmp_path: Path) -> None:
    """Python exits 1 where an import fails. The line for restore_command in docs/adopting.md asks for the words."""
    guide = (Path(__file__).parents[2] / "docs" / "adopting.md").read_text(encoding="utf-8")
    (line,) = [each.strip() for each in guide.splitlines() if each.strip().startswith("restore_command = ")]
    command = line.removeprefix("restore_command = '").removesuffix("'").replace("''", "'")
    command = command.replace("lifeboat-archive", f"{desk.program} --config={desk.ini}")

    def restored(name: str, with_: str = command) -> int:
        text = with_.replace("%f", name).replace("%p", f"{desk.folder}/restored")
        return desk.execute("sh", "-c", text).returncode

    assert restored(desk.archived()) == 0
    assert restored("0000000100000000000000FF") == 1
    module = desk.program.parent / "archiver" / "wal.py"
    text = module.read_bytes()
    module.write_bytes(b"import no_such_module\n" + text)
    try:
        assert restored("0000000100000000000000FF") == 255
    finally:
        module.write_bytes(text)
    launcher = desk.program.read_text()
    try:
        desk.program.write_text(launcher.replace("-m archiver", "-m no_such_module"))
        assert desk.run("archive-get", "0000000100000000000000FF", "x").returncode == 1
        assert restored("0000000100000000000000FF") == 255
    finally:
        desk.program.write_text(launcher)


# Base backups


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
        # The first part comes, and no other.
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
    done = desk.run("restore", f"--set={label}", f"--pg1-path={desk.data}")
    assert done.returncode == 27
    assert "is not empty" in done.stderr


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


def test_a_backup_without_its_wal_is_none(desk: Desk) -> None:
    """pg_basebackup waits for what is archived, by the server's own word; the store is asked as well."""
    ini = desk.configure("elsewhere.ini", more={"prefix": "unit/elsewhere"})
    running = desk.begin(*desk.argv("backup", ini=ini), stderr=-1)
    end = time.monotonic() + 30
    while not any(key.endswith("backup_manifest") for key in desk.keys("elsewhere/")):
        assert running.poll() is None
        assert time.monotonic() < end
    time.sleep(1)
    assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=20)
    left = desk.keys("elsewhere/")
    for key in left:
        desk.client.delete_object(Bucket=BUCKET, Key=f"unit/{key}")
    assert not any(key.endswith("backup.json") for key in left)


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
