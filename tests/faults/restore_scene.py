"""A database with backups under test: its repository, its copies, and what a copy holds of the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from temporalio.testing import ActivityEnvironment

from activities import backups, restoring
from activities.restore_host import ask, folder_of
from activities.topology import load_topology
from lab import lab as labs
from lab import ledger
from lab.backup import pgbackrest_conf
from lab.layout import HOME, RESTORES, STORAGE
from lab.ledger import Entry
from lab.model import Lab
from lab.owner import write_private
from lab.postgres import session
from lab.processes import trees
from schemas.failures import BackupsUnreadable
from schemas.reports import Report
from schemas.restore_requests import PitrRequest, VerifyRequest
from schemas.restores import (
    Archived,
    ArchiveOrder,
    Backup,
    CopyFacts,
    Found,
    HostOrder,
    LookOrder,
    Moment,
    RecoverOrder,
    Repository,
    RestoreOrder,
    ScanOrder,
)
from schemas.topology import DatabaseService
from tests.faults.scene import Run, Scene, as_marked
from tests.lab import looks
from tests.standins.bad_store import BadStore, bad_store
from workflows.policy import restore as policy

TABLE = "public.counting_results"
MARKS = "public.marks"


@dataclass(frozen=True)
class Mark:
    """A row of `public.marks` that is committed, its transaction, and a moment between it and the next one."""

    n: int
    xid: int
    after: datetime


class Locked:
    """The leader's table of what was restored, which nobody writes to meanwhile."""

    def __init__(self, scene: RestoreScene, conn: asyncpg.Connection) -> None:
        self.scene, self.conn = scene, conn

    async def reached(self, count: int = 1) -> None:
        """So many wait, for it or for each other."""

        async def waits() -> bool:
            waiting = await self.conn.fetchval("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
            return bool(waiting >= count)

        await self.scene.until("rows are copied back, and wait to be committed", waits, 60.0)

    async def let_go(self) -> None:
        await self.conn.execute("COMMIT")


class RestoreScene(Scene):
    """The words in which restores are told."""

    def service(self) -> DatabaseService:
        return load_topology(self.lab.topology).database(self.lab.service)

    # Runs

    async def pitr(self, target: Mapping[str, Any], *, then: str = "remove", **more: Any) -> Run:
        form = {"service": self.lab.service, "reason": "a test", "target": dict(target), "then": then, **more}
        return await self.begin("PitrRestore", PitrRequest.model_validate(form), "pitr")

    async def verify(self, **more: Any) -> Run:
        form = {"service": self.lab.service, "reason": "a test", **more}
        return await self.begin("BackupVerify", VerifyRequest.model_validate(form), "verify")

    async def ends(self, run: Run, outcome: str, *said: str, limit: float = 120.0) -> Report:
        """The run's report, with this outcome and all of these words; no copy is left of it."""
        try:
            state = await self.state_when(run, "it ends", lambda state: state.outcome or state.parked, limit)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(await run.describe()).raw_description.pending_activities}") from None
        assert not state.parked, "\n".join(state.journal)
        report = await self.report(run, limit)
        told = f"{report.summary} {' '.join(report.tasks)}"
        assert report.outcome == outcome, f"{report}\n{await self.told_of(run)}"
        assert all(each in told for each in said), told
        await self.nothing_left()
        return report

    async def nothing_left(self) -> None:
        """The restore host has no copy, and nothing runs there."""
        copies = self.lab.paths.node(RESTORES) / "copies"
        assert [each.name for each in copies.glob("*/owner")] == []

        async def quiet() -> bool:
            return not await asyncio.to_thread(trees, self.lab.paths, [RESTORES])

        await self.until("nothing runs on the restore host", quiet, 15.0)

    def restore_has_begun(self) -> bool:
        """Whether a copy's files are being restored, or were."""
        return any((self.lab.paths.node(RESTORES) / "copies").glob("*/begun"))

    async def recovery_was_refused(self) -> bool:
        """Whether a file could not be had, which may be in the archive all the same."""
        told = (self.lab.paths.node(RESTORES) / "copies").glob("*/fetched")
        return any(line.split()[2] not in "01" for each in told for line in each.read_text().splitlines())

    async def failure_of(self, run: Run, said: str) -> str | None:
        """The last failure of an activity of the run that is tried again, once it has these words."""
        pending = (await run.describe()).raw_description.pending_activities
        told = [each.last_failure.message for each in pending if said in each.last_failure.message]
        return told[0] if told else None

    async def count_in(self, keep: Path, what: str) -> int:
        """Rows in a copy that stands in this folder."""
        order = HostOrder(service=self.service(), run=(keep / "owner").read_text(), copy_name=keep.name)
        found = await ask(order, "query", "counting", f"SELECT count(*) FROM {what}")
        return int(found["row"][0])

    async def dropped_comes_back(self, drop: str) -> Run:
        """Under load a table is dropped, and comes back with every row of before; another is as it was."""
        await self.traffic()
        await self.sql("CREATE TABLE other AS SELECT n FROM generate_series(1, 100) n", "SELECT 1")
        await self.sql(drop, "SELECT 1")
        run = await self.pitr({"before_drop": TABLE}, then="copy-back")
        report = await self.ends(run, "done", "copied back")
        assert report.restore is not None
        assert report.restore.failed() == []
        assert (await self.sql("SELECT count(*) AS n FROM other"))["n"] == 100
        await self.safe()
        return run

    # Servers and storage

    async def mark(self, n: int, member: str = HOME) -> Mark:
        """Commit a row that has no other's number."""
        if not (await self.sql(f"SELECT to_regclass('{MARKS}') IS NOT NULL AS there", member=member))["there"]:
            # Once: an ALTER locks the table, and a target may lie before its end.
            await self.sql("CREATE TABLE marks (n int)", "ALTER TABLE marks OWNER TO app", "SELECT 1", member=member)
        row = await self.sql(f"INSERT INTO marks VALUES ({n}) RETURNING txid_current() AS xid", member=member)
        after = await self.sql("SELECT clock_timestamp() AS at", member=member)
        return Mark(n=n, xid=row["xid"], after=after["at"])

    async def older_than(self, seconds: float) -> None:
        """What was done until now lies before what a verification recovers to."""
        since = (await self.sql("SELECT clock_timestamp() AS at"))["at"]

        async def passed() -> bool:
            now = (await self.sql("SELECT clock_timestamp() AS at"))["at"]
            return bool((now - since).total_seconds() > seconds)

        await self.until(f"{seconds:g} s have passed", passed)

    @contextlib.asynccontextmanager
    async def through_bad_store(self) -> AsyncIterator[BadStore]:
        """The restore host, and it alone, reaches the store through one that may have bad luck."""
        node, folder = self.lab.node(STORAGE), self.lab.paths.node(RESTORES)
        async with bad_store(folder, node.host, node.port, self.lab.paths.authority) as store:
            await self.configure(
                {
                    "repo1-storage-host": store.host,
                    "repo1-storage-port": str(store.port),
                    "repo1-storage-ca-file": str(store.authority),
                }
            )
            yield store

    @contextlib.asynccontextmanager
    async def restored_is_locked(self, wanted: bool = True) -> AsyncIterator[Locked]:
        """What is copied back waits for its last row, in its transaction."""
        conn = await session(self.lab, HOME, limit=5.0)
        assert conn is not None
        try:
            await conn.execute("BEGIN")
            if wanted:
                await conn.execute("LOCK TABLE lifeboat.restored IN EXCLUSIVE MODE")
            yield Locked(self, conn)
        finally:
            conn.terminate()

    async def configure(self, settings: Mapping[str, str]) -> None:
        """A pgBackRest file of the test's own for the restore host, with these settings."""
        lines = pgbackrest_conf(self.lab, RESTORES).splitlines()
        changed = [f"{name}={settings.get(name, value)}" for name, _, value in (line.partition("=") for line in lines)]
        text = "\n".join(new if "=" in line else line for line, new in zip(lines, changed, strict=True))
        path = self.lab.paths.node(RESTORES) / "test.conf"
        write_private(path, text + "\n", server=True)
        await self.backup_with(lambda backup: backup["host"].update(config=str(path)))

    async def backup_with(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Edit the service's `backup` in the topology."""
        await self.service_with(lambda service: change(service["backup"]))

    async def service_with(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Edit the service in the topology."""

        def edit(declared: dict[str, Any]) -> None:
            change(next(each for each in declared["services"] if each["name"] == self.lab.service))

        await self.edit(edit)

    async def sql(self, *statements: str, member: str = HOME) -> Any:
        """The first row of the last statement, as superuser."""
        return await looks.ask(self.lab, member, *statements)

    async def archived(self, member: str = HOME) -> Archived:
        """All that the member has written is in the archive."""
        order = ArchiveOrder(service=self.service(), leader=member)
        found: Archived = await ActivityEnvironment().run(backups.archive_what_is_written, order)
        return found

    def stored(self, name: str) -> list[Path]:
        """The files of the store that are called so, of what is in the bucket now."""
        return sorted((self.lab.paths.node(STORAGE) / "stored" / "data").rglob(f"{name}*"))

    def acknowledged(self) -> list[Entry]:
        """Every write that a client was told is kept, in the order of its sending."""
        found = [each for each in ledger.read(self.lab.ledger) if each.outcome == "acknowledged"]
        return sorted(found, key=lambda each: each.sent or 0.0)


async def as_new(lab: Lab, request: pytest.FixtureRequest) -> RestoreScene:
    """A lab with backups as it was at first."""
    lab = await as_marked(lab, request)
    return RestoreScene(lab, await labs.connect(lab))


class ByHand:
    """A copy that is worked on by the activities themselves, each of them twice."""

    def __init__(self, scene: RestoreScene) -> None:
        self.scene = scene
        self.given: dict[str, Any] = {
            "service": scene.service(),
            "run": f"hand-{uuid.uuid4().hex[:6]}@1",
            "copy_name": uuid.uuid4().hex[:12],
        }
        self.rounds = 0
        self.repository: Repository
        self.backup: Backup

    @property
    def order(self) -> HostOrder:
        return HostOrder(**self.given)

    async def look(self) -> Repository:
        leader = await self.scene.archived()
        order = LookOrder(**self.given, timeline=leader.timeline, segment_bytes=leader.segment_bytes)
        await self.twice(backups.open_archive, self.order)
        self.repository = await self.twice(backups.read_repository, order)
        return self.repository

    async def restore(self, backup: Backup | None = None) -> None:
        self.backup, self.rounds = backup or self.repository.backups[-1], self.rounds + 1
        order = RestoreOrder(**self.given, backup=self.backup, round=self.rounds)
        await self.twice(restoring.restore_backup, order)

    async def scan(self, what: str) -> Found:
        stretches, missing = policy.legs(self.repository, self.backup, since=self.backup.lsn_stop)
        assert missing == ""
        size = self.repository.segment_bytes
        found: Found = await self.twice(
            backups.read_wal, ScanOrder(**self.given, stretches=stretches, what=what, segment_bytes=size)
        )
        return found

    async def recover(self, moment: Moment) -> CopyFacts:
        order = RecoverOrder(**self.given, backup=self.backup, moment=moment)
        found: CopyFacts = await self.twice(restoring.recover_copy, order)
        return found

    async def recover_in_time(self, moment: Moment, limit: float = 30.0) -> None:
        """As a run does it: what can't be read is tried again."""

        async def recovered() -> bool:
            with contextlib.suppress(BackupsUnreadable):
                await self.recover(moment)
                return True
            return False

        await self.scene.until("recovery goes on where it was", recovered, limit)

    def log(self) -> str:
        """What the copy's server has said since it was started last."""
        return (Path(folder_of(self.order)) / "server.log").read_text(encoding="utf-8")

    async def ids(self) -> set[str]:
        """Every row's id in the copy."""
        return set((await ask(self.order, "query", "counting", "SELECT id FROM counting_results")).get("row", []))

    async def rows(self, sql: str) -> list[str]:
        return (await ask(self.order, "query", "counting", sql)).get("row", [])

    async def remove(self) -> None:
        await self.twice(restoring.remove_copy, self.order)

    async def twice(self, activity: Any, order: Any) -> Any:
        """Run it twice: the second finds it done, and says the same."""
        await ActivityEnvironment().run(activity, order)
        return await ActivityEnvironment().run(activity, order)


async def archived_marks(scene: RestoreScene, *numbers: int) -> list[tuple[Mark, str]]:
    """Rows, each with the WAL file that is the last to hold it, all of them archived."""
    found = []
    for n in numbers:
        mark = await scene.mark(n)
        found.append((mark, (await scene.archived()).file))
    return found


async def dropped_marks(scene: RestoreScene) -> tuple[dict[str, str], str]:
    """Five rows in a table that is dropped then; the moment before that, and a WAL file on the way there, which is not
    among those at the end that are read for the newest commit.
    """
    (_, file), *_, (last, _), _ = await archived_marks(scene, 1, 2, 3, 4, 5, 6)
    await scene.sql("DROP TABLE marks", "SELECT 1")
    await scene.archived()
    return {"time": last.after.isoformat()}, file


def lose(scene: RestoreScene, file: str) -> None:
    """The store has this WAL file no more."""
    there = scene.stored(file)
    assert there, f"{file} is not in the store"
    for each in there:
        each.unlink()


@contextlib.asynccontextmanager
async def by_hand(scene: RestoreScene) -> AsyncIterator[ByHand]:
    """A copy of the newest backup, removed afterwards."""
    hand = ByHand(scene)
    await hand.look()
    try:
        await hand.restore()
        yield hand
    finally:
        await hand.remove()
