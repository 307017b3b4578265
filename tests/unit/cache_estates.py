"""A cache as it is when all is well: what is declared, and what is seen of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from schemas.cache import CacheService
from schemas.cache_facts import CacheFacts, CacheSeen, ReplicaSeen, SentinelFacts
from schemas.facts import EpochRecord, Probe
from schemas.orders import CacheEstate
from schemas.zones import Rfc2136Zone

AT = datetime(2026, 11, 29, tzinfo=UTC)
EAST, WEST = "us-east-1", "us-west-2"
E1, E2, E3, E4 = (f"cache-east-{number}" for number in (1, 2, 3, 4))
W1, W2 = "cache-west-1", "cache-west-2"
REGIONS = {E1: EAST, E2: EAST, E3: EAST, E4: EAST, W1: WEST, W2: WEST}
UPSTREAMS = {E2: E1, E3: E1, E4: E1, W1: E4, W2: W1}
SENTINELS = {f"sentinel-{short}-{n}": region for short, region in (("east", EAST), ("west", WEST)) for n in (1, 2, 3)}


def cache_service(**more: Any) -> CacheService:
    control = {"kind": "command", "start": ["true"], "stop": ["true"]}
    return CacheService.model_validate(
        {
            "kind": "redis",
            "name": "counting-cache",
            "rto_s": 120,
            "rpo_s": 0,
            "home": E1,
            "members": [
                {"name": name, "host": f"10.0.0.{n}", "port": 6379, "region": region, "control": control}
                for n, (name, region) in enumerate(REGIONS.items(), 1)
            ],
            "sentinels": [
                {"name": name, "host": f"10.0.1.{n}", "port": 26379, "region": region}
                for n, (name, region) in enumerate(SENTINELS.items(), 1)
            ],
            **more,
        }
    )


def estate(**more: Any) -> CacheEstate:
    zone = Rfc2136Zone.model_validate(
        {"name": "example.com", "servers": ["10.0.2.1:53"], "key_name": "k", "key_secret": "env:K"}
    )
    return CacheEstate(service=cache_service(**more), zone=zone, vantages=[EAST, WEST, "eu-west-1"])


class Picture:
    """What is seen; `change` makes a member or a Sentinel otherwise."""

    def __init__(self) -> None:
        self.members = {name: self._member(name, region) for name, region in REGIONS.items()}
        self.sentinels = {name: self._sentinel(name, region) for name, region in SENTINELS.items()}
        self.record: EpochRecord | None = EpochRecord(epoch=3, run="r", leader=E1, w=0, voters=[])

    @staticmethod
    def _member(name: str, region: str) -> CacheFacts:
        leads = name == E1
        return CacheFacts(
            member=name,
            at=AT,
            reachable=True,
            role="master" if leads else "replica",
            run_id=f"run-{name}",
            history="a" * 40,
            offset=1000,
            follows="" if leads else UPSTREAMS[name],
            link_up=not leads,
            silent_s=-1 if leads else 0,
            replicas=[ReplicaSeen(member=each, state="online", offset=1000, lag_s=0) for each in (E2, E3, E4)]
            if leads
            else [],
            keys=50,
            min_replicas=1,
            max_lag_s=2,
            priority=100 if region == EAST else 0,
            announced=region == EAST,
            aof=True,
            rdb=True,
        )

    @staticmethod
    def _sentinel(name: str, region: str) -> SentinelFacts:
        facts = SentinelFacts(sentinel=name, at=AT, reachable=True)
        if region == WEST:
            return facts
        watching = {
            "watches": True,
            "master": E1,
            "config_epoch": 7,
            "quorum": 2,
            "down_after_s": 5.0,
            "others": 2,
            "replicas": 3,
            "flags": ["master"],
            "priorities": {E2: 100, E3: 100, E4: 100},
        }
        return facts.model_copy(update=watching)

    def change(self, name: str, **fields: Any) -> Picture:
        kept: dict[str, Any] = self.members if name in self.members else self.sentinels
        kept[name] = kept[name].model_copy(update=fields)
        return self

    def gone(self, *names: str) -> Picture:
        for name in names:
            self.change(name, reachable=False, error="refused", role="", watches=False, link_up=False)
        return self

    def seen(self) -> CacheSeen:
        return CacheSeen(
            record=self.record, members=list(self.members.values()), sentinels=list(self.sentinels.values())
        )


# What differs from that picture, for tables.


def facts(name: str, **changed: Any) -> CacheFacts:
    return Picture().members[name].model_copy(update=changed)


def master(name: str, **changed: Any) -> CacheFacts:
    """A member that leads, beside or instead of the home master."""
    replicas = [ReplicaSeen(member=E4, state="online", offset=1000, lag_s=0)]
    return facts(name, **{"role": "master", "follows": "", "link_up": False, "replicas": replicas, **changed})


def away(name: str) -> CacheFacts:
    return CacheFacts(member=name, at=AT, reachable=False, error="refused")


def sentinel(name: str, of: str = E1, **changed: Any) -> SentinelFacts:
    """A Sentinel that watches `of`."""
    watching = Picture().sentinels["sentinel-east-1"].model_copy(update={"sentinel": name, "master": of})
    return watching.model_copy(update=changed)


def silent(name: str) -> SentinelFacts:
    return SentinelFacts(sentinel=name, at=AT, reachable=False, error="refused")


def idle(name: str) -> SentinelFacts:
    """One that knows no master."""
    return SentinelFacts(sentinel=name, at=AT, reachable=True)


def record(**changed: Any) -> EpochRecord:
    return EpochRecord.model_validate({"epoch": 3, "run": "r", "leader": E1, "w": 0, "voters": []} | changed)


def seen(*odd: CacheFacts | SentinelFacts, **changed: Any) -> CacheSeen:
    """The picture, but for those that are given."""
    picture = Picture()
    for each in odd:
        if isinstance(each, CacheFacts):
            picture.members[each.member] = each
        else:
            picture.sentinels[each.sentinel] = each
    return picture.seen().model_copy(update=changed)


def votes(*outcomes: str) -> list[Probe]:
    """One probe of the home master a region."""
    return [
        Probe.model_validate({"region": region, "member": E1, "at": AT, "outcome": outcome})
        for region, outcome in zip((EAST, WEST, "eu-west-1"), outcomes, strict=False)
    ]


def priorities(declared: dict[str, int]) -> CacheService:
    """The cache with these members' priorities declared otherwise."""
    members = [each.model_copy(update={"priority": declared.get(each.name, 100)}) for each in cache_service().members]
    return cache_service(members=[each.model_dump() for each in members])
