"""Backups of real servers: each kind, from whoever leads, through deaths; and what is wrong with them is seen."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.client import ScheduleActionExecutionStartWorkflow as Started
from temporalio.testing import ActivityEnvironment

from activities import backup_health, taking
from activities.topology import load_topology
from cli.schedules import Planned
from lab import backup, storage
from lab import lab as life
from lab.errors import LabError
from lab.layout import HOME, RESTORES, STORAGE
from lab.model import Lab
from lab.waiting import until
from schemas.attributes import TASK_QUEUE
from schemas.failures import BackupFailed
from schemas.ready import Finding, ReadyReport, ReadyRequest
from schemas.reports import Report
from schemas.takes import BackupView, ConfirmOrder, NodeBackupOrder, TakeOrder
from schemas.topology import DatabaseService
from tests.faults.scene import record
from tests.lab.conftest import lab_of
from tests.lab.looks import ask

pytestmark = [pytest.mark.lab, pytest.mark.campaign]


class Desk(NamedTuple):
    """A lab with its workers, a client, and the activities as a worker would carry them out."""

    lab: Lab
    client: Client
    service: DatabaseService

    async def twice(self, activity: Callable[[Any], Awaitable[Any]], order: Any) -> tuple[Any, Any]:
        first = await ActivityEnvironment().run(activity, order)
        return first, await ActivityEnvironment().run(activity, order)

    def order(self, run: str, **more: Any) -> dict[str, Any]:
        zone = load_topology(self.lab.topology).zone
        return {"service": self.service, "zone": zone, "member": HOME, "run": run, **more}

    async def start(self, **form: Any) -> Any:
        request = {"service": self.lab.service, "reason": "a test", **form}
        run = f"backup-take-{uuid.uuid4().hex[:6]}"
        return await self.client.start_workflow(
            "BackupTake", request, id=run, task_queue=TASK_QUEUE, result_type=Report
        )

    async def take(self, branch: str = "", **form: Any) -> Report:
        """`branch`: under which its history is kept for the replay tests, where they are recorded."""
        run = await self.start(**form)
        async with asyncio.timeout(60):
            report: Report = await run.result()
        if branch:
            await record(self.lab, run, branch)
        return report

    async def stanza(self) -> dict[str, Any]:
        """As the home member's node sees it."""
        (stanza,) = json.loads(await backup.run_on(self.lab, HOME, "info", "--output=json"))
        found: dict[str, Any] = stanza
        return found

    async def labels(self) -> list[str]:
        return [each["label"] for each in (await self.stanza())["backup"]]

    async def findings(self) -> list[Finding]:
        report: ReadyReport = await self.client.execute_workflow(
            "DatabaseReady",
            ReadyRequest(service=self.lab.service),
            id=f"ready-{uuid.uuid4().hex[:6]}",
            task_queue=TASK_QUEUE,
            result_type=ReadyReport,
        )
        return report.services[0].findings

    async def until_found(self, check: str, *said: str, severity: str = "error") -> Finding:
        """The machine may be shared: what else is found then is none of this test's."""

        async def found() -> Finding | None:
            return next((each for each in await self.findings() if each.check == check), None)

        try:
            finding: Finding = await until(f"{check} is found", found, 60)
        except LabError:
            told = "\n".join(each.text() for each in await self.findings())
            raise AssertionError(f"{check} is not found, but:\n{told}") from None
        assert finding.severity == severity, finding
        assert all(each in finding.text() for each in said), finding
        return finding

    async def until_under_way(self) -> None:
        """pgBackRest's own lock says so."""

        async def held() -> bool:
            return bool((await self.stanza())["status"]["lock"]["backup"]["held"])

        await until("a backup is under way", held, 20)

    def archive(self) -> Path:
        """The archive's files of its first timeline, as the store keeps them."""
        bucket = self.lab.paths.node(STORAGE) / "stored" / "data" / storage.BUCKET
        return bucket / "pgbackrest" / "archive" / backup.STANZA / "15-1" / "0000000100000000"


@pytest.fixture(scope="module")
def taking_lab() -> Iterator[Lab]:
    # No failover of its own, however busy the machine is.
    yield from lab_of("backup", watch=False)


@pytest.fixture
async def desk(taking_lab: Lab) -> Desk:
    service = load_topology(taking_lab.topology).service(taking_lab.service)
    assert isinstance(service, DatabaseService)
    return Desk(taking_lab, await life.connect(taking_lab), service)


