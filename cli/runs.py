"""`run`, `runs`, `show`, `report`: start a run, and look at it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.table import Table
from temporalio.client import Client

from cli.choices import Html, Json, Last, Run, Service, members, procedures, services, whoami
from cli.connect import Address, Namespace, at, where
from cli.engine import EVERY, OPEN, PROCEDURES, REPORTING, REQUESTS, Engine, RunLine
from cli.follow import Ending, follow
from cli.output import err, out, print_json, write_page
from cli.picture import picture
from cli.problems import Exit, Problem
from cli.render import report_text
from cli.targets import (
    Backup,
    Exclusive,
    Kind,
    Tables,
    Then,
    Timeline,
    To,
    Until,
    option_of,
    restore_options,
    wrong,
)
from cli.words import moment, outcome_text
from schemas.reports import EXIT_CODES, Report
from schemas.requests import RunRequest

if TYPE_CHECKING:
    from lab.model import Lab

AT_ONCE_S = 1.0
"""How long `run` looks whether its start was refused, before it leaves the run to itself."""


class ApprovalMode(StrEnum):
    policy = "policy"
    always = "always"


def run(
    procedure: Annotated[
        str, typer.Argument(metavar="PROCEDURE", help=", ".join(PROCEDURES), autocompletion=procedures)
    ],
    service: Service,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; kept on record.")] = None,
    approval: Annotated[
        ApprovalMode, typer.Option("--approval", help="`always` asks a person whatever the policy says.")
    ] = ApprovalMode.policy,
    candidate: Annotated[
        str | None,
        typer.Option("--candidate", metavar="MEMBER", help="Promote this one or none.", autocompletion=members),
    ] = None,
    member: Annotated[
        str | None,
        typer.Option("--member", metavar="MEMBER", help="Of a rejoin: who is to come back.", autocompletion=members),
    ] = None,
    rebuild: Annotated[
        str | None, typer.Option("--rebuild", metavar="WHY", help="Of a rejoin: copy it anew in any case.")
    ] = None,
    release: Annotated[
        str | None,
        typer.Option("--release", metavar="WHY", help="Of a rejoin: nobody needs what a held folder keeps; erase it."),
    ] = None,
    to: To = None,
    until: Until = None,
    exclusive: Exclusive = False,
    timeline: Timeline = None,
    then: Then = None,
    tables: Tables = None,
    backup: Backup = None,
    kind: Kind = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end.")] = False,
    ask: Annotated[
        bool, typer.Option("--ask/--no-ask", help="With --wait: stay while it waits for a person, or end with 4.")
    ] = True,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="With --wait: end with 4 after this long.")
    ] = None,
    json: Json = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Start a runbook.

    With --wait the exit code tells how it ended: 0 done, 1 failed, 3 compensated, 4 waiting for a person.
    """
    if procedure not in PROCEDURES:
        raise Problem(f"there is no procedure {procedure}; one of: {', '.join(PROCEDURES)}", Exit.USAGE)
    options = restore_options(to, until, exclusive, timeline, then, tables, backup)
    given = {"candidate": candidate, "member": member, "rebuild": rebuild, "release": release, "kind": kind} | options
    request = _request(procedure, service, reason or f"asked for by {whoami()}", approval, given)

    async def work(client: Client) -> tuple[str, Ending | None]:
        engine = Engine(client)
        started = await engine.start(procedure, request)
        begun.append(started)
        if not wait:
            return started, await _refused_at_once(engine, started)
        err().print(f"started {started}", markup=False)
        return started, await follow(engine, started, err(), ask=ask, limit_s=timeout)

    with telling_that_it_goes_on() as begun:
        started, ending = at(where(address, namespace), work)
    if ending is not None:
        _end(started, ending, json)
    if json:
        print_json({"run": started})
    else:
        out().print(f"started {started}\nlifeboat show --follow {started}", markup=False, soft_wrap=True)


@contextlib.contextmanager
def telling_that_it_goes_on() -> Iterator[list[str]]:
    """Whoever stops looking is told that the run does not stop, once its id is in the list."""
    begun: list[str] = []
    try:
        yield begun
    except KeyboardInterrupt:
        for run in begun:
            told = f"{run} goes on; `lifeboat show --follow {run}` looks again, `lifeboat abort {run}` ends it"
            err().print(told, markup=False, soft_wrap=True)
        raise


