"""`topology graph`: the estate as a tree for the terminal, or as a Mermaid flowchart for a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from rich.text import Text
from rich.tree import Tree

from schemas.cache import CacheMember, CacheService
from schemas.queue import QueueService
from schemas.reads import ReadNames
from schemas.routes import DnsRoute, FileRoute, HAProxyRoute, PgBouncerRoute, WebhookRoute
from schemas.topology import AnyService, DatabaseService, Member, Region, Topology
from schemas.zones import Route53Zone, Zone

WHAT = {PgBouncerRoute: "PgBouncer", HAProxyRoute: "HAProxy", FileRoute: "configuration"}
"""What a route is that stands in a region."""


SHAPES = {"member": '[("{}")]', "route": '["{}"]', "sentinel": '["{}"]'}
"""How a flowchart draws a kind of thing."""


@dataclass(frozen=True)
class Thing:
    """What stands in a region for a service."""

    kind: str
    name: str
    what: str


def things(service: AnyService, region: str) -> Iterator[Thing]:
    if isinstance(service, CacheService):
        yield from (Thing("member", each.name, cache_role_of(service, each)) for each in service.members_of(region))
        watched = "watches" if region == service.member(service.home).region else "stands by to watch"
        yield from (
            Thing("sentinel", each.name, f"Sentinel, {watched} {service.name}") for each in service.sentinels_of(region)
        )
        return
    if isinstance(service, QueueService):
        serves = region == service.member(service.home).region
        what = "serves when all is well" if serves else "stands by, its clients kept out"
        for each in service.cluster(region):
            led = "clients are led to it, " if each.name == service.home else ""
            yield Thing("member", each.name, f"RabbitMQ, {led}{what}")
        return
    yield from (Thing("member", each.name, role_of(service, each)) for each in service.members if each.region == region)
    for route in service.routes:
        if not isinstance(route, DnsRoute | WebhookRoute) and route.region == region:
            yield Thing("route", route.name, f"{WHAT[type(route)]} of {service.name}")
    for reading in service.reads.pgpools() if service.reads is not None else []:
        if reading.region == region:
            yield Thing("route", reading.name, f"Pgpool-II that reads {service.name}")


def cache_role_of(service: CacheService, member: CacheMember) -> str:
    """What the member is to its cache."""
    if member.name == service.home:
        return "leads when all is well"
    at_home = member.region == service.member(service.home).region
    parts = ["replica" if at_home else "replica in the other region"]
    return ", ".join([*parts, *(["never promoted"] if member.priority == 0 else [])])


def tree(topology: Topology) -> Tree:
    """Geography, region, and what stands there; names and epochs, which lie in no region's hands, come last."""
    root = Tree(Text("the estate", style="bold"))
    branches: dict[str | None, Tree] = {None: root}
    for region in topology.regions:
        if region.geography not in branches:
            branches[region.geography] = root.add(Text(str(region.geography), style="bold cyan"))
        branch = branches[region.geography].add(
            Text.assemble((region.name, "bold"), f"  tier {region.tier}, role {region.role}")
        )
        for service in topology.services:
            for thing in things(service, region.name):
                branch.add(f"{thing.name}  {thing.what}")
            if region.name in topology.vantages(service):
                branch.add(Text(f"a worker probes {service.name} from here", style="dim"))
    zone = root.add(Text.assemble(("zone ", ""), (topology.zone.name, "bold"), f"  {where(topology.zone)}"))
    epochs = topology.zone.epochs
    for service in topology.services:
        zone.add(f"epoch of {service.name}" + (f"  in s3://{epochs.bucket}" if epochs is not None else ""))
        for name in service.dns_routes():
            zone.add(f"{name.record}  leads to its leader, TTL {name.ttl_s} s")
        if not isinstance(service, DatabaseService):
            continue
        for each in service.reads.names() if service.reads is not None else []:
            zone.add(f"{each.record}  leads to its standbys that may be read, TTL {each.ttl_s} s")
        for route in service.told():
            if isinstance(route, WebhookRoute):
                root.add(f"{route.name}  is told of the leader of {service.name} at {route.url}")
    return root


def where(zone: Zone) -> str:
    if isinstance(zone, Route53Zone):
        return f"Route 53, hosted zone {zone.hosted_zone_id}"
    return f"at {', '.join(zone.servers)}"


