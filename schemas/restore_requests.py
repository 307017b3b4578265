"""The start forms of what takes backups and restores from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, PositiveInt, StringConstraints, model_validator

from schemas.backup import BackupKind, TableName
from schemas.base import Declared, Name
from schemas.requests import CandidateRequest, RunRequest

Lsn = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$")]


class Target(Declared):
    """A moment in a service's history: exactly one of the first five.

    `time` has a zone; `xid` is a transaction and `lsn` a record, with it or (`exclusive`) without it; `name` a restore
    point (pg_create_restore_point); `before_drop` a table, and the moment before it was dropped.
    """

    time: AwareDatetime | None = None
    lsn: Lsn | None = None
    xid: PositiveInt | None = None
    name: str | None = Field(default=None, min_length=1, max_length=63)
    before_drop: TableName | None = None
    exclusive: bool = False
    until: AwareDatetime | None = None
    """Of a name or a drop: not later than this, where it happened more than once."""
    timeline: PositiveInt | None = None
    """The branch of history; that of whoever leads now where it is left out."""

    @model_validator(mode="after")
    def _one(self) -> Target:
        kinds = ("time", "lsn", "xid", "name", "before_drop")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(kinds)} says where to; given: {', '.join(given) or 'none'}")
        return self

    def text(self) -> str:
        parts = {
            "time": f"{self.time}",
            "lsn": f"LSN {self.lsn}",
            "xid": f"transaction {self.xid}",
            "name": f"restore point {self.name}",
            "before_drop": f"before {self.before_drop} was dropped",
        }
        return next(text for kind, text in parts.items() if getattr(self, kind) is not None)


Use = Literal["ask", "hand-over", "copy-back", "cut-over", "remove"]


class PitrRequest(CandidateRequest):
    """The start form of PitrRestore. `then`: what the proved copy is for; a person is asked where it is left out."""

    target: Target
    then: Use = "ask"
    tables: list[TableName] = Field(default_factory=list)
    """What is copied back; the dropped table where none is named."""
    candidate: Name | None = None
    """Of a cut-over: who is put back to the moment, and leads then."""

    @model_validator(mode="after")
    def _tables(self) -> PitrRequest:
        if self.then == "copy-back" and not self.wanted_tables():
            raise ValueError("tables: say which tables are to be copied back")
        if self.candidate is not None and self.then not in ("ask", "cut-over"):
            raise ValueError("candidate: goes with a cut-over alone")
        return self

    def wanted_tables(self) -> list[str]:
        return list(self.tables) or ([self.target.before_drop] if self.target.before_drop is not None else [])


class VerifyRequest(RunRequest):
    """The start form of BackupVerify. `backup`: a label; the newest where it is left out."""

    backup: str | None = None


class CorruptionRequest(RunRequest):
    """The start form of CorruptionRecovery. `tables`: those that hold what is wrong, where pages are not what is."""

    tables: list[TableName] = Field(default_factory=list)


class TakeRequest(RunRequest):
    """The start form of BackupTake. `kind`: policy's own choice where it is left out."""

    kind: BackupKind | None = None
    expire: bool = True
    """Remove what is kept no longer, once it is good."""
