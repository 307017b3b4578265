"""data_folder.sh on a folder that looks like a server's: what it tells of one that stops, and what it keeps apart."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from activities.commands import KEPT
from activities.jobs import parse, script

SCRIPT = script("data_folder.sh")
CONTROL = """#!/bin/sh
echo "Database cluster state:               shut down"
echo "Latest checkpoint location:           0/3000148"
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder, beside it programs and what is kept."""
    for name in ("data", "bin", "keep"):
        (tmp_path / name).mkdir()
    program = tmp_path / "bin" / "pg_controldata"
    program.write_text(CONTROL, encoding="utf-8")
    program.chmod(0o755)
    return tmp_path / "data"


def tell(data: Path, *words: str) -> dict[str, str]:
    """The script's answers to one verb."""
    folders = (str(data), str(data.parent / "bin"), str(data.parent / "keep"), "")
    argv = ["sh", "-c", 'eval "$1"', "lifeboat-data", SCRIPT, *folders, *words]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False).stdout
    lines = (line.removeprefix("::").partition("=") for line in told.splitlines() if line.startswith("::"))
    return {name: value for name, _, value in lines}


@contextmanager
def server(data: Path, *argv: str, at: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Something that runs in the folder, as its PID file says."""
    process = subprocess.Popen(argv, cwd=at or data)
    try:
        (data / "postmaster.pid").write_text(f"{process.pid}\n{data}\n", encoding="ascii")
        yield process
    finally:
        process.kill()
        process.wait(10)


def test_a_server_that_stops_is_waited_for(data: Path) -> None:
    with server(data, "sleep", "0.3"):
        assert tell(data, "shut", "10") == {"state": "shut down", "checkpoint": "0/3000148", "running": "0"}


def test_one_that_does_not_is_told_to_run(data: Path) -> None:
    with server(data, "sleep", "60"):
        assert tell(data, "shut", "0")["running"] == "1"


def test_another_process_with_its_number_is_not_the_server(data: Path) -> None:
    with server(data, "sleep", "60", at=data.parent):
        assert tell(data, "shut", "0")["running"] == "0"


def test_nobody_runs_without_a_pid_file_or_with_a_broken_one(data: Path) -> None:
    assert tell(data, "shut", "0")["running"] == "0"
    (data / "postmaster.pid").write_text("-1\n", encoding="ascii")
    assert tell(data, "shut", "0")["running"] == "0"


def test_a_standby_is_made_of_the_nodes_own_files(data: Path) -> None:
    """As a rewind or a copy leaves it, with the source's files: the node's own come back, on the disk."""
    (data / "PG_VERSION").write_text("15\n", encoding="ascii")
    (data / "postgresql.conf").write_text("port = 1\n", encoding="ascii")
    (data / "postgresql.auto.conf").write_text("work_mem = '1MB'\nprimary_conninfo = 'host=old'\n", encoding="ascii")
    assert tell(data, "follow", "primary_conninfo = 'host=new'") == {"done": "1"}
    assert (data / "standby.signal").exists()
    auto = (data / "postgresql.auto.conf").read_text(encoding="ascii")
    assert auto == "work_mem = '1MB'\nprimary_conninfo = 'host=new'\n"
    kept = data.parent / "keep" / "config"
    assert sorted(each.name for each in kept.iterdir()) == ["postgresql.auto.conf", "postgresql.conf"]


def test_the_epoch_that_was_stamped_last_is_told(data: Path) -> None:
    assert tell(data, "look")["stamp"] == ""
    auto = data / "postgresql.auto.conf"
    auto.write_text("lifeboat.epoch = '6'\nwork_mem = '1MB'\nlifeboat.epoch = '12'\n", encoding="ascii")
    assert tell(data, "look")["stamp"] == "12"


def test_what_has_begun_is_not_taken_for_good(data: Path) -> None:
    (data.parent / "keep" / "begun").write_text("rewind\n", encoding="ascii")
    assert "has begun and not ended" in tell(data, "follow", "x")["error"]


def program(data: Path, name: str, text: str) -> None:
    path = data.parent / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
    path.chmod(0o755)


def job(data: Path, verb: str) -> str:
    """The log of a rewind or a rebuild, carried out as the job would be."""
    (data.parent / "keep" / "job").mkdir(exist_ok=True)
    folders = (str(data), str(data.parent / "bin"), str(data.parent / "keep"), "")
    words = ("work", verb, "host=leader", "primary_conninfo = 'host=leader'")
    words += ("label", "") if verb == "rebuild" else ()
    argv = ["sh", "-c", 'eval "$1"', "lifeboat-data", SCRIPT, *folders, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False).stdout


@pytest.fixture
def spread(data: Path) -> Path:
    """A folder whose WAL and tablespace lie elsewhere, where another version has its own as well."""
    (data / "PG_VERSION").write_text("15\n", encoding="ascii")
    for place in ("wal", "space/PG_15_1", "space/PG_16_1", "data/pg_tblspc"):
        (data.parent / place).mkdir(parents=True)
    (data / "pg_wal").symlink_to(data.parent / "wal")
    (data / "pg_tblspc" / "16385").symlink_to(data.parent / "space")
    program(data, "postgres", "echo 'postgres (PostgreSQL) 15.20'")
    program(data, "psql", "echo 42")
    return data


def test_nothing_is_erased_for_a_leader_that_lets_nobody_copy(spread: Path) -> None:
    program(spread, "psql", "echo 'no pg_hba.conf entry' >&2; exit 2")
    assert "::error=the leader lets no copy begin: no pg_hba.conf entry" in job(spread, "rebuild")
    assert (spread / "PG_VERSION").exists()
    assert not (spread.parent / "keep" / "begun").exists()


def test_a_copy_that_was_broken_off_is_repeated_where_the_first_was_made(spread: Path) -> None:
    """The first one has taken the links away, and has left a part of its own behind."""
    space, wal = spread.parent / "space", spread.parent / "wal"
    left = f"mkdir -p {space}/PG_15_1/5 && touch {wal}/1 && exit 1"
    program(spread, "pg_basebackup", left)
    assert "pg_basebackup exited 1" in job(spread, "rebuild")
    assert list(spread.iterdir()) == []
    program(spread, "pg_basebackup", f'echo "args $*"; ls {space} {wal}; exit 1')
    told = job(spread, "rebuild")
    assert f"--waldir={wal}" in told
    assert "PG_15_1" not in told
    assert "PG_16_1" in told


def test_a_rewind_that_finds_nothing_is_none(data: Path) -> None:
    """It is only ordered where there is WAL to take back."""
    (data / "PG_VERSION").write_text("15\n", encoding="ascii")
    program(data, "postgres", "exit 0")
    program(data, "pg_rewind", "echo 'pg_rewind: no rewind required' >&2")
    assert "pg_rewind found nothing to rewind" in job(data, "rewind")
    assert (data.parent / "keep" / "begun").read_text(encoding="ascii") == "rewind\n"


def test_a_rewind_that_fails_says_how(data: Path) -> None:
    (data / "PG_VERSION").write_text("15\n", encoding="ascii")
    program(data, "postgres", "exit 0")
    program(data, "pg_rewind", "echo 'pg_rewind: fatal' >&2; exit 7")
    assert "::error=pg_rewind exited 7" in job(data, "rewind")


def test_many_answers_are_packed_and_come_through_whole(data: Path) -> None:
    """A transport keeps the end of what a command prints; a count that lost its beginning would be too low."""
    job_folder = data.parent / "keep" / "job"
    job_folder.mkdir()
    lines = [f"::commits=1;2026-11-27 12:00:00.{n:06};;0/{n:X};1663/16384/{n}" for n in range(900)]
    (job_folder / "log").write_text("\n".join(["told", *lines, "::done=1"]) + "\n", encoding="ascii")
    (job_folder / "id").write_text("keep/1", encoding="ascii")
    (job_folder / "code").write_text("0\n", encoding="ascii")
    folders = (str(data), str(data.parent / "bin"), str(data.parent / "keep"), "")
    argv = ["sh", "-c", 'eval "$1"', "lifeboat-data", SCRIPT, *folders, "status"]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False).stdout
    assert len(told) < KEPT < sum(map(len, lines))
    found = parse(told)
    assert found["commits"] == [line.removeprefix("::commits=") for line in lines]
    assert (found["job"], found["code"], found["done"], found["line"]) == (["keep/1"], ["0"], ["1"], ["told"])


def test_a_folder_that_is_held_is_changed_by_nobody_but_who_says_why(spread: Path) -> None:
    assert tell(spread, "hold", "it has 'what' is nowhere else") == {"done": "1"}
    assert tell(spread, "hold", "it has 'what' is nowhere else") == {"done": "1"}
    assert tell(spread, "look")["held"] == "it has 'what' is nowhere else"
    for verb in ("follow", "rewind", "rebuild", "restore"):
        told = tell(spread, "follow", "x").get("error", "") if verb == "follow" else job(spread, verb)
        assert "the folder is held: it has 'what' is nowhere else" in told, verb
    assert (spread / "PG_VERSION").exists()
    assert tell(spread, "release") == {"done": "1"}
    assert tell(spread, "release") == {"done": "1"}
    assert tell(spread, "look")["held"] == ""


def test_one_that_is_released_is_held_no_more_once_it_is_rebuilt(spread: Path) -> None:
    tell(spread, "hold", "it has rows")
    program(spread, "pg_basebackup", f"echo 15 > {spread}/PG_VERSION; mkdir -p {spread}/pg_wal")
    (spread.parent / "keep" / "job").mkdir(exist_ok=True)
    folders = (str(spread), str(spread.parent / "bin"), str(spread.parent / "keep"), "")
    words = ("work", "rebuild", "host=leader", "primary_conninfo = 'host=leader'", "label", "", "nobody needs it")
    argv = ["sh", "-c", 'eval "$1"', "lifeboat-data", SCRIPT, *folders, *words]
    told = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False).stdout
    assert "::done=1" in told, told
    assert tell(spread, "look")["held"] == ""


RECOVERY = "primary_conninfo = ''\nprimary_slot_name = ''\nrestore_command = 'x'\nrecovery_target_lsn = '0/1'"


def restored(data: Path, code: int = 0) -> str:
    """A restore in place by a pgBackRest that only says how it was called, and does nothing where a server may run."""
    refuses = f"[ ! -e {data}/postmaster.pid ] || exit 38"
    program(data, "pgbackrest", f'echo "args $*"; {refuses}; rm -f {data}/postgresql.conf; exit {code}')
    (data.parent / "keep" / "job").mkdir(exist_ok=True)
    folders = (str(data), str(data.parent / "bin"), str(data.parent / "keep"), "")
    words = ("work", "restore", "20261129F", RECOVERY, str(data.parent / "bin" / "pgbackrest"), "/conf", "main", "2")
    words += ("pgbackrest", "pgBackRest")
    argv = ["sh", "-c", 'eval "$1"', "lifeboat-data", SCRIPT, *folders, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False).stdout


def test_a_restore_in_place_keeps_the_nodes_own_files_and_is_undone_by_settling(data: Path) -> None:
    (data / "PG_VERSION").write_text("15\n", encoding="ascii")
    (data / "postgresql.conf").write_text("port = 1\n", encoding="ascii")
    (data / "postgresql.auto.conf").write_text("work_mem = '1MB'\nrestore_command = 'own'\n", encoding="ascii")
    told = restored(data)
    assert f"--pg1-path={data} --set=20261129F --type=none --delta restore" in told
    assert f"--lock-path={data.parent}/keep/lock" in told
    assert "--config=/conf --stanza=main --repo=2" in told
    assert "::done=1" in told
    assert (data / "standby.signal").exists()
    assert (data / "postgresql.conf").read_text(encoding="ascii") == "port = 1\n"
    auto = (data / "postgresql.auto.conf").read_text(encoding="ascii")
    assert auto.endswith(RECOVERY + "\n")
    fetch = (data.parent / "keep" / "fetch").read_text(encoding="ascii")
    assert f'"--pg1-path={data}"' in fetch
    for _ in (1, 2):
        assert tell(data, "settle") == {"done": "1"}
        auto = (data / "postgresql.auto.conf").read_text(encoding="ascii")
        assert sorted(auto.splitlines()) == ["primary_conninfo = ''", "restore_command = 'own'", "work_mem = '1MB'"]


def test_a_restore_in_place_that_failed_leaves_nothing_that_could_start(data: Path) -> None:
    (data / "PG_VERSION").write_text("15\n", encoding="ascii")
    (data / "postmaster.pid").write_text("999999999\n", encoding="ascii")
    assert "pgBackRest's restore exited 39" in restored(data, 39)
    assert tell(data, "look")["begun"] == "restore"
    assert "has begun and not ended" in tell(data, "follow", "x")["error"]
    assert "::done=1" in restored(data)
    assert tell(data, "look")["begun"] == ""


def test_a_backup_that_the_node_does_not_list_is_told_before_anything_is_touched(data: Path) -> None:
    words = (str(data.parent / "bin" / "pgbackrest"), "/conf", "main", "1", "pgbackrest", "pgBackRest")
    program(data, "pgbackrest", """echo '[{"backup":[{"label":"20261129F"}]}]'""")
    words = ("2", "1", *words)
    assert tell(data, "restorable", "20261129F", *words)["done"] == "1"
    assert "lists no backup 20261128F" in tell(data, "restorable", "20261128F", *words)["error"]
    (data.parent / "wal").mkdir()
    (data / "pg_wal").symlink_to(data.parent / "wal")
    assert "lies outside" in tell(data, "restorable", "20261129F", *words)["error"]


def test_a_folder_that_is_held_is_told_before_anything_is_touched(data: Path) -> None:
    words = ("2", "1", str(data.parent / "bin" / "pgbackrest"), "/conf", "main", "1", "pgbackrest", "pgBackRest")
    program(data, "pgbackrest", """echo '[{"backup":[{"label":"20261129F"}]}]'""")
    tell(data, "hold", "it has rows")
    assert "the folder is held: it has rows" in tell(data, "restorable", "20261129F", *words)["error"]


def test_a_timeline_that_the_archive_does_not_know_is_told_before_anything_is_touched(data: Path) -> None:
    """The leader's own: who is promoted without its history takes its number for free."""
    words = (str(data.parent / "bin" / "pgbackrest"), "/conf", "main", "1", "pgbackrest", "pgBackRest")
    answer = """echo '[{"backup":[{"label":"20261129F"}]}]'"""
    gone = """case "$*" in *archive-get*00000003.history*) echo "unable to find 00000003.history"; exit 1 ;; esac"""
    program(data, "pgbackrest", f"{gone}; {answer}")
    for first, last in (("2", "1"), ("2", "2"), ("4", "4")):
        assert tell(data, "restorable", "20261129F", first, last, *words)["done"] == "1"
    for first, last in (("3", "3"), ("2", "4")):
        error = tell(data, "restorable", "20261129F", first, last, *words)["error"]
        assert "does not give 00000003.history (exit 1)" in error
        assert "unable to find" in error


FORK, SEGMENT = "0/2025000", "000000010000000000000002"
SWITCH = (
    "rmgr: XLOG        len (rec/tot):     24/    24, tx:          0, lsn: 0/02025FD0, prev 0/02025E38, desc: SWITCH "
)
"""PostgreSQL 15: the last record of a file whose rest pg_switch_wal has left."""


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ("exit 0", ""),
        ("echo 'pg_waldump: error: could not find a valid record after 0/3000000' >&2; exit 1", ""),
        ("echo 'pg_waldump: error: could not open file' >&2; exit 1", "pg_waldump exited 1: pg_waldump: error: could"),
        ("kill -s KILL $$", "pg_waldump exited 137: "),
    ],
    ids=["with its file", "in its file", "unread", "killed"],
)
def test_wal_is_counted_to_its_end(data: Path, ends: str, told: str) -> None:
    """A standby may have received a whole file, and nothing of the next one."""
    (data / "pg_wal").mkdir()
    (data / "pg_wal" / SEGMENT).write_bytes(b"WAL")
    program(data, "pg_waldump", f"echo '{SWITCH}'; {ends}")
    (data.parent / "keep" / "job").mkdir()
    found = tell(data, "work", "keep", "id", "1", FORK, SEGMENT, str(16 << 20))
    assert found.get("error", "").startswith(told)
    assert ("done" in found) == (not told)
    if not told:
        assert found["records"] == "1"
        assert (Path(found["kept"]) / SEGMENT).read_bytes() == b"WAL"


@pytest.mark.parametrize(
    ("lsn", "length", "kept"),
    [("0/02FFFF00", 24, [2]), ("0/02FFFFF0", 24, [2, 3]), ("0/02FFF000", 9000, [2, 3]), ("0/02000028", 9000, [2])],
    ids=["in its file", "at its end", "into the next", "at its beginning"],
)
def test_the_last_record_is_kept_whole(data: Path, lsn: str, length: int, kept: list[int]) -> None:
    """And what is only room for WAL to come is not."""
    (data / "pg_wal").mkdir()
    for number in (2, 3, 4):
        (data / "pg_wal" / f"0000000100000000{number:08X}").write_bytes(b"WAL")
    record = f"rmgr: Heap len (rec/tot): 59/ {length}, tx: 0, lsn: {lsn}, prev 0/02025E38, desc: INSERT"
    program(data, "pg_waldump", f"echo '{record}'")
    (data.parent / "keep" / "job").mkdir()
    found = tell(data, "work", "keep", "id", "1", "0/2000000", SEGMENT, str(16 << 20))
    assert "done" in found, found
    there = sorted(each.name for each in Path(found["kept"]).glob("0000000100000000????????"))
    assert there == [f"0000000100000000{number:08X}" for number in kept]
