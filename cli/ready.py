"""`ready`: whether a service's procedures would work, and what to mend before one is needed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError

from cli.choices import Json, OneOrAll
from cli.connect import Address, Namespace, at, where
from cli.engine import SHORT
from cli.output import out, print_json
from cli.problems import Exit, Problem, exit_of, innermost
from schemas.attributes import TASK_QUEUE, TASK_TIMEOUT
from schemas.ready import Finding, Readiness, ReadyReport, ReadyRequest

ANSWER_S = 15.0
"""What a look takes at most, with a region's worker frozen. Without any worker it would wait for ever."""
STYLES = {"error": "bold red", "warning": "yellow"}


def ready(
    service: OneOrAll = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as well.")] = False,
    json: Json = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Whether a failover, rejoin or switchover would work: what is wrong, and who must mend it. Changes nothing.

    Exit 0 when nothing breaks a procedure, 1 when something does; docs/ready.md explains each check.
    """
    try:
        request = ReadyRequest(service=service)
    except ValidationError as error:
        raise Problem(f"service: {error.errors()[0]['msg']} (given: {service})", Exit.USAGE) from error
    found = at(where(address, namespace), lambda client: _ask(client, request))
    if json:
        print_json(found)
    else:
        for each in found.services:
            _show(each)
    if any(each.errors or (strict and each.warnings) for each in found.services):
        raise typer.Exit(Exit.FAILED)


async def _ask(client: Client, request: ReadyRequest) -> ReadyReport:
    now = datetime.now(UTC)
    handle: WorkflowHandle[object, ReadyReport] = await client.start_workflow(
        "DatabaseReady",
        request,
        id=f"ready/{request.service or 'all'}/{now:%Y%m%dT%H%M%S.%f}",
        task_queue=TASK_QUEUE,
        task_timeout=TASK_TIMEOUT,
        result_type=ReadyReport,
        rpc_timeout=SHORT,
    )
    try:
        async with asyncio.timeout(ANSWER_S):
            return await handle.result()
    except WorkflowFailureError as error:
        raise Problem(innermost(error.cause), exit_of(error)) from error
    except TimeoutError:
        await _give_up(handle)
        return ReadyReport(at=now, services=[Readiness(service=request.service or "all", findings=[nobody()])])


async def _give_up(handle: WorkflowHandle[object, ReadyReport]) -> None:
    """It would go on, for nobody, once a worker is back."""
    try:
        await handle.terminate(reason="lifeboat ready: no worker answered in time", rpc_timeout=SHORT)
    except RPCError:
        return


def nobody() -> Finding:
    return Finding(
        check="worker",
        severity="error",
        where="every region",
        what=f"no worker answers within {ANSWER_S:.0f} s, so that nothing is seen, and nothing would be done",
        remedy="whoever runs Lifeboat must start one in each region (`lifeboat worker --region …`)",
    )


def _show(found: Readiness) -> None:
    looked = (
        f"{found.checks} checks of {_count(len(found.members), 'member')} and {_count(len(found.routes), 'route')},"
        f" seen from {', '.join(found.regions) or 'nowhere'}"
    )
    if not found.findings:
        out().print(Text.assemble((f"{found.service} is ready", "bold green"), f": {looked}"))
        return
    counts = " and ".join(
        _count(number, word) for number, word in ((found.errors, "error"), (found.warnings, "warning")) if number
    )
    verdict = ("is not ready", "bold red") if found.errors else ("is ready, with reserves", "bold yellow")
    out().print(Text.assemble(f"{found.service} ", verdict, f": {counts}; {looked}"))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 1, 0))
    for header in ("", "where", "what", "remedy"):
        table.add_column(header)
    for each in found.findings:
        table.add_row(
            Text(each.severity, style=STYLES[each.severity]),
            Text(each.where),
            Text(each.what).append(f"  [{each.check}]", style="dim"),
            Text(each.remedy),
        )
    out().print(table)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
