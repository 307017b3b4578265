"""restore.sh without a server: what it reads out of WAL and archives, what recovery is given, what it leaves alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from activities.jobs import Answers, parse
from schemas.wal import following
from tests.unit.restore_hosts import SCRIPT, TARGET, Host, ended

RECORDED = (Path(__file__).parent / "recorded" / "pg_waldump-15-drops.txt").read_text(encoding="utf-8")
"""PostgreSQL 15, without what is no transaction, lock or restore point, and most of what it invalidates. In database
16384: 16385 is dropped with its index; 16390 in a savepoint; 16405 in one that is rolled back; 16393 and 16396 in one
statement; 16399 and rolled back; 16411 is truncated, then dropped; restore points, one name twice; two that were
prepared and a prepared drop of 16414; 16408 by one that outlives two checkpoints; 16418 in a savepoint that a
checkpoint sees; 16421 in one that a checkpoint sees and that is rolled back, and then again; 16424 with its partition
16427; 16431 with its schema; a rollback; an insert."""
RUN = "pitr-restore/counting-db/1@a"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(made.pid(), signal.SIGKILL)


def function(name: str, *words: str, told: str = "") -> str:
    """One of the script's own functions by itself."""
    begin = SCRIPT.index(f"\n{name}() {{")
    code = SCRIPT[begin : SCRIPT.index("\n}\n", begin) + 3] + f'{name} "$@"'
    argv = ["sh", "-c", code, "lifeboat-restore", *words]
    return subprocess.run(argv, input=told, capture_output=True, text=True, check=True, timeout=10).stdout


def found(what: str, lines: str = RECORDED) -> Answers:
    return parse(function("found", what, told=lines))


