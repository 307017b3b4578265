"""The shapes that a lab can have: which nodes there are, where they stand, and on which ports."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lab.errors import LabError
from lab.model import Node, NodeKind

SERVICE = "counting-db"
DATABASE = "counting"
ZONE = "lab.lifeboat.test"
RECORD = f"{SERVICE}.{ZONE}"
READ_RECORD = f"{SERVICE}-ro.{ZONE}"
HOME = "pg-east-1"
"""Who leads at first, in every shape."""
DATABASES = {
    "counting": f"dbname={DATABASE} pool_mode=transaction",
    "counting_session": f"dbname={DATABASE} pool_mode=session",
}
"""The poolers' databases, as topology.yaml and their databases file have them."""

CACHE = "counting-cache"
CACHE_RECORD = f"{CACHE}.{ZONE}"
CACHE_HOME = "cache-east-1"
"""The cache's master at first."""
MONITORED = "mymaster"
"""What Sentinels call whom they watch."""

QUEUE = "counting-queue"
QUEUE_RECORD = f"{QUEUE}.{ZONE}"
QUEUE_HOME = "rabbit-east-1"
"""The node that clients are led to at first."""

STORAGE = "s3-eu"
"""Where the database's backups and its archive of WAL are kept,"""
RESTORES = "restore-eu"
"""and the host on which they are restored, to be looked at."""

LOOPBACK = "127.0"
_OFFSETS: dict[NodeKind, int] = {
    "postgresql": 0,
    "pgbouncer": 1,
    "pgpool": 1,
    "knot": 2,
    "temporal": 3,
    "jaeger": 0,
    "redis": 0,
    "sentinel": 1,
    "health": 0,
    "rabbitmq": 0,
    "s3": 0,
    "host": 0,
}
_UI_OFFSET = 4
_SETUP_OFFSET = 5
_METRICS_OFFSET = 6
"""And the two after it: on loopback all workers have one address."""
_PCP_OFFSET = 9
_MANAGEMENT_OFFSET = 1
"""Of a RabbitMQ node, on its own address."""
_BROKERS = 5
"""Ports that no address of the lab may use otherwise: RabbitMQ tries its own on all of them. Those of epmd, and one a
node; half of the base is that of five ports which no other lab has."""
_LAST_OFFSET = 9
_PORTS = range(20000, 32000, 10)
"""Below Linux's ephemeral ports (ip_local_port_range, 32768 on), and none of them anybody's default."""


@dataclass(frozen=True)
class Planned:
    """`place` is the address's third and fourth octet; the third is the region's number."""

    name: str
    kind: NodeKind
    role: str
    region: str
    place: str
    upstream: str | None = None
    """The server that a standby follows."""


@dataclass(frozen=True)
class Shape:
    """An estate that the lab can start. `asks`: its failover takes a person's override, whom the demo plays."""

    summary: str
    regions: Mapping[str, str]
    """Name → role."""
    parts: Mapping[str, tuple[Planned, ...]]
    """The nodes of each part that a profile may have (PROFILES)."""
    platform: tuple[Planned, ...]
    """What every profile has."""
    voters: tuple[str, ...]
    candidates: tuple[str, ...]
    policy: Literal["required", "available"] = "required"
    cross_region: Literal["ask", "allowed", "never"] = "ask"
    asks: bool = False

    def planned(self, parts: Sequence[str], extras: Sequence[str] = ()) -> list[Planned]:
        """The nodes of these parts, the platform's, and the extras'; LabError for a part that the shape is without."""
        for part in parts:
            if part not in self.parts:
                able = [name for name, shape in SHAPES.items() if part in shape.parts]
                raise LabError(f"there is no {part} in {self.summary}; take the shape {' or '.join(able)}")
        plans = [*(plan for part in parts for plan in self.parts[part]), *self.platform]
        return [*plans, *(plan for extra in extras for plan in EXTRAS[extra])]


THREE_REGIONS_DATABASE = (
    Planned("pg-east-1", "postgresql", "primary", "us-east-1", "1.11"),
    Planned("pg-east-2", "postgresql", "standby", "us-east-1", "1.12", HOME),
    Planned("pg-east-3", "postgresql", "standby", "us-east-1", "1.13", HOME),
    Planned("pg-east-4", "postgresql", "standby", "us-east-1", "1.14", HOME),
    Planned("pg-west-1", "postgresql", "standby", "us-west-2", "2.11", HOME),
    Planned("pg-west-2", "postgresql", "standby", "us-west-2", "2.12", "pg-west-1"),
    Planned("pgbouncer-east", "pgbouncer", "pooler", "us-east-1", "1.21"),
    Planned("pgbouncer-west", "pgbouncer", "pooler", "us-west-2", "2.21"),
    Planned("pgpool-east", "pgpool", "balancer", "us-east-1", "1.22"),
)

