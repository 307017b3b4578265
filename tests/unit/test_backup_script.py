"""backup.sh beside a pgBackRest that is a few lines of shell: what it makes of its listings, and whom it never ends."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from activities.jobs import Answers, parse, script
from activities.repository import job_told, lock_held, stretches_of, trouble
from schemas.wal import following

SEGMENT = 16 * 1024 * 1024
PROGRAM = """#!/bin/sh
for last; do :; done
case " $* " in
  *" info "*) cat "{folder}/info" ;;
  *--recurse*) cat "{folder}/all" ;;
  *--output=json*) cat "{folder}/$(basename "$last")" ;;
  *" repo-ls "*) cat "{folder}/$(basename "$last").names" 2>/dev/null || ls "{folder}" ;;
  *" backup "*) cat "{folder}/said"; sleep 30 ;;
  *" expire "*) echo "P00   WARN: option 'repo1-retention-full' is not set"; exit 50 ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kept").mkdir()
    program = tmp_path / "pgbackrest"
    program.write_text(PROGRAM.format(folder=tmp_path / "kept"), encoding="utf-8")
    program.chmod(0o755)
    return tmp_path


def tell(folder: Path, *words: str, name: str = "backup.sh") -> Answers:
    keep = folder / "keep"
    environment = {
        "PATH": os.environ["PATH"],
        "REPOSITORY_PROGRAM": str(folder / "pgbackrest"),
        "REPOSITORY_CONFIG": "/nowhere",
        "STANZA": "counting-db",
        "REPOSITORY": "1",
    }
    argv = [
        "sh",
        "-c",
        'eval "$1"',
        "lifeboat-backup",
        script(name),
        "/nowhere",
        "/bin",
        str(keep),
        "/nowhere",
        *words,
    ]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=20, check=False)
    return parse(done.stdout)


def listing(*names: str) -> str:
    files = {f"{name}-{'0' * 40}.lz4" if len(name) == 24 else name: {"type": "file", "size": 100} for name in names}
    return json.dumps({".": {"type": "path"}} | files, separators=(",", ":"))


def wal(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}{number // 256:08X}{number % 256:08X}"


def test_stretches_are_told_by_their_names_and_not_by_their_numbers(folder: Path) -> None:
    """awk takes 0000000100000000000000E0 for 1e14."""
    kept = [wal(number) for number in range(0xDE, 0x102) if number != 0xE4]
    more = [wal(0x100, 2), wal(0x101, 2), f"{wal(0x102)}.partial", f"{wal(0x101)}.00000028.backup"]
    (folder / "kept/all").write_text(listing(*kept, *more), encoding="utf-8")
    stretches, total = stretches_of(tell(folder, "archive", "15-1", str(SEGMENT), wal(0xDF)[8:], ""))
    assert [(each.first, each.last) for each in stretches] == [
        (wal(0xDF), wal(0xE3)),
        (wal(0xE5), wal(0x101)),
        (wal(0x100, 2), wal(0x101, 2)),
    ]
    assert (total.files, total.kept_bytes) == (5 + 29 + 2, 100 * (5 + 29 + 2))


def test_a_plain_archive_calls_wal_by_its_name_alone(folder: Path) -> None:
    kept = [f"0000000100000000/{wal(number)}" for number in (3, 4, 6)]
    kept += [f"0000000100000000/{wal(7)}.partial", f"0000000100000000/{wal(3)}.00000028.backup", "00000002.history"]
    told = {name: {"type": "file", "size": 100} for name in kept}
    (folder / "kept/all").write_text(
        json.dumps({".": {"type": "path"}} | told, separators=(",", ":")), encoding="utf-8"
    )
    stretches, total = stretches_of(tell(folder, "archive", "plain", str(SEGMENT), wal(3)[8:], ""))
    assert [(each.first, each.last) for each in stretches] == [(wal(3), wal(4)), (wal(6), wal(6))]
    assert (total.files, total.kept_bytes) == (3, 300)
    name = f"{1:08X}{0:08X}"
    (folder / f"kept/{name}").touch()
    names = "\n".join(each.rpartition("/")[2] for each in kept)
    (folder / f"kept/{name}.names").write_text(names + "\n", encoding="utf-8")
    found = tell(folder, "segments", "plain", "00000001", wal(3), str(SEGMENT), name="restore.sh")
    assert found["stretch"] == [f"{wal(3)};{wal(4)}", f"{wal(6)};{wal(6)}"]


def test_so_are_those_that_a_restore_takes(folder: Path) -> None:
    name = f"{1:08X}{0:08X}"
    (folder / f"kept/{name}").touch()
    kept = [f"{wal(number)}-{'0' * 40}.lz4" for number in range(3, 0x100)]
    (folder / f"kept/{name}.names").write_text("\n".join(kept) + "\n", encoding="utf-8")
    found = tell(folder, "segments", "15-1", "00000001", wal(3), str(SEGMENT), name="restore.sh")
    assert found["stretch"] == [f"{wal(3)};{wal(0xFF)}"]


def test_only_the_folders_between_are_listed(folder: Path) -> None:
    for folder_of in (0, 1, 2):
        (folder / f"kept/{1:08X}{folder_of:08X}").write_text(listing(wal(folder_of * 256)), encoding="utf-8")
    stretches, _ = stretches_of(tell(folder, "archive", "15-1", str(SEGMENT), wal(0x100)[8:], wal(0x1FF)[8:]))
    assert [each.first for each in stretches] == [wal(0x100)]


def test_a_wrong_key_is_told_in_words(folder: Path) -> None:
    status = {"code": 99, "message": "FormatError: key/value found outside of section"}
    told = [
        {"name": "counting-db", "backup": [], "repo": [{"status": status}], "status": {"code": 99, "message": "other"}}
    ]
    raw = json.dumps(told).encode().replace(b"section", b"section \x03\xff\x85")
    (folder / "kept/info").write_bytes(raw)
    info = tell(folder, "info")["info"][0]
    assert trouble(info, "counting-db") == "FormatError: key/value found outside of section "
    assert trouble(info, "another") == "the repository has no stanza another"
    assert not lock_held(info, "counting-db")


def test_nobody_elses_backup_is_ended_and_ones_own_is(folder: Path) -> None:
    lines = ["P01 DETAIL: backup file /data/base/1/1 (bundle 1/0, 1.5MB, 25.00%) checksum x"]
    lines.append("P01 DETAIL: backup file /data/base/1/2 (512KB, 50%) checksum x")
    (folder / "kept/said").write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        assert tell(folder, "take", "mine", "backup", "incr")["code"] == ["running"]
        assert tell(folder, "take", "another", "backup", "full") == {"code": ["busy"], "holder": ["mine"]}
        assert tell(folder, "progress")["copied"] == [f"{2 * 1024 * 1024};50"]
        assert "ended" not in tell(folder, "stop", "another")
    finally:
        began = time.monotonic()
        found = tell(folder, "stop", "mine")
        assert found.get("ended") == ["1"], found
        assert time.monotonic() - began < 5
    assert tell(folder, "status")["code"] == ["killed"]


def test_how_a_job_failed_is_told(folder: Path) -> None:
    tell(folder, "begin", "mine", "expire")
    found = tell(folder, "status")
    assert (found["code"], found["exit"]) == (["3"], ["50"])
    assert "expire exited 50" in job_told(found)


@pytest.mark.parametrize(("number", "size"), [(0x05, SEGMENT), (0xFF, SEGMENT)])
def test_the_file_after_one(number: int, size: int) -> None:
    assert following(wal(number), size) == wal(number + 1)
