"""Bad luck of restores, tests that have not been seen green yet."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from activities import restore_host, restoring
from lab.backup import command, run_on
from lab.command import run as run_command
from lab.lab import fault
from lab.layout import HOME, RESTORES
from schemas.restores import Moment
from tests.faults.restore_scene import MARKS, ByHand, RestoreScene
from tests.faults.test_restore_bad_luck import archived_marks, by_hand, dropped_marks, lose
from tests.faults.worker import processes_of
from tests.standins.bad_store import Kind
from workflows.policy import restore as policy

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]


@pytest.mark.estate(watch=False, detection={"heartbeat": False})
async def test_a_moment_at_which_a_table_was_locked_is_refused(restore_scene: RestoreScene) -> None:
    """The next commit after it is that of a DROP, so that recovery stops with the table locked."""
    scene = restore_scene
    (mark, _), *_ = await archived_marks(scene, 1)
    await scene.sql("DROP TABLE marks", "SELECT 1")
    await scene.archived()
    run = await scene.pitr({"time": mark.after.isoformat()}, then="copy-back", tables=[MARKS])
    await scene.ends(run, "refused", "public.marks can't be read: name a target before the lock")


@pytest.mark.estate(watch=False, detection={"heartbeat": False})
async def test_control_plain_recovery_to_before_the_backups_end_is_too_late_in_silence(
    restore_scene: RestoreScene,
) -> None:
    scene, hand = restore_scene, ByHand(restore_scene)
    wanted = await scene.mark(1)
    await scene.mark(2)
    await run_on(scene.lab, HOME, "backup", "--type=incr")
    await archived_marks(scene, 3, 4)
    await hand.look()
    first, second = hand.repository.backups
    moment = Moment(kind="time", timeline=1, time=wanted.after, reason="a test")
    await hand.restore(second)
    try:
        copy = await hand.recover(moment)
        assert "2" in await hand.rows("SELECT n FROM marks"), "no control: it is not too late"
    finally:
        await hand.remove()
    proofs = policy.prove(copy, second, moment, hand.repository, system="", heartbeat=False)
    assert "the backup had ended before the target" in {each.clause for each in proofs if each.ok is False}
    report = await scene.ends(await scene.pitr({"time": wanted.after.isoformat()}), "done")
    assert report.restore is not None
    assert report.restore.backup is not None
    assert report.restore.backup.label == first.label


async def test_control_the_newest_timeline_is_a_wrong_branch(
    restore_scene: RestoreScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody promoted a copy earlier, and it archived: `latest` follows it, and the product names the leader's."""
    scene, settings = restore_scene, restoring.settings_of
    await scene.mark(1)
    early = await scene.mark(2)
    await archived_marks(scene, 3)
    await promoted_and_archived(scene, Moment(kind="time", timeline=1, time=early.after, reason="a test"), 99)
    (wanted, _), *_ = await archived_marks(scene, 4, 5)
    moment = Moment(kind="time", timeline=1, time=wanted.after, reason="a test")
    async with by_hand(scene) as hand:
        assert hand.repository.timeline == 1
        await hand.recover(moment)
        assert set(await hand.rows("SELECT n FROM marks")) == {"1", "2", "3", "4"}
    monkeypatch.setattr(restoring, "settings_of", lambda each: settings(each).replace("= '1'", "= 'latest'"))
    async with by_hand(scene) as hand:
        copy = await hand.recover(moment)
        assert set(await hand.rows("SELECT n FROM marks")) == {"1", "2", "99"}, "no control: it is the right branch"
    proofs = policy.prove(copy, hand.backup, moment, hand.repository, system="", heartbeat=False)
    assert "it is on the intended timeline" in {each.clause for each in proofs if each.ok is False}
    report = await scene.ends(await scene.pitr({"time": wanted.after.isoformat()}), "done")
    assert report.restore is not None
    assert report.restore.moment is not None
    assert report.restore.moment.timeline == 1


