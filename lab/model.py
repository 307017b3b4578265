"""The lab as programs read it: lab.json in its folder."""

from __future__ import annotations

import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from lab.errors import LabUnavailable, UnknownNode
from lab.paths import Folder
from schemas.attributes import TASK_QUEUE
from schemas.base import Fact

NodeKind = Literal[
    "postgresql",
    "pgbouncer",
    "pgpool",
    "knot",
    "temporal",
    "worker",
    "jaeger",
    "redis",
    "sentinel",
    "health",
    "rabbitmq",
    "epmd",
    "s3",
    "host",
]
"""A `host` has no program of its own: others run there what they need."""


class TracesAt(Fact):
    """`ui` is Jaeger's address for a browser, and of its HTTP API; `otlp` where workers send their spans."""

    ui: str
    otlp: str


class TemporalAt(Fact):
    """`cli` is the path of the stock command line; `ui` an address for a browser."""

    address: str
    namespace: str = "default"
    task_queue: str = TASK_QUEUE
    ui: str
    cli: str


class Node(Fact):
    """A node as it was set up.

    `role`: primary, standby, pooler, balancer, master, replica, sentinel, broker, epmd, dns, temporal, worker, traces,
    health, storage or restore; `status` observes it.
    `address` is host:port, the host alone for a worker, which listens nowhere.
    `pid` is that of lab.json's writing; a node that was started again has another.
    """

    name: str
    kind: NodeKind
    role: str
    region: str
    address: str
    upstream: str | None = None
    """The server that a standby, or replica, follows at first."""
    pid: int | None = None
    metrics: str | None = None
    """Of a worker: host:port, at which Prometheus finds `/metrics`."""

    @property
    def host(self) -> str:
        return self.address.partition(":")[0]

    @property
    def port(self) -> int:
        """0 for a node that listens nowhere."""
        return int(self.address.partition(":")[2] or 0)


class Status(Fact):
    """`lifeboat lab status`. A node's `role` is the observed one: it may also be down, frozen or silent."""

    temporal: TemporalAt
    nodes: list[Node]
    routes: dict[str, str]
    reads: dict[str, str] = {}
    traces: TracesAt | None = None
    health: dict[str, str] = {}
    """Service → where it is asked for its health, if the lab has that."""


class Lab(Fact):
    """One lab. `routes` are the DSNs that clients use, of every part; a host that is a name resolves at the server
    `dns`, host:port.

    `reads` are the same of read-only routes, which carry no load.
    """

    folder: Path
    profile: str = "database"
    parts: list[str] = ["database"]
    """Of the estate: database, backup, cache, queue (lab/layout.py, PROFILES)."""
    shape: str = "three-regions"
    created: datetime
    network: str
    """The first two octets of every node's address: 127.0, or 10.x where nodes have network namespaces."""
    netns: bool = False
    base_port: int
    service: str
    """The database's; in a profile without one, the first that it has."""
    services: dict[str, str] = {"database": "counting-db"}
    """Part → its service's name in the topology; `backup` has none, being the database's."""
    temporal: TemporalAt
    nodes: list[Node]
    routes: dict[str, str]
    reads: dict[str, str] = {}
    dns: str
    pg_bin: Path
    topology: Path
    secrets: Path
    ledger: Path
    watch: bool = True
    """Whether the lab starts the watch, at the start and after each reset."""
    workers: bool = True
    extras: list[str] = []
    """What runs beside the profile (`--with`)."""
    traces: TracesAt | None = None
    overrides: dict[str, Any] = {}
    """What differs from the database's usual declaration (lab/estate.py)."""
    cache_overrides: dict[str, Any] = {}
    """The same of the cache's (lab/cache_estate.py),"""
    queue_overrides: dict[str, Any] = {}
    """and of the queue's (lab/queue_estate.py)."""

    @property
    def paths(self) -> Folder:
        return Folder(self.folder)

    @property
    def regions(self) -> list[str]:
        return sorted({node.region for node in self.nodes if node.kind == "worker"})

    def node(self, name: str) -> Node:
        """The node called `name`; UnknownNode lists what there is."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise UnknownNode(f"{name}; there is: {', '.join(node.name for node in self.nodes)}")

    def of_kind(self, *kinds: NodeKind) -> list[Node]:
        return [node for node in self.nodes if node.kind in kinds]

    def members(self) -> list[Node]:
        """The PostgreSQL servers."""
        return self.of_kind("postgresql")

    def routes_of(self, part: str) -> dict[str, str]:
        """The part's own routes."""
        schemes = {"database": ("postgresql",), "cache": ("redis", "redis+sentinel"), "queue": ("amqp",)}[part]
        return {name: dsn for name, dsn in self.routes.items() if dsn.partition(":")[0] in schemes}

    def health(self) -> dict[str, str]:
        """Service → where it is asked for its health; empty without a node that answers."""
        found = self.of_kind("health")
        return {self.services[part]: f"http://{found[0].address}/health/{part}" for part in self.services if found}

    def secret(self, name: str) -> str:
        """The password of a database role (postgres, lifeboat, app, lifeboat_probe, replicator), of a cache's user
        (lab/secrets.py), or the key `tsig`."""
        return (self.secrets / name).read_text(encoding="utf-8").strip()

    def save(self) -> None:
        """Write lab.json whole, or not at all."""
        target = self.paths.lab_file
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".lab-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(self.model_dump_json(indent=2))
        os.replace(temporary, target)

    @classmethod
    def load(cls, path: str | Path) -> Lab:
        """The lab whose folder, or lab.json, is `path`; LabUnavailable when there is none."""
        found = Path(path)
        file = found if found.name == "lab.json" else found / "lab.json"
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise LabUnavailable(f"{file}: {error.strerror}") from error
        except ValidationError as error:
            raise LabUnavailable(f"{file} is not of this version: {error.error_count()} fields differ") from error
