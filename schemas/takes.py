"""What is known of a backup that is being taken, and what it came to. Times are UTC."""

from __future__ import annotations

from datetime import datetime

from schemas.backup import BackupKind, BackupPolicy
from schemas.base import Fact
from schemas.facts import Branch
from schemas.restores import Backup, Proof, Stretch
from schemas.topology import DatabaseService
from schemas.zones import Zone


class NodeBackupOrder(Fact):
    """Work on the backups of a service, on the node of `member`, which leads."""

    service: DatabaseService
    zone: Zone
    member: str
    run: str

    @property
    def policy(self) -> BackupPolicy:
        assert self.service.backup is not None
        return self.service.backup


class TakeOrder(NodeBackupOrder):
    kind: BackupKind


class ConfirmOrder(NodeBackupOrder):
    """`previous`: the newest backup before this one, from whose end on WAL is counted."""

    label: str
    previous: Backup | None = None
    segment_bytes: int


class Inventory(Fact):
    """What the repository holds, as the leader's node sees it. `why`: what its keeper says where it can't be used."""

    member: str
    backups: list[Backup] = []
    why: str = ""
    locked: bool = False
    """A backup or a removal is under way on this node;"""
    under_way: str = ""
    """whose it is, where it is a run's job."""
    system: str = ""
    """The leader's own identifier."""
    bytes: int = 0
    """Of the cluster; 0: they could not be counted in time."""
    segment_bytes: int = 16 * 1024 * 1024
    oldest_wal: str = ""

    def of_system(self) -> list[Backup]:
        """Those of this cluster; a stanza may know those of one that was there before."""
        return [each for each in self.backups if each.system == self.system]


class Taken(Fact):
    """`seconds` of this attempt alone, where another had begun."""

    label: str
    seconds: float


class WalSum(Fact):
    """WAL files, and what the repository keeps of them."""

    files: int = 0
    kept_bytes: int = 0


class Confirmed(Fact):
    """A backup as the repository has it, and the archive's WAL up to its end."""

    backup: Backup | None
    stretches: list[Stretch] = []
    wal: WalSum = WalSum()


class Expired(Fact):
    """What retention removed, what is left, and what is warned of."""

    removed: list[str] = []
    left: list[str] = []
    oldest_wal: str = ""
    warnings: list[str] = []
    classes: dict[str, int] = {}
    """Bytes that are stored then, by S3's classes, where that is told."""


class BackupEvidence(Fact):
    """What taking a backup came to, for the report: what was taken, why of that kind, and what it costs in bytes."""

    backup: Backup | None = None
    member: str = ""
    """On whose node it was taken."""
    reason: str = ""
    """Why of this kind."""
    previous: str = ""
    """The newest backup before it, since whose end WAL is counted."""
    seconds: float | None = None
    wal_files: int = 0
    wal_bytes: int = 0
    wal_kept_bytes: int = 0
    """What the repository keeps of them."""
    proofs: list[Proof] = []
    removed: list[str] = []
    """Backups that retention no longer keeps;"""
    left: list[str] = []
    oldest_wal: str = ""
    """and the first WAL file that is still kept."""
    classes: dict[str, int] = {}
    """All that is stored, in bytes by S3's classes, where that is told."""


class Verification(Fact):
    """The newest BackupVerify of a service that came to an end of its own."""

    run: str
    outcome: str
    ended: datetime


class BackupView(Fact):
    """What a worker of the restore host's region sees of a service's backups. `error`: the repository can't be read."""

    at: datetime
    error: str = ""
    backups: list[Backup] = []
    timeline: int = 0
    """The newest of the archive,"""
    branches: list[Branch] = []
    """and those that it comes from, oldest first."""
    stretches: list[Stretch] = []
    unlisted: str = ""
    """Why the archive's WAL is not known."""
    segment_bytes: int = 16 * 1024 * 1024
    room_bytes: int | None = None
    room_error: str = ""
    verified: Verification | None = None
    verify_error: str = ""
