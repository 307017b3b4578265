"""What every service of the estate declares, whatever its kind, and what must be consistent of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pydantic import Field, PositiveFloat, PositiveInt

from schemas.base import Declared, Name
from schemas.routes import DnsRoute
from schemas.targets import LogTarget, Target


class Detection(Declared):
    """How often each region probes, and when a primary counts as unreachable.

    A refusal or reset fails a probe at once; silence only after `probe_timeout_s`.
    """

    interval_s: PositiveFloat = 1.0
    failures: PositiveInt = 3
    probe_timeout_s: PositiveFloat = 1.5
    quorum: PositiveInt = 2
    vantages: list[Name] = Field(default_factory=list)
    """Regions that probe; all when empty."""
    block_s: float = Field(default=300.0, ge=0)
    """After a run the watch starts no other for this long (anti-flapping)."""
    heartbeat: bool = False
    """Write one heartbeat row a second on the primary (schema `lifeboat`)."""


class Approval(Declared):
    """Who may approve, how many must, and how long the question stands."""

    approvers: list[str] = Field(default_factory=list)
    """Names that may answer; anyone when empty."""
    quorum: PositiveInt = 1
    expires_s: PositiveFloat = 900.0


class Place(Protocol):
    """Where a server listens."""

    @property
    def name(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class Service(Declared):
    """One service. What follows the members differs by kind."""

    name: Name
    rto_s: PositiveFloat
    rpo_s: float = Field(ge=0)
    error_budget_s: PositiveFloat | None = None
    """Seconds of outage that the service's SLA leaves in a month."""
    depends_on: list[Name] = Field(default_factory=list)
    detection: Detection = Detection()
    approval: Approval = Approval()
    notify: list[Target] = [LogTarget()]
    """Who is told of a run: its start, a decision that is needed, each escalation, its end."""

    def member_names(self) -> list[str]:
        raise NotImplementedError

    def places(self) -> Mapping[str, str]:
        """Place in the declaration → the region that it names."""
        raise NotImplementedError

    def dns_routes(self) -> list[DnsRoute]:
        raise NotImplementedError

    def problems_of_kind(self) -> list[str]:
        """What is inconsistent whatever the kind."""
        problems: list[str] = []
        if self.approval.approvers and self.approval.quorum > len(self.approval.approvers):
            problems.append(
                f"approval.quorum: {self.approval.quorum} approvals of {len(self.approval.approvers)} approvers can"
                " never be reached; lower it or name more approvers"
            )
        targets = [target.name for target in self.notify]
        problems += named_twice("notify", targets, "target")
        return problems


def named_twice(place: str, names: Sequence[str], what: str) -> list[str]:
    """A problem for each name that another has already."""
    return [
        f"{place}.{index}.name: {name} is declared twice; give each {what} its own name"
        for index, name in enumerate(names)
        if name in names[:index]
    ]


def addressed_twice(place: str, addressed: Sequence[tuple[str, str, int]]) -> list[str]:
    """A problem for each (name, host, port) whose address is another's already."""
    problems: list[str] = []
    addresses: dict[tuple[str, int], str] = {}
    for index, (name, host, port) in enumerate(addressed):
        other = addresses.setdefault((host, port), name)
        if other != name:
            problems.append(
                f"{place}.{index}.host: {host}:{port} is also the address of {other}; give each member an address of"
                " its own"
            )
    return problems


def outlives_the_rto(routes: Sequence[DnsRoute], rto_s: float, place: Mapping[str, int]) -> list[str]:
    """A problem for each name that clients may keep for longer than the RTO; `place`: name → its index."""
    return [
        f"routes.{place[route.name]}.ttl_s: clients may keep the old address for {route.ttl_s} s, and the RTO is"
        f" {rto_s:g} s; lower it, to a few seconds"
        for route in routes
        if route.ttl_s >= rto_s
    ]
