"""What a workflow orders an activity to do, and what the activity answers when it is more than a fact."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from schemas.base import Fact
from schemas.cache import CacheService
from schemas.facts import EpochRecord, MemberFacts, Probe
from schemas.keeping import ReportStore
from schemas.reports import Report
from schemas.routes import FileRoute, HAProxyRoute, PgBouncerRoute, WebhookRoute
from schemas.service import Service
from schemas.targets import Target
from schemas.topology import AnyService, DatabaseService
from schemas.zones import Zone


class AnyEstate(Fact):
    """The part of the topology that one run keeps as its own, whatever is edited meanwhile."""

    service: Service
    zone: Zone
    vantages: list[str]
    reports: ReportStore | None = None


class Estate(AnyEstate):
    service: DatabaseService


class CacheEstate(AnyEstate):
    service: CacheService


class ProbeOrder(Fact):
    service: DatabaseService
    member: str
    region: str


class Observation(Fact):
    """The epoch's record (None: there is none, or `epoch_error` says why it can't be read), and every member."""

    record: EpochRecord | None
    epoch_error: str = ""
    members: list[MemberFacts]

    @property
    def led_by(self) -> str | None:
        """Who leads, where that is who should by the record, and no run is about to promote another."""
        if self.record is None or self.record.candidate is not None:
            return None
        leading = [each.member for each in self.members if each.reachable and not each.in_recovery]
        return self.record.leader if self.record.leader in leading else None


class WatchOrder(Fact):
    """`until`: return when the member has failed to its limit (`down`), or answers again (`up`)."""

    service: DatabaseService
    zone: Zone
    member: str
    region: str
    until: str = "down"


class Sighting(Fact):
    """Why a region's watch returned. `seen` is what it saw of the whole service before its last failed probe."""

    region: str
    member: str
    state: str
    first_failure: datetime | None
    at: datetime
    last: Probe
    seen: Observation | None = None
    detail: str = ""


class ClaimOrder(Fact):
    zone: Zone
    service: str
    run: str
    seen: EpochRecord
    at_least: int = 0
    """The new epoch is above this one as well: nodes may carry it."""


class RecordOrder(Fact):
    """Replace the record by `wanted` if it is still `seen`; done already when it is `wanted`."""

    zone: Zone
    service: str
    seen: EpochRecord
    wanted: EpochRecord


class FenceOrder(Fact):
    """Disconnect these standbys from the suspect, the voters last, and stamp them with the epoch.

    `record` is what the epoch store held when this was ordered: once it says something else, the time for it is over,
    and a late attempt changes nothing. None: the store is out of reach.
    """

    service: DatabaseService
    zone: Zone
    record: EpochRecord | None
    suspect: str
    epoch: int
    voters: list[str]
    """The members to disconnect last."""
    at_once: bool = False
    """The suspect is dead, so that the order does not matter."""
    likely: str | None = None
    followers: list[str] = []
    """These are led from the suspect to the likely candidate, so that they have followed it for a while if it is
    chosen. What they may receive from it, it has itself."""


class FenceResult(Fact):
    """`disconnected` members were reached, stamped, and receive nothing from the suspect any more."""

    disconnected: list[str]
    missed: dict[str, str] = {}
    members: list[MemberFacts]


class StallOrder(Fact):
    service: DatabaseService
    member: str
    epoch: int
    names: str = ""
    """synchronous_standby_names to restore when the stall is undone."""


class FollowOrder(Fact):
    """Let `members` follow `leader`, behind the epoch; and `cascades` (member → its declared upstream) that upstream if
    it follows itself, else the leader."""

    service: DatabaseService
    leader: str
    members: list[str]
    epoch: int
    cascades: dict[str, str] = {}
    timeline: int = 0
    """Of the leader: who streams an older one does not follow yet. 0: not known."""


class FollowResult(Fact):
    following: list[str]
    diverged: dict[str, str] = {}
    unreachable: dict[str, str] = {}