async def promoted_and_archived(scene: RestoreScene, moment: Moment, n: int) -> None:
    """A copy that stands at the moment is promoted by hand, archives, and commits this row and another."""
    hand = ByHand(scene)
    await hand.look()
    await hand.restore()
    await hand.recover(moment)
    keep = restore_host.folder_of(hand.order)
    push = " ".join(command(scene.lab, RESTORES, f"--pg1-path={keep}/data", "--no-archive-async", "archive-push", "%p"))
    options = f"-c config_file={keep}/postgresql.conf -c archive_mode=on -c recovery_target_action=promote"
    options += f" -c archive_command='{push}'"
    words = ["-D", f"{keep}/data", "-w", "-l", f"{keep}/by-hand.log", "-o", options, "restart"]
    try:
        code, said = await restore_host.run_there(hand.order, [f"{hand.order.host.bin}/pg_ctl", *words], 60.0)
        assert code == 0, said

        async def out_of_recovery() -> bool:
            return await hand.rows("SELECT pg_is_in_recovery()") == ["f"]

        await scene.until("the copy is promoted", out_of_recovery)
        for each in (n, n):
            await hand.rows(f"INSERT INTO marks SELECT {each} WHERE NOT EXISTS (SELECT FROM marks WHERE n = {each})")
        (file,) = await hand.rows("SELECT pg_walfile_name(pg_switch_wal() - 1)")

        async def stored() -> bool:
            return bool(scene.stored(file))

        await scene.until("the wrong branch is archived", stored)
    finally:
        await hand.remove()


@pytest.mark.parametrize("kind", ["500", "503", "slow", "cut", "changed", "403"])
async def test_the_store_answers_badly_for_a_while(restore_scene: RestoreScene, kind: Kind) -> None:
    """Its listings, the backup's objects and the WAL, a few times each; then it is well, and so is the restore."""
    scene = restore_scene
    target, file = await dropped_marks(scene)
    async with scene.through_bad_store() as store:
        lucks = [store.has(kind, part, 2) for part in ("backup.info", "/bundle/", file)]
        run = await scene.pitr(target, then="copy-back", tables=[MARKS])
        report = await scene.ends(run, "done", "public.marks (5 rows)")
        assert all(each.hits for each in lucks), lucks
    assert report.restore is not None
    assert report.restore.failed() == []


@pytest.mark.parametrize(
    ("kind", "said"), [("changed", "not what was backed up"), ("503", "bad luck"), ("403", "InvalidAccessKeyId")]
)
async def test_a_store_that_stays_bad_is_named(restore_scene: RestoreScene, kind: Kind, said: str) -> None:
    """A damaged object ends the run; what a person may mend is tried again, and told meanwhile."""
    scene = restore_scene
    await archived_marks(scene, 1, 2)
    async with scene.through_bad_store() as store:
        luck = store.has(kind, "/bundle/", since=scene.restore_has_begun)
        run = await scene.verify()
        if kind == "changed":
            await scene.ends(run, "needs a person", said)
            return
        told = await scene.until("it is told why", lambda: scene.failure_of(run, said), 60)
        assert said in told
        luck.over.set()
        await scene.ends(run, "done")


