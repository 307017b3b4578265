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


async def test_targets_just_before_and_just_after_twenty_commits(restore_scene: RestoreScene) -> None:
    scene, hand = restore_scene, ByHand(restore_scene)
    await scene.traffic()

    async def enough() -> bool:
        return len(scene.acknowledged()) > 400

    await scene.until("400 rows are acknowledged", enough, 60.0)
    await scene.sql("SELECT 1")
    written = scene.acknowledged()
    chosen = sorted(random.sample(written[:300], COMMITS), key=lambda each: each.sent or 0.0)
    await hand.look()
    await hand.restore()
    try:
        places = [await commit_of(hand, scene, each) for each in chosen]
        order = sorted(zip(places, chosen, strict=True), key=lambda each: each[0].lsn)
        for place, entry in order:
            for inclusive in (False, True):
                moment = Moment(kind="lsn", timeline=1, lsn=place.lsn, inclusive=inclusive, reason="a test")
                copy = await hand.recover(moment)
                rows = await hand.ids()
                assert (entry.id in rows) is inclusive, f"{moment.text()}: {copy}"
                holds(rows, written, entry.sent or 0.0, entry.acked or 0.0, f"{moment.text()} ({copy})")
        # By time, later than all of them: recovery moves forward only.
        for entry in random.sample(written[310:390], 3):
            assert entry.acked is not None
            at = datetime.fromtimestamp(entry.acked, UTC)
            await hand.restore()
            await hand.recover(Moment(kind="time", timeline=1, time=at, reason="a test"))
            holds(await hand.ids(), written, entry.acked, entry.acked, str(at))
            break
    finally:
        await hand.remove()
    await scene.nothing_left()


async def commit_of(hand: ByHand, scene: RestoreScene, entry: Entry) -> Place:
    row = await scene.sql(f"SELECT xmin::text::int AS xid FROM counting_results WHERE id = '{entry.id}'")
    (place,) = (await hand.scan(f"xid {row['xid']}")).places
    return place


async def test_a_dropped_table_comes_back_with_every_row_of_before(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    await scene.traffic()
    await scene.sql("CREATE TABLE other AS SELECT n FROM generate_series(1, 100) n", "SELECT 1")
    await scene.sql(f"BEGIN; SAVEPOINT a; DROP TABLE {TABLE}; RELEASE a; COMMIT", "SELECT 1")
    run = await scene.pitr({"before_drop": TABLE}, then="copy-back")
    report = await scene.ends(run, "done", "copied back")
    assert report.restore is not None
    assert report.restore.failed() == []
    assert (await scene.sql("SELECT count(*) AS n FROM other"))["n"] == 100
    await scene.safe()
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
