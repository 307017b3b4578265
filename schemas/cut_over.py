"""A service that is cut over to a moment in its past: how that is asked for, ordered, and told."""

from __future__ import annotations

from datetime import datetime

from schemas.base import Fact
from schemas.rejoin import FolderOrder
from schemas.requests import CandidateRequest
from schemas.restores import Backup, CopyFacts, Moment, Newest, Repository


class CutOverRequest(CandidateRequest):
    """The start form of CutOver, which PitrRestore fills in: the moment, and the copy by which it was proved."""

    backup: Backup
    moment: Moment
    repository: Repository
    copy_facts: CopyFacts
    newest: list[Newest] = []
    """The newest rows of the copy."""
    rate_bytes_s: float = 50e6


class InPlaceOrder(FolderOrder):
    """Put a member's own folder back to a moment. `leader`: who leads, or led until it was fenced."""

    backup: Backup
    moment: Moment


class Stretch(Fact):
    """What was written after the moment: from where in the WAL, and up to where whoever led had written when it was
    fenced. `since`: the last commit of before, as far as that is known.
    """

    member: str
    first: int
    last: int | None
    since: datetime | None
    until: datetime

    def text(self) -> str:
        at = f"{self.first >> 32:X}/{self.first & 0xFFFFFFFF:08X}"
        if self.last is None:
            return f"what {self.member} wrote after {at}, up to {self.until:%Y-%m-%d %H:%M:%S} UTC"
        end = f"{self.last >> 32:X}/{self.last & 0xFFFFFFFF:08X}"
        seconds = "" if self.since is None else f", {(self.until - self.since).total_seconds():.1f} s"
        return f"what {self.member} wrote from {at} to {end} ({max(self.last - self.first, 0)} bytes{seconds})"