async def test_two_restores_at_once_share_nothing(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    (first, _), (second, _), _ = await archived_marks(scene, 1, 2, 3)
    runs = [await scene.pitr({"time": each.after.isoformat()}, then="ask") for each in (first, second)]
    for run in runs:
        await scene.question(run, 90)
    copies = sorted((scene.lab.paths.node(RESTORES) / "copies").glob("*/owner"))
    assert len(copies) == 2
    for run, n in zip(runs, (1, 2), strict=True):
        (keep,) = [each.parent for each in copies if each.read_text().startswith(run.id)]
        assert await scene.count_in(keep, "marks") == n
    for run in runs:
        await scene.reject(run)
        assert (await scene.report(run)).outcome == "rejected"
    await scene.nothing_left()


async def test_of_two_that_copy_the_same_table_back_one_is_refused(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    target, _ = await dropped_marks(scene)
    async with scene.restored_is_locked() as locked:
        runs = [await scene.pitr(target, then="copy-back", tables=[MARKS]) for _ in range(2)]
        await locked.reached(2)
        await locked.let_go()
        states = [
            await scene.state_when(run, "it ends, or is parked", lambda each: each.outcome or each.parked, 60)
            for run in runs
        ]
    (parked,) = [run for run, state in zip(runs, states, strict=True) if state.parked]
    assert any("already exists" in line or "is there" in line for line in (await scene.state(parked)).journal)
    await scene.say(parked, "abort")
    outcomes = {(await scene.report(run)).outcome for run in runs}
    assert outcomes == {"done", "aborted"}
    assert tuple(await scene.sql("SELECT count(*), count(DISTINCT n) FROM marks")) == (5, 5)
    await scene.nothing_left()


async def test_a_transaction_of_an_abandoned_timeline(restore_scene: RestoreScene) -> None:
    """It was acknowledged by nobody else, and archived; the failover went on without it."""
    scene = restore_scene
    await archived_marks(scene, 1, 2)
    for pid in processes_of(str(scene.lab.folder), HOME, "walsender"):
        os.kill(pid, signal.SIGSTOP)
    # Numbers that the next timeline does not come to within the test.
    await scene.sql(
        "SET synchronous_commit = local",
        "DO $$ BEGIN FOR n IN 1..500 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$",
        "SELECT 1",
    )
    row = await scene.sql(
        "SET synchronous_commit = local", "INSERT INTO marks VALUES (3) RETURNING txid_current() AS xid"
    )
    await scene.archived()
    await fault(scene.lab, "kill", HOME)
    report = await scene.report(await scene.run_of_watch(limit=60), 60)
    leader = report.new_primary
    assert leader is not None
    late = await scene.mark(4, leader)
    await scene.mark(5, leader)
    await scene.archived(leader)
    await scene.ends(await scene.pitr({"xid": row["xid"]}), "refused", "timeline 2", "timeline 1")
    run = await scene.pitr({"xid": row["xid"], "timeline": 1}, then="ask")
    await scene.question(run, 60)
    (keep,) = (scene.lab.paths.node(RESTORES) / "copies").glob("*/owner")
    assert await scene.count_in(keep.parent, "marks WHERE n = 3") == 1
    await scene.reject(run)
    report = await scene.report(run)
    assert report.restore is not None
    assert report.restore.failed() == []
    report = await scene.ends(await scene.pitr({"time": late.after.isoformat()}), "done")
    assert report.restore is not None
    assert report.restore.moment is not None
    assert report.restore.moment.timeline == 2


async def test_where_it_does_not_fit_nothing_is_begun(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    (mark, _), _ = await archived_marks(scene, 1, 2)
    await scene.backup_with(lambda backup: backup["host"].update(keep_free_bytes=10**15))
    run = await scene.pitr({"time": mark.after.isoformat()})
    state = await scene.state_when(run, "it is parked", lambda state: state.parked, 60)
    assert "1000000000000000 must be left" in " ".join(state.journal)
    assert not scene.restore_has_begun()
    await scene.say(run, "abort")
    await scene.ends(run, "aborted", "must be left")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
@pytest.mark.parametrize("moment", ["restoring", "recovering"])
async def test_a_disk_that_fills_up_meanwhile(restore_scene: RestoreScene, moment: str) -> None:
    scene = restore_scene
    target, file = await dropped_marks(scene)
    small = scene.lab.paths.node(RESTORES) / "small"
    small.mkdir()
    here = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    options = f"size=90m,mode=0700,uid={small.parent.stat().st_uid}"
    await run_command(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(small)], cwd=small.parent, env=here)
    try:
        await scene.backup_with(lambda backup: backup["host"].update(directory=str(small), keep_free_bytes=0))
        async with scene.through_bad_store() as store:
            begun = store.has("held", "/bundle/", since=lambda: any(small.glob("*/begun")))
            held = begun if moment == "restoring" else store.has("held", file)
            if moment == "recovering":
                begun.over.set()
            run = await scene.pitr(target)
            await asyncio.wait_for(held.reached.wait(), 60)
            free = shutil.disk_usage(small).free
            (small / "ballast").write_bytes(b"\0" * max(free - 4_000_000, 0))
            held.over.set()
            state = await scene.state_when(run, "it is parked", lambda state: state.parked, 60)
            assert "has not the room" in state.journal[-1], state.journal
            await scene.say(run, "abort")
            assert (await scene.report(run)).outcome == "aborted"
        assert [each.name for each in small.iterdir()] == ["ballast"]
        await scene.nothing_left()
    finally:
        await run_command(["umount", "-l", str(small)], cwd=small.parent, env=here)


async def test_a_wrong_encryption_key_is_told_as_such(restore_scene: RestoreScene) -> None:
    scene = restore_scene
    await wrong_key(scene)
    run = await scene.pitr({"time": datetime.now(UTC).isoformat()})
    await scene.state_when(run, "it is parked", lambda state: state.parked, 60)
    await scene.say(run, "abort")
    await scene.ends(run, "aborted", "can't be decrypted with this key")


# Seeded defects: what each is, by which words it must be told, and with which outcome


async def bad_page(scene: RestoreScene, relation: str, *options: str) -> None:
    """One byte of the primary's file, between two checkpoints, and a backup of it."""
    await scene.sql("CREATE TABLE pages AS SELECT n, md5(n::text) FROM generate_series(1, 2000) n", "SELECT 1")
    await scene.sql("CREATE INDEX pages_n ON pages (n)", "ALTER TABLE pages OWNER TO app", "CHECKPOINT", "SELECT 1")
    row = await scene.sql(f"SELECT pg_relation_filepath('{relation}') AS path")
    flip(scene.lab.paths.data(HOME) / row["path"], 8192 + 8100)
    await run_on(scene.lab, HOME, "backup", "--type=full", *options)


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        (byte,) = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte ^ 0xFF]))


