"""A service that is cut over to a moment in its past: how that is asked for and ordered."""

from __future__ import annotations

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
    leader: str = ""
    """Whose writes since the moment were given up: another one's are not."""


class InPlaceOrder(FolderOrder):
    """Put a member's own folder back to a moment. `leader`: who leads, or led until it was fenced."""

    backup: Backup
    moment: Moment
    led_on: int = 0
    """The timeline that it leads, or led, on."""