async def test_a_run_takes_what_is_due_and_tells_what_it_costs(desk: Desk) -> None:
    (first,) = await desk.labels()
    await ask(desk.lab, HOME, "CREATE TABLE more AS SELECT generate_series(1, 1000)", "SELECT pg_switch_wal()")
    report = await desk.take("backup-taken")
    assert report.outcome == "done", report
    found = report.backup
    assert found is not None
    assert found.backup is not None
    assert (found.backup.kind, found.member, found.previous) == ("incr", HOME, first)
    assert await desk.labels() == [first, found.backup.label] == found.left
    assert all(each.ok for each in found.proofs)
    assert len(found.proofs) == 4
    # It cost less than all of it, and the table's WAL with it.
    assert found.backup.kept_bytes < found.backup.delta_bytes < found.backup.bytes
    assert found.wal_files >= 2
    assert 0 < found.wal_kept_bytes < found.wal_bytes == found.wal_files * 16 * 1024 * 1024
    assert report.restore is None
    assert [each.outcome for each in report.steps] == ["done"] * 6


@pytest.mark.parametrize("kind", ["diff", "full"])
async def test_each_activity_twice_takes_one(desk: Desk, kind: str) -> None:
    before = await desk.labels()
    order = TakeOrder.model_validate(desk.order(f"by-hand-{kind}", kind=kind))
    first, second = await desk.twice(taking.take_backup, order)
    assert (first.label, await desk.labels()) == (second.label, [*before, first.label])
    inventory, _ = await desk.twice(taking.look_at_inventory, NodeBackupOrder.model_validate(desk.order("x")))
    assert inventory.backups[-1].label == first.label
    assert not inventory.locked
    more = {"label": first.label, "previous": inventory.backups[-2], "segment_bytes": inventory.segment_bytes}
    confirmed, again = await desk.twice(taking.confirm_backup, ConfirmOrder.model_validate(desk.order("x", **more)))
    assert confirmed == again
    assert (confirmed.backup.label, confirmed.backup.kind) == (first.label, kind)
    assert confirmed.stretches[0].first == confirmed.backup.wal_start
    removal = NodeBackupOrder.model_validate(desk.order(f"by-hand-{kind}"))
    expired, again = await desk.twice(taking.expire_backups, removal)
    assert expired == again
    assert expired.left[-1] == first.label
    # There is nothing to end, and what has ended stays.
    assert await desk.twice(taking.stop_backup, removal) == ("none was under way",) * 2
    assert (await desk.labels())[-1] == first.label


async def test_anothers_backup_is_waited_for_and_does_as_well(desk: Desk) -> None:
    argv = [str(desk.lab.paths.control), "exec", HOME, *backup.command(desk.lab, HOME, "backup", "--type=full")]
    other = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL)
    await desk.until_under_way()
    report = await desk.take()
    assert await other.wait() == 0
    assert report.outcome == "not needed", report
    assert (await desk.labels())[-1] in report.summary


async def test_what_a_killed_full_left_is_in_nobodys_way(desk: Desk) -> None:
    """This store lists its folder still: by its name an incr of the full before it would come too early."""
    before = await desk.labels()
    order = TakeOrder.model_validate(desk.order("killed", kind="full"))
    folder = desk.archive().parents[3] / "backup" / backup.STANZA
    known = set(folder.glob("*F"))
    killed = asyncio.create_task(ActivityEnvironment().run(taking.take_backup, order))

    async def begun() -> bool:
        return bool(set(folder.glob("*F")) - known)

    await until("it has a folder", begun, 20, every=0.01)
    assert "was ended" in await ActivityEnvironment().run(taking.stop_backup, order)
    with pytest.raises(BackupFailed):
        await killed
    assert await desk.labels() == before
    asked = await desk.take(kind="incr")
    assert asked.outcome == "needs a person", asked
    assert "any but a full one" in asked.tasks[0].replace("\n", " ")
    report = await desk.take()
    assert report.outcome == "done", report
    assert report.backup is not None
    assert report.backup.backup is not None
    assert report.backup.backup.kind == "full"
    assert "killed" in report.backup.reason


async def test_what_can_not_be_taken_is_refused(desk: Desk) -> None:
    with pytest.raises(WorkflowFailureError) as told:
        await desk.take(kind="half")
    assert "full" in str(told.value.cause)
    missing = {"repository": desk.service.backup.repository.model_copy(update={"stanza": "nobodys"})}  # type: ignore[union-attr]
    backup_of = desk.service.backup.model_copy(update=missing)  # type: ignore[union-attr]
    service = desk.service.model_copy(update={"backup": backup_of})
    order = NodeBackupOrder.model_validate(desk.order("x") | {"service": service})
    assert "missing stanza" in (await ActivityEnvironment().run(taking.look_at_inventory, order)).why


