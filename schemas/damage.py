"""Damage to a database's data: where it is, and what is to be done about it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from schemas.base import Fact
from schemas.restores import Proof


class Damaged(Fact):
    """A relation whose pages, or whose entries, are no good."""

    kind: Literal["heap", "index"]
    relation: str
    """`database.schema.name`."""
    told: str


class MemberDamage(Fact):
    """What a check of one member found. `error`: why it could not be checked."""

    member: str
    error: str = ""
    damaged: list[Damaged] = []
    failures: int = 0
    """Pages whose checksum failed when they were read since the statistics began (pg_stat_database),"""
    since: datetime | None = None
    """the last one then."""

    @property
    def whole(self) -> bool:
        return not self.error and not self.damaged


class Pulse(Fact):
    """How a leader fared while it was watched: transactions that ended, pages whose checksum failed; `broke`: why it
    could not be watched to the end.
    """

    commits: int = 0
    rollbacks: int = 0
    failures: int = 0
    broke: str = ""
    read_only: bool = True
    """Whether transactions were read-only by default."""


class DamageEvidence(Fact):
    """What a recovery from corruption found, for the report."""

    members: list[MemberDamage] = []
    queries: list[Proof] = []
    """The owner's own, as the leader answered them."""
    backup: str = ""
    """How the newest backup did."""
    last_good: datetime | None = None
    reason: str = ""
    repair: str = ""
    post_mortem: str = ""
    """A draft, in Markdown."""