class TestFound:
    """Moments in the lines of a real pg_waldump."""

    @pytest.mark.parametrize(
        ("oid", "lock", "xid", "at"),
        [
            (16385, "0/03005DC8", 728, "11:13:55.419107"),
            (16390, "0/0300CC18", 729, "11:13:55.432336"),
            (16393, "0/0300F558", 734, "11:13:55.456265"),
            (16396, "0/0300F588", 734, "11:13:55.456265"),
            (16408, "0/03014CA8", 742, "11:14:11.615231"),
            (16411, "0/03013A48", 737, "11:13:55.492455"),
            (16414, "0/030143B8", 741, "11:13:55.569605"),
            (16424, "0/0702F410", 751, "11:17:33.106085"),
            (16427, "0/0702F440", 751, "11:17:33.106085"),
            (16431, "0/070302C0", 752, "11:17:33.135228"),
        ],
    )
    def test_a_drop_is_where_its_lock_was_taken(self, oid: int, lock: str, xid: int, at: str) -> None:
        day = "2026-11-29"
        assert found(f"drop 16384 {oid}")["moment"] == [f"{lock};{xid};{day} {at};DROP"]

    def test_a_drop_in_a_savepoint_that_a_checkpoint_sees_is_one(self) -> None:
        """A checkpoint writes its locks once more, in the name of the whole transaction."""
        assert found("drop 16384 16418")["moment"] == ["0/07021B58;746;2026-11-29 11:17:32.981929;DROP"]

    def test_a_lock_that_a_savepoint_gave_back_is_not_the_drops(self) -> None:
        """Between the two others may have written to the table."""
        assert found("drop 16384 16421")["moment"] == ["0/0702A5F0;748;2026-11-29 11:17:33.072809;DROP"]

    @pytest.mark.parametrize("whose", ["16384 16399", "16384 16405", "16384 16402", "16384 1638", "5 16385"])
    def test_no_drop(self, whose: str) -> None:
        """Rolled back; rolled back to a savepoint; another's, or in another database."""
        assert "moment" not in found(f"drop {whose}")

    def test_a_lock_alone_is_no_drop(self) -> None:
        """Of a transaction that drops another table, or that was rolled back after all."""
        assert "moment" not in found("drop 16384 1638", RECORDED.replace("rel 16385 ", "rel 1638 "))
        rolled_back = RECORDED.replace("COMMIT 2026-11-29 11:13:55.419107", "ABORT 2026-11-29 11:13:55.419107")
        assert "moment" not in found("drop 16384 16385", rolled_back)

    def test_a_drop_whose_lock_is_in_a_list_alone(self) -> None:
        """Where reading begins after it was taken."""
        lines = RECORDED.splitlines()
        later = "\n".join(lines[next(n for n, line in enumerate(lines) if "lsn: 0/03014FB0" in line) :])
        assert found("drop 16384 16408", later)["moment"] == ["0/03014FB0;742;2026-11-29 11:14:11.615231;DROP"]

    @pytest.mark.parametrize(
        ("xid", "moment"),
        [
            (727, "0/03005DA0;727;2026-11-29 11:13:55.404595;COMMIT"),
            (735, "0/03010238;735;2026-11-29 11:13:55.468397;ABORT"),
            (739, "0/03014A68;739;2026-11-29 11:13:55.569224;COMMIT_PREPARED"),
            (740, "0/03014A98;740;2026-11-29 11:13:55.569488;ABORT_PREPARED"),
            # Of savepoints: what a row's xmin may be. The one ended with its transaction, the other was rolled back.
            (730, "0/0300EFD8;729;2026-11-29 11:13:55.432336;COMMIT"),
            (732, "0/0300F4C0;732;2026-11-29 11:13:55.443221;ABORT"),
        ],
    )
    def test_a_transaction(self, xid: int, moment: str) -> None:
        assert found(f"xid {xid}")["moment"] == [moment]

    def test_one_that_is_not_there(self) -> None:
        answers = found("xid 999")
        assert "moment" not in answers
        assert answers["newest"] == ["0/070308A0;754;2026-11-29 11:17:33.197082"]

    def test_a_restore_point_has_the_time_of_what_ended_before_it(self) -> None:
        assert found("name before release")["moment"] == [
            "0/03013F28;0;2026-11-29 11:13:55.492455;RESTORE_POINT",
            "0/03013FF8;0;2026-11-29 11:13:55.514250;RESTORE_POINT",
        ]

    @pytest.mark.parametrize("name", ["before release 2", "komma, und; Umlaut"])
    def test_a_restore_point_by_its_whole_name(self, name: str) -> None:
        assert len(found(f"name {name}")["moment"]) == 1
        assert "moment" not in found(f"name {name[:-1]}")

    def test_a_restore_point_with_a_backslash(self) -> None:
        line = RECORDED[RECORDED.index("rmgr: XLOG") :].splitlines()[0]
        line = line[: line.index("RESTORE_POINT")] + r"RESTORE_POINT a\new"
        assert len(found(r"name a\new", line)["moment"]) == 1

    def test_the_newest_commit_is_not_a_rollback(self) -> None:
        answers = found("commits")
        assert "moment" not in answers
        assert answers["newest"] == ["0/070308A0;754;2026-11-29 11:17:33.197082"]
        assert answers["end"] == ["0/070308C8"]
        assert answers["records"] == [str(len(RECORDED.splitlines()))]
        until = RECORDED[: RECORDED.index("rmgr: Transaction len (rec/tot):     34/    34, tx:        754")]
        assert found("commits", until)["newest"] == ["0/07030600;752;2026-11-29 11:17:33.135228"]

    def test_what_is_no_record_is_none(self) -> None:
        skipped = "first record is after 0/7000030, at 0/7000060, skipping over 48 bytes\n"
        assert found("commits", skipped) == {"end": [""], "records": ["0"]}

    def test_a_reader_that_failed_says_so(self) -> None:
        assert found("commits", "::error=could not\n")["error"] == ["could not"]


