"""What long work of a restore tells of how far it is, and what of a target's other places is kept."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio.testing import ActivityEnvironment

from activities import backups, restoring
from activities.jobs import Answers, Progress
from schemas.restore_requests import Target
from schemas.restores import CopyFacts, Moment, Place, RecoverOrder, Repository, RestoreOrder, ScanOrder, Stretch
from tests.unit.restored import BACKUP, DROP, T0, TIME
from workflows.pitr_restore import PitrRestore
from workflows.policy import restore as policy

SIZE = 16 * 1024 * 1024
FIRST, FIFTH, LAST = (f"00000003000000000000000{each}" for each in "45C")
STRETCH = Stretch(first=FIRST, last=LAST)
REPOSITORY = Repository(backups=[BACKUP], timeline=3, stretches=[STRETCH], segment_bytes=SIZE)
NOTHING = {"service": None, "run": "r", "copy_name": "c"}


@pytest.mark.parametrize(
    ("moment", "file"),
    [
        (Moment(kind="immediate", timeline=3, reason=""), BACKUP.wal_stop),
        (DROP, "00000003000000000000000A"),
        (TIME, LAST),
    ],
)
def test_the_last_file_that_recovery_may_need(moment: Moment, file: str) -> None:
    assert policy.last_file(REPOSITORY, BACKUP, moment) == file


def test_it_is_not_known_where_the_archive_has_a_gap_at_once() -> None:
    assert policy.last_file(REPOSITORY.model_copy(update={"stretches": []}), BACKUP, TIME) == ""


@pytest.mark.parametrize(
    ("line", "told"),
    [(f"have {FIFTH}", {"file": FIFTH, "to": LAST}), ("WARN: retrying", {}), (None, {})],
)
async def test_reading_wal_tells_the_file_that_it_has(monkeypatch, line, told) -> None:
    seen = []

    async def run_job(order: object, what: str, *words: str, doing: str, progress: Progress) -> Answers:
        seen.append(await progress({"line": [line]} if line else {}))
        return {"code": ["0"], "done": [""], "end": ["0/C000100"]}

    monkeypatch.setattr(backups, "run_job", run_job)
    order = ScanOrder.model_construct(**NOTHING, stretches=[STRETCH], lsn=0, what="commits", segment_bytes=SIZE)
    await ActivityEnvironment().run(backups.read_wal, order)
    assert seen == [told]


async def test_restoring_tells_bytes_rate_and_time_left(monkeypatch) -> None:
    seen = []

    async def run_job(order: object, what: str, *words: str, doing: str, progress: Progress) -> Answers:
        seen.append(await progress({"line": ["P01 DETAIL: restore file base/1/2 (1GB, 25.00%) checksum 12"]}))
        seen.append(await progress({"line": ["P00 INFO: repo1: restore backup set"]}))
        return {"code": ["0"], "done": [""]}

    monkeypatch.setattr(restoring, "run_job", run_job)
    await ActivityEnvironment().run(restoring.restore_backup, RestoreOrder.model_construct(**NOTHING, backup=BACKUP))
    measured, nothing = seen
    assert (measured["bytes"], measured["of"], nothing) == (850_000_000, BACKUP.bytes, {})
    assert measured["rate"] > 0
    assert measured["left_s"] >= 0


async def test_recovery_tells_the_file_that_it_has_reached_and_the_last_one(monkeypatch) -> None:
    facts = CopyFacts(running=True, pause="paused", in_recovery=True, replayed=7, newest_file=FIFTH, fetched=2)
    told: list[dict[str, object]] = []

    class Beating:
        def __init__(self, doing: dict[str, object]) -> None:
            told.append(doing)

        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *_: object) -> None: ...

    async def ask(order: object, *words: str) -> Answers:
        wanted.append(words[1])
        return {}

    def facts_of(answers: Answers) -> CopyFacts:
        return facts.model_copy(update={"wanted": wanted[0]})

    wanted: list[str] = []
    monkeypatch.setattr(restoring, "beating", Beating)
    monkeypatch.setattr(restoring, "ask", ask)
    monkeypatch.setattr(restoring, "facts_of", facts_of)
    monkeypatch.setattr(restoring, "_heartbeat_in", lambda order: "")
    host = type("Host", (), {"preload": []})()
    monkeypatch.setattr(RecoverOrder, "host", host)
    order = RecoverOrder.model_construct(**NOTHING, backup=BACKUP, moment=TIME, last=LAST)
    await ActivityEnvironment().run(restoring.recover_copy, order)
    assert {"file": FIFTH, "to": LAST, "files": 2}.items() <= told[0].items()


def test_the_places_that_were_not_taken_are_told_with_the_reason() -> None:
    places = [
        Place(lsn=lsn, xid=xid, at=T0 + timedelta(minutes=minutes), what="DROP")
        for lsn, xid, minutes in ((0x600_0110, 700, -40), (0xA00_0060, 791, -10), (0xB00_0060, 801, 5))
    ]
    target = Target(before_drop="public.accounts", until=T0)
    moment = policy.place_of(target, places, 3)
    assert isinstance(moment, Moment)
    assert policy.not_taken(target, places, moment) == [
        "0/06000110 (2026-11-25 10:20:00+00:00): an earlier one",
        "0/0B000060 (2026-11-25 11:05:00+00:00): after `until`",
    ]


def test_a_plan_does_not_say_that_anything_was_restored() -> None:
    run = PitrRestore()
    run.target = Target(before_drop="public.accounts")
    assert run.summary() == "restores to before public.accounts was dropped"
    run.note_evidence(moment=DROP, restore_s=10.2, copied={"public.accounts": 3})
    assert run.summary() == ("restored to just before 0/0A000060 on timeline 3; copied back: public.accounts (3 rows)")
