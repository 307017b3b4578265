"""What starts a queue failover, and what its watch exchanges with its regions."""

from __future__ import annotations

from datetime import datetime

from schemas.base import Fact
from schemas.facts import EpochRecord
from schemas.queue import QueueService
from schemas.queue_facts import ClusterFacts, QueueOrder
from schemas.requests import CandidateRequest, WatchRequest
from schemas.zones import Zone


class QueueSuspicion(Fact):
    """Why the watch started a run: the node whose probes failed, and the regions that counted to their limit."""

    member: str
    first_failure: datetime
    outage_began: datetime | None = None
    """Earlier: nobody has been served since, though a run ended meanwhile."""
    regions: list[str]
    seen: list[ClusterFacts] = []
    """The cluster that serves, as the regions saw it before their last failed probe."""
    before: list[ClusterFacts] = []
    """As they saw it while all was well, 20 s ago at most."""
    record: EpochRecord | None = None
    """What this watch holds in reserve: the run need not claim another epoch."""


class QueueFailoverRequest(CandidateRequest):
    """The start form of QueueFailover."""

    suspicion: QueueSuspicion | None = None
    """Set by the watch; a person leaves it out."""


class QueueWatchRequest(WatchRequest):
    known_down: list[str] = []
    """Nodes that a run could not bring back: they start no other."""


class QueueWatchOrder(Fact):
    """Probe the nodes of the cluster that serves. `down`: return once the member has failed to its limit, or another
    one that is not `known` for much longer; `up`: once the member answers again."""

    service: QueueService
    zone: Zone
    member: str
    region: str
    known: list[str] = []
    until: str = "down"


class QueueSighting(Fact):
    """Why a region's watch returned. `down`: every node whose probes fail to their limit."""

    region: str
    member: str
    down: list[str]
    first_failure: datetime | None
    at: datetime
    seen: ClusterFacts | None = None
    before: ClusterFacts | None = None


class StandbyOrder(QueueOrder):
    """Keep the other clusters told of what the one of `region` defines and holds, and their clients out."""
