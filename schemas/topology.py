"""The declared estate: regions, services, members, routes and policies, read from one YAML file.

All durations are seconds. The models only say what is well formed and consistent; reading the file and naming
the place of an error is `load_topology`'s work (activities/topology.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from schemas.backup import BackupPolicy
from schemas.base import Declared, Name, SecretRef
from schemas.cache import CacheService
from schemas.control import Isolation, NetworkAclIsolation, NodeControl
from schemas.corruption import CorruptionPolicy
from schemas.data import DataFolder, RejoinPolicy
from schemas.keeping import ReportStore
from schemas.queue import QueueService
from schemas.reads import Reads
from schemas.routes import DnsRoute, FileRoute, Gate, HAProxyRoute, PgBouncerRoute, Route, Told, WebhookRoute
from schemas.service import Service, addressed_twice, named_twice, outlives_the_rto
from schemas.zones import Zone


class Region(Declared):
    name: Name
    role: Literal["primary", "standby", "dr"]
    tier: Literal["primary", "secondary", "tertiary", "dr"] = "primary"
    geography: Name | None = None
    """Between geographies replication is asynchronous."""


class Member(Declared):
    """One database server. `follows` names the upstream of a cascading standby; without it, the leader.

    `control` stops its server, `isolation` cuts it off by the cloud's API: both are tried at once, the stronger counts.
    `data` lets Lifeboat rewind or rebuild it.
    """

    name: Name
    host: str
    port: int = Field(ge=1, le=65535)
    region: Name
    follows: Name | None = None
    control: NodeControl | None = None
    isolation: Isolation | None = None
    data: DataFolder | None = None

    @model_validator(mode="after")
    def _can_be_worked_on(self) -> Member:
        if self.data is None:
            return self
        if self.control is None:
            raise ValueError("data: its commands go the way of `control`, which is missing; declare `control` as well")
        inside = self.data.keep.rstrip("/") + "/"
        if inside.startswith(self.data.directory.rstrip("/") + "/"):
            raise ValueError(
                f"data.keep: {self.data.keep} is inside the data folder, and would be lost with it; name a folder"
                " outside"
            )
        return self


class SynchronousPolicy(Declared):
    """Who must acknowledge a commit.

    `voters` names every member that may be in the synchronous set; the leader never counts itself, so the
    set in force is `ANY acknowledgements (voters without the leader that stream)`.
    `required`: the new primary acknowledges nothing until a surviving voter follows it.
    `available`: it acknowledges alone, and the set is restored later.
    """

    policy: Literal["required", "available"] = "required"
    acknowledgements: PositiveInt = 1
    voters: list[Name] = Field(default_factory=list)
    lost_after_s: PositiveFloat = 5.0
    """A voter that has not streamed for this long, while the primary lives, leaves the set."""


class DatabaseAccess(Declared):
    """How Lifeboat's own role reaches the members. `passfile` is a path on the members, for replication."""

    database: str
    user: str = "lifeboat"
    password: SecretRef | None = None
    probe_user: str | None = None
    """Role that may write `lifeboat.probe` and nothing else; `user` when there is none."""
    probe_password: SecretRef | None = None
    replication_user: str = "replicator"
    replication_passfile: str | None = None
    rewind_user: str | None = None
    """Role with which a member that comes back reads the leader's files (pg_rewind); `replication_user` when there is
    none. Its password is in the passfile."""
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    sslrootcert: str | None = None


class Failover(Declared):
    """What the policy may do without a person."""

    automatic: bool = True
    candidates: list[Name] = Field(default_factory=list)
    """Members that may be promoted, in order of preference; the voters when empty."""
    cross_region: Literal["ask", "allowed", "never"] = "ask"
    """Whether a candidate outside the leader's region may be taken when nobody inside is fit: a person is asked,
    whatever the verdict; or not; or it never is."""
    max_loss_bytes: int = Field(default=0, ge=0)
    """The largest bounded loss that needs no person. 0: only `none`."""


class SwitchoverPolicy(Declared):
    """Of a planned move: what clients may be asked to wait for."""

    pause_s: PositiveFloat = 5.0
    """How long a pooler waits for the transactions that are under way; then the move is called off."""


