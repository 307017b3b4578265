"""A Redis cache under Sentinel, as it is declared: one deployment a region, and the home region's serves.

Each region has Redis servers and Sentinels of its own. Only the region that serves is monitored; the servers of the
others are replicas of its master, which their own Sentinels know nothing of until they are to take over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from schemas.base import Declared, Name, SecretRef
from schemas.control import NodeControl
from schemas.routes import DnsRoute
from schemas.service import Service, addressed_twice, named_twice, outlives_the_rto


class CacheMember(Declared):
    """One Redis server. `priority` is its replica-priority while its region serves; 0: never promoted."""

    name: Name
    host: str
    port: int = Field(ge=1, le=65535)
    region: Name
    priority: int = Field(default=100, ge=0)
    control: NodeControl | None = None


class Sentinel(Declared):
    name: Name
    host: str
    port: int = Field(ge=1, le=65535)
    region: Name


class CacheAccess(Declared):
    """How Lifeboat reaches servers and Sentinels, and how they reach each other.

    `user` may do what docs/adopting.md lists; without one the default user is meant. `monitor_user` is whom the
    Sentinels are on the servers, `replication_user` whom replicas are on the master.
    """

    user: str | None = None
    password: SecretRef | None = None
    sentinel_user: str | None = None
    sentinel_password: SecretRef | None = None
    monitor_user: str | None = None
    monitor_password: SecretRef | None = None
    replication_user: str | None = None
    replication_password: SecretRef | None = None
    tls: bool = False
    tls_ca: str | None = None
    """A file with the authority's certificate, on the hosts of the workers."""


class Monitor(Declared):
    """What Sentinels are told of the master (its manual, `sentinel monitor` and the rest)."""

    name: str = Field(default="mymaster", pattern=r"^[A-Za-z0-9._-]+$")
    quorum: PositiveInt = 2
    down_after_s: PositiveFloat = 5.0
    failover_timeout_s: PositiveFloat = 10.0
    parallel_syncs: PositiveInt = 1


class MasterPolicy(Declared):
    """What a master needs to take writes, so that one that nobody follows stops by itself."""

    min_replicas: int = Field(default=1, ge=0)
    max_lag_s: PositiveInt = 2


class CacheSwitchoverPolicy(Declared):
    pause_s: PositiveFloat = 2.0
    """How long clients wait for the replicas to have everything; then the move is called off. Half of `down_after_s` at
    most: the pause holds the Sentinels' messages up as well, and with them their answers."""


class Warming(Declared):
    """How a cache that lost its keys is filled again, and when that is enough.

    `access_list` is a file of keys, the most used first, each line a key; `from_old` copies keys of the member that
    led before, as far as it can be reached; `command` is the owner's own program, which fills the cache itself.
    """

    access_list: str | None = None
    from_old: bool = True
    command: list[str] | None = Field(default=None, min_length=1)
    keys_per_s: PositiveFloat = 2000.0
    max_keys: PositiveInt = 100_000
    hit_ratio: float = Field(default=0.9, gt=0, le=1)
    """Enough: this part of the keys that clients look for is there."""
    ttl_jitter: float = Field(default=0.1, ge=0, lt=1)
    """Each key's time to live is shortened by up to this part, so that they do not end together."""


class CacheFailoverPolicy(Declared):
    automatic: bool = True
    max_loss_s: float = Field(default=4.0, ge=0)
    """The largest bounded loss, in seconds of writes, that needs no person."""
    cross_region: Literal["ask", "allowed", "never"] = "ask"
    """Whether the other region's deployment may take over when nobody in the leader's is fit."""
    patience_s: PositiveFloat = 1.0
    """How long Sentinels that could elect are left to it after their own down-after, before they are helped."""


class CacheService(Service):
    kind: Literal["redis"]
    home: Name
    """The member that leads when all is well."""
    members: list[CacheMember] = Field(min_length=1)
    sentinels: list[Sentinel] = Field(min_length=1)
    access: CacheAccess = CacheAccess()
    monitor: Monitor = Monitor()
    master: MasterPolicy = MasterPolicy()
    routes: list[DnsRoute] = Field(default_factory=list)
    failover: CacheFailoverPolicy = CacheFailoverPolicy()
    switchover: CacheSwitchoverPolicy = CacheSwitchoverPolicy()
    warming: Warming | None = None

    def member(self, name: str) -> CacheMember:
        """The member called `name`; KeyError when there is none."""
        for member in self.members:
            if member.name == name:
                return member
        raise KeyError(name)

    def sentinels_of(self, region: str) -> list[Sentinel]:
        return [each for each in self.sentinels if each.region == region]

    def members_of(self, region: str) -> list[CacheMember]:
        return [each for each in self.members if each.region == region]

    def member_names(self) -> list[str]:
        return [member.name for member in self.members]

    def dns_routes(self) -> list[DnsRoute]:
        return list(self.routes)

    def places(self) -> dict[str, str]:
        found = {f"members.{index}.region": member.region for index, member in enumerate(self.members)}
        return found | {f"sentinels.{index}.region": each.region for index, each in enumerate(self.sentinels)}

    @model_validator(mode="after")
    def _consistent(self) -> CacheService:
        names = self.member_names()
        problems = named_twice("members", names, "member")
        problems += named_twice("sentinels", [each.name for each in self.sentinels], "Sentinel")
        problems += named_twice("routes", [each.name for each in self.routes], "route")
        everybody = [(each.name, each.host, each.port) for each in self.members]
        everybody += [(each.name, each.host, each.port) for each in self.sentinels]
        problems += addressed_twice("members", everybody)
        if self.home not in names:
            problems.append(f"home: {self.home} is not a member; one of: {', '.join(names)}")
        problems += self._of_monitoring()
        if self.switchover.pause_s > self.monitor.down_after_s / 2:
            problems.append(
                f"switchover.pause_s: {self.switchover.pause_s:g} s of pause may look like a dead master to Sentinels"
                f" that wait {self.monitor.down_after_s:g} s; lower it to half of that"
            )
        places = {route.name: index for index, route in enumerate(self.routes)}
        problems += outlives_the_rto(self.routes, self.rto_s, places)
        problems += self.problems_of_kind()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _of_monitoring(self) -> Sequence[str]:
        problems = []
        for region in dict.fromkeys(each.region for each in self.members):
            there = self.sentinels_of(region)
            if there and self.monitor.quorum > len(there):
                problems.append(
                    f"monitor.quorum: {self.monitor.quorum} of {len(there)} Sentinels in {region} can never be"
                    " reached; lower it or add Sentinels"
                )
        home = next((each for each in self.members if each.name == self.home), None)
        if home is not None and not self.sentinels_of(home.region):
            problems.append(f"sentinels: none is in {home.region}, where {self.home} leads; add at least three")
        others = len(self.members_of(home.region)) - 1 if home else 0
        if home is not None and self.master.min_replicas > others:
            problems.append(
                f"master.min_replicas: {self.master.min_replicas} of {others} replicas in {home.region} can never"
                " follow; lower it or add replicas"
            )
        return problems
