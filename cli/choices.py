"""Arguments that several commands share, and what the shell offers to complete them with."""

from __future__ import annotations

import asyncio
import getpass
from pathlib import Path
from typing import Annotated

import typer

from cli.connect import open_client, where
from cli.engine import PROCEDURES, Engine

COMPLETE_S = 1.5
"""A shell that waits longer for a completion seems to hang."""


def procedures(incomplete: str) -> list[str]:
    return [each for each in PROCEDURES if each.startswith(incomplete)]


def services(incomplete: str) -> list[str]:
    return [each for each in _declared()[0] if each.startswith(incomplete)]


def regions(incomplete: str) -> list[str]:
    return [each for each in _declared()[1] if each.startswith(incomplete)]


def members(incomplete: str) -> list[str]:
    return [each for each in _declared()[2] if each.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """The newest runs; nothing when Temporal doesn't answer at once."""

    async def listed() -> list[str]:
        async with asyncio.timeout(COMPLETE_S):
            engine = Engine(await open_client(where(None, None)))
            return [line.run for line in await engine.runs(20)]

    try:
        return [run for run in asyncio.run(listed()) if run.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - a completion that can't be had must not print into the prompt
        return []


def _declared() -> tuple[list[str], list[str], list[str]]:
    """Services, regions and members of the current lab's topology."""
    from activities.topology import load_topology

    try:
        place = where(None, None)
        if place.topology is None:
            return [], [], []
        topology = load_topology(place.topology)
    except Exception:  # noqa: BLE001 - as above
        return [], [], []
    members = [member.name for service in topology.services for member in service.members]
    return [each.name for each in topology.services], [each.name for each in topology.regions], members


def whoami() -> str:
    """The operating system's name of who types, for the record."""
    return getpass.getuser()


Service = Annotated[str, typer.Argument(metavar="SERVICE", help="As the topology calls it.", autocompletion=services)]
OneOrAll = Annotated[
    str | None, typer.Argument(metavar="[SERVICE]", help="All when left out.", autocompletion=services)
]
Run = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="Its id, or a unique beginning of it.", autocompletion=runs),
]
Last = Annotated[bool, typer.Option("--last", help="The newest one.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document, alone on stdout.")]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", help="Also as one self-contained HTML page; `-` is stdout.", allow_dash=True
    ),
]
By = Annotated[str, typer.Option("--by", default_factory=whoami, help="Who says so.", show_default="$USER")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept on record.")]