class TestSegments:
    SIZE = 16 << 20

    def segments(self, host: Host, timeline: str = "00000001", since: str = "000000010000000000000001") -> Answers:
        return host.ask("segments", "15-1", timeline, since, str(self.SIZE))

    def test_stretches_without_a_gap(self, host: Host) -> None:
        host.archive(
            *(f"00000001{name}-abc.gz" for name in ("0000000000000001", "0000000000000002", "00000000000000FF")),
            "000000010000000100000000-abc.gz",
            "000000010000000100000002-abc.gz",
            "000000010000000100000003.partial-abc.gz",
            "000000010000000000000002.00000028.backup",
            "000000020000000100000002-abc.gz",
            "00000002.history",
        )
        expected = [
            "000000010000000000000001;000000010000000000000002",
            "0000000100000000000000FF;000000010000000100000000",
            "000000010000000100000002;000000010000000100000002",
        ]
        assert self.segments(host) == {"stretch": expected, "done": ["1"]}
        assert self.segments(host) == {"stretch": expected, "done": ["1"]}
        assert self.segments(host, since="000000010000000100000000")["stretch"] == [
            "000000010000000100000000;000000010000000100000000",
            "000000010000000100000002;000000010000000100000002",
        ]
        assert self.segments(host, "00000002", "000000020000000000000001")["stretch"] == [
            "000000020000000100000002;000000020000000100000002"
        ]

    def test_none(self, host: Host) -> None:
        assert self.segments(host) == {"done": ["1"]}

    @pytest.mark.parametrize("verb", ["segments", "timelines"])
    def test_a_list_that_failed_is_no_empty_one(self, host: Host, verb: str) -> None:
        """pgBackRest tells of it on its standard output."""
        host.archive("000000010000000000000001-abc.gz")
        host.fails(49)
        answers = self.segments(host) if verb == "segments" else host.ask("timelines", "15-1")
        assert "done" not in answers
        assert answers["error"] == ["pgBackRest can't list the archive: P00  ERROR: [049]: something "]

    def test_timelines(self, host: Host) -> None:
        host.archive("00000002.history", "0000000A.history", "000000010000000000000001-abc.gz")
        assert host.ask("timelines", "15-1") == {"timeline": ["00000002", "0000000A"], "done": ["1"]}

    def test_a_repository_that_can_not_be_read(self, host: Host) -> None:
        assert host.ask("info")["info"] == ['[{"name":"unit","backup":[]}]']
        host.ask("info", "20261129-111213F")
        assert "--set=20261129-111213F info" in host.calls()[-1]
        host.fails(49)
        (error,) = host.ask("info")["error"]
        assert "can't read its repository" in error
        assert "ERROR: [049]: something" in error


@pytest.mark.parametrize("size", [1 << 20, 16 << 20, 64 << 20, 1 << 30])
@pytest.mark.parametrize("name", ["000000010000000000000001", "0000000A00000009000000FE", "0000000A00000009000000FF"])
def test_the_file_that_follows(name: str, size: int) -> None:
    per = (1 << 32) // size
    name = f"{name[:16]}{min(int(name[16:], 16), per - 1):08X}"
    assert function("following", name, str(size)) == following(name, size)


