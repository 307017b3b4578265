"""About how many rows each table has, so that a copy with far fewer is called so. Times are UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from schemas.base import Fact
from schemas.restores import HostOrder
from schemas.topology import DatabaseService


class ManifestOrder(Fact):
    """Write down, once a run, what the leader's tables hold."""

    service: DatabaseService
    leader: str
    run: str


class Kept(Fact):
    """What tells whether a table's rows were deleted: its rows, as estimated; how many were ever deleted of it, counted
    `since` the server's counters began anew (a crash or a reset; and, by the timeline, a promotion, since the counters
    of a server that led before go on where it stopped); and the file in which it is.
    """

    name: str
    filenode: int
    since: str
    rows: int
    deleted: int

    @staticmethod
    def known(found: Mapping[str, object]) -> bool:
        """Whether the server, or whoever wrote it down, has told all of it."""
        return found.get("filenode") is not None and found.get("since") is not None


class Manifest(Fact):
    """`rows`: by table, as the server's statistics estimate them; of the largest of the service's database."""

    at: datetime
    rows: dict[str, int] = {}
    unlogged: list[str] = []
    """Tables whose rows are in no backup."""
    kept: list[Kept] = []


class CountOrder(HostOrder):
    """Count a copy's rows against its own newest manifest, which is older than it, and `now`, which is younger."""

    now: Manifest


class Counted(Fact):
    """`short`: what a table lacks, in words. `counted`: exact, by table. `why`: nothing could be compared."""

    short: list[str] = []
    counted: dict[str, int] = {}
    uncounted: list[str] = []
    """Tables for which the time did not suffice."""
    since: datetime | None = None
    """When the copy's own manifest was written."""
    why: str = ""
