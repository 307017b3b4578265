"""`schedules apply|list|remove`: what the topology wants done again and again, as Temporal's own schedules."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from cli.choices import Json, OneOrAll
from cli.connect import Address, Namespace, Place, at, where
from cli.engine import PROCEDURES, REQUESTS, SHORT
from cli.output import err, out, print_json
from cli.problems import Exit, Problem
from cli.words import moment
from schemas.attributes import TASK_QUEUE, TASK_TIMEOUT, schedule_id
from schemas.requests import RunRequest
from schemas.topology import DatabaseService, Topology

app = typer.Typer(help="Backups and their verification, by the clock.", no_args_is_help=True)

TopologyFile = Annotated[
    Path | None, typer.Option("--topology", metavar="FILE", help="What it declares; the current lab's otherwise.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]

CATCHUP = timedelta(hours=1)
"""Of an outage of Temporal, what was due in its last hour is made up for; by default a year's [temporal.md, 8]."""
JITTER_S = 60.0
"""Of several services at the same minute, each begins at a moment of its own."""
BY_TOPOLOGY = ", by the topology"

What = Literal["create", "update", "keep", "delete"]
DONE: dict[What, str] = {"create": "created", "update": "updated", "keep": "unchanged", "delete": "removed"}
WOULD: dict[What, str] = {
    "create": "would be created",
    "update": "would be updated",
    "keep": "unchanged",
    "delete": "would be removed",
}


@dataclass(frozen=True)
class Planned:
    """One schedule that the topology declares. `every`: seconds, or cron's five fields."""

    procedure: str
    service: str
    every: float | str

    @property
    def id(self) -> str:
        return schedule_id(self.procedure, self.service)

    @property
    def text(self) -> str:
        return f"{self.every} UTC" if isinstance(self.every, str) else f"every {self.every:g} s"

    @property
    def request(self) -> RunRequest:
        return REQUESTS[self.procedure](service=self.service, reason=f"scheduled: {self.text}")

    @property
    def note(self) -> str:
        """By which it is seen that a schedule is as it should be: Temporal keeps cron's fields in a form of its own."""
        told = f"{self.procedure} {self.text} {self.request.model_dump_json()} {CATCHUP} {JITTER_S}"
        return f"{self.text}{BY_TOPOLOGY} [{hashlib.sha256(told.encode()).hexdigest()[:8]}]"

    def spec(self) -> ScheduleSpec:
        """An interval begins at a moment of this schedule's own, so that no two begin together at midnight."""
        if isinstance(self.every, str):
            return ScheduleSpec(cron_expressions=[self.every], jitter=timedelta(seconds=JITTER_S))
        offset = timedelta(seconds=zlib.crc32(self.id.encode()) % int(self.every))
        return ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=self.every), offset=offset)])

    def schedule(self, *, paused: bool = False) -> Schedule:
        """Its runs are called `backup-take/counting-db/scheduled-2026-11-29T03:00:00Z`."""
        action = ScheduleActionStartWorkflow(
            PROCEDURES[self.procedure],
            self.request,
            id=f"{self.procedure}/{self.service}/scheduled",
            task_queue=TASK_QUEUE,
            task_timeout=TASK_TIMEOUT,
        )
        return Schedule(
            action=action,
            spec=self.spec(),
            policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCHUP),
            state=ScheduleState(note=self.note, paused=paused),
        )


@dataclass(frozen=True)
class Change:
    what: What
    id: str
    text: str
    planned: Planned | None = None


def planned_by(topology: Topology) -> list[Planned]:
    """What the topology declares, in its order."""
    found = []
    for service in topology.services:
        backup = service.backup if isinstance(service, DatabaseService) else None
        if backup is None:
            continue
        for procedure, every in (("backup-take", backup.take_every), ("backup-verify", backup.verify_every)):
            if every is not None:
                found.append(Planned(procedure, service.name, every))
    return found


def changes(wanted: Sequence[Planned], there: Mapping[str, str]) -> list[Change]:
    """What makes the schedules that are there (id → note) those that are wanted."""
    found = [
        Change(
            "create" if each.id not in there else "keep" if there[each.id] == each.note else "update",
            each.id,
            each.text,
            each,
        )
        for each in wanted
    ]
    known = {each.id for each in wanted}
    return found + [
        Change("delete", name, note.partition(BY_TOPOLOGY)[0])
        for name, note in sorted(there.items())
        if name not in known
    ]


