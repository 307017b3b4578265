"""Point-in-time restores on real servers: what a copy holds, what comes back, and what is refused."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from lab.ledger import Entry
from schemas.restores import Moment, Place
from tests.faults.restore_scene import TABLE, ByHand, RestoreScene

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]

COMMITS = 20


def holds(rows: set[str], written: list[Entry], since: float, until: float, where: str) -> None:
    """What was acknowledged before `since` is there, what was sent after `until` is not; between, either."""
    before = {each.id for each in written if (each.acked or 0.0) < since}
    after = {each.id for each in written if (each.sent or 0.0) > until}
    lost = [each for each in written if each.id in before - rows]
    assert not lost, f"{where}: {len(lost)} of {len(before)} are missing, sent from {lost[0].sent} to {lost[-1].sent}"
    assert rows & after == set(), f"{where}: {len(rows & after)} came after it"


@pytest.mark.parametrize("kind", ["lsn", "time"])
async def test_targets_just_before_and_just_after_twenty_commits(restore_scene: RestoreScene, kind: str) -> None:
    scene, hand = restore_scene, ByHand(restore_scene)
    await scene.traffic()

    async def enough() -> bool:
        return len(scene.acknowledged()) > 400

    await scene.until("400 rows are acknowledged", enough, 60.0)
    written = scene.acknowledged()
    chosen = sorted(random.sample(written[:300], COMMITS), key=lambda each: each.sent or 0.0)
    await hand.look()
    await hand.restore()
    try:
        places = [await commit_of(hand, scene, each) for each in chosen]
        around = [
            each for pair in zip(places, chosen, strict=True) for each in (by_lsn if kind == "lsn" else by_time)(*pair)
        ]
        # Recovery moves forward only.
        for moment, entry, there, since, until in sorted(
            around, key=lambda each: (each[0].lsn, each[0].inclusive, each[0].time)
        ):
            copy = await hand.recover(moment)
            rows = await hand.ids()
            assert (entry.id in rows) is there, f"{moment.text()}: {copy}"
            holds(rows, written, since, until, f"{moment.text()} ({copy})")
    finally:
        await hand.remove()
    await scene.nothing_left()


Around = tuple[Moment, Entry, bool, float, float]
"""A target, the row that it is about, whether it must be there; what was acknowledged before must be there as well, and
what was sent after must not."""


def by_lsn(place: Place, entry: Entry) -> list[Around]:
    """Without its commit record, and with it."""
    sent, acked = entry.sent or 0.0, entry.acked or 0.0
    moments = [
        Moment(kind="lsn", timeline=1, lsn=place.lsn, inclusive=inclusive, reason="a test")
        for inclusive in (False, True)
    ]
    return [(each, entry, each.inclusive, sent, acked) for each in moments]


def by_time(place: Place, entry: Entry) -> list[Around]:
    """A microsecond before its commit, and once it was acknowledged."""
    assert place.at is not None
    assert entry.acked is not None
    around = [(place.at - timedelta(microseconds=1), False), (datetime.fromtimestamp(entry.acked, UTC), True)]
    return [
        (Moment(kind="time", timeline=1, time=at, reason="a test"), entry, there, at.timestamp(), at.timestamp())
        for at, there in around
    ]


async def commit_of(hand: ByHand, scene: RestoreScene, entry: Entry) -> Place:
    row = await scene.sql(f"SELECT xmin::text::int AS xid FROM counting_results WHERE id = '{entry.id}'")
    (place,) = (await hand.scan(f"xid {row['xid']}")).places
    return place


async def test_a_dropped_table_comes_back_with_every_row_of_before(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    run = await scene.dropped_comes_back(f"BEGIN; SAVEPOINT a; DROP TABLE {TABLE}; RELEASE a; COMMIT")
    await scene.record(run, "pitr-copied-back")


async def test_a_table_that_is_there_is_never_written_over(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    await scene.traffic()
    at = datetime.now(UTC)
    run = await scene.pitr({"time": at.isoformat()}, then="copy-back", tables=[TABLE])
    await scene.state_when(run, "it is parked", lambda state: state.parked)
    await scene.say(run, "abort")
    await scene.ends(run, "aborted", "move it out of the way")
    await scene.safe()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"time": (datetime.now(UTC) + timedelta(days=400)).isoformat()}, "in the future"),
        ({"time": "2020-01-01T00:00:00Z"}, "nothing before that can be restored"),
        ({"lsn": "7F/0"}, "after the end of the archived WAL"),
        ({"lsn": "0/1000000"}, "nothing before that can be restored"),
        ({"xid": 4_000_000_000}, "not in the archived WAL"),
        ({"name": "no-such-point"}, "not in the archived WAL"),
        ({"before_drop": "public.no_such_table"}, "is in no backup"),
        ({"before_drop": TABLE}, "was not dropped"),
        ({"time": "2020-01-01T00:00:00Z", "timeline": 7}, "knows no timeline 7"),
    ],
    ids=["future", "before-the-backups", "lsn-past-the-end", "lsn-before", "xid", "name", "table", "drop", "timeline"],
)
async def test_a_wrong_target_is_refused_with_a_reason(
    restore_scene: RestoreScene, target: dict[str, object], said: str
) -> None:
    await restore_scene.ends(await restore_scene.pitr(target), "refused", said)


async def test_what_was_rolled_back_and_what_happened_twice_is_refused(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    row = await scene.sql(
        "SELECT pg_create_restore_point('twice')",
        "SELECT pg_create_restore_point('twice')",
        "CREATE TABLE gone (n int)",
        "BEGIN",
        "INSERT INTO gone VALUES (1)",
        "SELECT txid_current() AS xid",
    )
    await scene.sql("SELECT pg_switch_wal()", "INSERT INTO gone VALUES (2)", "SELECT 1")
    await scene.ends(await scene.pitr({"xid": row["xid"]}), "refused")
    await scene.ends(await scene.pitr({"name": "twice"}), "refused", "happened more than once")
    later = datetime.now(UTC) + timedelta(seconds=1)
    await scene.ends(await scene.pitr({"name": "twice", "until": later.isoformat()}), "done")


@pytest.mark.estate(rpo_s=5.0)
async def test_the_newest_backup_is_verified_with_its_evidence(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    await scene.traffic()

    async def older_than_the_rpo() -> bool:
        first = scene.acknowledged()[0].acked or 0.0
        return datetime.now(UTC).timestamp() - first > 8.0

    await scene.until("rows are older than the RPO", older_than_the_rpo)
    run = await scene.verify()
    report = await scene.ends(run, "done")
    assert report.restore is not None
    assert report.restore.backup is not None
    assert len(report.restore.proofs) == 8
    assert report.restore.failed() == []
    assert report.restore.restore_s is not None
    await scene.safe()
    await scene.record(run, "backup-verified")