class PromoteOrder(Fact):
    service: DatabaseService
    zone: Zone
    record: EpochRecord
    """The record that names the candidate; the promotion is refused if the store holds another."""
    names: str
    """synchronous_standby_names that the candidate starts with."""
    recorded: bool = True
    """False: the epoch store is out of reach, and a person went on without it, on record."""
    adopt: bool = False
    """An earlier run had recorded this candidate and was cut off: it may lead already, on an older stamp."""
    survivors: list[str]
    """Standbys that must follow the candidate, and have reached its position, before it is promoted."""


class PromoteResult(Fact):
    member: str
    timeline: int
    fork: int
    """Where the new timeline begins, bytes."""
    already: bool = False


class RouteOrder(Fact):
    """`target` is the member that the route leads to; `epoch` is written beside it."""

    service: DatabaseService
    target: str
    epoch: int
    once_it_leads: bool = False
    """The target is being promoted: clients are let in only once it is seen to lead."""


class PoolerOrder(RouteOrder):
    """`after_s`: begin so much later, since something more urgent was ordered with it."""

    route: PgBouncerRoute
    after_s: float = 0.0


class PauseOrder(PoolerOrder):
    """For a planned move: how long a pool may take to end the transactions that it is at."""

    limit_s: float


class ProxyOrder(RouteOrder):
    route: HAProxyRoute


class FileOrder(RouteOrder):
    route: FileRoute


class HookOrder(RouteOrder):
    route: WebhookRoute


class DnsOrder(Fact):
    """The record becomes `wanted` if it is still `seen`, and every name of the service leads to `target`.

    `reads`: the read-only names lead to these members in the same change; None: they stay as they are.
    """

    service: AnyService
    zone: Zone
    target: str
    seen: EpochRecord
    wanted: EpochRecord
    reads: list[str] | None = None


class VerifyOrder(Fact):
    service: DatabaseService
    zone: Zone
    region: str
    run: str
    expected: str
    insists: bool = False
    """The service is read-only for its clients meanwhile: the write says that it is one."""


class PrivilegeOrder(Fact):
    service: DatabaseService
    member: str


class ProofOrder(Fact):
    service: DatabaseService
    member: str


class ProofResult(Fact):
    """`acknowledged` True means that the fence does not hold; `proves` False that nothing could be tried."""

    acknowledged: bool
    evidence: str
    proves: bool = True


class AnyNodeOrder(Fact):
    """With `zone`, a stop is refused once the record there is another run's: the node may have been given back."""

    service: AnyService
    member: str
    zone: Zone | None = None
    run: str = ""
    epoch: int = 0


class NodeOrder(AnyNodeOrder):
    """Of a database."""

    service: DatabaseService


class NodeResult(Fact):
    done: bool
    evidence: str


class KeepOrder(Fact):
    """Watch the leader's synchronous set and write the heartbeat row; return when the picture is not `seen`."""

    service: DatabaseService
    leader: str
    seen: str = ""
    missing_since: dict[str, datetime] = {}
    """As the last picture had it: a voter that is missing for long has not just gone missing again."""


class Picture(Fact):
    """The leader, and since when each declared voter has not streamed. `signature` changes only with what decides."""

    leader: MemberFacts
    missing_since: dict[str, datetime]
    signature: str


class NamesOrder(Fact):
    """Set the leader's synchronous_standby_names, behind the epoch."""

    service: DatabaseService
    leader: str
    names: str
    epoch: int


class EstablishOrder(Fact):
    """Write `first` if the service has no record yet."""

    service: AnyService
    zone: Zone
    first: EpochRecord


class LockQuestion(Fact):
    service: str


class JourneyQuestion(Fact):
    run: str
    run_id: str


class Journey(Fact):
    """By the title of each step: the most attempts that one of its activities took, and the regions that did them."""

    attempts: dict[str, int]
    regions: dict[str, list[str]]


NoticeEvent = Literal["started", "decision needed", "escalation", "parked", "ended"]


class Notice(Fact):
    """What people are told of a run. `key` is the same however often it is delivered."""

    key: str
    event: NoticeEvent
    procedure: str
    service: str
    run: str
    at: datetime
    text: str
    """One line."""
    more: dict[str, str] = {}
    """What else is worth a line: verdict, candidate, deadline …"""


class NoticeOrder(Fact):
    notice: Notice
    target: Target


class ReportOrder(Fact):
    """Keep the report as `name`.json and `name`.html."""

    report: Report
    store: ReportStore
    name: str
