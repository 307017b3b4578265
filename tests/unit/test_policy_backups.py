"""Which kind of backup is due, and whether the one that was taken is good."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from activities.backup_health import segment_bytes_of
from schemas.backup import BackupKind, BackupPolicy
from schemas.restore_requests import TakeRequest
from schemas.restores import Backup, Stretch
from schemas.takes import Confirmed, Expired, Inventory
from schemas.wal import file_of
from workflows.policy import backups

NOW = datetime(2026, 11, 29, 3, 0, tzinfo=UTC)
DAY = 86400.0
SYSTEM = "7713551031620377839"
HOST = {"name": "restore", "region": "eu-west-1", "directory": "/srv/copies", "bin": "/usr/lib/postgresql/15/bin"}


def declared(**more: Any) -> BackupPolicy:
    return BackupPolicy.model_validate({"repository": {"stanza": "counting-db"}, "host": HOST, **more})


def backup(kind: BackupKind = "full", age_s: float = DAY, **more: Any) -> Backup:
    at = NOW - timedelta(seconds=age_s)
    usual: dict[str, Any] = {
        "label": f"{at:%Y%m%d-%H%M%S}{kind[0].upper()}",
        "kind": kind,
        "started": at,
        "stopped": at + timedelta(minutes=5),
        "lsn_start": 0x5000028,
        "lsn_stop": 0x6000050,
        "wal_start": "000000010000000000000005",
        "wal_stop": "000000010000000000000006",
        "system": SYSTEM,
        "archive": "15-1",
        "bytes": 10**9,
        "kept_bytes": 10**8,
    }
    return Backup.model_validate(usual | more)


def inventory(*found: Backup) -> Inventory:
    return Inventory(member="pg-east-1", backups=list(found), system=SYSTEM)


@pytest.mark.parametrize(
    ("there", "due"),
    [
        ([], "full"),
        ([backup(age_s=DAY)], "incr"),
        ([backup(age_s=DAY), backup("incr", 3600)], "incr"),
        ([backup(age_s=8 * DAY), backup("incr", 3600)], "full"),
        # A weekly schedule wavers by minutes.
        ([backup(age_s=7 * DAY - 900)], "full"),
        ([backup(age_s=DAY, broken=True)], "full"),
        ([backup(age_s=DAY, system="another")], "full"),
    ],
)
def test_what_is_due(there: list[Backup], due: str) -> None:
    kind, reason = backups.choose_kind(None, inventory(*there), declared(), NOW)
    assert kind == due
    assert reason


def plain(**more: Any) -> BackupPolicy:
    return declared(repository={"kind": "plain", "stanza": "counting-db", **more})


def test_a_plain_archive_has_full_ones_only() -> None:
    for there in ([], [backup()]):
        assert backups.choose_kind(None, inventory(*there), plain(), NOW)[0] == "full"
    assert backups.choose_kind("full", inventory(backup()), plain(), NOW) == ("full", "it was asked for")
    kind, reason = backups.choose_kind("incr", inventory(backup()), plain(), NOW)
    assert (kind, "full backups only" in reason) == (None, True)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (declared(), "pgBackRest's own retention"),
        (plain(), "no `retention` is declared"),
        (
            plain(retention={"keep_fulls": 4, "keep_days": 30}),
            "the newest 4, what is younger than 30 days; the rest is removed",
        ),
        (
            plain(retention={"keep_fulls": 4, "archive_class": "GLACIER", "keep_archived_days": 365}),
            "the rest is archived in GLACIER, and removed after 365 days",
        ),
    ],
)
def test_what_retention_does_is_told(policy: BackupPolicy, said: str) -> None:
    assert said in backups.retention_text(policy)


def test_in_between_it_is_what_the_policy_says() -> None:
    kind, _ = backups.choose_kind(None, inventory(backup()), declared(between="diff"), NOW)
    assert kind == "diff"


@pytest.mark.parametrize("kind", ["diff", "incr"])
def test_what_nothing_is_there_for_is_refused(kind: BackupKind) -> None:
    """pgBackRest would take a full one, and say so in a warning only."""
    found, reason = backups.choose_kind(kind, inventory(backup(broken=True)), declared(), NOW)
    assert found is None
    assert "no full backup" in reason
    assert backups.choose_kind(kind, inventory(backup()), declared(), NOW)[0] == kind


@pytest.mark.parametrize(
    ("kind", "other", "needed"),
    [
        ("incr", backup("incr", 60), False),
        ("incr", backup("full", 60), False),
        ("full", backup("incr", 60), True),
        ("incr", backup("full", 60, broken=True), True),
    ],
)
def test_anothers_backup_does_as_well_or_not(kind: BackupKind, other: Backup, needed: bool) -> None:
    before = [backup()]
    assert backups.taken_meanwhile(kind, before, before) is None
    assert (backups.taken_meanwhile(kind, before, [*before, other]) is None) == needed


WHOLE = [Stretch(first="000000010000000000000004", last="000000010000000000000006")]


@pytest.mark.parametrize(
    ("found", "failed"),
    [
        (Confirmed(backup=backup(), stretches=WHOLE), []),
        (Confirmed(backup=None), ["the repository lists it"]),
        (Confirmed(backup=backup(broken=True), stretches=WHOLE), ["no page was bad"]),
        (Confirmed(backup=backup("incr"), stretches=WHOLE), ["it is of the kind that was due"]),
        (Confirmed(backup=backup()), ["the WAL that it needs is archived"]),
        (
            Confirmed(
                backup=backup(),
                stretches=[
                    Stretch(first="000000010000000000000004", last="000000010000000000000005"),
                    Stretch(first="000000020000000000000006", last="000000020000000000000006"),
                ],
            ),
            ["the WAL that it needs is archived"],
        ),
    ],
)
def test_a_backup_is_good_clause_by_clause(found: Confirmed, failed: list[str]) -> None:
    assert [each.clause for each in backups.prove("L", "full", found) if each.ok is False] == failed


def test_what_retention_removed_is_what_is_not_left() -> None:
    old, new = backup(age_s=8 * DAY), backup(age_s=0)
    assert backups.removed([old], new.label, Expired(left=[new.label])) == [old.label]
    assert backups.removed([old], new.label, Expired(left=[old.label, new.label])) == []


def test_a_start_form_takes_no_other_kind() -> None:
    assert TakeRequest(service="counting-db", reason="a test").kind is None
    with pytest.raises(ValidationError, match="full"):
        TakeRequest.model_validate({"service": "counting-db", "reason": "a test", "kind": "half"})


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"take_every": 86400, "verify_every": "0 5 * * sun"}, ""),
        ({"take_every": "*/20 0-6,12 1 jan-mar *"}, ""),
        ({"take_every": 60}, "more often than one ends"),
        ({"take_every": 2 * 86400}, "`max_age_s`"),
        ({"verify_every": 30 * 86400}, "`verify_max_age_s`"),
        ({"take_every": "0 3 * *"}, "has 4 fields"),
        ({"take_every": "0 24 * * *"}, "'24' is no hour"),
        ({"take_every": "0 3 * * sat-sun"}, "is no day of week"),
        ({"take_every": "*/0 * * * *"}, "is no minute"),
    ],
)
def test_how_often_is_checked(fields: dict[str, Any], told: str) -> None:
    if not told:
        declared(**fields)
        return
    with pytest.raises(ValidationError, match=told):
        declared(**fields)


@pytest.mark.parametrize("size", [1 << 20, 16 << 20, 64 << 20, 1 << 30])
def test_the_size_of_a_wal_file_is_read_from_where_backups_are(size: int) -> None:
    def ends(start: int, stop: int) -> Backup:
        return backup(
            lsn_start=start,
            lsn_stop=stop,
            wal_start=file_of(1, start, size),
            # What ends with its file is in no other.
            wal_stop=file_of(1, stop - 1, size),
        )

    first = 5 * size + 40
    assert segment_bytes_of([ends(first, 6 * size), ends(7 << 32 | 3 * size + 40, 7 << 32 | 4 * size - 1)]) == size