class TestRestore:
    def test_it_is_done_once(self, host: Host) -> None:
        assert host.ask("restore", "F1")["done"] == ["1"]
        assert host.ask("restore", "F1")["done"] == ["1"]
        (call,) = host.calls()
        assert "--set=F1 --type=none restore" in call
        assert f"--tablespace-map-all={host.keep}/spaces" in call
        assert f"--lock-path={host.keep}/lock" in call
        # By the environment: as an option it is refused where `archive-async` is off.
        assert call.endswith(f"spool={host.keep}/spool")
        assert "--spool-path" not in call

    def test_nothing_of_the_sources_settings_is_left(self, host: Host) -> None:
        host.ask("restore", "F1")
        assert (host.data / "postgresql.auto.conf").read_text(encoding="ascii") == ""
        for name in ("standby.signal", "recovery.signal", "postmaster.pid"):
            assert not (host.data / name).exists(), name

    def test_one_that_was_broken_off_goes_on_with_what_is_there(self, host: Host) -> None:
        (host.root / "breaks").touch()
        assert host.ask("restore", "F1")["error"] == ["pgBackRest's restore exited 39"]
        assert not (host.keep / "restored").exists()
        (host.root / "breaks").unlink()
        (host.data / "base" / "1" / "2").touch()
        assert host.ask("restore", "F1")["done"] == ["1"]
        assert "--delta" not in host.calls()[0]
        assert "--delta" in host.calls()[1]
        assert (host.data / "base" / "1" / "2").exists()

    def test_of_another_backup_nothing_is_kept(self, host: Host) -> None:
        (host.root / "breaks").touch()
        host.ask("restore", "F1")
        (host.root / "breaks").unlink()
        (host.data / "base" / "1" / "2").touch()
        assert host.ask("restore", "F2")["done"] == ["1"]
        assert "--delta" not in host.calls()[1]
        assert not (host.data / "base" / "1" / "2").exists()


def settings(host: Host) -> dict[str, str]:
    lines = host.config.read_text(encoding="ascii").splitlines()
    pairs = [line.partition(" = ") for line in lines]
    assert len({name for name, _, _ in pairs}) == len(pairs), "one of them is set twice"
    return {name: value for name, _, value in pairs}


class TestRecover:
    @pytest.fixture(autouse=True)
    def restored(self, host: Host) -> None:
        host.ask("restore", "F1")

    def recover(self, host: Host, wanted: str = "w1") -> Answers:
        return host.ask("recover", wanted, "a,b", TARGET)

    def test_what_a_copy_runs_with(self, host: Host) -> None:
        (host.data / "postgresql.conf").write_text("archive_mode = on\nport = 6000\n", encoding="ascii")
        assert self.recover(host)["done"] == ["1"]
        told = settings(host)
        expected = {
            "listen_addresses": "''",
            "unix_socket_directories": f"'{host.keep}/sock'",
            "archive_mode": "off",
            "primary_conninfo": "''",
            "hot_standby": "on",
            "max_logical_replication_workers": "0",
            "shared_preload_libraries": "'a,b'",
            "recovery_target_action": "'pause'",
            "recovery_target_timeline": "'1'",
            "recovery_target": "'immediate'",
            "restore_command": f"""'sh "{host.keep}/fetch" "%f" "%p"'""",
            "max_connections": "200",
            "max_worker_processes": "8",
            "max_wal_senders": "10",
            "max_prepared_transactions": "5",
            "max_locks_per_transaction": "64",
        }
        assert expected.items() <= told.items()
        assert not {"archive_command", "archive_library", "restore_library", "include"} & told.keys()
        assert (host.keep / "hba").read_text(encoding="ascii") == "local all all trust\n"
        assert (host.data / "recovery.signal").exists()
        assert not (host.data / "standby.signal").exists()
        started = (host.keep / "started").read_text(encoding="ascii")
        assert started == f"-D {host.data} -c config_file={host.config}\n"

    def test_the_same_target_again_changes_nothing(self, host: Host) -> None:
        self.recover(host)
        pid = host.pid()
        assert self.recover(host)["done"] == ["1"]
        assert host.pid() == pid
        assert not (host.keep / "stopped").exists()

    def test_the_same_target_of_a_server_that_ended_starts_it_again(self, host: Host) -> None:
        self.recover(host)
        os.kill(host.pid(), signal.SIGKILL)
        (host.data / "postmaster.pid").unlink()
        assert self.recover(host)["done"] == ["1"]
        assert host.ask("look")["running"] == ["1"]

    def test_another_target_stops_it_first(self, host: Host) -> None:
        self.recover(host)
        pid = host.pid()
        assert self.recover(host, "w2")["done"] == ["1"]
        assert host.pid() != pid
        assert "-m fast" in (host.keep / "stopped").read_text(encoding="ascii")
        assert host.ask("look")["wanted"] == ["w2"]

    def test_it_is_not_begun_without_a_restore(self, host: Host) -> None:
        (host.keep / "restored").unlink()
        assert self.recover(host)["error"] == ["nothing is restored here"]
        assert not host.config.exists()


