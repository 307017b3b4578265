"""What is known of backups and of copies that are restored from them. LSNs are bytes, times are UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from schemas.backup import BackupPolicy, FolderHost
from schemas.base import Fact
from schemas.facts import Branch
from schemas.topology import DatabaseService


class Backup(Fact):
    """One backup of the repository. `wal_start`, `wal_stop`: the WAL files without which it is good for nothing."""

    label: str
    kind: Literal["full", "diff", "incr"]
    started: datetime
    stopped: datetime
    lsn_start: int
    lsn_stop: int
    wal_start: str
    wal_stop: str
    system: str
    archive: str
    """What its WAL's part of the archive is called."""
    bytes: int
    """Of the cluster,"""
    kept_bytes: int
    """and of what the repository keeps for this backup alone."""
    storage: str = ""
    """S3's class of it, where that is told: what is in GLACIER or DEEP_ARCHIVE must be thawed first."""
    delta_bytes: int = 0
    """Of the files that were copied for it."""
    broken: bool = False
    """Bad pages were found while it was taken."""

    @property
    def timeline(self) -> int:
        return int(self.wal_start[:8], 16)


class Stretch(Fact):
    """WAL files of one timeline that follow each other without a gap."""

    first: str
    last: str


class Repository(Fact):
    """What there is to restore from. `branches`: where the intended timeline left those before it, oldest first."""

    backups: list[Backup]
    timeline: int
    branches: list[Branch] = []
    stretches: list[Stretch] = []
    """The archive's WAL of the intended timeline and of its ancestors, from the oldest backup on."""
    segment_bytes: int = 16 * 1024 * 1024
    newest_commit: datetime | None = None
    """The last commit that is archived,"""
    newest_lsn: int = 0
    """and where."""
    archived: str = ""
    """The newest WAL file that the leader says it archived; "" where nobody could say."""


class Moment(Fact):
    """A target as recovery takes it. `immediate`: as soon as the backup is consistent."""

    kind: Literal["immediate", "time", "lsn"]
    timeline: int
    reason: str
    time: datetime | None = None
    lsn: int = 0
    inclusive: bool = True
    xid: int = 0
    """The transaction that it was found by."""
    near: datetime | None = None
    """When that was, where the target is no time."""

    def text(self) -> str:
        if self.kind == "time" and self.time is not None:
            return f"{self.time.isoformat(sep=' ', timespec='milliseconds')} on timeline {self.timeline}"
        if self.kind == "lsn":
            at = f"{self.lsn >> 32:X}/{self.lsn & 0xFFFFFFFF:08X}"
            side = "up to and with" if self.inclusive else "just before"
            return f"{side} {at} on timeline {self.timeline}"
        return f"the end of the backup, on timeline {self.timeline}"


class Place(Fact):
    """`what`: COMMIT, ABORT, DROP or RESTORE_POINT; of a DROP the LSN of its lock. `at`: when the transaction ended; of
    a restore point, when the last one before it did.
    """

    lsn: int
    xid: int
    at: datetime | None
    what: str


class Found(Fact):
    """What reading the WAL gave: each place that fits, oldest first."""

    places: list[Place]
    newest_commit: datetime | None = None
    newest_commit_lsn: int = 0
    newest_lsn: int = 0
    records: int = 0


class TableState(Fact):
    """A table in a copy: exact rows; its identity in the catalogue. `database` is the database's oid."""

    table: str
    oid: int
    database: int
    rows: int | None = None


class HostOrder(Fact):
    """Work on a restore host, on one run's copy. `copy_name` is its folder's name there."""

    service: DatabaseService
    run: str
    copy_name: str

    @property
    def policy(self) -> BackupPolicy:
        assert self.service.backup is not None
        return self.service.backup

    @property
    def host(self) -> FolderHost:
        return self.policy.host


class ArchiveOrder(Fact):
    """Have `leader` archive all that is written."""

    service: DatabaseService
    leader: str


class Archived(Fact):
    """`file` and all before it is archived; what the leader tells of itself besides."""

    file: str
    segment_bytes: int
    system: str
    timeline: int


class LookOrder(HostOrder):
    """`timeline`: the intended one; None: the newest of the archive."""

    timeline: int | None = None
    segment_bytes: int = 16 * 1024 * 1024


class RoomOrder(HostOrder):
    bytes: int


class RestoreOrder(HostOrder):
    """`round`: a restore of the same backup in another round begins anew, whatever was replayed meanwhile."""

    backup: Backup
    round: int = 1


class RecoverOrder(HostOrder):
    backup: Backup
    moment: Moment
    last: str = ""
    """The last WAL file that recovery may need, to tell how far it is."""


