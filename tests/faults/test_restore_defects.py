"""Defects of a backup, seeded one at a time: backup verification names each, and none is copied back to anybody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lab.backup import run_on
from lab.layout import HOME
from tests.faults.restore_scene import MARKS, ByHand, RestoreScene, archived_marks, lose

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.faults, pytest.mark.campaign]

RPO_S = 3.0


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


async def damaged_object(scene: RestoreScene, of: str = "") -> None:
    objects = [each for each in scene.stored("") if f"{of}/bundle/" in str(each) and each.is_file()]
    assert objects
    for each in objects:
        flip(each, each.stat().st_size // 2)


async def damaged_wal(scene: RestoreScene) -> None:
    _, (_, file), _, _ = await archived_marks(scene, 11, 12, 13, 14)
    (stored,) = [each for each in scene.stored(file) if each.is_file()]
    flip(stored, stored.stat().st_size // 2)
    await scene.older_than(RPO_S)


async def missing_file(scene: RestoreScene) -> None:
    _, (_, gap), _, _ = await archived_marks(scene, 11, 12, 13, 14)
    lose(scene, gap)


async def missing_table(scene: RestoreScene) -> None:
    sql = "SELECT to_regclass('public.ledger') IS NOT NULL"
    await scene.backup_with(lambda backup: backup["checks"].append({"name": "ledger-is-there", "sql": sql}))


async def false_answer(scene: RestoreScene) -> None:
    given = {"name": "as-many", "sql": "SELECT count(*) FROM counting_results", "expect": "17"}
    await scene.backup_with(lambda backup: backup["checks"].append(given))


async def question_that_fails(scene: RestoreScene) -> None:
    given = {"name": "balance", "sql": "SELECT sum(balance) = 0 FROM accounts"}
    await scene.backup_with(lambda backup: backup["checks"].append(given))


async def sequence_behind(scene: RestoreScene) -> None:
    await scene.sql("CREATE TABLE tickets (id serial)", "INSERT INTO tickets VALUES (100)", "SELECT 1")
    await scene.older_than(RPO_S)


async def wrong_key(scene: RestoreScene) -> None:
    await scene.configure({"repo1-cipher-pass": "not the one that it was encrypted with"})


async def news_is_newest(scene: RestoreScene) -> None:
    await scene.backup_with(lambda backup: backup.update(newest=[{"table": "public.news", "column": "at"}]))
    await scene.older_than(RPO_S)


async def newest_row_is_old(scene: RestoreScene) -> None:
    await scene.sql("CREATE TABLE news AS SELECT now() - interval '1 hour' AS at", "SELECT 1")
    await news_is_newest(scene)


async def newest_row_is_none(scene: RestoreScene) -> None:
    await scene.sql("CREATE TABLE news (at timestamptz)", "SELECT 1")
    await news_is_newest(scene)


async def old_backup(scene: RestoreScene) -> None:
    await scene.backup_with(lambda backup: backup.update(max_age_s=1.0))


async def slow_restore(scene: RestoreScene) -> None:
    await scene.service_with(lambda service: service.update(rto_s=1.01))


async def no_room(scene: RestoreScene) -> None:
    await scene.backup_with(lambda backup: backup["host"].update(keep_free_bytes=10**15))


async def none(_: RestoreScene) -> None:
    """A control: what is told of each of them is told of it alone."""


DEFECTS: list[tuple[Callable[[RestoreScene], Awaitable[None]], str, tuple[str, ...]]] = [
    (heap_page, "needs a person", ("every page has its checksum: no", "1 of")),
    (index_page, "needs a person", ("heaps and indexes agree: no", "pages_n", "every page has its checksum: no")),
    (page_that_the_backup_found, "done, unprotected", ("pages were bad when",)),
    (damaged_object, "needs a person", ("not what was backed up",)),
    (damaged_wal, "needs a person", ("it is damaged in the archive",)),
    (missing_file, "needs a person", ("is missing from the archive",)),
    (missing_table, "needs a person", ("owner's query ledger-is-there: no",)),
    (false_answer, "needs a person", ("owner's query as-many: no", "expected 17")),
    (question_that_fails, "needs a person", ("owner's query balance: no", 'relation "accounts" does not exist')),
    (sequence_behind, "needs a person", ("public.tickets_id_seq is at 0, public.tickets.id at 100",)),
    (wrong_key, "needs a person", ("can't be decrypted with this key",)),
    (newest_row_is_old, "done, unprotected", ("s older than the target; the RPO is 3 s",)),
    (newest_row_is_none, "done, unprotected", ("public.news has no row",)),
    (old_backup, "done, unprotected", ("`max_age_s` is 1",)),
    (slow_restore, "done, unprotected", ("and the RTO is 1.01 s",)),
    (no_room, "needs a person", ("must be left",)),
    (none, "done", ()),
]


@pytest.mark.estate(rpo_s=RPO_S)
@pytest.mark.parametrize(("seed", "outcome", "said"), DEFECTS, ids=[each[0].__name__ for each in DEFECTS])
async def test_a_seeded_defect_is_named(
    restore_scene: RestoreScene,
    seed: Callable[[RestoreScene], Awaitable[None]],
    outcome: str,
    said: tuple[str, ...],
) -> None:
    scene = restore_scene
    await scene.backup_with(lambda backup: backup.update(newest=[]))
    await archived_marks(scene, 1, 2)
    await seed(scene)
    await scene.mark(3)
    report = await scene.ends(await scene.verify(), outcome)
    told = [*report.tasks, *report.unprotected]
    assert len(told) == len(said[:1]), told
    assert all(each in told[0] for each in said), told


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


async def test_a_newest_backup_that_is_damaged_keeps_nobody_from_an_older_one(restore_scene: RestoreScene) -> None:
    """It opens the archive as well, where the newest can't."""
    scene = restore_scene
    (mark, _), *_ = await archived_marks(scene, 1, 2)
    await run_on(scene.lab, HOME, "backup", "--type=full")
    await scene.archived()
    hand = ByHand(scene)
    first, second = (await hand.look()).backups
    await hand.remove()
    await damaged_object(scene, second.label)
    run = await scene.pitr({"time": mark.after.isoformat()})
    report = await scene.ends(run, "done")
    assert report.restore is not None
    assert report.restore.backup == first
    told = " ".join((await scene.state(run)).journal)
    assert f"{second.label} can't be restored: a file of the backup is not what was backed up" in told
    report = await scene.ends(await scene.verify(), "needs a person", "a file of the backup is not what was backed up")
