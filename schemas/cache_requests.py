"""What a cache's procedures are started with, besides what every request has."""

from __future__ import annotations

from datetime import datetime

from schemas.base import Fact
from schemas.cache_facts import CacheFacts, CacheSeen
from schemas.facts import Probe
from schemas.requests import CandidateRequest


class CacheSuspicion(Fact):
    """Why the watch started a run; `last_seen` is the master's own words at the last good probe of any region."""

    member: str
    first_failure: datetime
    outage_began: datetime | None = None
    regions: list[str]
    votes: list[Probe] = []
    seen: CacheSeen | None = None
    last_seen: CacheFacts | None = None


class CacheFailoverRequest(CandidateRequest):
    """The start form of CacheFailover."""

    suspicion: CacheSuspicion | None = None
    """Set by the watch; a person leaves it out."""
