"""`topology check`: whether a file can be used, and what it declares."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.choices import Json
from cli.output import err, out, print_json
from cli.problems import Exit
from schemas.cache import CacheService
from schemas.failures import TopologyInvalid
from schemas.queue import QueueService
from schemas.topology import AnyService, DatabaseService, Topology

app = typer.Typer(help="The declared estate.", no_args_is_help=True)


@app.callback()
def topology() -> None:
    """The declared estate."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="A topology.")] = Path("topology.yaml"),
    json: Json = False,
) -> None:
    """Say what FILE declares, or every place where it is wrong and what would be right (exit 1)."""
    from activities.topology import load_topology

    try:
        found = load_topology(file)
    except TopologyInvalid as error:
        problems = (error.detail or str(error)).splitlines()
        if json:
            print_json({"file": str(file), "valid": False, "problems": problems})
        else:
            err().print("\n".join(problems), markup=False, soft_wrap=True)
        raise typer.Exit(Exit.FAILED) from error
    if json:
        services = [each.name for each in found.services]
        print_json({"file": str(file), "valid": True, "problems": [], "services": services})
    else:
        out().print("\n".join(summary(file, found)), markup=False, soft_wrap=True)


class Drawing(StrEnum):
    tree = "tree"
    mermaid = "mermaid"


@app.command()
def graph(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="A topology.")] = Path("topology.yaml"),
    drawing: Annotated[
        Drawing, typer.Option("--as", help="A tree for the terminal, or a Mermaid flowchart.")
    ] = Drawing.tree,
) -> None:
    """Draw what FILE declares: regions, members, who acknowledges, routes."""
    from activities.topology import load_topology
    from cli import graph as graphs

    found = load_topology(file)
    if drawing is Drawing.tree:
        out().print(graphs.tree(found))
    else:
        out().print(graphs.mermaid(found), end="", markup=False, soft_wrap=True)


def summary(file: Path, found: Topology) -> list[str]:
    regions = ", ".join(f"{each.name} ({each.role})" for each in found.regions)
    return [f"{file} can be used", f"  regions: {regions}", *(f"  {_service(each)}" for each in found.services)]


def _reads(service: DatabaseService) -> str:
    if service.reads is None:
        return ""
    return (
        f" and {len(service.reads.routes)} to read (lag < {service.reads.max_lag_s:g} s, else {service.reads.fallback})"
    )


def _service(service: AnyService) -> str:
    deadline = f"RTO {service.rto_s:.0f} s, RPO {service.rpo_s:.0f} s"
    if isinstance(service, CacheService):
        return (
            f"{service.name}: {len(service.members)} Redis servers and {len(service.sentinels)} Sentinels,"
            f" {len(service.routes)} routes, {deadline}"
        )
    if isinstance(service, QueueService):
        clusters = " and ".join(f"{len(service.cluster(region))} in {region}" for region in service.clusters())
        return f"{service.name}: RabbitMQ, {clusters}, {len(service.routes)} routes, {deadline}"
    policy = service.synchronous
    sync = (
        f"ANY {policy.acknowledgements} of {len(policy.voters)} voters, {policy.policy}"
        if policy.voters
        else "asynchronous"
    )
    return (
        f"{service.name}: {len(service.members)} members, {sync}, {len(service.routes)} routes{_reads(service)},"
        f" {deadline}"
    )
