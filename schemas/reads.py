"""The ways by which clients read from standbys, and which standbys may be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from schemas.base import Declared, Fact, Name, SecretRef


class ReadNames(Declared):
    """A name in the estate's zone with one A record a member that may be read."""

    kind: Literal["dns"] = "dns"
    name: Name
    record: str
    """Fully qualified name, for instance `counting-db-ro.example.com`."""
    port: int = Field(ge=1, le=65535)
    ttl_s: int = Field(default=5, ge=0)


class PgpoolRoute(Declared):
    """A Pgpool-II (4.3 or newer, `backend_clustering_mode = 'logical_replication'`) that balances reads.

    Lifeboat attaches and detaches its backends by PCP; a backend that `backends` does not name is kept detached
    (docs/adopting.md, "Reads", says which settings keep a member that was cut off from being read).
    """

    kind: Literal["pgpool"] = "pgpool"
    name: Name
    host: str
    port: int = Field(ge=1, le=65535)
    region: Name
    pcp_host: str | None = None
    """Where PCP listens; `host` when it is not said."""
    pcp_port: int = Field(default=9898, ge=1, le=65535)
    pcp_user: str = "lifeboat"
    pcp_password: SecretRef
    backends: dict[Name, NonNegativeInt] = Field(min_length=1)
    """Member → the number of its backend, for instance `{"pg-east-1": 1}` for `backend_hostname1`."""


class ReadResult(Fact):
    """What became of a read-only route."""

    route: str
    kind: Literal["dns", "pgpool"]
    members: list[str]
    """Those that it serves now, as far as is known."""
    error: str = ""


ReadRoute = Annotated[ReadNames | PgpoolRoute, Field(discriminator="kind")]


class Reads(Declared):
    """Read-only routes, and who may stand behind them: who follows the leader's timeline, and lags less than this."""

    routes: list[ReadRoute] = Field(min_length=1)
    members: list[Name] = Field(default_factory=list)
    """Members that may be read as standbys; every one when empty."""
    max_lag_s: PositiveFloat = 30.0
    """A standby leaves once it has not replayed for this long what the leader had written."""
    max_lag_bytes: int | None = Field(default=None, gt=0)
    fallback: Literal["leader", "refuse"] = "leader"
    """When no standby is fit: the leader is read, or nobody."""

    def names(self) -> list[ReadNames]:
        return [route for route in self.routes if isinstance(route, ReadNames)]

    def pgpools(self) -> list[PgpoolRoute]:
        return [route for route in self.routes if isinstance(route, PgpoolRoute)]

    def problems(
        self,
        hosts: Mapping[str, str],
        may_be_read: Sequence[str],
        other_routes: Sequence[str],
        other_records: Mapping[str, str],
    ) -> list[str]:
        """What is wrong within the service: `hosts` of its members, its other routes' names, and whose record is whose.

        A line each, as `schemas.topology` has them.
        """
        known, taken, found = ", ".join(hosts), list(other_routes), list[str]()
        records = {record.rstrip("."): name for record, name in other_records.items()}
        for index, name in enumerate(self.members):
            if name not in hosts:
                found.append(f"reads.members.{index}: {name} is not a member; one of: {known}")
        for index, route in enumerate(self.routes):
            place = f"reads.routes.{index}"
            if route.name in taken:
                found.append(f"{place}.name: {route.name} is declared twice; give each route its own name")
            taken.append(route.name)
            if isinstance(route, PgpoolRoute):
                found += _wrong_backends(route, place, hosts, may_be_read)
                continue
            other = records.setdefault(route.record.rstrip("."), route.name)
            if other != route.name:
                found.append(f"{place}.record: {route.record} is that of {other} as well; give it a name of its own")
            found += [
                f"{place}: {name} at {hosts[name]} is IPv6, and DNS routes are A records; give it an IPv4 address"
                for name in may_be_read
                if ":" in hosts.get(name, "")
            ]
        return found

    def problems_of_places(self, regions: Sequence[str], zone: str) -> list[str]:
        """What is wrong with where routes are: regions, and the estate's zone."""
        found = []
        for index, route in enumerate(self.routes):
            if isinstance(route, ReadNames):
                if not route.record.rstrip(".").endswith("." + zone.rstrip(".")):
                    found.append(
                        f"reads.routes.{index}.record: {route.record} is not in the zone {zone}; give it a name that"
                        " ends in the zone's"
                    )
            elif route.region not in regions:
                known = ", ".join(regions)
                found.append(f"reads.routes.{index}.region: {route.region} is not a region; one of: {known}")
        return found


def _wrong_backends(route: PgpoolRoute, place: str, hosts: Mapping[str, str], may_be_read: Sequence[str]) -> list[str]:
    known = ", ".join(hosts)
    found = [
        f"{place}.backends.{name}: {name} is not a member; one of: {known}"
        for name in route.backends
        if name not in hosts
    ]
    found += [
        f"{place}.backends: {name} may be read, and no backend stands for it; add one"
        for name in may_be_read
        if name in hosts and name not in route.backends
    ]
    numbers: dict[int, str] = {}
    for name, number in route.backends.items():
        other = numbers.setdefault(number, name)
        if other != name:
            found.append(
                f"{place}.backends.{name}: {number} is the backend of {other} as well; each member has its own"
            )
    return found