class DatabaseService(Service):
    kind: Literal["postgresql"] = "postgresql"
    home: Name
    """The member that leads when all is well."""
    members: list[Member] = Field(min_length=1)
    access: DatabaseAccess
    synchronous: SynchronousPolicy = SynchronousPolicy()
    routes: list[Route] = Field(default_factory=list)
    reads: Reads | None = None
    """Read-only routes; without it Lifeboat leads nobody to a standby."""
    failover: Failover = Failover()
    rejoin: RejoinPolicy = RejoinPolicy()
    switchover: SwitchoverPolicy = SwitchoverPolicy()
    backup: BackupPolicy | None = None
    """Without it Lifeboat restores nothing, and can't tell whether anything could be."""
    corruption: CorruptionPolicy = CorruptionPolicy()

    def member(self, name: str) -> Member:
        """The member called `name`; KeyError when there is none."""
        for member in self.members:
            if member.name == name:
                return member
        raise KeyError(name)

    def dns_routes(self) -> list[DnsRoute]:
        return [route for route in self.routes if isinstance(route, DnsRoute)]

    def gates(self) -> list[Gate]:
        """Poolers and proxies: they hold clients while nobody leads."""
        return [route for route in self.routes if isinstance(route, PgBouncerRoute | HAProxyRoute)]

    def told(self) -> list[Told]:
        """Applications whose own configuration says who leads."""
        return [route for route in self.routes if isinstance(route, FileRoute | WebhookRoute)]

    def may_be_promoted(self) -> list[str]:
        """Candidates in order of preference."""
        return list(self.failover.candidates or self.synchronous.voters)

    def _unroutable(self) -> list[str]:
        """Routes that could not be led on when it counts."""
        problems = []
        states: dict[str, str] = {}
        for index, route in enumerate(self.routes):
            if isinstance(route, HAProxyRoute) and route.state_file is not None:
                other = states.setdefault(route.state_file, route.name)
                if other != route.name:
                    problems.append(
                        f"routes.{index}.state_file: {route.state_file} is that of {other} as well, and would say"
                        " nothing of one of them after a restart; give each backend a file of its own"
                    )
        if self.dns_routes():
            problems += [
                f"members.{index}.host: {member.host} is IPv6, and DNS routes are A records; give it an IPv4 address"
                for index, member in enumerate(self.members)
                if ":" in member.host
            ]
        names = ",".join(self.synchronous.voters)
        if len(names) > 240:
            problems.append(
                f"synchronous.voters: their names take {len(names)} bytes, and the epoch's record has room for 240;"
                " give the members shorter names"
            )
        return problems

    def may_be_read(self) -> list[str]:
        """Members that a read-only route may lead to, the one that leads among them where it is the fallback."""
        if self.reads is None:
            return []
        listed = self.reads.members or [member.name for member in self.members]
        leaders = [self.home, *self.may_be_promoted()] if self.reads.fallback == "leader" else []
        return list(dict.fromkeys((*listed, *leaders)))

    def member_names(self) -> list[str]:
        return [member.name for member in self.members]

    def places(self) -> dict[str, str]:
        found = {f"members.{index}.region": member.region for index, member in enumerate(self.members)}
        if self.backup is not None:
            found["backup.host.region"] = self.backup.host.region
        return found | {
            f"routes.{index}.region": route.region
            for index, route in enumerate(self.routes)
            if not isinstance(route, DnsRoute | WebhookRoute)
        }

    @model_validator(mode="after")
    def _consistent(self) -> DatabaseService:
        names = self.member_names()
        known = ", ".join(names)
        problems: list[str] = []
        problems += named_twice("members", names, "member")
        problems += addressed_twice("members", [(each.name, each.host, each.port) for each in self.members])
        for index, member in enumerate(self.members):
            if member.follows is not None and member.follows not in names:
                problems.append(f"members.{index}.follows: {member.follows} is not a member; one of: {known}")
        upstream = {member.name: member.follows for member in self.members}
        for index, name in enumerate(names):
            seen, at = {name}, upstream[name]
            while at is not None and at not in seen:
                seen.add(at)
                at = upstream.get(at)
            if at == name:
                problems.append(
                    f"members.{index}.follows: {name} follows itself in the end, and would receive nothing; let one of"
                    " the circle follow the leader (leave its `follows` out)"
                )
        subnets: dict[str, str] = {}
        for index, member in enumerate(self.members):
            if isinstance(member.isolation, NetworkAclIsolation):
                other = subnets.setdefault(member.isolation.subnet_id, member.name)
                if other != member.name:
                    problems.append(
                        f"members.{index}.isolation.subnet_id: {member.isolation.subnet_id} is also that of {other},"
                        " which would be cut off as well; give each a subnet of its own, or isolate by stop-instance"
                    )
        for place, listed in (
            ("synchronous.voters", self.synchronous.voters),
            ("failover.candidates", self.failover.candidates),
        ):
            for index, name in enumerate(listed):
                if name not in names:
                    problems.append(f"{place}.{index}: {name} is not a member; one of: {known}")
        if self.home not in names:
            problems.append(f"home: {self.home} is not a member; one of: {known}")
        others = [name for name in self.synchronous.voters if name != self.home]
        if self.synchronous.voters and self.synchronous.acknowledgements > len(others):
            problems.append(
                f"synchronous.acknowledgements: {self.synchronous.acknowledgements} of {len(others)} voters beside"
                " the primary can never be reached; lower it or name more voters"
            )
        problems += self.problems_of_kind()
        routes = [route.name for route in self.routes]
        problems += named_twice("routes", routes, "route")
        problems += outlives_the_rto(self.dns_routes(), self.rto_s, {name: index for index, name in enumerate(routes)})
        for index, route in enumerate(self.routes):
            if isinstance(route, HAProxyRoute):
                problems += [
                    f"routes.{index}.servers.{name}: {name} is not a member; one of: {known}"
                    for name in route.servers
                    if name not in names
                ]
                problems += [
                    f"routes.{index}.servers: {name} may lead, and no server stands for it; add one"
                    for name in dict.fromkeys((self.home, *self.may_be_promoted()))
                    if name in names and name not in route.servers
                ]
        problems += self._unroutable()
        if self.reads is not None:
            hosts = {member.name: member.host for member in self.members}
            records = {route.record: route.name for route in self.dns_routes()}
            problems += self.reads.problems(hosts, self.may_be_read(), routes, records)
        if problems:
            raise ValueError("\n".join(problems))
        return self


