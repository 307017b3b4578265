"""What is made of the answers of a restore host: backups, facts, and why something failed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.backups import _must_be_clear, _must_be_whole, _place, _wal_failure
from activities.copying_back import _failure
from activities.jobs import one, parse
from activities.restore_host import backups_of, databases_of, facts_of, moment_of, told
from activities.restoring import PERCENT, _recovery_failure, _restore_failure, settings_of
from schemas.facts import Branch
from schemas.failures import (
    BackupsUnreadable,
    CopyBackRefused,
    LifeboatError,
    NoBackupFits,
    NoRoomToRestore,
    RestoreFailed,
    RestoreHostFailed,
    TargetNotReached,
    WalMissing,
)
from schemas.restores import CopyFacts, HostOrder, Moment, ScanOrder, Stretch
from tests.unit.estates import service

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parent / "recorded" / "pgbackrest-2.45-info.json").read_text(encoding="utf-8")
)
"""pgBackRest 2.45: a full and an incremental backup; the databases of the newest (`--set`); a repository whose endpoint
has no address; a stanza that there is not. The command exits 0 in each case."""
T0 = datetime(2026, 11, 29, 11, 0, tzinfo=UTC)
BACKUP = {
    "repository": {"stanza": "unit"},
    "host": {"name": "restore-east", "region": "us-east-1", "directory": "/srv/copies", "bin": "/usr/lib/pg/bin"},
}


def order(kind: type[HostOrder] = HostOrder, **more: Any) -> Any:
    return kind.model_validate({"service": service(backup=BACKUP), "run": "r@1", "copy_name": "c0ffee", **more})


def recorded(name: str) -> str:
    return json.dumps(RECORDED[name])


class TestBackups:
    def test_both_oldest_first(self) -> None:
        found, why = backups_of(recorded("info"), "unit")
        assert why == ""
        full, incremental = found
        assert (full.label, full.kind, incremental.kind) == ("20261129-111213F", "full", "incr")
        assert incremental.label.startswith(full.label)
        assert (full.lsn_start, full.lsn_stop) == (0x2000028, 0x2000170)
        assert (full.wal_start, full.wal_stop, full.timeline) == ("0" * 7 + "1" + "0" * 15 + "2",) * 2 + (1,)
        assert full.started == datetime.fromtimestamp(1795950733, UTC)
        assert (full.system, full.archive) == ("7713549656427098888", "15-1")
        assert (full.bytes, full.kept_bytes, full.broken) == (30488868, 4073650, False)
        assert backups_of(json.dumps([{**RECORDED["info"][0], "backup": RECORDED["info"][0]["backup"][::-1]}]), "unit")[
            0
        ] == list(found)

    def test_one_with_bad_pages(self) -> None:
        changed = json.loads(recorded("info"))
        changed[0]["backup"][1]["error"] = True
        assert [each.broken for each in backups_of(json.dumps(changed), "unit")[0]] == [False, True]

    def test_a_cluster_that_was_upgraded_has_two_archives(self) -> None:
        changed = json.loads(recorded("info"))
        changed[0]["db"].append({"id": 2, "repo-key": 1, "system-id": 8, "version": "16"})
        changed[0]["archive"].append({"database": {"id": 2, "repo-key": 1}, "id": "16-2", "max": None, "min": None})
        changed[0]["backup"][1]["database"]["id"] = 2
        found, _ = backups_of(json.dumps(changed), "unit")
        assert [(each.system, each.archive) for each in found] == [("7713549656427098888", "15-1"), ("8", "16-2")]

    def test_none_and_why(self) -> None:
        assert backups_of(recorded("no stanza"), "nope") == ([], "missing stanza path")
        assert backups_of("[]", "unit") == ([], "the repository has no stanza unit")

    def test_a_repository_that_can_not_be_read_is_not_an_empty_one(self) -> None:
        for read in (backups_of, databases_of):
            with pytest.raises(BackupsUnreadable) as raised:
                read(recorded("unreachable"), "unit")
            assert raised.value.detail.startswith("pgBackRest can't read its repository: [HostConnectError]"), read

    def test_with_another_key_it_is_told_so_whatever_was_made_of_the_repository(self) -> None:
        """Characters that JSON does not allow as they are, and that Python takes for the end of a line."""
        for said in (
            "CryptoError: unable to flush",
            "FormatError: key/value found outside of section at line 1: GARBAGE",
        ):
            status = {"code": 99, "message": f"[{said}", "lock": {"backup": {"held": False}}}
            stanza = {**RECORDED["unreachable"][0], "cipher": "aes-256-cbc", "repo": [{"key": 1, "status": status}]}
            text = json.dumps([stanza]).replace("GARBAGE", "\x01\x0b\x0c\x1c\x85\u2028\ufffd\r")
            read = one(parse(f"::info={text}\n::done=1"), "info")
            with pytest.raises(RestoreFailed, match="can't be decrypted with this key"):
                backups_of(read, "unit")

    def test_the_users_databases(self) -> None:
        """Those of the system are never left out of a restore."""
        assert databases_of(recorded("set"), "unit") == ["counting"]
        for empty in (None, []):
            changed = json.loads(recorded("set"))
            changed[0]["backup"][0]["database-ref"] = empty
            assert databases_of(json.dumps(changed), "unit") == []


LOOK = """\
::owner=pitr-restore/counting-db/1@a
::restored=20261129-111213F
::begun=
::wanted=abc
::state=in archive recovery
::system=7713549656427098888
::recovered_to=0/30156F8
::recovered_timeline=1
::segment_bytes=16777216
::checksums=1
::checkpoint=0/2000060
::checkpoint_timeline=1
::running=1
::network=own
::reaches=has 127.0.0.1
::reaches=has a route by eth0
::session=t|paused|0/30156F8|1795950851.627126
::heartbeat=1795950851.500001
::fetched=3;000000020000000000000004
::refused=00000003.history;1
::refused=000000020000000000000005;103
::fatal=2026-11-29 11:18:55.284 UTC [4038] FATAL:  x = y
::last_commit=2026-11-29 11:14:11.627126+00
::line=pausing at the end of recovery
::done=1
"""


class TestFacts:
    def test_a_copy_that_stands_still(self) -> None:
        facts = facts_of(parse(LOOK))
        assert (facts.owner, facts.restored, facts.wanted) == (
            "pitr-restore/counting-db/1@a",
            "20261129-111213F",
            "abc",
        )
        assert (facts.running, facts.in_recovery, facts.pause, facts.replayed) == (True, True, "paused", 0x30156F8)
        assert facts.last_commit == datetime(2026, 11, 29, 11, 14, 11, 627126, tzinfo=UTC)
        assert facts.heartbeat == datetime(2026, 11, 29, 11, 14, 11, 500001, tzinfo=UTC)
        # The newest file is of timeline 2, whatever the last checkpoint says.
        assert (facts.timeline, facts.checkpoint_timeline) == (2, 1)
        assert (facts.fetched, facts.newest_file) == (3, "000000020000000000000004")
        assert facts.refused == {"00000003.history": 1, "000000020000000000000005": 103}
        assert facts.fatal == ["2026-11-29 11:18:55.284 UTC [4038] FATAL:  x = y"]
        assert (facts.network, facts.reaches) == ("own", ["has 127.0.0.1", "has a route by eth0"])
        assert (facts.checksums, facts.ended_at) == (True, "2026-11-29 11:14:11.627126+00")

    def test_nothing_yet(self) -> None:
        assert facts_of({}) == CopyFacts()
        early = facts_of(parse("::running=1\n::fetched=;\n::session=t|not paused||\n"))
        assert (early.running, early.in_recovery, early.pause) == (True, True, "not paused")
        assert (early.replayed, early.fetched, early.last_commit) == (0, 0, None)

    def test_one_that_was_promoted(self) -> None:
        facts = facts_of(parse("::running=1\n::session=f||0/30156F8|1795950851.627126\n"))
        assert (facts.in_recovery, facts.pause) == (False, "")

    def test_one_that_shares_its_hosts_network(self) -> None:
        facts = facts_of(parse("::running=1\n::network=shared\n::shared=no network namespace\n"))
        assert (facts.network, facts.shared) == ("shared", "no network namespace")

    @given(st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1)))
    def test_a_time_comes_through_to_the_microsecond(self, naive: datetime) -> None:
        """As PostgreSQL prints extract(epoch): a commit must not seem later than its own record says."""
        at = naive.replace(tzinfo=UTC)
        whole = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        assert moment_of(f"{whole // 10**6}.{whole % 10**6:06d}") == at

    def test_no_time(self) -> None:
        assert moment_of("") is None


class TestSettings:
    def test_each_kind(self) -> None:
        at = datetime(2026, 11, 29, 12, 30, 0, 250000, tzinfo=timezone(timedelta(hours=1)))
        assert settings_of(Moment(kind="time", timeline=3, time=at, reason="")) == (
            "recovery_target_timeline = '3'\nrecovery_target_time = '2026-11-29 12:30:00.250000+01:00'"
        )
        assert settings_of(Moment(kind="lsn", timeline=12, lsn=0x5_0000_00FF, inclusive=False, reason="")) == (
            "recovery_target_timeline = '12'\nrecovery_target_lsn = '5/FF'\nrecovery_target_inclusive = off"
        )
        assert "recovery_target_inclusive = on" in settings_of(Moment(kind="lsn", timeline=1, lsn=1, reason=""))
        assert settings_of(Moment(kind="immediate", timeline=1, reason="")) == (
            "recovery_target_timeline = '1'\nrecovery_target = 'immediate'"
        )

    def test_the_timeline_is_never_latest(self) -> None:
        for kind in ("immediate", "time", "lsn"):
            assert "'2'" in settings_of(Moment(kind=kind, timeline=2, time=T0, reason=""))


AT = Moment(kind="time", timeline=1, time=T0, reason="")
ENDED = "2026-11-29 11:18:55.284 UTC [4038] FATAL:  recovery ended before configured recovery target was reached"


@pytest.mark.parametrize(
    ("facts", "kind", "says"),
    [
        (
            {"fatal": [ENDED], "refused": {"000000010000000000000008": 1, "00000002.history": 1}, "ended_at": "11:17"},
            TargetNotReached,
            "000000010000000000000008 isn't in the archive, the last commit there was at 11:17",
        ),
        ({"fatal": [ENDED]}, TargetNotReached, "2026-11-29 11:00:00.000+00:00 on timeline 1: the next file isn't"),
        # A store that did not answer is none that has not: the same words of PostgreSQL, and worth another try.
        (
            {"fatal": [ENDED], "refused": {"000000010000000000000008": 103}},
            BackupsUnreadable,
            "recovery can't have 000000010000000000000008 (exit 103)",
        ),
        (
            {"fatal": ["FATAL:  requested recovery stop point is before consistent recovery point"]},
            NoBackupFits,
            "stop point is before",
        ),
        ({"fatal": ["FATAL:  WAL ends before end of online backup"]}, NoBackupFits, "WAL ends before"),
        ({"fatal": ['PANIC:  could not write to file "x": No space left on device']}, NoRoomToRestore, "No space left"),
        ({"fatal": ["FATAL:  could not access file x"]}, RestoreFailed, "could not access file x"),
        ({"line": "LOG:  shutting down"}, RestoreFailed, "shutting down"),
        ({}, RestoreFailed, "it said nothing"),
    ],
)
def test_why_recovery_ended(facts: dict[str, Any], kind: type[LifeboatError], says: str) -> None:
    failure = _recovery_failure(CopyFacts.model_validate(facts), AT)
    assert type(failure) is kind
    assert says in str(failure)


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        # As pgBackRest 2.45 ended in each case.
        (
            "ERROR: [055]: raised from local-1 protocol: unable to open missing file 'base/1/1247.gz' for read |"
            " [FileMissingError] on retry after 0ms",
            RestoreFailed,
            "a file of the backup is missing",
        ),
        (
            "ERROR: [029]: raised from local-1 protocol: zlib threw error: [-3] data error",
            RestoreFailed,
            "a file of the backup is not what was backed up",
        ),
        (
            "ERROR: [095]: raised from local-1 protocol: unable to flush | [CryptoError] on retry after 0ms",
            RestoreFailed,
            "a file of the backup is not what was backed up",
        ),
        (
            "ERROR: [026]: raised from local-1 protocol: error restoring 'base/1/1247': actual checksum 'ed' does not"
            " match expected checksum '0a'",
            RestoreFailed,
            "does not match",
        ),
        ("ERROR: [075]: backup set 20200101-000000F is not valid", RestoreFailed, "the backup is gone"),
        (
            "WARN: repo1: [HostConnectError] unable to load info file '/r/backup.info': HostConnectError: unable to get"
            " address | ERROR: [075]: backup set 20261129-111213F is not valid",
            BackupsUnreadable,
            "HostConnectError",
        ),
        (
            "CryptoError: cipher header invalid | HINT: is or was the repo encrypted? | ERROR: [075]: backup set"
            " 20261129-111213F is not valid",
            RestoreFailed,
            "can't be decrypted with this key",
        ),
        (
            "ERROR: [064]: raised from local-1 protocol: unable to write 'base/16384/2675'",
            RestoreHostFailed,
            "restore-east: ",
        ),
        ("ERROR: [041]: unable to open file: [28] No space left on device", NoRoomToRestore, "restore-east: "),
        ("ERROR: [031]: option 'x' not valid for command 'restore'", RestoreFailed, "not valid for command"),
        ("ERROR: [042]: timeout waiting for read", BackupsUnreadable, "timeout"),
        ("the program was killed", BackupsUnreadable, "killed"),
        # Of a plain archive.
        (
            "ERROR: [026]: restore: s3://b/p/base/F1/base.tar.gz: base/5/16384: its checksum does not match"
            " backup_manifest",
            RestoreFailed,
            "base/5/16384",
        ),
        ("ERROR: [027]: restore: backup set F1 is not valid: s3://b/p/base/F1 is not there", RestoreFailed, "F1"),
        ("ERROR: [028]: restore: s3://b/p/base/F1/base.tar.gz is not there", RestoreFailed, "is not there"),
        ("ERROR: [064]: restore: /c/base: No space left on device", NoRoomToRestore, "restore-east: "),
        ("ERROR: [103]: restore: GET s3://b/p/base/F1/base.tar.gz: 500 InternalError", BackupsUnreadable, "500"),
    ],
)
def test_why_a_restore_failed(text: str, kind: type[LifeboatError], says: str) -> None:
    failure = _restore_failure(order(), f"pgBackRest's restore exited 1 | {text}")
    assert type(failure) is kind
    assert says in str(failure)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("WAL file X can't be had: pgBackRest's archive-get exited 1", WalMissing),
        ("WAL file X can't be had: pgBackRest's archive-get exited 103", BackupsUnreadable),
        ("WAL file X can't be had: pgBackRest's archive-get exited 127", BackupsUnreadable),
        ("WAL file X can't be had: pgBackRest's archive-get exited 26", BackupsUnreadable),
        ("pg_waldump: error: could not find a valid record after 0/3000000", RestoreHostFailed),
    ],
)
@pytest.mark.parametrize("lines", [[], ["have 000000010000000000000003", "have 000000010000000000000004"]])
def test_why_wal_could_not_be_read(error: str, kind: type[LifeboatError], lines: list[str]) -> None:
    """Whatever was fetched before it."""
    failure = _wal_failure(told({"error": [error], "line": lines}))
    assert type(failure) is kind
    assert error in str(failure)


UNREAD = "ERROR: [042]: raised from local-1 protocol: unable to get 000000010000000000000008: repo1: 15-1/X.lz4"


@pytest.mark.parametrize(
    ("said", "attempt", "kind"),
    [
        # As pgBackRest 2.45 said of a file with one byte changed, and of a store that answered 503.
        ("[FormatError] lz4 error: [-16] ERROR_decompressionFailed [FileReadError] on retry after 0ms", 4, None),
        ("[FormatError] lz4 error: [-16] ERROR_decompressionFailed [FileReadError] on retry after 0ms", 5, WalMissing),
        ("[CryptoError] unable to flush", 5, WalMissing),
        ("[ProtocolError] HTTP request failed with 503 (bad luck)", 9, None),
    ],
)
def test_a_wal_file_that_comes_damaged_each_time_is_damaged(said: str, attempt: int, kind: Any) -> None:
    name, text = "000000010000000000000008", f"{UNREAD} {said}"
    refused = CopyFacts.model_validate({"fatal": [ENDED], "refused": {name: 42}, "why": text})
    for failure in (
        _wal_failure(f"WAL file {name} can't be had: pgBackRest's archive-get exited 42 | {text}", attempt),
        _recovery_failure(refused, AT, attempt),
    ):
        assert type(failure) is (kind or BackupsUnreadable)
        assert name in str(failure)
        assert ("it is damaged in the archive" in str(failure)) is (kind is not None)


class TestWhole:
    SCAN = order(
        ScanOrder,
        stretches=[
            Stretch(first="000000010000000000000002", last="000000010000000000000004"),
            Stretch(first="0000000200000000000000FF", last="000000020000000100000001"),
        ],
        what="commits",
        segment_bytes=16 << 20,
    )

    @pytest.mark.parametrize("end", ["1/01000000", "1/01FFFFFF", "2/00000000"])
    def test_read_to_its_last_file(self, end: str) -> None:
        _must_be_whole(self.SCAN, {"end": [end]})

    @pytest.mark.parametrize(
        ("end", "at"), [("1/00FFFFD8", "1/00FFFFD8"), ("0/04000000", "0/04000000"), ("", "its beginning")]
    )
    def test_a_page_that_is_no_good_is_not_the_end(self, end: str, at: str) -> None:
        with pytest.raises(WalMissing) as raised:
            _must_be_whole(self.SCAN, {"end": [end]} if end else {})
        assert f"past {at}, and it goes on to 000000020000000100000001" in str(raised.value)


def test_a_place() -> None:
    drop = _place("1/0700A5F0;748;2026-11-29 11:17:33.072809;DROP")
    assert (drop.lsn, drop.xid, drop.what) == (0x1_0700_A5F0, 748, "DROP")
    assert drop.at == datetime(2026, 11, 29, 11, 17, 33, 72809, tzinfo=UTC)
    assert _place("0/1;0;;RESTORE_POINT").at is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("psql exited 3: ERROR:  permission denied for schema public", CopyBackRefused),
        ('psql exited 3: ERROR:  must be able to SET ROLE "app"', CopyBackRefused),
        ('psql exited 3: ERROR:  relation "t" already exists', CopyBackRefused),
        ("psql exited 2: could not connect", RestoreHostFailed),
    ],
)
def test_why_tables_could_not_be_written_back(text: str, kind: type[LifeboatError]) -> None:
    assert type(_failure(text)) is kind


def test_how_far_a_restore_is() -> None:
    line = "P01 DETAIL: restore file /srv/copies/c0ffee/data/base/1/1255 (768KB, 48.50%) checksum 6f"
    found = PERCENT.search(line)
    assert found is not None
    assert found[2] == "48.50"


def test_where_nobody_leads_the_newest_timeline_must_come_from_all_the_others() -> None:
    """It is the living one then; a number alone says only who was promoted last."""
    _must_be_clear(3, [2, 3], [Branch(timeline=1, switch=10), Branch(timeline=2, switch=20)])
    _must_be_clear(1, [], [])
    with pytest.raises(NoBackupFits, match=r"timeline 3 does not come from 2, .*--timeline"):
        _must_be_clear(3, [2, 3], [Branch(timeline=1, switch=10)])