class TestFetcher:
    """restore_command. PostgreSQL takes any exit from 1 to 125 for "there is no such file", and goes on without."""

    NAME = "000000010000000000000007"

    @pytest.fixture
    def fetch(self, host: Host) -> Path:
        host.program("postgres", "#!/bin/sh\n")
        host.isolation = "configuration"
        host.ask("restore", "F1")
        host.ask("recover", "w1", "", TARGET)
        (host.root / "calls").unlink()
        (host.keep / "wal").mkdir()
        return host.keep / "fetch"

    def run(self, host: Host, fetch: Path, to: Path | None = None) -> int:
        argv = ["sh", str(fetch), self.NAME, str(to or host.root / "got")]
        return subprocess.run(
            argv, capture_output=True, timeout=10, check=False, env={"ROOT": str(host.root), "PATH": os.environ["PATH"]}
        ).returncode

    def last(self, host: Host) -> list[str]:
        return (host.keep / "fetched").read_text(encoding="ascii").splitlines()[-1].split()[1:]

    @pytest.mark.parametrize(
        ("code", "exits"), [(1, 1), (2, 255), (25, 255), (55, 255), (103, 255), (125, 255), (126, 255), (255, 255)]
    )
    def test_only_what_the_archive_has_not_is_not_there(self, host: Host, fetch: Path, code: int, exits: int) -> None:
        host.fails(code)
        assert self.run(host, fetch) == exits
        assert self.last(host) == [self.NAME, str(code)]
        assert exits == 1 or exits > 125

    @pytest.mark.parametrize(
        ("code", "said", "exits"),
        [
            (1, "s3://b/wal/x is not there: it is not in the archive", 1),
            (1, "ModuleNotFoundError: No module named 'archiver'", 255),
            (1, "", 255),
            (255, "it is not in the archive", 255),
        ],
    )
    def test_a_plain_archives_word_is_taken_and_its_code_is_not(
        self, host: Host, code: int, said: str, exits: int
    ) -> None:
        """Python exits 1 as well where it can't start."""
        host.kind, host.isolation = "plain", "configuration"
        host.program("postgres", "#!/bin/sh\n")
        host.ask("restore", "F1")
        host.ask("recover", "w1", "", TARGET)
        host.program("pgbackrest", f'#!/bin/sh\necho "{said}"\nexit {code}\n')
        assert self.run(host, host.keep / "fetch") == exits
        assert self.last(host) == [self.NAME, str(exits)]
        # The same of what is fetched to be read.
        (host.keep / "wal").mkdir(exist_ok=True)
        found = host.ask("history", "00000002")
        assert ("none" in found) is (exits == 1), found
        assert ("error" in found) is (exits == 255), found

    def test_a_file_that_is_there(self, host: Host, fetch: Path) -> None:
        (host.root / "wal").mkdir()
        (host.root / "wal" / self.NAME).write_text("wal", encoding="ascii")
        assert self.run(host, fetch) == 0
        assert (host.root / "got").read_text(encoding="ascii") == "wal"
        assert self.last(host) == [self.NAME, "0"]
        assert host.calls()[-1].endswith(f"spool={host.keep}/spool")
        assert "--spool-path" not in host.calls()[-1]

    def test_a_program_that_is_gone(self, host: Host, fetch: Path) -> None:
        (host.root / "bin" / "pgbackrest").unlink()
        assert self.run(host, fetch) == 255

    def test_one_that_was_killed(self, host: Host, fetch: Path) -> None:
        host.program("pgbackrest", "#!/bin/sh\nkill -9 $$\n")
        assert self.run(host, fetch) == 255

    def test_what_was_fetched_to_be_read_is_not_fetched_again(self, host: Host, fetch: Path) -> None:
        (host.keep / "wal" / self.NAME).write_text("read", encoding="ascii")
        host.fails(1)
        assert self.run(host, fetch) == 0
        assert (host.root / "got").read_text(encoding="ascii") == "read"
        assert host.calls() == []

    def test_what_can_not_be_copied_is_not_absent(self, host: Host, fetch: Path) -> None:
        """A full disk must not look like the archive's end."""
        (host.keep / "wal" / self.NAME).write_text("read", encoding="ascii")
        assert self.run(host, fetch, host.root / "no" / "such" / "folder") == 255
        assert self.last(host) == [self.NAME, "255"]

    def test_look_tells_what_came_and_what_did_not(self, host: Host, fetch: Path) -> None:
        lines = ["1 00000002.history 1", "1 A 0", "2 B 55", "3 B 0", "4 C 0", "5 D 103", "6 E 1"]
        (host.keep / "fetched").write_text("\n".join(lines) + "\n", encoding="ascii")
        answers = host.ask("look")
        assert answers["fetched"] == ["3;C"]
        assert sorted(answers["refused"]) == ["00000002.history;1", "D;103", "E;1"]