DEFAULT_KIND = "postgresql"
"""Of a service that declares none."""


def _kind_of(declared: Any) -> str:
    """What is no group of fields is told as a database that is wrong."""
    return str(
        declared.get("kind", DEFAULT_KIND) if isinstance(declared, dict) else getattr(declared, "kind", DEFAULT_KIND)
    )


AnyService = Annotated[
    Annotated[DatabaseService, Tag("postgresql")]
    | Annotated[CacheService, Tag("redis")]
    | Annotated[QueueService, Tag("rabbitmq")],
    Discriminator(_kind_of),
]


class Topology(Declared):
    """The whole estate. `zone` holds the epochs (one TXT record a service) and the names of DNS routes."""

    regions: list[Region] = Field(min_length=1)
    zone: Zone
    reports: ReportStore | None = None
    """Where the report of every run is kept, beside the run itself."""
    services: list[AnyService] = Field(min_length=1)

    def service(self, name: str) -> AnyService:
        """The service called `name`; KeyError when there is none."""
        for service in self.services:
            if service.name == name:
                return service
        raise KeyError(name)

    def database(self, name: str) -> DatabaseService:
        """The database called `name`; KeyError when there is none of that name and kind."""
        service = self.service(name)
        if not isinstance(service, DatabaseService):
            raise KeyError(name)
        return service

    def databases(self) -> list[DatabaseService]:
        return [service for service in self.services if isinstance(service, DatabaseService)]

    def vantages(self, service: Service) -> list[str]:
        return service.detection.vantages or [region.name for region in self.regions]

    @model_validator(mode="after")
    def _consistent(self) -> Topology:
        regions = [region.name for region in self.regions]
        services = [service.name for service in self.services]
        known = ", ".join(regions)
        problems: list[str] = []
        for where, listed in (("regions", regions), ("services", services)):
            for index, name in enumerate(listed):
                if name in listed[:index]:
                    problems.append(f"{where}.{index}.name: {name} is declared twice; give each a name of its own")
        for index, service in enumerate(self.services):
            place = f"services.{index}"
            problems += [
                f"{place}.{where}: {region} is not a region; one of: {known}"
                for where, region in service.places().items()
                if region not in regions
            ]
            for position, vantage in enumerate(service.detection.vantages):
                if vantage not in regions:
                    problems.append(
                        f"{place}.detection.vantages.{position}: {vantage} is not a region; one of: {known}"
                    )
            for position, route in enumerate(service.routes):
                if isinstance(route, DnsRoute) and not route.record.rstrip(".").endswith(
                    "." + self.zone.name.rstrip(".")
                ):
                    problems.append(
                        f"{place}.routes.{position}.record: {route.record} is not in the zone {self.zone.name};"
                        " give it a name that ends in the zone's"
                    )
            if isinstance(service, DatabaseService) and service.reads is not None:
                beyond = service.reads.problems_of_places(regions, self.zone.name)
                problems += [f"{place}.{text}" for text in beyond]
            for position, name in enumerate(service.depends_on):
                if name not in services:
                    problems.append(
                        f"{place}.depends_on.{position}: {name} is not a service; one of: {', '.join(services)}"
                    )
            if service.detection.quorum > len(self.vantages(service)):
                problems.append(
                    f"{place}.detection.quorum: {service.detection.quorum} of {len(self.vantages(service))} vantages"
                    " can never be reached; lower it or add regions"
                )
        if problems:
            raise ValueError("\n".join(problems))
        return self
