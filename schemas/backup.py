"""How a database's backups are declared: where they are, where they are restored, what a restored copy must show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

from schemas.base import Declared, Name
from schemas.cron import CronText

TableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_$]*\.[A-Za-z_][A-Za-z0-9_$]*$")]
"""`schema.table`, as the catalogue has both: lower case unless it was made with quotes."""

AbsolutePath = Annotated[str, Field(pattern="^/")]

BackupKind = Literal["full", "diff", "incr"]
"""All files; those that changed since the last full; those that changed since the last of any kind."""

Every = PositiveFloat | CronText
"""How often: seconds, or the five fields of cron, in UTC."""

LEAST_EVERY_S = 300


class PgBackRest(Declared):
    """Backups and WAL that pgBackRest keeps. `config` is its file on the restore host and on every member; a member
    whose file is elsewhere says so in its `data`.
    """

    kind: Literal["pgbackrest"] = "pgbackrest"
    stanza: str = Field(min_length=1)
    program: AbsolutePath = "/usr/bin/pgbackrest"
    config: AbsolutePath = "/etc/pgbackrest/pgbackrest.conf"
    repository: PositiveInt = 1

    @property
    def called(self) -> str:
        """Who keeps it, as errors name it."""
        return "pgBackRest"

    def retention_words(self) -> list[str]:
        """Its own file says what is kept."""
        return []


ColdClass = Literal["GLACIER", "DEEP_ARCHIVE"]
"""Classes of S3 whose objects are thawed before they can be read: hours."""


class Retention(Declared):
    """What is kept of a plain archive. What is no longer kept goes to `archive_class`, or where none is named, goes;
    the newest good backup never does, nor WAL that a kept backup needs.
    """

    keep_fulls: PositiveInt | None = None
    """The newest so many,"""
    keep_days: PositiveFloat | None = None
    """and those that are younger, with the newest that is not: every moment of so many days stays recoverable."""
    archive_class: ColdClass | None = None
    keep_archived_days: PositiveFloat | None = None
    """What is older goes from there too; never where it is left out."""

    @model_validator(mode="after")
    def _consistent(self) -> Retention:
        if self.keep_fulls is None and self.keep_days is None:
            raise ValueError("name `keep_fulls`, `keep_days`, or both: nothing would be kept but the newest backup")
        if self.keep_archived_days is not None and self.archive_class is None:
            raise ValueError("keep_archived_days: no `archive_class` is named that anything could be kept in")
        if self.keep_archived_days is not None and self.keep_archived_days <= (self.keep_days or 0):
            raise ValueError("keep_archived_days: it ends before `keep_days`, so that nothing would ever be archived")
        return self

    def words(self) -> list[str]:
        return [f"--{name.replace('_', '-')}={value}" for name, value in self.model_dump(exclude_none=True).items()]


class PlainS3(Declared):
    """Backups and WAL as plain objects of a bucket, which `lifeboat-archive` keeps: full backups alone. `config` is its
    file on the restore host and on every member; a member whose file is elsewhere says so in its `data`.
    """

    kind: Literal["plain"] = "plain"
    stanza: str = Field(min_length=1)
    """The name that `config` has for it."""
    program: AbsolutePath = "/usr/local/bin/lifeboat-archive"
    config: AbsolutePath = "/etc/lifeboat/archive.ini"
    retention: Retention | None = None
    """All is kept, for ever, where it is left out."""

    @property
    def repository(self) -> int:
        return 1

    @property
    def called(self) -> str:
        return "lifeboat-archive"

    def retention_words(self) -> list[str]:
        return self.retention.words() if self.retention is not None else []


DEFAULT_KIND = "pgbackrest"


def _kind_by_default(given: Any) -> Any:
    return {"kind": DEFAULT_KIND, **given} if isinstance(given, dict) else given


KeptIn = Annotated[
    Annotated[PgBackRest | PlainS3, Field(discriminator="kind")],
    BeforeValidator(_kind_by_default),
]


class FolderHost(Declared):
    """A machine that copies are restored on, beside the service: a folder where the worker of its region runs.

    A copy never shares anything with a member: own folder, own port, no network but what it is handed over with.
    """

    kind: Literal["folder"] = "folder"
    name: Name
    region: Name
    directory: AbsolutePath
    """Copies are made below it, one folder each; it is Lifeboat's alone. Short: Unix sockets are made there."""
    bin: AbsolutePath
    """The folder of PostgreSQL's own programs, of the service's major version."""
    config: AbsolutePath | None = None
    """The repository's `config` here, where it is another one than the members'."""
    run_as: list[str] = Field(default_factory=list)
    """Words before each command that make it the servers' user, for instance `[sudo, -n, -u, postgres]`."""
    keep_free_bytes: int = Field(default=1 << 30, ge=0)
    """A restore begins only where this much is left once it has ended."""
    preload: list[str] = Field(default_factory=list)
    """shared_preload_libraries of a copy: only what its WAL can't be replayed without. What runs jobs stays out."""
    isolation: Literal["namespace", "configuration"] | None = None
    """What keeps a copy from reaching anybody. `namespace`: a network namespace in which nothing is up; refused where
    the servers' user can't make one. `configuration`: the copy's settings alone. Left out: the first where it can be
    had, else the second, and the proof says which.
    """
    host: str | None = None
    """Where a copy that is handed over listens; without it none can be."""
    ports: tuple[int, int] = (0, 0)
    """The first and the last port that it may take there."""
    readers: list[str] = Field(default_factory=list)
    """Networks (CIDR) whose clients may read a copy that is handed over."""


