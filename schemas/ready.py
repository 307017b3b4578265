"""Whether a service is ready for its procedures: what was seen of it from each region, and what is wrong with it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, get_args

from pydantic import Field

from schemas.base import Declared, Fact, Name
from schemas.cache_facts import CacheSeen
from schemas.facts import EpochRecord, MemberFacts
from schemas.orders import CacheEstate, Estate
from schemas.queue_facts import QueueObservation
from schemas.rejoin import FolderFacts

Check = Literal[
    # The estate as it is declared
    "topology",
    "plain-password",
    "epoch-place",
    "quorum",
    "voters",
    "candidates",
    "fence",
    "name-ttl",
    # Who works for it
    "worker",
    "same-topology",
    "watch",
    "busy",
    "secret",
    "clock",
    # Epoch and leader
    "epoch-record",
    "leader",
    "synchronous-names",
    # Each server
    "reached",
    "hot-standby",
    "same-system",
    "version",
    "durable",
    "wal-level",
    "rewind-pages",
    "receiver-timeout",
    "senders",
    "slots",
    "wal-kept",
    "archive",
    "standby-limits",
    "connections",
    "synchronous-commit",
    "read-only",
    "apply-delay",
    "replay",
    "upstream",
    "streaming",
    "application-name",
    "conninfo-password",
    "timeline-target",
    "pending-restart",
    # Rights
    "rights",
    "superuser",
    "replication-role",
    "rewind-rights",
    # Node control and routes
    "node-control",
    "data-folder",
    "disk-room",
    "name",
    "pooler",
    "pooler-leads",
    "pooler-mode",
    "pooler-settings",
    "proxy",
    "application",
    # Backups
    "backup-declared",
    "backup-reachable",
    "backup-age",
    "backup-broken",
    "wal-gap",
    "archiving",
    "restore-room",
    "backup-verified",
]
"""Of a database. Each check has its part of docs/ready.md."""
CacheCheck = Literal[
    "cluster-mode",
    "persistence",
    "min-replicas",
    "replica-priority",
    "replication",
    "no-password",
    "sentinel-quorum",
    "sentinels-agree",
    "sentinel-settings",
]
"""Of a cache, beside those of its epoch, its workers and its servers that a database has as well."""
QueueCheck = Literal[
    "alarms",
    "partition",
    "clients",
    "definitions",
    "standby",
    "members",
    "mirrored",
    "mandatory",
    "immovable",
    "shovels",
    "tools",
]
"""Of a queue, beside those that a database or a cache has as well."""
AnyCheck = Check | CacheCheck | QueueCheck
Severity = Literal["error", "warning"]
CHECKS: tuple[Check, ...] = get_args(Check)
CACHE_CHECKS: tuple[CacheCheck, ...] = get_args(CacheCheck)
QUEUE_CHECKS: tuple[QueueCheck, ...] = get_args(QueueCheck)
SHARED: tuple[Check, ...] = ("topology", "fence", "worker", "watch", "busy", "epoch-record", "leader", "reached")
"""Checks of every kind of service."""


class Finding(Fact):
    """An `error` breaks a procedure, a `warning` weakens it. `remedy` begins with who must act."""

    check: AnyCheck
    severity: Severity
    where: str
    what: str
    remedy: str

    def text(self) -> str:
        """One line."""
        return f"{self.where}: {self.what}; {self.remedy}"


class Override(Fact):
    """A setting of a role or a database of its own (pg_db_role_setting); "" is every role, or every database."""

    role: str
    database: str
    setting: str
    value: str

    def whose(self) -> str:
        role = f"role {self.role}" if self.role else "every role"
        return f"{role} in database {self.database}" if self.database else role


class Slot(Fact):
    """`physical`: one that a standby streams by. `wal_status`: see pg_replication_slots; "" where it keeps no WAL."""

    name: str
    physical: bool
    active: bool
    wal_status: str = ""


class Server(Fact):
    """One member as one region's worker saw it over SQL. With `seen.reachable` False nothing else means anything.

    `settings` are those of pg_settings in their own units: milliseconds for times, megabytes for WAL.
    """

    seen: MemberFacts
    version: int = 0
    """server_version_num."""
    settings: dict[str, str] = {}
    pending: list[str] = []
    """Settings that wait for a restart."""
    overrides: list[Override] = []
    slots: list[Slot] = []
    archiver_failing: str = ""
    """Why the archiver's last attempt counts as failed; "" when it does not."""
    archived: str = ""
    """The last WAL file that the archiver has done,"""
    archived_age_s: float | None = None
    """and how long ago, by the server's clock."""
    application_name: str = ""
    """By which the primary knows this standby."""
    slot: str = ""
    """The slot by which it streams."""
    makes_slots: bool = False
    """Whether Lifeboat's role may make and drop slots there."""
    password_in_conninfo: bool = False
    replay_paused: bool = False
    sessions: int = 0
    bytes: int = 0
    """Of its databases; 0 where they could not be counted in time."""
    superuser: bool = False
    lacking: list[str] = []
    rewind_role: str = ""
    rewind_lacking: list[str] = []
    replication_lacking: str = ""
    clock_s: float = 0.0
    """Its clock less the worker's, at the middle of the round trip."""
    round_trip_s: float = 0.0