class TestScan:
    STRETCH = "000000010000000000000003;000000010000000000000004"

    @pytest.fixture(autouse=True)
    def archive(self, host: Host) -> None:
        (host.root / "wal").mkdir()
        for name in self.STRETCH.split(";"):
            (host.root / "wal" / name).touch()
        (host.root / "lines").write_text(RECORDED, encoding="utf-8")
        host.program("pg_waldump", '#!/bin/sh\necho "$*" >> "$ROOT/read"; cat "$ROOT/lines"; echo end >&2; exit 1\n')
        host.ask("probe", RUN, "F1")

    def test_it_reads_what_it_fetched(self, host: Host) -> None:
        answers = host.ask("scan", str(16 << 20), "", "name before release", self.STRETCH)
        assert len(answers["moment"]) == 2
        assert answers["done"] == ["1"]
        assert (host.root / "read").read_text(encoding="ascii") == (
            f"-p {host.keep}/wal {self.STRETCH.replace(';', ' ')}\n"
        )
        before = len(host.calls())
        assert host.ask("scan", str(16 << 20), "", "name before release", self.STRETCH) == answers
        assert len(host.calls()) == before, "a file that is there is not fetched again"

    def test_a_file_that_is_not_there_is_named(self, host: Host) -> None:
        (host.root / "wal" / "000000010000000000000004").unlink()
        answers = host.ask("scan", str(16 << 20), "", "commits", self.STRETCH)
        assert answers == {
            "error": ["WAL file 000000010000000000000004 can't be had: pgBackRest's archive-get exited 1"]
        }

    def test_a_stretch_that_could_not_be_begun_with(self, host: Host) -> None:
        host.program("pg_waldump", "#!/bin/sh\necho 'pg_waldump: could not find a valid record after 0/3000000' >&2\n")
        answers = host.ask("scan", str(16 << 20), "", "commits", self.STRETCH)
        assert answers == {"error": ["pg_waldump: could not find a valid record after 0/3000000"]}


class TestProbe:
    def test_the_control_file_alone_is_kept(self, host: Host) -> None:
        assert host.ask("probe", RUN, "F1", "counting", "my other") == {"done": ["1"]}
        probe = host.keep / "probe"
        assert [each.relative_to(probe) for each in probe.rglob("*")] == [Path("global"), Path("global/pg_control")]
        (call,) = host.calls()
        assert "--db-exclude=counting --db-exclude=my other restore" in call
        assert host.ask("probe", RUN, "F1", "counting", "my other") == {"done": ["1"]}
        assert len(host.calls()) == 1

    def test_another_runs_folder_is_left_alone(self, host: Host) -> None:
        host.ask("probe", RUN, "F1")
        assert host.ask("probe", "other@b", "F1") == {"error": [f"{host.keep} belongs to {RUN}"]}
        assert (host.keep / "owner").read_text(encoding="ascii") == RUN
        assert len(host.calls()) == 1

    def test_what_failed_is_the_repositorys(self, host: Host) -> None:
        host.fails(49)
        (error,) = host.ask("probe", RUN, "F1")["error"]
        assert error.startswith("pgBackRest can't read its repository")
        (host.root / "code").unlink()
        assert host.ask("probe", RUN, "F1") == {"done": ["1"]}