class OwnerQuery(Declared):
    """A question that only the data's owner knows the answer to. Its first column must be `expect`, in one row."""

    name: Name
    sql: str = Field(min_length=1)
    database: str | None = None
    """The service's own where it is left out."""
    expect: str = "t"

    def answered_by(self, rows: Sequence[str]) -> tuple[bool, str]:
        """Whether these rows (columns by |) are the answer, and what they say."""
        first = rows[0].partition("|")[0] if len(rows) == 1 else f"{len(rows)} rows"
        return len(rows) == 1 and first == self.expect, f"{first}; expected {self.expect}"


class NewestRow(Declared):
    """A table that gets rows all the time: its newest row tells how much was lost (RPO)."""

    table: TableName
    column: str = Field(min_length=1)
    """A timestamp with time zone."""

    def sql(self) -> str:
        """Asks for its newest row, in seconds since 1970."""
        schema, _, name = self.table.partition(".")
        return f'SELECT extract(epoch FROM max("{self.column}")) FROM "{schema}"."{name}"'


class CopyBack(Declared):
    """With which role tables are written back. It must be a member of their owners (`GRANT app TO …`), who may create
    in their schemas; and, where damaged tables are to be set aside, may create schemas in the database. `passfile` is
    on the restore host.
    """

    user: str = Field(min_length=1)
    passfile: AbsolutePath | None = None


class BackupPolicy(Declared):
    """Where a service's backups are, and how it is proved that they restore."""

    repository: KeptIn
    host: FolderHost
    checks: list[OwnerQuery] = Field(default_factory=list)
    newest: list[NewestRow] = Field(default_factory=list)
    copy_back: CopyBack | None = None
    rate_bytes_s: PositiveFloat = 50e6
    """What a restore is expected to do at least, for its time limit and for what a plan foretells."""
    max_age_s: PositiveFloat = 26 * 3600.0
    """A newest backup that is older than this is a finding."""
    verify_max_age_s: PositiveFloat = 8 * 86400.0
    """So is a newest verification."""
    full_every_s: PositiveFloat = 7 * 86400.0
    """A backup is a full one where the newest full is older than this;"""
    between: Literal["diff", "incr"] = "incr"
    """and of this kind in between; a plain archive has full ones only."""
    take_every: Every | None = None
    """How often `lifeboat schedules apply` has one taken; never by itself where it is left out."""
    verify_every: Every | None = None
    """The same of BackupVerify."""

    @model_validator(mode="after")
    def _consistent(self) -> BackupPolicy:
        for field, every, most in (
            ("take_every", self.take_every, self.max_age_s),
            ("verify_every", self.verify_every, self.verify_max_age_s),
        ):
            if isinstance(every, float) and every < LEAST_EVERY_S:
                raise ValueError(f"{field}: every {every:g} s is more often than one ends; {LEAST_EVERY_S} at least")
            if isinstance(every, float) and every > most:
                age = "max_age_s" if field == "take_every" else "verify_max_age_s"
                raise ValueError(
                    f"{field}: every {every:g} s lets the newest one grow older than `{age}`, {most:g}; make one of"
                    " them fit the other"
                )
        names = [each.name for each in self.checks]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"checks.{index}.name: {name} is declared twice; give each query a name of its own")
        first, last = self.host.ports
        if self.host.host is not None and not 0 < first <= last <= 65535:
            raise ValueError(
                f"host.ports: {first} to {last} are no ports that a copy could be handed over on; name the first and"
                " the last of a range that nobody else uses"
            )
        return self
