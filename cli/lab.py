"""`lifeboat lab`: a real estate on this machine, its faults, its traffic and its referee."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table

from cli.choices import Html, Json
from cli.output import err, out, print_json, write_page
from cli.problems import Exit, Problem
from lab import lab as life
from lab import load, pointer, world
from lab.errors import LabError
from lab.layout import EXTRAS, PROFILES, SHAPES, USUAL, profile_of
from lab.model import Lab
from lab.progress import Steps

app = typer.Typer(help="A real estate on this machine: start it, break it, audit it.", no_args_is_help=True)
loads = typer.Typer(help="Camera traffic along every route.", no_args_is_help=True)
faults = typer.Typer(help="Faults, on a node's whole process tree.", no_args_is_help=True)
app.add_typer(loads, name="load")
app.add_typer(faults, name="fault")

T = TypeVar("T")

Shape = Annotated[
    str | None,
    typer.Option(
        metavar="SHAPE",
        help=f"Which estate: {', '.join(SHAPES)}. {USUAL} where none is named.",
        autocompletion=lambda incomplete: [each for each in SHAPES if each.startswith(incomplete)],
    ),
]


@app.callback()
def lab_group() -> None:
    """A real estate on this machine: start it, break it, audit it."""
    world.leave_the_users()


def _nodes(incomplete: str) -> list[str]:
    try:
        found = pointer.current()
    except Exception:  # noqa: BLE001 - a completion that can't be had must not print into the prompt
        return []
    return [node.name for node in found.nodes if node.name.startswith(incomplete)] if found else []


Which = Annotated[
    Path | None,
    typer.Option("--lab", metavar="DIR", help="The lab's folder; LIFEBOAT_LAB or the current one otherwise."),
]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="As `lab status` lists it.", autocompletion=_nodes)]


def _do(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGTERM (`timeout` sends it) cancels, so that nothing is left running half made."""

    async def cancellable() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@app.command()