async def heap_page(scene: RestoreScene) -> None:
    await bad_page(scene, "pages", "--no-checksum-page")


async def index_page(scene: RestoreScene) -> None:
    await bad_page(scene, "pages_n", "--no-checksum-page")


async def page_that_the_backup_found(scene: RestoreScene) -> None:
    await bad_page(scene, "pages")


async def damaged_object(scene: RestoreScene) -> None:
    objects = [each for each in (scene.stored("") or []) if "/bundle/" in str(each) and each.is_file()]
    assert objects
    for each in objects:
        flip(each, each.stat().st_size // 2)


async def missing_file(scene: RestoreScene) -> None:
    _, (_, gap), _, _ = await archived_marks(scene, 11, 12, 13, 14)
    lose(scene, gap)


async def missing_table(scene: RestoreScene) -> None:
    sql = "SELECT to_regclass('public.ledger') IS NOT NULL"
    await scene.backup_with(lambda backup: backup["checks"].append({"name": "ledger-is-there", "sql": sql}))


async def false_answer(scene: RestoreScene) -> None:
    given = {"name": "as-many", "sql": "SELECT count(*) FROM marks", "expect": "17"}
    await scene.backup_with(lambda backup: backup["checks"].append(given))


async def question_that_fails(scene: RestoreScene) -> None:
    given = {"name": "balance", "sql": "SELECT sum(balance) = 0 FROM accounts"}
    await scene.backup_with(lambda backup: backup["checks"].append(given))


async def sequence_behind(scene: RestoreScene) -> None:
    await scene.sql("CREATE TABLE tickets (id serial)", "INSERT INTO tickets VALUES (100)", "SELECT 1")


async def wrong_key(scene: RestoreScene) -> None:
    await scene.configure({"repo1-cipher-pass": "not the one that it was encrypted with"})


async def newest_row_is_old(scene: RestoreScene) -> None:
    await scene.sql("CREATE TABLE news AS SELECT now() - interval '1 hour' AS at", "SELECT 1")
    await scene.backup_with(lambda backup: backup.update(newest=[{"table": "public.news", "column": "at"}]))


async def newest_row_is_none(scene: RestoreScene) -> None:
    await scene.sql("CREATE TABLE news (at timestamptz)", "SELECT 1")
    await scene.backup_with(lambda backup: backup.update(newest=[{"table": "public.news", "column": "at"}]))


async def old_backup(scene: RestoreScene) -> None:
    await scene.backup_with(lambda backup: backup.update(max_age_s=1.0))


async def slow_restore(scene: RestoreScene) -> None:
    await scene.service_with(lambda service: service.update(rto_s=0.1))


async def no_room(scene: RestoreScene) -> None:
    await scene.backup_with(lambda backup: backup["host"].update(keep_free_bytes=10**15))


DEFECTS: list[tuple[Callable[[RestoreScene], Awaitable[None]], str, tuple[str, ...]]] = [
    (heap_page, "needs a person", ("every page has its checksum: no", "1 of")),
    (index_page, "needs a person", ("heaps and indexes agree: no", "pages_n", "every page has its checksum: no")),
    (page_that_the_backup_found, "done, unprotected", ("pages were bad when",)),
    (damaged_object, "needs a person", ("not what was backed up",)),
    (missing_file, "needs a person", ("is missing from the archive",)),
    (missing_table, "needs a person", ("owner's query ledger-is-there: no",)),
    (false_answer, "needs a person", ("owner's query as-many: no", "expected 17")),
    (question_that_fails, "needs a person", ("owner's query balance: no", 'relation "accounts" does not exist')),
    (sequence_behind, "needs a person", ("public.tickets_id_seq is at 0, public.tickets.id at 100",)),
    (wrong_key, "needs a person", ("can't be decrypted with this key",)),
    (newest_row_is_old, "done, unprotected", ("s older than the target; the RPO is 60 s",)),
    (newest_row_is_none, "done, unprotected", ("public.news has no row",)),
    (old_backup, "done, unprotected", ("`max_age_s` is 1",)),
    (slow_restore, "done, unprotected", ("and the RTO is 0.1 s",)),
    (no_room, "needs a person", ("must be left",)),
]


@pytest.mark.parametrize(("seed", "outcome", "said"), DEFECTS, ids=[each[0].__name__ for each in DEFECTS])
async def test_a_seeded_defect_is_named(
    restore_scene: RestoreScene,
    seed: Callable[[RestoreScene], Awaitable[None]],
    outcome: str,
    said: tuple[str, ...],
) -> None:
    scene = restore_scene
    await archived_marks(scene, 1, 2)
    await seed(scene)
    await scene.mark(3)
    report = await scene.ends(await scene.verify(), outcome)
    told = " ".join([*report.tasks, *report.unprotected])
    assert all(each in told for each in said), told


@pytest.mark.parametrize("seed", [heap_page, index_page])
async def test_a_page_that_is_bad_is_copied_back_to_nobody(
    restore_scene: RestoreScene, seed: Callable[[RestoreScene], Awaitable[None]]
) -> None:
    scene = restore_scene
    await archived_marks(scene, 1, 2)
    await seed(scene)
    mark, _ = (await archived_marks(scene, 3, 4))[0]
    await scene.sql("DROP TABLE marks", "SELECT 1")
    run = await scene.pitr({"time": mark.after.isoformat()}, then="copy-back", tables=[MARKS])
    await scene.ends(run, "refused", "the data is not good", "every page has its checksum: no")
    assert (await scene.sql("SELECT to_regclass('public.marks') IS NULL AS gone"))["gone"]