async def test_a_schedule_starts_a_run_by_its_name(desk: Desk) -> None:
    planned = Planned("backup-take", desk.lab.service, "0 3 * * *")
    handle = await desk.client.create_schedule(planned.id, planned.schedule())
    try:
        before = await desk.labels()
        await handle.trigger()

        async def started() -> str | None:
            actions = [each.action for each in (await handle.describe()).info.recent_actions]
            return next((each.workflow_id for each in actions if isinstance(each, Started)), None)

        run = await until("the schedule has started a run", started, 10, every=0.1)
        assert run.startswith(f"backup-take/{desk.lab.service}/scheduled-")
        report = await desk.client.get_workflow_handle(run, result_type=Report).result()
        assert report.outcome == "done", report
        assert report.reason == "scheduled: 0 3 * * * UTC"
        assert len(await desk.labels()) == len(before) + 1
    finally:
        await handle.delete()


async def test_wal_that_is_missing_is_found(desk: Desk) -> None:
    """Of the store's own folder: what was removed there is removed, versions or not."""
    row = await ask(desk.lab, HOME, "CREATE TABLE gap AS SELECT 1", "SELECT pg_walfile_name(pg_switch_wal()) AS file")
    await ask(desk.lab, HOME, "CREATE TABLE later AS SELECT 1", "SELECT pg_switch_wal()")

    async def archived() -> bool:
        told = await ask(desk.lab, HOME, "SELECT last_archived_wal AS last FROM pg_stat_archiver")
        return bool(told["last"] > row["file"])

    await until("it is archived", archived, 30, every=0.1)
    (file,) = desk.archive().glob(f"{row['file']}-*")
    aside = desk.lab.paths.node(STORAGE) / file.name
    shutil.move(file, aside)
    try:
        await desk.until_found("wal-gap", row["file"], "nothing after it can be restored")
        # From a new backup on restores work again; what is before it is lost.
        assert (await desk.take(kind="full")).outcome == "done"
        await desk.until_found("wal-gap", row["file"], "no moment can be restored", severity="warning")
    finally:
        shutil.move(aside, file)
    assert not [each for each in await desk.findings() if each.check == "wal-gap"]


async def test_an_archiver_that_fails_and_a_repository_that_can_not_be_read_are_found(desk: Desk) -> None:
    row = await ask(desk.lab, HOME, "SELECT current_setting('archive_command') AS command")
    change = "ALTER SYSTEM SET archive_command = '{}'"
    await ask(desk.lab, HOME, change.format("false"), "SELECT pg_reload_conf()")
    await ask(desk.lab, HOME, "CREATE TABLE unarchived AS SELECT 1", "SELECT pg_switch_wal()")
    try:
        await desk.until_found("archiving", HOME, "fails")
    finally:
        command = row["command"].replace("'", "''")
        await ask(desk.lab, HOME, change.format(command), "SELECT pg_reload_conf()")
    file = desk.lab.paths.pgbackrest(RESTORES)
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("repo1-cipher-pass=", "repo1-cipher-pass=not-"), encoding="utf-8")
    try:
        view: BackupView = await ActivityEnvironment(client=desk.client).run(
            backup_health.look_at_backups, desk.service
        )
        assert view.error
        assert view.room_bytes
        await desk.until_found("backup-reachable", RESTORES)
    finally:
        file.write_text(text, encoding="utf-8")


async def test_a_backup_outlives_every_worker_and_is_taken_once(desk: Desk) -> None:
    before = await desk.labels()
    run = await desk.start(kind="full")
    await desk.until_under_way()
    for node in (await life.status(desk.lab)).nodes:
        if node.role == "worker" and node.pid is not None:
            # The supervisor has them back within seconds.
            os.kill(node.pid, signal.SIGKILL)
    report: Report = await asyncio.wait_for(run.result(), 60)
    assert report.outcome == "done", report
    assert report.backup is not None
    assert report.backup.backup is not None
    assert [each for each in await desk.labels() if each not in before] == [report.backup.backup.label]
    assert next(each for each in report.steps if each.title == "Take the backup").attempts == 2


async def test_a_failover_in_between_has_it_taken_from_the_new_leader(desk: Desk) -> None:
    """The last one: the lab is another's from here."""
    await life.start_watch(desk.lab)
    run = await desk.start(kind="full")
    await desk.until_under_way()
    await life.fault(desk.lab, "kill", HOME)
    report: Report = await asyncio.wait_for(run.result(), 75)
    assert report.outcome == "done", report
    found = report.backup
    assert found is not None
    assert found.backup is not None
    assert found.member != HOME
    assert found.backup.timeline == 2