def up(
    profile: Annotated[
        str,
        typer.Option(
            metavar="|".join(PROFILES),
            help="Which part of the estate.",
            autocompletion=lambda incomplete: [each for each in PROFILES if each.startswith(incomplete)],
        ),
    ] = "database",
    shape: Shape = None,
    netns: Annotated[
        bool, typer.Option("--netns", help="A network namespace a node, for partitions; as root.")
    ] = False,
    watch: Annotated[bool, typer.Option(help="Start the watch, which fails over by itself.")] = True,
    workers: Annotated[bool, typer.Option(help="Start a worker in each region.")] = True,
    extras: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="|".join(EXTRAS),
            help="What runs beside the estate: jaeger takes the workers' traces, health answers for each service;"
            " plain keeps the backups in the plain layout.",
            autocompletion=lambda incomplete: [each for each in EXTRAS if each.startswith(incomplete)],
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Start the estate, and make it the current lab."""
    before = pointer.current()
    if before is not None and life.is_running(before):
        err().print(f"the lab in {before.folder} is kept; end it with `lifeboat lab down --lab {before.folder}`")
    with Steps() as steps:
        lab = _do(
            life.up(
                profile,
                shape=shape or USUAL,
                netns=netns,
                watch=watch,
                workers=workers,
                extras=extras or (),
                say=steps,
            )
        )
        steps("ready")
    if json:
        print_json(lab)
    else:
        out().print(f"lab          {lab.folder}\nTemporal UI  {lab.temporal.ui}", markup=False, soft_wrap=True)
        if lab.traces is not None:
            out().print(f"Jaeger       {lab.traces.ui}", markup=False, soft_wrap=True)


@app.command()
def down(
    which: Which = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder with its logs.")] = False,
) -> None:
    """End every process of the lab, and remove its folder."""
    lab = pointer.require(which)
    with Steps() as steps:
        _do(life.down(lab, keep=keep, say=steps))
        steps(f"the lab in {lab.folder} is gone" if not keep else f"its folder {lab.folder} is kept")


@app.command()
def reset(which: Which = None) -> None:
    """Lay the estate anew from the kept copy; load and runs are ended, and the ledger begins anew."""
    with Steps() as steps:
        _do(life.reset(pointer.require(which), say=steps))
        steps("ready")


@app.command()
def status(which: Which = None, json: Json = False) -> None:
    """Every node with the role that it is seen in."""
    found = _do(life.status(pointer.require(which)))
    if json:
        shown = {"name", "role", "pid", "address"}
        nodes = [
            node.model_dump(include=shown if node.metrics is None else shown | {"metrics"}) for node in found.nodes
        ]
        more: dict[str, Any] = {} if found.traces is None else {"traces": found.traces.model_dump()}
        if found.health:
            more["health"] = found.health
        print_json(
            {
                "temporal": found.temporal.model_dump(),
                "nodes": nodes,
                "routes": found.routes,
                "reads": found.reads,
                **more,
            }
        )
        return
    table = Table("node", "role", "pid", "address", "region", "metrics", box=None, pad_edge=False, header_style="dim")
    for node in found.nodes:
        row = (node.name, node.role, str(node.pid or "-"), node.address, node.region or "-", node.metrics or "")
        table.add_row(*row)
    out().print(table)
    out().print(f"Temporal {found.temporal.address}, UI {found.temporal.ui}", markup=False, soft_wrap=True)
    if found.traces is not None:
        told = f"Jaeger's UI and API {found.traces.ui}, spans by OTLP {found.traces.otlp}"
        out().print(told, markup=False, soft_wrap=True)
    for service, url in found.health.items():
        out().print(f"health of {service} {url}", markup=False, soft_wrap=True)


@loads.command("start")
def load_start(
    which: Which = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Writes a second along each route.")] = 25.0,
) -> None:
    """Write along every route, each acknowledged row into the ledger."""
    lab = pointer.require(which)
    pid = load.start(lab, rate)
    err().print(f"the load runs as process {pid}; its ledger is {lab.ledger}", markup=False, soft_wrap=True)


@loads.command("stop")
def load_stop(which: Which = None) -> None:
    """End the load; its ledger stays for the audit."""
    load.stop(pointer.require(which))


@app.command()
def audit(which: Which = None, json: Json = False) -> None:
    """What the referee finds, which trusts nothing that the product says. Exit 1 when a rule is broken."""
    from lab import referees

    found = _do(referees.audit(pointer.require(which)))
    if json:
        print_json(found)
    else:
        out().print(referees.text(found), markup=False, soft_wrap=True)
    if not found.clean:
        raise typer.Exit(Exit.FAILED)


@app.command()
def demo(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="database-failover, round-trip, pitr, corruption, cache, queue")
    ],
    which: Which = None,
    shape: Shape = None,
    loops: Annotated[int, typer.Option("--loops", min=1, help="Of round-trip and cache: how often.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab running.")] = False,
    html: Html = None,
    json: Json = False,
) -> None:
    """A fault under load, the run as it goes, and what the referee found. Exit 0 only if all of it is well."""
    from lab import demo as demos

    known = (*demos.DEMOS, *PART_DEMOS)
    if name not in known:
        raise Problem(f"there is no demo {name}; one of: {', '.join(known)}", Exit.USAGE)
    if name in PART_DEMOS:
        _demo_of_part(name, which, loops=loops, keep=keep, html=html, json=json)
        return
    there = pointer.require(which) if which else pointer.current()
    profile = demos.DEMOS[name]
    usable = there is not None and {*profile_of(profile).parts} <= {*there.parts}
    if (
        there is not None
        and not which
        and (not life.is_running(there) or shape not in (None, there.shape) or not usable)
    ):
        there = None
    if there is not None and not usable:
        raise Problem(f"the lab in {there.folder} has the profile {there.profile}; {name} takes {profile}", Exit.USAGE)
    if there is not None and shape not in (None, there.shape):
        raise Problem(f"the lab in {there.folder} has the shape {there.shape}, not {shape}", Exit.USAGE)

    async def show(steps: Steps) -> demos.Demonstration:
        lab = there or await life.up(profile, shape=shape or USUAL, say=steps)
        try:
            return await demos.demonstrate(name, lab, steps, loops=loops)
        finally:
            await _leave(lab, end=there is None and not keep)

    with Steps() as steps:
        found = _do(show(steps))
    if html is not None and found.runs:
        # Of several the one that tells of an outage.
        write_page(next((each for each in reversed(found.runs) if each.detected), found.runs[-1]), html)
    if json:
        print_json(found)
    else:
        out().print(demos.text(found), markup=False, soft_wrap=True)
    if not found.passed:
        raise typer.Exit(Exit.FAILED)


PART_DEMOS = ("cache", "queue")
"""Demonstrations of a part of the lab, by its name."""


def _demo_of_part(part: str, which: Path | None, *, loops: int, keep: bool, html: Path | None, json: bool) -> None:
    from lab import moves
    from lab.demo_cache import demonstrate_cache
    from lab.demo_queue import demonstrate_queue

    there = pointer.require(which) if which else pointer.current()
    if there is not None and not which and (not life.is_running(there) or part not in there.parts):
        there = None
    if there is not None and part not in there.parts:
        raise Problem(f"the lab in {there.folder} has no {part}; its profile is {there.profile}", Exit.USAGE)

    async def show(steps: Steps) -> moves.Moves:
        lab = there or await life.up(part, say=steps)
        try:
            return await (demonstrate_cache if part == "cache" else demonstrate_queue)(lab, steps, loops=loops)
        finally:
            await _leave(lab, end=there is None and not keep)

    with Steps() as steps:
        found = _do(show(steps))
    if html is not None:
        write_page(next((each for each in reversed(found.runs) if each.detected), found.runs[-1]), html)
    if json:
        print_json(found)
    else:
        out().print(moves.text(found), markup=False, soft_wrap=True)
    if not found.passed:
        raise typer.Exit(Exit.FAILED)


async def _leave(lab: Lab, *, end: bool) -> None:
    if end:
        await life.down(lab)
        return
    try:
        await asyncio.to_thread(load.stop, lab)
    except LabError as error:
        err().print(str(error), markup=False, soft_wrap=True)
    err().print(f"the lab in {lab.folder} runs on: {lab.temporal.ui}", markup=False, soft_wrap=True)


def _fault(which: Path | None, action: str, node: str, *, postmaster_only: bool = False, force: bool = False) -> None:
    lab = pointer.require(which)
    err().print(_do(life.fault(lab, action, node, postmaster_only=postmaster_only, force=force)), markup=False)


PostmasterOnly = Annotated[bool, typer.Option("--postmaster-only", help="Its main process alone: open sessions go on.")]


@faults.command()
def kill(node: NodeName, which: Which = None) -> None:
    """SIGKILL everything that runs on the node."""
    _fault(which, "kill", node)


@faults.command()
def freeze(node: NodeName, which: Which = None, postmaster_only: PostmasterOnly = False) -> None:
    """SIGSTOP everything on the node; its control doesn't answer either."""
    _fault(which, "freeze", node, postmaster_only=postmaster_only)


@faults.command()
def thaw(node: NodeName, which: Which = None) -> None:
    """Let what is frozen on the node go on."""
    _fault(which, "thaw", node)


@faults.command()
def stop(node: NodeName, which: Which = None) -> None:
    """An orderly stop."""
    _fault(which, "stop", node)


@faults.command()
def start(
    node: NodeName,
    which: Which = None,
    force: Annotated[bool, typer.Option("--force", help="Although its autostart is off.")] = False,
) -> None:
    """The node returns by itself, as a machine that boots."""
    _fault(which, "start", node, force=force)


@faults.command()
def partition(
    a: Annotated[str, typer.Argument(metavar="A", help="A node or a region.", autocompletion=_nodes)],
    b: Annotated[str, typer.Argument(metavar="B", help="A node or a region.", autocompletion=_nodes)],
    which: Which = None,
    one_way: Annotated[bool, typer.Option("--one-way", help="Only what A sends is lost.")] = False,
) -> None:
    """Cut A and B off from each other; needs a lab that was started with --netns."""
    err().print(_do(life.partition(pointer.require(which), a, b, one_way=one_way)), markup=False)


@app.command()
def heal(which: Which = None) -> None:
    """End every partition, and thaw what is frozen."""
    err().print(_do(life.heal(pointer.require(which))), markup=False)