# In neither region that a failover moves the database between. Nothing runs on the host until somebody restores there.
THREE_REGIONS_BACKUP = (
    Planned(STORAGE, "s3", "storage", "eu-west-1", "3.61"),
    Planned(RESTORES, "host", "restore", "eu-west-1", "3.62"),
)

# The west stands by: one of its servers follows the master across the regions, and feeds the others, so that each
# write crosses once. Its Sentinels watch nobody.
THREE_REGIONS_CACHE = (
    Planned("cache-east-1", "redis", "master", "us-east-1", "1.41"),
    Planned("cache-east-2", "redis", "replica", "us-east-1", "1.42", CACHE_HOME),
    Planned("cache-east-3", "redis", "replica", "us-east-1", "1.43", CACHE_HOME),
    Planned("cache-east-4", "redis", "replica", "us-east-1", "1.44", CACHE_HOME),
    Planned("cache-west-1", "redis", "replica", "us-west-2", "2.41", "cache-east-4"),
    Planned("cache-west-2", "redis", "replica", "us-west-2", "2.42", "cache-west-1"),
    Planned("cache-west-3", "redis", "replica", "us-west-2", "2.43", "cache-west-1"),
    Planned("cache-west-4", "redis", "replica", "us-west-2", "2.44", "cache-west-1"),
    Planned("sentinel-east-1", "sentinel", "sentinel", "us-east-1", "1.51"),
    Planned("sentinel-east-2", "sentinel", "sentinel", "us-east-1", "1.52"),
    Planned("sentinel-east-3", "sentinel", "sentinel", "us-east-1", "1.53"),
    Planned("sentinel-east-4", "sentinel", "sentinel", "us-east-1", "1.54"),
    Planned("sentinel-west-1", "sentinel", "sentinel", "us-west-2", "2.51"),
    Planned("sentinel-west-2", "sentinel", "sentinel", "us-west-2", "2.52"),
    Planned("sentinel-west-3", "sentinel", "sentinel", "us-west-2", "2.53"),
    Planned("sentinel-west-4", "sentinel", "sentinel", "us-west-2", "2.54"),
)

# epmd is Erlang's own name service, one for all of the lab's nodes (lab/rabbit.py).
THREE_REGIONS_QUEUE = (
    Planned("epmd", "epmd", "epmd", "", "0.5"),
    Planned("rabbit-east-1", "rabbitmq", "broker", "us-east-1", "1.71"),
    Planned("rabbit-east-2", "rabbitmq", "broker", "us-east-1", "1.72"),
    Planned("rabbit-east-3", "rabbitmq", "broker", "us-east-1", "1.73"),
    Planned("rabbit-west-1", "rabbitmq", "broker", "us-west-2", "2.71"),
)

THREE_REGIONS = Shape(
    summary="three regions, six servers, two voters, two poolers, a Pgpool-II for reads",
    regions={"us-east-1": "primary", "us-west-2": "standby", "eu-west-1": "dr"},
    parts={
        "database": THREE_REGIONS_DATABASE,
        "backup": THREE_REGIONS_BACKUP,
        "cache": THREE_REGIONS_CACHE,
        "queue": THREE_REGIONS_QUEUE,
    },
    platform=(
        Planned("knot-eu", "knot", "dns", "eu-west-1", "3.53"),
        Planned("temporal", "temporal", "temporal", "", "0.2"),
        Planned("worker-us-east-1", "worker", "worker", "us-east-1", "1.31"),
        Planned("worker-us-west-2", "worker", "worker", "us-west-2", "2.31"),
        Planned("worker-eu-west-1", "worker", "worker", "eu-west-1", "3.31"),
    ),
    voters=("pg-east-1", "pg-east-2", "pg-east-3"),
    candidates=("pg-east-2", "pg-east-3", "pg-east-1", "pg-east-4", "pg-west-1"),
)

TWO_REGIONS = Shape(
    summary="two regions, a primary and one standby that must acknowledge, no pooler",
    regions={"us-east-1": "primary", "us-west-2": "standby"},
    parts={
        "database": (
            Planned("pg-east-1", "postgresql", "primary", "us-east-1", "1.11"),
            Planned("pg-west-1", "postgresql", "standby", "us-west-2", "2.11", HOME),
        ),
    },
    platform=(
        # In neither region, both of which it fails over: a provider's name servers.
        Planned("knot", "knot", "dns", "", "0.53"),
        Planned("temporal", "temporal", "temporal", "", "0.2"),
        Planned("worker-us-east-1", "worker", "worker", "us-east-1", "1.31"),
        Planned("worker-us-west-2", "worker", "worker", "us-west-2", "2.31"),
    ),
    voters=("pg-east-1", "pg-west-1"),
    candidates=("pg-west-1", "pg-east-1"),
    # With `required` each failover would ask a person: nobody is left to confirm what the standby acknowledges.
    policy="available",
    # The other region is all that there is.
    cross_region="allowed",
)
EXTRAS: dict[str, tuple[Planned, ...]] = {
    "jaeger": (Planned("jaeger", "jaeger", "traces", "", "0.4"),),
    "health": (Planned("health-east", "health", "health", "us-east-1", "1.61"),),
    # No node: the profile's backups are kept otherwise (lab/plain.py).
    "plain": (),
}
"""What `--with` adds to a profile."""


