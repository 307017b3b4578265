"""What was observed of a cache: its Redis servers, its Sentinels. Offsets are bytes of the replication stream."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Literal

from schemas.base import Fact
from schemas.facts import EpochRecord


class ReplicaSeen(Fact):
    """A replica as its master lists it (INFO replication, `slaveN`). `lag_s`: since its last acknowledgement."""

    member: str
    """Its name, or its address where it is no member."""
    state: str
    offset: int
    lag_s: int


class CacheFacts(Fact):
    """One Redis server. With `reachable` False only `member` and `error` mean anything.

    `history` identifies the data's line of descent (master_replid); a promoted replica begins a new one, and keeps the
    one before it as `history_before`, valid up to `before_until`.
    """

    member: str
    at: datetime
    reachable: bool
    error: str = ""
    role: Literal["master", "replica", ""] = ""
    run_id: str = ""
    version: str = ""
    history: str = ""
    history_before: str = ""
    before_until: int = -1
    offset: int = 0
    """Of a master what it wrote, of a replica what it processed."""
    follows: str = ""
    """Of a replica: its master's name, or its address where that is no member."""
    link_up: bool = False
    link_down_s: int = -1
    """Of a replica: how long its link to the master has been down; -1: it is up, or never was."""
    silent_s: int = -1
    """Of a replica: since its master last said anything."""
    loading: bool = False
    syncing: bool = False
    replicas: list[ReplicaSeen] = []
    keys: int = 0
    min_replicas: int = 0
    max_lag_s: int = 0
    priority: int = 100
    announced: bool = True
    aof: bool = False
    rdb: bool = False
    cluster: bool = False


class SentinelFacts(Fact):
    """One Sentinel and what it says of the master. `watches` False: it knows no master of that name."""

    sentinel: str
    at: datetime
    reachable: bool
    error: str = ""
    watches: bool = False
    master: str = ""
    """The master's name, or its address where that is no member."""
    config_epoch: int = 0
    quorum: int = 0
    down_after_s: float = 0.0
    others: int = 0
    """Other Sentinels of the same master that it knows."""
    replicas: int = 0
    flags: list[str] = []
    failing_over: bool = False
    quorum_error: str = ""
    """What `SENTINEL CKQUORUM` answers when it is not OK."""
    priorities: dict[str, int] = {}
    """Each replica that it knows → the priority that it has learnt."""
    bad_replicas: dict[str, str] = {}
    """Each replica that it would not elect → its flags."""

    def knows_others_than(self, names: Collection[str]) -> bool:
        """Whether it knows replicas beside these: those that are not announced it counts, and does not list."""
        return self.watches and (self.replicas > len(self.priorities) or not set(self.priorities) <= set(names))


class CacheSeen(Fact):
    """The epoch's record (None: there is none, or `epoch_error` says why not), every server, every Sentinel."""

    record: EpochRecord | None
    epoch_error: str = ""
    members: list[CacheFacts]
    sentinels: list[SentinelFacts]

    def of(self, member: str) -> CacheFacts:
        """The facts of one member; KeyError for a name that was not looked at."""
        for facts in self.members:
            if facts.member == member:
                return facts
        raise KeyError(member)

    def masters(self) -> list[CacheFacts]:
        return [each for each in self.members if each.reachable and each.role == "master"]