def role_of(service: DatabaseService, member: Member) -> str:
    """What the member is to its service."""
    parts = ["leads when all is well"] if member.name == service.home else []
    if member.name in service.synchronous.voters and member.name != service.home:
        parts.append("voter")
    if member.follows is not None:
        parts.append(f"cascades from {member.follows}")
    elif member.name not in (service.home, *service.synchronous.voters):
        parts.append("asynchronous")
    if member.name not in (service.home, *service.may_be_promoted()):
        parts.append("never promoted")
    return ", ".join(parts)


def mermaid(topology: Topology) -> str:
    """A flowchart: solid arrows acknowledge a commit, dotted ones don't."""
    return "\n".join(["flowchart LR", *(f"  {line}" for line in _chart(topology))]) + "\n"


def _chart(topology: Topology) -> Iterator[str]:
    places: dict[str | None, list[Region]] = {}
    for region in topology.regions:
        places.setdefault(region.geography, []).append(region)
    for geography, regions in places.items():
        if geography is not None:
            yield f'subgraph {_id("geo", geography)}["{geography}"]'
        for region in regions:
            yield f'subgraph {_id("region", region.name)}["{region.name} · {region.tier}"]'
            yield f'{_id("worker", region.name)}(["worker"])'
            for service in topology.services:
                for thing in things(service, region.name):
                    yield f"{_id(thing.kind, thing.name)}{SHAPES[thing.kind].format(thing.name)}"
            yield "end"
        if geography is not None:
            yield "end"
    for service in topology.services:
        if isinstance(service, DatabaseService):
            yield from _arrows(service)
        else:
            yield from _cache_arrows(service) if isinstance(service, CacheService) else _queue_arrows(service)


def _cache_arrows(service: CacheService) -> Iterator[str]:
    for member in service.members:
        if member.name != service.home:
            yield f"{_id('member', service.home)} -.-> {_id('member', member.name)}"
    for sentinel in service.sentinels_of(service.member(service.home).region):
        yield f"{_id('sentinel', sentinel.name)} -. watches .-> {_id('member', service.home)}"
    for route in service.routes:
        yield f'{_id("route", route.name)}(["{route.record}"])'
        yield f"{_id('route', route.name)} ==> {_id('member', service.home)}"


def _queue_arrows(service: QueueService) -> Iterator[str]:
    """The nodes of one cluster hold the same queues; between clusters messages move only by a run."""
    for region in service.clusters():
        names = [each.name for each in service.cluster(region)]
        for one, other in pairwise(names):
            yield f"{_id('member', one)} --- {_id('member', other)}"
    for route in service.routes:
        yield f'{_id("route", route.name)}(["{route.record}"])'
        yield f"{_id('route', route.name)} ==> {_id('member', service.home)}"


def _arrows(service: DatabaseService) -> Iterator[str]:
    for member in service.members:
        if member.name != service.home:
            sender = member.follows or service.home
            arrow = "-->" if member.name in service.synchronous.voters else "-.->"
            yield f"{_id('member', sender)} {arrow} {_id('member', member.name)}"
    for route in service.routes:
        if isinstance(route, DnsRoute):
            yield f'{_id("route", route.name)}(["{route.record}"])'
        if isinstance(route, WebhookRoute):
            yield f'{_id("route", route.name)}(["{route.name}"])'
        if isinstance(route, FileRoute | WebhookRoute):
            yield f"{_id('member', service.home)} -. told .-> {_id('route', route.name)}"
        else:
            yield f"{_id('route', route.name)} ==> {_id('member', service.home)}"
    for reading in service.reads.routes if service.reads is not None else []:
        if isinstance(reading, ReadNames):
            yield f'{_id("route", reading.name)}(["{reading.record}"])'
        for name in service.may_be_read():
            if name != service.home:
                yield f"{_id('route', reading.name)} -. reads .-> {_id('member', name)}"


def _id(kind: str, name: str) -> str:
    """Mermaid takes letters, digits and underscores; a name's other characters are spelt out, so that none collide."""
    return kind + "_" + "".join(char if char.isalnum() else f"_{ord(char):x}_" for char in name)
