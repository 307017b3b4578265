"""RabbitMQ clusters, as they are declared: one cluster a region, and clients are let into one of them only.

A cluster that does not serve stands by: it has the same definitions, and its clients have no permissions there.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from schemas.base import Declared, Name, SecretRef
from schemas.control import Argv, NodeControl
from schemas.routes import DnsRoute
from schemas.service import Service, addressed_twice, named_twice, outlives_the_rto


class Broker(Declared):
    """One RabbitMQ node. `node` is its Erlang name, by which the others call it: `rabbit@rabbit-east-1`."""

    name: Name
    host: str
    port: int = Field(default=5672, ge=1, le=65535)
    management_port: int = Field(default=15672, ge=1, le=65535)
    region: Name
    node: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")
    control: NodeControl | None = None
    tools: Argv | None = None
    """What stands before `rabbitmq-queues …`, so that it runs on the node: membership of a quorum queue has no HTTP
    API before 3.12."""


class QueueAccess(Declared):
    """How Lifeboat reaches the brokers: `user` is an administrator, `shovel_user` whom its shovels are at both ends."""

    user: str = "lifeboat"
    password: SecretRef | None = None
    shovel_user: str = "lifeboat-shovel"
    shovel_password: SecretRef | None = None
    tls: bool = False
    tls_ca: str | None = None
    """A file with the authority's certificate, on the hosts of the workers."""


class ClientUser(Declared):
    """Whom the service's clients are, and what they may do where they are let in.

    Declared here, and never read from a broker: a source is closed by taking it away, and a retry must not learn
    "nothing" from the one before.
    """

    name: str = Field(min_length=1)
    password: SecretRef | None = None
    """With it, that a closed source refuses a publish is shown by an attempt."""
    configure: str = ".*"
    write: str = ".*"
    read: str = ".*"


class DrainPolicy(Declared):
    """How messages are moved: a shovel that acknowledges each only once the destination has confirmed it."""

    prefetch: PositiveInt = 1000
    stalled_s: PositiveFloat = 20.0
    """Nothing has moved for this long: the drain fails."""
    settle_s: PositiveFloat = 0.2
    """Between the two reads that find a queue empty."""


class QueueFailoverPolicy(Declared):
    cross_region: Literal["ask", "allowed", "never"] = "ask"
    """Whether the other region may take over from a cluster that is lost, which may hold messages meanwhile."""
    elect_s: PositiveFloat = 10.0
    """How long queues may be without a leader after a node was lost, before that needs more than waiting."""
    return_s: PositiveFloat = 60.0
    """How long a node that was started again may take to join its cluster."""


class QueueSwitchoverPolicy(Declared):
    pause_s: PositiveFloat = 120.0
    """How long clients may be kept out while a planned move drains the source; then it is called off."""


class QueueService(Service):
    kind: Literal["rabbitmq"]
    home: Name
    """The member that clients are led to when all is well."""
    members: list[Broker] = Field(min_length=1)
    access: QueueAccess = QueueAccess()
    vhosts: list[str] = Field(min_length=1)
    clients: list[ClientUser] = Field(min_length=1)
    others: list[str] = Field(default_factory=list)
    """Users that may stay in a cluster that is closed, and publish nothing that counts: monitoring, an operator."""
    routes: list[DnsRoute] = Field(default_factory=list)
    drain: DrainPolicy = DrainPolicy()
    failover: QueueFailoverPolicy = QueueFailoverPolicy()
    switchover: QueueSwitchoverPolicy = QueueSwitchoverPolicy()

    def member(self, name: str) -> Broker:
        """The member called `name`; KeyError when there is none."""
        for member in self.members:
            if member.name == name:
                return member
        raise KeyError(name)

    def cluster(self, region: str) -> list[Broker]:
        return [each for each in self.members if each.region == region]

    def clusters(self) -> list[str]:
        """The regions that have a cluster, that of the home first."""
        home = self.member(self.home).region
        return list(dict.fromkeys([home, *(each.region for each in self.members)]))

    def not_clients(self) -> set[str]:
        """Users who are no part of the service: each cluster has its own. `guest` publishes as anybody does, and is
        one of them only where `others` says so."""
        return {self.access.user, self.access.shovel_user, *self.others}

    def member_names(self) -> list[str]:
        return [member.name for member in self.members]

    def dns_routes(self) -> list[DnsRoute]:
        return list(self.routes)

    def places(self) -> dict[str, str]:
        return {f"members.{index}.region": member.region for index, member in enumerate(self.members)}

    @model_validator(mode="after")
    def _consistent(self) -> QueueService:
        names = self.member_names()
        problems = named_twice("members", names, "member")
        problems += named_twice("routes", [each.name for each in self.routes], "route")
        problems += named_twice("clients", [each.name for each in self.clients], "client")
        problems += addressed_twice("members", [(each.name, each.host, each.port) for each in self.members])
        if self.home not in names:
            problems.append(f"home: {self.home} is not a member; one of: {', '.join(names)}")
        nodes = Counter((each.region, each.node) for each in self.members)
        problems += [
            f"members.{index}.node: {member.node} is another member's as well; give each node a name of its own"
            for index, member in enumerate(self.members)
            if nodes[(member.region, member.node)] > 1
        ]
        ours = (self.access.user, self.access.shovel_user)
        problems += [
            f"clients.{index}.name: {client.name} is Lifeboat's own user, which a closed source must let in; declare"
            " the users of applications"
            for index, client in enumerate(self.clients)
            if client.name in ours
        ]
        if self.routes:
            problems += [
                f"members.{index}.host: {member.host} is IPv6, and DNS routes are A records; give it an IPv4 address"
                for index, member in enumerate(self.members)
                if ":" in member.host
            ]
        problems += outlives_the_rto(self.routes, self.rto_s, {each.name: i for i, each in enumerate(self.routes)})
        problems += self.problems_of_kind()
        if problems:
            raise ValueError("\n".join(problems))
        return self
