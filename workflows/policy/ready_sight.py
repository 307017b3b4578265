"""What all regions saw of a service, as the checks of a preflight look at it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.facts import EpochRecord
from schemas.orders import Estate
from schemas.ready import AnyCheck, EngineView, Finding, RegionView, Server, Severity
from schemas.routes import FileRoute, HAProxyRoute
from schemas.takes import BackupView
from schemas.topology import DatabaseService, Member


@dataclass(frozen=True)
class Sight:
    """`servers`: of each member the view that reached it, its own region's before others'. `leader` by the record."""

    estate: Estate
    views: tuple[RegionView, ...]
    engine: EngineView | None
    servers: Mapping[str, Server]
    record: EpochRecord | None
    epoch_error: str
    leader: str
    backups: BackupView | None = None

    @property
    def service(self) -> DatabaseService:
        return self.estate.service

    @property
    def reached(self) -> list[Server]:
        return [server for server in self.servers.values() if server.seen.reachable]

    @property
    def lead(self) -> Server | None:
        """The leader, where it answers and leads."""
        found = self.servers.get(self.leader)
        return found if found is not None and found.seen.reachable and not found.seen.in_recovery else None

    @property
    def standbys(self) -> list[Server]:
        return [server for server in self.reached if server.seen.in_recovery]

    def may_lead(self, name: str) -> bool:
        return name == self.leader or name in self.service.may_be_promoted()

    def matters(self, name: str) -> bool:
        """Whether a failover rests on this member."""
        return self.may_lead(name) or name in self.service.synchronous.voters

    def upstream_of(self, name: str) -> Member | None:
        """Whom a standby is to follow: the one that is declared, else the leader."""
        member = self.service.member(name)
        wanted = member.follows if member.follows not in (None, name) else self.leader
        return None if wanted == name or wanted is None else self.service.member(wanted)

    def followers_of(self, name: str) -> list[str]:
        """Who streams from this member while it leads; where it never leads, who is declared to follow it."""
        first = [None, name] if self.may_lead(name) else [name]
        return [each.name for each in self.service.members if each.name != name and each.follows in first]


def sight_of(
    estate: Estate, views: Sequence[RegionView], engine: EngineView | None, backups: BackupView | None = None
) -> Sight:
    """Several regions' views as one."""
    service = estate.service
    servers: dict[str, Server] = {}
    for view in views:
        for server in view.servers:
            name = server.seen.member
            held = servers.get(name)
            own = any(member.name == name and member.region == view.region for member in service.members)
            if held is None or (server.seen.reachable, own) > (held.seen.reachable, False):
                servers[name] = server
    records = [view.record for view in views if view.record is not None]
    record = max(records, key=lambda each: (each.epoch, each.change), default=None)
    readable = any(not view.epoch_error for view in views)
    return Sight(
        estate=estate,
        views=tuple(views),
        engine=engine,
        servers=servers,
        record=record,
        epoch_error="" if readable or not views else views[0].epoch_error,
        leader=_leader(service, record, servers.values()),
        backups=backups,
    )


def _leader(service: DatabaseService, record: EpochRecord | None, servers: Iterable[Server]) -> str:
    names = [member.name for member in service.members]
    if record is not None and record.leader in names:
        return record.leader
    leading = [server.seen.member for server in servers if server.seen.reachable and not server.seen.in_recovery]
    return leading[0] if len(leading) == 1 else service.home


def regions_of(estate: Estate) -> list[str]:
    """Where a worker is needed: the vantages, where a route can only be led from, and where copies are restored."""
    bound = [
        route.region
        for route in estate.service.routes
        if isinstance(route, FileRoute)
        or (isinstance(route, HAProxyRoute) and (route.socket.startswith("/") or route.state_file is not None))
    ]
    backup = estate.service.backup
    host = [backup.host.region] if backup is not None else []
    return list(dict.fromkeys((*estate.vantages, *bound, *host)))


def error(check: AnyCheck, where: str, what: str, remedy: str) -> Finding:
    return Finding(check=check, severity="error", where=where, what=what, remedy=remedy)


def warning(check: AnyCheck, where: str, what: str, remedy: str) -> Finding:
    return Finding(check=check, severity="warning", where=where, what=what, remedy=remedy)


def graded(grave: bool, check: AnyCheck, where: str, what: str, remedy: str) -> Finding:
    severity: Severity = "error" if grave else "warning"
    return Finding(check=check, severity=severity, where=where, what=what, remedy=remedy)


def seen_from(regions: Sequence[str], everywhere: int) -> str:
    """` from us-west-2`; "" where all regions see the same."""
    return "" if len(regions) == everywhere else f" from {', '.join(regions)}"


def by_what(told: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """What → who says so, of pairs (who, what) whose what is not ""."""
    found: dict[str, list[str]] = {}
    for who, what in told:
        if what:
            found.setdefault(what, []).append(who)
    return found


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first; what is wrong in several places in the same way is one finding."""
    places: dict[tuple[AnyCheck, str, str, str], list[str]] = {}
    firsts: dict[tuple[AnyCheck, str, str, str], Finding] = {}
    for each in findings:
        key = (each.check, each.severity, each.what, each.remedy)
        firsts.setdefault(key, each)
        places.setdefault(key, []).append(each.where)
    joined = [
        first.model_copy(update={"where": ", ".join(dict.fromkeys(places[key]))}) for key, first in firsts.items()
    ]
    return sorted(joined, key=lambda each: each.severity != "error")
