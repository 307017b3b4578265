"""restore.sh with a pgBackRest that only pretends: what it is asked, what is kept of it, and what is left behind."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from activities.jobs import Answers, parse, script
from activities.restore_host import facts_of, told

SCRIPT = script("restore.sh")
MEMORY = Path("/dev/shm")
PRETENDS = """#!/bin/sh
echo "$@" >> "$0.asked"
for word in "$@"; do
  case $word in --pg1-path=*) into=${word#*=} ;; esac
done
case "$*" in
  *repo-ls*) cat "$0.listed"; exit "$(cat "$0.code" 2>/dev/null || echo 0)" ;;
esac
if [ -e "$0.refuses" ]; then echo "ERROR: [055]: no such backup"; exit 55; fi
mkdir -p "$into/global" "$into/base/1" && echo catalogue > "$into/base/1/1259"
case $into in
  /dev/shm/*) [ ! -e "$0.large" ] || { head -c 250000000 /dev/zero > "$into/base/1/1249"; exec sleep 20; } ;;
esac
echo control > "$into/global/pg_control"
"""

REFUSES = f"""#!/bin/sh
cat <<END
2026-11-29 14:51:20.320 P00   WARN: --delta or --force specified
2026-11-29 14:51:20.321 P01 DETAIL: restore file base/1/2 (258B, 0.00%) checksum 5b
2026-11-29 14:51:20.328 P00  ERROR: [029]: raised from local-1 protocol: HTTP request failed with 403 (Forbidden):
                                    *** Path/Query ***:
                                    GET /bucket/bundle/1
                                    *** Request Headers ***:
                                    authorization: <redacted>
                                    *** Response Headers ***:
                                    content-length: 100
                                    *** Response Content ***:
                                    <Error><Code>InvalidAccessKeyId</Code></Error>
                                    [FormatError] on retry after 0ms
                                    [FormatError] on retry after 15000ms
2026-11-29 14:51:20.328 P00 DETAIL: statistics: {"x" * 300}
2026-11-29 14:51:20.328 P00   INFO: restore command end: aborted with exception [029]
END
exit 29
"""

PSQL = """#!/bin/sh
case "$*" in
  *rolname*) echo postgres ;;
  *heartbeat*) exit 1 ;;
  *"WHERE pg_get_wal_replay_pause_state() = 'paused'"*) echo 0/3000148 ;;
  *) echo 't|paused|0/3000148|1764064800.5' ;;
esac
"""


@pytest.fixture
def keep(tmp_path: Path) -> Path:
    """The folder of a copy; beside it the program."""
    program = tmp_path / "pgbackrest"
    program.write_text(PRETENDS, encoding="utf-8")
    program.chmod(0o755)
    psql = tmp_path / "bin" / "psql"
    psql.parent.mkdir()
    psql.write_text(PSQL, encoding="utf-8")
    psql.chmod(0o755)
    return tmp_path / uuid.uuid4().hex[:12]


def beside(keep: Path, name: str) -> Path:
    return keep.parent / f"pgbackrest.{name}"


def tell(keep: Path, *words: str) -> Answers:
    """The script's answers to one verb."""
    env = {
        "PATH": "/usr/bin:/bin",
        "REPOSITORY_PROGRAM": str(keep.parent / "pgbackrest"),
        "REPOSITORY_CONFIG": "conf",
        "STANZA": "main",
        "REPOSITORY": "1",
        "OWN_ROLE": "app",
    }
    argv = ["sh", "-c", 'eval "$1"', "lifeboat-restore", SCRIPT]
    argv += [str(keep / "data"), str(keep.parent / "bin"), str(keep), str(keep / "postgresql.conf"), *words]
    return parse(subprocess.run(argv, env=env, capture_output=True, text=True, timeout=30, check=False).stdout)


def left_in_memory(keep: Path) -> list[Path]:
    return list(MEMORY.glob(f"*{keep.name}*"))


def tried(keep: Path) -> int:
    return len(beside(keep, "asked").read_text(encoding="utf-8").splitlines())


class TestProbe:
    def test_of_the_catalogue_one_file_is_kept_and_memory_is_given_back(self, keep: Path) -> None:
        assert "done" in tell(keep, "probe", "run@1", "LABEL", "app", "other")
        assert [str(each.relative_to(keep / "probe")) for each in (keep / "probe").rglob("*")] == [
            "global",
            "global/pg_control",
        ]
        assert left_in_memory(keep) == []
        asked = beside(keep, "asked").read_text(encoding="utf-8")
        assert all(each in asked for each in ("--set=LABEL", "--db-exclude=app", "--db-exclude=other"))

    def test_once_is_enough_and_anothers_folder_is_left_alone(self, keep: Path) -> None:
        tell(keep, "probe", "run@1", "LABEL")
        assert "done" in tell(keep, "probe", "run@1", "LABEL")
        assert tried(keep) == 1
        assert "belongs to run@1" in tell(keep, "probe", "run@2", "LABEL")["error"][0]

    @pytest.mark.skipif(not MEMORY.is_dir(), reason="this machine has no /dev/shm")
    def test_what_is_too_much_for_memory_goes_to_the_disk(self, keep: Path) -> None:
        beside(keep, "large").touch()
        assert "done" in tell(keep, "probe", "run@1", "LABEL")
        assert (tried(keep), left_in_memory(keep)) == (2, [])
        assert (keep / "probe" / "global" / "pg_control").exists()

    def test_a_repository_that_refuses_is_not_asked_twice(self, keep: Path) -> None:
        beside(keep, "refuses").touch()
        answers = tell(keep, "probe", "run@1", "LABEL")
        assert "no such backup" in answers["error"][0]
        assert (tried(keep), left_in_memory(keep)) == (1, [])

    def test_nothing_is_left_after_a_removal(self, keep: Path) -> None:
        tell(keep, "probe", "run@1", "LABEL")
        if MEMORY.is_dir():
            (MEMORY / f"lifeboat-restore-{keep.name}").mkdir()
        assert "done" in tell(keep, "remove")
        assert (keep.exists(), left_in_memory(keep)) == (False, [])


class TestSettle:
    @pytest.fixture
    def server(self, keep: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Something that runs in the copy's folder, as its PID file says."""
        (keep / "data").mkdir(parents=True)
        (keep / "sock").mkdir()
        (keep / "postgresql.conf").write_text("port = 5432\n", encoding="utf-8")
        process = subprocess.Popen(["sleep", "20"], cwd=keep / "data")
        (keep / "data" / "postmaster.pid").write_text(f"{process.pid}\n", encoding="ascii")
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def test_a_copy_that_stands_still_is_seen_twice_at_once(self, keep: Path, server: subprocess.Popen[bytes]) -> None:
        (keep / "server.log").write_text("LOG:  pausing at the end of recovery\n", encoding="utf-8")
        began = time.monotonic()
        answers = tell(keep, "settle", "")
        assert time.monotonic() - began < 1.5
        assert answers["still"] == ["0/3000148"]
        assert (facts_of(answers).pause, facts_of(answers).replayed) == ("paused", 0x3000148)

    def test_one_that_still_replays_is_not_asked_for_two_seconds(
        self, keep: Path, server: subprocess.Popen[bytes]
    ) -> None:
        (keep / "server.log").write_text("LOG:  redo starts at 0/28\n", encoding="utf-8")
        began = time.monotonic()
        answers = tell(keep, "settle", "")
        assert time.monotonic() - began >= 2.0
        assert "still" not in answers

    def test_one_that_has_ended_is_told_at_once(self, keep: Path, server: subprocess.Popen[bytes]) -> None:
        server.kill()
        server.wait()
        (keep / "server.log").write_text("FATAL:  recovery ended before\n", encoding="utf-8")
        began = time.monotonic()
        assert tell(keep, "settle", "")["running"] == ["0"]
        assert time.monotonic() - began < 1.5


def test_why_pgbackrest_failed_is_its_error_and_not_its_log_s_end(keep: Path) -> None:
    """As 2.45 told of a damaged file, and of a store that answered 403."""
    program = keep.parent / "pgbackrest"
    tell(keep, "probe", "run@1", "LABEL")
    program.write_text(REFUSES, encoding="utf-8")
    tell(keep, "begin", "restore/L", "restore", "L")
    while (answers := tell(keep, "status"))["code"] == ["running"]:
        pass
    said = told(answers)
    assert said.startswith(
        "pgBackRest's restore exited 29: WARN: --delta or --force specified ERROR: [029]: raised from local-1 protocol:"
        " HTTP request failed with 403 (Forbidden): *** Path/Query ***: GET /bucket/bundle/1 <Error>"
    )
    assert "InvalidAccessKeyId" in said
    assert "statistics" not in said
    assert "restore file" not in said
