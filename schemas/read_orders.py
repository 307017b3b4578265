"""Facts and orders about reads. WAL positions are bytes since 0/0."""

from __future__ import annotations

from schemas.base import Fact
from schemas.facts import MemberFacts
from schemas.reads import PgpoolRoute
from schemas.topology import DatabaseService
from schemas.zones import Zone


class Lag(Fact):
    """How far a standby's replay is behind what the leader had written.

    `seconds`: for so long it has not replayed what the leader had written by then, 0 when it has replayed all.
    Measured by positions over time, so that neither an idle leader nor a clock can deceive; None: not known.
    """

    bytes: int
    seconds: float | None


class ReadPicture(Fact):
    """Every member, the standbys' lags, and whom the routes serve.

    `lagging`: over the limit, or not yet below half of it again. `signature` changes only with what decides.
    """

    leader: str
    members: list[MemberFacts]
    lags: dict[str, Lag] = {}
    lagging: list[str] = []
    serving: dict[str, list[str]] = {}
    """Of each route that answers: whom it serves now."""
    signature: str = ""


class ReadSet(Fact):
    """Who may be read. `members` holds the leader alone where no standby is fit and the policy falls back to it."""

    leader: str
    members: list[str]
    left_out: dict[str, str] = {}
    """Member → why not."""

    def text(self) -> str:
        served = ", ".join(self.members) or "nobody"
        out = "".join(f"; {name} {why}" for name, why in self.left_out.items())
        return f"read from {served}{out}"


class LookAtReads(Fact):
    """One look, without a past: a lag is known as far as a moment tells it."""

    service: DatabaseService
    leader: str


class KeepReadsOrder(Fact):
    """Look once a second; return when the picture is not `seen`, or a route that answers does not serve `served`.

    `serving` is what the routes were seen to serve last: what stays wrong is not told again at every look.
    """

    service: DatabaseService
    zone: Zone
    leader: str
    seen: str = ""
    lagging: list[str] = []
    served: list[str] = []
    serving: dict[str, list[str]] = {}


class ReadsOrder(Fact):
    """`members` may be read, as followers of `leader` at `epoch`.

    Refused once the service's record names a newer epoch or another leader. `recorded` False: the epoch store is out
    of reach, and a person went on without it, on record. `patience_s`: a member that Pgpool-II took out by itself is
    not let in again before.
    """

    service: DatabaseService
    zone: Zone
    leader: str
    members: list[str]
    epoch: int
    recorded: bool = True
    patience_s: float = 0.0


class PgpoolOrder(ReadsOrder):
    route: PgpoolRoute
