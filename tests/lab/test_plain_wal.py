"""lifeboat-archive as archive_command and restore_command, on a real PostgreSQL and a real store (versitygw)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.owner import server_name
from tests.lab.plain_desk import BUCKET, Desk, desk_of, unlucky
from tests.standins.plain import plain

pytestmark = [pytest.mark.lab, pytest.mark.campaign]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk_of(tmp_path_factory.mktemp("store")) as made:
        yield made


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


def test_a_second_server_that_archives_to_one_place_keeps_its_wal(desk: Desk) -> None:
    name = "000000010000000000000001"
    desk.archived()
    before = desk.key(f"wal/{name}")
    with plain(desk.endpoint, Desk) as other:
        other.initialise()
        other.sql("CREATE TABLE t (n int)", "SELECT pg_switch_wal()")
        end = time.monotonic() + 30
        while other.sql("SELECT last_failed_wal FROM pg_stat_archiver") != name:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert other.sql("SELECT archived_count FROM pg_stat_archiver") == "0"
        assert (other.data / "pg_wal" / "archive_status" / f"{name}.ready").exists()
        assert "holds other content than this server's" in (other.folder / "log").read_text()
    assert desk.key(f"wal/{name}") == before


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "begun-by-others"])
def test_another_clusters_files_are_refused_under_free_names(desk: Desk, tmp_path: Path, marked: bool) -> None:
    """After retention the first names of every cluster are free again."""
    desk.archived()
    other, name = desk.folder / f"other-{marked}", "000000010000000000000001"
    made = desk.execute(str(desk.bin / "initdb"), "-D", str(other), "-A", "trust", "--no-sync")
    assert made.returncode == 0, made.stderr
    system = desk.sql("SELECT system_identifier FROM pg_control_system()")
    assert desk.key("wal/system").decode().split() == [system]
    (other / "pg_wal" / "0000000A.history").write_bytes(b"1\t0/3000000\tno recovery target specified\n")
    os.chmod(other / "pg_wal" / "0000000A.history", 0o644)
    own = desk.key(f"wal/{name}")
    desk.client.delete_object(Bucket=BUCKET, Key=f"unit/wal/{name}")
    if not marked:
        desk.client.delete_object(Bucket=BUCKET, Key="unit/wal/system")
    try:
        for file in (name, "0000000A.history"):
            done = desk.run("archive-push", str(other / "pg_wal" / file))
            assert done.returncode == 45, done.stdout + done.stderr
            assert f"is the archive of the cluster {system}, and" in done.stderr
            assert f"wal/{file}" not in desk.keys("wal/")
        assert desk.key("wal/system").decode().split() == [system]
    finally:
        desk.put(f"wal/{name}", own)
    desk.archived()


def test_where_nothing_is_archived_nothing_is_absent(desk: Desk) -> None:
    """A wrong prefix is not the archive's end."""
    name = desk.archived()
    wrong = desk.configure("wrong.ini", more={"prefix": "typo"})
    done = desk.run("archive-get", name, str(desk.folder / "x"), ini=wrong)
    assert done.returncode == 255
    assert "nothing is archived at s3://archive/typo/wal/" in done.stderr
    assert "must look at `bucket` and `prefix`" in done.stderr
    # Which others began says nothing itself.
    desk.client.put_object(Bucket=BUCKET, Key=f"typo/wal/{name}", Body=desk.key(f"wal/{name}"))
    try:
        assert desk.run("archive-get", "0000000100000000000000FF", "x", ini=wrong).returncode == 1
    finally:
        desk.client.delete_object(Bucket=BUCKET, Key=f"typo/wal/{name}")


async def test_a_store_without_the_condition_is_used_only_where_its_owner_says_so(desk: Desk, tmp_path: Path) -> None:
    name = desk.archived()
    desk.client.delete_object(Bucket=BUCKET, Key=f"unit/wal/{name}")
    async with unlucky(desk, tmp_path) as (store, ini):
        luck = store.has("501", f"wal/{name}", method="PUT")
        done = await asyncio.to_thread(desk.run, "archive-push", str(desk.wal(name)), ini=ini)
        assert done.returncode == 27, done.stderr
        assert "does not know If-None-Match" in done.stderr
        assert "`conditional = no`" in done.stderr
        assert f"wal/{name}" not in desk.keys("wal/")
        luck.over.set()
    unconditional = desk.configure("unconditional.ini", more={"conditional": "no"})
    desk.well("archive-push", str(desk.wal(name)), ini=unconditional)
    assert desk.key(f"wal/{name}") == desk.wal(name).read_bytes()


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
    line, standbys = [each.strip() for each in guide.splitlines() if each.strip().startswith("restore_command = ")]
    assert standbys == "restore_command = 'lifeboat-archive archive-get %f %p || exit 1'"
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


@pytest.mark.parametrize("then", ["promoted", "alone"])
def test_a_standby_outlives_its_store(desk: Desk, then: str) -> None:
    """It asks the archive as well, again and again; what ends with 255 would end the server."""
    copy, port = desk.folder / f"standby-{then}", desk.port + 1
    ini = desk.configure(f"{then}.ini")
    desk.well("backup")
    desk.well("restore", f"--set={desk.labels()[-1]}", f"--pg1-path={copy}")
    command = " ".join(desk.argv("archive-get", "%f", "%p", ini=ini)) + " || exit 1"
    with (copy / "postgresql.auto.conf").open("a") as file:
        file.write(f"port = {port}\narchive_mode = off\nrestore_command = '{command}'\n")
        file.write(f"primary_conninfo = 'host={desk.folder} port={desk.port} user={server_name()}'\n")
        file.write("wal_retrieve_retry_interval = 100ms\n")
    (copy / "standby.signal").touch()
    desk.start(copy)
    try:
        end = time.monotonic() + 30
        while desk.sql("SELECT status FROM pg_stat_wal_receiver", port=port) != "streaming":
            assert time.monotonic() < end, (desk.folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        desk.configure(f"{then}.ini", endpoint="http://127.0.0.1:9")
        if then == "promoted":
            done = desk.execute("pg_ctl", "-D", str(copy), "-w", "-t", "30", "promote")
            assert done.returncode == 0, (desk.folder / "log").read_text()[-2000:]
            assert desk.sql("SELECT pg_is_in_recovery()", port=port) == "f"
        else:
            desk.stop()
            while asked(desk) < 3:
                assert time.monotonic() < end
                time.sleep(0.1)
            assert desk.sql("SELECT pg_is_in_recovery()", port=port) == "t"
    finally:
        desk.stop(copy)
        if then == "alone":
            desk.start()
        shutil.rmtree(copy)


def asked(desk: Desk) -> int:
    """How often a store that is away was."""
    return (desk.folder / "log").read_text().count("127.0.0.1:9/")