@dataclass(frozen=True)
class Profile:
    """Which parts of an estate run, and which extras always run with them."""

    parts: tuple[str, ...]
    extras: tuple[str, ...] = ()


PROFILES = {
    "database": Profile(("database",)),
    "backup": Profile(("database", "backup")),
    "cache": Profile(("cache",), ("health",)),
    "queue": Profile(("queue",), ("health",)),
    "full": Profile(("database", "cache", "queue"), ("health",)),
}
SERVICES = {"database": SERVICE, "cache": CACHE, "queue": QUEUE}
"""Part → what the topology calls its service, for those that are one."""

SHAPES = {
    "three-regions": THREE_REGIONS,
    "two-regions": TWO_REGIONS,
    "two-regions-async": replace(
        TWO_REGIONS,
        summary="two regions, a primary and one asynchronous standby, no pooler: a person decides on the loss",
        voters=(),
        asks=True,
    ),
}
USUAL = "three-regions"


def profile_of(name: str) -> Profile:
    """The profile called `name`; LabError lists what there is."""
    try:
        return PROFILES[name]
    except KeyError:
        raise LabError(f"there is no profile {name}; one of: {', '.join(PROFILES)}") from None


def shape_of(name: str) -> Shape:
    """The shape called `name`; LabError lists what there is."""
    try:
        return SHAPES[name]
    except KeyError:
        there = "; ".join(f"{each}: {shape.summary}" for each, shape in SHAPES.items())
        raise LabError(f"there is no shape {name}; one of: {there}") from None


def _host(plan: Planned, network: str) -> str:
    """Temporal's development server serves only on 127.0.0.1 or 0.0.0.0 [temporal.md, 15]."""
    if network == LOOPBACK and plan.kind in ("temporal", "worker"):
        return "127.0.0.1"
    return f"{network}.{plan.place}"


def nodes(
    shape: Shape,
    network: str,
    base_port: int,
    extras: Sequence[str] = (),
    *,
    parts: Sequence[str] = ("database",),
    metrics: bool = True,
) -> list[Node]:
    """Every node, with its address. All servers of a kind share a port: a name in DNS carries an address only."""
    plans = [each for each in shape.planned(parts, extras) if each.kind != "epmd" or network == LOOPBACK]
    workers = [plan.name for plan in plans if plan.kind == "worker"]

    def measured(plan: Planned) -> str | None:
        if plan.kind != "worker" or not metrics:
            return None
        return f"{_host(plan, network)}:{base_port + _METRICS_OFFSET + workers.index(plan.name)}"

    return [
        Node(
            name=plan.name,
            kind=plan.kind,
            role=plan.role,
            region=plan.region,
            upstream=plan.upstream,
            address=_host(plan, network) + (f":{base_port + _OFFSETS[plan.kind]}" if plan.kind in _OFFSETS else ""),
            metrics=measured(plan),
        )
        for plan in plans
    ]


def ui_port(base_port: int) -> int:
    return base_port + _UI_OFFSET


def pcp_port(base_port: int) -> int:
    """Where a Pgpool-II takes orders, on its own address."""
    return base_port + _PCP_OFFSET


def management_port(base_port: int) -> int:
    """Where a RabbitMQ node's management API listens, on its own address."""
    return base_port + _MANAGEMENT_OFFSET


def epmd_port(base_port: int) -> int:
    return base_port // 2


def broker_port(base_port: int, number: int) -> int:
    """Where the RabbitMQ node of this number listens to the other nodes."""
    return base_port // 2 + 1 + number


def setup_port(base_port: int) -> int:
    """Where the first primary listens, on 127.0.0.1, while the lab makes its roles and tables."""
    return base_port + _SETUP_OFFSET


def choose_base_port(shape: Shape, parts: Sequence[str] = ("database",)) -> int:
    """A port from which ten are free on every loopback address of the plan."""
    plans = shape.planned(parts, tuple(EXTRAS))
    hosts = {_host(plan, LOOPBACK) for plan in plans}
    for base in random.sample(_PORTS, 100):
        brokers = range(base // 2, base // 2 + _BROKERS) if "queue" in parts else range(0)
        if not all(_free("", port) for port in brokers):
            continue
        if all(_free(host, base + offset) for host in hosts for offset in range(_LAST_OFFSET + 1)):
            return base
    raise LabError(f"no free ports between {_PORTS.start} and {_PORTS.stop}; end a lab that is no longer needed")


def _free(host: str, port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True
