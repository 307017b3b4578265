"""What was observed, by whom and when. WAL positions are bytes since 0/0 (`lsn_text` shows them as PostgreSQL does)."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from schemas.base import Fact


def lsn_text(position: int | None) -> str:
    """`0/3000148`, the form of PostgreSQL's pg_lsn; `-` when it is not known."""
    return "-" if position is None else f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


class Probe(Fact):
    """One attempt of one region at TCP and `SELECT 1`.

    `blind`: this region reached nothing else either, so it has no vote.
    `timeout` is silence up to the limit; `refused` covers a refusal, a reset and a server that is starting up.
    """

    region: str
    member: str
    at: datetime
    outcome: Literal["alive", "refused", "timeout", "blind"]
    detail: str = ""
    closed_at: datetime | None = None
    """When its host was seen to refuse the connection, so that nothing listened there; None for any other refusal."""


class Receiver(Fact):
    """A standby's WAL receiver. `silent_s`: age of the newest message from its sender, by the standby's clock."""

    sender_host: str
    sender_port: int
    status: str
    silent_s: float
    timeout_s: float


class Standby(Fact):
    """A row of pg_stat_replication on a server, by application_name."""

    name: str
    state: str
    sync_state: str
    flushed: int | None = None
    replayed: int | None = None


class MemberFacts(Fact):
    """One member as seen over SQL. With `reachable` False only `member` and `error` mean anything.

    `follows` is the host:port in its primary_conninfo, "" when it was disconnected.
    `stamp` is the epoch that was last stamped on the node, 0 for none.
    """

    member: str
    at: datetime
    reachable: bool
    error: str = ""
    in_recovery: bool = False
    system_identifier: str = ""
    timeline: int = 0
    received: int | None = None
    replayed: int | None = None
    written: int | None = None
    """Current WAL position of a primary."""
    follows: str = ""
    receiver: Receiver | None = None
    replay_age_s: float | None = None
    """Age of the newest replayed commit, by the standby's clock."""
    heartbeat: datetime | None = None
    """The newest heartbeat that a standby has replayed: all that was committed before it is there as well."""
    stamp: int = 0
    synchronous_names: str = ""
    standbys: list[Standby] = []

    @property
    def position(self) -> int:
        """greatest(received, replayed): after a standby restarts, received can be behind replayed."""
        return max(self.received or 0, self.replayed or 0)


class Branch(Fact):
    """A line of a timeline's history: `timeline` was left at `switch`."""

    timeline: int
    switch: int


class EpochRecord(Fact):
    """A service's epoch, kept in the estate by compare-and-set.

    `leader` led under `w` of `voters` when the record was written; once `candidate` is chosen it will lead under
    `w` of `candidate_voters` (none: it acknowledges alone), so that until it is routed both sets bind.
    """

    epoch: int
    change: int = 0
    """Raised by each change, so that no content ever comes back: a change that comes late finds none to match."""
    run: str
    leader: str
    w: int
    voters: list[str]
    candidate: str | None = None
    candidate_voters: list[str] = []
    verdict: str = ""


class RouteWrite(Fact):
    """A probe write and its reading back through one route from one region."""

    route: str
    region: str
    at: datetime
    ok: bool
    server: str = ""
    timeline: int = 0
    error: str = ""
