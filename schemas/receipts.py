"""The receipt: what one member had and the surviving history has not. LSNs are bytes."""

from __future__ import annotations

from datetime import datetime

from schemas.base import Fact


class TableLoss(Fact):
    """Rows that were changed in commits that only the old branch has. `table` as the leader calls it."""

    table: str
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


class Receipt(Fact):
    """What a member had and the surviving history has not, counted in its WAL before it was started.

    `commits` are the clients'; Lifeboat's own and those that touched only system catalogs (autovacuum's, but also DDL)
    are counted beside. `acknowledged_at_most`: how many of them may have been acknowledged; None: unknown.
    """

    member: str
    timeline: int
    fork: int
    end: int | None = None
    commits: int | None = None
    """None: unknown, as `reason` says."""
    own_commits: int = 0
    catalog_commits: int = 0
    acknowledged_at_most: int | None = None
    reason: str
    first_commit: datetime | None = None
    last_commit: datetime | None = None
    last_commit_at: int | None = None
    """Where the record of the last of them begins, those of system catalogs included."""
    tables: list[TableLoss] = []
    kept: str = ""
    """Where the WAL is kept, on the node or in the store."""
    predicted: str = ""
    """The verdict that the decision was made on."""
    within: bool | None = None
    """Whether what was found lies within that; None: it can't be told."""

    @property
    def bytes(self) -> int | None:
        return None if self.end is None else max(self.end - self.fork, 0)

    def text(self) -> str:
        """One line, as a report shows it."""
        if self.commits is None:
            return f"unknown: {self.reason}"
        also = f", {self.catalog_commits} of system catalogs alone" if self.catalog_commits else ""
        if self.acknowledged_at_most == 0:
            lost = "nothing acknowledged was lost"
        elif self.acknowledged_at_most is None:
            lost = "acknowledged and lost: unknown"
        else:
            lost = f"acknowledged and lost: at most {self.acknowledged_at_most}"
        return f"{lost}; {self.commits} commits only on {self.member}{also} ({self.reason})"
