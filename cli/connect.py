"""Which Temporal the command speaks to: an explicit address, else the current lab, else the user's own profile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from temporalio.client import Client
from temporalio.envconfig import ClientConfig

from cli.problems import Exit, Problem, explain, out_of_reach

if TYPE_CHECKING:
    from lab.model import Lab

T = TypeVar("T")

CONNECT_S = 5.0

Address = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", help="Temporal's address.", rich_help_panel="Temporal"),
]
Namespace = Annotated[str | None, typer.Option("--namespace", help="Temporal's namespace.", rich_help_panel="Temporal")]


@dataclass(frozen=True)
class Place:
    """`name` is how a message speaks of it. `topology` is known only for a lab."""

    name: str
    address: str | None
    namespace: str | None
    topology: Path | None = None
    lab: Lab | None = None


def where(address: str | None, namespace: str | None) -> Place:
    """The profile of the stock CLI is read only when there is neither an address nor a lab."""
    if address is not None:
        return Place(f"Temporal at {address}", address, namespace)
    lab = _current_lab(namespace)
    if lab is not None:
        return lab
    profile = ClientConfig.load_client_connect_config()
    if "target_host" not in profile:
        raise Problem(
            "there is no current lab, and no profile that names a Temporal\n"
            "start a lab: `lifeboat lab up`; or name a Temporal with --address HOST:PORT",
            Exit.USAGE,
        )
    return Place(f"your profile's Temporal at {profile['target_host']}", None, namespace)


def _current_lab(namespace: str | None) -> Place | None:
    from lab.pointer import current

    lab = current()
    if lab is None:
        return None
    engine = lab.temporal
    name = f"the current lab's Temporal at {engine.address}"
    return Place(name, engine.address, namespace or engine.namespace, lab.topology, lab)


async def open_client(place: Place) -> Client:
    from workers.connect import connect

    try:
        async with asyncio.timeout(CONNECT_S):
            return await connect(place.address, place.namespace)
    except (RuntimeError, TimeoutError) as error:
        # The SDK raises a bare RuntimeError when it can't connect.
        raise out_of_reach(place.name) from error


def at(place: Place, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run `work` with a client of `place`; what Temporal refuses becomes a Problem."""

    async def session() -> T:
        return await work(await open_client(place))

    try:
        return asyncio.run(session())
    except Exception as error:
        problem = explain(error, place.name)
        if problem is None:
            raise
        raise problem from error