class ScanOrder(HostOrder):
    """Read the WAL of `stretches` from `lsn` on for `what`: `xid N`, `name N`, `drop DATABASE OID`, `commits`."""

    stretches: list[Stretch]
    lsn: int = 0
    """0: from the first record of the first file."""
    what: str
    segment_bytes: int


class SnapshotOrder(HostOrder):
    """Keep the copy's files as they are at `moment`."""

    round: int
    moment: str


class TableOrder(HostOrder):
    tables: list[str]


class CopyBackOrder(HostOrder):
    """Write these tables, as the copy has them, to whoever leads."""

    leader: str
    tables: list[TableState]
    aside: str = ""
    """A schema that tables of these names are moved to; "": they must not be there."""


class CopyFacts(Fact):
    """How a copy stands, as its own programs tell it."""

    owner: str = ""
    restored: str = ""
    running: bool = False
    wanted: str = ""
    state: str = ""
    system: str = ""
    timeline: int = 0
    """The one that it has recovered on,"""
    checkpoint_timeline: int = 0
    checksums: bool = False
    in_recovery: bool = False
    pause: str = ""
    """`paused` once it stands still."""
    replayed: int = 0
    last_commit: datetime | None = None
    heartbeat: datetime | None = None
    unbeaten: bool = False
    """There is the heartbeat's table, and no row in it."""
    fetched: int = 0
    """WAL files that recovery asked for and got."""
    newest_file: str = ""
    refused: dict[str, int] = {}
    """Files that it asked for and did not get, with the last exit code: 1 there is none, else it could not be had."""
    why: str = ""
    """What was said of the last of them that could not be had."""
    fatal: list[str] = []
    ended_at: str = ""
    """The last commit that a recovery which ran out of WAL had seen."""
    line: str = ""
    network: Literal["", "own", "shared"] = ""
    """The server's network: its own or its host's; "" where the kernel does not tell."""
    reaches: list[str] = []
    """Addresses and routes of the server's own network,"""
    shared: str = ""
    """or why it has none."""


class Proof(Fact):
    """One clause of what makes a restored copy good. None: it does not apply, and why."""

    clause: str
    ok: bool | None
    evidence: str


class Restored(Fact):
    """`seconds` of this attempt alone, where another had begun."""

    seconds: float
    log: str = ""


class Newest(Fact):
    """The newest row of a table; `at` None: it has none, or why it can't be read."""

    table: str
    at: datetime | None
    error: str = ""


class RestoreEvidence(Fact):
    """What a restore came to, for the report: what was restored, how far, how fast, and the proof clause by clause."""

    backup: Backup | None = None
    """The one that was chosen; it was restored if `restore_s` is known."""
    moment: Moment | None = None
    copy_name: str = ""
    where: str = ""
    """The copy's place while it is there."""
    restore_s: float | None = None
    recovery_s: float | None = None
    bytes: int = 0
    reached_lsn: int = 0
    last_commit: datetime | None = None
    newest_row: datetime | None = None
    rpo_s: float | None = None
    """How much older the newest row was than the target."""
    proofs: list[Proof] = []
    checks: list[Proof] = []
    copied: dict[str, int] = {}
    """Tables that were written back to the service, with their rows."""
    considered: list[str] = []
    """Other places that fitted the target, and why they were not taken."""

    @property
    def took_s(self) -> float | None:
        """Restore and recovery, which the RTO is for; None where nothing was restored."""
        return None if self.restore_s is None else self.restore_s + (self.recovery_s or 0.0)

    def failed(self) -> list[Proof]:
        return [each for each in (*self.proofs, *self.checks) if each.ok is False]


class Written(Fact):
    """What was written after a moment: from where in the WAL, and up to where whoever led had written when it was
    fenced. `since`: the last commit of before, as far as that is known.
    """

    member: str
    first: int
    last: int | None
    since: datetime | None
    until: datetime

    def text(self) -> str:
        """From where to where: `from 0/04027C48 to 0/060001F0 (33392040 bytes, 14.1 s)`."""
        at = f"{self.first >> 32:X}/{self.first & 0xFFFFFFFF:08X}"
        if self.last is None:
            return f"after {at}, up to {self.until:%Y-%m-%d %H:%M:%S} UTC"
        end = f"{self.last >> 32:X}/{self.last & 0xFFFFFFFF:08X}"
        seconds = "" if self.since is None else f", {(self.until - self.since).total_seconds():.1f} s"
        return f"from {at} to {end} ({max(self.last - self.first, 0)} bytes{seconds})"


class CutOverEvidence(Fact):
    """What a cut-over came to, for the report: who was put back, the proof, and what was written since."""

    candidate: str = ""
    written: Written | None = None
    proofs: list[Proof] = []
