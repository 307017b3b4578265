"""What a workflow orders a cache's activities to do, and what they answer."""

from __future__ import annotations

from datetime import datetime

from schemas.base import Fact
from schemas.cache import CacheService
from schemas.cache_facts import CacheFacts, CacheSeen
from schemas.facts import Probe
from schemas.zones import Zone


class CacheOrder(Fact):
    """An act within an epoch: it is refused once the service's record is of a later one.

    `recorded` False: a person went on without the epoch store, on record.
    """

    service: CacheService
    zone: Zone
    epoch: int
    recorded: bool = True


class MemberOrder(CacheOrder):
    member: str


class UnfenceOrder(MemberOrder):
    """`asked`: a Sentinel was, or may have been, told to elect."""

    asked: bool = False


class FenceMasterOrder(MemberOrder):
    """`pause_s`: clients' writes wait for so long at most, and are refused afterwards."""

    pause_s: float


class RestoreOrder(CacheOrder):
    """Every member gets back what the topology declares; those of `serving` may be promoted, all others may not.

    `but` is left as it is: it is fenced on purpose.
    """

    serving: str
    """The region that serves, or is to."""
    but: list[str] = []
    preferred: str | None = None
    """Comes before all others when a Sentinel chooses."""


class MoveOrder(CacheOrder):
    """From one member to another."""

    old: str
    new: str


class CalmOrder(Fact):
    """Wait for `limit_s` seconds at most until the Sentinels of `region` can be asked for something."""

    service: CacheService
    region: str
    leader: str
    preferred: str | None = None
    limit_s: float = 15.0


class ElectOrder(CacheOrder):
    """The Sentinels of `region` move the master away from `old`.

    `history` is the data's line of descent before: another master than one that goes on from it is none of this
    election's. "": not known, so that most Sentinels must name it.
    """

    region: str
    old: str
    history: str = ""


class ElectionOrder(ElectOrder):
    """Wait until `help_at` for the Sentinels to elect by themselves, then help.

    `candidate` is whom Lifeboat promotes where no Sentinel is left.
    """

    candidate: str
    help_at: datetime


class EqualOrder(MoveOrder):
    """`others` could be elected as well: those of them that answer must have everything too."""

    others: list[str] = []
    limit_s: float = 2.0

    def everybody(self) -> list[str]:
        """Old, new, others: in this order."""
        return [self.old, self.new, *(name for name in self.others if name not in (self.old, self.new))]


class FollowMasterOrder(CacheOrder):
    """Members replicate whom `upstreams` says, which leads to `leader` in the end; clients that are still on one of
    `cut` are disconnected.

    `enough`: do not wait for more than so many; None: for all that can be told, `limit_s` seconds at most.
    """

    leader: str
    upstreams: dict[str, str]
    cut: list[str] = []
    enough: int | None = None
    limit_s: float = 5.0


class MonitorOrder(CacheOrder):
    """The Sentinels of `region` watch `leader`; `None`: they forget the name."""

    region: str
    leader: str | None


class Elected(Fact):
    member: str
    at: datetime
    by: str
    """Who promoted it: Sentinel's name, or Lifeboat."""
    had: int = -1
    """The offset up to which it has the history before its promotion; -1: not known."""


class FollowedBy(Fact):
    following: list[str]
    missing: dict[str, str] = {}


class Forgotten(Fact):
    """Sentinels that were made to forget replicas of other regions, and those that know some still, with why."""

    reset: list[str] = []
    missing: dict[str, str] = {}


class Restored(Fact):
    """Members that had been left otherwise, and what was put right; members that could not be told."""

    changed: dict[str, str] = {}
    unreachable: dict[str, str] = {}


class CacheProbeOrder(Fact):
    service: CacheService
    member: str
    region: str


class CacheWatchOrder(Fact):
    """`until`: return when the master has failed to its limit (`down`), or answers again (`up`)."""

    service: CacheService
    zone: Zone
    member: str
    region: str
    until: str = "down"


class CacheKeepOrder(Fact):
    """Return when Sentinels do not watch whom they should while `leader` leads, or another leads beside it."""

    service: CacheService
    zone: Zone
    leader: str


class CacheSighting(Fact):
    """Why a region's watch returned. `last_seen`: the master's own facts at its last good probe."""

    region: str
    member: str
    state: str
    first_failure: datetime | None
    at: datetime
    last: Probe
    last_seen: CacheFacts | None = None
    seen: CacheSeen | None = None


class CacheVerifyOrder(Fact):
    service: CacheService
    zone: Zone
    region: str
    run: str
    expected: str
    by_sentinels: bool = True
    """Sentinels of the leader's region must name it as well."""


class WarmOrder(CacheOrder):
    """Fill `leader` again. `source` is a member that still has old keys, if there is one; `expected` is how many keys
    there were; 0: not known.
    """

    leader: str
    source: str | None
    expected: int = 0


class Warmed(Fact):
    """`looked` keys were looked for, `there` of them the cache had, `filled` it was given. `ratio` is of the newest."""

    looked: int = 0
    there: int = 0
    filled: int = 0
    ratio: float | None = None
    why: str
    """Why it ended."""


class LostOrder(CacheOrder):
    """Which keys only `old` has, which started again without replicas, and `leader` has not."""

    old: str
    leader: str


class LostKeys(Fact):
    """Of `looked` keys of the old master, `only_there` are not on the leader; `whole`: all of them were looked at."""

    looked: int
    only_there: int
    whole: bool
    keys: int = 0
    """How many the old master has in all."""
    sample: list[str] = []