class TestHistory:
    def test_its_lines(self, host: Host) -> None:
        (host.root / "wal").mkdir()
        (host.root / "wal" / "00000002.history").write_text(
            "1\t0/4000000\tno recovery target\n\n# x\n", encoding="ascii"
        )
        host.ask("probe", RUN, "F1")
        assert host.ask("history", "00000002") == {"branch": ["1\t0/4000000\tno recovery target"], "done": ["1"]}
        assert host.ask("history", "00000003") == {"none": ["1"], "done": ["1"]}
        host.fails(103)
        assert host.ask("history", "00000002") == {"error": ["pgBackRest's archive-get exited 103"]}


class TestRemove:
    def test_server_and_folder_go(self, host: Host) -> None:
        host.ask("probe", RUN, "F1")
        host.ask("restore", "F1")
        host.ask("recover", "w1", "", TARGET)
        pid = host.pid()
        assert host.ask("remove") == {"done": ["1"]}
        assert not host.keep.exists()
        assert ended(pid)
        assert host.ask("remove") == {"done": ["1"]}
        assert host.keep.parent.exists()

    def test_a_job_that_is_under_way_goes_first(self, host: Host) -> None:
        """It would go on writing, and make the folder anew."""
        host.program("pgbackrest", '#!/bin/sh\nexec > "$ROOT/job" && echo $$ && exec sleep 60')
        assert host.ask("begin", "restore/F1/run", "restore", "F1")["code"] == ["running"]
        assert host.ask("remove") == {"done": ["1"]}
        assert ended(int((host.root / "job").read_text(encoding="ascii")))
        assert not host.keep.exists()


def test_a_job_of_another_name_ends_the_one_before(host: Host) -> None:
    host.program("pgbackrest", '#!/bin/sh\n[ -e "$ROOT/job" ] || { exec > "$ROOT/job" && echo $$ && exec sleep 60; }')
    assert host.ask("begin", "restore/F1/run", "restore", "F1")["code"] == ["running"]
    answers = host.ask("begin", "restore/F2/run", "restore", "F2")
    assert (answers["job"], answers["code"]) == (["restore/F2/run"], ["0"])
    assert ended(int((host.root / "job").read_text(encoding="ascii")))


def test_copies(host: Host) -> None:
    """Folders that are nobody's copy are not told of."""
    other = host.keep.parent / "beef"
    for folder, run in ((host.keep, RUN), (other, "x@y")):
        folder.mkdir(exist_ok=True)
        (folder / "owner").write_text(run, encoding="ascii")
    (other / "handed").write_text("10.0.0.1:7001", encoding="ascii")
    (host.keep.parent / "lost+found").mkdir()
    answers = host.ask("copies", keep=host.keep.parent / ".")
    assert sorted(answers["copy"]) == ["beef;10.0.0.1:7001;x@y", f"c0ffee;;{RUN}"]
    assert answers["done"] == ["1"]


def test_no_other_verb(host: Host) -> None:
    assert host.ask("rm", "-rf", "/nowhere") == {"error": ["there is no verb rm"]}


def test_a_job_that_has_ended_well_is_not_begun_again(host: Host) -> None:
    """As activities send it: whichever worker asks, the restore is done once."""
    for _ in range(2):
        answers = host.ask("begin", "restore/F1/run", "restore", "F1")
        assert (answers["job"], answers["code"], answers["done"]) == (["restore/F1/run"], ["0"], ["1"])
    assert len(host.calls()) == 1