def plan(
    procedure: Annotated[
        str, typer.Argument(metavar="PROCEDURE", help=", ".join(PROCEDURES), autocompletion=procedures)
    ],
    service: Service,
    candidate: Annotated[
        str | None,
        typer.Option("--candidate", metavar="MEMBER", help="Promote this one or none.", autocompletion=members),
    ] = None,
    member: Annotated[
        str | None,
        typer.Option("--member", metavar="MEMBER", help="Of a rejoin: who is to come back.", autocompletion=members),
    ] = None,
    to: To = None,
    until: Until = None,
    exclusive: Exclusive = False,
    timeline: Timeline = None,
    then: Then = None,
    tables: Tables = None,
    backup: Backup = None,
    kind: Kind = None,
    html: Html = None,
    json: Json = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """What a run would do: reads for real, changes nothing. Exit 1 when something stands in its way."""
    if procedure not in PROCEDURES:
        raise Problem(f"there is no procedure {procedure}; one of: {', '.join(PROCEDURES)}", Exit.USAGE)
    options = restore_options(to, until, exclusive, timeline, then, tables, backup)
    given = {"candidate": candidate, "member": member, "kind": kind} | options
    request = _request(procedure, service, f"planned by {whoami()}", ApprovalMode.policy, given).model_copy(
        update={"dry_run": True}
    )

    async def work(client: Client) -> Report:
        engine = Engine(client)
        return await engine.report(await engine.start(f"{procedure}", request, prefix="plan/"))

    found = at(where(address, namespace), work)
    if html is not None:
        write_page(found, html)
    _print_report(found, json)
    if found.blockers or EXIT_CODES[found.outcome]:
        raise typer.Exit(Exit.FAILED)


def runs(
    service: Annotated[
        str | None, typer.Option("--service", help="Only of this service.", autocompletion=services)
    ] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only those that have not ended.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 20,
    json: Json = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """List runs, the newest first."""
    lines = at(
        where(address, namespace), lambda client: Engine(client).runs(limit, service, OPEN if only_open else EVERY)
    )
    if json:
        print_json({"runs": [dataclasses.asdict(line) for line in lines]})
    elif lines:
        out().print(_runs_table(lines))
    else:
        err().print("no runs")


def show(
    run: Run = None,
    last: Last = False,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends, as `run --wait`.")] = False,
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="With --follow, as `run --wait`.")] = True,
    timeout: Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="With --follow.")] = None,
    json: Json = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Where a run stands, or, once it has ended, its report."""
    place = where(address, namespace)

    async def live(client: Client) -> tuple[str, Ending]:
        engine = Engine(client)
        found = await engine.find(run, last)
        begun.append(found)
        return found, await follow(engine, found, err(), ask=ask, limit_s=timeout)

    async def once(client: Client) -> None:
        engine = Engine(client)
        found = await engine.find(run, last)
        if not await engine.is_open(found):
            _print_report(await engine.report(found), json)
            return
        state = await engine.state(found)
        if state is None:
            raise Problem(f"{found} runs, but no worker answers: start one with `lifeboat worker --region REGION`")
        if json:
            print_json(state)
        else:
            out().print(picture(state, datetime.now(UTC)))

    if following:
        with telling_that_it_goes_on() as begun:
            found, ending = at(place, live)
        _end(found, ending, json)
    at(place, once)


def report(
    run: Run = None,
    last: Last = False,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="For a run that is about to end.")
    ] = 10.0,
    html: Html = None,
    json: Json = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """The report of a run that has ended. Exit 4 when it has not."""

    async def work(client: Client) -> Report:
        engine = Engine(client)
        found = await engine.find(run, last, REPORTING)
        try:
            async with asyncio.timeout(wait):
                return await engine.report(found)
        except TimeoutError as error:
            raise Problem(
                f"{found} has not ended, so there is no report; `lifeboat show {found}` tells where it stands",
                Exit.WAITING,
            ) from error

    place = where(address, namespace)
    found = at(place, work)
    if html is not None:
        write_page(found if place.lab is None else _witnessed(found, place.lab), html)
        if not json:
            return
    _print_report(found, json)


def _witnessed(found: Report, lab: Lab) -> Report:
    """With what the lab's load saw of the outage. Imported here: most commands have no lab."""
    from lab.demo import witnessed

    return witnessed(found, lab)


def _request(
    procedure: str, service: str, reason: str, approval: ApprovalMode, given: Mapping[str, object]
) -> RunRequest:
    """The start form of a procedure; Problem says which option it lacks, or does not take."""
    form = REQUESTS[procedure]
    for name, value in given.items():
        if name not in form.model_fields and value is not None:
            raise Problem(f"{procedure} takes no {option_of([name])}", Exit.USAGE)
    for name, takes in form.model_fields.items():
        if takes.is_required() and name not in ("service", "reason") and given.get(name) is None:
            value_of = {"target": "KIND=VALUE"}.get(name, "MEMBER")
            raise Problem(f"{procedure} needs {option_of([name])} {value_of}", Exit.USAGE)
    more = {name: value for name, value in given.items() if value is not None}
    try:
        return form.model_validate({"service": service, "reason": reason, "approval": approval.value, **more})
    except ValidationError as error:
        raise Problem(wrong(error.errors()[0]), Exit.USAGE) from error


async def _refused_at_once(engine: Engine, run: str) -> Ending | None:
    """The end of a run that could not begin: an unknown service, a lock that another run holds."""
    try:
        async with asyncio.timeout(AT_ONCE_S):
            return Ending(await engine.report(run))
    except TimeoutError:
        return None


def _end(run: str, ending: Ending, json: bool) -> NoReturn:
    """Print what is known, and leave with the outcome's exit code."""
    if ending.report is not None:
        _print_report(ending.report, json)
    elif json:
        print_json({"run": run, "waiting": ending.waiting})
    else:
        err().print(f"{run} has not ended: {ending.waiting}", markup=False, soft_wrap=True)
    raise typer.Exit(ending.code)


def _print_report(report: Report, json: bool) -> None:
    if json:
        print_json(report)
    else:
        out().print(report_text(report))


def _runs_table(lines: list[RunLine]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("run", no_wrap=True, overflow="fold")
    for header in ("started", "outcome", "step", "waits for", "loss"):
        table.add_column(header)
    for line in lines:
        # A run without an outcome is open, or ended without a report (failed, terminated).
        outcome = outcome_text(line.outcome) if line.outcome else line.status
        step = line.step if line.ended is None else ""
        table.add_row(line.run, moment(line.started), outcome, step, line.waiting_for, line.verdict)
    return table