class Pool(Fact):
    """A row of PgBouncer's SHOW DATABASES; `mode` as it is in force."""

    host: str
    port: int
    mode: str


class Pooler(Fact):
    """A PgBouncer as one region's worker saw it; `config` is SHOW CONFIG."""

    route: str
    error: str = ""
    config: dict[str, str] = {}
    databases: dict[str, Pool] = {}


class NameSeen(Fact):
    """A name's addresses and TTL at one authoritative server, or why it did not say them."""

    record: str
    server: str
    addresses: list[str] = []
    ttl_s: int = 0
    error: str = ""


class RegionView(Fact):
    """What one region's worker sees of a service. The maps are name → what is wrong with it, "" for nothing."""

    region: str
    digest: str
    """Of the service and the zone as this worker's own topology file declares them."""
    record: EpochRecord | None = None
    epoch_error: str = ""
    servers: list[Server] = []
    poolers: list[Pooler] = []
    proxies: dict[str, str] = {}
    applications: dict[str, str] = {}
    names: list[NameSeen] = []
    addresses: dict[str, str] = {}
    """Member → its address as a name's record would carry it."""
    secrets: dict[str, str] = {}
    """Reference → why it can't be resolved here; those that can are left out."""
    controls: dict[str, str] = {}
    folders: dict[str, FolderFacts] = {}
    """Data folders of the members that are looked at from this region."""
    folder_errors: dict[str, str] = {}


class CacheRegionOrder(Fact):
    estate: CacheEstate
    region: str


class CacheRegionView(Fact):
    """`open_to_all`: servers and Sentinels that answer without a password."""

    region: str
    seen: CacheSeen
    open_to_all: list[str] = []


class QueueRegionView(Fact):
    region: str
    seen: QueueObservation


class EngineView(Fact):
    """What the engine knows. `probing`: the regions from which the watch probes now."""

    watched: bool
    probing: list[str] = []
    holder: str = ""
    """The run that holds the service's lock."""


class RegionOrder(Fact):
    estate: Estate
    region: str


class ReadyRequest(Declared):
    """The start form of DatabaseReady: one service, or all that the topology declares."""

    service: Name | None = None


class Readiness(Fact):
    """One service: what is wrong, and what was looked at."""

    service: str
    findings: list[Finding]
    members: list[str] = []
    regions: list[str] = []
    """From which it was looked at."""
    routes: list[str] = []
    checks: int = len(CHECKS)
    """How many kinds of checks were made of it."""

    @property
    def errors(self) -> int:
        return sum(each.severity == "error" for each in self.findings)

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors


class ReadyReport(Fact):
    at: datetime
    checks: int = Field(default=len(CHECKS))
    """How many kinds of checks there are of a database."""
    services: list[Readiness]