@app.command()
def apply(
    topology: TopologyFile = None,
    dry_run: DryRun = False,
    json: Json = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Make Temporal's schedules those that the topology declares: create, update, and remove. Again does nothing."""
    place = where(address, namespace)
    wanted = planned_by(_topology(place, topology))

    async def work(client: Client) -> list[Change]:
        # Listed late: what was made a moment ago may be missing there.
        there = await _listed(client) | await _described(client, [each.id for each in wanted])
        found = changes(wanted, there)
        for change in [] if dry_run else found:
            await _carry_out(client, change)
        return found

    _answer(at(place, work), DONE if not dry_run else WOULD, json)


@app.command("list")
def list_(json: Json = False, address: Address = None, namespace: Namespace = None) -> None:
    """Each schedule: how often, when next, and what it started last."""
    rows = at(where(address, namespace), _rows)
    if json:
        print_json({"schedules": rows})
    elif not rows:
        err().print("there are no schedules; `lifeboat schedules apply` makes those that the topology declares")
    else:
        table = Table("schedule", "how often", "next", "last", box=None, pad_edge=False, header_style="dim")
        for row in rows:
            at_next = moment(datetime.fromisoformat(str(row["next"]))) if row["next"] else "-"
            often = f"{'paused: ' if row['paused'] else ''}{row['how_often']}"
            table.add_row(*(Text(str(each)) for each in (row["schedule"], often, at_next, row["last"] or "-")))
        out().print(table)


@app.command()
def remove(
    service: OneOrAll = None,
    dry_run: DryRun = False,
    json: Json = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Remove the schedules of a service, or all that Lifeboat has made. Runs that they started go on."""

    async def work(client: Client) -> list[Change]:
        there = await _listed(client)
        mine = {name: note for name, note in there.items() if service is None or name.endswith(f"/{service}")}
        found = changes([], mine)
        for change in [] if dry_run else found:
            await _carry_out(client, change)
        return found

    _answer(at(where(address, namespace), work), DONE if not dry_run else WOULD, json)


def _topology(place: Place, topology: Path | None) -> Topology:
    from activities.topology import load_topology

    path = topology or place.topology
    if path is None:
        raise Problem("name the topology that declares them with --topology FILE", Exit.USAGE)
    return load_topology(path)


async def _listed(client: Client) -> dict[str, str]:
    """Those of Lifeboat's own that are there, with their notes; anybody else's are left alone."""
    ours = tuple(schedule_id(procedure, "") for procedure in PROCEDURES)
    found = {}
    async for each in await client.list_schedules(rpc_timeout=SHORT):
        if each.id.startswith(ours):
            found[each.id] = (each.schedule.state.note if each.schedule is not None else None) or ""
    return found


async def _described(client: Client, names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            described = await client.get_schedule_handle(name).describe(rpc_timeout=SHORT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
        else:
            found[name] = described.schedule.state.note or ""
    return found


async def _carry_out(client: Client, change: Change) -> None:
    handle, planned = client.get_schedule_handle(change.id), change.planned
    if change.what == "create" and planned is not None:
        await client.create_schedule(change.id, planned.schedule(), rpc_timeout=SHORT)
    elif change.what == "update" and planned is not None:

        def updated(given: ScheduleUpdateInput) -> ScheduleUpdate:
            # Whoever paused it meant it.
            return ScheduleUpdate(planned.schedule(paused=given.description.schedule.state.paused))

        await handle.update(updated, rpc_timeout=SHORT)
    elif change.what == "delete":
        try:
            await handle.delete(rpc_timeout=SHORT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise


async def _rows(client: Client) -> list[dict[str, str | bool | None]]:
    rows: list[dict[str, str | bool | None]] = []
    for name in sorted(await _listed(client)):
        try:
            found = await client.get_schedule_handle(name).describe(rpc_timeout=SHORT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                continue
            raise
        state, times = found.schedule.state, found.info.next_action_times
        started = [
            each.action.workflow_id
            for each in found.info.recent_actions
            if isinstance(each.action, ScheduleActionExecutionStartWorkflow)
        ]
        rows.append(
            {
                "schedule": name,
                "how_often": (state.note or "").partition(BY_TOPOLOGY)[0],
                "paused": state.paused,
                "next": times[0].isoformat() if times and not state.paused else None,
                "last": started[-1] if started else None,
            }
        )
    return rows


def _answer(found: list[Change], words: Mapping[What, str], json: bool) -> None:
    if json:
        told = [{"schedule": each.id, "what": each.what, "how_often": each.text} for each in found]
        print_json({"schedules": told, "dry_run": words is WOULD})
    elif not found:
        err().print("no schedules are declared, and none are there")
    else:
        for each in found:
            out().print(f"{each.id} {words[each.what]}: {each.text}", markup=False, soft_wrap=True)
