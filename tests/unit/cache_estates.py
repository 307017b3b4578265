"""A cache as it is when all is well: what is declared, and what is seen of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from schemas.cache import CacheService
from schemas.cache_facts import CacheFacts, CacheSeen, ReplicaSeen, SentinelFacts
from schemas.facts import EpochRecord
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
